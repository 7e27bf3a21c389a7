"""vk_cubic: RFC 9438, against its tables, its equations in floating point, and a textbook flow."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.bottleneck import MBIT, TEXTBOOK, Flow, Path, jain, share, used
from tests.dataplane.sender import CUBIC, MS, SECOND, SIZE, Sender, controllers

WAN: Path = {"rate": 100 * MBIT, "rtt_ns": 40 * MS, "end_ns": 60 * SECOND}
METRO: Path = {"end_ns": 20 * SECOND}


def plateau_time(segments: float) -> float:
    """Return equation 2's K in seconds."""
    return float((segments / 0.4) ** (1 / 3))


# W_max - cwnd in segments -> K in seconds: cbrt(x / 0.4).
@pytest.mark.parametrize(
    ("segments", "seconds"), [(0, 0), (0.4, 1), (3.2, 2), (50, 5), (400, 10), (3200, 20)]
)
def test_k_is_the_cube_root(segments: float, seconds: float) -> None:
    _, native = controllers()
    k_ns = native.vk_cubic_k_ns(round(segments * 1000), 1000)
    assert abs(k_ns / SECOND - seconds) < 2e-6


# t, K in seconds, W_max in segments -> W_cubic(t): 0.4 (t - K)^3 + W_max.
@pytest.mark.parametrize(
    ("t", "k", "w_max", "window"),
    [
        (0, 5, 100, 50),
        (5, 5, 100, 100),
        (6, 5, 100, 100.4),
        (10, 5, 100, 150),
        (0, 0, 10, 10),
        (10, 0, 10, 410),
        (0, 10, 100, 0),
        (3.5, 2.5, 20, 20.4),
    ],
)
def test_the_window_follows_equation_1(t: float, k: float, w_max: float, window: float) -> None:
    _, native = controllers()
    found = native.vk_cubic_window(int(t * SECOND), int(k * SECOND), round(w_max * 1000), 1000)
    assert abs(found - window * 1000) <= 2


@settings(max_examples=500, deadline=None)
@given(
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.integers(0, 2**30),
    st.integers(64, 65_535),
)
def test_the_window_is_the_equation_everywhere(t: int, k: int, w_max: int, size: int) -> None:
    _, native = controllers()
    bounded = [min(abs(t - k), 1000 * SECOND) * (1 if t > k else -1) / SECOND]
    exact = 0.4 * bounded[0] ** 3 * size + w_max
    exact = min(max(exact, 0), native.VK_CONGESTION_WINDOW_MAX)
    slope = 1.2 * bounded[0] ** 2 * size * 2e-6  # of two ticks of time
    assert abs(native.vk_cubic_window(t, k, w_max, size) - exact) <= slope + 1e-6 * exact + 2


