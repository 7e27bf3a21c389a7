"""The reuseport program on real sockets: single datagrams and super-packets, both families."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import pytest

from tests.bpf.bases import SEQ, SESSION
from tests.bpf.rig import extension, frame
from tests.census import needs
from tests.lab import Link, wait_until
from valkyrie.controlplane.host.voice import Voice
from valkyrie.dataplane import lib, wire
from valkyrie.dataplane.guard import Guard, Master, tick
from valkyrie.dataplane.loader import Program, cpus, open_selector
from valkyrie.dataplane.ports import DSCP
from valkyrie.dataplane.wire import PORT, Class

SO_ATTACH_REUSEPORT_EBPF = 52  # asm-generic/socket.h
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104  # linux/udp.h
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
DISCARD = 9  # a port that nobody listens on
STREAMS = {"critical": 0, "system": 7, "job": 700, "data": 7000, "logs": 70000}


class Receiver:
    """A socket for every class and family of a host, chosen by the program."""

    def __init__(self, link: Link, program: Program) -> None:
        self.program = program
        self.sockets: dict[tuple[int, str], socket.socket] = {}
        for version, family in FAMILIES.items():
            for klass in Class:
                made = link.host.socket(family)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                made.setsockopt(SOL_UDP, UDP_GRO, 1)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.name.encode())
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
                if version == 6:
                    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                made.bind(("", PORT))
                made.setblocking(False)
                offset = 0 if version == 4 else lib.VK_CLASS_COUNT
                program.maps["vk_socks"].update(klass + offset, made.fileno())
                self.sockets[version, klass.name.lower()] = made
            made.setsockopt(
                socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, struct.pack("i", program.fd)
            )

    def take(self, version: int, klass: str) -> list[bytes]:
        """Return the datagrams that wait on a socket, super-packets taken apart."""
        found: list[bytes] = []
        while True:
            try:
                data, ancillary, _, _ = self.sockets[version, klass].recvmsg(1 << 16, 64)
            except BlockingIOError:
                return found
            sizes = [struct.unpack("i", x[:4])[0] for _, kind, x in ancillary if kind == UDP_GRO]
            size = sizes[0] if sizes else len(data)
            found += [data[at : at + size] for at in range(0, len(data), size)]

    def counted(self) -> dict[tuple[str, str], tuple[int, int]]:
        return {
            (klass.name.lower(), verdict.name.lower()): (row.packets, row.messages)
            for (klass, verdict), row in self.program.counts().items()
        }

    def close(self) -> None:
        for each in self.sockets.values():
            each.close()


@pytest.fixture
def receiver(pair: tuple[Link, Link]) -> Iterator[Receiver]:
    needs("root")
    with open_selector() as program:
        made = Receiver(pair[1], program)
        yield made
        made.close()


def refused(probe: socket.socket) -> bool:
    """Whether a host has answered that nobody listens there: so it is known where it is."""
    try:
        probe.send(b"")
        probe.recv(1)
    except BlockingIOError:
        return False
    except ConnectionRefusedError:
        return True
    return False


class Sender:
    """Unconnected: a refused datagram is answered by ICMP, which a connected socket hears."""

    def __init__(self, a: Link, b: Link, version: int) -> None:
        self.version = version
        self.socket = a.host.socket(FAMILIES[version])
        self.target = (str((b.v4 if version == 4 else b.v6).ip), PORT)
        self.address = (a.v4 if version == 4 else a.v6).ip
        with a.host.socket(FAMILIES[version]) as probe:
            probe.connect((self.target[0], DISCARD))
            probe.setblocking(False)
            wait_until(partial(refused, probe), what="an answer of the other host")

    def send(self, data: bytes) -> None:
        self.socket.sendto(data, self.target)

    def send_segments(self, segments: list[bytes]) -> None:
        """Send equal datagrams (the last may be shorter) as one super-packet."""
        size = struct.pack("H", len(segments[0]))
        ancillary = [(SOL_UDP, UDP_SEGMENT, size)]
        self.socket.sendmsg([b"".join(segments)], ancillary, 0, self.target)


@pytest.fixture(params=[4, 6])
def sender(request: pytest.FixtureRequest, pair: tuple[Link, Link]) -> Iterator[Sender]:
    made = Sender(*pair, request.param)
    with made.socket:
        yield made


def has(receiver: Receiver, key: tuple[str, str], packets: int) -> bool:
    return receiver.counted().get(key, (0, 0))[0] == packets


def has_counted(receiver: Receiver, packets: int) -> bool:
    return sum(row[0] for row in receiver.counted().values()) == packets


def test_a_datagram_reaches_the_socket_of_its_class(receiver: Receiver, sender: Sender) -> None:
    sent = {klass: frame(0x31, stream, b"x", SESSION + SEQ) for klass, stream in STREAMS.items()}
    sent["control"] = frame(0x00, 70000)
    for klass, data in sent.items():
        sender.send(data)
        wait_until(partial(has, receiver, (klass, "steer"), 1), what=klass)
    for version, klass in receiver.sockets:
        expected = [sent[klass]] if version == sender.version else []
        assert receiver.take(version, klass) == expected


def test_super_packets_are_not_mis_steered(receiver: Receiver, sender: Sender) -> None:
    total = dict.fromkeys(STREAMS, 0)
    for size in (30, 100, 1400):
        count = min(64, 60_000 // (size + 40))
        for klass, stream in STREAMS.items():
            segment = frame(0x31, stream, bytes(size), SESSION)
            sender.send_segments([segment] * count)
            total[klass] += count
    for klass, count in total.items():
        wait_until(partial(has, receiver, (klass, "steer"), count), what=klass)
        received = receiver.take(sender.version, klass)
        assert len(received) == count
        assert {int.from_bytes(data[8:12], "big") for data in received} == {STREAMS[klass]}
    assert receiver.counted() == {
        (klass, "steer"): (count, count) for klass, count in total.items()
    }


def test_messages_of_aggregates_are_estimated(receiver: Receiver, sender: Sender) -> None:
    segment = frame(0x31, 7000, bytes(400), SESSION, flags=0x80, correlation=10)
    sender.send_segments([segment] * 5)
    wait_until(partial(has, receiver, ("data", "steer"), 5))
    assert receiver.counted() == {("data", "steer"): (5, 50)}


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (b"", "drop_truncated"),
        (frame()[:23], "drop_truncated"),
        (frame(ext=3), "drop_truncated"),
        (frame(magic=1), "drop_magic"),
        (frame(version=3), "drop_version"),
        (frame(0x1F), "drop_type"),
        (frame(chain=extension(4, 4)), "drop_extension"),
        (frame(chain=extension(3, 2) * 17), "drop_extension"),
        (frame(chain=bytes(4)), "drop_extension"),
        (frame(payload=b"1234", length=5), "drop_length"),
        (frame(flags=8)[:-1], "drop_length"),
    ],
)
def test_a_malformed_datagram_reaches_nobody(
    receiver: Receiver, sender: Sender, data: bytes, verdict: str
) -> None:
    sender.send(data)
    wait_until(partial(has, receiver, ("control", verdict), 1), what=verdict)
    assert not [key for key in receiver.sockets if receiver.take(*key)]
    assert receiver.counted() == {("control", verdict): (1, 0)}


class Errors:
    """ICMP errors that reach a host, on the wire."""

    KINDS: ClassVar = {4: (0x0800, 34, 3, 64), 6: (0x86DD, 54, 1, 104)}
    """Type of Ethernet, offset of the ICMP header, type "unreachable", offset of the port meant."""

    def __init__(self, link: Link, version: int) -> None:
        self._raw = link.host.packet_socket(link.name)
        self._kind, self._icmp, self._type, self._port = self.KINDS[version]

    def next_port(self) -> int:
        """Wait for an error; return the destination port of the datagram it is about."""
        while True:
            data = self._raw.recv(2048)
            if len(data) > self._port + 1 and data[12:14] == self._kind.to_bytes(2, "big"):
                protocol = data[23] if self._kind == 0x0800 else data[20]
                if protocol in (1, 58) and data[self._icmp] == self._type:
                    return int.from_bytes(data[self._port : self._port + 2], "big")

    def close(self) -> None:
        self._raw.close()


def test_what_is_refused_is_not_answered(
    receiver: Receiver, sender: Sender, pair: tuple[Link, Link]
) -> None:
    there = pair[1]
    voice = there.host.run(Voice.open, there.name, there.index, PORT, DSCP[Class.CONTROL])
    voice.silence(receiver.program)
    receiver.program.set_police(Class.LOGS, 1, 10)
    with contextlib.closing(voice), contextlib.closing(Errors(pair[0], sender.version)) as errors:
        for count, data in enumerate((b"", frame(magic=1), frame(version=3)), 1):
            sender.send(data)
            wait_until(partial(has_counted, receiver, count))
        segments = [frame(0x31, 70000, bytes(100), SESSION)] * 10
        for _ in range(3):
            sender.send_segments(segments)
        wait_until(partial(has, receiver, ("logs", "drop_class_rate"), 20))
        sender.socket.sendto(b"nobody is there", (sender.target[0], DISCARD))
        assert errors.next_port() == DISCARD, "a refused datagram was answered"
    assert len(receiver.take(sender.version, "logs")) == 10


def test_a_class_is_policed_by_datagrams(receiver: Receiver, sender: Sender) -> None:
    receiver.program.set_police(Class.LOGS, 1, 10)
    segment = frame(0x31, 70000, bytes(100), SESSION)
    for _ in range(4):
        sender.send_segments([segment] * 4)
    wait_until(partial(has, receiver, ("logs", "drop_class_rate"), 8))
    assert receiver.counted()["logs", "steer"] == (8, 8)
    sender.send(frame(0x31, 7, b"", SESSION))
    wait_until(partial(has, receiver, ("system", "steer"), 1))


def test_a_batch_above_the_burst_is_charged_the_burst(receiver: Receiver, sender: Sender) -> None:
    receiver.program.set_police(Class.DATA, 1, 10)
    segment = frame(0x31, 7000, bytes(100), SESSION)
    sender.send_segments([segment] * 40)
    wait_until(partial(has, receiver, ("data", "steer"), 40))
    sender.send_segments([segment] * 40)
    wait_until(partial(has, receiver, ("data", "drop_class_rate"), 40))


def test_sources_are_policed(receiver: Receiver, sender: Sender) -> None:
    receiver.program.set_source_police(1, 3)
    ceiling = 3 * cpus()  # a source has a bucket on every CPU
    for _ in range(ceiling + 5):
        sender.send(frame(0x31, 7, b"", SESSION))
    wait_until(lambda: sum(row[0] for row in receiver.counted().values()) >= ceiling + 5)
    assert sum(row[0] for row in receiver.counted().values()) == ceiling + 5
    assert 3 <= receiver.counted()["system", "steer"][0] <= ceiling
    assert receiver.counted()["system", "drop_source_rate"][0] >= 5


def test_frames_without_a_good_token_reach_nobody(receiver: Receiver, sender: Sender) -> None:
    guard, master = Guard(receiver.program), Master(3, bytes(range(16)))
    guard.enter(master)
    guard.demand({Class.DATA})
    guard.deny(99)
    expiry = tick(time.monotonic_ns()) + 1000
    session = wire.Session(7, 1).pack()
    good, stale, other = (
        session + each.pack()
        for each in (
            master.token(7, expiry, sender.address),
            master.token(7, 1, sender.address),
            Master(4, bytes(16)).token(7, expiry, sender.address),
        )
    )
    forged = good[:-1] + bytes((good[-1] ^ 1,))
    refused = {
        "drop_token_missing": frame(0x31, 7000, b"x", session),
        "drop_token_expired": frame(0x31, 7000, b"x", stale),
        "drop_token_generation": frame(0x31, 7000, b"x", other),
        "drop_token_forged": frame(0x31, 7000, b"x", forged),
        "drop_denied": frame(0x31, 7000, b"x", wire.Session(99, 1).pack()),
    }
    for verdict, data in refused.items():
        sender.send(data)
        wait_until(partial(has, receiver, ("data", verdict), 1), what=verdict)
    guard.block(sender.address, expiry, 0)
    sender.send(frame(0x31, 7000, b"x", good))
    wait_until(partial(has, receiver, ("data", "drop_blocked"), 1))
    guard.unblock(sender.address)
    segments = [frame(0x31, 7000, bytes(900), good)] * 20
    sender.send_segments(segments)
    wait_until(partial(has, receiver, ("data", "steer"), 20))
    sender.send(frame(0x31, 7, b"x", session))  # a class that wants none
    wait_until(partial(has, receiver, ("system", "steer"), 1))
    assert receiver.take(sender.version, "data") == segments


def test_a_handshake_goes_on_only_with_the_cookie_of_its_source(
    receiver: Receiver, sender: Sender
) -> None:
    guard, master = Guard(receiver.program), Master(3, bytes(range(16)))
    guard.enter(master)
    guard.demand({Class.CONTROL})
    expiry = tick(time.monotonic_ns()) + 1000
    sender.socket.bind(("", 0))
    port, attempt = sender.socket.getsockname()[1], 7 << 40

    def negotiate(cookie: bytes) -> bytes:
        return frame(0x07, 0, struct.pack("!Q16sHH", attempt, cookie, 0, 1) + b"x")

    good = master.cookie(attempt, expiry, sender.address, port)
    refused = {
        "drop_cookie_missing": frame(0x07, 0, bytes(27)),
        "drop_cookie_generation": negotiate(bytes(16)),
        "drop_cookie_expired": negotiate(master.cookie(attempt, 1, sender.address, port)),
        "drop_cookie_forged": negotiate(master.cookie(attempt, expiry, sender.address, port + 1)),
    }
    for verdict, data in refused.items():
        sender.send(data)
        wait_until(partial(has, receiver, ("control", verdict), 1), what=verdict)
    taken = [negotiate(good), frame(0x00, 0, bytes(28))]
    for data in taken:
        sender.send(data)
    wait_until(partial(has, receiver, ("control", "steer"), 2))
    assert receiver.take(sender.version, "control") == taken


def test_a_class_without_a_socket_drops(receiver: Receiver, sender: Sender) -> None:
    for version in FAMILIES:
        receiver.sockets.pop((version, "job")).close()
    sender.send(frame(0x31, 700, b"", SESSION))
    wait_until(partial(has, receiver, ("job", "drop_no_socket"), 1))
    assert not [key for key in receiver.sockets if receiver.take(*key)]
