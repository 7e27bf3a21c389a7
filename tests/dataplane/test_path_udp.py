"""The kernel's UDP path: super-packets out, super-packets in, and nothing lost in silence."""

from __future__ import annotations

import errno
import socket
import struct
import time

import pytest

from tests.census import needs
from tests.dataplane.endpoint import Endpoint, aggregate, frame
from tests.lab import Lab, Link, wait_until
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import Class


@pytest.fixture
def wire(lab: Lab) -> tuple[Link, Link]:
    """Two hosts, joined by a veth pair without a program: super-packets stay whole."""
    return lab.wire(lab.host("a"), lab.host("b"))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("size", [0, 40, 1400])
def test_frames_of_every_class_arrive_whole_and_in_order(
    wire: tuple[Link, Link], family: int, size: int
) -> None:
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        peer = a.peer(b, family)
        for klass in Class:
            sent = [frame(klass, number, size) for number in range(200)]
            for data in sent:
                assert a.commit(peer, klass, data)
            a.flush_all()
            received = b.receive_all(klass, len(sent))
            assert [one.data for one in received] == sent
            source = wire[0].v4 if family == 4 else wire[0].v6
            assert {(one.source, one.port, one.klass) for one in received} == {
                (str(source.ip), lib.VK_PORT, klass)
            }
        assert a.path.sent == 6 * 200
        assert a.path.syscalls_tx < 6 * 10, "datagrams share sends"


def test_aggregates_are_padded_to_equal_segments_and_stay_valid(wire: tuple[Link, Link]) -> None:
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        peer = a.peer(b)
        sent = [aggregate(Class.DATA, number, 1 + number % 20) for number in range(64)]
        for data in sent:
            assert a.commit(peer, Class.DATA, data, paddable=True)
        a.flush_all()
        assert a.path.syscalls_tx <= 4
        received = b.receive_all(Class.DATA, len(sent))
        for data, one in zip(sent, received, strict=True):
            (length,) = struct.unpack_from("!I", one.data, 12)
            assert len(one.data) == lib.VK_HEADER_SIZE + length
            assert one.data[lib.VK_HEADER_SIZE : len(data)] == data[lib.VK_HEADER_SIZE :]
            assert not any(one.data[len(data) :])


def test_datagrams_that_cannot_be_made_equal_keep_their_order(wire: tuple[Link, Link]) -> None:
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        peer = a.peer(b)
        sizes = [(number * 7919) % 1300 for number in range(300)]
        sent = [frame(Class.JOB, number, size) for number, size in enumerate(sizes)]
        for data in sent:
            assert a.commit(peer, Class.JOB, data)
        a.flush_all()
        assert [one.data for one in b.receive_all(Class.JOB, len(sent))] == sent


