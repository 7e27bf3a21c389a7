"""vk_congestion: what every controller keeps to, whatever the path does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import CONGESTION, library

FIXED, DELAY, CUBIC = range(3)
MS = 1_000_000
SECOND = 1_000_000_000
SIZE = 1200
U64 = 2**64 - 1


class Sender:
    """A congestion controller and the events that happen to it."""

    def __init__(self, kind: int, size: int = SIZE, now: int = SECOND) -> None:
        self.ffi, self.lib = library("dataplane/vk_congestion.h", *CONGESTION)
        self.it = self.ffi.new("struct vk_congestion *")
        self.now = now
        self.srtt = 0
        self.lib.vk_congestion_init(self.it, kind, size, now)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.it, name)

    def acked(
        self,
        bytes: int = SIZE,  # noqa: A002
        *,
        rtt: int = 10 * MS,
        rate: int = 0,
        app_limited: bool = False,
        sent: int | None = None,
        in_flight: int | None = None,
    ) -> None:
        self.srtt = (7 * self.srtt + rtt) // 8 if self.srtt else rtt
        ack = self.ffi.new(
            "struct vk_congestion_ack *",
            {
                "now_ns": self.now,
                "bytes": bytes,
                "sent_ns": max(0, self.now - rtt) if sent is None else sent,
                "rtt_ns": rtt,
                "rtt_min_ns": rtt,
                "rtt_smoothed_ns": self.srtt,
                "rate": rate,
                "in_flight": self.it.window if in_flight is None else in_flight,
                "app_limited": app_limited,
            },
        )
        self.lib.vk_congestion_acked(self.it, ack)

    def flight(self, rtt: int = 10 * MS, **more: Any) -> None:
        """Let a round pass in which the whole window is acknowledged, a datagram at a time."""
        start, count = self.now, max(1, self.it.window // self.it.datagram_size)
        for index in range(count):
            self.now = start + rtt * (index + 1) // count
            self.acked(self.it.datagram_size, rtt=rtt, **more)

    def lost(
        self,
        bytes: int = SIZE,  # noqa: A002
        *,
        sent: int | None = None,
        persistent: bool = False,
    ) -> None:
        sent = self.now if sent is None else sent
        self.lib.vk_congestion_lost(self.it, bytes, sent, persistent, self.now)

    def marked(self, sent: int | None = None) -> None:
        self.lib.vk_congestion_ce(self.it, self.now if sent is None else sent, self.now)

    def spurious(self) -> None:
        self.lib.vk_congestion_spurious(self.it, self.now)

    def switch(self, kind: int) -> None:
        self.lib.vk_congestion_switch(self.it, kind, self.now)


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
