"""Nodes that let frames in by token only: with it, without it, while keys change, and told live."""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import valkyrie
from tests.bpf.rig import extension, frame
from tests.lab import SOON_S, Lab, wait_until
from tests.nodes import (
    PATIENT,
    NodeUnderTest,
    joined,
    make_pair,
    make_secure_pair,
    running,
    session,
)
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.wire import (
    PORT,
    Class,
    Counter,
    Seq,
    Session,
    Token,
    Type,
    Verdict,
    make_frame,
    parse_extensions,
)
from valkyrie.shm.counters import CountersPage

SOL_UDP, UDP_SEGMENT = 17, 103  # linux/udp.h
Pair = tuple[NodeUnderTest, NodeUnderTest]
DEMANDING = """
[class.data]
token = true
[token]
rotate_s = 3
"""
REFUSALS = [
    verdict
    for verdict in Verdict
    if verdict.name.startswith(("DROP_TOKEN", "DROP_COOKIE", "DROP_DEN"))
]


def counted(node: NodeUnderTest, klass: Class = Class.DATA) -> dict[str, int]:
    """Return what a node's kernel refused by token, by reason."""
    node.status()  # copies the kernel's counters
    with CountersPage(node.name) as page:
        row = page.struct.verdicts[0].packets[klass]
        return {verdict.reason: row[verdict] for verdict in REFUSALS if row[verdict]}


@pytest.fixture(params=["udp", "xdp", "udp sealed", "xdp sealed"])
def makes(lab: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], Pair]:
    path, _, sealed = request.param.partition(" ")
    make = make_secure_pair if sealed else make_pair
    return lambda policy: make(lab, tmp_path, path=path, extra=PATIENT + policy)


Say = Callable[[int], None]


@contextmanager
def talking(a: NodeUnderTest, b: NodeUnderTest) -> Iterator[Say]:
    """Open a stream of each of two classes from a to b; yields what sends so often both ways."""
    wait_until(lambda: joined(a, b), 10.0, "both have joined")
    with (
        valkyrie.attach_sync(a.socket) as one,
        valkyrie.attach_sync(b.socket) as other,
        other.listen("echo") as service,
    ):
        ends = []
        for number in (1000, 7):
            out = one.connect("b").open("echo", stream=number)
            ends.append((out, service.accept(timeout=SOON_S)))
        pairs = [(x, y) for out, into in ends for x, y in ((out, into), (into, out))]
        sent = itertools.count()

        def say(count: int) -> None:
            for number in itertools.islice(sent, count):
                for sender, receiver in pairs:
                    sender.send(b"%300d" % number)
                    message = receiver.recv(timeout=SOON_S)
                    assert message is not None
                    assert int(message.payload) == number

        yield say


def generation(node: NodeUnderTest) -> int:
    return int(node.status()["tokens"]["generation"])


def test_frames_with_tokens_get_in_and_nothing_is_lost_while_keys_change(
    makes: Callable[[str], Pair],
) -> None:
    a, b = makes(DEMANDING)
    with running(a, b), talking(a, b) as say:
        first = [generation(node) for node in (a, b)]
        before = session(a)["local"]
        while min(generation(a) - first[0], generation(b) - first[1]) < 2:
            say(20)
        assert session(a)["local"] == before, "it should have been one session all the time"
        assert counted(a) == counted(b) == {}
        assert a.status()["tokens"]["classes"] == ["data"]


def test_a_daemon_that_is_killed_leaves_tokens_that_go_on(
    makes: Callable[[str], Pair],
) -> None:
    a, b = makes(DEMANDING)
    with running(a, b), talking(a, b) as say:
        say(1)
        for node in (a, b):
            old = node.pid("daemon")
            next(each for each in node.children() if each.pid == old).kill()
            wait_until(partial(_anew, node, old), 10.0, "another daemon")
            say(1)
        first = generation(b)
        while generation(b) < first + 2:
            say(10)


def _counts(node: NodeUnderTest, reason: str) -> bool:
    return counted(node).get(reason) == 1


def _anew(node: NodeUnderTest, old: int) -> bool:
    try:
        return node.pid("daemon") not in (0, old)
    except (OSError, KeyError):
        return False


def forged(row: dict[str, Any], stream: int, token: Token | None) -> bytes:
    """Return a frame of the session that a node says it receives frames of."""
    lead = [Session(int(row["local"], 16), 1 << 40, space=1)]
    tail = [token] if token is not None else []
    data: bytes = make_frame(Type.STREAM_DATA, stream, b"evil", *lead, *tail, Seq(0)).pack()
    return data


def test_what_has_no_good_token_is_dropped_by_the_kernel_and_counted(
    makes: Callable[[str], Pair],
) -> None:
    a, b = makes(DEMANDING)
    with running(a, b), talking(a, b) as say:
        say(1)
        key, row = generation(b), session(b)
        now = time.monotonic_ns() >> 30
        sent = {
            "token_missing": None,
            "token_generation": Token(key + 1000, now + 100, 1),
            "token_expired": Token(key, now - 5, 1),
            "token_forged": Token(key, now + 100, 1),
        }
        with a.host.socket(socket.AF_INET) as raw:
            for reason, token in sent.items():
                raw.sendto(forged(row, 1000, token), (str(b.link.v4.ip), PORT))
                wait_until(partial(_counts, b, reason), what=reason)
        assert set(counted(b)) == set(sent)
        say(5)


