"""docs/STATES.md says what the transition tables say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_is_what_the_tables_say_now() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "states", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_state_that_something_happens_in_is_drawn() -> None:
    text = (ROOT / "docs" / "STATES.md").read_text()
    assert "ASKING --> UP: Message" in text
    assert "KEYING --> PROVING: AUTH_CHALLENGE" in text
