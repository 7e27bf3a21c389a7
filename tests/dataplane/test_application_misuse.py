"""What an application is told when it asks for what makes no sense."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import valkyrie
from tests.aside import aside
from tests.lab import SOON_S, wait_until
from valkyrie.dataplane.application import driver
from valkyrie.dataplane.application import node as node_module
from valkyrie.dataplane.application.attachment import TIMEOUT_MAX_S, deadline
from valkyrie.dataplane.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.dataplane.double import DoubleNode

Nodes = tuple["DoubleNode", "DoubleNode"]


@pytest.fixture
def stream(nodes: Nodes) -> Iterator[valkyrie.SyncStream]:
    with (
        valkyrie.attach_sync(nodes[1].path) as right,
        right.listen("echo"),
        valkyrie.attach_sync(nodes[0].path) as left,
        left.connect("right").open("echo", cls=valkyrie.Class.JOB) as opened,
    ):
        assert opened.class_name == "job"
        yield opened


Wrong = dict[str, tuple["Callable[[Any], object]", type[Exception], str]]

CALLS: Wrong = {
    "send text": (lambda s: s.send("hello"), TypeError, "not str: encode it"),
    "send a number": (lambda s: s.send(5), TypeError, "not int"),
    "send text with options": (lambda s: s.send("x", eos=True), TypeError, "not str: encode"),
    "request by text": (lambda s: s.request("x"), TypeError, "not str: encode it"),
    "send many texts": (lambda s: s.send_many(["x"]), TypeError, "list of payloads"),
    "send what a generator gives": (lambda s: s.send_many(iter([b"x"])), TypeError, "a list"),
    "cut a list": (lambda s: s.send_many([b"xx"], 1), LocalProtocolError, "size cuts one buffer"),
    "correlation": (lambda s: s.send(b"", correlation=-1), LocalProtocolError, "0 to 4294967295"),
    "priority": (lambda s: s.send(b"", priority=256), LocalProtocolError, "0 to 255"),
    "timeout in words": (lambda s: s.recv(timeout="5"), TypeError, "real number"),
    "timeout that is no number": (lambda s: s.recv(timeout=float("nan")), ValueError, "NaN"),
    "no messages": (lambda s: s.recv_many(0), LocalProtocolError, "1 message or more"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_argument_is_named_and_the_stream_goes_on(
    stream: valkyrie.SyncStream, call: str
) -> None:
    wrong, kind, says = CALLS[call]
    with pytest.raises(kind, match=says):
        wrong(stream)
    stream.send(b"fine")
    assert stream.counts.sent == 1


def test_a_payload_counts_in_bytes_whatever_its_items_are(stream: valkyrie.SyncStream) -> None:
    large: Any = array.array("d", bytes(80_000))
    stream.send(large, stamp=True)
    assert stream.counts.sent_bytes == 80_000


OPENS: Wrong = {
    "below": (lambda p: p.open("echo", -1), LocalProtocolError, "ids are 0 to 4294967295"),
    "above": (lambda p: p.open("echo", 1 << 32), LocalProtocolError, "ids are 0 to"),
    "text": (lambda p: p.open("echo", "100"), TypeError, "integer"),
    "no name": (lambda p: p.open(5, 100), TypeError, "a service is a name, not 5"),
    "control": (lambda p: p.open("echo", cls=valkyrie.Class.CONTROL), LocalProtocolError, "class"),
}


@pytest.mark.parametrize("case", OPENS)
def test_a_stream_that_cannot_be_is_not_opened(nodes: Nodes, case: str) -> None:
    wrong, kind, says = OPENS[case]
    with valkyrie.attach_sync(nodes[0].path) as node:
        peer = node.connect("right")
        with pytest.raises(kind, match=says):
            wrong(peer)
        assert nodes[0].opens == 0


NODES: Wrong = {
    "peer": (lambda n: n.connect(5), TypeError, "connect: Expected `str`, got `int`"),
    "long peer": (lambda n: n.connect("x" * 300_000), LocalProtocolError, "at most 262144"),
    "service": (lambda n: n.listen(5), TypeError, "listen: Expected `str`"),
}


@pytest.mark.parametrize("case", NODES)
def test_a_request_that_the_node_could_not_read_is_not_sent(nodes: Nodes, case: str) -> None:
    wrong, kind, says = NODES[case]
    with valkyrie.attach_sync(nodes[0].path) as node:
        with pytest.raises(kind, match=says):
            wrong(node)
        assert node.connect("right").family == 4
        assert not node.lost


def test_a_node_is_a_name_or_a_path() -> None:
    wrong: Any = 5
    with pytest.raises(TypeError, match="not 5"), valkyrie.attach_sync(wrong):
        pass


def test_a_timeout_beyond_patience_is_none() -> None:
    assert deadline(7, None) is deadline(7, TIMEOUT_MAX_S * 2) is deadline(7, float("inf")) is None
    assert deadline(7, 1.5) == 1_500_000_007


def test_an_attachment_that_was_left_says_so(nodes: Nodes) -> None:
    with valkyrie.attach_sync(nodes[0].path) as node:
        peer = node.connect("right")
    for call in (
        lambda: node.connect("right"),
        lambda: node.listen("x"),
        lambda: peer.open("x", 5),
    ):
        with pytest.raises(valkyrie.NodeGoneError, match="was closed: attach again"):
            call()


@pytest.mark.parametrize("attach", [valkyrie.attach, valkyrie.attach_sync])
def test_what_is_not_entered_says_how_to(nodes: Nodes, attach: Callable[..., Any]) -> None:
    with pytest.raises(AttributeError, match=r"with valkyrie.attach\w*\(...\) as node"):
        attach(nodes[0].path).connect("right")


def test_a_node_shows_whether_it_is_attached(nodes: Nodes) -> None:
    with valkyrie.attach_sync(nodes[0].path) as node:
        assert repr(node) == "<SyncNode slot 0 attached>"
    assert repr(node) == "<SyncNode slot 0 left>"


def in_a_child(work: Callable[[], object]) -> str:
    """Return what a fork of this process says of its work."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        said = "nothing"
        try:
            work()
        except BaseException as error:  # the parent wants to know any
            said = repr(error)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


