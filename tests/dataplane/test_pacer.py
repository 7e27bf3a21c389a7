"""vk_pacer: the rate is kept, batches stay whole, and the next one is known to the nanosecond."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import library

DEBT_MAX = 131_072

SECOND = 1_000_000_000
US = 1000


class Pacer:
    def __init__(self, rate: int, size: int = 1200, now: int = SECOND) -> None:
        self.ffi, self.lib = library("pacer_rig.h", "pacer_rig.c")
        self.it = self.ffi.new("struct vk_pacer *")
        self.now = now
        self.lib.pacer_init(self.it, size, now)
        self.rate(rate)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.it, name)

    def rate(self, rate: int) -> None:
        self.lib.pacer_rate(self.it, rate, self.now)

    def room(self) -> int:
        return int(self.lib.pacer_room(self.it, self.now))

    def ready(self) -> bool:
        return bool(self.lib.pacer_ready(self.it, self.now))

    def next_ns(self) -> int:
        return int(self.lib.pacer_next_ns(self.it))

    def wait(self, waited: bool) -> None:
        self.lib.pacer_wait(self.it, waited, self.now)

    def spend(self, size: int) -> None:
        self.lib.pacer_spend(self.it, size, self.now)


def test_an_unpaced_sender_is_always_ready() -> None:
    pacer = Pacer(0)
    pacer.spend(1 << 40)
    assert pacer.ready()
    assert pacer.next_ns() == 0


# rate in bytes/s, datagram -> burst: the greater of ten datagrams and 200 us, at most 256 KiB;
# batch: the greater of one datagram and 100 us, at most half of the burst.
@pytest.mark.parametrize(
    ("rate", "size", "burst", "batch"),
    [
        (1_000_000, 1200, 12_000, 1200),
        (12_500_000, 1200, 12_000, 1250),
        (125_000_000, 1200, 25_000, 12_500),
        (1_250_000_000, 1200, 250_000, 125_000),
        (5_000_000_000, 1200, 262_144, 131_072),
        (12_500_000, 9000, 90_000, 9000),
        (12_500_000, 65_000, 262_144, 65_000),
    ],
)
def test_bursts_and_batches_have_their_sizes(rate: int, size: int, burst: int, batch: int) -> None:
    pacer = Pacer(rate, size)
    assert (pacer.burst, pacer.batch) == (burst, batch)
    assert pacer.room() == burst


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 1 << 40),
    st.lists(
        st.tuples(st.integers(1, 65_535), st.integers(0, 2000), st.booleans()),
        min_size=1,
        max_size=200,
    ),
)
def test_no_more_leaves_than_the_rate_a_burst_and_one_batch(
    rate: int, wishes: list[tuple[int, int, bool]]
) -> None:
    pacer, start, left, largest = Pacer(rate), SECOND, 0, 0
    for size, pause, waited in wishes:
        pacer.now += pause
        if pacer.ready():
            pacer.spend(size)
            left += size
            largest = max(largest, size)
        pacer.wait(waited)
        allowed = (pacer.now - start) * rate / SECOND + pacer.burst + largest
        assert left <= allowed * (1 + 1e-6) + 1


@pytest.mark.parametrize("rate", [10_000, 1_000_000, 125_000_000, 5_000_000_000])
@pytest.mark.parametrize("size", [100, 1200, 64_000])
def test_a_sender_that_wakes_when_told_gets_its_rate(rate: int, size: int) -> None:
    pacer, sent, woken = Pacer(rate), 0, 0
    start = pacer.now
    while sent < max(2_000_000, 100 * size, rate // 100):
        assert pacer.ready()
        while pacer.ready():
            pacer.spend(size)
            sent += size
        assert pacer.next_ns() > pacer.now
        pacer.now = pacer.next_ns() - 1
        assert not pacer.ready()
        pacer.now += 1
        woken += 1
    took = (pacer.now - start) * rate / SECOND
    assert took <= sent + pacer.batch + 1
    assert sent <= took + pacer.burst + size
    assert woken <= sent / pacer.batch + 1


def test_calls_that_come_often_lose_nothing_to_rounding() -> None:
    pacer = Pacer(3_333_333)
    pacer.spend(100_000)
    start = pacer.now
    while not pacer.ready():
        pacer.now += 100
        pacer.spend(0)
    waited = (100_000 - pacer.burst + pacer.batch) * SECOND / 3_333_333
    assert abs((pacer.now - start) / waited - 1) < 1e-3


def test_a_debt_is_paid_at_the_new_rate() -> None:
    pacer = Pacer(10_000)
    pacer.spend(pacer.burst + 64_000)
    pacer.rate(1_000_000_000)
    pacer.now = pacer.next_ns()
    assert pacer.ready()
    assert pacer.now - SECOND < 200 * US


def test_what_is_urgent_sees_how_much_it_has_borrowed() -> None:
    pacer = Pacer(1_000_000)
    for _ in range(20):
        pacer.spend(3_000)
    assert pacer.room() == pacer.burst - 60_000


def test_what_nothing_holds_back_makes_others_wait_only_so_long() -> None:
    pacer = Pacer(1_000_000)
    for _ in range(1000):
        pacer.spend(3_000)
    wait_ns = (DEBT_MAX + pacer.batch) * SECOND // 1_000_000
    assert abs(pacer.next_ns() - pacer.now - wait_ns) < 1000


def test_idle_time_earns_one_burst_and_no_more() -> None:
    pacer = Pacer(125_000_000)
    pacer.now += 3600 * SECOND
    assert pacer.room() == pacer.burst


@pytest.mark.parametrize("late_us", [0, 300, 3000])
def test_a_sender_that_was_made_to_wait_and_comes_late_still_gets_its_rate(late_us: int) -> None:
    pacer, sent, start = Pacer(125_000_000), 0, SECOND
    for _ in range(1000):
        while pacer.ready():
            pacer.spend(1200)
            sent += 1200
        pacer.wait(True)
        pacer.now = pacer.next_ns() + late_us * US
    assert sent >= (pacer.now - start) * 0.125 - pacer.burst - pacer.late


def test_lateness_beyond_a_slice_is_idle_time() -> None:
    pacer = Pacer(125_000_000)
    pacer.spend(pacer.burst)
    pacer.wait(True)
    pacer.now += 3600 * SECOND
    assert pacer.room() == pacer.burst + 125 * 4000


def test_who_has_sent_all_keeps_one_burst_of_what_it_waited_for() -> None:
    pacer = Pacer(125_000_000)
    pacer.spend(pacer.burst)
    pacer.wait(True)
    pacer.now += 3000 * US
    pacer.spend(1200)
    pacer.wait(False)
    pacer.now += 1
    assert pacer.room() == pacer.burst


def test_time_that_stands_still_or_an_old_reading_does_no_harm() -> None:
    pacer = Pacer(125_000_000)
    pacer.spend(pacer.burst)
    pacer.now -= SECOND // 2
    assert not pacer.ready()
    pacer.spend(1200)
    assert pacer.next_ns() < SECOND + 200 * US
