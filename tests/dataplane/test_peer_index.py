"""Peers by address and session: the index against a dictionary."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import library

ffi, lib = library("vk_peer_index.h", "vk_peer_index.c")

PEERS = 300


def at(place: int) -> tuple[int, bytes]:
    """The family and the address of a place."""
    family = 6 if place % 3 == 0 else 4
    return family, (place * 0x01000193 % 2**32).to_bytes(4, "little").ljust(16, b"\0")


def hash_of(family: int, address: bytes) -> int:
    """What vk_peer_hash says, which is inline."""
    if family == 4:
        mixed = int.from_bytes(address[:4], "little") * 0x9E3779B9 % 2**32
        return (mixed ^ mixed >> 16) * 0x85EBCA6B % 2**32
    fibonacci, limit = 0x9E3779B97F4A7C15, 2**64
    first, second = (int.from_bytes(address[at : at + 8], "little") for at in (0, 8))
    mixed = first * fibonacci % limit ^ second
    return (mixed ^ mixed >> 32) * fibonacci % limit >> 32


def found(index: Any, place: int) -> int | None:
    family, address = at(place)
    there = int(lib.vk_peer_index_at(index, hash_of(family, address), family, address))
    return None if there == lib.VK_PEER_NOBODY else there


@given(
    steps=st.lists(
        st.tuples(st.integers(0, PEERS - 1), st.integers(0, 2), st.integers(0, 3)),
        max_size=800,
    )
)
@settings(deadline=None, max_examples=60)
def test_peers_come_move_and_go_as_in_a_dictionary(steps: list[tuple[int, int, int]]) -> None:
    index = ffi.new("struct vk_peer_index *")
    known: dict[int, tuple[int, int]] = {}
    try:
        for peer, where, turn in steps:
            place, session = where * PEERS + peer, turn and turn * PEERS + peer
            if peer in known and (where == 0 or known[peer][0] != place):
                lib.vk_peer_index_drop(index, peer, *at(known.pop(peer)[0]))
            if where == 0:
                continue
            assert lib.vk_peer_index_put(index, peer, session, *at(place)) == 0
            known[peer] = place, session
        assert index.count == len(known)
        for peer in range(PEERS):
            for where in (1, 2):
                place = where * PEERS + peer
                there = peer in known and known[peer][0] == place
                assert found(index, place) == (peer if there else None)
            for turn in (1, 2, 3):
                session = turn * PEERS + peer
                there = peer in known and known[peer][1] == session
                assert lib.vk_peer_index_session(index, session) == (peer if there else -1)
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
            assert lib.vk_peer_index_put(index, peer, 0, *at(place)) == 0
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
            assert lib.vk_peer_index_put(index, peer, 0, *at(1)) == 0
        for peer in range(1000, 6000):
            assert lib.vk_peer_index_put(index, peer, 0, *at(peer)) == 0
        assert found(index, 1) == 7
        lib.vk_peer_index_drop(index, 7, *at(1))
        assert found(index, 1) == 3
        lib.vk_peer_index_drop(index, 3, *at(1))
        assert found(index, 1) is None
        assert index.count == 5000
    finally:
        lib.vk_peer_index_free(index)


def test_an_empty_index_knows_nobody() -> None:
    index = ffi.new("struct vk_peer_index *")
    assert found(index, 1) is None
    assert lib.vk_peer_index_session(index, 5) == -1
    lib.vk_peer_index_drop(index, 0, *at(1))
    lib.vk_peer_index_free(index)
