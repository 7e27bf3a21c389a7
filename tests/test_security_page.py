"""docs/SECURITY.md names the test that shows each control, and every one of them is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_threat_names_a_test_that_exists() -> None:
    page = (ROOT / "docs/SECURITY.md").read_text(encoding="utf-8")
    rows = page.partition("## Threats")[2].partition("\n## ")[0].splitlines()
    rows = [row for row in rows if row.startswith("|")][2:]
    assert len(rows) >= 20
    for row in rows:
        shown = re.fullmatch(r"\| .* \| .* \| .* \| `(tests/\S+\.py)::(test_\w+)` \|", row)
        assert shown, row
        text = (ROOT / shown[1]).read_text(encoding="utf-8")
        assert f"def {shown[2]}(" in text, row
