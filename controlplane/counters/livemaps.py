"""Finds the eBPF maps of a running classifier from outside: interface -> program -> maps.

Needs CAP_BPF and CAP_SYS_ADMIN (kernels give descriptors by id to nobody else), and has to run in
the interface's network namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import socket
import struct
from typing import TYPE_CHECKING

from valkyrie.controlplane.host.facts import SYS_BPF
from valkyrie.dataplane.errors import DataPlaneError
from valkyrie.dataplane.loader import VARIABLE, Map, attached_to

if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/bpf.h, enum bpf_cmd
_PROG_GET_FD_BY_ID, _MAP_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 13, 14, 15
_INFO_SIZE = 256
# struct bpf_prog_info: nr_map_ids and map_ids; struct bpf_map_info: name
_NR_MAP_IDS_AT, _MAP_IDS_AT, _MAP_NAME_AT, _NAME_SIZE = 52, 56, 24, 16
_MAPS_MAX = 64

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes, what: str) -> int:
    number = SYS_BPF.get(platform.machine())
    if number is None:
        raise DataPlaneError.of(errno.ENOSYS, what)
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    result = int(_libc.syscall(number, command, buffer, 128))
    if result < 0:
        hint = "Run it as root, or with --offline"
        raise DataPlaneError.of(ctypes.get_errno(), what, hint)
    return result


def _info(fd: int, what: str, head: bytes = b"") -> bytes:
    info = ctypes.create_string_buffer(head.ljust(_INFO_SIZE, b"\0"), _INFO_SIZE)
    _bpf(_OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, _INFO_SIZE, ctypes.addressof(info)), what)
    return info.raw


def _map_ids(program_id: int) -> list[int]:
    what = f"look at eBPF program {program_id}"
    fd = _bpf(_PROG_GET_FD_BY_ID, struct.pack("<I", program_id), what)
    try:
        ids = (ctypes.c_uint32 * _MAPS_MAX)()
        head = bytearray(_INFO_SIZE)
        struct.pack_into("<IQ", head, _NR_MAP_IDS_AT, _MAPS_MAX, 0)
        struct.pack_into("<Q", head, _MAP_IDS_AT, ctypes.addressof(ids))
        info = _info(fd, what, bytes(head))
        (count,) = struct.unpack_from("<I", info, _NR_MAP_IDS_AT)
        return list(ids[: min(count, _MAPS_MAX)])
    finally:
        os.close(fd)


@contextlib.contextmanager
def live_maps(interface: str) -> Iterator[dict[str, Map]]:
    """Yield the maps of the classifier on an interface, by name; they close at the end.

    DataPlaneError ENOENT when the interface carries none.
    """
    what = f"find the classifier on {interface}"
    try:
        attached = attached_to(socket.if_nametoindex(interface))
    except OSError as error:
        hint = "Run it in the node's network namespace, or with --offline"
        raise DataPlaneError.of(error.errno or errno.ENODEV, what, hint) from error
    if not attached.name.startswith("vk_classify"):
        hint = "The node uses another path there: --offline explains with the same program"
        raise DataPlaneError.of(errno.ESRCH, what, hint)
    found: dict[str, Map] = {}
    try:
        for map_id in _map_ids(attached.program_id):
            fd = _bpf(_MAP_GET_FD_BY_ID, struct.pack("<I", map_id), f"open eBPF map {map_id}")
            raw = _info(fd, f"look at eBPF map {map_id}")[_MAP_NAME_AT:][:_NAME_SIZE]
            name = raw.split(b"\0")[0].decode(errors="replace").removeprefix(VARIABLE)
            if name.startswith("vk_"):
                found[name] = Map(fd, name, owned=True)
            else:
                os.close(fd)
        yield found
    finally:
        for each in found.values():
            each.close()
