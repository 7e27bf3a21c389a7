"""Receiving files: a service whose streams each bring one into a directory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from valkyrie.dataplane.application.refusal import RefusedError
from valkyrie.dataplane.errors import ValkyrieError
from valkyrie.dataplane.wire import Code, FileCode, Flag

from .filethread import Thread
from .transfer import PATIENCE_NS, Chunk, End, Offer, Packet, Receiving, TransferError

if TYPE_CHECKING:
    from valkyrie.dataplane.application.message import Message
    from valkyrie.dataplane.application.node import Service
    from valkyrie.dataplane.application.stream import Stream

    from .filestore import Directory, Part

FILES_MAX = 32
"""Files on their way at a time; more are refused as BUSY."""
FILES_PEER_MAX = 8
"""Of one peer, so that the others have their share."""
BATCH_MAX = 32
"""Messages that are written at a time."""
BATCHES_MAX = 1
"""That wait to be written: then the window of the stream closes."""


class Arrival(NamedTuple):
    """How the transfer of one file ended."""

    peer: int
    """Index at the node."""
    name: str
    """Empty: its sender did not say."""
    size: int
    resumed: int
    """Bytes that were there from the last time."""
    seconds: float
    error: TransferError | RefusedError | None
    """None: it is stored."""


def packet(message: Message) -> Packet:
    """Return a message as the state machines take it."""
    return Packet(message.type, bool(message.flags & Flag.ACK), message.payload)


class Reception:
    """One file: what its sender says becomes writes, which may block, and answers."""

    def __init__(
        self,
        directory: Directory,
        now_ns: int,
        patience_ns: int = PATIENCE_NS,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.machine = Receiving(now_ns, patience_ns)
        self._directory = directory
        self._stop = stop
        self._part: Part | None = None
        self.resumed = 0
        """Bytes that were there from the last time, and were good."""
        self.error: TransferError | None = None

    @property
    def done_with(self) -> int:
        """Bytes that are written, or looked at while it is being resumed."""
        return self._part.size if self._part is not None else 0

    def take(self, packets: Sequence[Packet], now_ns: int) -> list[Packet]:
        """Do what the sender says, and return what to answer."""
        answers: list[Packet] = []
        try:
            chunks: list[Chunk] = []
            for each in packets:
                event = self.machine.receive(each, now_ns)
                if isinstance(event, Chunk):
                    chunks.append(event)
                elif event is not None:
                    self._write(chunks)
                    chunks = []
                    answers.append(self._answer(event))
                if self.machine.done:
                    break
            self._write(chunks)
        except TransferError as error:
            answers.append(self.fail(error))
        return answers

    def fail(self, error: TransferError) -> Packet:
        """End it without the file, and return what to tell the sender."""
        self.error = error
        self.close()
        return self.machine.refuse(error)

    def close(self) -> None:
        """Let go of the part, which stays for the next time."""
        if self._part is not None:
            self._part.close()

    def _answer(self, event: Offer | End) -> Packet:
        if isinstance(event, Offer):
            self._part = self._directory.open(event)
            have = self._part.resume(self._stop)
            self.resumed = have.size
            return self.machine.have(have)
        assert self._part is not None
        self._part.finish(event.digest)
        answer = self.machine.stored()
        self.close()
        return answer

    def _write(self, chunks: list[Chunk]) -> None:
        if not chunks:
            return
        assert self._part is not None
        if chunks[0].offset == 0:
            self.resumed = 0
        self._part.write(chunks)


class _Arriving:
    """One stream that brings a file."""

    def __init__(self, stream: Stream, directory: Directory, patience_ns: int) -> None:
        self._stream = stream
        self._thread = Thread(self._sign)
        now_ns = time.monotonic_ns()
        self._started_ns = now_ns
        self.reception = Reception(directory, now_ns, patience_ns, self._thread.stopped)
        self._batches: asyncio.Queue[list[Message] | ValkyrieError] = asyncio.Queue(BATCHES_MAX)
        self._first: Message | None = None

    async def run(self) -> Arrival:
        """Receive the file; what the other side does ends in the Arrival."""
        error: TransferError | RefusedError | None = None
        reader = asyncio.create_task(self._read())
        try:
            async with self._stream:
                await self._receive()
        except RefusedError as refused:
            error = refused
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader
            self.reception.close()
        offer = self.reception.machine.offer
        seconds = (time.monotonic_ns() - self._started_ns) / 1e9
        return Arrival(
            self._stream.peer,
            offer.name,
            offer.size,
            self.reception.resumed,
            seconds,
            self.reception.error or error,
        )

    async def _read(self) -> None:
        try:
            while messages := await self._stream.recv_many(BATCH_MAX):
                await self._batches.put(messages)
            await self._batches.put([])
        except ValkyrieError as error:  # in its turn: what came before it counts
            await self._batches.put(error)

    async def _receive(self) -> None:
        machine = self.reception.machine
        while not machine.done:
            try:
                messages = await self._next()
            except TransferError as error:
                await self._say(self.reception.fail(error))
                return
            self._first = self._first or messages[0]
            packets = [packet(message) for message in messages]
            take = partial(self.reception.take, packets, time.monotonic_ns())
            for answer in await self._thread.run(take):
                await self._say(answer)
            machine.ready(time.monotonic_ns())
            if machine.sign_due(time.monotonic_ns()) and not machine.done:
                await self._sign()

    async def _next(self) -> list[Message]:
        """Return the next messages; TransferError when there are none for too long, or no more."""
        machine = self.reception.machine
        while True:
            left_ns = machine.deadline_ns - time.monotonic_ns()
            try:
                async with asyncio.timeout(max(0.0, left_ns / 1e9)):
                    messages = await self._batches.get()
            except TimeoutError:
                machine.check_silence(time.monotonic_ns())
                continue
            if isinstance(messages, ValkyrieError):
                raise messages
            if not messages:
                raise TransferError(FileCode.CANCELLED, "the sender ended without the whole file")
            return messages

    async def _sign(self) -> None:
        if self._first is not None:
            await self._say(self.reception.machine.progress(self.reception.done_with))

    async def _say(self, answer: Packet) -> None:
        if self._first is None:
            return
        await self._stream.reply(self._first, answer.payload, type=answer.type)
        self.reception.machine.said(time.monotonic_ns())


async def receive_file(
    stream: Stream,
    directory: Directory,
    *,
    patience: float = PATIENCE_NS / 1e9,
) -> Arrival:
    """Receive the file that a stream brings, which was opened on an ordered service.

    ``patience``: seconds of silence after which its sender is given up.
    """
    return await _Arriving(stream, directory, int(patience * 1e9)).run()


async def receive_files(
    service: Service,
    directory: Directory,
    *,
    arrived: Callable[[Arrival], None] = lambda _: None,
    patience: float = PATIENCE_NS / 1e9,
) -> None:
    """Receive the files that peers send to a service, until this is cancelled.

    The service has to be read in order: ``node.listen(name, ordered=True)``. ``arrived`` is called
    with each file that came, or did not.
    """
    peers: Counter[int] = Counter()

    async def receive(stream: Stream) -> None:
        try:
            arrived(await receive_file(stream, directory, patience=patience))
        finally:
            peers[stream.peer] -= 1

    async with asyncio.TaskGroup() as tasks:
        async for stream in service:
            if not stream.ordered:  # logs, which may lose chunks
                stream.reset(Code.MALFORMED)
                continue
            if peers.total() >= FILES_MAX or peers[stream.peer] >= FILES_PEER_MAX:
                stream.reset(Code.OVERLOAD)
                continue
            peers[stream.peer] += 1
            tasks.create_task(receive(stream))
