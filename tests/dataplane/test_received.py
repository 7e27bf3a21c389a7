"""vk_received: what came is told once, and nothing that did not come."""

from __future__ import annotations

import itertools
import random
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.fuzzing import fuzz
from tests.dataplane.native import library
from valkyrie.dataplane import lib as wire

NEW, DUPLICATE, OLD = range(3)
HEAD = struct.Struct(">BBBBIQIQ")
MS = 1_000_000
NEVER = 2**64 - 1
EBADMSG = 74
SOURCES = ("received_rig.c", "vk_received.c")


def rig() -> tuple[Any, Any]:
    return library("received_rig.h", *SOURCES)


class Received:
    """A space's received packets."""

    def __init__(self) -> None:
        self.ffi, self.lib = rig()
        self.it = self.ffi.new("struct vk_received *")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.it, name)

    def look(self, number: int) -> int:
        return int(self.lib.received_look(self.it, number))

    def add(
        self,
        number: int,
        now: int = 0,
        *,
        eliciting: bool = True,
        ce: bool = False,
        came: int | None = None,
    ) -> None:
        assert self.look(number) == NEW
        self.lib.received_add(self.it, number, eliciting, ce, now if came is None else came, now)

    def take(self, *numbers: int) -> Received:
        for number in numbers:
            self.add(number)
        return self

    def due(self, now: int = 0, *, every: int = 10, delay: int = MS) -> bool:
        return bool(self.lib.vk_received_due(self.it, every, delay, now))

    def deadline(self, delay: int = MS) -> int:
        return int(self.lib.received_deadline(self.it, delay))

    def spans(self) -> list[tuple[int, int]]:
        return [(each.first, each.last) for each in self.it.ranges[0 : self.it.range_count]]

    def write(self, now: int = 0, *, room: int = 1400, space: int = 1) -> bytes:
        out = self.ffi.new("uint8_t[]", room + 8)
        size = self.lib.vk_received_write(self.it, space, out, room, now)
        assert size <= room
        assert bytes(out[size : room + 8]) == bytes(room + 8 - size)
        return bytes(out[0:size])


def ack(
    largest: int,
    *pairs: tuple[int, int],
    space: int = 1,
    flags: int = 1,
    delay_us: int = 0,
    ce: int = 0,
    limit: int = 0,
    credits_: bytes = b"",
    counts: tuple[int, int] | None = None,
) -> bytes:
    """Build the payload of a STREAM_ACK, by hand."""
    ranges, credit = counts or (len(pairs), len(credits_) // 12)
    head = HEAD.pack(space, flags, ranges, credit, delay_us, largest, ce, limit)
    return head + b"".join(struct.pack(">II", *pair) for pair in pairs) + credits_


def parse(payload: bytes) -> Any:
    ffi, lib = rig()
    view = ffi.new("struct vk_ack_view *")
    kept = ffi.from_buffer("uint8_t[]", payload or b"\0")
    result = lib.vk_ack_parse(view, kept, len(payload))
    if result:
        assert result == -EBADMSG
        return None
    return view


def named(payload: bytes) -> set[int]:
    """Return the packet numbers that an acknowledgement names."""
    assert parse(payload) is not None
    _, _, count, _, _, largest, _, _ = HEAD.unpack_from(payload)
    found, at = set(), largest
    for index in range(count):
        gap, length = struct.unpack_from(">II", payload, HEAD.size + 8 * index)
        at -= gap
        found |= set(range(at - length + 1, at + 1))
        at -= length
    return found


# ---- What came ----


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=400), st.sampled_from([0, 2**32 - 100, 2**62 - 301]))
def test_what_came_is_known_and_what_is_given_up_is_old(offsets: list[int], base: int) -> None:
    received, came, floor = Received(), set[int](), 0
    for number in (base + offset for offset in offsets):
        arrival = received.look(number)
        if number < floor:
            assert arrival == OLD
            continue
        assert arrival == (DUPLICATE if number in came else NEW)
        if arrival == NEW:
            received.add(number)
            came.add(number)
            ordered = sorted(came)
            runs = 1 + sum(b != a + 1 for a, b in itertools.pairwise(ordered))
            if runs > wire_ranges():
                # The lowest run is given up: all up to its end.
                floor = next(a + 1 for a, b in itertools.pairwise([*ordered, NEVER]) if b != a + 1)
                came = {each for each in came if each >= floor}
        assert received.floor == floor
        spans = [range(first, last + 1) for first, last in received.spans()]
        assert [n for span in reversed(spans) for n in span] == sorted(came)


def wire_ranges() -> int:
    return int(rig()[1].VK_RECEIVED_RANGES)


def test_numbers_in_order_stay_one_range() -> None:
    received = Received().take(*range(7, 2000))
    assert received.spans() == [(7, 1999)]


def test_a_range_full_of_holes_gives_up_its_lowest_for_one_above_it() -> None:
    received = Received().take(*range(0, 2 * wire_ranges(), 2))
    received.add(1001)
    assert (received.floor, received.look(0), received.look(1)) == (1, OLD, NEW)


def test_one_below_all_of_too_many_ranges_is_old_from_then_on_and_costs_none_of_them() -> None:
    received = Received().take(*range(10, 10 + 2 * wire_ranges(), 2))
    received.add(5)
    assert received.range_count == wire_ranges()
    assert (received.look(5), received.look(6), received.look(10)) == (OLD, NEW, DUPLICATE)


# ---- When to say so: RFC 9000, 13.2.1 and 13.2.2 ----

# number: what comes before it -> whether it is answered at once.
URGENCY = [
    ((), 0, False),
    ((), 9, False),  # nothing is known of what was before
    ((0,), 1, False),  # in order
    ((0,), 2, True),  # a hole before it
    ((0, 2), 1, True),  # fills one
    ((0, 2), 3, False),  # the hole was told already
    ((0, 2), 5, True),  # another one
    ((5,), 4, True),  # less than another
    ((5,), 3, True),
]


@pytest.mark.parametrize(("before", "number", "urgent"), URGENCY)
def test_disorder_is_told_at_once(before: tuple[int, ...], number: int, *, urgent: bool) -> None:
    received = Received().take(*before)
    received.write()
    assert not received.due(10 * MS)
    received.add(number)
    assert received.due() is urgent


def test_a_mark_is_told_at_once() -> None:
    received = Received().take(0)
    received.write()
    received.add(1, ce=True)
    assert received.due()
    assert HEAD.unpack_from(received.write())[6] == 1


def test_nothing_is_said_of_packets_that_ask_for_nothing() -> None:
    received = Received().take(0)
    received.write()
    for number in (1, 3, 2, 9):
        received.add(number, eliciting=False, ce=True)
    assert not received.due(NEVER)
    assert received.deadline() == NEVER
    received.add(10)
    assert named(received.write()) == {0, 1, 2, 3, 9, 10}


def test_an_acknowledgement_is_due_after_so_many_packets_or_so_much_time() -> None:
    received = Received()
    received.add(0, 5 * MS)
    received.add(1, 5 * MS + 400)
    assert received.deadline() == 6 * MS
    assert not received.due(6 * MS - 1)
    assert received.due(6 * MS)
    assert received.due(5 * MS, every=2)
    assert not received.due(5 * MS, every=3)


def test_the_deadline_of_something_urgent_has_passed() -> None:
    received = Received().take(0)
    received.add(2, 7 * MS)
    assert received.deadline() <= 7 * MS


# ---- How it is said ----


@settings(max_examples=300, deadline=None)
@given(st.sets(st.integers(0, 200), min_size=1), st.integers(HEAD.size + 8, 400), st.integers(0, 2))
def test_what_is_written_is_what_came_the_highest_first(
    offsets: set[int], room: int, space: int
) -> None:
    base = 2**40
    received = Received().take(*(base + each for each in offsets))
    kept = {base + each for each in offsets if base + each >= received.floor}
    told = named(received.write(room=room, space=space))
    assert told <= kept
    assert max(told) == max(kept)
    assert kept - told == {each for each in kept if each < min(told)}
    most = min(wire.VK_ACK_RANGES_MAX, (room - HEAD.size) // 8)
    if received.range_count <= most:
        assert told == kept


def test_the_delay_is_that_of_the_largest_in_microseconds() -> None:
    received = Received()
    received.add(5, 10 * MS)
    received.add(4, 12 * MS)
    head = HEAD.unpack(received.write(15 * MS)[: HEAD.size])
    assert head == (1, wire.VK_ACK_HAS_RANGES, 1, 0, 5000, 5, 0, 0)


def test_the_delay_counts_from_when_the_packet_came_and_waiting_from_when_it_was_seen() -> None:
    received = Received()
    received.add(5, 10 * MS, came=7 * MS)
    assert received.deadline() == 11 * MS
    head = HEAD.unpack(received.write(11 * MS)[: HEAD.size])
    assert head == (1, wire.VK_ACK_HAS_RANGES, 1, 0, 4000, 5, 0, 0)


def test_without_ranges_an_acknowledgement_says_so() -> None:
    empty = Received().write()
    assert empty == ack(0, flags=0)
    assert parse(empty).range_count == 0
    assert parse(Received().take(3).write(room=HEAD.size + 7)).flags == 0


def test_what_32_bits_cannot_say_is_left_out() -> None:
    received = Received().take(1, 2**33)
    assert named(received.write()) == {2**33}
    received.it.ranges[1].last = 2**33 - 2  # more in a row than 32 bits can say
    view = parse(received.write())
    assert view.range_count == 2
    assert struct.unpack_from(">II", bytes(rig()[0].buffer(view.ranges, 16)), 8) == (1, 2**32 - 1)


# ---- How it is read ----

LONG = tuple((bool(each), 1) for each in range(33))
TRUTH = [
    ("one packet", ack(0, (0, 1)), True),
    ("all to zero", ack(9, (0, 10)), True),
    ("one too many", ack(9, (0, 11)), False),
    ("two ranges down to zero", ack(9, (0, 3), (4, 3)), True),
    ("a gap below zero", ack(9, (0, 3), (5, 3)), False),
    ("a second range below zero", ack(9, (0, 3), (4, 4)), False),
    ("32 bits of gap and length below zero", ack(9, (0, 1), (2**32 - 1, 2**32 - 1)), False),
    ("a gap in the first", ack(9, (1, 3)), False),
    ("no gap in the second", ack(9, (0, 3), (0, 3)), False),
    ("an empty range", ack(9, (0, 0)), False),
    ("an empty second range", ack(9, (0, 1), (1, 0)), False),
    ("the highest number", ack(2**62 - 1, (0, 1)), True),
    ("a number beyond", ack(2**62, (0, 1)), False),
    ("beyond everything", ack(2**64 - 1, (0, 1)), False),
    ("no ranges", ack(9, flags=0), True),
    ("ranges announced, none there", ack(9), False),
    ("ranges there, not announced", ack(9, (0, 1), flags=0), False),
    ("ranges counted, not there", ack(9, counts=(1, 0)), False),
    ("ranges there, not counted", ack(9, (0, 1), flags=0, counts=(0, 0)), False),
    ("32 ranges", ack(99, *LONG[:32]), True),
    ("33 ranges", ack(99, *LONG), False),
    ("a session limit alone", ack(0, flags=2, limit=NEVER), True),
    ("64 credits", ack(0, flags=0, credits_=bytes(12 * 64)), True),
    ("65 credits", ack(0, flags=0, credits_=bytes(12 * 65)), False),
    ("a credit cut off", ack(0, flags=0, credits_=bytes(11), counts=(0, 1)), False),
    ("a byte too many", ack(0, (0, 1)) + b"\0", False),
    ("a flag of the future", ack(0, (0, 1), flags=0x81), True),
    ("no such space", ack(0, (0, 1), space=3), False),
    ("nothing", b"", False),
]


@pytest.mark.parametrize(("payload", "fine"), [row[1:] for row in TRUTH], ids=[r[0] for r in TRUTH])
def test_an_acknowledgement_is_right_in_all_or_refused(payload: bytes, *, fine: bool) -> None:
    assert (parse(payload) is not None) is fine


def test_no_truncated_acknowledgement_is_accepted() -> None:
    whole = ack(99, *LONG[:5], credits_=bytes(36))
    assert parse(whole) is not None
    assert not any(parse(whole[:size]) for size in range(len(whole)))


def test_all_fields_are_read() -> None:
    credit = struct.pack(">IQ", 7, 2**40)
    view = parse(
        ack(9, (0, 2), space=2, flags=3, delay_us=2**32 - 1, ce=8, limit=2**50, credits_=credit)
    )
    assert (view.space, view.flags, view.largest, view.ce_count) == (2, 3, 9, 8)
    assert (view.delay_ns, view.session_limit) == ((2**32 - 1) * 1000, 2**50)
    assert (view.range_count, view.credit_count) == (1, 1)
    assert bytes(rig()[0].buffer(view.credits, 12)) == credit


def test_fuzzed_acknowledgements_never_name_a_number_twice() -> None:
    corpus = [payload for _, payload, _ in TRUTH]
    rng = random.Random(1)
    corpus += [Received().take(*rng.sample(range(200), 40)).write() for _ in range(8)]
    fuzz(
        "fuzz_received",
        ("fuzz_received.c", "vk_received.c"),
        corpus,
        seconds=5,
    )
