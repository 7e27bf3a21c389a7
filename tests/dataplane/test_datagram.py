"""A peer's token on the frames of the classes that it asks for, and what it takes of their room."""

from __future__ import annotations

import pytest

from tests.dataplane.rig import Rig, Sent, rig_of
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import Class, ExtKind, Session, Token, Type, parse_frame

PAYLOAD_MAX = 1472
BODY = bytes(range(0x74, 0x80))


def token_of(sent: Sent) -> Token | None:
    """Return a frame's token, which has to be its second extension."""
    extensions = parse_frame(sent.data).extensions
    found = [each for each in extensions if isinstance(each, Token)]
    if not found:
        return None
    assert len(found) == 1
    assert isinstance(extensions[0], Session)
    assert extensions[1] is found[0]
    return found[0]


def sequences(rig: Rig) -> list[int]:
    """Take what has come to the stream's other end."""
    records = rig.take(1, 0, Class.DATA)
    return [each.sequence for each in records if each.kind == lib.VK_RECORD_DATA]


def give(rig: Rig, node: int, *classes: Class) -> None:
    rig.ask("token", node, sum(1 << each for each in classes))
    rig.turn(node)


def test_frames_of_these_classes_carry_the_token_and_no_others() -> None:
    with rig_of() as rig:
        data, _ = rig.pair("svc", 2000)
        system = rig.open(0, 0, 7, "svc")
        give(rig, 0, Class.DATA)
        rig.settle()
        rig.log()
        for mark in range(40):
            assert rig.put(data, 100 + 30 * mark, mark)
            assert rig.put(system, 50, mark)
        rig.settle()
        sent = rig.log()
        for each in sent:
            wanted = each.node == 0 and each.klass == Class.DATA
            assert (token_of(each) is not None) == wanted
        tokens = {token_of(each) for each in sent} - {None}
        assert {each.pack() for each in tokens if each} == {bytes((2, 4, 0, 7)) + BODY}
        for klass in (Class.DATA, Class.SYSTEM):
            records = rig.take(1, 0, klass)
            marks = [each.mark for each in records if each.kind == lib.VK_RECORD_DATA]
            assert marks == list(range(40))


@pytest.mark.parametrize("aggregate", [False, True])
def test_no_datagram_grows_over_what_the_path_carries(aggregate: bool) -> None:
    with rig_of() as rig:
        stream, _ = rig.pair("svc", 2000)
        give(rig, 0, Class.DATA)
        for node in (0, 1):
            rig.ask("param", node, int(aggregate), "aggregate")
        rig.settle()
        rig.log()
        marks, taken = 0, list[int]()
        for size in (0, 1, 600, 1372, 1388, 1390, 1392, 1404, 1408, 1424, 1432, 3000, 60000):
            for _ in range(3):
                assert rig.put(stream, size, marks)
                marks += 1
            for _ in range(2):  # what was taken gives credit for the rest
                rig.settle()
                taken += sequences(rig)
        sizes = [len(each.data) for each in rig.log() if each.node == 0]
        assert max(sizes) <= PAYLOAD_MAX
        assert max(sizes) >= PAYLOAD_MAX - 16, "no datagram was filled"
        assert taken == list(range(marks))


def test_a_probe_is_as_large_as_it_says() -> None:
    with rig_of() as rig:
        stream, _ = rig.pair("svc", 2000)
        give(rig, 0, Class.DATA)
        for mark in range(20):
            assert rig.put(stream, 1000, mark)
            rig.settle()
        frames = [each.data for each in rig.log() if each.node == 0]
        probes = [data for data in frames if data[3] == Type.PING]
        assert max(map(len, probes)) == PAYLOAD_MAX


def test_a_token_may_come_change_and_go_under_traffic_that_loses_and_reorders() -> None:
    with rig_of() as rig:
        stream, _ = rig.pair("svc", 2000)
        rig.net(loss=50, reorder=50, seed=3)
        taken: list[int] = []
        for mark in range(300):
            assert rig.put(stream, 400 + mark, mark)
            if mark % 50 == 10:
                give(rig, 0, *((Class.DATA,) if mark % 100 == 10 else ()))
            rig.exchange()
            taken += sequences(rig)
        rig.settle()
        taken += sequences(rig)
        assert sorted(set(taken)) == list(range(300))
        assert {token_of(each) is None for each in rig.log() if each.node == 0} == {True, False}


def test_the_extension_has_the_kind_that_the_kernel_looks_for() -> None:
    assert Token.kind == ExtKind.TOKEN == lib.VK_EXT_TOKEN
    assert Token.layout.size == lib.VK_TOKEN_BYTES
