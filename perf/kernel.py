"""Programs of the benchmarks' own in the kernel: compiled when they are needed."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
from pathlib import Path

from .contestant import BUILD, ROOT

SYS_BPF = {"x86_64": 321, "aarch64": 280}
SYS_GETRUSAGE = {"x86_64": 98, "aarch64": 165}
"""Numbers of asm/unistd.h."""
BPF_RAW_TRACEPOINT_OPEN = 17  # linux/bpf.h
_libc = ctypes.CDLL(None, use_errno=True)


def compiled(name: str) -> bytes:
    """Return the object that ``perf/<name>.bpf.c`` compiles to."""
    target = BUILD / f"{name}.bpf.o"
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            *("clang-19", "-g", "-O2", "-ffreestanding", "-target", "bpf", "-mcpu=v3"),
            *("-idirafter", f"/usr/include/{platform.machine()}-linux-gnu", "-I", ROOT / "bpf"),
            *("-c", ROOT / "perf" / f"{name}.bpf.c", "-o", target),
        ],
        check=True,
        capture_output=True,
    )
    return Path(target).read_bytes()


def attach_raw(tracepoint: str, program: int) -> int:
    """Run the loaded program at a raw tracepoint until the returned descriptor is closed."""
    name = ctypes.create_string_buffer(tracepoint.encode())
    attributes = struct.pack("QI4x", ctypes.addressof(name), program)
    number = SYS_BPF[platform.machine()]
    fd = int(_libc.syscall(number, BPF_RAW_TRACEPOINT_OPEN, attributes, len(attributes)))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"attach to {tracepoint}: {os.strerror(code)}")
    return fd
