"""vk_delay: short queues, full links, equal shares, and random loss that does not matter."""

from __future__ import annotations

from random import Random

import pytest

from tests.dataplane.bottleneck import MBIT, Flow, Path, jain, share, used
from tests.dataplane.sender import CUBIC, DELAY, MS, SECOND, US, Sender

LAN: Path = {"rate": 10_000 * MBIT, "rtt_ns": 50 * US, "buffer": 4, "end_ns": 2 * SECOND}
METRO: Path = {"rate": 1000 * MBIT, "rtt_ns": MS, "end_ns": 10 * SECOND}
WAN: Path = {"rate": 100 * MBIT, "rtt_ns": 40 * MS, "end_ns": 30 * SECOND}
LONG: Path = {"rate": 1000 * MBIT, "rtt_ns": 100 * MS, "end_ns": 30 * SECOND}


@pytest.mark.parametrize("path", [METRO, WAN, LONG])
@pytest.mark.parametrize("buffer", [1, 10])
def test_a_long_buffer_stays_empty_and_the_link_full(path: Path, buffer: int) -> None:
    (flow,) = share(Flow(DELAY), **{**path, "buffer": buffer})
    assert flow.share > 0.95
    assert flow.srtt < 1.3
    assert flow.srtt_max < 1.5
    assert flow.loss == 0


def test_from_the_first_packet_on_the_queue_is_never_long() -> None:
    (flow,) = share(Flow(DELAY), **{**WAN, "buffer": 10}, measure_ns=0)
    assert flow.srtt < 1.5
    assert flow.srtt_max < 2.5  # slow start overshoots once


def test_on_a_lan_the_queue_is_what_the_hosts_are_late_anyway() -> None:
    (flow,) = share(Flow(DELAY), **LAN)
    assert flow.share > 0.95
    assert flow.srtt * 50 * US < 50 * US + 100 * US


@pytest.mark.parametrize(("loss_ppm", "least"), [(10_000, 0.95), (20_000, 0.93), (40_000, 0.88)])
def test_random_loss_does_not_matter(loss_ppm: int, least: float) -> None:
    (flow,) = share(Flow(DELAY), **METRO, loss_ppm=loss_ppm)
    assert flow.share > least
    assert flow.srtt < 1.5


@pytest.mark.parametrize("seed", range(5))
def test_random_loss_does_not_matter_on_a_long_path(seed: int) -> None:
    (flow,) = share(Flow(DELAY), **WAN, loss_ppm=10_000, seed=seed)
    assert flow.share > 0.95


@pytest.mark.parametrize("buffer", [0.3, 0.2, 0.1])
def test_a_buffer_shorter_than_the_target_is_found_by_its_losses(buffer: float) -> None:
    (flow,) = share(Flow(DELAY), **WAN, buffer=buffer)
    assert flow.share > 0.9
    assert flow.loss < 0.03


@pytest.mark.parametrize("path", [WAN, {**METRO, "rtt_ns": 10 * MS, "end_ns": 30 * SECOND}])
def test_flows_at_a_short_buffer_take_loss_with_a_queue_for_its_end(path: Path) -> None:
    flows = share(Flow(DELAY), Flow(DELAY, start_ns=370 * MS), **path, buffer=0.1)
    assert max(f.loss for f in flows) < 0.03
    assert used(flows) > 0.95


def test_heavy_loss_is_yielded_to() -> None:
    (flow,) = share(Flow(DELAY), **METRO, loss_ppm=300_000)
    (calm,) = share(Flow(DELAY), **METRO)
    assert flow.share < 0.3
    assert flow.window_min < calm.window_min / 4


@pytest.mark.parametrize("path", [LAN, METRO, WAN, LONG])
@pytest.mark.parametrize("start_ms", [1, 500, 1037])
def test_two_flows_share_however_late_the_second_is(path: Path, start_ms: int) -> None:
    path = {**path, "end_ns": 2 * path["end_ns"]}
    flows = share(Flow(DELAY), Flow(DELAY, start_ns=start_ms * MS), **path)
    assert jain(flows) > 0.95
    assert used(flows) > 0.94
    assert max(f.base for f in flows) < 1.1


@pytest.mark.parametrize("count", [4, 8, 16])
@pytest.mark.parametrize("path", [METRO, WAN])
def test_many_flows_share_and_see_the_true_base(path: Path, count: int) -> None:
    flows = share(
        *(Flow(DELAY, start_ns=index * 370 * MS) for index in range(count)),
        **{**path, "end_ns": 40 * SECOND, "buffer": 4},
    )
    assert jain(flows) > 0.95
    assert used(flows) > 0.94
    assert max(f.srtt for f in flows) < 1.5
    assert max(f.base for f in flows) < 1.15


