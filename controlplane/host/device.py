"""What a network device can do and does for the kernel: offloads, XDP features.

Two doors of the kernel beside rtnetlink: ethtool's ioctls and the generic netlink family "netdev".
It needs no capability.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import socket
import struct
from enum import IntFlag
from typing import TYPE_CHECKING, Any

from pyroute2.netlink import NLM_F_REQUEST, genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

from valkyrie.dataplane.errors import DataPlaneError

if TYPE_CHECKING:
    from collections.abc import Iterator

PRIVILEGE = "it needs CAP_NET_ADMIN"

# linux/ethtool.h and linux/sockios.h
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO, _ETHTOOL_GTXCSUM, _ETHTOOL_GGRO = 0x03, 0x16, 0x2B
_ETHTOOL_GRINGPARAM, _ETHTOOL_GCHANNELS = 0x10, 0x3C
_DRVINFO_SIZE = 196
_RING_PARAMETERS = struct.Struct("9I")
_CHANNELS = struct.Struct("9I")
# linux/netdev.h, generic netlink family "netdev"
_NETDEV_CMD_DEV_GET = 1


class XdpFeature(IntFlag):
    """What a driver can do with XDP (linux/netdev.h, netdev_xdp_act)."""

    BASIC = 1
    REDIRECT = 2
    XMIT = 4
    """A target of redirects from other devices."""
    ZERO_COPY = 8
    OFFLOAD = 16
    RX_FRAGMENTS = 32
    XMIT_FRAGMENTS = 64


def refused(error: NetlinkError, what: str, hint: str = "") -> DataPlaneError:
    """Return our error for one of netlink's."""
    if not hint and error.code in (errno.EPERM, errno.EACCES):
        hint = PRIVILEGE
    return DataPlaneError.of(error.code, what, hint)


@contextlib.contextmanager
def asking(what: str, hint: str = "") -> Iterator[None]:
    """Turn netlink's refusals into ours."""
    try:
        yield
    except NetlinkError as error:
        raise refused(error, what, hint) from error


# ---- ethtool, by ioctl ----


def _ethtool(name: str, request: bytes) -> bytes:
    """Send an ethtool request about an interface; the answer has the request's length."""
    value = array.array("B", request)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(
            control, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), value.buffer_info()[0])
        )
    return value.tobytes()


def _ethtool_flag(name: str, command: int) -> bool:
    try:
        return bool(struct.unpack("II", _ethtool(name, struct.pack("II", command, 0)))[1])
    except OSError:
        return False


def driver(name: str) -> str:
    """Return the name of the driver; empty when the device does not say."""
    request = struct.pack("I", _ETHTOOL_GDRVINFO).ljust(_DRVINFO_SIZE, b"\0")
    try:
        return _ethtool(name, request)[4:36].split(b"\0")[0].decode(errors="replace")
    except OSError:
        return ""


def tx_checksum(name: str) -> bool:
    """Say whether the kernel leaves the checksums of sent packets to the device."""
    return _ethtool_flag(name, _ETHTOOL_GTXCSUM)


def gro(name: str) -> bool:
    """Say whether generic receive offload is on."""
    return _ethtool_flag(name, _ETHTOOL_GGRO)


def rx_queues(name: str) -> int:
    """Return how many receive queues the device uses now; 0 when it does not say."""
    try:
        answer = _ethtool(name, _CHANNELS.pack(_ETHTOOL_GCHANNELS, *[0] * 8))
    except OSError:
        return 0
    _, _, _, _, _, only_rx, _, _, combined = _CHANNELS.unpack(answer)
    return int(only_rx + combined)


def rx_ring(name: str) -> int:
    """Return the entries of each receive queue's ring in the device; 0 when it does not say."""
    try:
        answer = _ethtool(name, _RING_PARAMETERS.pack(_ETHTOOL_GRINGPARAM, *[0] * 8))
    except OSError:
        return 0
    _, _, _, _, _, entries, _, _, _ = _RING_PARAMETERS.unpack(answer)
    return int(entries)


# ---- The netdev family ----


class _Device(genlmsg):  # type: ignore[misc]
    prefix = "NETDEV_A_DEV_"
    nla_map = (
        (1, "NETDEV_A_DEV_IFINDEX", "uint32"),
        (3, "NETDEV_A_DEV_XDP_FEATURES", "uint64"),
        (4, "NETDEV_A_DEV_XDP_ZC_MAX_SEGS", "uint32"),
    )


def _facts(ifindex: int) -> Any:
    """Ask about a device; NetlinkError ENOENT or EOPNOTSUPP on a kernel that does not tell."""
    message = _Device()
    with GenericNetlinkSocket() as generic:
        generic.module_err_level = "debug"
        generic.bind("netdev", _Device)
        message["cmd"], message["version"] = _NETDEV_CMD_DEV_GET, 1
        message["attrs"] = [("NETDEV_A_DEV_IFINDEX", ifindex)]
        return generic.nlm_request(message, msg_type=generic.prid, msg_flags=NLM_F_REQUEST)[0]


def xdp_features(ifindex: int) -> tuple[XdpFeature, int]:
    """Return what the driver can do with XDP, and the zero-copy segments of a packet it takes.

    Kernels before 6.3 do not tell: nothing, 0.
    """
    try:
        message = _facts(ifindex)
    except NetlinkError:
        return XdpFeature(0), 0
    return (
        XdpFeature(message.get_attr("NETDEV_A_DEV_XDP_FEATURES") or 0),
        message.get_attr("NETDEV_A_DEV_XDP_ZC_MAX_SEGS") or 0,
    )
