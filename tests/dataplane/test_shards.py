"""vk_shards: what of a large message the peer has, whatever the order and size of what it says."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import library


class Table:
    """A worker's table of messages under way."""

    def __init__(self) -> None:
        self.ffi, self.lib = library("vk_shards.h", "vk_shards.c")
        self.it: Any = self.ffi.new("struct vk_shard_table *")

    def new(self, total: int) -> int:
        index = int(self.lib.vk_shards_new(self.it, total))
        assert index
        return index

    def drop(self, index: int) -> None:
        self.lib.vk_shards_drop(self.it, index)

    def row(self, index: int) -> Any:
        return self.ffi.addressof(self.it.rows[index - 1])

    def acked(self, index: int, begin: int, end: int) -> bool:
        return bool(self.lib.vk_shards_acked(self.row(index), begin, end))

    def missing(self, index: int, begin: int, end: int) -> tuple[int, int] | None:
        span = self.ffi.new("struct vk_span *")
        if not self.lib.vk_shards_missing(self.row(index), begin, end, span):
            return None
        return span.begin, span.end

    def free(self) -> None:
        self.lib.vk_shards_free(self.it)


@pytest.fixture
def table() -> Iterator[Table]:
    made = Table()
    yield made
    made.free()


def first_run(there: set[int], begin: int, end: int) -> tuple[int, int] | None:
    """Return the first bytes in [begin, end) that are not there, by looking at each."""
    gone = [at for at in range(begin, end) if at not in there]
    if not gone:
        return None
    last = gone[0]
    while last + 1 in gone:
        last += 1
    return gone[0], last + 1


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 200), st.sampled_from([1, 7, 60]))
def test_what_is_missing_is_what_no_acknowledgement_named(seed: int, total: int, most: int) -> None:
    table, generator = Table(), random.Random(seed)
    index, there = table.new(total), set[int]()
    while len(there) < total:
        begin = generator.randrange(total)
        end = min(total, begin + generator.randrange(1, most + 1))
        there |= set(range(begin, end))
        assert table.acked(index, begin, end) == (len(there) == total)
        begin = generator.randrange(total)
        end = generator.randrange(begin, total + 1)
        assert table.missing(index, begin, end) == first_run(there, begin, end)
        spans = [
            (each.begin, each.end) for each in table.row(index).acked[0 : table.row(index).count]
        ]
        assert {at for span in spans for at in range(*span)} == there
        assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))
    table.free()


def test_walking_over_what_is_missing_sends_every_byte_once(table: Table) -> None:
    index = table.new(1000)
    for begin in range(100, 1000, 200):
        table.acked(index, begin, begin + 100)
    at, sent = 0, []
    while found := table.missing(index, at, 1000):
        sent.append(found)
        at = found[1]
    assert sent == [(begin, begin + 100) for begin in range(0, 1000, 200)]


def test_a_row_that_is_used_again_remembers_nothing(table: Table) -> None:
    first = table.new(100)
    assert table.acked(first, 0, 100)
    table.drop(first)
    again = table.new(50)
    assert again == first
    assert (table.row(again).total, table.row(again).sent) == (50, 0)
    assert table.missing(again, 0, 50) == (0, 50)


def test_rows_keep_what_they_know_while_the_table_grows(table: Table) -> None:
    rows = [table.new(1000 + each) for each in range(500)]
    assert len(set(rows)) == 500
    for each, index in enumerate(rows):
        table.acked(index, each, each + 1)
    table.drop(0)  # no row: fine
    more = [table.new(5) for _ in range(5000)]
    assert not set(rows) & set(more)
    for each, index in enumerate(rows):
        assert table.row(index).total == 1000 + each
        assert table.missing(index, each, each + 2) == (each + 1, each + 2)
