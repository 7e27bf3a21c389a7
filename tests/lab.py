"""Hosts in anonymous network namespaces, joined by veth pairs.

Every namespace is a descriptor and lives in one thread: sockets and processes made there belong
to it. Nothing has a name on the machine, so nothing is left when the thread ends.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import select
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from socket import AF_INET, AF_INET6, AF_PACKET, SOCK_DGRAM, SOCK_RAW, if_nametoindex
from socket import socket as Socket  # noqa: N812  # Host.socket has the name
from typing import IO, Any, ParamSpec, TypeVar

from pyroute2 import IPRoute

from tests.nursery import Adopted

P = ParamSpec("P")
T = TypeVar("T")

CLONE_NEWNET = 0x40000000  # linux/sched.h
SIOCETHTOOL = 0x8946  # linux/sockios.h
ETHTOOL_STXCSUM = 0x17  # linux/ethtool.h
ETHTOOL_STSO = 0x1F  # linux/ethtool.h
ETHTOOL_SGSO = 0x24  # linux/ethtool.h
ETHTOOL_SGRO = 0x2C  # linux/ethtool.h
ETH_P_ALL = 0x0003  # linux/if_ether.h
NUD_PERMANENT = 0x80  # linux/neighbour.h
IFA_F_NODAD = 0x02  # linux/if_addr.h

SLOWNESS = float(os.environ.get("VALKYRIE_TEST_SLOWNESS", "1"))
"""How many times longer than on real hardware things may take: scripts/vm sets it."""
PATIENCE = max(SLOWNESS, 6.0)
"""How many times longer what has to happen is waited for: a machine may stand still for seconds."""
SOON_S = 5.0 * PATIENCE
"""Until when a message comes, or whatever else takes milliseconds."""

_libc = ctypes.CDLL(None, use_errno=True)


def wait_until(condition: Callable[[], T], deadline_s: float = 5.0, what: str = "") -> T:
    """Return the first true value of *condition*, or fail after *deadline_s* seconds.

    The deadline is stretched by PATIENCE, so give the one of real hardware.
    """
    deadline_s *= PATIENCE
    end = time.monotonic() + deadline_s
    pause_s = 0.0005
    while not (value := condition()):
        left_s = end - time.monotonic()
        if left_s <= 0:
            raise AssertionError(f"not within {deadline_s} s: {what or condition}")
        select.select([], [], [], min(pause_s, left_s))
        pause_s = min(pause_s * 2, 0.05)
    return value


def _napi_threads(interface: str) -> set[int]:
    """Return the kernel's threads that receive from interfaces of this name, in any namespace."""
    found = set[int]()
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):  # it has gone meanwhile
            if comm.read_text().startswith(f"napi/{interface}-"[:15]):
                found.add(int(comm.parent.name))
    return found


@dataclass(frozen=True)
class Link:
    """One end of a veth pair."""

    host: Host
    name: str
    index: int
    mac: str
    v4: IPv4Interface
    v6: IPv6Interface


