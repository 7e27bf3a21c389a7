"""Pages of docs/ that are made from the code: written, or checked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(page: str, source: str, document: Callable[[], str]) -> int:
    """Write docs/``page``, or check with --check that it is current; returns the exit code."""
    parser = argparse.ArgumentParser(description=f"Generate docs/{page} from {source}.")
    parser.add_argument("--check", action="store_true", help="only say whether it is current")
    check: bool = parser.parse_args().check
    target, text = ROOT / "docs" / page, document()
    if target.exists() and target.read_text() == text:
        return 0
    if check:
        print(f"docs/{page} is not what {source} say: run {sys.argv[0]}", file=sys.stderr)
        return 1
    target.write_text(text)
    return 0
