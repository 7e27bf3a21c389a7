"""docs/FORMATS.md says what the headers say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_is_what_the_headers_say_now() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "formats", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_page_has_the_erratum() -> None:
    text = (ROOT / "docs" / "FORMATS.md").read_text()
    assert "2 + 1 + 1 + 1 + 1 + 1 + 1 + 4 + 4 + 4 + 4 = 24" in text
