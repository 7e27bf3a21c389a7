"""vk_reader: applications in C read messages of any size, and learn when there will be no more."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest

import valkyrie
from tests.aside import aside
from tests.dataplane.test_node import Nodes
from tests.dataplane.test_stream import sync_pair
from tests.lab import SOON_S, wait_until
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.application.stream import SyncStream
from valkyrie.dataplane.wire import Code

SOON_NS = int(SOON_S * 1e9)


class Reader:
    """A stream that C reads."""

    def __init__(self, stream: SyncStream, *, ordered: bool) -> None:
        flow = stream._flow
        self.client = flow.rings.client
        self._keep = flow
        self.reader = ffi.new("struct vk_reader *")
        self.whole = ffi.new("struct vk_whole *")
        opened = lib.vk_reader_open(self.reader, self.client, flow.inlet, flow.head, 0, ordered)
        assert opened == 0

    def next(self) -> bytes | int:
        """Return the next message, waiting for it, or -errno."""
        while not (found := lib.vk_reader_next(self.reader, self.whole)):
            assert lib.vk_client_wait(self.client, SOON_NS) == 1
        if found < 0:
            return int(found)
        return bytes(ffi.buffer(self.whole.payload, self.whole.size))


@contextmanager
def reading(stream: SyncStream, *, ordered: bool = False) -> Iterator[Reader]:
    reader = Reader(stream, ordered=ordered)
    try:
        yield reader
    finally:
        lib.vk_reader_close(reader.reader)


@pytest.mark.parametrize("stream", [100, 1000])
def test_messages_of_all_sizes_are_read_whole_and_their_room_is_given_back(
    nodes: Nodes, stream: int
) -> None:
    sizes = [0, 1, 64, 65_000, 65_537, 200_000, 5_000_000, 8, 3_000_000, 100]
    payloads = [Random(number).randbytes(size) for number, size in enumerate(sizes)]
    with sync_pair(nodes, stream) as (mine, theirs):

        def send() -> None:
            for payload in payloads:
                mine.send(payload, timeout=SOON_S)

        with reading(theirs, ordered=stream == 100) as reader, aside(send):
            assert [reader.next() for _ in payloads] == payloads
            assert reader.whole.records == 1
        flow = theirs._flow
        rx = flow.rings.client.rx[flow.ring]
        assert rx.head == rx.tail == flow.rings.client.self.head[flow.ring]
        assert flow.inlet.taken.cost >= sum(sizes) + len(sizes) * lib.VK_MESSAGE_COST


def test_nothing_is_read_ahead_of_the_reader(nodes: Nodes) -> None:
    with sync_pair(nodes, 1000) as (mine, theirs):
        flow = theirs._flow
        for number in range(10):
            mine.send(b"%d" % number)
        with reading(theirs) as reader:
            assert reader.next() == b"0"
            first = flow.rings.client.self.head[flow.ring]
            assert flow.inlet.taken.cost == lib.VK_MESSAGE_COST + 1
            assert reader.next() == b"1"
            assert flow.rings.client.self.head[flow.ring] > first
        assert [theirs.recv(SOON_S).payload for _ in range(8)] == [  # type: ignore[union-attr]
            b"%d" % number for number in range(2, 10)
        ]


def test_a_sender_that_gives_a_message_up_is_told_to_the_reader(nodes: Nodes) -> None:
    with sync_pair(nodes, 1000) as (mine, theirs):
        flow = mine._flow
        payload = ffi.new("uint8_t[]", 10_000_000)
        went = lib.vk_client_send_part(flow.rings.client, flow.outlet, payload, len(payload), 0)
        assert 0 < went < len(payload)
        wait_until(lambda: flow.rings.room(flow.ring) > 4096, SOON_S, "the worker reads the ring")
        mine.reset(Code.CANCELLED)
        with reading(theirs) as reader:
            assert reader.next() == -errno.ENOMSG
            assert reader.next() == -errno.ENOMSG, "it stays there until somebody takes it"
            entry = ffi.new("struct vk_entry *")
            ring = theirs._flow.ring
            assert lib.vk_client_receive(reader.client, ring, -1, -1, entry, 1) == 1
            assert entry.kind == lib.VK_RECORD_RESET


def test_a_message_of_another_stream_is_left_to_whom_it_is_for(nodes: Nodes) -> None:
    with (
        valkyrie.attach_sync(nodes[0].path) as left,
        valkyrie.attach_sync(nodes[1].path) as right,
        right.listen("service") as service,
    ):
        peer = left.connect("right")
        mine, other = (peer.open("service", stream=number) for number in (1000, 1001))
        theirs = service.accept(timeout=SOON_S)
        service.accept(timeout=SOON_S)
        mine.send(b"mine")
        other.send(b"other")
        with reading(theirs) as reader:
            assert reader.next() == b"mine"
            assert reader.next() == -errno.ENOMSG


def test_a_message_of_a_stream_that_had_the_number_before_is_left_alone(nodes: Nodes) -> None:
    with sync_pair(nodes, 1000) as (mine, theirs):
        former = theirs._flow.generation
        theirs._flow.bind(theirs._flow.number, former + 1)  # as if another had it by now
        with reading(theirs) as reader:
            mine.send(b"former")
            assert reader.next() == -errno.ENOMSG
        theirs._flow.bind(theirs._flow.number, former)
        message = theirs.recv(SOON_S)
        assert message is not None
        assert message.payload == b"former"
