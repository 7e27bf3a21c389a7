"""vk_fixed: does as it was told, and yields only to persistent congestion."""

from __future__ import annotations

import pytest

from tests.dataplane.bottleneck import MBIT, Flow, jain, share, used
from tests.dataplane.sender import FIXED, MS, SECOND, SIZE, US, Sender


def test_the_configured_window_and_rate_hold_whatever_is_lost() -> None:
    sender = Sender(FIXED)
    sender.it.fixed_window, sender.it.fixed_rate = 500_000, 30_000_000
    for _ in range(20):
        sender.flight(rate=1_000_000)
        sender.lost(100 * SIZE)
        sender.marked()
    assert sender.window == 500_000
    assert sender.pacing_rate == 30_000_000


def test_a_configured_window_without_a_rate_is_spread_over_the_rtt() -> None:
    sender = Sender(FIXED)
    sender.it.fixed_window = 500_000
    sender.acked()
    assert sender.pacing_rate == 500_000 * SECOND // (10 * MS)


def test_untold_it_begins_with_its_least_window() -> None:
    assert Sender(FIXED).window == Sender(FIXED).lib.VK_FIXED_WINDOW_MIN


# rate in bytes/s, RTT in us -> window: two products, but at least 256 KiB or 10 ms of the rate.
@pytest.mark.parametrize(
    ("rate", "rtt_us", "window"),
    [
        (125_000_000, 1000, 262_144),
        (1_250_000_000, 1000, 2_500_000),
        (1_250_000_000, 50, 262_144),
        (12_500_000, 40_000, 1_000_000),
        (125_000, 20_000, 5000),
    ],
)
def test_the_window_is_two_bandwidth_delay_products(rate: int, rtt_us: int, window: int) -> None:
    sender = Sender(FIXED)
    for _ in range(8):
        sender.flight(rtt=rtt_us * US, rate=rate)
    assert sender.window == window


def test_a_window_does_not_follow_a_rate_that_falls() -> None:
    sender = Sender(FIXED)
    sender.flight(rate=500_000_000)
    before = sender.window
    for _ in range(50):
        sender.flight(rtt=50 * MS, rate=1_000_000)
    assert sender.window == before


def test_persistent_congestion_halves_it_each_time_and_sixteen_rounds_bring_it_back() -> None:
    sender = Sender(FIXED)
    sender.it.fixed_window = 800_000
    sender.flight()
    for expected in (400_000, 200_000, 100_000):
        sender.lost(persistent=True)
        assert sender.window == expected
    for _ in range(13):
        sender.flight()
        assert sender.window < 800_000
    sender.flight()
    assert sender.window == 800_000


@pytest.mark.parametrize("loss_ppm", [0, 10_000, 40_000])
def test_random_loss_costs_what_was_lost_and_no_more(loss_ppm: int) -> None:
    (flow,) = share(Flow(FIXED), loss_ppm=loss_ppm)
    assert flow.share > 0.98 - loss_ppm / 1e6


@pytest.mark.parametrize("buffer", [0.05, 0.1, 0.3, 1, 10])
def test_untold_it_fills_a_link_and_loses_little_where_buffers_are_short(buffer: float) -> None:
    (flow,) = share(Flow(FIXED), rate=100 * MBIT, rtt_ns=40 * MS, buffer=buffer, end_ns=30 * SECOND)
    assert flow.share > 0.95
    assert flow.loss < 0.05
    assert flow.srtt < 2.1


def test_two_of_them_share_a_path() -> None:
    flows = share(Flow(FIXED), Flow(FIXED, start_ns=500 * MS), buffer=4)
    assert jain(flows) > 0.95
    assert used(flows) > 0.98


def test_a_longer_path_leaves_the_window_where_it_was() -> None:
    (flow,) = share(Flow(FIXED), measure_ns=5 * SECOND, later=(3 * SECOND, 5 * MS))
    assert 0.35 < flow.share < 0.45  # two products of the old RTT are two fifths of the new one
