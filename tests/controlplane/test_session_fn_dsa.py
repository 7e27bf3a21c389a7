"""Real nodes whose identities sign with FN-DSA-512."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import Lab, wait_until
from tests.nodes import EVERYTHING, joined, make_secure_pair, running, session
from valkyrie.controlplane.cli import run
from valkyrie.controlplane.security.identity_file import load_or_make
from valkyrie.dataplane.signing import fn_dsa

ONLY = '["post_quantum"]\nsignatures = ["fn_dsa_512"]'


@pytest.mark.skipif(fn_dsa.library() is None, reason="py-fn-dsa is not installed")
def test_two_nodes_that_demand_it_of_each_other_join(lab: Lab, tmp_path: Path) -> None:
    for name in "ab":
        load_or_make(tmp_path / f"{name}.key", with_fn_dsa=True)
    a, b = make_secure_pair(lab, tmp_path, modes=ONLY, policy=f"{EVERYTHING}sign = 10\n")
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        assert session(a)["mode"] == "post_quantum"
        print_of_b = load_or_make(tmp_path / "b.key")[0].card.fingerprint
        assert session(a)["fingerprint"] == str(print_of_b)
        report = tmp_path / "report"
        report.write_bytes(b"all is well")
        assert run(["sign", str(report), "--node", b.socket, "--fn-dsa"]) == 0
    assert run(["verify", str(report), str(print_of_b), "--fn-dsa"]) == 0
    assert run(["verify", str(report), str(print_of_b), "--fn-dsa", "--post-quantum"]) == 1
