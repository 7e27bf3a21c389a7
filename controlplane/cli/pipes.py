"""Commands for shells: send what comes in on stdin, write what is received to stdout."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from cyclopts import Parameter, validators

from valkyrie.dataplane.application.refusal import RefusedError

from .client import DEFAULT_NODE, JsonOption, NodeOption, print_json, quiet_pipe
from .exits import Exit, reaching_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from valkyrie.dataplane.application.message import Message
    from valkyrie.dataplane.application.stream import Stream

CHUNK_SIZE = 32768
"""Bytes of a message when a whole file is sent: some of them always fit a ring."""


def send(
    peer: Annotated[str, Parameter(help="Peer by name or address, as the node knows it.")],
    service: Annotated[str, Parameter(help="Service there.")],
    /,
    *,
    stream: Annotated[
        int | None, Parameter(help="Stream id; it selects the class. Else a free one of --class.")
    ] = None,
    cls: Annotated[str, Parameter(name="--class", help="Class, where no stream is given.")] = "job",
    file: Annotated[
        Path | None, Parameter(help="Send this file in messages of --size bytes.")
    ] = None,
    whole: Annotated[
        bool, Parameter(negative="", help="Send stdin in messages of --size bytes, not by lines.")
    ] = False,
    size: Annotated[
        int,
        Parameter(help="Bytes of a message.", validator=validators.Number(gte=1, lte=65536)),
    ] = CHUNK_SIZE,
    stamp: Annotated[bool, Parameter(negative="", help="Put the time on every message.")] = False,
    timeout: Annotated[
        float | None, Parameter(help="Seconds to wait for room, and at the end for delivery.")
    ] = None,
    node: NodeOption = DEFAULT_NODE,
    json: JsonOption = False,
) -> int:
    """Send standard input to a service of a peer: a message a line, without its newline.

    It ends when all is delivered.
    """
    import valkyrie

    messages, size_sent = 0, 0
    with contextlib.ExitStack() as stack:
        source = sys.stdin.buffer if file is None else stack.enter_context(file.open("rb"))
        with reaching_node():
            attached = stack.enter_context(valkyrie.attach_sync(node, name="valkyrie-send"))
        to = attached.connect(peer).open(service, stream, cls=None if stream is not None else cls)
        stack.enter_context(to)
        pieces = _chunks(source, size) if whole or file is not None else _lines(source)
        for piece in pieces:
            to.send(piece, stamp=stamp, timeout=timeout)
            messages += 1
            size_sent += len(piece)
        to.flush(timeout)
        used = {"stream": to.id, "class": to.class_name}
    if json:
        print_json({"messages": messages, "bytes": size_sent, **used})
    return Exit.OK


def _lines(source: BinaryIO) -> Iterator[bytes]:
    for line in source:
        yield line.removesuffix(b"\n")


def _chunks(source: BinaryIO, size: int) -> Iterator[bytes]:
    while piece := source.read(size):
        yield piece


def recv(
    service: Annotated[str, Parameter(help="Service to offer.")],
    /,
    *,
    count: Annotated[
        int | None,
        Parameter(help="End after so many messages.", validator=validators.Number(gte=1)),
    ] = None,
    once: Annotated[bool, Parameter(negative="", help="End when the first stream ends.")] = False,
    raw: Annotated[bool, Parameter(negative="", help="Put nothing between messages.")] = False,
    timeout: Annotated[
        float | None, Parameter(help="Seconds to wait for the next message; then exit code 1.")
    ] = None,
    node: NodeOption = DEFAULT_NODE,
    json: JsonOption = False,
) -> int:
    """Offer a service and write what arrives to standard output: a line a message.

    With --json an object a message: payload as text where it is UTF-8, else payload_base64.
    """
    receiver = _Receiver(count, once=once, raw=raw, json=json)
    with quiet_pipe():
        asyncio.run(receiver.run(node, service, timeout))
    if receiver.trouble:
        print(f"valkyrie: {receiver.trouble}", file=sys.stderr)
        return Exit.FAILED
    return Exit.OK


class _Receiver:
    """Writes the messages of all streams as they come."""

    def __init__(self, count: int | None, *, once: bool, raw: bool, json: bool) -> None:
        self._left = count
        self._once = once
        self._raw = raw
        self._json = json
        self._done = asyncio.Event()
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.trouble = ""
        """Why it ended without what was asked for; empty = with it."""

    async def run(self, node: str, service: str, timeout_s: float | None) -> None:
        """Offer the service until there is enough."""
        import valkyrie

        async with contextlib.AsyncExitStack() as stack:
            with reaching_node():
                attached = await stack.enter_async_context(
                    valkyrie.attach(node, name="valkyrie-recv")
                )
            listening = await stack.enter_async_context(attached.listen(service))
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            self._tasks.append(tasks.create_task(self._accept(listening, tasks)))
            try:
                await self._wait(timeout_s)
            finally:
                for task in self._tasks:
                    task.cancel()

    async def _wait(self, timeout_s: float | None) -> None:
        """Wait for the end, or until nothing arrives for so long."""
        while not self._done.is_set():
            self._arrived.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._arrived.wait()
            except TimeoutError:
                self.trouble = f"nothing arrived within {timeout_s:g} s"
                return

    async def _accept(self, listening: Any, tasks: asyncio.TaskGroup) -> None:
        async for stream in listening:
            self._tasks.append(tasks.create_task(self._drain(stream)))

    async def _drain(self, stream: Stream) -> None:
        trouble = ""
        try:
            async with stream:
                async for message in stream:
                    if self._done.is_set():  # by another stream, meanwhile
                        return
                    self._write(stream, message)
                    if self._done.is_set():
                        return
        except RefusedError as error:  # its sender is gone; others may come
            trouble = f"stream {stream.id}: {error}"
        if self._once:
            self.trouble = trouble
            self._finish()
        elif trouble:
            print(f"valkyrie: {trouble}", file=sys.stderr)

    def _finish(self) -> None:
        self._done.set()
        self._arrived.set()

    def _write(self, stream: Stream, message: Message) -> None:
        if self._json:
            print_json(_document(stream, message))
        else:
            sys.stdout.buffer.write(message.payload if self._raw else message.payload + b"\n")
            sys.stdout.buffer.flush()
        self._arrived.set()
        if self._left is not None:
            self._left -= 1
            if not self._left:
                self._finish()


def _document(stream: Stream, message: Message) -> dict[str, Any]:
    document: dict[str, Any] = {
        "stream": message.stream,
        "class": stream.class_name,
        "peer": stream.peer,
        "sequence": message.sequence,
        "type": message.type_name,
        "time_ns": message.time_ns,
    }
    try:
        document["payload"] = message.payload.decode()
    except UnicodeDecodeError:
        document["payload_base64"] = base64.b64encode(message.payload).decode()
    return document
