"""Losses that were none: congestion control hears of it when most of a loss came after all."""

from __future__ import annotations

from tests.dataplane.test_recovery import CC_SPURIOUS, MS, Recovery, sampled


def loss(recovery: Recovery, first: int) -> None:
    """Send eight packets, of which the first five are taken for lost."""
    recovery.send(*range(first, first + 8))
    recovery.wait(10 * MS)
    recovery.ack(first + 7)
    assert recovery.lost() == list(range(first, first + 5))


def is_given_back(recovery: Recovery, *numbers: int) -> bool:
    """Say whether congestion control takes its last step back when packets come after all."""
    assert recovery.ack(*numbers) == 0
    return bool(recovery.told(CC_SPURIOUS))


def test_a_loss_of_which_most_is_missing_was_one() -> None:
    recovery = sampled()
    loss(recovery, 1)
    assert not is_given_back(recovery, 1, 8)
    assert not is_given_back(recovery, 1, 2, 8)
    assert is_given_back(recovery, 1, 2, 3, 8)
    assert recovery.count.spurious == 3


def test_what_was_lost_of_an_earlier_flight_says_nothing_of_a_later_loss() -> None:
    recovery = sampled()
    for first in (1, 9):
        loss(recovery, first)
        recovery.ack(*range(first + 5, first + 8))
        recovery.wait(1)
    assert not is_given_back(recovery, *range(1, 9), 16)
    assert is_given_back(recovery, *range(1, 17))


def test_what_is_lost_of_the_same_flight_later_counts_too() -> None:
    recovery = sampled()
    loss(recovery, 1)
    recovery.wait(20 * MS)
    recovery.ack(8, 8)
    assert recovery.lost() == [6, 7]  # by time
    assert not is_given_back(recovery, *range(1, 4), 8)
    assert is_given_back(recovery, *range(1, 5), 8)
