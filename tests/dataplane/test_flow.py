"""Flow: sequences in any order, once each, across their wrap."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dataplane.double import Channel
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import flow
from valkyrie.dataplane.application.flow import SEQUENCE_MAX, Flow
from valkyrie.dataplane.application.message import Message
from valkyrie.dataplane.application.rings import Rings
from valkyrie.dataplane.wire import Class, Code, Flag

STREAM = {Class.CRITICAL: 0, Class.SYSTEM: 1, Class.JOB: 100, Class.DATA: 1000, Class.LOGS: 10000}
Pair = tuple[Rings, Channel]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    channel = Channel([4096] * 6, 1)
    rings = Rings([*channel.memfds, channel.bell_app, channel.bell_worker], 1)
    yield rings, channel
    rings.close()
    channel.close()


def make(rings: Rings, klass: Class = Class.JOB, ordered: bool | None = None) -> Flow:
    made = Flow(rings, 0, STREAM[klass], klass, ordered)
    made.bind(5, 9)
    return made


def message(sequence: int, payload: bytes = b"", flags: int = 0) -> Message:
    return Message(payload, 100, sequence & SEQUENCE_MAX, 0, 0, flags, 0, 0)


def sequences(end: Flow) -> list[int]:
    return [each.sequence for each in end.take_many(1 << 20)]


@given(
    first=st.sampled_from([0, 1, SEQUENCE_MAX - 3, SEQUENCE_MAX]),
    order=st.permutations(range(12)),
    again=st.lists(st.integers(0, 11)),
    ordered=st.booleans(),
    closing=st.integers(0, 12),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_order_of_arrival_each_is_read_once(
    pair: Pair, *, first: int, order: list[int], again: list[int], ordered: bool, closing: int
) -> None:
    end = make(pair[0], ordered=ordered)
    end.expected = first
    came: list[int] = []
    for place, number in enumerate(order):
        if place == closing:
            end.finish((first + 12) & SEQUENCE_MAX)
        assert not end.ended
        came.append(number)
        for each in (number, *(each for each in again if each in came)):
            end.receive(message(first + each))
    if closing == 12:
        end.finish((first + 12) & SEQUENCE_MAX)
    assert end.ended
    assert not end.early
    got = [(sequence - first) & SEQUENCE_MAX for sequence in sequences(end)]
    assert got == (list(range(12)) if ordered else list(order))
    assert end.counts.duplicates == sum(
        each in order[: place + 1] for place in range(12) for each in again
    )
    assert end.counts.received == 12


def test_what_is_early_waits_only_where_order_is_kept(pair: Pair) -> None:
    for ordered, there in ((True, []), (False, [2, 1])):
        end = make(pair[0], ordered=ordered)
        end.receive(message(2))
        end.receive(message(1))
        assert sequences(end) == there
        assert end.counts.early == 2 - len(there)
        end.receive(message(0))
        assert sequences(end) == ([0, 1, 2] if ordered else [0])


def test_logs_come_as_they_are(pair: Pair) -> None:
    end = make(pair[0], Class.LOGS)
    for sequence in (3, 1, 1, 7):
        end.receive(message(sequence))
    assert sequences(end) == [3, 1, 1, 7]
    end.finish(20)
    assert end.ended


def test_the_last_message_may_say_that_it_is(pair: Pair) -> None:
    for ordered in (True, False):
        end = make(pair[0], ordered=ordered)
        end.receive(message(1, flags=Flag.EOS))
        assert not end.ended
        end.receive(message(0))
        assert end.ended


def test_a_critical_stream_holds_only_so_much_that_is_early(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "QUEUE_MESSAGES_MAX", 3)
    rings, channel = pair
    end = make(rings, Class.CRITICAL)
    for sequence in range(1, 5):
        assert end.error is None
        end.receive(message(sequence))
    assert end.error is not None
    assert end.error.code == Code.FLOW_CONTROL
    assert not end.early
    rings.pay()
    told = channel.take(Class.CRITICAL)
    assert told is not None
    assert (told[0], told[1].code) == (lib.VK_RECORD_RESET, Code.FLOW_CONTROL)


def costs(channel: Channel) -> list[int]:
    return [int(report.cost) for report in channel.reports()]


@pytest.mark.parametrize("klass", STREAM)
def test_what_was_taken_is_reported_where_there_are_windows(pair: Pair, klass: Class) -> None:
    rings, channel = pair
    end = make(rings, klass)
    windowed = klass in flow.WINDOWED
    for sequence in range(3):
        end.receive(message(sequence, bytes(8000)))
    end.idle()
    assert costs(channel) == []  # nothing was taken
    end.take()
    end.take()
    assert costs(channel) == []
    end.take()
    assert costs(channel) == ([3 * 8064] if windowed else [])


def test_a_reader_that_waits_reports_what_is_left(pair: Pair) -> None:
    rings, channel = pair
    end = make(rings)
    end.receive(message(0, bytes(10)))
    end.take()
    end.idle()
    assert costs(channel) == [74]  # the first time, whatever it is: windows begin small
    end.receive(message(1, bytes(4000)))
    end.take()
    end.idle()
    assert costs(channel) == []
    end.receive(message(2, bytes(10)))
    end.take()
    end.idle()
    assert costs(channel) == [74 + 4064 + 74]


def test_what_nobody_will_read_is_given_back(pair: Pair) -> None:
    rings, channel = pair
    end = make(rings)
    for sequence in range(3):
        end.receive(message(sequence, bytes(8000)))
    end.discard()
    assert costs(channel) == [3 * 8064]
    end.receive(message(3, bytes(8000)))
    assert costs(channel) == [4 * 8064]
    assert end.counts.after_close == 1
