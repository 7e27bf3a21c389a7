"""Interfaces: one worker serves all receive queues of one, and none waits for another."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import valkyrie
from tests.census import needs
from tests.controlplane.test_broker_faults import balanced
from tests.lab import PATIENCE, Lab, Link, wait_until
from tests.nodes import PATIENT, NodeUnderTest, make_node, make_pair, running
from valkyrie.controlplane.config import settings
from valkyrie.controlplane.host.device import XdpFeature
from valkyrie.controlplane.host.interfaces import Opened
from valkyrie.controlplane.host.queues import Queues, frames_in_driver
from valkyrie.dataplane import lib
from valkyrie.dataplane.application.stream import SyncStream
from valkyrie.dataplane.wire import Class
from valkyrie.shm.counters import CountersPage

Pair = tuple[NodeUnderTest, NodeUnderTest]

QUEUES = 2
STREAMS = {"critical": 0, "system": 5, "job": 100, "data": 1000, "logs": 10_000}
RELIABLE = [name for name in STREAMS if name != "logs"]
COUNT = 200

_PROG_LOAD = 5  # linux/bpf.h
_SCHED_CLS = 3
_CALL_RANDOM = 7
_QUEUE_MAPPING_AT = 12  # struct __sk_buff
_EGRESS = 0xFFFFFFF3  # linux/pkt_sched.h: TC_H_CLSACT, TC_H_MIN_EGRESS
_NR_BPF = {"x86_64": 321, "aarch64": 280}
_libc = ctypes.CDLL(None, use_errno=True)


def _instruction(code: int, registers: int, offset: int, value: int) -> bytes:
    return struct.pack("<BBhi", code, registers, offset, value)


def _load(queue: int | None) -> int:
    """Return a program that sends packets by a queue, or each by one of two at random."""
    if queue is None:
        choose = [(0x85, 0, 0, _CALL_RANDOM), (0x57, 0, 0, QUEUES - 1), (0x07, 0, 0, 1)]
    else:
        choose = [(0xB7, 0, 0, queue + 1)]  # r0 = what says "queue", as a received packet would
    code = [
        (0xBF, 0x16, 0, 0),  # r6 = r1
        *choose,
        (0x63, 0x06, _QUEUE_MAPPING_AT, 0),  # skb->queue_mapping = r0
        (0xB7, 0, 0, 0),
        (0x95, 0, 0, 0),
    ]
    text = ctypes.create_string_buffer(b"".join(_instruction(*each) for each in code))
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "<IIQQIIQII",
        _SCHED_CLS,
        len(code),
        ctypes.addressof(text),
        ctypes.addressof(licence),
        0,
        0,
        0,
        0,
        0,
    )
    size = len(attributes)
    fd = int(_libc.syscall(_NR_BPF[os.uname().machine], _PROG_LOAD, attributes, size))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "load a program that chooses queues")
    return fd


def spread(link: Link, queue: int | None) -> None:
    """Let what kernel sockets send from a link arrive by a queue, or by either at random.

    A veth receives by the queue that its peer sent by.
    """
    fd = _load(queue)
    netlink = link.host.netlink
    run: Callable[..., object] = link.host.run
    with contextlib.suppress(Exception):  # there is none yet
        run(netlink.tc, "del", "clsact", link.index)
    run(netlink.tc, "add", "clsact", link.index)
    run(
        netlink.tc,
        "add-filter",
        "bpf",
        link.index,
        ":1",
        fd=fd,
        name="spread",
        parent=_EGRESS,
        classid=1,
        direct_action=True,
    )
    os.close(fd)


@pytest.fixture
def wires(lab: Lab) -> tuple[Link, Link]:
    needs("AF_XDP")
    return lab.wire(lab.host("a"), lab.host("b"), queues=QUEUES)


@contextlib.contextmanager
def nodes_of(wires: tuple[Link, Link], directory: Path, queues: int = 0) -> Iterator[Pair]:
    """Run two nodes that receive by AF_XDP, from as many queues or from all."""
    a, b = (
        make_node(
            wires[i],
            directory,
            {"ba"[i]: str(wires[1 - i].v4.ip)},
            path="xdp",
            extra=(f"queues = {queues}\n" if queues else "") + PATIENT,
        )
        for i in range(2)
    )
    with running(a, b):
        yield a, b


@contextlib.contextmanager
def streams(pair: Pair) -> Iterator[dict[str, tuple[SyncStream, SyncStream]]]:
    """Yield both ends of a stream of every class from node a to node b."""
    a, b = pair
    with (
        valkyrie.attach_sync(a.socket, name="sender") as sender,
        valkyrie.attach_sync(b.socket, name="receiver") as receiver,
        contextlib.ExitStack() as services,
    ):
        found = {}
        for name, stream in STREAMS.items():
            service = services.enter_context(receiver.listen(name))
            out = sender.connect("b").open(name, stream=stream)
            found[name] = out, service.accept(timeout=5 * PATIENCE)
        yield found


def send_all(ends: dict[str, tuple[SyncStream, SyncStream]], names: list[str]) -> None:
    for number in range(COUNT):
        for name in names:
            ends[name][0].send(b"%s %d" % (name.encode(), number))


def receive_all(ends: dict[str, tuple[SyncStream, SyncStream]], names: list[str]) -> None:
    """Check that all of it came, in its order where the class has one."""
    for name in names:
        got: list[bytes] = []
        while len(got) < COUNT:
            message = ends[name][1].recv(timeout=10 * PATIENCE)
            assert message is not None, (name, len(got))
            got.append(message.payload)
        wanted = [b"%s %d" % (name.encode(), number) for number in range(COUNT)]
        assert sorted(got) == sorted(wanted), name
        if name in ("critical", "system", "job"):
            assert got == wanted, name


def unserved(page: CountersPage) -> int:
    """Return how many frames came by a queue that has no credit, because nobody listens there."""
    packets = page.struct.verdicts[0].packets
    return sum(int(packets[klass][lib.VK_DROP_CREDIT]) for klass in range(len(Class)))


def settled(node: NodeUnderTest) -> bool:
    return bool(node.status()["ledger"]["residual"] == 0) and balanced(node)


@pytest.mark.parametrize("queue", [0, 1, None])
def test_every_class_arrives_by_whichever_queue(
    wires: tuple[Link, Link], tmp_path: Path, queue: int | None
) -> None:
    for link in wires:
        spread(link, queue)
    with nodes_of(wires, tmp_path) as pair:
        with streams(pair) as ends:
            send_all(ends, list(STREAMS))
            receive_all(ends, list(STREAMS))
        for node in pair:
            document = node.status()
            rows = document["interfaces"]
            assert [(row["queue"], row["tx"]["mode"]) for row in rows] == [(0, "udp"), (1, "none")]
            assert not any(row["warning"] for row in rows)
            assert len(document["census"]) == QUEUES
            wait_until(lambda node=node: settled(node))  # type: ignore[misc]


def test_frames_of_a_queue_that_is_not_served_are_counted(
    wires: tuple[Link, Link], tmp_path: Path
) -> None:
    for link in wires:
        spread(link, 0)
    with (
        nodes_of(wires, tmp_path, 1) as (a, b),
        streams((a, b)) as ends,
        CountersPage(b.name) as page,
    ):
        assert not unserved(page)
        for node in (a, b):
            assert node.status()["interfaces"][0]["warning"].startswith("1 of 2 receive queues")
            assert "WARNING: vk0: 1 of 2 receive queues are served" in node.said()
        spread(wires[0], 1)
        ends["job"][0].send(b"comes in the end")
        wait_until(lambda: unserved(page))
        spread(wires[0], 0)
        message = ends["job"][1].recv(timeout=5 * PATIENCE)
        assert message is not None
        assert message.payload == b"comes in the end"


def test_a_device_with_more_queues_than_can_be_served_is_received_from_by_the_kernel(
    lab: Lab, tmp_path: Path
) -> None:
    most = int(lib.VK_PORTS_MAX)
    wires = lab.wire(lab.host("a"), lab.host("b"), queues=most + 1)
    for link in wires:
        spread(link, 1)
    with nodes_of(wires, tmp_path) as pair:
        with streams(pair) as ends:
            send_all(ends, RELIABLE)
            receive_all(ends, RELIABLE)
        (row,) = pair[0].status()["interfaces"]
        assert (row["rx"]["mode"], row["queues"], row["warning"]) == ("udp", most + 1, "")
        assert f"XDP could serve {most} of its {most + 1} receive queues" in row["rx"]["reason"]


def test_interfaces_leave_ports_to_those_behind_them() -> None:
    most = int(lib.VK_PORTS_MAX)
    device: Any = SimpleNamespace(name="eth0", rx_queues=most)
    every = settings.Interface(name="eth0")
    assert Queues.of(every, device, most) == Queues(most, most)
    assert "ethtool -L eth0 combined 7" in Queues.of(every, device, most - 1).obstacle
    two = Queues.of(settings.Interface(name="eth0", queues=2), device, most - 1)
    assert (two.served, two.obstacle) == (2, "")
    assert two.warning("eth0").startswith(f"2 of {most} receive queues are served")


def test_a_driver_that_can_do_zero_copy_gets_frames_for_its_own_ring() -> None:
    rows = [
        (XdpFeature.BASIC | XdpFeature.ZERO_COPY, 512),
        (XdpFeature.BASIC, 0),
        (XdpFeature(0), 512),  # a kernel before 6.3 does not say
    ]
    for features, frames in rows:
        device: Any = SimpleNamespace(rx_ring=512, xdp_features=features)
        assert frames_in_driver(device) == frames


@pytest.mark.parametrize("path", ["udp", "xdp"])
def test_garbage_is_counted_and_not_answered(lab: Lab, tmp_path: Path, path: str) -> None:
    a, b = make_pair(lab, tmp_path, path=path)
    with running(b), a.host.socket() as garbage, CountersPage(b.name) as page:
        garbage.connect((str(b.link.v4.ip), lib.VK_PORT))
        garbage.setblocking(False)
        for _ in range(10):
            garbage.send(b"no frame, but long enough to be one of the protocol")
        refused = page.struct.verdicts[0].packets[Class.CONTROL]
        wait_until(lambda: refused[lib.VK_DROP_MAGIC] == 10)
        with pytest.raises(BlockingIOError):  # an ICMP error would be ECONNREFUSED
            garbage.recv(1)


def test_a_killed_worker_loses_nothing_of_either_queue(
    wires: tuple[Link, Link], tmp_path: Path
) -> None:
    for link in wires:
        spread(link, None)
    with nodes_of(wires, tmp_path) as pair:
        node = pair[1]
        with streams(pair) as ends:
            for _ in range(3):
                pid = node.pid("worker")
                os.kill(pid, signal.SIGSTOP)  # frames wait in the rings of both queues
                send_all(ends, RELIABLE)
                os.kill(pid, signal.SIGKILL)
                receive_all(ends, RELIABLE)
        for each in pair:
            wait_until(lambda each=each: settled(each))  # type: ignore[misc]


def test_an_interface_that_cannot_be_asked_for_has_not_vanished() -> None:
    index = socket.if_nametoindex("lo")
    here: Any = SimpleNamespace(name="lo", ifindex=index)
    gone: Any = SimpleNamespace(name="nowhere0", ifindex=index)
    another: Any = SimpleNamespace(name="lo", ifindex=index + 1)
    assert [Opened.present(each) for each in (here, gone, another)] == [True, False, False]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert Opened.present(here)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
