"""One direction of a network: rate, buffer, delay, loss and order, by the numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from valkyrie.dataplane._lab import ffi, lib
from valkyrie.dataplane.lab.scenario import Link

MS = 1_000_000
SIZE = 1000 - lib.VK_LINK_OVERHEAD
"""Bytes of payload of a packet that takes 1000 bytes of the rate."""


@dataclass
class Fate:
    arrive_ns: list[int]
    corrupt: bool
    marked: bool


class Wire:
    def __init__(self, link: Link, seed: int = 1) -> None:
        config = ffi.new("struct vk_link_config *")
        link.fill(config)
        self.link = ffi.new("struct vk_link *")
        lib.vk_link_init(self.link, config, seed)

    def send(self, now_ns: int = 0, size: int = SIZE) -> Fate:
        fate = lib.vk_link_send(self.link, size, now_ns)
        arrive = [fate.arrive_ns[copy] for copy in range(fate.copies)]
        return Fate(arrive, bool(fate.corrupt), bool(fate.marked))

    def offer(self, count: int, pause_ns: int = MS) -> Iterator[Fate]:
        for number in range(count):
            yield self.send(number * pause_ns)

    def count(self, name: str) -> Any:
        return getattr(self.link.count, name)


def test_a_packet_takes_its_time_at_the_rate_and_the_delay() -> None:
    wire = Wire(Link(rate_mbps=8, delay_ms=5))
    assert wire.send().arrive_ns == [6 * MS]  # 1000 bytes at 1 byte/us
    assert wire.send().arrive_ns == [7 * MS], "the next one waits for the rate"
    assert wire.send(100 * MS).arrive_ns == [106 * MS], "and not when the link is idle"


@pytest.mark.parametrize("rate_mbps", [0.1, 1, 37, 1000, 100_000])
def test_the_rate_is_exact_over_many_packets(rate_mbps: float) -> None:
    wire = Wire(Link(rate_mbps=rate_mbps, delay_ms=0))
    last = [wire.send().arrive_ns[0] for _ in range(10_000)][-1]
    assert last == pytest.approx(10_000 * 8000 / rate_mbps * 1000, rel=1e-6)


def test_the_buffer_holds_its_bytes_and_no_more() -> None:
    wire = Wire(Link(rate_mbps=8, buffer_bytes=10_000))
    fates = [wire.send() for _ in range(30)]
    assert [len(fate.arrive_ns) for fate in fates] == [1] * 10 + [0] * 20
    assert wire.count("overflowed") == 20
    assert wire.send(1 * MS).arrive_ns, "what has left makes room"


def test_packets_are_marked_when_enough_waits() -> None:
    wire = Wire(Link(rate_mbps=8, mark_bytes=3000))
    assert [wire.send().marked for _ in range(5)] == [False, False, False, True, True]


def test_the_policer_lets_its_depth_through_and_then_its_rate() -> None:
    wire = Wire(Link(policer_mbps=8, policer_bytes=5000))
    assert sum(bool(wire.send().arrive_ns) for _ in range(20)) == 5
    passed = sum(bool(wire.send(1000 * MS + step * MS // 2).arrive_ns) for step in range(2000))
    assert passed == pytest.approx(1000 + 5, abs=1)


def test_packets_larger_than_the_mtu_are_lost() -> None:
    wire = Wire(Link(mtu=1500))
    assert wire.send(size=1500 - lib.VK_LINK_IP4_UDP).arrive_ns
    assert not wire.send(size=1501 - lib.VK_LINK_IP4_UDP).arrive_ns
    assert wire.count("oversized") == 1


@pytest.mark.parametrize(
    ("link", "counter", "share"),
    [
        (Link(loss=0.01), "lost", 0.01),
        (Link(duplicate=0.02), "duplicated", 0.02),
        (Link(corrupt=0.05), "corrupted", 0.05),
        (Link(reorder=0.1, reorder_ms=3), "reordered", 0.1),
        # Share of the time in the bad state: enter / (enter + leave).
        (Link(bad_enter=0.01, bad_leave=0.09, bad_loss=1), "lost", 0.1),
    ],
)
def test_chances_are_what_they_say(link: Link, counter: str, share: float) -> None:
    wire = Wire(link)
    list(wire.offer(200_000))
    assert wire.count(counter) / 200_000 == pytest.approx(share, rel=0.1)


def test_losses_come_in_bursts_of_the_length_that_leaving_says() -> None:
    wire = Wire(Link(bad_enter=0.01, bad_leave=0.2, bad_loss=1))
    lost = [not fate.arrive_ns for fate in wire.offer(100_000)]
    bursts = sum(now and not before for before, now in itertools.pairwise(lost))
    assert sum(lost) / bursts == pytest.approx(1 / 0.2, rel=0.1)


def test_jitter_keeps_order_and_reordering_does_not() -> None:
    wire = Wire(Link(delay_ms=10, jitter_ms=5))
    times = [fate.arrive_ns[0] for fate in wire.offer(5000, pause_ns=100_000)]
    assert times == sorted(times)
    assert max(at - n * 100_000 for n, at in enumerate(times)) > 14 * MS
    wire = Wire(Link(delay_ms=10, reorder=0.1, reorder_ms=2))
    times = [fate.arrive_ns[0] for fate in wire.offer(5000, pause_ns=100_000)]
    assert times != sorted(times)


def test_nothing_comes_through_a_link_that_is_down() -> None:
    wire = Wire(Link(down=True))
    assert not wire.send().arrive_ns


def test_a_seed_says_everything_and_another_says_something_else() -> None:
    link = Link(loss=0.1, jitter_ms=1, reorder=0.1, reorder_ms=3, duplicate=0.1, corrupt=0.1)
    first, again, other = (list(Wire(link, seed).offer(500)) for seed in (7, 7, 8))
    assert first == again
    assert first != other
