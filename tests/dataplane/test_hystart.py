"""vk_hystart: the state machine of RFC 9406, section 4.2."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dataplane.sender import CUBIC, MS, NEVER, US, Sender, controllers


# RttThresh = max(4 ms, min(lastRoundMinRTT / 8, 16 ms)); on paths below 4 ms the least is their
# base RTT instead, but 100 us.
@pytest.mark.parametrize(
    ("last_us", "base_us", "threshold_us"),
    [
        (10_000, 10_000, 4000),
        (32_000, 32_000, 4000),
        (80_000, 80_000, 10_000),
        (128_000, 100_000, 16_000),
        (1_000_000, 100_000, 16_000),
        (5000, 4000, 4000),
        (1200, 1000, 1000),
        (60, 50, 100),
        (8000, 1000, 1000),
        (16_000, 1000, 2000),
    ],
)
def test_the_threshold_is_that_of_the_rfc(last_us: int, base_us: int, threshold_us: int) -> None:
    _, native = controllers()
    assert native.vk_hystart_threshold_ns(last_us * US, base_us * US) == threshold_us * US


class Start:
    """Slow start, an ACK at a time."""

    def __init__(self) -> None:
        self.ffi, self.native = controllers()
        self.state: Any = self.ffi.new("struct vk_hystart *")
        self.round: Any = self.ffi.new("struct vk_round *")
        self.native.vk_hystart_init(self.state)
        self.round.rtt_ns = self.round.last_rtt_ns = NEVER

    def acks(self, rtt_ms: int, count: int = 8) -> int:
        """Begin a round with so many RTT samples; return the divisor after the last."""
        self.round.last_rtt_ns, self.round.rtt_ns = self.round.rtt_ns, NEVER
        divisor = -1
        for index in range(count):
            self.round.ended = index == 0
            self.round.samples = index + 1
            self.round.rtt_ns = min(self.round.rtt_ns, rtt_ms * MS)
            divisor = self.native.vk_hystart_acked(self.state, self.round, 40 * MS)
        return divisor


def test_an_rtt_that_stays_keeps_slow_start() -> None:
    start = Start()
    assert [start.acks(40) for _ in range(10)] == [1] * 10


def test_fewer_than_eight_samples_say_nothing() -> None:
    start = Start()
    start.acks(40)
    assert start.acks(80, count=7) == 1


def test_the_threshold_itself_is_enough() -> None:
    start = Start()
    start.acks(40)
    assert start.acks(44) == 1
    start = Start()
    start.acks(40)
    assert start.acks(45) == 4  # 40 / 8 = 5 ms


def test_conservative_slow_start_ends_in_avoidance_after_five_rounds() -> None:
    start = Start()
    start.acks(40)
    assert start.acks(50) == 4
    assert [start.acks(50, count=1) for _ in range(5)] == [4, 4, 4, 4, 0]
    assert start.acks(90) == 1  # and it is never looked at again


def test_an_rtt_that_falls_again_resumes_slow_start() -> None:
    start = Start()
    start.acks(40)
    assert start.acks(50) == 4
    assert start.acks(49) == 1
    assert start.acks(60) == 4


def test_cubic_leaves_slow_start_by_it_with_k_zero_and_the_window_as_plateau() -> None:
    sender = Sender(CUBIC)
    for _ in range(4):
        sender.flight(rtt=40 * MS)
    while sender.ssthresh == NEVER:
        sender.flight(rtt=60 * MS)
    sender.flight(rtt=60 * MS)
    cubic = sender.state.cubic
    assert cubic.k_ns == 0
    assert cubic.w_max == cubic.cwnd_prior == sender.ssthresh
    assert sender.window >= sender.ssthresh
