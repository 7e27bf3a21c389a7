"""Sending a file to a service that receives them, from where it ended the last time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from valkyrie.dataplane.application.refusal import RefusedError
from valkyrie.dataplane.wire import FileCode, Type

from .filereceive import packet
from .filesource import STRIDE, Block, Source
from .filethread import Thread
from .transfer import PATIENCE_NS, Have, Packet, Sending, TransferError

if TYPE_CHECKING:
    from valkyrie.dataplane.application.peer import Peer
    from valkyrie.dataplane.application.stream import Stream

PARTING_S = 1.0
"""For the receiver to end the stream, once it has said that the file is stored."""


class Sent(NamedTuple):
    """A file that is stored at the receiver."""

    name: str
    size: int
    resumed: int
    """Bytes that the receiver had from the last time."""
    seconds: float


async def send_file(
    peer: Peer,
    service: str,
    path: Path | str,
    *,
    name: str = "",
    cls: str = "data",
    progress: Callable[[int], None] = lambda _: None,
    patience: float = PATIENCE_NS / 1e9,
) -> Sent:
    """Send a file; returns once the receiver has it, checked and on its disk.

    ``name``: under which it is stored, else its own. ``progress`` is called with the bytes that the
    receiver is done with. ``patience``: seconds of silence after which it is given up. A
    TransferError says why it was refused. What came stays at the receiver: the same call goes on
    there.
    """
    started_ns = time.monotonic_ns()
    with await _opened(path, name) as source:
        machine = Sending(source.offer, started_ns, int(patience * 1e9))
        stream = await peer.open(service, cls=cls, ordered=True)
        sender = _Sender(stream, source, machine, progress)
        await sender.run()
        seconds = (time.monotonic_ns() - started_ns) / 1e9
        return Sent(source.offer.name, source.offer.size, sender.resumed, seconds)


async def _opened(path: Path | str, name: str) -> Source:
    opening = asyncio.ensure_future(asyncio.to_thread(Source, path, name))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)  # the thread goes on
        raise


def _close(opening: asyncio.Future[Source]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


class _Sender:
    """One stream that takes a file."""

    def __init__(
        self, stream: Stream, source: Source, machine: Sending, progress: Callable[[int], None]
    ) -> None:
        self._stream = stream
        self._source = source
        self._machine = machine
        self._progress = progress
        self._thread = Thread(self._sign)
        self._have: asyncio.Future[Have] = asyncio.get_running_loop().create_future()
        self.resumed = 0

    async def run(self) -> None:
        """Send the file and wait for the receiver's word; raises what went wrong."""
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._send())]
        try:
            # The receiver may say no at any time, and then nobody takes what is sent.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            await tasks[0]
            await self._part()
        except TransferError as error:
            await self._finish(tasks)
            await self._give_up(error)
            raise
        except BaseException:
            await self._finish(tasks)
            if not self._stream.closed:
                self._stream.reset()
            raise
        finally:
            await self._finish(tasks)

    async def _part(self) -> None:
        """End the stream at both ends: its id is free again when the next file needs one."""
        stream = self._stream
        with contextlib.suppress(TimeoutError, RefusedError):  # the file is there all the same
            await stream.close_sending()
            while await stream.recv(PARTING_S) is not None:
                pass
        await stream.close()

    async def _finish(self, tasks: list[asyncio.Task[None]]) -> None:
        """Cancel tasks, and wait for their threads."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _give_up(self, error: TransferError) -> None:
        """Tell the receiver, if it does not know; nothing is waited for any more."""
        if error.code in (FileCode.CHANGED, FileCode.CANCELLED) and not self._stream.closed:
            with contextlib.suppress(Exception):
                await self._say(self._machine.give_up(error.code, error.text), timeout=0)
                await self._stream.close()
                return
        if not self._stream.closed:
            self._stream.reset()

    async def _listen(self) -> None:
        """Take what the receiver says until it has the file."""
        machine = self._machine
        while not machine.done:
            left_ns = machine.deadline_ns - time.monotonic_ns()
            try:
                message = await self._stream.recv(max(0.0, left_ns / 1e9))
            except TimeoutError:
                machine.check_silence(time.monotonic_ns())
                continue
            if message is None:
                raise TransferError(FileCode.CANCELLED, "the receiver ended without a word")
            have = machine.receive(packet(message), time.monotonic_ns())
            if have is not None:
                self._have.set_result(have)
            else:
                self._progress(machine.done_with)

    async def _send(self) -> None:
        machine, source, thread = self._machine, self._source, self._thread
        await self._say(machine.start())
        have = await self._have
        same = await thread.run(lambda: source.proves(have, thread.stopped))
        machine.proved(same=same)
        self.resumed = machine.offset
        reading = thread.start(source.read)
        try:
            while (block := await thread.result(reading)) is not None:
                reading = thread.start(source.read)
                await self._send_block(block)
                machine.sent(block.size)
        finally:
            await thread.drain(reading)
        await self._say(machine.complete(source.digest()))

    async def _send_block(self, block: Block) -> None:
        if block.full:
            await self._stream.send_many(block.full, STRIDE, type=Type.FILE_CHUNK)
        if block.rest:
            await self._stream.send(block.rest, type=Type.FILE_CHUNK)
        self._machine.said(time.monotonic_ns())

    async def _sign(self) -> None:
        await self._say(self._machine.sign())

    async def _say(self, said: Packet, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.send(said.payload, type=said.type, timeout=timeout)
        self._machine.said(time.monotonic_ns())
