"""Sockets that control frames leave by: from the node's port, and never received on.

The broker opens them, because the port is its user's; the daemon sends. A socket on the port must
not take frames from those that receive: its filter drops everything. On the kernel path it is in
the reuseport group, whose program picks others for frames, and this one for what it refuses: where
the program itself drops, the kernel answers by ICMP.
"""

from __future__ import annotations

import array
import contextlib
import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import DataPlaneError

if TYPE_CHECKING:
    from valkyrie.dataplane.loader import Program

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_RETURN = 0x06  # linux/bpf_common.h: BPF_RET | BPF_K
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3  # linux/in.h, in6.h
_IP_PKTINFO = 8
_SOL_UDP, _UDP_GRO = 17, 104  # linux/udp.h
_PRIORITY = 6  # linux/pkt_sched.h: TC_PRIO_INTERACTIVE, as the worker's control class
_BUFFER_SIZE = 262_144


def _drop_all(opened: socket.socket) -> None:
    code = array.array("B", struct.pack("HBBI", _RETURN, 0, 0, 0))
    opened.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, code.buffer_info()[0])
    )


def _open(interface: str, udp_port: int, family: socket.AddressFamily, dscp: int) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_SIZE)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << 2)
        else:
            opened.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _PRIORITY)  # behind IP_TOS
        _drop_all(opened)  # before it can receive
        opened.setsockopt(_SOL_UDP, _UDP_GRO, 1)  # else super-packets are cut up to be dropped
        opened.bind(("", udp_port))
    except BaseException:
        opened.close()
        raise
    return opened


@dataclass(slots=True)
class Voice:
    """The sockets of one interface, by IP version; without IPv6 on the host there is one."""

    interface: str
    ifindex: int
    sockets: dict[int, socket.socket]

    @classmethod
    def open(cls, interface: str, ifindex: int, udp_port: int, dscp: int) -> Voice:
        """Open them, for packets marked ``dscp`` (RFC 2474); DataPlaneError says what to do."""
        voice = cls(interface, ifindex, {})
        try:
            for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
                voice.sockets[version] = _open(interface, udp_port, family, dscp)
        except OSError as error:
            if error.errno == errno.EAFNOSUPPORT and 4 in voice.sockets:
                return voice
            voice.close()
            what = f"open UDP port {udp_port} on {interface} for control frames"
            hint = "Another program may have the UDP port: stop it or choose another port"
            raise DataPlaneError.of(error.errno or errno.EIO, what, hint) from error
        return voice

    def silence(self, selector: Program) -> None:
        """Let them take what the program of their reuseport groups refuses."""
        for version, each in self.sockets.items():
            selector.maps["vk_socks"].update(lib.VK_SOCKS_SINK + (version == 6), each.fileno())

    def descriptors(self) -> list[int]:
        """Return what a daemon inherits."""
        return [each.fileno() for each in self.sockets.values()]

    def send(
        self,
        source: IPv4Address | IPv6Address,
        address: IPv4Address | IPv6Address,
        udp_port: int,
        data: bytes,
    ) -> bool:
        """Send one datagram; False when it could not go, and has to be sent again if it matters."""
        via = self.sockets.get(address.version)
        if via is None or source.version != address.version:
            return False
        if address.version == 6:
            control = (
                socket.IPPROTO_IPV6,
                socket.IPV6_PKTINFO,
                source.packed + struct.pack("@I", self.ifindex),
            )
            to: tuple[object, ...] = (str(address), udp_port, 0, self.ifindex)
        else:
            packed = struct.pack("@i4s4s", self.ifindex, source.packed, bytes(4))
            control = (socket.IPPROTO_IP, _IP_PKTINFO, packed)
            to = (str(address), udp_port)
        with contextlib.suppress(OSError):
            via.sendmsg([data], [control], 0, to)
            return True
        return False

    def close(self) -> None:
        """Close the sockets."""
        for each in self.sockets.values():
            each.close()
        self.sockets.clear()
