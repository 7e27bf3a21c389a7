"""Every frame has one owner, whatever happens to whoever moves it."""

from __future__ import annotations

import ctypes
import random
import time
from typing import Any

import pytest

from tests.census import needs
from tests.dataplane.crew import Crew, build, crew_of
from tests.dataplane.endpoint import SMALL, Endpoint, frame, queued_wire
from tests.lab import Lab, Link, wait_until
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.wire import Class

KERNEL_MAX = 2
"""RX frames the kernel may keep on a quiet port: it gives a refused frame back to a list."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    needs("clang-19", "AF_XDP")
    return build(tmp_path_factory.mktemp("crew"))


@pytest.fixture
def wire(lab: Lab) -> tuple[Link, Link]:
    needs("AF_XDP")
    return queued_wire(lab)


def assert_balanced(end: Endpoint, *, with_path: bool = True) -> None:
    """Wait until the kernel is quiet, then count."""
    wait_until(lambda: end.census(with_path=with_path).kernel <= KERNEL_MAX, what="a quiet port")
    census = end.census(with_path=with_path)
    assert census.twice == 0, census
    assert census.total == end.port.frames, census


def drain(end: Endpoint) -> int:
    """Receive until every ring is empty; returns how many frames."""
    count = 0
    while more := sum(len(end.receive(klass)) for klass in Class):
        count += more
    return count


def test_a_new_port_has_all_rx_frames_in_fill_and_all_tx_frames_free(
    wire: tuple[Link, Link],
) -> None:
    with Endpoint(wire[0], "xdp", "xdp") as a:
        census = a.census()
        assert census.fill == a.port.struct.umem.rx_frames
        assert census.free == a.port.struct.umem.tx_frames
        assert census.total == a.port.frames
        assert a.recovered == 0
        assert a.census(with_path=False) == census


def test_frames_in_hand_and_in_rings_are_counted_once(wire: tuple[Link, Link]) -> None:
    with Endpoint(wire[0], "xdp", "xdp") as a, Endpoint(wire[1], "xdp", "xdp") as b:
        peer = a.peer(b)
        for number in range(20):
            assert a.commit(peer, Class.DATA, frame(Class.DATA, number))
        assert a.census().held == 20
        a.flush_all()
        wait_until(lambda: b.census().rx[Class.DATA] == 20, what="20 frames in the ring")
        taken = b.path.ops.rx(b.path, Class.DATA, b.frames, 8)
        census = b.census()
        assert (taken, census.held, census.rx[Class.DATA]) == (8, 8, 12)
        assert census.total == b.port.frames
        b.path.ops.rx_done(b.path, Class.DATA)
        assert b.census().fill == b.port.struct.umem.rx_frames - 12
        assert_balanced(a)


def test_the_census_balances_after_a_flood(wire: tuple[Link, Link], library: ctypes.CDLL) -> None:
    with (
        Endpoint(wire[0], "none", "udp") as a,
        Endpoint(wire[1], "xdp", "xdp") as b,
        crew_of(library) as crew,
    ):
        pid = crew.flood(a, a.peer(b), Class.LOGS, frame(Class.LOGS, 1))
        wait_until(lambda: crew.counts.sent > 100_000, what="a flood")
        assert drain(b) > 0
        crew.kill(pid)
        drain(b)
        assert_balanced(b)
        assert b.census().fill + KERNEL_MAX >= b.port.struct.umem.rx_frames


def test_a_stalled_class_keeps_its_own_ring_and_no_more(
    wire: tuple[Link, Link], library: ctypes.CDLL
) -> None:
    with (
        Endpoint(wire[0], "none", "udp", rings=SMALL) as a,
        Endpoint(wire[1], "xdp", "none", rings=SMALL) as b,
        crew_of(library) as crew,
    ):
        peer = a.peer(b)
        pid = crew.flood(a, peer, Class.LOGS, frame(Class.LOGS, 1))
        wait_until(lambda: crew.counts.sent > 50_000, what="a flood")
        for number in range(50):
            assert a.commit(peer, Class.CRITICAL, frame(Class.CRITICAL, number))
            a.flush_all()
            received = b.receive_all(Class.CRITICAL, 1)
            assert [one.number for one in received] == [number]
        crew.kill(pid)
        assert b.census().rx[Class.LOGS] == SMALL.rx[Class.LOGS]
        statistics = b.port.statistics()
        assert (statistics.fill_empty, statistics.dropped, statistics.ring_full) == (0, 0, 0)
        assert_balanced(b)


def kill_many(crew: Crew, end: Endpoint, peer: Any, kills: int) -> None:
    """Start workers one after another and kill each at a random point of its work."""
    chance = random.Random(59)
    for number in range(kills):
        before = crew.counts.received
        pid = crew.work(end, peer)
        wait_until(
            lambda: crew.counts.received > before,  # noqa: B023  # called at once
            what=f"worker {number} goes on",
        )
        until = time.perf_counter_ns() + chance.randrange(3_000_000)
        while time.perf_counter_ns() < until:
            pass
        crew.kill(pid)
        assert crew.counts.failed == 0


def test_no_kill_of_a_worker_loses_a_frame_of_memory(
    wire: tuple[Link, Link], library: ctypes.CDLL
) -> None:
    with (
        Endpoint(wire[0], "none", "udp") as a,
        Endpoint(wire[1], "xdp", "xdp") as b,
        crew_of(library) as crew,
    ):
        b.close_path()
        back = b.peer(a)
        flood = crew.flood(a, a.peer(b), Class.DATA, frame(Class.DATA, 7))
        kill_many(crew, b, back, 60)
        crew.kill(flood)
        assert crew.counts.recovered > 0
        ffi.memmove(b.state, crew.state, ffi.sizeof(b.state[0]))
        b.open_path()
        drain(b)
        assert_balanced(b)
        assert b.census().free == b.port.struct.umem.tx_frames
        credit = b.port.struct.lanes[Class.DATA]
        assert credit.granted - credit.used == b.port.struct.xsks[Class.DATA].rx.size
        sent = [frame(Class.DATA, number) for number in range(500)]
        for data in sent:
            assert a.commit(a.peer(b), Class.DATA, data)
        a.flush_all()
        assert [one.data for one in b.receive_all(Class.DATA, 500)] == sent


@pytest.mark.parametrize(
    ("fill_done", "rx_done", "granted"),
    [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)],
    ids=["1 only meant to", "2 FILL published", "3 RX advanced", "4 credit given"],
)
def test_a_move_that_a_crash_cut_is_finished_or_undone(
    wire: tuple[Link, Link], fill_done: int, rx_done: int, granted: int
) -> None:
    with Endpoint(wire[0], "none", "udp") as a, Endpoint(wire[1], "xdp", "xdp") as b:
        for number in range(10):
            assert a.commit(a.peer(b), Class.JOB, frame(Class.JOB, number))
        a.flush_all()
        wait_until(lambda: b.census().rx[Class.JOB] == 10, what="10 frames in the ring")
        fill, ring = b.port.struct.umem.fill, b.port.struct.xsks[Class.JOB].rx
        producer, consumer = fill.producer[0], ring.consumer[0]
        descriptors = ffi.cast("uint64_t *", ring.entries)
        addresses = ffi.cast("uint64_t *", fill.entries)
        b.state.intent = Class.JOB + 1
        b.state.intent_fill, b.state.intent_rx = producer + 10, consumer + 10
        for i in range(10):  # the kernel's descriptor is 16 bytes, its address first
            chunk = descriptors[2 * i] & ~(lib.VK_CHUNK_SIZE - 1)
            addresses[(producer + i) % fill.size] = chunk
        if fill_done:
            fill.producer[0] = producer + 10
        if rx_done:
            ring.consumer[0] = consumer + 10
        if granted:
            b.port.struct.lanes[Class.JOB].granted += 10
        b.close_path()
        b.open_path()
        assert b.state.intent == 0
        assert b.recovered == (10 if not rx_done else 0)
        assert b.census().rx[Class.JOB] == (0 if fill_done else 10)
        assert len(b.receive_all(Class.JOB, 0 if fill_done else 10)) == (0 if fill_done else 10)
        credit = b.port.struct.lanes[Class.JOB]
        assert credit.granted - credit.used == ring.size
        assert_balanced(b)
