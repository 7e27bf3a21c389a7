"""Anything can die or misbehave: the others go on, or come back in under a second."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

import valkyrie
from tests.lab import PATIENCE, SOON_S, Lab, wait_until
from tests.nodes import PATIENT, NodeUnderTest, make_pair, running
from valkyrie.controlplane.broker.children import HUNG_S
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.driver import exchange
from valkyrie.dataplane.application.stream import SyncStream
from valkyrie.shm.counters import CountersPage

Pair = tuple[NodeUnderTest, NodeUnderTest]

BY_AF_XDP_TOO = pytest.mark.parametrize("pair", ["udp", "xdp", "xdp/xdp"], indirect=True)
"""For what rests on the sending path, too: nodes that send by AF_XDP, as they do on hardware."""
BACK_S = 1.0
"""Promised: whoever died is back within this time."""
LINE = b"x" * 200


@pytest.fixture(params=["udp", "xdp"])
def pair(lab: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two running nodes."""
    nodes = make_pair(lab, tmp_path, path=request.param, extra=PATIENT)
    with running(*nodes):
        yield nodes


@contextlib.contextmanager
def opened(pair: Pair, stream: int = 100) -> Iterator[tuple[SyncStream, SyncStream]]:
    """Yield both ends of a stream from node a to node b."""
    a, b = pair
    with (
        valkyrie.attach_sync(a.socket, name="sender") as sender,
        valkyrie.attach_sync(b.socket, name="receiver") as receiver,
        receiver.listen("work") as service,
    ):
        out = sender.connect("b").open("work", stream=stream)
        yield out, service.accept(timeout=SOON_S)


def cross(out: SyncStream, into: SyncStream, payload: bytes, deadline_s: float = 5.0) -> float:
    """Send until it arrives (best effort may lose it meanwhile); return the seconds it took."""
    begin = time.monotonic()
    while time.monotonic() - begin < deadline_s * PATIENCE:
        with contextlib.suppress(valkyrie.WouldBlockError):
            out.send(payload)
        with contextlib.suppress(TimeoutError):
            while (message := into.recv(timeout=0.02)) is not None:
                if message.payload == payload:
                    return time.monotonic() - begin
    raise AssertionError(f"{payload!r} did not arrive within {deadline_s} s")


def names(node: NodeUnderTest) -> list[tuple[object, ...]]:
    """Return who is attached where, with how many streams."""
    keys = ("slot", "name", "pid", "rule", "services", "streams")
    return [tuple(str(each[key]) for key in keys) for each in node.status()["applications"]]


@contextlib.contextmanager
def sink(node: NodeUnderTest) -> Iterator[None]:
    """Accept one stream and never read it."""
    with valkyrie.attach_sync(node.socket, name="sink") as application, application.listen("sink"):
        yield


def anew(node: NodeUnderTest, child: str, pid: int) -> None:
    """Wait until a child is another process than pid."""
    wait_until(lambda: node.pid(child) != pid, what=f"a new {child}")


def balanced(node: NodeUnderTest) -> bool:
    document = node.status()
    return all(
        each["twice"] == 0 and each["total"] == each["frames"]
        for each in document["census"].values()
    )


@BY_AF_XDP_TOO
@pytest.mark.parametrize("side", [0, 1])
def test_a_killed_worker_is_back_and_streams_go_on(pair: Pair, side: int) -> None:
    node = pair[side]
    with opened(pair) as (out, into):
        cross(out, into, b"before")
        for number in range(3):
            pid = node.pid("worker")
            os.kill(pid, signal.SIGKILL)
            assert cross(out, into, b"after %d" % number) < BACK_S * PATIENCE
            assert node.pid("worker") != pid
        assert node.status()["worker"]["restarts"] == 3
    wait_until(lambda: balanced(node))


@pytest.mark.parametrize("side", [0, 1])
def test_who_attaches_where_another_was_finds_its_rings_empty_though_a_worker_died(
    pair: Pair, side: int
) -> None:
    node = pair[side]
    for _ in range(3):
        with opened(pair) as (out, into):
            cross(out, into, b"one of few messages")
        wait_until(lambda: all(each.applications() == 0 for each in pair))
        pid = node.pid("worker")
        os.kill(pid, signal.SIGKILL)
        anew(node, "worker", pid)


@BY_AF_XDP_TOO
def test_frames_that_wait_in_the_kernel_outlive_a_worker(pair: Pair) -> None:
    a, b = pair
    with opened(pair) as (out, into):
        cross(out, into, b"before")
        pid = b.pid("worker")
        os.kill(pid, signal.SIGSTOP)  # nobody takes frames out of the kernel's rings
        for number in range(100):
            out.send(struct.pack("<I", number) + LINE)
        with CountersPage(a.name) as page:
            wait_until(lambda: page.class_row(3)["tx_messages"] >= 11)  # RFC 9002, 7.2
        os.kill(pid, signal.SIGKILL)
        got: list[int] = []
        while len(got) < 100:
            message = into.recv(timeout=SOON_S)
            assert message is not None
            if message.payload != b"before":
                got.append(struct.unpack_from("<I", message.payload)[0])
        assert got == list(range(100))


