"""Files that are made from the code: written, or checked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def main(source: str, documents: Mapping[Path, Callable[[], str]]) -> int:
    """Write files, or check with --check that they are current; returns the exit code."""
    names = ", ".join(str(target.relative_to(ROOT)) for target in documents)
    parser = argparse.ArgumentParser(description=f"Generate {names} from {source}.")
    parser.add_argument("--check", action="store_true", help="only say whether they are current")
    check: bool = parser.parse_args().check
    result = 0
    for target, document in documents.items():
        text, name = document(), target.relative_to(ROOT)
        if target.exists() and target.read_text() == text:
            continue
        if check:
            print(f"{name} is not what {source} say: run {sys.argv[0]}", file=sys.stderr)
            result = 1
            continue
        target.write_text(text)
        print(f"wrote {name}")
    return result
