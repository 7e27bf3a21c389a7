"""Packets that nobody answers, and numbers that are left out: RFC 9002, 5.1; RFC 9000, 21.4."""

from __future__ import annotations

from tests.dataplane.test_recovery import ACKED, MS, Recovery, sampled


def test_the_largest_number_may_be_of_a_packet_that_nobody_answers() -> None:
    """5.1: "at least one of the newly acknowledged packets was ack-eliciting"."""
    recovery = Recovery()
    recovery.send(0, 1)
    recovery.wait(MS)
    recovery.lib.rig_quiet(recovery.it, 0, 2, recovery.now)
    recovery.wait(10 * MS)
    recovery.ack(0, 1, 2)
    assert recovery.rtt.latest_ns == 10 * MS
    recovery.wait(90 * MS)
    recovery.send(3)
    recovery.ack(0, 1, 2)
    assert recovery.rtt.latest_ns == 10 * MS


def test_what_nobody_answers_tells_nothing_alone() -> None:
    recovery = Recovery()
    recovery.lib.rig_quiet(recovery.it, 0, 0, recovery.now)
    recovery.wait(10 * MS)
    recovery.ack(0)
    assert recovery.rtt.latest_ns == 0


def test_numbers_left_out_while_nothing_waits_for_an_answer_take_no_memory() -> None:
    recovery = sampled()
    for number in range(1, 1_000_000, 513):
        recovery.lib.rig_skip(recovery.it, 0, number)
    assert recovery.it.recovery.sent[0].mask < 1024
    recovery.send(1_000_000)
    recovery.wait(MS)
    assert recovery.ack(1_000_000) == 0
    assert recovery.told(ACKED) == [(0, 1_000_000, recovery.now - MS)]
