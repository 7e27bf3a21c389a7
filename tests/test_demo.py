"""scripts/demo: what it shows is so, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.census import Census, needs
from tests.lab import PATIENCE, wait_until

ROOT = Path(__file__).parents[1]
CLASSES = ("critical", "system", "job", "data", "logs")

pytestmark = pytest.mark.net


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """Start the demonstration as scripts/demo does once it has set everything up."""
    return subprocess.Popen(
        [sys.executable, "-m", "demonstration", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_the_demonstration_keeps_all_promises(tmp_path: Path, census: Census) -> None:
    needs("root")
    path = tmp_path / "out.json"
    done = start("--seconds", "4", "--json", str(path))
    said, _ = done.communicate(timeout=90 * PATIENCE)
    assert done.returncode == 0, said.decode()
    document = json.loads(path.read_text("utf-8"))
    assert document["ok"]
    assert document["ledger"]["residual"] == 0
    assert document["file"]["sha256_match"]
    lossy = document["lossy"]
    assert lossy["sha256_match"]
    assert lossy["lost_on_the_link"] > 0
    assert lossy["critical"]["delivered"] == lossy["critical"]["sent"] > 100
    assert lossy["critical"]["repeated"] == 0
    for phase in ("calm", "flood"):
        rows = document["phases"][phase]["classes"]
        assert all(rows[name]["delivered"] for name in CLASSES)
    assert document["phases"]["flood"]["classes"]["critical"]["lost"] == 0
    assert document["interfaces"]["b"]["mode"].startswith("rx xdp")
    check_protection(document)


def check_protection(document: dict[str, Any]) -> None:
    """Fail unless sessions were sealed, keys changed, and the third host got nowhere."""
    for row in document["sessions"].values():
        assert (row["mode"], row["pattern"], row["cipher"]) == ("post_quantum", "XX", "aes_256_gcm")
        assert row["fingerprint"] == row["pinned"]
    assert document["lossy"]["mode"] == "post_quantum"
    assert document["rotation"]["calm"] >= 1
    assert len(set(document["rotation"]["ids"])) == 2
    listener = document["listener"]
    assert listener["sealed"] > 100
    assert listener["plain"] == listener["marked"] == 0
    stranger = document["stranger"]
    assert (stranger["code"], stranger["name"], stranger["told"]) == (202, "identity", "identity")
    assert stranger["fingerprint"] in stranger["record"]["fields"]["reason"]
    assert stranger["let_in"] == 0
    forged = document["forged"]
    assert forged["dropped"] == forged["thrown"]
    assert set(forged["dropped"]) == {
        "token_missing",
        "token_generation",
        "token_expired",
        "token_forged",
    }
    assert forged["let_in"] == 0


def test_an_interrupted_demonstration_leaves_nothing_behind(census: Census) -> None:
    needs("root")
    run = start("--seconds", "30")
    wait_until(lambda: Path("/run/valkyrie/demo-b.sock").exists(), 20)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=30 * PATIENCE)
    assert run.returncode == 130, said.decode()
    left = [*Path("/dev/shm").glob("valkyrie.demo-*"), *Path("/run/valkyrie").glob("demo-*")]
    assert not left