def test_a_killed_daemon_is_back_and_applications_stay(pair: Pair) -> None:
    a, b = pair
    with opened(pair) as (out, into):
        cross(out, into, b"before")
        for node in pair:
            pid = node.pid("daemon")
            before = names(node)
            os.kill(pid, signal.SIGKILL)
            begin = time.monotonic()
            anew(node, "daemon", pid)
            assert time.monotonic() - begin < BACK_S * PATIENCE
            assert names(node) == before
            assert node.status()["daemon"]["restarts"] == 1
        cross(out, into, b"after")
        with valkyrie.attach_sync(a.socket) as late:  # and the new one can do all that the old did
            late.connect("b").open("work", stream=101)
    for node in (a, b):
        wait_until(lambda node=node: node.status()["applications"] == [])  # type: ignore[misc]


@pytest.mark.parametrize("child", ["worker", "daemon"])
def test_a_child_that_hangs_is_replaced(pair: Pair, child: str) -> None:
    a, _ = pair
    with opened(pair) as (out, into):
        pid = a.pid(child)
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: not psutil.pid_exists(pid), 15, f"the {child} is ended")
        cross(out, into, b"after")
        anew(a, child, pid)
        assert f"the {child} hangs" in a.said()


def passed(seconds: float) -> None:
    """Wait until time has passed, in which nothing can be seen to happen."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until, seconds + 1)


def test_a_node_that_was_frozen_goes_on_with_the_same_processes(lab: Lab, tmp_path: Path) -> None:
    a, b = make_pair(lab, tmp_path)
    with running(a, b):
        assert a.process is not None
        broker, children = psutil.Process(a.process.pid), a.children()
        pids = [a.pid(child) for child in ("worker", "daemon")]
        for process in (broker, *children):
            process.suspend()
        passed(HUNG_S + 1)
        broker.resume()
        passed(0.5)  # it looks before they can have moved
        for process in children:
            process.resume()
        assert [a.pid(child) for child in ("worker", "daemon")] == pids


def test_what_was_tuned_outlives_the_daemon(pair: Pair) -> None:
    a, _ = pair
    a.ask(appsocket.Tune({"worker.spin_us": 7}))
    pid = a.pid("daemon")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: a.pid("daemon") != pid)
    assert a.status()["worker"]["spin_us"] == 7


_SENDER = """
import sys, valkyrie
with valkyrie.attach_sync(sys.argv[1], name="victim") as node:
    stream = node.connect("b").open("sink", stream=int(sys.argv[2]))
    while True:
        try:
            stream.send(b"y" * 200)
        except valkyrie.WouldBlockError:
            pass