class Host:
    """A network namespace with a thread of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.processes: list[subprocess.Popen[Any] | Adopted] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"host-{name}")
        self.fd = self.run(self._enter)
        self.inode = os.fstat(self.fd).st_ino
        self.netlink: Any = self.run(IPRoute)
        self.run(self._quieten)

    @staticmethod
    def _enter() -> int:
        if _libc.unshare(CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"unshare(CLONE_NEWNET): {os.strerror(number)}")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def _quieten(self) -> None:
        """No router solicitations, no duplicate address detection: only what a test sends."""
        conf = Path("/proc/sys/net/ipv6/conf/default")
        for knob, value in (("accept_ra", "0"), ("accept_dad", "0"), ("addr_gen_mode", "1")):
            with contextlib.suppress(OSError):  # a kernel without IPv6
                (conf / knob).write_text(value)
        self.netlink.link("set", index=1, state="up")

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *function* inside the namespace."""
        return self._thread.submit(function, *args, **kwargs).result()

    def socket(self, family: int = AF_INET, kind: int = SOCK_DGRAM, protocol: int = 0) -> Socket:
        """Return a new socket of this namespace; it may be used from any thread."""
        return self.run(Socket, family, kind, protocol)

    def packet_socket(self, interface: str, timeout_s: float = 2.0) -> Socket:
        """Return an AF_PACKET socket that sends and receives whole frames on *interface*."""
        raw = self.socket(AF_PACKET, SOCK_RAW)
        raw.bind((interface, ETH_P_ALL))
        raw.settimeout(timeout_s * PATIENCE)
        return raw

    def popen(
        self,
        args: Sequence[str | os.PathLike[str]],
        *,
        user: str | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a process inside the namespace, as *user* if given; it dies with the host."""
        head = ["setpriv", "--pdeathsig", "KILL"]
        if user is not None:
            head += ["--reuid", user, "--regid", "nogroup", "--clear-groups"]
        process: subprocess.Popen[bytes] = self.run(
            subprocess.Popen,
            [*head, "--", *(os.fspath(arg) for arg in args)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
        )
        self.processes.append(process)
        return process

    def link_is_up(self, index: int) -> bool:
        """Say whether an interface has carrier and sends."""
        (link,) = self.run(lambda: list(self.netlink.get_links(index)))
        return bool(link.get_attr("IFLA_OPERSTATE") == "UP")

    def add_address(self, index: int, address: IPv4Interface | IPv6Interface) -> None:
        """Give an interface an address, without duplicate address detection."""
        self.run(
            self.netlink.addr,
            "add",
            index=index,
            address=str(address.ip),
            prefixlen=address.network.prefixlen,
            flags=IFA_F_NODAD if address.version == 6 else 0,
        )

    def add_neighbour(self, index: int, address: str, mac: str) -> None:
        """Add a static neighbour."""
        self.run(
            self.netlink.neigh,
            "replace",
            ifindex=index,
            dst=address,
            lladdr=mac,
            family=AF_INET6 if ":" in address else AF_INET,
            state=NUD_PERMANENT,
        )

    def set_qdisc(self, index: int, kind: str, **options: Any) -> None:
        """Replace an interface's root queueing discipline, e.g. ``"pfifo", limit=1000``."""
        self.run(self.netlink.tc, "replace", kind, index, root=True, **options)

    def disable_tx_checksum(self, interface: str) -> None:
        """Let frames leave with full checksums: a veth normally leaves them to its peer."""
        self._set(interface, ETHTOOL_STXCSUM, 0)

    def disable_segmentation(self, interface: str) -> None:
        """Let every frame leave in the size it has on a wire: a veth normally never segments."""
        self._set(interface, ETHTOOL_STSO, 0)
        self._set(interface, ETHTOOL_SGSO, 0)

    @contextlib.contextmanager
    def joining_packets(self, interface: str) -> Iterator[None]:
        """Receive as from a network card under load: all that comes while the caller, who does
        not wait meanwhile, sends is taken in one go, and joined (GRO). For a veth whose other end
        does not segment.
        """
        self._set(interface, ETHTOOL_SGRO, 1)
        script = f"mount -t sysfs none /sys && echo 1 > /sys/class/net/{interface}/threaded"
        before = _napi_threads(interface)
        self.run(subprocess.run, ["unshare", "--mount", "sh", "-ec", script], check=True)
        (thread,) = _napi_threads(interface) - before
        cpus = os.sched_getaffinity(0)
        one = {min(cpus)}
        os.sched_setaffinity(0, one)
        try:
            os.sched_setaffinity(thread, one)
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
            yield
        finally:
            os.sched_setaffinity(0, cpus)

    def _set(self, interface: str, feature: int, to: int) -> None:
        with self.socket() as control:
            value = array.array("I", [feature, to])
            request = struct.pack("16sP16x", interface.encode(), value.buffer_info()[0])
            fcntl.ioctl(control, SIOCETHTOOL, request)

    def close(self) -> None:
        """End the host's processes and give the namespace up."""
        for process in self.processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        self.run(self.netlink.close)
        os.close(self.fd)
        self._thread.shutdown()


class Lab:
    """The hosts of one test."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self._wires = 0

    def host(self, name: str) -> Host:
        """Return the host of that name, made on first use."""
        if name not in self.hosts:
            self.hosts[name] = Host(name)
        return self.hosts[name]

    def wire(
        self,
        a: Host,
        b: Host,
        *,
        names: tuple[str, str] = ("vk0", "vk0"),
        queues: int = 1,
        mtu: int = 1500,
        tx_checksum: bool = True,
        qdisc: str | None = None,
        middle: Host | None = None,
        middle_names: tuple[str, str] = ("a", "b"),
    ) -> tuple[Link, Link]:
        """Join two hosts by a veth pair, with addresses and static neighbours at both ends.

        The n-th wire of a lab has 10.9.n.1 and fd09:n::1 at *a*, .2 and ::2 at *b*. With *middle*
        the wire is cut: frames of the two hosts arrive at two interfaces there, each frame as it
        would be on a cable, and somebody has to carry them.
        """
        number = self._wires
        self._wires += 1
        macs = [f"02:09:00:00:{number:02x}:{side:02x}" for side in (1, 2)]
        width = {"num_rx_queues": queues, "num_tx_queues": queues}
        if middle is None:
            far = {"ifname": names[1], "address": macs[1], "net_ns_fd": b.fd, **width}
            self._veth(a, names[0], macs[0], far, width)
        else:
            for host, name, mac, cut in zip((a, b), names, macs, middle_names, strict=True):
                self._veth(host, name, mac, {"ifname": cut, "net_ns_fd": middle.fd}, width)
                host.disable_segmentation(name)
                index = middle.run(if_nametoindex, cut)
                middle.run(middle.netlink.link, "set", index=index, mtu=mtu, state="up")
        ends = []
        for side, (host, name, mac) in enumerate(zip((a, b), names, macs, strict=True), start=1):
            index = host.run(if_nametoindex, name)
            host.run(host.netlink.link, "set", index=index, mtu=mtu, state="up")
            v4 = IPv4Interface(f"10.9.{number}.{side}/24")
            v6 = IPv6Interface(f"fd09:{number:x}::{side}/64")
            host.add_address(index, v4)
            host.add_address(index, v6)
            ends.append(Link(host, name, index, mac, v4, v6))
            if not tx_checksum or middle is not None:
                host.disable_tx_checksum(name)
            if qdisc is not None:
                host.set_qdisc(index, qdisc)
        for here, there in (ends, reversed(ends)):
            for address in (there.v4, there.v6):
                here.host.add_neighbour(here.index, str(address.ip), there.mac)
        # Until the kernel's link watch has run, a fresh interface drops what it is to send.
        wait_until(lambda: all(end.host.link_is_up(end.index) for end in ends), what="carrier")
        return ends[0], ends[1]

    @staticmethod
    def _veth(host: Host, name: str, mac: str, peer: dict[str, Any], width: dict[str, int]) -> None:
        options = {"ifname": name, "address": mac, "peer": peer, **width}
        host.run(host.netlink.link, "add", kind="veth", **options)

    def close(self) -> None:
        """Close all hosts."""
        for host in self.hosts.values():
            host.close()


@contextlib.contextmanager
def laboratory() -> Iterator[Lab]:
    """Yield a lab and close it."""
    lab = Lab()
    try:
        yield lab
    finally:
        lab.close()


class KernelLog:
    """Reads what the kernel logged since it was made."""

    TROUBLE = ("WARNING:", "BUG:", "Oops", "general protection", "Call Trace", "UBSAN:", "KASAN:")

    def __init__(self) -> None:
        try:
            self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self._fd = -1
            self.missing = f"/dev/kmsg: {error.strerror}"
        else:
            self.missing = ""
            os.lseek(self._fd, 0, os.SEEK_END)

    def lines(self) -> Iterator[str]:
        """Yield the text of every new record."""
        while self._fd >= 0:
            try:
                record = os.read(self._fd, 8192)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EPIPE:  # records were overwritten: go on with the next
                    continue
                raise
            yield record.decode(errors="replace").partition(";")[2].rstrip()

    def trouble(self) -> list[str]:
        """Return the new lines that tell of a fault of the kernel."""
        return [line for line in self.lines() if any(word in line for word in self.TROUBLE)]

    def close(self) -> None:
        """Close the log."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def turn() -> None:
    """Let the event loop's other tasks have a turn."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(future.set_result, None)
    await future
