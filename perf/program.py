"""Programs of the benchmarks' own in C: compiled when they are needed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .contestant import BUILD, ROOT

COMPILE_S = 300


def compiled(name: str, *more: str | Path) -> Path:
    """Return what ``perf/<name>.c`` compiles to, with *more* flags, sources and libraries."""
    binary = BUILD / Path(name).name
    binary.parent.mkdir(parents=True, exist_ok=True)
    flags = ("-O2", "-std=gnu11", "-Wall", "-pthread")
    done = subprocess.run(
        ["cc", *flags, ROOT / "perf" / f"{name}.c", *more, "-o", binary],
        check=False,
        capture_output=True,
        text=True,
        timeout=COMPILE_S,
    )
    if done.returncode:
        raise OSError(f"perf/{name}.c does not compile: {done.stderr.strip()}")
    return binary
