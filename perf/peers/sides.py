"""Commands of sides, and why one cannot be had."""

from __future__ import annotations

import functools
import itertools
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from perf.arena import Arena
from perf.contestant import BUILD, PYTHON, ROOT, MissingError

LISTEN_PORT = 5500
"""Each contestant has hosts of its own, so all may listen there."""
SOURCES = ROOT / "perf" / "sides"
COMPILE_S = 120
_numbers = itertools.count()


@functools.cache
def lacking() -> dict[str, str]:
    """Return the packages that setup could not install, with the reason."""
    try:
        lines = (BUILD / "missing").read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    return dict(line.split("\t", 1) for line in lines)


@functools.cache
def _importable(module: str) -> str:
    """Return an empty string, or why *module* cannot be imported."""
    if not PYTHON.exists():
        return "not installed: run scripts/setup --perf"
    done = subprocess.run(
        [PYTHON, "-c", f"import {module}"], check=False, capture_output=True, text=True
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def python(side: str, package: str = "", module: str = "") -> Callable[[], tuple[str, ...]]:
    """Return the command of a side in Python that needs *module* of a PyPI *package*."""

    def command() -> tuple[str, ...]:
        if package in lacking():
            raise MissingError(f"{package}: {lacking()[package]}")
        if why := _importable(module or "sys"):
            raise MissingError(f"{package}: {why}")
        return (str(PYTHON), "-m", f"perf.sides.{side}")

    return command


def c(
    side: str,
    package: str = "",
    libraries: Sequence[str] = (),
    *,
    sources: Sequence[Path] = (),
    include: Sequence[Path] = (),
    run_by: tuple[str, ...] = (),
) -> Callable[[], tuple[str, ...]]:
    """Return the command of a side in C or C++, compiled when first asked for.

    With *run_by* it is that command, and what is compiled is a library for it.
    """

    @functools.cache
    def command() -> tuple[str, ...]:
        if package in lacking():
            raise MissingError(f"{package}: {lacking()[package]}")
        binary = BUILD / "sides" / (f"{side}.so" if run_by else side)
        binary.parent.mkdir(parents=True, exist_ok=True)
        source = next(SOURCES.glob(f"{side}.c*"))
        compiler, language = ("g++", "c++") if source.suffix == ".cpp" else ("cc", "c")
        files: list[str | Path] = [
            "-x",
            language,
            source,
            "-x",
            "c",
            SOURCES / "side.c",
            *sources,
            "-x",
            "none",
        ]
        where = [f"-I{folder}" for folder in include]
        shared = ["-fPIC", "-shared", "-Wl,-Bsymbolic"] if run_by else []
        done = subprocess.run(
            [compiler, "-O2", "-Wall", *shared, *where, *files, "-o", binary, *libraries],
            check=False,
            capture_output=True,
            text=True,
            timeout=COMPILE_S,
        )
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), "failed")
            raise MissingError(f"{package or side}: does not compile: {first}")
        return run_by or (str(binary),)

    return command


def tcp(scheme: str = "") -> Callable[[Arena], str]:
    """Return the receiver's address with a port; the receiver binds to the same."""
    return lambda arena: f"{scheme}{arena.receiver_ip()}:{LISTEN_PORT}"


def path(scheme: str = "") -> Callable[[Arena], str]:
    """Return a path in the contestant's folder, another one for each run."""
    return lambda arena: f"{scheme}{arena.folder}/socket{next(_numbers)}"