def test_two_flows_share_a_path_with_random_loss() -> None:
    flows = share(Flow(DELAY), Flow(DELAY, start_ns=500 * MS), **METRO, loss_ppm=10_000)
    assert jain(flows) > 0.95
    assert used(flows) > 0.93


def test_what_another_flow_leaves_is_taken() -> None:
    (_, stays) = share(Flow(DELAY, stop_ns=10 * SECOND), Flow(DELAY), **WAN, measure_ns=15 * SECOND)
    assert stays.share > 0.95


@pytest.mark.parametrize(("later_ms", "least"), [(80, 0.95), (20, 0.95)])
def test_a_path_whose_rtt_changes_is_learnt_again(later_ms: int, least: float) -> None:
    (flow,) = share(
        Flow(DELAY),
        **{**WAN, "end_ns": 60 * SECOND},
        buffer=2,
        measure_ns=35 * SECOND,
        later=(20 * SECOND, later_ms * MS),
    )
    assert flow.share > least
    assert flow.srtt < 1.3
    assert abs(flow.base - 1) < 0.05


def test_jitter_within_the_target_costs_little() -> None:
    (flow,) = share(Flow(DELAY), **METRO, jitter_ns=200 * US)
    assert flow.share > 0.9


def test_marks_are_obeyed_before_the_queue_is_long() -> None:
    product = METRO["rate"] * METRO["rtt_ns"] // SECOND
    (flow,) = share(Flow(DELAY), **METRO, mark_above=product // 4)
    assert flow.share > 0.9
    assert flow.loss == 0


def test_slow_start_doubles_and_ends_with_the_first_queue() -> None:
    sender = Sender(DELAY)
    for _ in range(5):
        before = sender.window
        sender.flight(rate=10_000_000)
        assert sender.window == 2 * before
    before = sender.window
    sender.flight(rtt=15 * MS, rate=10_000_000)
    assert sender.ssthresh == sender.window
    assert before / 2 <= sender.window < before * 0.6


def test_a_decrease_is_not_repeated_before_it_shows() -> None:
    sender = Sender(DELAY)
    for _ in range(6):
        sender.flight(rate=50_000_000)
    sender.flight(rtt=20 * MS, rate=50_000_000)
    window = sender.window
    sender.flight(rtt=20 * MS, rate=50_000_000)  # sent before the decrease
    assert sender.window == window
    for _ in range(3):
        sender.flight(rtt=20 * MS, rate=50_000_000)
    assert sender.window < window


def test_cubic_beside_it_does_not_take_everything() -> None:
    (delay, cubic) = share(Flow(DELAY), Flow(CUBIC), **WAN)
    assert used([delay, cubic]) > 0.95
    assert delay.share > 0.03


def crowd(random: Random) -> tuple[list[Flow], Path, int]:
    """Return flows that start when they like, a path, and what delays of hosts count for there."""
    path, floor_ns = random.choice([(METRO, 0), (WAN, 0), (LAN, 200 * US)])
    end_ns = 2 * path["end_ns"]
    starts = [random.randrange(end_ns // 4) for _ in range(random.randint(2, 12))]
    flows = [Flow(DELAY, start_ns=start) for start in starts]
    if random.random() < 0.3:  # somebody who fills the buffer and leaves
        flows.append(Flow(CUBIC, stop_ns=end_ns // 3))
    more = {
        "end_ns": end_ns,
        "measure_ns": end_ns * 3 // 4,
        "buffer": random.choice([6, 10, 20] if floor_ns else [2, 4, 10]),
        "jitter_ns": random.choice([0, path["rtt_ns"] // 20, path["rtt_ns"] // 8]),
        "loss_ppm": random.choice([0, 0, 1000, 10_000]),
        "ack_every": random.choice([2, 4, 10]),
    }
    return flows, {**path, **more}, floor_ns


@pytest.mark.parametrize("seed", range(60))
def test_a_crowd_shares_and_keeps_the_queue_short_however_it_came_together(seed: int) -> None:
    flows, path, floor_ns = crowd(Random(seed))
    shown = share(*flows, **path)
    shown = [each for each, flow in zip(shown, flows, strict=True) if flow.controller == DELAY]
    longest = max(1.5, 1 + floor_ns / path["rtt_ns"])
    assert jain(shown) > 0.9
    assert used(shown) > 0.9
    assert max(each.srtt for each in shown) < longest
