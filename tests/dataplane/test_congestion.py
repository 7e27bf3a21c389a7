"""vk_congestion: what every controller keeps to, whatever the path does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.bottleneck import Flow, share
from tests.dataplane.sender import CUBIC, DELAY, FIXED, MS, SECOND, SIZE, Sender, controllers

U64 = 2**64 - 1


# RFC 9002, 7.2: ten datagrams, but not more than the greater of 14 720 bytes and two of them.
@pytest.mark.parametrize(
    ("size", "window"), [(1200, 12_000), (1472, 14_720), (1500, 14_720), (9000, 18_000)]
)
def test_the_initial_window_is_that_of_the_rfc(size: int, window: int) -> None:
    assert Sender(CUBIC, size).window == window


events = st.one_of(
    st.tuples(
        st.just("acked"),
        st.integers(0, 2**31),
        st.one_of(st.integers(0, 2 * SECOND), st.sampled_from([1, 2**40, 2**62])),
        st.one_of(st.just(0), st.integers(1, 10**12), st.just(U64)),
        st.booleans(),
    ),
    st.tuples(st.just("lost"), st.integers(0, 2**31), st.integers(-SECOND, 0), st.booleans()),
    st.tuples(st.just("marked"), st.integers(-SECOND, 0)),
    st.tuples(st.just("spurious")),
    st.tuples(st.just("switch"), st.integers(0, 2)),
    st.tuples(st.just("datagram"), st.integers(0, 70_000)),
    st.tuples(st.just("bounds"), st.integers(0, U64), st.integers(0, U64)),
    st.tuples(st.just("fixed"), st.integers(0, U64), st.integers(0, U64)),
    st.tuples(st.just("sent"), st.integers(0, 2**31), st.integers(0, 2**31)),
    st.tuples(st.just("wait"), st.one_of(st.integers(0, MS), st.integers(0, 100 * SECOND))),
)


def parameters(sender: Sender, window: int, rate: int) -> None:
    sender.it.fixed_window, sender.it.fixed_rate = window, rate


def wait(sender: Sender, ns: int) -> None:
    sender.now += ns


HAPPEN: dict[str, Callable[..., None]] = {
    "acked": lambda it, count, rtt, rate, limited: it.acked(
        count, rtt=rtt, rate=rate, app_limited=limited
    ),
    "lost": lambda it, count, ago, persistent: it.lost(
        count, sent=max(0, it.now + ago), persistent=persistent
    ),
    "marked": lambda it, ago: it.marked(max(0, it.now + ago)),
    "spurious": Sender.spurious,
    "switch": Sender.switch,
    "datagram": lambda it, size: it.lib.vk_congestion_datagram(it.it, size),
    "bounds": lambda it, least, most: it.lib.vk_congestion_bounds(it.it, least, most),
    "fixed": parameters,
    "sent": lambda it, count, more: it.lib.vk_congestion_sent(it.it, count, count + more, it.now),
    "wait": wait,
}


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2), st.integers(1, 70_000), st.lists(events, max_size=60))
def test_no_event_leads_out_of_the_bounds(
    kind: int, size: int, happened: list[tuple[Any, ...]]
) -> None:
    sender = Sender(kind, size)
    for name, *numbers in happened:
        before = sender.window
        HAPPEN[name](sender, *numbers)
        assert name not in ("lost", "marked") or sender.window <= before
        assert name != "spurious" or sender.window >= before
        assert sender.window_min <= sender.window <= sender.window_max
        assert 2 * sender.datagram_size <= sender.window_min
        assert sender.window_max <= sender.lib.VK_CONGESTION_WINDOW_MAX


@pytest.mark.parametrize("kind", [DELAY, CUBIC])
def test_the_window_does_not_grow_while_it_is_not_used(kind: int) -> None:
    sender = Sender(kind)
    before = sender.window
    for _ in range(100):
        sender.flight(app_limited=True, in_flight=SIZE)
    assert sender.window == before


@pytest.mark.parametrize("kind", [FIXED, DELAY, CUBIC])
def test_persistent_congestion_takes_the_window_away_and_it_comes_back(kind: int) -> None:
    sender = Sender(kind)
    for _ in range(6):
        sender.flight(rate=100_000_000)
    before = sender.window
    sender.now += SECOND
    sender.lost(before, persistent=True)
    after = sender.window
    assert after == (before // 2 if kind == FIXED else 2 * SIZE)
    for _ in range(30):
        sender.flight(rate=100_000_000)
    assert sender.window > before / 2


@pytest.mark.parametrize("kind", [DELAY, CUBIC])
def test_one_flight_is_reduced_for_only_once(kind: int) -> None:
    sender = Sender(kind)
    for _ in range(6):
        sender.flight()
    sent = sender.now
    sender.now += 10 * MS
    sender.lost(sent=sent)
    after = sender.window
    sender.lost(sent=sent)
    sender.marked(sent)
    assert sender.window == after


def test_a_spurious_loss_is_given_back_unless_something_else_came() -> None:
    sender = Sender(CUBIC)
    for _ in range(5):
        sender.flight()
    before, threshold = sender.window, sender.ssthresh
    sender.lost()
    assert sender.window < before
    sender.spurious()
    assert (sender.window, sender.ssthresh) == (before, threshold)
    sender.spurious()
    assert sender.window == before
    sender.now += 10 * MS
    sender.lost()
    sender.now += 10 * MS
    sender.marked()
    after = sender.window
    sender.spurious()
    assert sender.window == after


def test_larger_datagrams_make_a_larger_initial_window_but_leave_a_grown_one() -> None:
    sender = Sender(CUBIC)
    sender.lib.vk_congestion_datagram(sender.it, 1452)
    assert sender.window == 14_520
    assert sender.window_min == 2 * 1452
    for _ in range(5):
        sender.flight()
    grown = sender.window
    sender.lib.vk_congestion_datagram(sender.it, 8952)
    assert sender.window == grown


@pytest.mark.parametrize("before", [FIXED, DELAY, CUBIC])
@pytest.mark.parametrize("after", [FIXED, DELAY, CUBIC])
def test_a_switch_keeps_what_is_known(before: int, after: int) -> None:
    sender = Sender(before)
    for _ in range(6):
        sender.flight(rate=20_000_000)
    window, rounds = sender.window, sender.round.count
    sender.switch(after)
    assert sender.lib.vk_congestion_base(sender.it) == 10 * MS
    assert sender.lib.vk_congestion_rate(sender.it) == 20_000_000
    assert sender.round.count == rounds
    assert after == FIXED or sender.window == window
    assert sender.pacing_rate > 0


def test_a_switch_in_slow_start_goes_on_with_slow_start() -> None:
    sender = Sender(CUBIC)
    sender.flight()
    before = sender.window
    sender.switch(DELAY)
    sender.flight()
    assert sender.window == 2 * before
    sender.switch(CUBIC)
    sender.flight()
    assert sender.window == 4 * before


def test_a_switch_to_the_same_controller_changes_nothing() -> None:
    sender = Sender(CUBIC)
    sender.flight()
    sender.lost()
    before = bytes(sender.ffi.buffer(sender.it))
    sender.switch(CUBIC)
    assert bytes(sender.ffi.buffer(sender.it)) == before


@pytest.mark.parametrize("before", [FIXED, DELAY, CUBIC])
@pytest.mark.parametrize("after", [FIXED, DELAY, CUBIC])
def test_a_switch_under_traffic_costs_no_goodput(before: int, after: int) -> None:
    switching = Flow(before, switch_to=after, switch_ns=3 * SECOND)
    (flow,) = share(switching, measure_ns=3 * SECOND, end_ns=4 * SECOND)
    assert flow.share > 0.93


def test_the_same_run_gives_the_same_numbers() -> None:
    flows = [Flow(kind, start_ns=kind * 100 * MS) for kind in (FIXED, DELAY, CUBIC)]
    once = share(*flows, loss_ppm=5000, jitter_ns=100_000, end_ns=SECOND)
    assert once == share(*flows, loss_ppm=5000, jitter_ns=100_000, end_ns=SECOND)


@pytest.mark.parametrize("kind", [FIXED, DELAY, CUBIC])
def test_an_ack_costs_far_less_than_a_microsecond(kind: int) -> None:
    _, native = controllers()
    assert min(native.bottleneck_cost(kind, 100_000) for _ in range(5)) < 500  # ns; 15 are usual
