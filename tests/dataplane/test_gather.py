"""vk_gather: messages come out whole and once, whatever order their records come in."""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.fuzzing import fuzz
from tests.dataplane.marks import LAST, MARKS, MIDDLE, MORE, contradict, cut
from tests.dataplane.native import library
from valkyrie.dataplane.wire import Flag, Fragment

SEQUENCES = 1 << 32
EPROTO = 71


class Whole(NamedTuple):
    sequence: int
    payload: bytes
    eos: bool
    records: int


class Gather:
    """A vk_gather that says all that is whole after each record."""

    def __init__(self, first: int = 0, *, ordered: bool = False) -> None:
        self.ffi, self.lib = library("vk_gather.h", "vk_gather.c")
        self.gather = self.ffi.gc(self.lib.vk_gather_new(first, ordered), self.lib.vk_gather_free)
        self.error = 0

    def give(self, sequence: int, mark: Fragment, payload: bytes, flags: int = 0) -> list[Whole]:
        """Give a record; its memory is another's afterwards."""
        head = self.ffi.new(
            "struct vk_message *", {"sequence": sequence % SEQUENCES, "code": mark, "flags": flags}
        )
        data = self.ffi.new("uint8_t[]", payload)
        whole = self.ffi.new("struct vk_whole *")
        result = self.lib.vk_gather_take(self.gather, head, data, len(payload), whole)
        found: list[Whole] = []
        while result > 0:
            found.append(self._read(whole))
            self.ffi.buffer(data)[:] = bytes(len(payload) + 1)
            result = self.lib.vk_gather_next(self.gather, whole)
        if found and result == 0:
            return found
        if result == 0:
            self.ffi.buffer(data)[:] = bytes(len(payload) + 1)
            result = self.lib.vk_gather_next(self.gather, whole)
            assert result == 0, "vk_gather_take had left something"
        self.error = result
        return found

    def _read(self, whole: Any) -> Whole:
        assert whole.head.code == 0
        payload = bytes(self.ffi.buffer(whole.payload, whole.size))
        eos = bool(whole.head.flags & Flag.EOS)
        return Whole(whole.head.sequence, payload, eos, whole.records)

    @property
    def held(self) -> int:
        return int(self.lib.vk_gather_held(self.gather))

    @property
    def twice(self) -> int:
        return int(self.lib.vk_gather_twice(self.gather))

    @property
    def expected(self) -> int:
        return int(self.lib.vk_gather_expected(self.gather))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_the_order_of_arrival_messages_come_out_whole_and_once(
    data: st.DataObject,
) -> None:
    counts = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=8), label="records")
    marks = cut(counts)
    first = data.draw(st.sampled_from([0, SEQUENCES - 3]), label="first")
    order = data.draw(st.permutations(range(len(marks))), label="order")
    again = data.draw(st.sets(st.sampled_from(range(len(marks)))), label="again")
    ordered = data.draw(st.booleans(), label="ordered")
    gather = Gather(first, ordered=ordered)
    came: set[int] = set()
    whole: list[Whole] = []
    for number in order:
        came.add(number)
        for each in (number, *(again & came)):
            flags = Flag.EOS if each == len(marks) - 1 else 0
            whole += gather.give(first + each, marks[each], b"%d," % each, flags)
        missing = next(each for each in range(len(marks) + 1) if each not in came)
        assert gather.expected == (first + missing) % SEQUENCES
        ready = [
            start
            for start, count in zip(starts_of(counts), counts, strict=True)
            if (missing >= start + count if ordered else came >= set(range(start, start + count)))
        ]
        assert {(each.sequence - first) % SEQUENCES for each in whole} == set(ready)
    wanted = [
        b"".join(b"%d," % (start + i) for i in range(count))
        for start, count in zip(starts_of(counts), counts, strict=True)
    ]
    by_sequence = whole if ordered else sorted(whole, key=lambda one: (one[0] - first) % SEQUENCES)
    assert [each.payload for each in by_sequence] == wanted
    assert [each.records for each in by_sequence] == counts
    assert [each.eos for each in by_sequence] == [False] * (len(counts) - 1) + [True]
    assert (gather.error, gather.held) == (0, 0)


def starts_of(counts: list[int]) -> list[int]:
    return [sum(counts[:i]) for i in range(len(counts))]