def test_a_fork_has_no_part_in_the_attachment_and_does_it_no_harm(
    nodes: Nodes, stream: valkyrie.SyncStream
) -> None:
    def leave() -> None:
        with stream:
            pass

    for work in (lambda: stream.send(b"x"), stream.recv, stream.flush):
        assert "this process was forked" in in_a_child(work)
    assert in_a_child(leave) == "nothing"
    with valkyrie.attach_sync(nodes[0].path) as node:
        again = "this process was forked, and its parent is attached"
        assert again in in_a_child(lambda: print(node.connect("right")))
        assert node.connect("right").name == "right"
    stream.send(b"from the parent")
    stream.flush(SOON_S)


def end_lease(stream: valkyrie.SyncStream) -> None:
    """Have whoever waits at the attachment give up."""
    stream._driver.rings.end()
    stream._driver.link.socket.shutdown(socket.SHUT_RDWR)


def told_of_another_thread(stream: valkyrie.SyncStream) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: stream.send(b"x"),
        lambda: stream.send(b"x", correlation=5),
        lambda: stream.send_many([b"x"]),
        lambda: stream.recv(0),
        stream.recv_many,
        stream.flush,
    )
    for call in calls:
        with pytest.raises(LocalProtocolError, match="two threads"):
            call()


def test_two_threads_at_one_attachment_are_told_of_each_other(stream: valkyrie.SyncStream) -> None:
    client = stream._flow.rings.client

    def read() -> None:
        with suppress(valkyrie.NodeGoneError):
            stream.recv(timeout=SOON_S)

    with aside(read):
        try:
            wait_until(lambda: client.engaged)
            told_of_another_thread(stream)
        finally:
            end_lease(stream)
    assert not client.engaged


AWAKE: dict[str, tuple[Callable[[Any], object], Callable[[Any], object], str]] = {
    "in a verb": (lambda s: s.request(b"x"), lambda s: s._driver.rings, "wait"),
    "in front of one": (lambda s: s.recv(), lambda s: s._attachment, "take"),
}


@pytest.mark.parametrize("where", AWAKE)
def test_a_thread_within_a_call_is_noticed_though_it_does_not_wait_just_now(
    stream: valkyrie.SyncStream, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    call, owner, name = AWAKE[where]
    is_there, go_on = threading.Event(), threading.Event()

    def stay(*_: object) -> None:
        is_there.set()
        assert go_on.wait(SOON_S)
        raise TimeoutError

    def work() -> None:
        with pytest.raises(TimeoutError):
            call(stream)

    stream._flow.careful = True  # no message comes without Python
    monkeypatch.setattr(owner(stream), name, stay)
    with aside(work):
        try:
            assert is_there.wait(SOON_S)
            assert not stream._flow.rings.client.busy
            told_of_another_thread(stream)
        finally:
            go_on.set()
    assert not stream._flow.rings.client.engaged


async def test_an_attach_that_is_cancelled_is_given_back(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[driver.Link] = []
    begun, go_on = threading.Event(), threading.Event()

    def slowly(*asked: Any) -> driver.Link:
        begun.set()
        assert go_on.wait(SOON_S)
        made.append(driver.link(*asked))
        return made[-1]

    monkeypatch.setattr(node_module, "link", slowly)
    attaching = asyncio.ensure_future(valkyrie.attach(nodes[0].path).__aenter__())
    assert await asyncio.to_thread(begun.wait, SOON_S)
    attaching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attaching
    go_on.set()
    async with asyncio.timeout(SOON_S):
        while not made or made[0].socket.fileno() >= 0:
            await asyncio.to_thread(lambda: None)
    assert made[0]._bells == []
