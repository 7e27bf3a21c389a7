"""Two classes share a space of packet numbers, and readers take one of them first: critical before
system, jobs before data. vk_recovery knows what that says of losses, and what it does not."""

from __future__ import annotations

import pytest

from tests.dataplane.test_recovery import ACK_DELAY_NS, GRANULARITY_NS, MS, sampled


def test_what_readers_take_first_says_nothing_of_what_waits_behind_it() -> None:
    recovery = sampled()
    recovery.send(*range(1, 9))
    recovery.send(*range(9, 20), ahead=True)
    recovery.wait(12 * MS)  # longer than the time threshold
    recovery.ack(*range(9, 20))
    assert recovery.lost() == []
    recovery.ack(*range(1, 20))
    assert recovery.lost() == []
    assert recovery.count.spurious == 0
    assert recovery.it.recovery.threshold == 3


def test_what_readers_take_last_says_by_time_that_what_was_ahead_is_lost() -> None:
    """By number it says nothing: a reader may look at data between the jobs of two turns."""
    recovery = sampled()
    sent = recovery.now
    recovery.send(1, ahead=True)
    recovery.send(*range(2, 40))
    recovery.wait(10 * MS)
    recovery.ack(*range(2, 40))
    assert recovery.lost() == []
    rtt = recovery.rtt
    due = sent + max(rtt.smoothed_ns, rtt.latest_ns) + max(4 * rtt.variance_ns, GRANULARITY_NS)
    assert recovery.deadline == due > sent + rtt.smoothed_ns * 9 // 8
    recovery.wait(due - recovery.now)
    recovery.expire()
    assert recovery.lost() == [1]


def test_what_nobody_answers_says_nothing_of_what_waits() -> None:
    """Its number may be of either class: the acknowledgement of a critical message is."""
    recovery = sampled()
    recovery.send(*range(1, 9))
    for number in (9, 10, 11, 13):
        recovery.lib.rig_issue(recovery.it, 0, number)
    recovery.send(12, ahead=True)
    recovery.wait(12 * MS)  # longer than the time threshold
    recovery.ack(*range(9, 14))
    assert recovery.lost() == []
    recovery.ack(*range(1, 14))
    assert recovery.count.spurious == 0


def test_turns_of_a_reader_count_from_the_round_trip_it_takes_now() -> None:
    """One that got a burst of jobs answers late at once; the smoothed round trip tells of it
    later."""
    recovery = sampled(MS // 10)
    for number in range(1, 40):
        recovery.send(number, ahead=True)
        recovery.wait(MS // 10)
        recovery.ack(*range(number + 1))
    sent = recovery.now
    recovery.send(*range(40, 50), ahead=True)
    recovery.lib.rig_issue(recovery.it, 0, 50)  # an acknowledgement beside data
    recovery.wait(MS)
    recovery.ack(*range(45))
    recovery.ack(*range(45), 50)
    assert recovery.rtt.smoothed_ns < recovery.rtt.latest_ns // 4
    assert recovery.deadline == sent + MS + 4 * recovery.rtt.variance_ns
    assert recovery.lost() == []


@pytest.mark.parametrize("ahead", [False, True])
def test_within_a_class_the_packet_threshold_holds(ahead: bool) -> None:
    recovery = sampled()
    recovery.send(1, 2, 3, 4, ahead=ahead)
    recovery.send(5, 6, ahead=not ahead)
    recovery.wait(10 * MS)
    recovery.ack(2, 3, 4)
    assert recovery.lost() == [1]


def test_what_only_those_ahead_passed_is_lost_when_a_probe_would_be_due() -> None:
    """Though they go on being sent, and put the probe itself off."""
    recovery = sampled()
    recovery.send(1)
    sent = recovery.now
    for number in range(2, 40):
        recovery.send(number, ahead=True)
        recovery.wait(2 * MS)
        recovery.ack(*range(2, number + 1))
        rtt = recovery.rtt
        pto = rtt.smoothed_ns + max(4 * rtt.variance_ns, GRANULARITY_NS) + ACK_DELAY_NS
        if recovery.lost():
            break
        assert recovery.it.recovery.sent[0].loss_ns == recovery.deadline == sent + pto
        assert recovery.now < sent + pto
    assert sent + pto <= recovery.now < sent + 30 * MS
