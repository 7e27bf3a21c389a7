"""The control class in the worker: what it answers itself, and what it tells the daemon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dataplane.rig import Rig, rig_of
from valkyrie import shm
from valkyrie.dataplane import lib
from valkyrie.dataplane.control import Error, Message, Option, Ping, Pong, parse_control
from valkyrie.dataplane.wire import Class, Code, Seq, Session, make_frame

PEER, OTHER, STRANGER = 0, 2, 5
"""Last byte of the address, less one."""
REMOTE, LOCAL = (shm.lib.vk_seat_id([0] * lib.VK_SEAT_KEYS, PEER, turn) for turn in (1, 2))
"""As a daemon that has not drawn its keys would choose them."""


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rig_of() as made:
        made.pair()
        made.settle()
        for node, ids in ((0, (LOCAL, REMOTE)), (1, (REMOTE, LOCAL))):
            made.ask("session", node, *ids, 0, 0, 0)
        made.settle()
        made.log()
        yield made


def inject(rig: Rig, data: bytes, klass: int = Class.CONTROL, source: int = PEER) -> None:
    rig.ask("raw", 1, int(klass), source, data.hex())
    rig.turn(1)


def told(rig: Rig, node: int = 1) -> list[tuple[int, int, int, bytes]]:
    """Return what the daemon was told: kind, peer, last byte of the address, frame."""
    found = []
    for each in rig.ask("python", node).split(";"):
        if each:
            kind, peer, address, *data = each.split(" ")
            found.append((int(kind), int(peer), int(address), bytes.fromhex("".join(data))))
    return found


def answers(rig: Rig) -> list[object]:
    return [parse_control(each.data) for each in rig.log() if each.klass == Class.CONTROL]


def message(session: int) -> bytes:
    extensions = (Session(session, 7_000_000, space=1), Seq(0))
    return make_frame(lib.VK_STREAM_DATA, 1000, b"x", *extensions, priority=50).pack()


def test_a_ping_of_a_peer_is_answered_though_no_daemon_reads(rig: Rig) -> None:
    inject(rig, Ping(12345).pack())
    assert answers(rig) == [Pong(12345)]
    assert told(rig) == []


def test_a_ping_of_a_stranger_or_of_another_size_is_the_daemons(rig: Rig) -> None:
    long = Ping(1, (Option(lib.VK_OPTION_PROOF, bytes(lib.VK_PROOF_SIZE)),)).pack()
    inject(rig, Ping(1).pack(), source=STRANGER)
    inject(rig, long)
    assert answers(rig) == []
    assert told(rig) == [
        (lib.VK_CONTROL_FRAME, 0, STRANGER + 1, Ping(1).pack()),
        (lib.VK_CONTROL_FRAME, 0, PEER + 1, long),
    ]


def test_a_handshake_reaches_the_daemon_as_it_came(rig: Rig) -> None:
    hello = Message(lib.VK_HELLO, b"an offer").pack()
    inject(rig, hello)
    assert told(rig) == [(lib.VK_CONTROL_FRAME, 0, PEER + 1, hello)]


def test_a_session_that_is_not_known_is_refused_once_a_millisecond(
    rig: Rig,
) -> None:
    for _ in range(5):
        inject(rig, message(LOCAL + 1), Class.DATA)
    assert answers(rig) == [Error(Code.SESSION_UNKNOWN, LOCAL + 1)]
    rig.wait(0.001)
    inject(rig, message(LOCAL + 1), Class.DATA)
    assert len(answers(rig)) == 1
    assert rig.count(1, Class.DATA)["drop_frame_session"] == 6


def test_the_daemon_hears_of_a_session_that_is_used_from_another_address(rig: Rig) -> None:
    for _ in range(5):
        inject(rig, message(LOCAL), Class.DATA, STRANGER)
    assert told(rig) == [(lib.VK_CONTROL_ELSEWHERE, 0, STRANGER + 1, b"")]
    assert rig.count(1, Class.DATA)["rx_messages"] == 0
    rig.wait(1.0)
    inject(rig, message(LOCAL + 1), Class.DATA, STRANGER)
    inject(rig, message(0), Class.DATA, STRANGER)
    assert told(rig) == []


def test_what_strangers_send_hides_no_peer_that_has_moved(rig: Rig) -> None:
    for i in range(1, 1000):
        inject(rig, message(LOCAL ^ i), Class.DATA, STRANGER)
    inject(rig, message(LOCAL), Class.DATA, STRANGER)
    assert told(rig) == [(lib.VK_CONTROL_ELSEWHERE, 0, STRANGER + 1, b"")]


def test_what_comes_in_the_name_of_one_peer_keeps_no_answer_from_another(rig: Rig) -> None:
    rig.ask("other", 1, OTHER)
    inject(rig, message(LOCAL + 1), Class.DATA)
    inject(rig, message(LOCAL + 2), Class.DATA, OTHER)
    refused = [Error(Code.SESSION_UNKNOWN, LOCAL + i) for i in (1, 2)]
    assert answers(rig) == refused


def test_the_daemon_hears_of_a_stream_that_waits_for_a_session(rig: Rig) -> None:
    rig.ask("join", 0, 0)
    rig.ask_open(0, 0, 1001, "svc")
    for _ in range(5):
        rig.turn(0)
    assert [each[:2] for each in told(rig, 0)] == [(lib.VK_CONTROL_WANTED, 0)]
    rig.wait(0.1)
    rig.turn(0)
    assert len(told(rig, 0)) == 1
    rig.ask("join", 0, 1)
    rig.settle()
    assert [each.code for each in rig.take(0, 0, Class.DATA)] == [0]


def test_a_peer_that_is_to_be_asked_is_asked_in_its_session_and_both_hear(rig: Rig) -> None:
    rig.wait(1.0)
    before = [int(rig.ask("heard", node)) for node in (0, 1)]
    rig.ask("ask", 0)
    rig.settle()
    sent = rig.log()
    assert (sent[0].node, sent[0].klass) == (0, Class.SYSTEM)
    assert all(each.klass == Class.SYSTEM for each in sent)
    assert 2 <= len(sent) <= 4
    assert all(int(rig.ask("heard", node)) > before[node] for node in (0, 1))


def test_a_question_that_is_lost_is_asked_again(rig: Rig) -> None:
    rig.wait(1.0)
    before = int(rig.ask("heard", 0))
    rig.net(loss=1000)
    rig.ask("ask", 0)
    rig.turn(0)
    rig.net()
    rig.settle()
    assert int(rig.ask("heard", 0)) > before


def test_nobody_is_asked_without_a_session(rig: Rig) -> None:
    rig.ask("join", 0, 0)
    rig.turn(0)
    rig.log()
    rig.ask("ask", 0)
    rig.settle()
    assert rig.log() == []


def test_streams_of_a_peer_that_forgot_them_end_with_the_code_that_says_so(rig: Rig) -> None:
    rig.ask("session", 0, LOCAL + 8, REMOTE + 8, 1, int(Code.PEER_RESTARTED), 0)
    rig.turn(0)
    (record,) = rig.take(0, 0, Class.DATA)
    assert (record.kind, record.code) == (lib.VK_RECORD_RESET, Code.PEER_RESTARTED)


def test_while_a_peer_is_unreachable_streams_to_it_are_refused_at_once(rig: Rig) -> None:
    rig.ask("join", 0, 0)
    rig.ask("session", 0, 0, 0, 0, 0, int(Code.UNREACHABLE))
    token = rig.ask_open(0, 0, 1001, "svc")
    rig.turn(0)
    (record,) = rig.take(0, 0, Class.DATA)
    assert (record.kind, record.code) == (lib.VK_RECORD_OPENED, Code.UNREACHABLE)
    assert record.correlation == token
