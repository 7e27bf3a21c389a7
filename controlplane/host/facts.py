"""What this host's kernel and this process's rights allow: small probes without side effects.

Every probe asks the kernel for the real thing (a program is loaded, a socket made) and gives it
back at once, because version numbers and configuration files tell too little.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import re
import resource
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from valkyrie.controlplane.confinement import privileges

_libc = ctypes.CDLL(None, use_errno=True)

SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
"""Number of bpf(2) by machine."""
SYS_SECCOMP = {"x86_64": 317, "aarch64": 277, "riscv64": 277}
"""Number of seccomp(2), where vk_confine.c has filters."""
MEMFD_SECRET = 447
"""memfd_secret(2), on every architecture (asm-generic/unistd.h)."""
_SECCOMP_GET_ACTION_AVAIL, _SECCOMP_RET_KILL_PROCESS = 2, 0x80000000  # linux/seccomp.h
# linux/bpf.h
_BPF_MAP_CREATE, _BPF_PROG_LOAD = 0, 5
_MAP_ATTR_SIZE, _PROG_ATTR_SIZE = 120, 144
PROG_XDP, PROG_SK_REUSEPORT = 6, 21
MAP_PERCPU_ARRAY, MAP_XSKMAP, MAP_REUSEPORT_SOCKARRAY, MAP_ARRAY = 6, 17, 20, 2
MAP_FLAG_MMAPABLE = 1024
# mov64 r0, 1; exit. For XDP that is DROP, for sk_reuseport PASS; it is never attached.
_RETURN_ONE = struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0)

_AF_XDP, _SOL_XDP, _XDP_MMAP_OFFSETS = 44, 283, 1  # linux/if_xdp.h
_OFFSETS_WITH_FLAGS_SIZE = 128  # four rings of four u64; three each before need-wakeup
_SO_PREFER_BUSY_POLL = 69  # asm-generic/socket.h
_UDP_SEGMENT, _UDP_GRO = 103, 104  # linux/udp.h
_F_ADD_SEALS, _F_SEAL_FUTURE_WRITE = 1033, 0x10  # linux/fcntl.h

CAPABILITIES = {f"CAP_{each.name}": each.value for each in privileges.Capability} | {
    "CAP_SYS_ADMIN": 21
}
"""Those of the broker, and the one that stands for many on kernels before 5.8."""


def text(path: str) -> str:
    """Return the stripped text of a kernel file; empty if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


# ---- BPF ----


def _bpf(command: int, attributes: bytearray) -> int:
    """Call bpf(2), close what it opened, and return 0 or the errno."""
    number = SYS_BPF.get(platform.machine())
    if number is None:
        return errno.ENOSYS
    buffer = ctypes.create_string_buffer(bytes(attributes), len(attributes))
    fd = _libc.syscall(number, command, buffer, len(attributes))
    if fd < 0:
        return ctypes.get_errno()
    os.close(fd)
    return 0


def load_program(kind: int) -> int:
    """Load a program of two instructions; return 0 or the errno."""
    licence = ctypes.create_string_buffer(b"GPL")
    code = ctypes.create_string_buffer(_RETURN_ONE, len(_RETURN_ONE))
    attributes = bytearray(_PROG_ATTR_SIZE)
    count = len(_RETURN_ONE) // 8
    where = ctypes.addressof(code), ctypes.addressof(licence)
    struct.pack_into("<IIQQ", attributes, 0, kind, count, *where)
    return _bpf(_BPF_PROG_LOAD, attributes)


def create_map(kind: int, value_size: int, flags: int = 0) -> int:
    """Create a map of four entries; return 0 or the errno."""
    attributes = bytearray(_MAP_ATTR_SIZE)
    struct.pack_into("<IIIII", attributes, 0, kind, 4, value_size, 4, flags)
    return _bpf(_BPF_MAP_CREATE, attributes)


# ---- Sockets and memory ----


@dataclass(frozen=True, slots=True)
class AfXdp:
    """What an AF_XDP socket offers; ``error`` 0 = it can be made."""

    error: int
    need_wakeup: bool = False
    busy_poll: bool = False


