"""Programs of the benchmarks' own in the kernel: compiled when they are needed."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .contestant import BUILD, ROOT

SYS_BPF = {"x86_64": 321, "aarch64": 280}
SYS_GETRUSAGE = {"x86_64": 98, "aarch64": 165}
"""Numbers of asm/unistd.h."""
BPF_PROG_GET_NEXT_ID, BPF_PROG_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD = 11, 13, 15
BPF_RAW_TRACEPOINT_OPEN, BPF_ENABLE_STATS = 17, 32  # linux/bpf.h
INFO_SIZE, INFO_NAME = 256, slice(64, 80)
"""Room for ``struct bpf_prog_info``, and where its name lies."""
_libc = ctypes.CDLL(None, use_errno=True)


def compiled(name: str) -> bytes:
    """Return the object that ``perf/<name>.bpf.c`` compiles to."""
    target = BUILD / f"{name}.bpf.o"
    target.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [
            *("clang-19", "-g", "-O2", "-ffreestanding", "-target", "bpf", "-mcpu=v3"),
            *("-idirafter", f"/usr/include/{platform.machine()}-linux-gnu", "-I", ROOT / "bpf"),
            *("-c", ROOT / "perf" / f"{name}.bpf.c", "-o", target),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise OSError(f"perf/{name}.bpf.c does not compile: {done.stderr.strip()}")
    return Path(target).read_bytes()


def _bpf(command: int, attributes: bytes, what: str) -> tuple[int, bytes]:
    """Call bpf(2); returns what it returns, and the attributes as it left them."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = int(_libc.syscall(SYS_BPF[platform.machine()], command, buffer, len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result, buffer.raw


def attach_raw(tracepoint: str, program: int) -> int:
    """Run the loaded program at a raw tracepoint until the returned descriptor is closed."""
    name = ctypes.create_string_buffer(tracepoint.encode())
    attributes = struct.pack("QI4x", ctypes.addressof(name), program)
    return _bpf(BPF_RAW_TRACEPOINT_OPEN, attributes, f"attach to {tracepoint}")[0]


def enable_statistics() -> int:
    """Have the time of programs measured until the returned descriptor is closed."""
    return _bpf(BPF_ENABLE_STATS, bytes(4), "measure programs")[0]


@dataclass(frozen=True)
class Statistics:
    """Of a program: how often it ran, and for how long in all, while that was measured."""

    name: str
    count: int
    time_ns: int


def programs() -> dict[int, Statistics]:
    """Return all programs of this kernel by their id."""
    found: dict[int, Statistics] = {}
    number = 0
    while True:
        try:
            _, answer = _bpf(BPF_PROG_GET_NEXT_ID, struct.pack("III", number, 0, 0), "next program")
        except FileNotFoundError:
            return found
        number = struct.unpack_from("II", answer)[1]
        try:
            fd, _ = _bpf(BPF_PROG_GET_FD_BY_ID, struct.pack("III", number, 0, 0), "open a program")
        except FileNotFoundError:
            continue  # it went in between
        try:
            found[number] = _statistics(fd)
        finally:
            os.close(fd)


def _statistics(fd: int) -> Statistics:
    info = ctypes.create_string_buffer(INFO_SIZE)
    attributes = struct.pack("IIQ", fd, INFO_SIZE, ctypes.addressof(info))
    _bpf(BPF_OBJ_GET_INFO_BY_FD, attributes, "describe a program")
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").splitlines()
    known = dict(line.split(":", 1) for line in lines)
    name = info.raw[INFO_NAME].split(b"\0")[0].decode()
    return Statistics(name, int(known.get("run_cnt", 0)), int(known.get("run_time_ns", 0)))