@settings(max_examples=500, deadline=None)
@given(
    order=st.lists(st.integers(0, 7), max_size=16),
    marks=st.lists(st.sampled_from(MARKS), min_size=8, max_size=8),
    ordered=st.booleans(),
)
def test_records_are_refused_exactly_when_they_contradict_each_other(
    *, order: list[int], marks: list[Fragment], ordered: bool
) -> None:
    gather = Gather(ordered=ordered)
    came: set[int] = set()
    for number in order:
        gather.give(number, marks[number], b"x")
        came.add(number)
        wrong = contradict(marks, came, ordered=ordered)
        assert gather.error == (-EPROTO if wrong else 0)
        if wrong:
            assert gather.give(8, Fragment(0), b"more") == []
            assert gather.error == -EPROTO, "it does not go on"
            return


@pytest.mark.parametrize("ordered", [False, True])
def test_a_record_that_comes_again_says_nothing(*, ordered: bool) -> None:
    gather = Gather(ordered=ordered)
    assert gather.give(0, MORE, b"a") == []
    assert gather.give(2, LAST, b"c") == []
    assert gather.give(2, LAST, b"X") == []
    assert gather.give(0, MORE, b"X") == []
    assert gather.give(1, MIDDLE, b"b") == [Whole(0, b"abc", False, 3)]
    assert gather.give(1, MIDDLE, b"X") == []
    assert gather.twice == 3


def test_a_message_that_waits_does_not_keep_others_back() -> None:
    gather = Gather()
    assert gather.give(0, MORE, b"a") == []
    assert gather.give(2, MORE, b"c") == []
    assert gather.give(3, LAST, b"d") == [Whole(2, b"cd", False, 2)]
    assert gather.give(4, Fragment(0), b"e") == [Whole(4, b"e", False, 1)]
    assert gather.give(1, LAST, b"b") == [Whole(0, b"ab", False, 2)]


@pytest.mark.parametrize("order", ["as sent", "the other way round", "at random"])
@pytest.mark.parametrize("ordered", [False, True])
def test_a_large_message_is_whole_and_the_next_lies_in_the_same_memory(
    order: str, *, ordered: bool
) -> None:
    gather = Gather(ordered=ordered)
    pieces = [Random(each).randbytes(40_000 + each) for each in range(50)]
    for first in (0, 50, 100):
        numbers = list(range(50))
        if order == "the other way round":
            numbers.reverse()
        elif order == "at random":
            Random(first).shuffle(numbers)
        whole: list[Whole] = []
        for each in numbers:
            assert not whole
            whole = gather.give(first + each, cut([50])[each], pieces[each])
        assert whole == [Whole(first, b"".join(pieces), False, 50)]
        assert gather.held == 0


def test_what_waits_is_bounded() -> None:
    gather = Gather()
    most, size = gather.lib.VK_GATHER_HELD_MAX, 65_000
    for number in range(most // size + 2):
        gather.give(2 * number + 1, MORE, bytes(size))
        if gather.error:
            break
        assert gather.held <= most
    assert gather.error == -EPROTO


def test_records_without_payload_that_wait_are_bounded_too() -> None:
    gather = Gather()
    for number in range(gather.lib.VK_GATHER_HELD_MAX // gather.lib.VK_GATHER_OVERHEAD + 1):
        gather.give(number + 2, MIDDLE, b"")
        if gather.error:
            break
    assert gather.error == -EPROTO


def test_a_message_is_no_larger_than_messages_may_be() -> None:
    gather = Gather()
    most, size = gather.lib.VK_MESSAGE_MAX, gather.lib.VK_SHARDED_MAX
    for number in range(most // size):
        assert gather.give(number, MIDDLE if number else MORE, bytes(size)) == []
        assert gather.error == 0
    gather.give(most // size, LAST, b"x")
    assert gather.error == -EPROTO


def test_gaps_are_bounded() -> None:
    gather = Gather()
    for number in range(gather.lib.VK_GATHER_SPANS_MAX):
        assert len(gather.give(2 * number + 1, Fragment(0), b"")) == 1
    gather.give(2 * gather.lib.VK_GATHER_SPANS_MAX + 1, Fragment(0), b"")
    assert gather.error == -EPROTO


def test_no_input_makes_it_give_what_nobody_sent() -> None:
    corpus = [
        bytes([ordered, *(byte for each in order for byte in (each, int(marks[each % 3]) | 40))])
        for ordered in (0, 1)
        for order in (range(12), range(11, -1, -1), (4, 0, 2, 1, 8, 7, 3, 6, 5))
        for marks in ((MORE, MIDDLE, LAST), (Fragment(0),) * 3)
    ]
    fuzz("fuzz_gather", ("fuzz_gather.c", "vk_gather.c"), corpus)
