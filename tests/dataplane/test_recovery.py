"""vk_recovery, vk_sent, vk_rtt: what was sent is acknowledged or lost as RFC 9002 says, beside a
model that keeps every packet and knows nothing of rings, harvests and early ends."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import library

MS = 1_000_000
NEVER = 2**64 - 1
EPROTO = 71
SPACES = 3
SIZE = 1200
START = 1000 * MS
ACKED, LOST, CC_ACKED, CC_LOST, CC_CE, CC_SPURIOUS = range(6)
SOURCES = (
    *("recovery_rig.c", "vk_recovery.c", "vk_sent.c"),
    *("vk_received.c", "received_rig.c"),
)
INITIAL_NS = 25 * MS
GRANULARITY_NS = MS // 10
ACK_DELAY_NS = MS
PTO_MAX_NS = 2000 * MS


def spans(numbers: set[int]) -> list[tuple[int, int]]:
    """Return numbers as ranges, highest first."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers, reverse=True):
        if found and found[-1][0] == number + 1:
            found[-1] = (number, found[-1][1])
        else:
            found.append((number, number))
    return found


class Recovery:
    """A session's recovery, and what it told."""

    def __init__(self) -> None:
        self.ffi, self.lib = library("recovery_rig.h", *SOURCES)
        params = self.ffi.new("struct vk_recovery_params *", {"datagram_size": SIZE})
        params.detect_loss = 1
        self.it = self.ffi.gc(self.lib.rig_new(params, START), self.lib.rig_free)
        self.now = START

    @property
    def rtt(self) -> Any:
        return self.it.recovery.rtt

    @property
    def count(self) -> Any:
        return self.it.recovery.count

    def send(self, *numbers: int, space: int = 0, size: int = SIZE, ahead: bool = False) -> None:
        """Send packets, which readers take `ahead` of the others of their space."""
        for number in numbers:
            assert self.lib.rig_sent(self.it, space, number, size, ahead, self.now)

    def ack(self, *numbers: int, space: int = 0, delay: int = 0, ce: int = 0, late: int = 0) -> int:
        rows, below = b"", max(numbers) + 1
        for first, last in spans(set(numbers)):
            rows += struct.pack(">II", below - 1 - last, last - first + 1)
            below = first
        head = (space, 1, len(rows) // 8, 0, delay // 1000, max(numbers), ce, 0)
        payload = struct.pack(">BBBBIQIQ", *head) + rows
        came = self.now - late
        return int(self.lib.rig_ack(self.it, payload, len(payload), came, self.now))

    def expire(self) -> tuple[int, int]:
        space = self.ffi.new("uint32_t *")
        return int(self.lib.rig_expire(self.it, self.now, space)), int(space[0])

    @property
    def deadline(self) -> int:
        return int(self.lib.rig_deadline(self.it))

    def wait(self, ns: int) -> None:
        self.now += ns

    def told(self, *kinds: int) -> list[tuple[int, int, int]]:
        """Return (space, number, time) of what was told since the last call."""
        events = [self.it.events[i] for i in range(self.it.count)]
        self.it.count = 0
        return [(each.space, each.number, each.time_ns) for each in events if each.kind in kinds]

    def told_by_kind(self) -> dict[int, list[tuple[int, int]]]:
        """Return (space, number) of what was told since the last call, by kind."""
        found: dict[int, list[tuple[int, int]]] = {ACKED: [], LOST: []}
        for each in (self.it.events[i] for i in range(self.it.count)):
            found.setdefault(each.kind, []).append((each.space, each.number))
        self.it.count = 0
        return found

    def lost(self) -> list[int]:
        return [number for _, number, _ in self.told(LOST)]

    def check(self) -> int:
        """Records and sums agree; returns the bytes in flight."""
        found = self.ffi.new("uint64_t *")
        self.lib.rig_flying(self.it, found)
        assert found[0] == self.it.recovery.in_flight
        return int(found[0])


def sampled(rtt: int = 10 * MS) -> Recovery:
    """Return one that has taken a sample of that long, with nothing in flight."""
    recovery = Recovery()
    recovery.send(0)
    recovery.wait(rtt)
    assert recovery.ack(0) == 0
    recovery.told()
    return recovery


# ---- RTT: RFC 9002, 5 ----


def test_the_first_sample_is_the_whole_estimate() -> None:
    """5.2 and 5.3."""
    recovery = sampled(10 * MS)
    rtt = recovery.rtt  # in the memory of `recovery`
    assert (rtt.latest_ns, rtt.smoothed_ns) == (10 * MS, 10 * MS)
    assert (rtt.variance_ns, rtt.min_ns) == (5 * MS, 10 * MS)


@pytest.mark.parametrize(
    ("sample", "delay", "adjusted"),
    [
        (18 * MS, 0, 18 * MS),
        (18 * MS, MS, 17 * MS),
        (18 * MS, 9 * MS, 17 * MS),  # no more than the peer's announced maximum
        (11 * MS, MS, 10 * MS),  # down to the smallest
        (11 * MS - 1000, MS, 11 * MS - 1000),  # and not below: not at all then
        (2 * MS, MS, 2 * MS),  # is the smallest itself
    ],
)
def test_later_samples_move_the_estimate_without_the_peers_delay(
    sample: int, delay: int, adjusted: int
) -> None:
    """5.3."""
    recovery = sampled(10 * MS)
    recovery.send(1)
    recovery.wait(sample)
    recovery.ack(1, delay=delay)
    rtt = recovery.rtt
    assert rtt.latest_ns == sample
    assert rtt.min_ns == min(10 * MS, sample)
    assert rtt.smoothed_ns == (7 * 10 * MS + adjusted) // 8
    assert rtt.variance_ns == (3 * 5 * MS + abs(10 * MS - adjusted)) // 4


def test_only_the_largest_newly_acknowledged_gives_a_sample() -> None:
    """5.1."""
    recovery = sampled(10 * MS)
    recovery.send(1, 2)
    recovery.wait(20 * MS)
    recovery.ack(2)
    latest = recovery.rtt.latest_ns
    recovery.wait(50 * MS)
    recovery.ack(1, 2)  # the largest was there already
    assert recovery.rtt.latest_ns == latest == 20 * MS


def test_a_packet_that_was_given_up_gives_no_sample() -> None:
    recovery = sampled(10 * MS)
    recovery.send(1, 2, 3, 4)
    recovery.wait(10 * MS)
    recovery.ack(4)
    assert recovery.lost() == [1]
    latest = recovery.rtt.latest_ns
    recovery.wait(5 * MS)
    recovery.ack(1)
    assert recovery.rtt.latest_ns == latest


# ---- Loss: RFC 9002, 6.1 ----


def test_three_packets_behind_is_lost_and_two_is_not() -> None:
    """6.1.1."""
    recovery = sampled()
    recovery.send(1, 2, 3, 4, 5)
    recovery.wait(10 * MS)
    recovery.ack(5)
    assert recovery.lost() == [1, 2]
    assert recovery.check() == 2 * SIZE


def test_nothing_is_lost_that_nothing_later_came_behind() -> None:
    """6.1: "sent before an acknowledged packet"."""
    recovery = sampled()
    recovery.send(1, 2, 3)
    recovery.wait(10 * MS)
    recovery.ack(1)
    assert recovery.lost() == []
    recovery.wait(3600_000 * MS)
    recovery.expire()
    assert recovery.lost() == []
    assert recovery.check() == 2 * SIZE


@pytest.mark.parametrize(("before", "lost"), [(1, []), (0, [1])])
def test_nine_eighths_of_a_round_trip_behind_is_lost(before: int, lost: list[int]) -> None:
    """6.1.2, with the larger of the smoothed and the latest RTT."""
    recovery = sampled(10 * MS)
    recovery.send(1)
    sent = recovery.now
    recovery.wait(MS)
    recovery.send(2)
    recovery.wait(12 * MS)
    recovery.ack(2)
    assert recovery.lost() == []
    due = sent + 12 * MS * 9 // 8
    assert recovery.deadline == due
    recovery.now = due - before
    assert recovery.expire()[0] == 0
    assert recovery.lost() == lost


def test_the_time_threshold_is_no_finer_than_the_clock() -> None:
    """6.1.2: kGranularity."""
    recovery = sampled(1000)
    recovery.send(1, 2)
    sent = recovery.now
    recovery.wait(1000)
    recovery.ack(2)
    assert recovery.deadline == sent + GRANULARITY_NS


def test_reordering_that_was_taken_for_loss_is_believed_from_then_on() -> None:
    """6.1.1: implementations may "use adaptive time or packet thresholds"."""
    recovery = sampled()
    recovery.send(*range(1, 8))
    recovery.wait(10 * MS)
    recovery.ack(7)
    assert recovery.lost() == [1, 2, 3, 4]
    recovery.ack(*range(1, 8))
    assert (len(recovery.told(CC_SPURIOUS)), recovery.count.spurious) == (1, 4)
    recovery.send(*range(8, 15))
    recovery.wait(MS)
    recovery.ack(14)
    assert recovery.lost() == []  # seven behind came before


def test_a_packet_is_told_lost_once_and_acknowledged_once() -> None:
    recovery = sampled()
    recovery.send(1, 2, 3, 4)
    recovery.wait(10 * MS)
    for _ in range(3):
        recovery.ack(4)
        recovery.expire()
    assert recovery.lost() == [1]
    for _ in range(3):
        recovery.ack(1, 4)
    assert recovery.told(ACKED, LOST) == [(0, 1, recovery.now - 10 * MS)]


# ---- Probes: RFC 9002, 6.2 ----


def test_a_probe_is_due_after_the_formula_of_the_rfc() -> None:
    """6.2.1: smoothed_rtt + max(4 * rttvar, kGranularity) + max_ack_delay."""
    recovery = sampled(10 * MS)
    assert recovery.deadline == NEVER
    recovery.send(1)
    assert recovery.deadline == recovery.now + 10 * MS + 20 * MS + ACK_DELAY_NS


def test_before_a_sample_the_initial_estimate_counts() -> None:
    """6.2.2."""
    recovery = Recovery()
    recovery.send(0)
    assert recovery.deadline == START + INITIAL_NS + 2 * INITIAL_NS + ACK_DELAY_NS


def test_the_last_packet_starts_the_wait() -> None:
    """6.2.1: restarted "every time an ack-eliciting packet is sent"."""
    recovery = sampled()
    recovery.send(1)
    first = recovery.deadline
    recovery.wait(5 * MS)
    recovery.send(2)
    assert recovery.deadline == first + 5 * MS


def test_waits_double_up_to_two_seconds_and_an_acknowledgement_ends_that() -> None:
    """6.2.1."""
    recovery = sampled(10 * MS)
    recovery.send(1)
    sent, waits = recovery.now, []
    for _ in range(14):
        recovery.now = recovery.deadline
        assert recovery.expire() == (2, 0)
        waits.append(recovery.now - sent)
        sent = recovery.now
    assert waits == [min(31 * MS << number, PTO_MAX_NS) for number in range(14)]
    assert recovery.count.timeouts == 14
    recovery.send(2)
    recovery.ack(2)
    assert recovery.it.recovery.pto_count == 0


def test_a_probe_loses_nothing_and_takes_nothing_out_of_flight() -> None:
    """6.2.4: "does not indicate packet loss"."""
    recovery = sampled()
    recovery.send(1, 2, 3)
    recovery.now = recovery.deadline
    recovery.expire()
    assert recovery.told(ACKED, LOST, CC_LOST) == []
    assert recovery.check() == 3 * SIZE


def test_the_space_that_waits_longest_is_probed() -> None:
    """6.2.1: "the timer MUST be set to the earliest" of the spaces."""
    recovery = sampled()
    recovery.send(1, space=2)
    recovery.wait(MS)
    recovery.send(1, space=1)
    recovery.now = recovery.deadline
    assert recovery.expire() == (2, 2)
    assert recovery.deadline > recovery.now


def test_a_loss_by_time_is_told_instead_of_a_probe() -> None:
    """6.2.1: no probe timer while a time threshold is running out."""
    recovery = sampled(10 * MS)
    recovery.send(1, 2)
    recovery.wait(10 * MS)
    recovery.ack(2)
    recovery.send(3)
    recovery.now = recovery.deadline
    assert recovery.expire()[0] == 0
    assert recovery.lost() == [1]


# ---- Persistent congestion: RFC 9002, 7.6 ----


def outage(probes: int, *, sample: bool = True) -> Recovery:
    """Lose everything while so many probes go out."""
    recovery = sampled(10 * MS) if sample else Recovery()
    number = 1
    recovery.send(number)
    for _ in range(probes):
        recovery.now = recovery.deadline
        recovery.expire()
        number += 1
        recovery.send(number)
    recovery.told()
    recovery.wait(MS)
    recovery.send(*range(number + 1, number + 5))
    recovery.wait(10 * MS)
    recovery.ack(number + 4)
    return recovery


@pytest.mark.parametrize(("probes", "persistent"), [(1, 0), (2, 0), (3, 1), (6, 1)])
def test_an_outage_of_three_probe_periods_is_persistent(probes: int, persistent: int) -> None:
    """7.6.1 and 7.6.2."""
    recovery = outage(probes)
    ((told, _, _),) = recovery.told(CC_LOST)
    assert told == recovery.count.persistent == persistent


def test_one_old_packet_is_no_outage() -> None:
    """7.6.2: two packets, apart by the duration."""
    recovery = sampled()
    recovery.send(1, 2, 3, 4)
    recovery.wait(3600_000 * MS)
    recovery.ack(4)
    ((persistent, _, _),) = recovery.told(CC_LOST)
    assert persistent == 0


# ---- What cannot be: RFC 9000, 13.1 and 21.4 ----


@pytest.mark.parametrize("lie", [(9,), (5, 9), (3,), (2, 3, 4), (2**62 - 1,)])
def test_who_acknowledges_what_was_never_sent_is_not_believed_in_anything(
    lie: tuple[int, ...],
) -> None:
    recovery = sampled()
    recovery.send(1, 2)
    recovery.lib.rig_skip(recovery.it, 0, 3)
    recovery.send(4, 5)
    recovery.wait(10 * MS)
    before = bytes(recovery.ffi.buffer(recovery.ffi.addressof(recovery.it, "recovery"))[:])
    assert recovery.ack(*lie) == -EPROTO
    after = bytes(recovery.ffi.buffer(recovery.ffi.addressof(recovery.it, "recovery"))[:])
    assert before == after
    assert recovery.told(ACKED, LOST, CC_ACKED) == []
    assert recovery.ack(1, 2, 4, 5) == 0


def test_a_number_that_nobody_answers_may_be_acknowledged() -> None:
    recovery = sampled()
    recovery.lib.rig_issue(recovery.it, 0, 1)
    assert recovery.ack(0, 1) == 0
    recovery.send(2)
    recovery.wait(MS)
    assert recovery.ack(1, 2) == 0
    assert recovery.check() == 0


def test_marks_are_told_when_their_count_moves() -> None:
    """7.1."""
    recovery = sampled()
    for number, (marks, told) in enumerate([(0, 0), (2, 1), (2, 0), (3, 1)], start=1):
        recovery.send(number)
        recovery.wait(MS)
        recovery.ack(number, ce=marks)
        assert len(recovery.told(CC_CE)) == told


def test_more_packets_than_may_fly_are_refused_and_change_nothing() -> None:
    recovery = Recovery()
    most = recovery.lib.VK_SENT_MAX
    for number in range(most):
        assert recovery.lib.rig_sent(recovery.it, 0, number, 1, 0, START)
    assert not recovery.lib.rig_sent(recovery.it, 0, most, 1, 0, START)
    assert recovery.check() == most
    assert recovery.it.recovery.sent[0].eliciting == most


# ---- Everything at once, beside a model ----


@dataclass
class Packet:
    sent_ns: int
    state: str = "flying"


@dataclass
class Model:
    """RFC 9002 as its pseudocode has it (appendix A), with a packet threshold that adapts."""

    packets: list[dict[int, Packet]] = field(default_factory=lambda: [{} for _ in range(SPACES)])
    largest: list[int] = field(default_factory=lambda: [-1] * SPACES)
    last: list[int] = field(default_factory=lambda: [0] * SPACES)
    loss: list[int] = field(default_factory=lambda: [NEVER] * SPACES)
    srtt: int = INITIAL_NS
    var: int = INITIAL_NS // 2
    least: int = 0
    latest: int = 0
    threshold: int = 3
    ptos: int = 0

    def pto(self) -> int:
        return self.srtt + max(4 * self.var, GRANULARITY_NS) + ACK_DELAY_NS

    def sample(self, rtt: int, delay: int) -> None:
        if not self.latest:
            self.latest = self.least = self.srtt = rtt
            self.var = rtt // 2
            return
        self.latest, self.least = rtt, min(self.least, rtt)
        if rtt >= self.least + min(delay, ACK_DELAY_NS):
            rtt -= min(delay, ACK_DELAY_NS)
        self.var = (3 * self.var + abs(self.srtt - rtt)) // 4
        self.srtt = (7 * self.srtt + rtt) // 8

    def detect(self, space: int, now: int) -> list[int]:
        delay = max(max(self.srtt, self.latest) * 9 // 8, GRANULARITY_NS)
        lost = []
        self.loss[space] = NEVER
        for number, packet in sorted(self.packets[space].items()):
            if number > self.largest[space]:
                break
            if packet.state == "lost" and packet.sent_ns + 3 * self.pto() < now:
                packet.state = "forgotten"
            if packet.state != "flying":
                continue
            if self.largest[space] - number >= self.threshold or packet.sent_ns + delay <= now:
                packet.state = "lost"
                lost.append(number)
            else:
                self.loss[space] = min(self.loss[space], packet.sent_ns + delay)
        return lost

    def ack(
        self, space: int, numbers: set[int], delay: int, now: int
    ) -> tuple[list[int], list[int]]:
        top = self.packets[space][max(numbers)]
        if top.state == "flying":
            self.sample(now - top.sent_ns, delay)
        self.largest[space] = max(self.largest[space], *numbers)
        acked = []
        for number in sorted(numbers):
            packet = self.packets[space][number]
            if packet.state in ("flying", "lost"):
                acked.append(number)
        for number in sorted(acked, reverse=True):
            if self.packets[space][number].state == "lost":
                distance = self.largest[space] + 1 - number
                if distance >= self.threshold:
                    self.threshold = min(distance + 1, 256)
            self.packets[space][number].state = "acked"
        if acked:
            self.ptos = 0
        return acked, self.detect(space, now)

    def flying(self, space: int) -> list[int]:
        return [n for n, packet in self.packets[space].items() if packet.state == "flying"]

    def probe(self) -> tuple[int, int]:
        wait = min(self.pto() << min(self.ptos, 10), PTO_MAX_NS)
        due = [(self.last[space] + wait, space) for space in range(SPACES) if self.flying(space)]
        return min(due, default=(NEVER, 0))

    def deadline(self) -> int:
        return min(self.probe()[0], *self.loss)

    def expire(self, now: int) -> tuple[int, int, list[tuple[int, int]]]:
        lost = []
        for space in range(SPACES):
            if self.loss[space] <= now:
                lost += [(space, number) for number in self.detect(space, now)]
        due, space = self.probe()
        if lost or due > now:
            return 0, space, lost
        self.ptos += 1
        self.last[space] = now
        return 2, space, lost


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(10, 300), st.sampled_from([5, 40, 200]))
def test_any_history_goes_as_the_rfcs_pseudocode_has_it(seed: int, steps: int, burst: int) -> None:
    recovery, model, generator = Recovery(), Model(), random.Random(seed)
    following = [generator.choice((0, 2**31, 2**32 - 40)) for _ in range(SPACES)]
    for _ in range(steps):
        space = generator.randrange(SPACES)
        match generator.randrange(5):
            case 0 | 1:
                for _ in range(generator.randrange(1, burst)):
                    recovery.send(following[space], space=space)
                    model.packets[space][following[space]] = Packet(recovery.now)
                    following[space] += generator.choice((1, 1, 1, 2))
                model.last[space] = recovery.now
            case 2 | 3:
                newest = sorted(model.packets[space])[-burst:]
                come = {number for number in newest if generator.random() < 0.7}
                while len(spans(come)) > 32:
                    come.discard(min(come))
                if not come:
                    continue
                delay = generator.choice((0, 300_000, 900_000, 5 * MS))
                recovery.told()
                assert recovery.ack(*come, space=space, delay=delay) == 0
                told = recovery.told_by_kind()
                acked, lost = model.ack(space, come, delay, recovery.now)
                assert {n for _, n in told[ACKED]} == {n % 2**32 for n in acked}
                assert len(told[ACKED]) == len(acked)
                assert [n for _, n in told[LOST]] == [n % 2**32 for n in lost]
            case _:
                recovery.now = max(recovery.now, min(model.deadline(), recovery.now + 60 * MS))
                recovery.told()
                probes, where = recovery.expire()
                wanted, wanted_space, gone = model.expire(recovery.now)
                assert probes == wanted
                assert not probes or where == wanted_space
                assert recovery.told_by_kind()[LOST] == [(s, n % 2**32) for s, n in gone]
        recovery.wait(generator.choice((1000, 100_000, MS, 7 * MS)))
        assert recovery.deadline == model.deadline()
        assert recovery.check() == SIZE * sum(len(model.flying(each)) for each in range(SPACES))
        assert recovery.rtt.smoothed_ns == model.srtt
        assert recovery.rtt.variance_ns == model.var


def test_an_acknowledgement_that_waited_for_us_tells_of_the_path_alone() -> None:
    recovery = Recovery()
    recovery.send(1)
    recovery.now += 5 * MS
    assert not recovery.ack(1, late=3 * MS)
    assert recovery.rtt.latest_ns == 2 * MS


def test_acknowledgements_that_were_held_up_show_no_faster_path_than_was_sent_to() -> None:
    recovery, acked, rates = Recovery(), 0, []
    for number in range(1, 61):  # one each 100 us, over a path of 1 ms
        recovery.send(number)
        came = number - 10 if number < 20 else 2 * (number - 25) if number >= 30 else acked
        while acked < min(came, number - 10):
            acked += 1
            assert not recovery.ack(acked)
            rates.append(recovery.it.ack.rate)
        recovery.now += MS // 10
    assert acked == 50
    assert 0.9 * SIZE * 10_000 < max(rates) <= 1.1 * SIZE * 10_000
