"""vk_mtu: what a path carries is found by probes, and found again when it shrinks (RFC 8899)."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import library

BASE, LEAST, STEP = 1200, 512, 16
SECOND = 1_000_000_000
BASE_STATE, SEARCHING, COMPLETE, ERROR, CONFIRMING = range(5)


class Mtu:
    """The machine in C, a path below it, and who sends a datagram each way in turn."""

    def __init__(self, most: int, path: int) -> None:
        self.ffi, self.lib = library("vk_mtu.h", "vk_mtu.c")
        self.it = self.ffi.new("struct vk_mtu *")
        self.lib.vk_mtu_init(self.it, most)
        self.path = path
        self.now = SECOND
        self.probes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.it, name)

    def send(self, size: int | None = None, *, lost: bool = False) -> None:
        """Send a datagram as large as allowed, and hear of it; lost: whatever its size."""
        self.burst([(self.size if size is None else size, lost)])

    def burst(self, sent: list[tuple[int, bool]]) -> None:
        """Send datagrams of these sizes, and hear of them by one acknowledgement."""
        came: list[tuple[int, int]] = []
        lost: list[tuple[int, int]] = []
        for size, unlucky in sent:
            self.now += 1000
            self.lib.vk_mtu_sent(self.it, size, self.now)
            (lost if unlucky or size > self.path else came).append((size, self.now))
        for size, now in came:
            self.lib.vk_mtu_acked(self.it, size, now)
        for size, now in lost:
            self.lib.vk_mtu_lost(self.it, size, now)
        self.lib.vk_mtu_settle(self.it)

    def probe(self, *, lost: bool = False) -> int:
        """Send the probe that is due, if one is, and hear of it."""
        size = int(self.lib.vk_mtu_next(self.it))
        if not size:
            return 0
        self.now += 1000
        self.probes.append(size)
        self.lib.vk_mtu_probed(self.it)
        assert self.lib.vk_mtu_next(self.it) == 0, "one at a time"
        if size <= self.path and not lost:
            self.lib.vk_mtu_probe_acked(self.it, size, self.now)
        else:
            self.lib.vk_mtu_probe_lost(self.it, size, self.now)
        return size

    def settle(self, turns: int = 200) -> None:
        for _ in range(turns):
            self.send()
            self.probe()


def test_nothing_is_probed_before_something_large_was_sent() -> None:
    mtu = Mtu(1472, 1472)
    for _ in range(10):
        mtu.send(100)
        assert mtu.probe() == 0
    assert (mtu.state, mtu.size) == (BASE_STATE, BASE)


def test_a_path_as_wide_as_the_interface_takes_one_probe() -> None:
    mtu = Mtu(1472, 1472)
    mtu.settle()
    assert (mtu.probes, mtu.size, mtu.state) == ([1472], 1472, COMPLETE)


@settings(max_examples=100, deadline=None)
@given(st.integers(LEAST, 65_507), st.integers(LEAST, 65_507))
def test_a_path_is_found_to_a_step(most: int, path: int) -> None:
    mtu = Mtu(most, path)
    mtu.settle()
    if path >= min(BASE, most):
        assert min(most, path) - STEP < mtu.size <= min(most, path)
        assert all(mtu.probes.count(size) <= 3 for size in mtu.probes)
    else:
        assert mtu.size == LEAST
        assert mtu.state == ERROR
    assert len(mtu.probes) <= 3 * 14


@settings(max_examples=100, deadline=None)
@given(
    st.integers(BASE, 9000),
    st.lists(st.tuples(st.integers(LEAST, 9000), st.integers(1, 60)), min_size=1, max_size=8),
    st.data(),
)
def test_whatever_the_path_does_the_size_comes_to_it(
    most: int, widths: list[tuple[int, int]], data: st.DataObject
) -> None:
    mtu = Mtu(most, most)
    for width, turns in widths:
        mtu.path = width
        for _ in range(turns):
            mtu.send(data.draw(st.sampled_from([100, None])), lost=data.draw(st.booleans()))
            mtu.probe(lost=data.draw(st.booleans()))
            assert LEAST <= mtu.size <= most
            assert mtu.it.probe == 0 or mtu.size <= mtu.it.probe <= most
    mtu.settle()
    assert mtu.size <= mtu.path
    mtu.now += 700 * SECOND  # the raise timer
    mtu.settle()
    wanted = min(most, mtu.path)
    assert wanted - STEP < mtu.size <= wanted if wanted >= BASE else mtu.size == LEAST


def test_a_lost_probe_is_sent_three_times() -> None:
    mtu = Mtu(1472, 1400)
    mtu.settle()
    assert mtu.probes[:4] == [1472, 1472, 1472, 1336]


def test_a_probe_that_comes_late_counts() -> None:
    mtu = Mtu(9000, 1300)
    mtu.send()
    for _ in range(4):
        mtu.probe()
    assert mtu.it.probe < 9000
    assert mtu.lib.vk_mtu_probe_acked(mtu.it, 9000, mtu.now) == 1
    assert (mtu.size, mtu.state) == (9000, COMPLETE)


def black_hole(most: int, path: int) -> Mtu:
    mtu = Mtu(most, most)
    mtu.settle()
    mtu.path = path
    for bursts in range(2):
        assert (mtu.size, mtu.state, mtu.bursts) == (most, COMPLETE, bursts)
        mtu.send(100)
        mtu.send()
    assert (mtu.size, mtu.state) == (most, CONFIRMING)
    return mtu


def test_bursts_of_large_ones_and_three_lost_probes_are_a_black_hole() -> None:
    mtu = black_hole(9000, 1500)
    assert [mtu.probe() for _ in range(3)] == [9000] * 3
    assert (mtu.size, mtu.state) == (BASE, BASE_STATE)
    mtu.settle()
    assert 1500 - STEP < mtu.size <= 1500


def test_a_probe_that_arrives_clears_the_path_of_suspicion() -> None:
    mtu = black_hole(9000, 1500)
    assert mtu.probe() == 9000
    mtu.path = 9000
    assert mtu.probe() == 9000
    assert (mtu.size, mtu.state, mtu.bursts) == (9000, COMPLETE, 0)


@settings(max_examples=100, deadline=None)
@given(st.integers(BASE, 9000 - 2048), st.integers(0, 1 << 32))
def test_what_a_narrower_path_still_carries_hides_no_black_hole(path: int, seed: int) -> None:
    random = Random(seed)
    mtu = Mtu(9000, 9000)
    mtu.settle()
    mtu.path = path
    for _ in range(50):
        mtu.burst([(random.randint(LEAST, 9000), random.random() < 0.05) for _ in range(20)])
    while mtu.size == 9000:
        assert mtu.probe() == 9000
    assert mtu.size == BASE


def test_a_loss_among_larger_ones_that_come_says_nothing() -> None:
    mtu = Mtu(9000, 9000)
    mtu.settle()
    for size in range(1300, 9000, 100):
        mtu.send(size, lost=True)
        mtu.send(9000)
    assert (mtu.state, mtu.bursts) == (COMPLETE, 0)


def test_a_burst_with_one_that_came_is_none() -> None:
    mtu = Mtu(9000, 9000)
    mtu.settle()
    for _ in range(20):
        mtu.send(lost=True)
        mtu.send(lost=True)
        mtu.send()
    assert mtu.size == 9000


def test_losses_older_than_what_came_say_nothing() -> None:
    mtu = Mtu(9000, 9000)
    mtu.settle()
    for _ in range(20):
        mtu.lib.vk_mtu_lost(mtu.it, 9000, max(mtu.came_ns) - 1)
        mtu.lib.vk_mtu_settle(mtu.it)
    assert mtu.size == 9000


def test_small_ones_that_are_lost_say_nothing() -> None:
    mtu = Mtu(9000, 9000)
    mtu.settle()
    for _ in range(20):
        mtu.send(BASE, lost=True)
    assert mtu.size == 9000


def test_a_wider_path_is_found_when_the_raise_timer_is_over() -> None:
    mtu = Mtu(9000, 1472)
    mtu.settle()
    probes = len(mtu.probes)
    mtu.path = 9000
    mtu.now += 590 * SECOND
    mtu.settle()
    assert len(mtu.probes) == probes
    mtu.now += 11 * SECOND
    mtu.settle()
    assert mtu.size == 9000


@pytest.mark.parametrize(("before", "after"), [(9000, 1472), (1472, 9000), (1000, 1472)])
def test_another_bound_is_followed(before: int, after: int) -> None:
    mtu = Mtu(before, 65_507)
    mtu.settle()
    assert mtu.size == before
    mtu.lib.vk_mtu_bound(mtu.it, after)
    assert mtu.size <= after
    mtu.settle()
    assert mtu.size == after