def af_xdp() -> AfXdp:
    """Make an AF_XDP socket, unbound, and look at it."""
    try:
        xsk = socket.socket(_AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
    except OSError as error:
        return AfXdp(error.errno or errno.EIO)
    with xsk:
        try:
            offsets = xsk.getsockopt(_SOL_XDP, _XDP_MMAP_OFFSETS, _OFFSETS_WITH_FLAGS_SIZE)
        except OSError as error:
            return AfXdp(error.errno or errno.EIO)
        try:
            xsk.setsockopt(socket.SOL_SOCKET, _SO_PREFER_BUSY_POLL, 1)
            busy_poll = True
        except OSError:
            busy_poll = False
    return AfXdp(0, len(offsets) == _OFFSETS_WITH_FLAGS_SIZE, busy_poll)


def udp_option(option: int) -> int:
    """Set an option of IPPROTO_UDP on a fresh socket; return 0 or the errno."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.setsockopt(socket.IPPROTO_UDP, option, 1)
        except OSError as error:
            return error.errno or errno.EIO
    return 0


def udp_segment() -> int:
    """Return 0 if the kernel cuts large sends into datagrams, else the errno."""
    return udp_option(_UDP_SEGMENT)


def udp_gro() -> int:
    """Return 0 if the kernel hands over runs of datagrams in one piece, else the errno."""
    return udp_option(_UDP_GRO)


def sealed_memfd() -> int:
    """Return 0 if a memfd can be sealed against further writers, else the errno."""
    try:
        fd = os.memfd_create("valkyrie-probe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        return error.errno or errno.EIO
    try:
        fcntl.fcntl(fd, _F_ADD_SEALS, _F_SEAL_FUTURE_WRITE)
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(fd)
    return 0


def seccomp() -> int:
    """Return 0 if a filter of system calls can end the process, else the errno."""
    number = SYS_SECCOMP.get(platform.machine())
    if number is None:
        return errno.ENOSYS
    action = ctypes.c_uint32(_SECCOMP_RET_KILL_PROCESS)
    asked = _libc.syscall(number, _SECCOMP_GET_ACTION_AVAIL, 0, ctypes.byref(action))
    return ctypes.get_errno() if asked < 0 else 0


def secret_memory() -> int:
    """Return 0 if there is memory that not even the kernel maps, else the errno."""
    fd = _libc.syscall(MEMFD_SECRET, os.O_CLOEXEC)
    if fd < 0:
        return ctypes.get_errno()
    os.close(fd)
    return 0


def memlock_bytes() -> int:
    """Return RLIMIT_MEMLOCK in bytes; -1 = no limit."""
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]


# ---- Rights and system ----


def capabilities() -> frozenset[str]:
    """Return which of CAPABILITIES this process has."""
    held = privileges.effective()
    return frozenset(name for name, number in CAPABILITIES.items() if number in held)


def cpu_count() -> int:
    """Return the CPUs this process may run on."""
    return len(os.sched_getaffinity(0))


def kernel_version() -> tuple[int, int, int]:
    """Return the upstream version of the running kernel."""
    uname = os.uname()
    return upstream_version(uname.release, uname.version)


def upstream_version(release: str, version: str) -> tuple[int, int, int]:
    """Return the upstream version in uname's texts.

    Debian's release stands still at 6.1.0-44 while ``version`` tells the true 6.1.164.
    """
    found = re.search(r"Debian (\d+)\.(\d+)\.(\d+)", version)
    found = found or re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if not found:
        return 0, 0, 0
    major, minor, patch = (int(part or 0) for part in found.groups())
    return major, minor, patch


@dataclass(frozen=True, slots=True)
class Fault:
    """A known fault of some kernels."""

    name: str
    since: tuple[int, int, int]
    fixed: tuple[tuple[int, int, int], ...]
    """First good version of each series, ascending; the last one is good for all that follow."""
    harm: str
    remedy: str

    def afflicts(self, version: tuple[int, int, int]) -> bool:
        """Say whether a kernel has the fault."""
        if version < self.since or version >= self.fixed[-1]:
            return False
        same_series = (good for good in self.fixed if good[:2] == version[:2])
        return all(version < good for good in same_series)


FAULTS = (
    Fault(
        "CVE-2025-37920",
        (5, 3, 0),
        ((6, 1, 164), (6, 6, 123), (6, 12, 28), (6, 14, 6)),
        "in XDP's generic mode, class sockets that share frames can corrupt each other's rings",
        'update the kernel, or set path = "udp" where the driver has no native XDP',
    ),
    Fault(
        "AF_XDP copy-mode transmit",
        (6, 16, 0),
        ((6, 18, 0),),
        "sending by AF_XDP in copy mode can crash the kernel",
        'update the kernel, or set tx = "udp"',
    ),
    Fault(
        "AF_XDP busy polling",
        (6, 13, 0),
        ((6, 15, 0),),
        "sockets that prefer busy polling stall",
        "update the kernel; Valkyrie does not ask for busy polling by itself",
    ),
)