def test_a_path_says_what_its_last_full_super_packet_came_to(wire: tuple[Link, Link]) -> None:
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        peer = a.peer(b)
        for size in (1400, 700, 1300):
            data = frame(Class.JOB, 0, size)
            fit = min(lib.VK_UDP_PAYLOAD_MAX // len(data), 64)
            before = a.path.super_datagrams
            for _ in range(fit):
                assert a.commit(peer, Class.JOB, data)
            assert a.path.super_datagrams == before, "the next one could fit"
            assert a.commit(peer, Class.JOB, data)
            assert (a.path.super_datagrams, a.path.super_bytes) == (fit, fit * len(data))
            a.flush_all()


@pytest.mark.parametrize("segments", [True, False])
def test_what_is_lent_leaves_with_the_datagram_that_it_ends(
    wire: tuple[Link, Link], *, segments: bool
) -> None:
    if not segments:
        wire[0].host.disable_tx_checksum(wire[0].name)
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        sizes = [1300] * 100 + [(number * 7919) % 1300 for number in range(100)]
        sent = [frame(Class.JOB, number, size) for number, size in enumerate(sizes)]
        for number, data in enumerate(sent):
            lent = number % 3 * (len(data) - lib.VK_HEADER_SIZE) // 2
            assert a.commit(a.peer(b), Class.JOB, data, lent=lent)
        a.flush_all()
        assert [one.data for one in b.receive_all(Class.JOB, len(sent))] == sent


def commit_rows(a: Endpoint, peer: object, sent: list[bytes], lent: int) -> list[int]:
    """Queue datagrams of one size in rows; how many each took."""
    rows, done = [], 0
    while done < len(sent):
        rows.append(a.commit_row(peer, Class.JOB, sent[done:], lent=lent))
        assert 0 < rows[-1] <= lib.VK_TX_ROW
        done += rows[-1]
    return rows


@pytest.mark.parametrize("size", [60, 600, 1300])
@pytest.mark.parametrize("first", [None, 400, 1300])
def test_rows_leave_as_what_is_committed_one_by_one(
    wire: tuple[Link, Link], first: int | None, size: int
) -> None:
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        sent = [frame(Class.JOB, number, size) for number in range(150)]
        if first:
            sent.insert(0, frame(Class.JOB, 1000, first))
            assert a.commit(a.peer(b), Class.JOB, sent[0])
        alike = sent[1:] if first else sent
        assert len(commit_rows(a, a.peer(b), alike, size // 2)) <= 5
        a.flush_all()
        assert [one.data for one in b.receive_all(Class.JOB, len(sent))] == sent


def test_rows_that_the_kernel_does_not_take_are_kept(wire: tuple[Link, Link]) -> None:
    link = wire[0]
    link.host.set_qdisc(link.index, "pfifo", limit=0)
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        sent = [frame(Class.JOB, number, 1000) for number in range(100)]
        commit_rows(a, a.peer(b), sent, 900)
        assert a.flush() == 100
        link.host.set_qdisc(link.index, "pfifo", limit=1000)
        a.flush_all()
        assert [one.data for one in b.receive_all(Class.JOB, 100)] == sent
        assert a.path.sent == 100


def test_a_row_ends_where_a_path_is_full(wire: tuple[Link, Link]) -> None:
    link = wire[0]
    link.host.set_qdisc(link.index, "pfifo", limit=0)
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        row = [frame(Class.JOB, number, 1000) for number in range(lib.VK_TX_ROW)]
        count = 0
        while taken := a.commit_row(a.peer(b), Class.JOB, row, lent=900):
            count += taken
            assert count < 100_000
        assert a.flush() == count
        nowhere = a.peer(b, 6)
        nowhere.payload_max = 60_000
        assert a.commit_row(nowhere, Class.JOB, row, lent=900) == 0
        assert sum(a.path.lost) == 0


def test_udp_sends_into_an_xdp_receiver(wire: tuple[Link, Link]) -> None:
    with Endpoint(wire[0], "xdp", "udp") as a, Endpoint(wire[1], "xdp", "udp") as b:
        for family in (4, 6):
            peer = a.peer(b, family)
            sent = [frame(Class.LOGS, number, 700) for number in range(100)]
            for data in sent:
                assert a.commit(peer, Class.LOGS, data)
            a.flush_all()
            assert [one.data for one in b.receive_all(Class.LOGS, len(sent))] == sent


def test_a_link_without_checksum_offload_gets_plain_datagrams(wire: tuple[Link, Link]) -> None:
    wire[0].host.disable_tx_checksum(wire[0].name)
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        for family in (4, 6):
            sent = [frame(Class.JOB, number, 500) for number in range(150)]
            for data in sent:
                assert a.commit(a.peer(b, family), Class.JOB, data)
            a.flush_all()
            assert [one.data for one in b.receive_all(Class.JOB, 150)] == sent
        assert sum(a.path.lost) == 0
        assert a.path.sent == 300


@pytest.mark.parametrize("lent", [0, 900])
def test_a_full_qdisc_keeps_datagrams_and_loses_none(wire: tuple[Link, Link], lent: int) -> None:
    link = wire[0]
    link.host.set_qdisc(link.index, "pfifo", limit=0)
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        sent = [frame(Class.DATA, number, 1000) for number in range(100)]
        for data in sent:
            assert a.commit(a.peer(b), Class.DATA, data, lent=lent)
        assert a.flush() == 100
        assert (a.path.sent, sum(a.path.lost)) == (0, 0)
        link.host.set_qdisc(link.index, "pfifo", limit=1000)
        a.flush_all()
        assert [one.data for one in b.receive_all(Class.DATA, 100)] == sent
        assert a.path.sent == 100


def test_a_path_that_is_full_says_so(wire: tuple[Link, Link]) -> None:
    link = wire[0]
    link.host.set_qdisc(link.index, "pfifo", limit=0)
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        peer, count = a.peer(b), 0
        while a.commit(peer, Class.LOGS, frame(Class.LOGS, count, 1000)):
            count += 1
            assert count < 100_000
        assert a.flush() == count
        link.host.set_qdisc(link.index, "pfifo", limit=1000)
        a.flush_all()
        received = b.receive_all(Class.LOGS, count)
        assert [one.number for one in received] == list(range(count))


def test_datagrams_that_cannot_go_are_lost_with_a_reason_and_hurt_nobody_else(
    wire: tuple[Link, Link],
) -> None:
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        nowhere = a.peer(b, 6)
        nowhere.address[0:2] = [0x20, 0x01]  # no route
        large = a.peer(b, payload_max=1500)
        for number in range(10):
            assert a.commit(nowhere, Class.DATA, frame(Class.DATA, number))
            assert a.commit(large, Class.JOB, frame(Class.JOB, number, 1476))
            assert a.commit(a.peer(b), Class.DATA, frame(Class.DATA, number))
        a.flush_all()
        assert [one.number for one in b.receive_all(Class.DATA, 10)] == list(range(10))
        assert (a.path.lost[Class.DATA], a.path.lost[Class.JOB]) == (10, 10)
        assert a.path.error in (errno.ENETUNREACH, errno.EMSGSIZE)


def test_an_answer_of_nobody_listens_does_not_cost_a_datagram(wire: tuple[Link, Link]) -> None:
    with Endpoint(wire[0], "udp", "udp") as a:
        peer = a.peer(a)
        there = wire[1].v4.ip.packed
        peer.address[0:4] = list(there)
        peer.mac[0:6] = list(bytes.fromhex(wire[1].mac.replace(":", "")))
        for number in range(20):
            assert a.commit(peer, Class.DATA, frame(Class.DATA, number))
            assert a.flush() == 0
        assert (a.path.sent, a.path.lost[Class.DATA]) == (20, 0)
        assert not a.receive(Class.DATA)


def test_runts_are_counted_and_not_handed_out(wire: tuple[Link, Link]) -> None:
    needs("network namespaces")
    with (
        wire[0].host.socket() as raw,
        Endpoint(wire[1], "udp", "udp") as b,
    ):
        data = frame(Class.DATA, 1, 0)
        raw.setsockopt(socket.IPPROTO_UDP, 103, 24)  # UDP_SEGMENT, linux/udp.h
        raw.sendto(data + data + data[:10], (str(wire[1].v4.ip), lib.VK_PORT))
        assert len(b.receive_all(Class.DATA, 2)) == 2
        assert b.path.invalid[Class.DATA] == 1


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_sent_can_be_marked_and_marks_are_seen(
    wire: tuple[Link, Link], version: int
) -> None:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = wire[1].v4.ip if version == 4 else wire[1].v6.ip
    level, option = (
        (socket.IPPROTO_IP, socket.IP_TOS)
        if version == 4
        else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
    )
    with wire[0].host.socket(family) as raw, Endpoint(wire[1], "udp", "udp") as b:
        for number, field in enumerate((0, 1, lib.VK_ECT0, lib.VK_CE, 0)):
            raw.setsockopt(level, option, field)
            raw.sendto(frame(Class.DATA, number), (str(address), lib.VK_PORT))
        received = b.receive_all(Class.DATA, 5)
        assert [one.marked for one in received] == [False, False, False, True, False]


@pytest.mark.parametrize("family", [4, 6])
def test_frames_say_when_the_kernel_had_them(wire: tuple[Link, Link], family: int) -> None:
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        begin_ns = time.monotonic_ns()
        assert a.commit(a.peer(b, family), Class.DATA, frame(Class.DATA, 1))
        a.flush_all()
        wait_until(lambda: time.monotonic_ns() > begin_ns + 50_000_000, what="a late receiver")
        (one,) = b.receive_all(Class.DATA, 1)
        assert begin_ns < one.came_ns < begin_ns + 50_000_000


def test_classes_wait_in_sockets_of_their_own(wire: tuple[Link, Link]) -> None:
    with Endpoint(wire[0], "udp", "udp") as a, Endpoint(wire[1], "udp", "udp") as b:
        for number in range(64 * 20):
            assert a.commit(a.peer(b), Class.LOGS, frame(Class.LOGS, number))
        assert a.commit(a.peer(b), Class.CRITICAL, frame(Class.CRITICAL, 1))
        a.flush_all()
        first = wait_until(lambda: b.receive(Class.LOGS, 16), what="log frames")
        assert len(first) == 16
        assert [one.number for one in b.receive_all(Class.CRITICAL, 1)] == [1]
        rest = b.receive_all(Class.LOGS, 64 * 20 - 16)
        assert [one.number for one in rest] == list(range(16, 64 * 20))