"""


def test_a_killed_application_leaves_its_slot_and_harms_nobody(pair: Pair) -> None:
    a, b = pair
    with opened(pair) as (out, into), sink(b):
        for number in range(3):
            arguments = [sys.executable, "-c", _SENDER, a.socket, str(200 + number)]
            victim = a.host.popen(arguments)
            wait_until(lambda: a.applications() == 2, 10)
            cross(out, into, b"beside")
            victim.kill()
            victim.wait()
            wait_until(lambda: a.applications() == 1)
            cross(out, into, b"after it")
    wait_until(lambda: balanced(b))


@BY_AF_XDP_TOO
def test_random_deaths_under_load_leave_everybody_working(pair: Pair) -> None:
    chance = random.Random(1)
    a, b = pair
    before = [broker_descriptors(node) for node in pair]
    with opened(pair) as (out, into), sink(b):
        load = a.host.popen([sys.executable, "-c", _SENDER, a.socket, "300"])
        for number in range(8):
            node = chance.choice(pair)
            child = chance.choice(["worker", "daemon"])
            pid = node.pid(child)
            os.kill(pid, signal.SIGKILL)
            cross(out, into, b"after death %d" % number)
            anew(node, child, pid)
        load.kill()
        load.wait()
    for node in pair:
        wait_until(lambda node=node: node.status()["applications"] == [])  # type: ignore[misc]
        wait_until(lambda node=node: balanced(node))  # type: ignore[misc]
    wait_until(lambda: [broker_descriptors(node) for node in pair] == before)


def broker_descriptors(node: NodeUnderTest) -> int:
    assert node.process is not None
    return psutil.Process(node.process.pid).num_fds()


# ---- Hostile applications ----


class Hostile:
    """An attached application that works on its regions with its own hands."""

    def __init__(self, node: NodeUnderTest) -> None:
        self.connection = node.connect()
        reply, self.descriptors = exchange(self.connection, appsocket.Attach(name="hostile"))
        assert reply.code == 0, reply.message
        self.slot = reply.slot
        self.d, self.a, self.bell, self.bell_worker = self.descriptors

    def region(self) -> mmap.mmap:
        return mmap.mmap(self.a, os.fstat(self.a).st_size)

    def ring(self) -> None:
        os.eventfd_write(self.bell_worker, 1)

    def cut_off(self) -> bool:
        try:
            return self.connection.recv(100) == b""
        except TimeoutError:
            return False

    def close(self) -> None:
        self.connection.close()
        for fd in self.descriptors:
            os.close(fd)


@contextlib.contextmanager
def hostile(node: NodeUnderTest) -> Iterator[Hostile]:
    application = Hostile(node)
    try:
        yield application
    finally:
        application.close()


TAIL, HEAD = 64, 128  # offsets in struct vk_region: tails, heads; 8 bytes a ring

SCRIBBLES = {
    "a tail beyond the ring": (TAIL + 8 * 3, struct.pack("<Q", 1 << 40)),
    "a tail that is not aligned": (TAIL + 8 * 3, struct.pack("<Q", 3)),
    "a tail that goes back": (TAIL + 8 * 3, struct.pack("<q", -8)),
    "a record larger than the ring": (4096, b"\xff" * 64),
}


@pytest.mark.parametrize("scribble", SCRIBBLES)
def test_who_scribbles_over_its_rings_is_cut_off_alone(pair: Pair, scribble: str) -> None:
    a, _ = pair
    offset, data = SCRIBBLES[scribble]
    with opened(pair) as (out, into):
        cross(out, into, b"before")
        worker = a.pid("worker")
        with hostile(a) as application:
            with application.region() as region:
                region[offset : offset + len(data)] = data
                if offset >= 4096:  # ring 1's first record: publish it
                    region[TAIL + 8 : TAIL + 16] = struct.pack("<Q", 64)
            application.ring()
            wait_until(application.cut_off)
        wait_until(lambda: a.applications() == 1)
        document = a.status()
        assert document["violations"] == 1
        assert document["worker"]["pid"] == worker
        assert "broke the rules of its rings: cut off" in a.said()
        assert "could not be taken back" not in a.said()
        cross(out, into, b"after")


def test_random_scribbling_never_ends_the_worker(pair: Pair) -> None:
    a, _ = pair
    chance = random.Random(2)
    worker = a.pid("worker")
    with opened(pair) as (out, into):
        for number in range(12):
            with hostile(a) as application:
                with application.region() as region:
                    for _ in range(64):
                        at = chance.choice(
                            [chance.randrange(64, 256), chance.randrange(4096, 8192)]
                        )
                        region[at] = chance.randrange(256)
                application.ring()
                cross(out, into, b"beside %d" % number)
        assert a.pid("worker") == worker


def test_regions_cannot_be_resized_and_d_cannot_be_written(pair: Pair) -> None:
    a, _ = pair
    with hostile(a) as application:
        for fd in (application.d, application.a):
            for size in (0, os.fstat(fd).st_size * 2):
                with pytest.raises(PermissionError):
                    os.ftruncate(fd, size)
        with pytest.raises(PermissionError):
            mmap.mmap(application.d, 4096)
        with pytest.raises(PermissionError):
            os.pwrite(application.d, b"x", 0)


def test_who_never_reads_loses_only_its_own_messages(pair: Pair) -> None:
    a, b = pair
    with (
        opened(pair) as (out, into),
        valkyrie.attach_sync(b.socket, name="deaf") as deaf,
        valkyrie.attach_sync(a.socket, name="loud") as loud,
        deaf.listen("deaf") as service,
    ):
        flood = loud.connect("b").open("deaf", stream=10_000)
        service.accept(timeout=SOON_S)
        with CountersPage(b.name) as page:

            def full() -> bool:
                with contextlib.suppress(valkyrie.WouldBlockError):
                    for _ in range(64):
                        flood.send(b"z" * 1024)
                return page.class_row(5)["drop_app_ring"] > 100

            wait_until(full, 20)
            lost = page.class_row(3)["drop_app_ring"]
            for number in range(20):
                assert cross(out, into, b"beside %d" % number) < BACK_S * PATIENCE
            assert page.class_row(3)["drop_app_ring"] == lost


def test_a_flood_of_attach_requests_is_limited_and_others_are_served(pair: Pair) -> None:
    a, _ = pair
    refused = 0
    flood: list[socket.socket] = []
    with opened(pair) as (out, into):
        try:
            for _ in range(300):
                connection = a.connect()
                flood.append(connection)
                try:
                    reply, descriptors = exchange(connection, appsocket.Attach())
                except OSError:  # closed before it could ask
                    refused += 1
                    continue
                for fd in descriptors:
                    os.close(fd)
                refused += reply.code in (lib.VK_CODE_OVERLOAD, lib.VK_CODE_POLICY)
            cross(out, into, b"beside")
        finally:
            for connection in flood:
                connection.close()
        assert refused > 200
        wait_until(lambda: a.applications() == 1, 10)

        def counted() -> bool:
            with contextlib.suppress(OSError):
                return bool(a.status().get("refused", {}).get("flood", 0) > 100)
            return False

        wait_until(counted)


EVENT_MAX = 2**64 - 2
"""What an eventfd holds at most: eventfd(2)."""


def test_who_steals_back_what_it_rang_holds_nobody_up(pair: Pair) -> None:
    a, _ = pair
    chance = random.Random(3)
    worker = a.pid("worker")
    with (
        opened(pair) as (out, into),
        contextlib.ExitStack() as stack,
        CountersPage(a.name) as page,
    ):
        bells = [stack.enter_context(hostile(a)).bell_worker for _ in range(8)]
        for bell in bells:
            os.set_blocking(bell, True)  # of the open file: the worker's as well
        for _ in range(200):
            turns = page.gauges()["loops"]
            for bell in bells:
                os.eventfd_write(bell, 1)
            for _ in range(chance.randrange(2000)):  # about as long as it takes to wake up
                pass
            for bell in reversed(bells):  # between the worker's look and its reads
                with contextlib.suppress(BlockingIOError):
                    os.preadv(bell, [bytearray(8)], -1, os.RWF_NOWAIT)
            wait_until(lambda n=turns: page.gauges()["loops"] > n)  # type: ignore[misc]
        cross(out, into, b"after")
        assert a.pid("worker") == worker


def delivered(page: CountersPage, count: int) -> bool:
    return page.class_row(5)["rx_delivered"] >= count


def test_who_fills_its_bells_and_never_empties_them_holds_nobody_up(pair: Pair) -> None:
    a, b = pair
    worker = b.pid("worker")
    with (
        opened(pair) as (out, into),
        valkyrie.attach_sync(a.socket, name="loud") as loud,
        valkyrie.attach_sync(b.socket, name="deaf") as deaf,
        deaf.listen("deaf") as service,
        CountersPage(b.name) as page,
    ):
        calls = loud.connect("b").open("deaf", stream=10_000)
        service.accept(timeout=SOON_S)
        rings = deaf._driver.rings
        bell_worker = deaf._driver.link._bells[1]
        for bell in (rings.bell, bell_worker):
            os.set_blocking(bell, True)
        before = page.class_row(5)["rx_delivered"]
        rung = page.gauges()["wake_bells"]
        for number in range(1, 201):
            rings.client.self.sleeping = number  # another sleep, so another ring
            os.eventfd_write(bell_worker, EVENT_MAX)
            calls.send(b"wake up")
            if number % 10 == 0:  # all that went so far has arrived, or was rung for
                wait_until(partial(delivered, page, before + number))
            if number == 100:
                cross(out, into, b"beside")
                with Path("/dev/null").open() as nothing:
                    os.dup2(nothing.fileno(), rings.bell)  # closes this end of it
        assert page.gauges()["wake_bells"] >= rung
        for number in range(20):
            assert cross(out, into, b"after %d" % number) < BACK_S * PATIENCE
    assert b.pid("worker") == worker


def test_a_bell_carries_no_descriptors_to_the_worker(pair: Pair) -> None:
    a, _ = pair
    with (
        hostile(a) as application,
        socket.socket(fileno=os.dup(application.bell)) as bell,
        pytest.raises(BrokenPipeError),
    ):
        socket.send_fds(bell, [b"!"], [application.bell_worker])


def test_a_request_carries_no_descriptors_to_the_daemon(pair: Pair) -> None:
    a, _ = pair
    refused = a.status()["refused"].get("descriptors", 0)
    with hostile(a) as application:
        try:
            packet = appsocket.encode(appsocket.Status())
            socket.send_fds(application.connection, [packet], [application.bell])
        except PermissionError:  # Linux 6.16: they cannot be sent
            assert exchange(application.connection, appsocket.Status())[0].code == 0
        else:
            assert application.cut_off()
            assert a.status()["refused"]["descriptors"] == refused + 1


def test_nobody_learns_of_another_ones_rings(pair: Pair) -> None:
    a, _ = pair
    with hostile(a) as one, hostile(a) as two:
        assert one.slot != two.slot
        inodes = [os.fstat(fd).st_ino for each in (one, two) for fd in (each.d, each.a)]
        assert len(set(inodes)) == 4
