"""C of the worker, built for tests: programs under sanitizers, or libraries that Python calls."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import cffi

from tests.census import needs, skip_missing

ROOT = Path(__file__).parents[2]
INCLUDES = [f"-I{ROOT / layer}" for layer in ("tests/dataplane", "dataplane", "bpf", "shm")]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
PARTS = [
    *("dataplane/vk_datagram.c", "dataplane/vk_engine.c"),
    *("dataplane/vk_flows.c", "dataplane/vk_frame.c"),
    *("dataplane/vk_peers.c", "dataplane/vk_reassembly.c", "dataplane/vk_receive.c"),
    *("dataplane/vk_schedule.c", "dataplane/vk_send.c", "dataplane/vk_slice.c"),
    *("dataplane/vk_slots.c",),
    "shm/vk_channel.c",
]
"""Everything the worker is made of, but for its paths and vk_worker.c, which the rig includes."""

CONGESTION = [
    *("dataplane/vk_congestion.c", "dataplane/vk_cubic.c", "dataplane/vk_delay.c"),
    *("dataplane/vk_fixed.c", "dataplane/vk_hystart.c"),
]
"""The congestion controllers, which need nothing else."""


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
    command += ["-o", str(target), *(str(ROOT / each) for each in sources)]
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


@cache
def library(header: str, *sources: str) -> tuple[Any, Any]:
    """Return (ffi, lib) of a header's functions, undefined behaviour trapped."""
    path = _compile(
        folder() / f"{Path(header).stem}.so",
        ["-O1", "-fPIC", "-shared", "-fsanitize=undefined", "-fsanitize-trap=undefined"],
        list(sources),
    )
    cdef = subprocess.run(
        [compiler(), "-E", "-P", "-DVK_CDEF", *INCLUDES, ROOT / header],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    ffi = cffi.FFI()
    ffi.cdef(cdef)
    return ffi, ffi.dlopen(str(path))
