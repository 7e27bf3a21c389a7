"""vk_ledger, vk_sent: numbered things in rings that grow, found by number as long as they are there
and not a moment longer."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import library

WRAP = 1 << 32
FREE, FLYING = 0, 1
SKIPPED = 4


def rig() -> tuple[Any, Any]:
    return library(
        "ledger_rig.h",
        *("ledger_rig.c", "vk_ledger.c", "vk_sent.c"),
    )


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([0, 5, WRAP - 3, WRAP - 70, WRAP // 2]),
    st.integers(1, 400),
)
def test_entries_are_found_by_number_until_they_are_released(
    seed: int, start: int, steps: int
) -> None:
    (ffi, lib), generator = rig(), random.Random(seed)
    ledger = ffi.new("struct vk_ledger *")
    ledger.first = ledger.next = start
    model: dict[int, int] = {}
    first = following = start
    for _ in range(steps):
        match generator.randrange(8):
            case 0 | 1 | 2 | 3 | 4:
                at = generator.randrange(2**48)
                entry = lib.vk_ledger_push(ledger, at)
                assert (entry.at, entry.state) == (at, 0)
                assert (entry.copies, entry.shards, entry.again) == (0, 0, 0)
                model[following] = at
                following += 1
            case 5 | 6:
                for _ in range(generator.randrange(4)):
                    if first < following:
                        del model[first]
                        first += 1
                ledger.first = first % WRAP
            case _ if generator.random() < 0.05:
                lib.vk_ledger_begin(ledger)  # numbers go on: packets of the one before still fly
                model.clear()
                first = following
        assert bool(lib.ledger_empty(ledger)) == (not model)
        for number in (first - 1, following, following + 1, generator.randrange(WRAP)):
            if number not in model:
                assert lib.ledger_get(ledger, number % WRAP) == ffi.NULL
        for number in random.Random(seed).sample(sorted(model), min(len(model), 10)):
            assert lib.ledger_get(ledger, number % WRAP).at == model[number]
    lib.vk_ledger_free(ledger)
    assert lib.ledger_empty(ledger)
    assert lib.vk_ledger_push(ledger, 7).at == 7
    lib.vk_ledger_free(ledger)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([0, 7, WRAP - 3, WRAP // 2]),
    st.lists(st.sampled_from([1, 1, 1, 2, 9, -4, 32767, -32768]), max_size=12),
    st.integers(0, 12),
)
def test_a_run_gives_the_entries_that_it_was_asked_to_name(
    start: int, steps: list[int], taken: int
) -> None:
    ffi, lib = rig()
    run = ffi.new("struct vk_sent_run *", {"first": start, "a": 1})
    named, number = [start], ffi.new("uint32_t *")
    for step in steps:
        if not lib.vk_content_join(run, (named[-1] + step) % WRAP):
            assert len(named) > 1, "two can always be named"
            break
        named.append((named[-1] + step) % WRAP)
    assert len(named) > min(len(steps), lib.VK_APART_MAX) or steps[0] == 1
    for _ in range(min(taken, len(named) - 1)):
        assert lib.content_take(run, number)
        assert number[0] == named.pop(0)
    if lib.vk_content_join(run, (named[-1] + 3) % WRAP):  # what is left can be added to
        named.append((named[-1] + 3) % WRAP)
    while lib.content_take(run, number):
        assert number[0] == named.pop(0)
    assert not named


def test_entries_that_lie_too_far_apart_have_runs_of_their_own() -> None:
    ffi, lib = rig()
    for step in (32768, -32769):
        run = ffi.new("struct vk_sent_run *", {"first": 100_000, "a": 1})
        assert not lib.vk_content_join(run, 100_000 + step)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0, 2**32 - 40, 2**62]), st.integers(1, 300))
def test_packets_are_found_by_number_until_all_before_them_are_settled(
    seed: int, start: int, steps: int
) -> None:
    (ffi, lib), generator = rig(), random.Random(seed)
    sent = ffi.new("struct vk_sent *")
    flying: dict[int, int] = {}
    following = start
    for step in range(steps):
        if generator.random() < 0.6:
            following += generator.choice((0, 0, 0, 1, 5))  # numbers that nobody answers
            packet = lib.vk_sent_put(sent, following)
            assert (packet.state, packet.run_count, packet.flags) == (FREE, 0, 0)
            packet.state, packet.size = FLYING, step
            flying[following] = step
            following += 1
        elif flying:
            number = generator.choice(sorted(flying)[:3])
            lib.sent_get(sent, number).state = FREE
            del flying[number]
            lib.vk_sent_settle(sent)
        assert sent.oldest == min(flying, default=sent.next)
        for number, size in flying.items():
            packet = lib.sent_get(sent, number)
            assert (packet.state, packet.size) == (FLYING, size)
        for number in range(int(sent.oldest), int(sent.next)):
            if number not in flying:
                assert lib.sent_get(sent, number).state == FREE
        assert lib.sent_get(sent, sent.next) == ffi.NULL
        assert lib.sent_get(sent, (int(sent.oldest) - 1) % 2**64) == ffi.NULL
    lib.vk_sent_free(sent)


def test_a_number_left_out_is_remembered_until_its_time() -> None:
    ffi, lib = rig()
    sent = ffi.new("struct vk_sent *")
    lib.vk_sent_put(sent, 5).flags = SKIPPED
    lib.vk_sent_put(sent, 6).state = FLYING
    lib.vk_sent_settle(sent)
    assert sent.oldest == 5
    lib.sent_get(sent, 5).flags = 0
    lib.vk_sent_settle(sent)
    assert sent.oldest == 6
    lib.vk_sent_free(sent)


@pytest.mark.parametrize("far", [0, 1])
def test_no_more_may_be_under_way_than_the_ring_may_grow_to(far: int) -> None:
    ffi, lib = rig()
    sent = ffi.new("struct vk_sent *")
    lib.vk_sent_put(sent, 10).state = FLYING
    packet = lib.vk_sent_put(sent, 9 + lib.VK_SENT_MAX + far)
    assert (packet == ffi.NULL) == bool(far)
    assert lib.sent_get(sent, 10).state == FLYING
    lib.vk_sent_free(sent)
