"""C of the worker, built for tests: programs under sanitizers, or libraries that Python calls."""

from __future__ import annotations

import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import cffi

from tests.census import needs, skip_missing

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
FOLDERS = [
    *(HERE / "rigs", HERE / "fuzz"),
    *(ROOT / "dataplane").glob("*/"),
    *(ROOT / "bpf", ROOT / "shm"),
]
INCLUDES = [f"-I{folder}" for folder in FOLDERS]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CONGESTION = [
    *("vk_congestion.c", "vk_cubic.c", "vk_delay.c", "vk_fixed.c", "vk_hystart.c"),
]
"""The congestion controllers, which need nothing else."""

_ENGINE = re.search(
    r"engine_sources = files\((.*?)\)",
    (ROOT / "dataplane/meson.build").read_text(),
    re.DOTALL,
)
assert _ENGINE
PARTS = [
    *(str(Path("dataplane", each)) for each in re.findall(r"'(.*?)'", _ENGINE[1])),
    *("vk_confine.c", "vk_slice.c", "vk_worker_calls.c", "vk_wake.c"),
]
"""Everything the worker is made of, but for its paths and vk_worker.c, which the rig includes."""


def find(name: str) -> Path:
    """Return the file of that name, or of that path in the project."""
    if "/" in name:
        return ROOT / name
    return next(folder / name for folder in FOLDERS if (folder / name).exists())


def compiler() -> str:
    """Return clang's name."""
    needs("clang-19")
    return "clang-19"


@cache
def folder() -> Path:
    """Where what was built lies until the tests end."""
    made = tempfile.TemporaryDirectory(prefix="valkyrie-native-")
    _kept.append(made)
    return Path(made.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _compile(target: Path, flags: list[str], sources: list[str]) -> Path:
    command = [compiler(), "-std=gnu11", "-g", "-Wall", "-Wextra", *flags, *INCLUDES]
    command += ["-o", str(target), *(str(find(each)) for each in sources)]
    if {"vk_aead.c", "vk_proof.c"} & {Path(each).name for each in sources}:
        command.append("-lcrypto")
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if "libclang_rt.fuzzer" in built.stderr:
        skip_missing("libFuzzer", "scripts/setup --test installs it")
    assert built.returncode == 0, built.stderr
    return target


@cache
def program(name: str, *sources: str) -> Path:
    """Build a program under ASan and UBSan."""
    return _compile(folder() / name, ["-O1", *SANITIZERS], list(sources))


@cache
def fuzzer(name: str, *sources: str) -> Path:
    """Build a libFuzzer target."""
    return _compile(
        folder() / name,
        ["-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"],
        list(sources),
    )


def declarations(header: str) -> str:
    """Return what a header declares, without system headers and inline functions, for cffi."""
    stubs = folder() / "stubs"
    stubs.mkdir(exist_ok=True)
    for each in ("assert", "errno", "stddef", "stdint", "stdlib", "string"):
        (stubs / f"{each}.h").touch()
    text = subprocess.run(
        [compiler(), "-E", "-P", "-DVK_CDEF", "-nostdinc", f"-I{stubs}", *INCLUDES, find(header)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    text = re.sub(r"_Static_assert\(.*?\);", "", text, flags=re.DOTALL)
    while inline := re.search(r"static inline [^{]*\{", text):
        depth, end = 1, inline.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        text = text[: inline.start()] + text[end:]
    return text


@cache
def library(header: str, *sources: str) -> tuple[Any, Any]:
    """Return (ffi, lib) of a header's functions, undefined behaviour trapped."""
    path = _compile(
        folder() / f"{Path(header).stem}.so",
        ["-O1", "-fPIC", "-shared", "-fsanitize=undefined", "-fsanitize-trap=undefined"],
        list(sources),
    )
    ffi = cffi.FFI()
    ffi.cdef(declarations(header))
    return ffi, ffi.dlopen(str(path))
