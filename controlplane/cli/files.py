"""Commands for files: send them to a service of a peer, and receive them into a directory."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyclopts import Parameter, validators

from valkyrie.dataplane.errors import ConfigError, ValkyrieError

from .client import DEFAULT_NODE, JsonOption, NodeOption, print_json, quiet_pipe
from .exits import Exit, exit_code, message, reaching_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from valkyrie.dataplane.application.node import Node
    from valkyrie.dataplane.files.filereceive import Arrival
    from valkyrie.dataplane.files.filesend import Sent

PARALLEL = 4
"""Files on their way at a time: small ones wait for round trips and disks, not for the network."""
RING_SIZE = 4 << 20
"""Bytes of the rings, so that a round trip of a long, fast path fits."""
RETRY_S = 0.2
"""Between tries."""
SERVICE = "files"
PATIENCE_S = 60.0
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

TimeoutOption = Annotated[
    float,
    Parameter(help="Seconds of silence to give up after.", validator=validators.Number(gt=0)),
]


class Destination(NamedTuple):
    """Where files go to."""

    peer: str
    service: str
    name: str
    """Of the file there; empty = its own."""


def destination(text: str) -> Destination:
    """Return the parts of ``PEER:SERVICE[/NAME]``; the peer may be an IPv6 address."""
    peer, _, rest = text.rpartition(":")
    service, _, name = rest.partition("/")
    peer = peer.removeprefix("[").removesuffix("]")
    if not peer or not service:
        raise ConfigError(f"{text!r} is no destination: write PEER:SERVICE or PEER:SERVICE/NAME")
    return Destination(peer, service, name)


def size_of(text: str) -> int:
    """Return the bytes that ``10G`` means."""
    found = re.fullmatch(r"(\d+)([KMGT]?)", text.upper())
    if found is None or int(found[1]) == 0:
        raise ConfigError(f"{text!r} is no size: write bytes, or for example 500M or 10G")
    return int(found[1]) * _UNITS[found[2]]


def twice(names: Sequence[str]) -> str | None:
    """Return a name that is there more than once, if there is one."""
    name, count = Counter(names).most_common(1)[0]
    return name if count > 1 else None


def cp(
    *items: Annotated[str, Parameter(help="FILE..., then PEER:SERVICE or PEER:SERVICE/NAME.")],
    cls: Annotated[str, Parameter(name="--class", help="Class of the streams.")] = "data",
    retry: Annotated[
        float,
        Parameter(help="Seconds to go on trying where the connection, or the receiver, is gone."),
    ] = 0.0,
    timeout: TimeoutOption = PATIENCE_S,
    node: NodeOption = DEFAULT_NODE,
    json: JsonOption = False,
) -> int:
    """Send files to a service of a peer, where valkyrie receive-files stores them.

    Each is checked by its SHA-256 and takes its place at once, when it is complete. A transfer that
    broke goes on where it ended when the same command runs again.
    """
    if len(items) < 2:
        raise ConfigError("write the files to send, then PEER:SERVICE or PEER:SERVICE/NAME")
    to = destination(items[-1])
    paths = [Path(item) for item in items[:-1]]
    if to.name and len(paths) > 1:
        raise ConfigError(f"{len(paths)} files cannot all be {to.name!r}: leave the name out")
    names = [to.name or path.name for path in paths]
    if (name := twice(names)) is not None:
        raise ConfigError(f"{name!r} is there more than once: send one after the other")
    with _bar(paths, shown=not json) as moved:
        job = _Copying(to, cls, retry, timeout, moved, json=json)
        with quiet_pipe():
            return asyncio.run(job.run(node, paths))


@contextlib.contextmanager
def _bar(paths: Sequence[Path], *, shown: bool) -> Iterator[Callable[[Path, int], None]]:
    """Show how far the files are, on a terminal; yields what takes a file and its bytes done."""
    if not shown or not sys.stderr.isatty():
        yield lambda _path, _size: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        rows = {
            path: progress.add_task(path.name, total=path.stat().st_size, start=False)
            for path in paths
            if path.is_file()
        }

        def moved(path: Path, size: int) -> None:
            progress.start_task(rows[path])
            progress.update(rows[path], completed=size)

        yield moved


class _Copying:
    """Files that go to one destination."""

    def __init__(
        self,
        to: Destination,
        cls: str,
        retry_s: float,
        patience_s: float,
        moved: Callable[[Path, int], None],
        *,
        json: bool,
    ) -> None:
        self._to = to
        self._cls = cls
        self._end_s = time.monotonic() + retry_s
        self._patience_s = patience_s
        self._moved = moved
        self._json = json
        self._slots = asyncio.Semaphore(PARALLEL)
        self._exit: int = Exit.OK

    async def run(self, node: str, paths: list[Path]) -> int:
        """Send the files; returns the exit code, that of the first which failed."""
        import valkyrie

        async with contextlib.AsyncExitStack() as stack:
            with reaching_node():
                attached = await stack.enter_async_context(
                    valkyrie.attach(node, name="valkyrie-cp", ring_size=RING_SIZE)
                )
            async with asyncio.TaskGroup() as tasks:
                for path in paths:
                    tasks.create_task(self._copy(attached, path))
        return self._exit

    async def _copy(self, node: Node, path: Path) -> None:
        async with self._slots:
            try:
                sent = await self._send(node, path)
            except (ValkyrieError, OSError) as error:
                self._exit = self._exit or exit_code(error)
                if self._json:
                    print_json({"file": str(path), "error": message(error)})
                else:
                    said = message(error)
                    what = "" if said.startswith((f"{path}:", f"{path} ")) else f"{path}: "
                    print(f"valkyrie: {what}{said}", file=sys.stderr)
                return
            self._moved(path, sent.size)
            if self._json:
                print_json({"file": str(path), **_sent(sent)})

    async def _send(self, node: Node, path: Path) -> Sent:
        """Send a file, trying again for as long as there is time."""
        import valkyrie

        while True:
            try:
                peer = await node.connect(self._to.peer)
                return await valkyrie.send_file(
                    peer,
                    self._to.service,
                    path,
                    name=self._to.name,
                    cls=self._cls,
                    progress=lambda size: self._moved(path, size),
                    patience=self._patience_s,
                )
            except ValkyrieError as error:
                if time.monotonic() >= self._end_s or not _may_pass(error):
                    raise
            await asyncio.sleep(RETRY_S)


def _may_pass(error: ValkyrieError) -> bool:
    """Say whether another try may go better: the receiver or the way to it was gone."""
    from valkyrie.dataplane.application import refusal
    from valkyrie.dataplane.files.transfer import TransferError
    from valkyrie.dataplane.wire import Code, FileCode

    if isinstance(error, TransferError):
        return error.code in (FileCode.SILENT, FileCode.BUSY, FileCode.CANCELLED)
    if isinstance(error, refusal.PolicyError | refusal.NoPeerError):
        return False
    passing = isinstance(error, refusal.RefusedError)
    return passing and error.code != Code.MALFORMED  # type: ignore[attr-defined]


def _sent(sent: Sent) -> dict[str, Any]:
    return {
        "name": sent.name,
        "bytes": sent.size,
        "resumed": sent.resumed,
        "seconds": round(sent.seconds, 6),
    }


def receive_files(
    directory: Annotated[Path, Parameter(help="Where files are stored. Nothing goes elsewhere.")],
    /,
    *,
    service: Annotated[str, Parameter(help="Service to offer.")] = SERVICE,
    max_size: Annotated[
        str, Parameter(help="Bytes of the largest file; K, M, G, T may follow.")
    ] = "1T",
    replace: Annotated[
        bool, Parameter(help="Whether a file takes the place of one with the same name.")
    ] = True,
    sync: Annotated[
        bool, Parameter(help="Whether a file is on the disk before its sender hears of it.")
    ] = True,
    count: Annotated[
        int | None, Parameter(help="End after so many files.", validator=validators.Number(gte=1))
    ] = None,
    timeout: TimeoutOption = PATIENCE_S,
    node: NodeOption = DEFAULT_NODE,
    json: JsonOption = False,
) -> int:
    """Receive the files that peers send with valkyrie cp, and print a line for each.

    A file that is not complete is NAME.part; it gets its name when all is there, its SHA-256 is
    right and it is on the disk. Needs no privilege but to write the directory.
    """
    from valkyrie.dataplane.files.filestore import Directory, Rules

    rules = Rules(size_max=size_of(max_size), replace=replace, sync=sync)
    with quiet_pipe(), Directory(directory, rules) as opened:
        receiving = _Receiving(count, json=json)
        asyncio.run(receiving.run(node, service, opened, timeout))
    return Exit.OK


class _Receiving:
    """Prints what comes."""

    def __init__(self, count: int | None, *, json: bool) -> None:
        self._left = count
        self._json = json
        self._task: asyncio.Task[None] | None = None

    async def run(self, node: str, service: str, directory: Any, patience_s: float) -> None:
        """Offer the service until there were enough files."""
        import valkyrie

        async with contextlib.AsyncExitStack() as stack:
            with reaching_node():
                attached = await stack.enter_async_context(
                    valkyrie.attach(node, name="valkyrie-files", ring_size=RING_SIZE)
                )
            listening = await stack.enter_async_context(attached.listen(service, ordered=True))
            self._task = asyncio.create_task(
                valkyrie.receive_files(
                    listening, directory, arrived=self._arrived, patience=patience_s
                )
            )
            try:
                await self._task
            except asyncio.CancelledError:
                if self._left is None or self._left > 0:
                    raise

    def _arrived(self, arrival: Arrival) -> None:
        self._print(arrival)
        if arrival.error is None and self._left is not None:
            self._left -= 1
            if self._left == 0 and self._task is not None:
                self._task.cancel()

    def _print(self, arrival: Arrival) -> None:
        if self._json:
            document: dict[str, Any] = {
                "name": arrival.name,
                "peer": arrival.peer,
                "bytes": arrival.size,
                "resumed": arrival.resumed,
                "seconds": round(arrival.seconds, 6),
            }
            if arrival.error is not None:
                document["error"] = message(arrival.error)
            print_json(document)
        elif arrival.error is not None:
            what = arrival.name or "a file"
            print(f"valkyrie: {what}: {message(arrival.error)}", file=sys.stderr, flush=True)
        else:
            print(f"{arrival.name} {arrival.size} bytes", flush=True)
