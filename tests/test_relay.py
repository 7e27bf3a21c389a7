"""The relay between two hosts does to frames what its conditions say, as counts and coarse bounds.

``scripts/bench --scenario relay`` measures how exact it is.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median
from typing import Any

import pytest

from perf.relay import Conditions, Relay
from perf.relay.probe import Arrival, Probe, rate_bps
from tests.aside import aside
from tests.census import needs
from tests.lab import PATIENCE, SLOWNESS, SOON_S, Lab

SIZE = 200
CALM = Conditions()
Make = Callable[..., tuple[Relay, Probe]]


@pytest.fixture
def make(lab: Lab) -> Iterator[Make]:
    """Makes a relay between hosts a and b, and a probe from a to b."""
    needs("root")
    made: list[tuple[Relay, Probe]] = []

    def build(conditions: Conditions, **options: Any) -> tuple[Relay, Probe]:
        relay = Relay(lab, [(lab.host("a"), lab.host("b"))], conditions, **options)
        made.append((relay, Probe(relay)))
        return made[-1]

    yield build
    for relay, probe in made:
        probe.close()
        counts = relay.counts()
        relay.close()
        assert sum(count.faults for count in counts) == 0, counts


def numbers(arrivals: list[Arrival]) -> list[int]:
    return [arrival.number for arrival in arrivals]


def test_without_conditions_every_frame_arrives_once_in_order_and_unchanged(make: Make) -> None:
    _, probe = make(CALM)
    arrivals = probe.send(5000, SIZE)
    assert numbers(arrivals) == list(range(5000))
    assert all(came.frame == probe.frame(came.number, SIZE) for came in arrivals)


def test_a_delay_holds_every_frame_for_so_long(make: Make) -> None:
    _, probe = make(Conditions(delay_s=0.02))
    arrivals = probe.send(40, SIZE, gap_s=0.002)
    delays = [came.came_ns - came.sent_ns for came in arrivals]
    assert min(delays) >= 20_000_000
    assert median(delays) < 20_000_000 + 2_000_000 * PATIENCE


def test_jitter_adds_up_to_its_size_and_keeps_the_order(make: Make) -> None:
    _, probe = make(Conditions(delay_s=0.01, jitter_s=0.02))
    arrivals = probe.send(60, SIZE, gap_s=0.005)
    delays = sorted(came.came_ns - came.sent_ns for came in arrivals)
    assert numbers(arrivals) == list(range(60))
    assert 10_000_000 <= delays[0] < 18_000_000
    assert delays[30] > 15_000_000


def test_a_rate_spreads_a_burst_over_the_time_it_takes(make: Make) -> None:
    rate = 50e6 / SLOWNESS
    _, probe = make(Conditions(rate_bps=rate))
    rates = []
    for _ in range(20):  # a sender that is held up sends no burst
        arrivals = probe.send(600, 1000)
        assert len(arrivals) == 600
        rates.append(rate_bps(arrivals, 1000))
        if max(rates) > 0.97 * rate:
            break
    assert max(rates) == pytest.approx(rate, rel=0.03)


def test_a_full_buffer_drops_what_comes_last(make: Make) -> None:
    on_the_wire = 1000 + 24
    relay, probe = make(
        Conditions(rate_bps=1e6 / SLOWNESS, delay_s=0.05, buffer_bytes=10 * on_the_wire)
    )
    arrivals = probe.send(200, 1000)
    # One is being sent while ten wait; how many leave meanwhile depends on how fast 200 come.
    assert numbers(arrivals)[:10] == list(range(10))
    assert 10 <= len(arrivals) < 150
    assert relay.counts()[0].overflowed == 200 - len(arrivals)


def test_losses_are_as_many_as_their_chance(make: Make) -> None:
    relay, probe = make(Conditions(loss=0.1))
    lost = 20_000 - len(probe.send(20_000, 64))
    assert abs(lost - 2000) < 5 * 42  # five standard deviations
    assert relay.counts()[0].lost >= lost


def test_losses_come_in_bursts_in_the_bad_state(make: Make) -> None:
    _, probe = make(Conditions(bad_enter=0.01, bad_leave=0.25, bad_loss=1))
    arrived = numbers(probe.send(20_000, 64))
    gaps = [after - before - 1 for before, after in pairwise(arrived) if after > before + 1]
    assert 20_000 * 0.02 < sum(gaps) < 20_000 * 0.06  # 1/26 of the time is bad
    assert 3 < sum(gaps) / len(gaps) < 5  # a bad state lasts 1 / bad_leave frames


def test_reordered_frames_are_overtaken_and_none_is_lost(make: Make) -> None:
    relay, probe = make(Conditions(reorder=0.1, reorder_s=0.005))
    arrived = numbers(probe.send(2000, 64))
    assert sorted(arrived) == list(range(2000))
    assert arrived != sorted(arrived)
    assert abs(relay.counts()[0].reordered - 200) < 5 * 14


def test_duplicates_come_twice(make: Make) -> None:
    relay, probe = make(Conditions(duplicate=0.1))
    arrived = numbers(probe.send(2000, 64))
    assert set(arrived) == set(range(2000))
    assert 0 <= relay.counts()[0].duplicated - (len(arrived) - 2000) <= 2  # or of the kernel's own
    assert abs(len(arrived) - 2200) < 5 * 14


def test_corruption_flips_one_bit_behind_the_ethernet_header(make: Make) -> None:
    _, probe = make(Conditions(corrupt=1))
    for number in range(100):
        sent = probe.frame(number, 64)
        (came,) = probe.send_frame(sent)
        flipped = int.from_bytes(sent) ^ int.from_bytes(came)
        assert flipped.bit_count() == 1
        assert came[:14] == sent[:14]


def ip4(frame: bytes, ecn: int) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, ecn, 120, 0, 0, 64, 253, 0, b"\n\0\0\1", b"\n\0\0\2")
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + head[12:]
    return frame[:12] + b"\x08\x00" + head + bytes(100)


def ip6(frame: bytes, ecn: int) -> bytes:
    head = struct.pack("!IHBB", 6 << 28 | ecn << 20, 100, 253, 64)
    return frame[:12] + b"\x86\xdd" + head + bytes(range(32)) + bytes(100)


@pytest.mark.parametrize(("ecn", "marked"), [(0, 0), (1, 3), (2, 3), (3, 3)])
def test_a_long_queue_marks_packets_whose_sender_understands_it(
    make: Make, ecn: int, marked: int
) -> None:
    rate = 250e3 / SLOWNESS
    _, probe = make(Conditions(rate_bps=rate, mark_bytes=2000))
    fill = probe.frame(0, 1500)
    for build in (ip4, ip6):
        (calm,) = probe.send_frame(build(fill, ecn))
        assert calm == build(fill, ecn)
        for _ in range(8):  # 12 KB wait, for 380 ms, when the ninth comes
            probe.throw(fill)
        (came,) = probe.send_frame(build(fill, ecn))
        assert came == build(fill, marked)  # with the checksum that belongs to it


def test_packets_above_the_mtu_of_the_network_vanish(make: Make) -> None:
    relay, probe = make(Conditions(mtu=1300))
    assert numbers(probe.send(3, 1314)) == [0, 1, 2]
    assert probe.send(3, 1315) == []
    assert relay.counts()[0].oversized == 3


def test_every_frame_is_accounted_for_by_a_reason(make: Make) -> None:
    conditions = Conditions(
        rate_bps=20e6 / SLOWNESS,
        delay_s=0.01,
        buffer_bytes=100_000,
        loss=0.02,
        bad_enter=0.01,
        bad_leave=0.2,
        bad_loss=0.5,
        reorder=0.05,
        reorder_s=0.005,
        duplicate=0.05,
        mtu=1000,
    )
    relay, probe = make(conditions)
    offered, came = 0, 0
    for size in (1100, 900, 64):
        offered += 1500
        came += len(probe.send(1500, size))
    count = relay.counts()[0]
    dropped = count.lost + count.policed + count.overflowed + count.oversized
    assert count.packets == dropped + count.arrived - count.duplicated
    assert count.arrived == count.sent
    assert min(count.lost, count.overflowed, count.oversized, count.duplicated) > 0
    # The kernel sends a few frames of its own on a fresh interface.
    assert 0 <= count.packets - offered <= 10
    assert 0 <= count.sent - came <= 10


def test_what_the_relay_adds_to_a_delay_is_known_to_it(make: Make) -> None:
    relay, probe = make(Conditions(delay_s=0.02))
    arrivals = probe.send(100, SIZE, gap_s=0.002)
    extra = [came.came_ns - came.sent_ns - 20_000_000 for came in arrivals]
    count = relay.counts()[0]
    assert 0 < count.late_s_mean <= count.late_s_max
    assert count.late_s_mean * 1e9 < sum(extra) / len(extra) + 1_000_000 * PATIENCE
    assert count.late_s_max * 1e9 <= max(extra) + 50_000_000 * PATIENCE


def test_conditions_change_while_frames_flow(make: Make) -> None:
    relay, probe = make(CALM)
    assert len(probe.send(50, SIZE)) == 50
    with relay.worse(down=True):
        assert probe.send(50, SIZE) == []
    assert len(probe.send(50, SIZE)) == 50
    with relay.worse(delay_s=0.03):
        delays = [came.came_ns - came.sent_ns for came in probe.send(5, SIZE)]
        assert min(delays) >= 30_000_000
    assert relay.there == CALM


def test_directions_have_conditions_of_their_own(lab: Lab) -> None:
    relay = Relay(lab, [(lab.host("a"), lab.host("b"))], CALM, Conditions(down=True))
    a, b = relay.wires[0]
    with a.host.socket() as left, b.host.socket() as right:
        for side, link, timeout_s in ((left, a, 0.2 * SLOWNESS), (right, b, SOON_S)):
            side.bind((str(link.v4.ip), 4000))
            side.settimeout(timeout_s)
        left.sendto(b"there", (str(b.v4.ip), 4000))
        assert right.recv(100) == b"there"
        right.sendto(b"back", (str(a.v4.ip), 4000))
        with pytest.raises(TimeoutError):
            left.recv(100)
    relay.close()


def test_pairs_of_hosts_share_a_link_and_see_nothing_of_each_other(lab: Lab) -> None:
    pairs = [(lab.host("a"), lab.host("b")), (lab.host("c"), lab.host("d"))]
    relay = Relay(lab, pairs, Conditions(rate_bps=5e6 / SLOWNESS))
    frames = [
        bytes.fromhex(b.mac.replace(":", "") + a.mac.replace(":", "")) + b"\x88\xb5" + bytes(1000)
        for a, b in relay.wires
    ]
    with contextlib.ExitStack() as stack:
        into = [stack.enter_context(b.host.packet_socket(b.name)) for _, b in relay.wires]
        out = [stack.enter_context(a.host.packet_socket(a.name)) for a, _ in relay.wires]
        begin = time.monotonic()
        for _ in range(50):
            for sender, frame in zip(out, frames, strict=True):
                sender.send(frame)
        for receiver, frame in zip(into, frames, strict=True):
            for _ in range(50):
                while (came := receiver.recv(2000)) != frame:
                    assert came not in frames  # the kernel's own
        took_s = time.monotonic() - begin
    assert took_s > 0.9 * 100 * (1014 + 24) * 8 / (5e6 / SLOWNESS)
    relay.close()


@pytest.mark.parametrize("mtu", [1500, 9000])
def test_a_stream_of_the_kernel_crosses_whole_with_losses(make: Make, mtu: int) -> None:
    """TCP hands super-packets to a veth, and checksums that are to do: here it must not."""
    relay, _ = make(Conditions(delay_s=0.001, loss=0.03, corrupt=0.001), mtu=mtu)
    a, b = relay.wires[0]
    data = bytes(range(256)) * 16_384
    received: list[bytes] = []

    def receive(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(20 * PATIENCE)
            while chunk := connection.recv(1 << 20):
                received.append(chunk)

    with (
        b.host.socket(socket.AF_INET, socket.SOCK_STREAM) as server,
        a.host.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        server.bind((str(b.v4.ip), 4000))
        server.listen()
        server.settimeout(20 * PATIENCE)
        client.settimeout(20 * PATIENCE)
        with aside(lambda: receive(server)):
            client.connect((str(b.v4.ip), 4000))
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
    assert b"".join(received) == data
    assert relay.counts()[0].lost > 0
