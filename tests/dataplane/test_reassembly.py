"""vk_reassembly: shards in any order become the message, bounded in bytes, number and time."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import library

TAKEN, COMPLETE, REFUSED, KNOWN, CONTRADICTS = range(5)
AGE = 1000
SPARE = 65536
"""Bytes beyond the shares: room for one message, VK_PARTIAL_SIZE."""


class Table:
    """A table over memory that outlives it, as vk_work does."""

    def __init__(self, limit: int = 1 << 26) -> None:
        self.ffi, self.lib = library("vk_reassembly.h", "vk_reassembly.c", "vk_shares.c")
        self.partials = self.ffi.new("struct vk_partial[]", self.lib.VK_PARTIALS_MAX)
        self.buffers = self.ffi.new(
            f"uint8_t[][{self.lib.VK_PARTIAL_SIZE}]", self.lib.VK_PARTIALS_MAX
        )
        self.limit = limit
        self.table: Any = None
        self.renew()

    def renew(self) -> None:
        """Let the next worker take over."""
        if self.table is not None:
            self.lib.vk_reassembly_free(self.table)
        self.table = self.lib.vk_reassembly_new(self.partials, self.buffers, self.limit)

    def add(
        self,
        message: bytes,
        begin: int,
        end: int,
        *,
        sequence: int = 0,
        flow: int = 0,
        app: int = 0,
        peer: int = 0,
        now: int = 0,
        kept: bool = False,
        done: bool = True,
    ) -> bytes | int:
        """Add a shard; returns the message when it is whole. done: it could be delivered."""
        data = self.ffi.from_buffer("uint8_t[]", message[begin:end] or b"\0")
        shard = self.ffi.new(
            "struct vk_shard *",
            (flow, 1, sequence, begin, len(message), end - begin, data, (peer, app, 3, kept)),
        )
        out = self.ffi.new("uint8_t const **")
        result: int = self.lib.vk_reassembly_add(self.table, shard, now, out)
        if result == COMPLETE:
            whole = bytes(self.ffi.buffer(out[0], len(message)))
            if done:
                self.lib.vk_reassembly_done(self.table)
            return whole
        return result

    @property
    def stored(self) -> int:
        """How many bytes of the last shard were new."""
        return int(self.lib.vk_reassembly_stored(self.table))

    @property
    def bytes(self) -> int:
        return int(self.lib.vk_reassembly_bytes(self.table))


def message_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_order_with_repetitions_gives_every_message_once(data: st.DataObject) -> None:
    table = Table()
    messages = [message_of(data.draw(st.integers(1, 5000)), seed) for seed in range(3)]
    shards = []
    for sequence, message in enumerate(messages):
        cuts = sorted({0, len(message), *data.draw(st.lists(st.integers(0, len(message))))})
        shards += [(sequence, *cut) for cut in itertools.pairwise(cuts)]
    order = data.draw(st.permutations(shards))
    repeated = data.draw(st.sets(st.integers(0, len(order) - 1)))
    missing = {
        sequence: {each[1:] for each in shards if each[0] == sequence} for sequence in range(3)
    }
    for number, (sequence, begin, end) in enumerate(order):
        missing[sequence].discard((begin, end))
        wanted = TAKEN if missing[sequence] else messages[sequence]
        assert table.add(messages[sequence], begin, end, sequence=sequence) == wanted
        if number in repeated and missing[sequence]:
            assert table.add(messages[sequence], begin, end, sequence=sequence) == KNOWN
            assert table.stored == 0
        if data.draw(st.booleans()):
            table.renew()
    assert table.bytes == 0


REFUSALS = {
    "1 empty": (100, 0, 0),
    "2 behind the end": (100, 100, 101),
    "3 beyond the end": (100, 50, 101),
    "4 larger than any message": (65537, 0, 100),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_impossible_shard_is_refused_and_costs_nothing(case: str) -> None:
    total, begin, end = REFUSALS[case]
    table = Table()
    data = table.ffi.new("uint8_t[]", 200)
    place = (0, 1, 0, begin, total, end - begin, data, (0, 0, 3, False))
    shard = table.ffi.new("struct vk_shard *", place)
    out = table.ffi.new("uint8_t const **")
    assert table.lib.vk_reassembly_add(table.table, shard, 0, out) == REFUSED
    assert table.bytes == 0


def test_shards_that_disagree_about_the_whole_end_the_message() -> None:
    table = Table()
    assert table.add(message_of(100), 0, 10) == TAKEN
    assert table.add(message_of(101), 10, 20) == CONTRADICTS
    assert table.bytes == 0


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 300))
def test_overlapping_shards_add_what_is_new_and_change_nothing_that_is_there(
    seed: int, size: int
) -> None:
    """A path's MTU may change between two copies of the same bytes."""
    table, message, generator = Table(), message_of(size), random.Random(seed)
    there: set[int] = set()
    while len(there) < size:
        begin = generator.randrange(size)
        end = generator.randrange(begin, min(size, begin + 40)) + 1
        new = set(range(begin, end)) - there
        there |= new
        told = bytearray(message)
        for at in set(range(begin, end)) - new:
            told[at] ^= 0xFF  # a second copy that lies is not believed
        wanted = message if len(there) == size else TAKEN if new else KNOWN
        assert table.add(bytes(told), begin, end) == wanted
        assert table.stored == len(new)
    assert table.bytes == 0


