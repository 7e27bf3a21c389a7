"""Peers by address and seat: the index against a dictionary."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import library

ffi, lib = library("peer_index_rig.h", "peer_index_rig.c", "vk_peer_index.c", "vk_seat.c")

PEERS = 300


def at(place: int) -> tuple[int, bytes]:
    """The family and the address of a place."""
    family = 6 if place % 3 == 0 else 4
    return family, (place * 0x01000193 % 2**32).to_bytes(4, "little").ljust(16, b"\0")


def hash_of(family: int, address: bytes) -> int:
    return int(lib.hash_of(family, address))


def found(index: Any, place: int) -> int | None:
    family, address = at(place)
    there = int(lib.vk_peer_index_at(index, hash_of(family, address), family, address))
    return None if there == lib.VK_PEER_NOBODY else there


def sits(index: Any, peer: int, place: int) -> bool:
    return bool(lib.sits(index, peer, *at(place)))


@given(steps=st.lists(st.tuples(st.integers(0, PEERS - 1), st.integers(0, 2)), max_size=800))
@settings(deadline=None, max_examples=60)
def test_peers_come_move_and_go_as_in_a_dictionary(steps: list[tuple[int, int]]) -> None:
    index = ffi.new("struct vk_peer_index *")
    known: dict[int, int] = {}
    try:
        for peer, where in steps:
            place = where * PEERS + peer
            if peer in known and (where == 0 or known[peer] != place):
                lib.vk_peer_index_drop(index, peer, *at(known.pop(peer)))
            if where == 0:
                continue
            assert lib.vk_peer_index_put(index, peer, *at(place)) == 0
            known[peer] = place
        assert index.count == len(known)
        for peer in range(PEERS):
            for where in (1, 2):
                place = where * PEERS + peer
                there = known.get(peer) == place
                assert found(index, place) == (peer if there else None)
                assert sits(index, peer, place) == there
                assert not sits(index, (peer + 1) % PEERS, place)
    finally:
        lib.vk_peer_index_free(index)


def crowded(count: int) -> list[int]:
    """Places whose addresses have hashes that begin with the same bits: few lines have them all."""
    places = (place for place in itertools.count(1) if place % 3)
    return list(itertools.islice((x for x in places if hash_of(*at(x)) >> 24 == 0xFF), count))


def test_peers_that_crowd_in_a_few_lines_are_found_and_go() -> None:
    index = ffi.new("struct vk_peer_index *")
    places = crowded(60)
    try:
        for peer, place in enumerate(places):
            assert lib.vk_peer_index_put(index, peer, *at(place)) == 0
        assert [found(index, place) for place in places] == list(range(60))
        for peer in range(0, 60, 2):
            lib.vk_peer_index_drop(index, peer, *at(places[peer]))
        left = [None if peer % 2 == 0 else peer for peer in range(60)]
        assert [found(index, place) for place in places] == left
    finally:
        lib.vk_peer_index_free(index)


def test_who_was_first_at_an_address_is_found_however_large_the_index_gets() -> None:
    index = ffi.new("struct vk_peer_index *")
    try:
        for peer in (7, 3):
            assert lib.vk_peer_index_put(index, peer, *at(1)) == 0
        for peer in range(1000, 6000):
            assert lib.vk_peer_index_put(index, peer, *at(peer)) == 0
        assert found(index, 1) == 7
        lib.vk_peer_index_drop(index, 7, *at(1))
        assert found(index, 1) == 3
        assert [sits(index, peer, 1) for peer in (3, 7, 2**20, 2**32 - 1)] == [True] + 3 * [False]
        lib.vk_peer_index_drop(index, 3, *at(1))
        assert found(index, 1) is None
        assert index.count == 5000
    finally:
        lib.vk_peer_index_free(index)


def test_an_address_of_the_other_family_with_the_same_mark_is_anothers() -> None:
    index = ffi.new("struct vk_peer_index *")
    six = at(3)
    four = 4, hash_of(*six).to_bytes(4, "little").ljust(16, b"\0")
    try:
        assert lib.vk_peer_index_put(index, 1, *six) == 0
        assert lib.sits(index, 1, *six)
        assert not lib.sits(index, 1, *four)
        assert lib.vk_peer_index_put(index, 2, *four) == 0
        assert lib.sits(index, 2, *four)
        assert not lib.sits(index, 2, *six)
    finally:
        lib.vk_peer_index_free(index)


def test_nobody_is_at_the_address_that_is_none() -> None:
    index = ffi.new("struct vk_peer_index *")
    try:
        assert lib.vk_peer_index_put(index, 1, *at(1)) == 0
        assert not any(lib.sits(index, peer, 4, bytes(16)) for peer in range(3))
    finally:
        lib.vk_peer_index_free(index)


KEYS = st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4)


@given(KEYS, st.integers(0, 2**20 - 1), st.integers(0, 4095))
def test_an_id_names_its_peers_seat_under_any_keys(keys: list[int], seat: int, turn: int) -> None:
    assert lib.seat_of(keys, lib.id_of(keys, seat, turn)) == seat


@given(KEYS, st.integers(0, 2**20 - 1))
@settings(deadline=None, max_examples=5)
def test_a_peers_ids_are_all_different(keys: list[int], seat: int) -> None:
    assert len({lib.id_of(keys, seat, turn) for turn in range(4096)}) == 4096


def test_ids_of_one_peer_say_nothing_of_those_of_the_next() -> None:
    """Of neighbours in seat or turn each bit differs as often as not, whatever they are."""
    keys = [0x12345678, 0x9ABCDEF0, 0x0FEDCBA9, 0x87654321]
    for step in ((1, 0), (0, 1)):
        flips = [0] * 32
        for seat in range(2000):
            first, second = (lib.id_of(keys, seat + n * step[0], 5 + n * step[1]) for n in (0, 1))
            for bit in range(32):
                flips[bit] += (first ^ second) >> bit & 1
        assert all(500 <= each <= 1500 for each in flips), flips


def test_an_empty_index_knows_nobody() -> None:
    index = ffi.new("struct vk_peer_index *")
    assert found(index, 1) is None
    assert not sits(index, 0, 1)
    lib.vk_peer_index_drop(index, 0, *at(1))
    lib.vk_peer_index_free(index)
