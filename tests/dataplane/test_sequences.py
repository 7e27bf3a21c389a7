"""vk_sequences: a stream's messages are known when they came, and nothing else is, through any
order, wrap-around, lack of room and death."""

from __future__ import annotations

import random
import subprocess
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import library, program

NEW, DUPLICATE, FULL = range(3)
AHEAD = 1 << 20
WRAP = 1 << 32


class Pool:
    """A pool of rows and some flows that share it, each `each` of them with a peer of their own."""

    def __init__(self, flows: int = 4, each: int = 4) -> None:
        self.ffi, self.lib = library(
            "sequences_rig.h",
            "sequences_rig.c",
            "vk_sequences.c",
        )
        self.rows = self.ffi.new("struct vk_sequence_runs[]", self.lib.VK_SEQUENCE_POOL)
        self.pool = self.ffi.new("struct vk_sequence_pool *")
        self.lib.vk_sequences_open(self.pool, self.rows)
        self.each = each
        self.held = self.ffi.new("uint32_t[]", -(-flows // each))
        self.flows = self.ffi.new("struct vk_flow[]", flows)
        for flow in self.flows:
            flow.state = self.lib.VK_ROW_LIVE

    def of(self, flow: int) -> tuple[Any, Any, Any]:
        """Return what all functions want: the flow's set, the pool, and what its peer has of it."""
        return (
            self.ffi.addressof(self.flows[flow], "rx"),
            self.pool,
            self.ffi.addressof(self.held, flow // self.each),
        )

    def look(self, number: int, flow: int = 0) -> int:
        return int(self.lib.sequences_look(*self.of(flow), number % WRAP))

    def add(self, number: int, flow: int = 0) -> int:
        """Note a number if it is new; returns what it was."""
        verdict = self.look(number, flow)
        if verdict == NEW:
            self.lib.sequences_add(*self.of(flow), flow, number % WRAP)
        return verdict

    def free(self, flow: int = 0) -> None:
        self.lib.sequences_free(*self.of(flow))

    def check(self) -> None:
        """Let the next worker take over: it counts anew what peers have."""
        self.lib.vk_sequences_open(self.pool, self.rows)
        self.lib.sequences_check(self.flows, len(self.flows), self.pool)
        for peer in range(len(self.held)):
            flows = range(peer * self.each, min((peer + 1) * self.each, len(self.flows)))
            self.held[peer] = sum(self.flows[flow].rx.runs != 0 for flow in flows)

    def row(self, flow: int = 0) -> Any:
        return self.rows[self.flows[flow].rx.runs - 1]

    def runs(self, flow: int = 0) -> list[tuple[int, int]]:
        if not self.flows[flow].rx.runs:
            return []
        row = self.row(flow)
        assert row.owner == flow + 1
        return [(row.runs[i].first, row.runs[i].end) for i in range(row.count)]

    @property
    def owners(self) -> list[int]:
        found = [row.owner for row in self.rows if row.owner]
        assert len(found) == sum(self.held) == len(self.rows) - self.pool.free_count
        return found


class Model:
    """Which numbers came, as a plain set of unwrapped ones; `next` counts beyond 2^32."""

    def __init__(self, start: int, gaps_max: int) -> None:
        self.next = start
        self.beyond: set[int] = set()
        self.gaps_max = gaps_max

    def runs(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for number in sorted(self.beyond):
            if found and found[-1][1] == number:
                found[-1] = (found[-1][0], number + 1)
            else:
                found.append((number, number + 1))
        return [(first % WRAP, end % WRAP) for first, end in found]

    def add(self, number: int) -> int:
        if number < self.next or number in self.beyond:
            return DUPLICATE
        if number - self.next > AHEAD:
            return FULL
        self.beyond.add(number)
        if number != self.next and len(self.runs()) > self.gaps_max:
            self.beyond.discard(number)
            return FULL
        while self.next in self.beyond:
            self.beyond.remove(self.next)
            self.next += 1
        return NEW


# With `next` at 100 and the numbers 103, 104 and 108 there already.
TRUTHS = {
    "1 the next": (100, NEW),
    "2 in the first gap": (101, NEW),
    "3 before a run": (102, NEW),
    "4 begin of a run": (103, DUPLICATE),
    "5 end of a run": (104, DUPLICATE),
    "6 behind a run": (105, NEW),
    "7 behind all": (109, NEW),
    "8 as far ahead as may be": (100 + AHEAD, NEW),
    "9 too far ahead": (101 + AHEAD, FULL),
    "10 half of all numbers ahead": (100 + (1 << 31) - 1, FULL),
    "11 half of all numbers behind": (100 + (1 << 31), DUPLICATE),
    "12 the one before": (99, DUPLICATE),
    "13 the first": (0, DUPLICATE),
}


@pytest.mark.parametrize(("number", "verdict"), TRUTHS.values(), ids=TRUTHS)
@pytest.mark.parametrize("shift", [0, WRAP - 100, WRAP - 103, WRAP - 104, WRAP - 108, 1 << 31])
def test_every_number_is_new_old_or_too_far(number: int, verdict: int, shift: int) -> None:
    pool = Pool()
    pool.flows[0].rx.next = (100 + shift) % WRAP
    for each in (103, 108, 104):
        assert pool.add(each + shift) == NEW
    assert pool.look(number + shift) == verdict
    before = pool.runs()
    assert pool.add(number + shift) == verdict
    assert (pool.runs() == before) == (verdict != NEW or number == 100)
    assert pool.look(number + shift) == (DUPLICATE if verdict == NEW else verdict)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([0, 7, WRAP - 30, WRAP - 1, WRAP - 300, (1 << 31) - 20]),
    st.integers(0, 2**32),
    st.sampled_from([4, 40, 700]),
    st.integers(1, 900),
)
def test_any_order_is_known_as_the_model_knows_it(
    start: int, seed: int, span: int, count: int
) -> None:
    pool, generator = Pool(), random.Random(seed)
    model = Model(start, pool.lib.VK_SEQUENCE_RUNS)
    pool.flows[0].rx.next = start
    for _ in range(count):
        number = model.next + generator.choice((0, generator.randrange(-3, span)))
        if generator.random() < 0.01:
            number = model.next + generator.choice((AHEAD, AHEAD + 1))
        looked = pool.look(number)
        assert pool.add(number) == looked == model.add(number)
        if generator.random() < 0.02:
            pool.check()
        assert pool.flows[0].rx.next == model.next % WRAP
        assert pool.runs() == model.runs()
    assert len(pool.owners) == bool(model.beyond)


def test_more_gaps_than_a_stream_may_have_are_refused_until_one_closes() -> None:
    pool = Pool()
    gaps = pool.lib.VK_SEQUENCE_RUNS
    for i in range(gaps):
        assert pool.add(2 + 2 * i) == NEW
    assert pool.add(2 + 2 * gaps) == FULL
    assert pool.add(1 + 2 * gaps) == NEW  # lengthens the last run
    assert pool.add(1) == NEW  # joins nothing in front, the first run behind
    assert pool.look(4 + 2 * gaps) == FULL
    assert pool.add(3) == NEW  # joins two
    assert pool.add(4 + 2 * gaps) == NEW
    assert pool.add(6 + 2 * gaps) == FULL
    for number in range(4 + 2 * gaps):
        pool.add(number)
    assert (pool.flows[0].rx.next, pool.runs(), pool.owners) == (5 + 2 * gaps, [], [])


def test_a_full_pool_stops_new_gaps_and_nothing_else() -> None:
    pool = Pool()
    assert pool.add(3, flow=1) == NEW
    pool.pool.free_count = 0
    assert pool.look(1) == pool.add(1) == FULL
    assert pool.look(0) == pool.add(0) == NEW
    assert pool.add(1) == NEW
    assert [pool.add(number, flow=1) for number in (5, 4, 0, 1, 2)] == [NEW] * 5
    assert pool.pool.free_count == 1
    assert (pool.flows[1].rx.next, pool.flows[1].rx.runs) == (6, 0)


def test_streams_share_the_pool_and_give_back_what_they_no_longer_need() -> None:
    pool = Pool(3000, each=750)
    for flow in range(3000):
        assert pool.add(1, flow=flow) == NEW
    assert sorted(pool.owners) == list(range(1, 3001))
    for flow in range(3000):
        if flow % 2:
            assert pool.add(0, flow=flow) == NEW
        else:
            pool.free(flow)
            assert (pool.flows[flow].rx.next, pool.flows[flow].rx.runs) == (0, 0)
    assert pool.owners == []


def test_a_peer_has_no_more_of_the_pool_than_it_leaves() -> None:
    pool = Pool(8192, each=4096)
    verdicts = [pool.add(1, flow=flow) for flow in range(4096)]
    assert verdicts == [NEW] * 2048 + [FULL] * 2048
    assert pool.add(0, flow=4095) == NEW  # in order: it needs none
    assert pool.add(3, flow=0) == NEW  # has one
    others = [pool.add(1, flow=flow) for flow in range(4096, 8192)]
    assert others == [NEW] * 1024 + [FULL] * 3072
    pool.free(0)
    assert pool.add(2, flow=4095) == FULL
    for flow in range(1, 1025):
        pool.free(flow)
    assert pool.add(2, flow=4095) == NEW


def test_a_row_is_found_as_fast_in_a_full_pool_as_in_an_empty_one() -> None:
    """By rows that are never looked at: whose they are is not asked."""
    pool = Pool(8, each=8)
    for row in range(4090):
        pool.rows[row].owner = 1 << 20
    pool.pool.free_count = 0
    for row in range(4090, 4096):
        pool.pool.free[pool.pool.free_count] = row
        pool.pool.free_count += 1
    assert [pool.add(1, flow=flow) for flow in range(4)] == [NEW] * 3 + [FULL]
    assert {pool.flows[flow].rx.runs for flow in range(3)} == {4096, 4095, 4094}


def test_rows_that_nobody_refers_to_go_back() -> None:
    pool = Pool()
    for flow in range(3):
        pool.add(5, flow=flow)
    pool.flows[0].rx.runs = 0  # died between the two stores of giving a row back
    pool.flows[1].state = pool.lib.VK_ROW_FREE  # died while it closed the flow
    pool.rows[4000].owner = 1 << 20  # of a flow that does not exist
    pool.held[0] = 0
    pool.check()
    assert pool.owners == [3]
    assert pool.flows[1].rx.runs == 0
    assert pool.runs(2) == [(5, 6)]


@pytest.mark.parametrize("seed", range(4))
def test_a_worker_killed_at_any_instruction_forgets_the_last_number_at_most(seed: int) -> None:
    stepper = program("sequences_steps", "sequences_steps.c", "vk_sequences.c")
    run = subprocess.run(
        [stepper, str(seed), "60"],
        capture_output=True,
        text=True,
        check=False,
        env={"ASAN_OPTIONS": "detect_leaks=0"},
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    instructions, states = map(int, run.stdout.split())
    assert instructions > 1000
    assert states > 100
