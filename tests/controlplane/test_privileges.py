"""What the broker keeps, and what systemd is told of it."""

from __future__ import annotations

import configparser
from pathlib import Path

from valkyrie.controlplane.cli.exits import Exit
from valkyrie.controlplane.confinement.privileges import KEPT, Capability

UNIT = Path(__file__).parents[2] / "scripts/valkyrie.service"


def test_the_unit_gives_a_broker_what_it_keeps_and_knows_when_trying_again_is_no_use() -> None:
    text = UNIT.read_text("utf-8")
    given = [line.partition("=")[2] for line in text.splitlines() if line.startswith("Capab")]
    names = {f"CAP_{Capability(capability).name}" for capability in KEPT}
    assert set(" ".join(given).split()) == names
    unit = configparser.ConfigParser(strict=False)
    unit.read_string(text)
    assert unit["Service"]["Type"] == "notify"
    useless = {int(code) for code in unit["Service"]["RestartPreventExitStatus"].split()}
    assert useless == {Exit.USAGE, Exit.DENIED}