def average_window(rtt_ns: int, loss: float) -> float:
    """Return the mean window in segments when every 1/loss-th packet is lost."""
    sender, size = Sender(CUBIC, 1000), 1000
    sender.lost()
    since, sums, rounds, losses = 0.0, 0.0, 0, 0
    while losses < 60:
        window = sender.window
        for _ in range(8):
            sender.now += rtt_ns // 8
            sender.acked(window // 8, rtt=rtt_ns)
        since += window / size
        if losses > 20:
            sums, rounds = sums + window / size, rounds + 1
        if since * loss >= 1:
            since -= 1 / loss
            losses += 1
            sender.lost()
    return sums / rounds


# RFC 9438, tables 1 and 2: the column of C = 0.4.
@pytest.mark.parametrize(
    ("rtt_ms", "loss", "segments"),
    [
        (100, 1e-2, 12),
        (100, 1e-3, 38),
        (100, 1e-4, 187),
        (100, 1e-5, 1054),
        (100, 1e-6, 5926),
        (10, 1e-2, 12),
        (10, 1e-3, 38),
        (10, 1e-4, 120),
        (10, 1e-5, 379),
        (10, 1e-6, 1200),
    ],
)
def test_the_mean_window_is_that_of_the_rfcs_tables(
    rtt_ms: int, loss: float, segments: int
) -> None:
    assert abs(average_window(rtt_ms * MS, loss) / segments - 1) < 0.15


class Equations:
    """Congestion avoidance by RFC 9438's equations in floating point; windows in segments."""

    def __init__(self, window: float, now: float) -> None:
        self.window = self.prior = self.w_max = self.w_est = window
        self.epoch, self.k, self.now = -1.0, 0.0, now

    def lost(self, *, at_plateau_below: bool = False) -> None:
        """Reduce. Where only rounding tells whether it is below the plateau, the caller does."""
        at_plateau = abs(self.window / self.w_max - 1) < 1e-4
        below = at_plateau_below if at_plateau else self.window < self.w_max
        self.w_max = self.window * 0.85 if below else self.window
        self.prior = self.window
        self.window = max(self.window * 0.7, 2)
        self.epoch = -1

    def acked(self, segments: float, rtt: float, now: float) -> None:
        if self.epoch < 0:
            self.epoch, self.w_est = now, self.window
            self.w_max = max(self.w_max, self.window)
            self.k = plateau_time(self.w_max - self.window)
        alpha = 1 if self.w_est >= self.prior else 3 * 0.3 / 1.7
        self.w_est += alpha * segments / self.window
        t = now - self.epoch
        if 0.4 * (t - self.k) ** 3 + self.w_max < self.w_est:
            self.window = max(self.window, self.w_est)
            return
        target = 0.4 * (t + rtt - self.k) ** 3 + self.w_max
        target = min(max(target, self.window), 1.5 * self.window)
        self.window += (target - self.window) / self.window * segments


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=40),
)
def test_it_keeps_step_with_the_equations(rtt_ms: int, spells: list[tuple[int, bool]]) -> None:
    sender, rtt = Sender(CUBIC), rtt_ms * MS
    for _ in range(5):
        sender.flight(rtt=rtt)
    sender.lost()
    model = Equations(sender.window / SIZE / 0.7, sender.now / SECOND)
    model.lost()
    for rounds, loss in spells:
        for _ in range(rounds):
            step = max(SIZE, sender.window // 4)
            for _ in range(4):
                sender.now += rtt // 4 + 1
                sender.acked(step, rtt=rtt, sent=sender.now)
                model.acked(step / SIZE, sender.srtt / SECOND, sender.now / SECOND)
        assert abs(sender.window / SIZE / model.window - 1) < 0.002
        if loss:
            sender.now += 1
            model.lost(at_plateau_below=sender.window < sender.state.cubic.w_max)
            sender.lost()


def grown(rounds: int = 7, rtt: int = 10 * MS) -> Sender:
    sender = Sender(CUBIC)
    for _ in range(rounds):
        sender.flight(rtt=rtt)
    return sender


def test_a_loss_leaves_seven_tenths_and_a_mark_more() -> None:
    sender = grown()
    before = sender.window
    sender.lost()
    assert sender.window == sender.ssthresh == before * 7 // 10
    sender = grown()
    sender.marked()
    assert sender.window == sender.ssthresh == before * 85 // 100


def test_a_second_loss_below_the_plateau_lowers_the_plateau() -> None:
    sender = grown()
    before = sender.window
    sender.lost()
    assert sender.state.cubic.w_max == before
    after = sender.window
    sender.now += MS
    sender.lost()
    assert sender.state.cubic.w_max == after * 170 // 200


def test_what_was_sent_before_recovery_lets_nothing_grow() -> None:
    sender = grown()
    sender.lost()
    after, began = sender.window, sender.now
    sender.now += 10 * MS
    sender.acked(50 * SIZE, sent=began)
    assert sender.window == after
    sender.acked(50 * SIZE, sent=began + 1)
    assert sender.window > after


def test_after_a_timeout_the_first_avoidance_has_k_zero() -> None:
    sender = grown()
    before = sender.window
    sender.lost(persistent=True)
    assert sender.window == 2 * SIZE
    assert sender.ssthresh == before * 7 // 10
    while sender.window < sender.ssthresh:
        sender.flight()
    sender.flight()
    cubic = sender.state.cubic
    assert (cubic.k_ns, cubic.w_max) == (0, sender.ssthresh)


def test_a_spurious_loss_gives_everything_back() -> None:
    sender = grown()
    sender.lost()
    for _ in range(20):
        sender.flight()
    names = ("cwnd_prior", "w_max", "k_ns", "epoch_ns", "w_est")
    before = [getattr(sender.state.cubic, name) for name in names]
    window, ssthresh = sender.window, sender.ssthresh
    sender.lost()
    sender.spurious()
    assert [getattr(sender.state.cubic, name) for name in names] == before
    assert (sender.window, sender.ssthresh) == (window, ssthresh)


def test_a_spurious_loss_long_ago_leaves_what_has_grown_since() -> None:
    sender = grown()
    before = sender.window
    sender.lost()
    while sender.window <= before:
        sender.flight()
    window = sender.window
    sender.spurious()
    assert sender.window == window


@pytest.mark.parametrize("limited", [False, True])
def test_time_in_which_the_window_was_not_used_does_not_count(limited: bool) -> None:
    idle, busy = grown(), grown()
    for sender in (idle, busy):
        sender.lost()
        for _ in range(3):
            sender.flight()
        assert sender.state.cubic.epoch_ns
    if limited:  # little to send for a minute
        for _ in range(600):
            idle.now += SECOND // 10
            idle.acked(SIZE, app_limited=True, in_flight=SIZE)
    else:  # nothing at all
        idle.now += 60 * SECOND
    idle.lib.vk_congestion_sent(idle.it, SIZE, SIZE, idle.now)
    for _ in range(10):
        idle.flight()
        busy.flight()
    assert abs(idle.window / busy.window - 1) < 0.02


def test_slow_start_is_left_without_a_loss_when_the_queue_shows() -> None:
    (flow,) = share(Flow(CUBIC), **WAN, measure_ns=0, buffer=4)
    assert flow.loss < 0.001
    assert flow.share > 0.95


@pytest.mark.parametrize(
    ("rate", "rtt_ns", "buffer", "least"),
    [
        (1000 * MBIT, MS, 1, 0.97),
        (100 * MBIT, 40 * MS, 1, 0.97),
        (100 * MBIT, 40 * MS, 0.3, 0.93),
        (1000 * MBIT, 100 * MS, 1, 0.9),
        (10_000 * MBIT, 50_000, 4, 0.97),
    ],
)
def test_a_link_is_used(rate: int, rtt_ns: int, buffer: float, least: float) -> None:
    (flow,) = share(Flow(CUBIC), rate=rate, rtt_ns=rtt_ns, buffer=buffer, end_ns=20 * SECOND)
    assert flow.share > least


@pytest.mark.parametrize("loss_ppm", [100, 1000, 10_000])
def test_random_loss_costs_it_what_it_costs_the_textbook(loss_ppm: int) -> None:
    path: Path = {"loss_ppm": loss_ppm, "end_ns": 20 * SECOND}
    (ours,), (theirs,) = share(Flow(CUBIC), **path), share(Flow(TEXTBOOK), **path)
    assert 0.9 < ours.share / theirs.share < 1.15


@pytest.mark.parametrize("start_ms", [1, 500, 1037])
def test_two_flows_share(start_ms: int) -> None:
    for path in (WAN, METRO):
        flows = share(Flow(CUBIC), Flow(CUBIC, start_ns=start_ms * MS), **path)
        assert jain(flows) > 0.9
        assert used(flows) > 0.97


@pytest.mark.parametrize("first", [CUBIC, TEXTBOOK])
@pytest.mark.parametrize("start_ms", [1, 500, 1037])
def test_beside_a_textbook_flow_it_takes_about_half(first: int, start_ms: int) -> None:
    second = TEXTBOOK if first == CUBIC else CUBIC
    for path in (WAN, METRO):
        flows = share(Flow(first), Flow(second, start_ns=start_ms * MS), **path)
        ours = flows[0] if first == CUBIC else flows[1]
        assert 0.5 < ours.share * 2 < 1.5
        assert used(flows) > 0.97


def test_marks_keep_the_queue_short_and_lose_nothing() -> None:
    product = WAN["rate"] * WAN["rtt_ns"] // SECOND
    (flow,) = share(Flow(CUBIC), **WAN, mark_above=product // 4)
    assert flow.loss == 0
    assert flow.share > 0.93
    assert flow.srtt < 1.5
