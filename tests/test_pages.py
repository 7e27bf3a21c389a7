"""Pages of docs/ that are made from the code say what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("script", ["formats", "states"])
def test_the_page_is_what_the_code_says_now(script: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_formats_have_the_erratum() -> None:
    text = (ROOT / "docs" / "FORMATS.md").read_text()
    assert "2 + 1 + 1 + 1 + 1 + 1 + 1 + 4 + 4 + 4 + 4 = 24" in text


def test_every_state_that_something_happens_in_is_drawn() -> None:
    text = (ROOT / "docs" / "STATES.md").read_text()
    assert "ASKING --> UP: Message" in text
    assert "KEYING --> PROVING: AUTH_CHALLENGE" in text