def lead_of(a: NodeUnderTest, say: Say) -> tuple[Session, Token]:
    """Return what a frame of data begins with that a node sends."""
    with a.host.packet_socket(a.link.name) as wire:
        wire.setblocking(False)
        while True:
            say(1)
            with suppress(BlockingIOError):
                while True:
                    chain = wire.recv(1 << 16)[14 + 20 + 8 + 24 :][:32]
                    if chain[:2] + chain[16:18] == bytes((1, 4, 2, 4)):
                        session, token = parse_extensions(chain)
                        assert isinstance(session, Session)
                        assert isinstance(token, Token)
                        return session, token


def worker_drops(node: NodeUnderTest) -> dict[str, int]:
    """Return the frames of data that a node's worker dropped, by reason."""
    with CountersPage(node.name) as page:
        row = page.struct.classes[Class.DATA]
        found = {each.name.lower(): row[each] for each in Counter}
    return {name: value for name, value in found.items() if value and "drop_frame_" in name}


def test_each_frame_that_the_kernel_has_joined_needs_a_token(lab: Lab, tmp_path: Path) -> None:
    a, b = make_pair(lab, tmp_path, extra=PATIENT + DEMANDING.replace("= 3", "= 60"))
    with running(a, b), talking(a, b) as say:
        session, token = lead_of(a, say)
        lead = replace(session, number=0).pack()  # it has come: what is let in is dropped later
        bad = {
            "drop_frame_token_missing": extension(99, 4),
            "drop_frame_token_generation": replace(token, generation=77).pack(),
            "drop_frame_token_expired": replace(token, expiry=0).pack(),
            "drop_frame_token_forged": replace(token, tag=token.tag ^ 1).pack(),
        }
        frames = [frame(0x31, 1000, b"evil", lead + each) for each in (token.pack(), *bad.values())]
        expected = worker_drops(b) | dict.fromkeys(bad, 1)
        expected["drop_frame_twice"] = expected.get("drop_frame_twice", 0) + 1
        with a.host.socket(socket.AF_INET) as raw:
            ancillary = [(SOL_UDP, UDP_SEGMENT, struct.pack("H", len(frames[0])))]
            raw.sendmsg([b"".join(frames)], ancillary, 0, (str(b.link.v4.ip), PORT))
            wait_until(lambda: worker_drops(b) == expected, what="each reason once")
        assert counted(b) == {}, "the kernel's program saw the first one, which is good"
        say(5)
        wait_until(lambda: b.status()["ledger"]["residual"] == 0, what="everything is counted")


def test_a_handshake_without_a_good_cookie_is_dropped_by_the_kernel_and_counted(
    makes: Callable[[str], Pair],
) -> None:
    a, b = makes("")
    with running(a, b), talking(a, b) as say:
        say(1)
        assert counted(b, Class.CONTROL) == {}, "the nodes' own had good ones"
        assert b.status()["tokens"]["cookies"]
        now = time.monotonic_ns() >> 30
        key = generation(b)
        cookies = {
            "cookie_missing": b"",
            "cookie_generation": struct.pack("!IQHH", now + 5, 1, key + 1000, 0),
            "cookie_expired": struct.pack("!IQHH", now - 5, 1, key, 0),
            "cookie_forged": struct.pack("!IQHH", now + 5, 1, key, 0),
        }
        heard = b.status()["control_frames"]
        with a.host.socket(socket.AF_INET) as raw:
            for kind in (Type.NEGOTIATE, Type.KEY_EXCHANGE):
                for cookie in cookies.values():
                    data = bytes(8) + cookie + bytes(4) if cookie else b""
                    raw.sendto(make_frame(kind, 0, data).pack(), (str(b.link.v4.ip), PORT))
            wait_until(
                lambda: counted(b, Class.CONTROL) == dict.fromkeys(cookies, 2), what="all of them"
            )
        assert b.status()["control_frames"] == heard, "the daemon heard of none"
        say(5)


def test_tokens_are_asked_for_and_no_more_while_messages_flow(
    makes: Callable[[str], Pair],
) -> None:
    a, b = makes("")
    with running(a, b), talking(a, b) as say:
        say(1)
        for wanted in (1, 0, 1):
            for node in (b, a):
                assert node.ask(appsocket.Tune({"class.data.token": wanted})).code == 0
                say(10)
        assert counted(a) == counted(b) == {}
        with a.host.socket(socket.AF_INET) as raw:
            raw.sendto(forged(session(b), 1000, None), (str(b.link.v4.ip), PORT))
            wait_until(lambda: counted(b) == {"token_missing": 1}, what="it is in force")
        reply = b.ask(appsocket.Tune({"class.control.token": 1}))
        assert reply.code != 0
        assert "before there is a token" in reply.message