def test_a_message_that_could_not_be_delivered_is_completed_by_its_last_shard_again() -> None:
    table, message = Table(), message_of(100)
    assert table.add(message, 0, 60) == TAKEN
    for _ in range(3):
        assert table.add(message, 60, 100, done=False) == message
        assert table.bytes == 100
        assert table.add(message, 0, 60) == KNOWN
    assert table.add(message, 60, 100) == message
    assert table.bytes == 0


def test_what_could_not_be_delivered_outlives_the_worker_without_its_last_shard() -> None:
    table, message = Table(), message_of(100)
    assert table.add(message, 0, 60) == TAKEN
    assert table.add(message, 60, 100, done=False) == message
    table.renew()
    assert table.add(message, 60, 100) == message


def test_memory_is_bounded() -> None:
    table = Table(limit=SPARE + 10_000)
    assert table.add(bytes(5000), 0, 1, peer=1, kept=True) == TAKEN
    assert table.add(bytes(5000), 0, 1, peer=2, flow=1, kept=True) == REFUSED
    assert table.add(bytes(2500), 0, 1, peer=2, flow=1, kept=True) == TAKEN
    assert table.bytes == 7500


def test_a_message_before_others_of_its_stream_has_room_of_its_own() -> None:
    table = Table(limit=SPARE + 10_000)
    size = 5000
    assert table.add(bytes(size), 0, 1, sequence=7, kept=True) == TAKEN
    assert table.add(bytes(size), 0, 1, sequence=8, kept=True) == REFUSED
    assert table.add(bytes(size), 0, 1, sequence=6, kept=True) == TAKEN
    assert table.add(bytes(size), 0, 1, sequence=5, kept=True) == REFUSED, "one at a time"
    assert table.add(bytes(size), 0, 1, sequence=6, flow=1, kept=True) == REFUSED
    assert table.add(bytes(size), 1, size, sequence=6, kept=True) == bytes(size)
    assert table.add(bytes(size), 0, 1, sequence=5, kept=True) == TAKEN
    assert table.bytes == 2 * size


