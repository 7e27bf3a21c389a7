"""C programs of these tests, built as the test needs them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.census import needs, skip_missing
from tests.lab import PATIENCE

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests/shm"
INCLUDES = [f"-I{ROOT / 'shm'}", f"-I{HERE}"]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
ADDRESS = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
THREAD = ["-O1", "-fsanitize=thread"]
FUZZER = ["-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
PLAIN = ["-O2"]

PACKAGES = {
    "libclang_rt.fuzzer": "libfuzzer-19-dev",
    "libclang_rt": "libclang-rt-19-dev",
    "relacy/relacy.hpp": "relacy-dev",
    "stdc++": "g++",
}
"""What a failed build misses -> the Debian package that has it."""


def build(directory: Path, source: str, flags: list[str]) -> Path:
    """Compile one program with the regions' code; skips naming the package that is missing."""
    program = directory / Path(source).stem
    command: list[str | Path]
    if source.endswith(".cpp"):
        command = ["g++", "-std=gnu++17", *flags, *INCLUDES, "-o", program, HERE / source]
    else:
        needs("clang-19")
        sources = [HERE / source, ROOT / "shm/vk_channel.c"]
        command = ["clang-19", "-std=gnu11", "-g", *WARNINGS, *flags, *INCLUDES]
        command += ["-pthread", "-o", program, *sources]
    try:
        built = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        skip_missing(str(error.filename), f"{error.filename} is not installed")
    for sign, package in PACKAGES.items():
        if built.returncode and sign in built.stderr and "No such file" in built.stderr:
            skip_missing(package, "scripts/setup --test installs it")
    assert built.returncode == 0, built.stderr
    return program


def run(program: Path, *arguments: object, timeout_s: float = 60, status: int = 0) -> str:
    """Run a program that must exit with *status*; returns what it printed."""
    done = subprocess.run(
        [program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s * PATIENCE,
        cwd=program.parent,
    )
    assert done.returncode == status, (done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout
