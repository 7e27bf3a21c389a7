"""vk_flows and what opens and ends streams."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dataplane.rig import Rig, rig_of
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import Class, Gauge

OPEN, OPENED, CLOSE, RESET = (
    lib.VK_RECORD_OPEN,
    lib.VK_RECORD_OPENED,
    lib.VK_RECORD_CLOSE,
    lib.VK_RECORD_RESET,
)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rig_of() as made:
        for node in (0, 1):
            assert made.app(node, 0) == 0
        made.service(1, 0, "svc")
        yield made


def answer(rig: Rig, stream: int, name: str, node: int = 0) -> int:
    """Ask for a stream and return the code of the answer."""
    token = rig.ask_open(node, 0, stream, name)
    rig.exchange(2, first=node)
    for klass in Class:
        for record in rig.take(node, 0, klass):
            if record.kind == OPENED and record.correlation == token:
                return record.code
    raise AssertionError("no answer")


def test_a_service_is_found_by_its_whole_name(rig: Rig) -> None:
    assert answer(rig, 1000, "svc") == lib.VK_CODE_OK
    for name in ("sv", "svcc", "", "SVC"):
        assert answer(rig, 1001, name) == lib.VK_CODE_NO_SERVICE


def test_a_stream_asked_for_again_is_answered_again_and_opened_once(rig: Rig) -> None:
    token = rig.ask_open(0, 0, 1000, "svc")
    rig.exchange(2)
    assert rig.ask("open", 0, 0, 0, 1000, token, "svc") == "1"
    rig.exchange(2)
    assert [each.kind for each in rig.take(1, 0, Class.DATA)] == [OPEN]
    assert [each.kind for each in rig.take(0, 0, Class.DATA)] == [OPENED]
    assert rig.gauge(1, Gauge.FLOWS_OPEN) == 1


def test_a_lost_answer_is_given_again(rig: Rig) -> None:
    token = rig.ask_open(0, 0, 1000, "svc")
    rig.turn(0)
    rig.net(loss=1000)
    rig.turn(1)
    rig.net()
    assert rig.ask("open", 0, 0, 0, 1000, token, "svc") == "1"
    rig.exchange(2)
    assert [each.kind for each in rig.take(0, 0, Class.DATA)] == [OPENED]


def test_a_stream_belongs_to_one_application_of_a_host(rig: Rig) -> None:
    assert answer(rig, 1000, "svc") == lib.VK_CODE_OK
    assert answer(rig, 1000, "svc") == lib.VK_CODE_STREAM_IN_USE
    rig.service(0, 0, "here")
    assert answer(rig, 1000, "here", node=1) == lib.VK_CODE_STREAM_IN_USE


def test_policy_decides_on_both_sides(rig: Rig) -> None:
    rig.app(0, 1, streams=(1000, 1999))
    rig.app(1, 1, streams=(1000, 1500))
    rig.service(1, 1, "narrow")
    codes = {}
    for stream in (1500, 1501, 2000):
        token = rig.ask_open(0, 1, stream, "narrow")
        rig.exchange(2)
        (record,) = rig.take(0, 1, Class.DATA)
        assert (record.kind, record.correlation) == (OPENED, token)
        codes[stream] = record.code
    policy = lib.VK_CODE_POLICY
    assert codes == {1500: lib.VK_CODE_OK, 1501: policy, 2000: policy}
    assert rig.gauge(0, Gauge.FLOWS_OPEN) == 1


def test_closing_tells_the_other_side_behind_the_last_message(rig: Rig) -> None:
    ours = rig.open(0, 0, 1000, "svc")
    rig.accept(1, 0, Class.DATA)
    rig.put(ours, 64, 5)
    rig.put(ours, 0, 0, kind=CLOSE)
    rig.settle()
    assert [each.kind for each in rig.take(1, 0, Class.DATA)] == [lib.VK_RECORD_DATA, CLOSE]
    assert rig.gauge(0, Gauge.FLOWS_OPEN) == 0


def test_both_sides_closing_leave_no_flow(rig: Rig) -> None:
    for _ in range(200):
        ours = rig.open(0, 0, 1000, "svc")
        theirs = rig.accept(1, 0, Class.DATA)
        rig.put(ours, 0, 0, kind=CLOSE)
        rig.settle()
        rig.put(theirs, 0, 0, kind=CLOSE)
        rig.settle()
        rig.take(1, 0, Class.DATA)
        rig.take(0, 0, Class.DATA)
    assert rig.gauge(0, Gauge.FLOWS_OPEN) == rig.gauge(1, Gauge.FLOWS_OPEN) == 0


def test_a_stream_opened_anew_ends_what_the_peer_forgot(rig: Rig) -> None:
    rig.open(0, 0, 1000, "svc")
    rig.accept(1, 0, Class.DATA)
    rig.net(loss=1000)
    assert rig.ask("detach", 0, 0) == "0"
    rig.settle()
    rig.net()
    assert rig.app(0, 0) == 0
    rig.open(0, 0, 1000, "svc")
    assert [each.kind for each in rig.take(1, 0, Class.DATA)] == [RESET, OPEN]


def test_a_late_reset_does_not_hit_a_stream_that_is_being_opened(rig: Rig) -> None:
    ours = rig.open(0, 0, 1000, "svc")
    theirs = rig.accept(1, 0, Class.DATA)
    rig.put(ours, 64, 1)
    rig.turn(0)  # on its way
    rig.put(theirs, 0, 0, kind=CLOSE)
    rig.net(reorder=0)
    rig.put(ours, 0, 0, kind=CLOSE)
    rig.settle()
    rig.take(0, 0, Class.DATA)
    assert answer(rig, 1000, "svc") == lib.VK_CODE_OK


def test_streams_end_when_their_peer_is_replaced(rig: Rig) -> None:
    ours = rig.open(0, 0, 1000, "svc")
    rig.ask("peer", 0, 2)
    rig.turn(0)
    (record,) = rig.take(0, 0, Class.DATA)
    assert (record.kind, record.code) == (RESET, lib.VK_CODE_NO_PEER)
    rig.put(ours, 64, 1)
    rig.turn(0)
    assert rig.count(0, Class.DATA)["refused_flow"] == 1


def test_messages_to_a_peer_that_is_gone_are_counted(rig: Rig) -> None:
    ours = rig.open(0, 0, 1000, "svc")
    rig.ask("peer", 0, 0)
    rig.put(ours, 64, 1)
    rig.turn(0)
    assert rig.count(0, Class.DATA)["drop_tx_unreachable"] == 1
    assert answer(rig, 1001, "svc") == lib.VK_CODE_NO_PEER


def test_ten_thousand_streams_find_their_messages(rig: Rig) -> None:
    for slot in (1, 2):
        assert rig.app(0, slot, ring=1 << 22) == rig.app(1, slot, ring=1 << 22) == 0
    rig.service(1, 1, "many")
    for stream in range(1000, 9000):
        rig.ask_open(0, 1, stream, "many")
        if stream % 500 == 0:
            rig.settle()
    rig.settle()
    opened = rig.take(0, 1, Class.DATA)
    assert len(opened) == 8000
    assert {each.code for each in opened} == {lib.VK_CODE_OK}
    assert rig.gauge(1, Gauge.FLOWS_OPEN) == 8000
    assert len(rig.take(1, 1, Class.DATA)) == 8000