def test_the_number_of_partial_messages_is_bounded() -> None:
    table = Table()
    whose = [(number, number % 64, number // 7) for number in range(3000)]
    answers = [table.add(bytes(100), 0, 1, flow=a, app=b, peer=c, kept=True) for a, b, c in whose]
    assert answers.count(TAKEN) == table.lib.VK_PARTIALS_MAX
    assert table.add(bytes(100), 1, 100) == bytes(100)
    assert table.add(bytes(100), 0, 1, flow=3000, kept=True) == TAKEN
    assert table.add(bytes(100), 0, 1, flow=3001, kept=True) == REFUSED


def test_many_messages_of_a_stream_are_in_nobodys_way() -> None:
    table = Table()
    for sequence in range(100):
        assert table.add(bytes(100), 0, 1, sequence=sequence, kept=True) == TAKEN
    for flow in range(1, 20):
        assert table.add(bytes(100), 0, 1, sequence=0, flow=flow, kept=True) == TAKEN


@pytest.mark.parametrize("one", [False, True])
def test_a_message_that_finds_no_room_outside_is_known_to_wait(one: bool) -> None:
    table, message = Table(), message_of(100)
    if not one:
        assert table.add(message, 0, 60, kept=True) == TAKEN
    for waits in (0 if one else 60, 0, 0):
        assert table.add(message, 0 if one else 60, 100, kept=True, done=False) == message
        assert table.lib.vk_reassembly_wait(table.table) == waits
        assert table.bytes == (0 if one else 100)  # a message of one shard keeps nothing here
    assert table.add(message, 0 if one else 60, 100, kept=True, done=False) == message
    assert table.lib.vk_reassembly_done(table.table) == (0 if one else 60)
    assert (table.bytes, table.lib.vk_reassembly_done(table.table)) == (0, 0)


def test_the_last_message_may_be_forgotten_before_it_is_done() -> None:
    """Its application is cut off as it is handed over."""
    table, message = Table(), message_of(100)
    assert table.add(message, 0, 100, flow=3, done=False) == message
    table.lib.vk_reassembly_forget(table.table, 3)
    assert table.lib.vk_reassembly_done(table.table) == 0
    assert table.lib.vk_reassembly_wait(table.table) == 0
    answers = [
        table.add(bytes(9), 0, 1, flow=number, app=number % 64, peer=number, kept=True)
        for number in range(1025)
    ]
    assert answers == [TAKEN] * 1024 + [REFUSED]


def test_whose_messages_are_is_said_to_the_next_worker() -> None:
    table = Table()
    for sequence in range(300):
        table.add(bytes(9), 0, 1, sequence=sequence, app=5, peer=9, kept=True)
    table.renew()
    party = table.ffi.new("struct vk_party *", (9, 5, 3, True))
    live = [index for index, each in enumerate(table.partials) if each.total]
    for index in live[1:]:
        table.lib.vk_reassembly_adopt(table.table, index, party)
    table.lib.vk_reassembly_lose(table.table, live[0])
    assert table.bytes == 9 * (len(live) - 1)
    assert table.add(bytes(9), 0, 1, sequence=900, app=5, peer=9, kept=True) == TAKEN
    assert table.add(bytes(9), 0, 1, sequence=901, app=5, peer=9, kept=True) == REFUSED
    assert table.add(bytes(9), 0, 1, flow=1, app=4, peer=9, kept=True) == TAKEN


def test_a_message_with_too_many_holes_takes_no_more_of_them() -> None:
    table, holes = Table(), Table().lib.VK_PARTIAL_RUNS_MAX
    message = message_of(4 * holes)
    for number in range(holes):
        assert table.add(message, 4 * number, 4 * number + 2) == TAKEN
    assert table.add(message, 4 * holes - 1, 4 * holes) == REFUSED
    for number in range(holes - 1):
        assert table.add(message, 4 * number + 2, 4 * number + 4) == TAKEN
    assert table.add(message, 4 * holes - 2, 4 * holes) == message


def test_partial_messages_are_given_up_in_time() -> None:
    table = Table()
    table.add(bytes(100), 0, 1, sequence=1, now=0)
    table.add(bytes(100), 0, 1, sequence=2, now=AGE // 2)
    assert table.lib.vk_reassembly_expire(table.table, AGE - 1, AGE) == 0
    assert table.lib.vk_reassembly_expire(table.table, AGE, AGE) == 1
    assert table.bytes == 100


def test_partial_messages_of_reliable_streams_wait_as_long_as_it_takes() -> None:
    table, message = Table(), message_of(100)
    table.add(message, 0, 1, sequence=1, now=0, kept=True)
    table.add(message, 0, 1, sequence=2, now=0)
    assert table.lib.vk_reassembly_expire(table.table, 2**63, AGE) == 1
    assert table.bytes == 100
    assert table.add(message, 1, 100, sequence=1) == message


def test_the_partial_messages_of_a_stream_end_with_it_and_nobody_elses() -> None:
    table, message = Table(), message_of(100)
    for flow in (1, 2):
        for sequence in range(3):
            table.add(message, 0, 1, sequence=sequence, flow=flow, kept=True)
    table.lib.vk_reassembly_forget(table.table, 1)
    assert table.bytes == 300
    assert table.add(message, 1, 100, sequence=0, flow=1) == TAKEN
    assert table.add(message, 1, 100, sequence=0, flow=2) == message


BROKEN = {
    "1 while it was changed": {"run_count": 2**32 - 1},
    "2 runs out of order": {"run_count": 2},
    "3 no such buffer": {"buffer": 5000},
    "4 larger than a buffer": {"total": 70_000},
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_a_dead_worker_left_broken_is_given_up(case: str) -> None:
    table = Table()
    table.add(bytes(100), 0, 1, sequence=1)
    table.add(bytes(100), 0, 1, sequence=2)
    (partial,) = [each for each in table.partials if each.total and each.sequence == 1]
    for field, value in BROKEN[case].items():
        setattr(partial, field, value)
    table.renew()
    assert table.bytes == 100
    assert table.add(bytes(100), 1, 100, sequence=2) == bytes(100)
