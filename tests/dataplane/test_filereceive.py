"""Receiving files through the application's interface, between nodes that are doubles."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.dataplane.double import DoubleNode
from tests.dataplane.test_node import both, until
from tests.dataplane.test_transfer import chunk, complete, start
from tests.lab import SOON_S
from valkyrie.dataplane.application.peer import Peer
from valkyrie.dataplane.application.refusal import StreamResetError
from valkyrie.dataplane.application.stream import Stream
from valkyrie.dataplane.files.filereceive import FILES_PEER_MAX, Arrival, receive_files
from valkyrie.dataplane.files.filesend import send_file
from valkyrie.dataplane.files.filestore import Directory, Part
from valkyrie.dataplane.files.transfer import CHUNK_SIZE, Have, Packet, TransferError
from valkyrie.dataplane.wire import Code, FileCode, Type

Nodes = tuple[DoubleNode, DoubleNode]
SIZE = 40 * CHUNK_SIZE + 7


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file to send."""
    (tmp_path / "out").mkdir()
    found = tmp_path / "out" / "x"
    found.write_bytes(os.urandom(SIZE))
    return found


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    found = tmp_path / "in"
    found.mkdir()
    return found


class Receiver:
    """Receives files in a task; its arrivals."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.arrivals: list[Arrival] = []

    async def next(self) -> Arrival:
        """Return the next arrival."""
        await until(lambda: self.arrivals)
        return self.arrivals.pop(0)


@asynccontextmanager
async def receiving(nodes: Nodes, inbox: Path, patience: float = 60) -> AsyncIterator[Receiver]:
    async with both(nodes) as (left, right):
        service = await right.listen("files", ordered=True)
        receiver = Receiver(await left.connect("right"))
        with Directory(inbox) as directory:
            task = asyncio.create_task(
                receive_files(
                    service, directory, arrived=receiver.arrivals.append, patience=patience
                )
            )
            try:
                yield receiver
            finally:
                task.cancel()
                await asyncio.wait({task})


async def say(stream: Stream, *packets: Packet) -> None:
    for packet in packets:
        await stream.send(packet.payload, type=packet.type)


def content(path: Path) -> bytes:
    return path.read_bytes()


async def heard(stream: Stream) -> tuple[int, int]:
    """Return type of the next message, and its code if it is a verdict."""
    message = await stream.recv(SOON_S)
    assert message is not None
    return message.type, int.from_bytes(message.payload[:4], "big")


async def test_a_sender_that_goes_away_leaves_a_part_that_is_gone_on_with(
    nodes: Nodes, inbox: Path, path: Path
) -> None:
    async with receiving(nodes, inbox) as receiver:
        whole = content(path)
        async with await receiver.peer.open("files", cls="data", ordered=True) as stream:
            first, second = whole[:CHUNK_SIZE], whole[CHUNK_SIZE : 2 * CHUNK_SIZE]
            await say(stream, start("x", SIZE), chunk(0, first), chunk(CHUNK_SIZE, second))
            await heard(stream)
            await until(lambda: (inbox / "x.part").stat().st_size == 2 * CHUNK_SIZE)
            stream.reset()
        assert isinstance((await receiver.next()).error, StreamResetError)
        sent = await send_file(receiver.peer, "files", path)
        assert sent.resumed == 2 * CHUNK_SIZE
    assert content(inbox / "x") == whole


@pytest.mark.parametrize(
    ("packets", "code"),
    [
        ([start("../x")], FileCode.NAME),
        ([start(), chunk(5, b"a gap")], FileCode.MALFORMED),
        ([start(), chunk(0, b"0123456789"), complete(b"another")], FileCode.DIGEST),
        ([Packet(Type.LOG_ENTRY, ack=False, payload=b"hello")], FileCode.MALFORMED),
    ],
)
async def test_a_sender_that_lies_is_told_so_and_the_others_are_served(
    nodes: Nodes, inbox: Path, path: Path, packets: list[Packet], code: FileCode
) -> None:
    async with receiving(nodes, inbox) as receiver:
        stream = await receiver.peer.open("files", cls="data", ordered=True)
        await say(stream, *packets)
        said = await heard(stream)
        if said[0] == Type.FILE_TRANSFER_START:
            said = await heard(stream)
        assert said == (Type.FILE_COMPLETE, code)
        arrival = await receiver.next()
        assert isinstance(arrival.error, TransferError)
        assert arrival.error.code == code
        assert (await send_file(receiver.peer, "files", path)).size == SIZE
    assert os.listdir(inbox) == ["x"]


async def test_a_file_for_which_there_is_no_descriptor_is_refused_and_the_others_are_served(
    nodes: Nodes, inbox: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with receiving(nodes, inbox) as receiver:
        with monkeypatch.context() as patched:
            patched.setattr(os, "dup", none)
            with pytest.raises(TransferError, match="Too many open files") as caught:
                await send_file(receiver.peer, "files", path)
        assert caught.value.code == FileCode.STORAGE
        assert isinstance((await receiver.next()).error, TransferError)
        assert (await send_file(receiver.peer, "files", path)).size == SIZE


async def test_a_sender_that_says_nothing_is_given_up(nodes: Nodes, inbox: Path) -> None:
    async with receiving(nodes, inbox, patience=0.05) as receiver:
        stream = await receiver.peer.open("files", cls="data", ordered=True)
        await say(stream, start())
        assert (await heard(stream))[0] == Type.FILE_TRANSFER_START
        assert await heard(stream) == (Type.FILE_COMPLETE, FileCode.SILENT)


async def test_a_part_that_takes_longer_to_hash_than_silence_may_last_is_resumed(
    nodes: Nodes, inbox: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience_s = 1.0
    resume = Part.resume

    def slow(part: Part, stop: Callable[[], bool]) -> Have:
        threading.Event().wait(1.5 * patience_s)
        return resume(part, stop)

    (inbox / "x.part").write_bytes(content(path)[:CHUNK_SIZE])
    monkeypatch.setattr(Part, "resume", slow)
    async with receiving(nodes, inbox, patience=patience_s) as receiver:
        sent = await send_file(receiver.peer, "files", path)
        assert sent.resumed == CHUNK_SIZE
    assert content(inbox / "x") == content(path)


async def test_a_sender_that_ends_early_is_told_so(nodes: Nodes, inbox: Path) -> None:
    async with receiving(nodes, inbox) as receiver:
        stream = await receiver.peer.open("files", cls="data", ordered=True)
        await say(stream, start())
        await stream.close_sending()
        await heard(stream)
        assert await heard(stream) == (Type.FILE_COMPLETE, FileCode.CANCELLED)


async def test_streams_that_may_lose_messages_are_not_taken(nodes: Nodes, inbox: Path) -> None:
    async with receiving(nodes, inbox) as receiver:
        stream = await receiver.peer.open("files", cls="logs")
        with pytest.raises(StreamResetError) as caught:
            await stream.recv(SOON_S)
        assert caught.value.code == Code.MALFORMED


async def test_one_peer_cannot_have_all_the_places(nodes: Nodes, inbox: Path) -> None:
    async with receiving(nodes, inbox) as receiver:
        streams = [
            await receiver.peer.open("files", cls="data", ordered=True)
            for _ in range(FILES_PEER_MAX + 1)
        ]
        with pytest.raises(StreamResetError) as caught:
            await streams[-1].recv(SOON_S)
        assert caught.value.code == Code.OVERLOAD
        streams[0].reset()
        await receiver.next()
        again = await receiver.peer.open("files", cls="data", ordered=True)
        await say(again, start())
        assert (await heard(again))[0] == Type.FILE_TRANSFER_START
