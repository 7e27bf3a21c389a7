"""Commands for shells: lines and files between processes, over nodes that are doubles."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

import valkyrie as dataplane
from tests.dataplane.double import Fabric
from tests.lab import PATIENCE, wait_until
from valkyrie.controlplane.cli import files, pipes
from valkyrie.controlplane.cli.exits import Exit
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.message import Message
from valkyrie.dataplane.files.filereceive import Arrival

from .test_cli import VALKYRIE, refused, valkyrie


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    made = Fabric(tmp_path)
    yield made
    made.close()


@contextlib.contextmanager
def receiving(
    fabric: Fabric, *arguments: str, stdout: Any = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``valkyrie recv svc`` at the right node, and wait until it listens."""
    node = fabric.nodes[1]
    process = subprocess.Popen(
        [*VALKYRIE, "recv", "svc", "--node", node.path, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(
            lambda: appsocket.Listen("svc") in node.requests or process.poll() is not None, 20
        )
        yield process
    finally:
        process.kill()
        process.communicate()


def test_lines_cross_from_shell_to_shell(fabric: Fabric) -> None:
    with receiving(fabric, "--once") as receiver:
        sender = valkyrie(
            "send", "right", "svc", "--node", fabric.nodes[0].path, "--json", text="one\n\nthree"
        )
        printed, complaint = receiver.communicate(timeout=10 * PATIENCE)
    assert sender.returncode == Exit.OK, sender.stderr
    assert json.loads(sender.stdout)["messages"] == 3
    assert (printed, complaint) == (b"one\n\nthree\n", b"")
    assert receiver.returncode == Exit.OK


def test_what_is_sent_to_a_slow_reader_arrives_before_the_sender_ends(fabric: Fabric) -> None:
    count = 100
    left, right = fabric.nodes
    with dataplane.attach_sync(right.path) as reader, reader.listen("svc") as service:
        sender = subprocess.Popen(
            [*VALKYRIE, "send", "right", "svc", "--node", left.path], stdin=subprocess.PIPE
        )

        def waits() -> bool:
            held = [kind for end in list(left.flows.values()) for kind, *_ in list(end.held)]
            return lib.VK_RECORD_FLUSH in held

        try:
            assert sender.stdin is not None
            with sender.stdin as lines:
                lines.write(count * (b"x" * 2000 + b"\n"))
            stream = service.accept(timeout=20)
            wait_until(lambda: waits() or sender.poll() is not None, 20)
            assert [len(message.payload) for message in stream] == [2000] * count
            assert sender.wait(10 * PATIENCE) == Exit.OK
        finally:
            sender.kill()
            sender.wait()


def test_recv_ends_quietly_when_its_reader_goes_away(fabric: Fabric) -> None:
    with receiving(fabric) as receiver:
        assert receiver.stdout is not None
        receiver.stdout.close()
        receiver.stdout = None
        valkyrie("send", "right", "svc", "--node", fabric.nodes[0].path, text="x\n")
        _, complaint = receiver.communicate(timeout=10 * PATIENCE)
    assert (complaint, receiver.returncode) == (b"", Exit.OK)


def test_recv_on_a_full_disk_says_so_in_one_line(fabric: Fabric) -> None:
    with Path("/dev/full").open("wb") as full, receiving(fabric, stdout=full) as receiver:
        valkyrie("send", "right", "svc", "--node", fabric.nodes[0].path, text="x\n")
        _, complaint = receiver.communicate(timeout=10 * PATIENCE)
    assert (complaint, receiver.returncode) == (
        b"valkyrie: No space left on device\n",
        Exit.FAILED,
    )


class Two:
    """Two messages of a stream that are there at once."""

    id = 100

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[Message]:
        for sequence in range(2):
            yield Message(b"x", 100, sequence, 0, 0, 0, 0, 0)


async def test_recv_writes_no_more_than_it_was_asked_for(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    receiver = pipes._Receiver(1, once=False, raw=False, json=False)
    stream: Any = Two()
    await receiver._drain(stream)
    await receiver._drain(stream)
    assert capsysbinary.readouterr().out == b"x\n"


async def test_receive_files_ends_well_though_one_file_more_came(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def receive(*_: object, arrived: Callable[[Arrival], None], **__: object) -> None:
        for name in "ab":
            arrived(Arrival(0, name, 0, 0, 0.0, None))
        await asyncio.Event().wait()

    monkeypatch.setattr(dataplane, "receive_files", receive)
    await files._Receiving(1, json=False).run(fabric.nodes[0].path, "files", None, 60.0)


class Name(str):
    """Counts how often it is compared."""

    __slots__ = ()

    compared = 0

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_names_that_are_there_twice_are_found_in_one_pass() -> None:
    names = [Name(number) for number in range(1000)]
    assert files.twice(names) is None
    assert files.twice([*names, Name("7")]) == "7"
    assert Name.compared < 10_000


def test_a_file_crosses_as_it_is(fabric: Fabric, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(20_000))
    with receiving(fabric, "--once", "--raw") as receiver:
        sender = valkyrie(
            *("send", "right", "svc", "--node", fabric.nodes[0].path),
            *("--class", "data", "--file", path, "--size", "4096"),
        )
        printed, _ = receiver.communicate(timeout=10 * PATIENCE)
    assert sender.returncode == Exit.OK, sender.stderr
    assert printed == path.read_bytes()


def test_messages_are_told_as_json(fabric: Fabric) -> None:
    with receiving(fabric, "--count", "2", "--json") as receiver:
        valkyrie(
            *("send", "right", "svc", "--node", fabric.nodes[0].path),
            *("--stream", "150", "--stamp"),
            text="a\nb\nc\n",
        )
        printed, _ = receiver.communicate(timeout=10 * PATIENCE)
    first, second = map(json.loads, printed.splitlines())
    assert (first["payload"], second["payload"]) == ("a", "b")
    assert (first["stream"], first["class"], first["sequence"]) == (150, "job", 0)
    assert first["time_ns"] > 0
    assert receiver.returncode == Exit.OK


def test_a_service_that_is_not_there_is_code_1(fabric: Fabric) -> None:
    result = valkyrie("send", "right", "nobody", "--node", fabric.nodes[0].path, text="x")
    refused(result, Exit.FAILED, "no_service")


def test_a_peer_that_is_not_there_is_code_1(fabric: Fabric) -> None:
    result = valkyrie("send", "middle", "svc", "--node", fabric.nodes[0].path, text="x")
    refused(result, Exit.FAILED, "no_peer")


def test_nothing_arriving_is_code_1(fabric: Fabric) -> None:
    with receiving(fabric, "--timeout", "0.1") as receiver:
        _, complaint = receiver.communicate(timeout=10 * PATIENCE)
    assert receiver.returncode == Exit.FAILED
    assert b"nothing arrived within 0.1 s" in complaint
