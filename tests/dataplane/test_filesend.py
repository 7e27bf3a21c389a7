"""Sending files through the application's interface, between nodes that are doubles."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.dataplane.test_filereceive import (
    SIZE,
    Nodes,
    content,
    heard,
    inbox,
    path,
    receiving,
)
from tests.dataplane.test_node import both, until
from tests.dataplane.test_transfer import have
from tests.lab import SOON_S
from valkyrie.dataplane.application.node import Service
from valkyrie.dataplane.application.peer import Peer
from valkyrie.dataplane.application.refusal import StreamResetError
from valkyrie.dataplane.application.stream import Stream
from valkyrie.dataplane.errors import ValkyrieError
from valkyrie.dataplane.files import filesend
from valkyrie.dataplane.files.filereceive import FILES_PEER_MAX
from valkyrie.dataplane.files.filesend import send_file
from valkyrie.dataplane.files.filesource import Source
from valkyrie.dataplane.files.transfer import CHUNK_SIZE, Packet, TransferError, verdict
from valkyrie.dataplane.wire import FileCode, Type

__all__ = ["inbox", "path"]


@asynccontextmanager
async def listening(nodes: Nodes) -> AsyncIterator[tuple[Peer, Service]]:
    """Give a peer, and a service there that the test answers for."""
    async with both(nodes) as (left, right):
        yield await left.connect("right"), await right.listen("files", ordered=True)


async def answer(stream: Stream, *packets: Packet) -> None:
    """Take the offer that comes, and answer it."""
    message = await stream.recv(SOON_S)
    assert message is not None
    for packet in packets:
        await stream.reply(message, packet.payload, type=packet.type)


async def to_the_end(stream: Stream) -> None:
    while await stream.recv(SOON_S) is not None:
        pass


async def test_a_file_crosses_and_its_sender_sees_how_far_it_is(
    nodes: Nodes, inbox: Path, path: Path
) -> None:
    async with receiving(nodes, inbox) as receiver:
        steps: list[int] = []
        sent = await send_file(receiver.peer, "files", path, progress=steps.append)
        assert (sent.name, sent.size, sent.resumed) == ("x", SIZE, 0)
        assert steps == sorted(steps)
        assert steps[-1] == SIZE
        arrival = await receiver.next()
        assert (arrival.name, arrival.size, arrival.error) == ("x", SIZE, None)
    assert content(inbox / "x") == content(path)


async def test_several_files_cross_at_a_time(nodes: Nodes, inbox: Path, path: Path) -> None:
    async with receiving(nodes, inbox) as receiver:
        names = [f"file-{number}" for number in range(FILES_PEER_MAX)]
        async with asyncio.TaskGroup() as tasks:
            for name in names:
                tasks.create_task(send_file(receiver.peer, "files", path, name=name))
        assert sorted(os.listdir(inbox)) == names


async def test_a_receiver_may_refuse_while_the_file_is_sent(nodes: Nodes, path: Path) -> None:
    async with listening(nodes) as (peer, service):
        sending = asyncio.create_task(send_file(peer, "files", path))
        stream = await service.accept(SOON_S)
        no = Packet(Type.FILE_COMPLETE, ack=True, payload=verdict(FileCode.STORAGE, "broken disk"))
        await answer(stream, have(0, b""), no)  # and takes nothing of what comes
        with pytest.raises(TransferError, match="broken disk"):
            await asyncio.wait_for(sending, SOON_S)


async def test_a_receiver_that_ends_without_a_word_is_noticed(nodes: Nodes, path: Path) -> None:
    async with listening(nodes) as (peer, service):
        sending = asyncio.create_task(send_file(peer, "files", path))
        stream = await service.accept(SOON_S)
        await stream.close()
        with pytest.raises(TransferError, match="without a word"):
            await asyncio.wait_for(sending, SOON_S)


async def test_a_receiver_that_says_nothing_is_given_up(nodes: Nodes, path: Path) -> None:
    async with listening(nodes) as (peer, service):
        with pytest.raises(TransferError) as caught:
            await send_file(peer, "files", path, patience=0.05)
        assert caught.value.code == FileCode.SILENT
        stream = await service.accept(SOON_S)
        with pytest.raises(StreamResetError):
            await to_the_end(stream)


async def test_a_file_that_shrinks_ends_the_transfer_on_both_sides(
    nodes: Nodes, inbox: Path, path: Path
) -> None:
    async with listening(nodes) as (peer, service):
        sending = asyncio.create_task(send_file(peer, "files", path))
        stream = await service.accept(SOON_S)
        os.truncate(path, CHUNK_SIZE)
        await answer(stream, have(0, b""))
        with pytest.raises(TransferError, match="changed while it was sent"):
            await asyncio.wait_for(sending, SOON_S)
        assert await heard(stream) == (Type.FILE_COMPLETE, FileCode.CHANGED)


async def test_cancelling_a_transfer_resets_its_stream(nodes: Nodes, path: Path) -> None:
    async with listening(nodes) as (peer, service):
        sending = asyncio.create_task(send_file(peer, "files", path))
        stream = await service.accept(SOON_S)
        await answer(stream, have(0, b""))
        sending.cancel()
        await asyncio.wait({sending})
        with pytest.raises(StreamResetError):
            await to_the_end(stream)


async def test_who_is_cancelled_while_a_file_is_opened_leaves_it_closed(
    nodes: Nodes, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, go_on = threading.Event(), threading.Event()
    opened: list[Source] = []

    def slowly(*arguments: object) -> Source:
        opening.set()
        assert go_on.wait(SOON_S)
        opened.append(Source(*arguments))  # type: ignore[arg-type]
        return opened[0]

    monkeypatch.setattr(filesend, "Source", slowly)
    async with listening(nodes) as (peer, _):
        sending = asyncio.create_task(send_file(peer, "files", path))
        await until(opening.is_set)
        sending.cancel()
        await asyncio.wait({sending})
        go_on.set()
        await until(lambda: opened and opened[0]._fd < 0)


async def test_a_file_whose_size_the_kernel_does_not_tell_is_not_stored_as_an_empty_one(
    nodes: Nodes, inbox: Path
) -> None:
    async with receiving(nodes, inbox) as receiver:
        with pytest.raises(TransferError, match="more than the 0 bytes") as caught:
            await send_file(receiver.peer, "files", "/proc/self/status")
        assert caught.value.code == FileCode.CHANGED
        assert (await receiver.next()).error is not None
    assert not os.listdir(inbox)


async def test_only_plain_files_are_sent(nodes: Nodes, tmp_path: Path) -> None:
    async with both(nodes) as (left, _):
        peer = await left.connect("right")
        with pytest.raises(ValkyrieError, match="no plain file"):
            await send_file(peer, "files", tmp_path)
        with pytest.raises(FileNotFoundError):
            await send_file(peer, "files", tmp_path / "none")
