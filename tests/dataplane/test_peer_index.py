"""Peers by address and session: the index against a dictionary."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import library

ffi, lib = library("vk_peer_index.h", "vk_peer_index.c")

PEERS = 300


def entry(peer: int, place: int, session: int) -> tuple[Any, bytes]:
    """An entry, and the address that it is put at."""
    family = 6 if place % 3 == 0 else 4
    address = (place * 0x01000193 % 2**32).to_bytes(4, "little").ljust(16, b"\0")
    row = ffi.new(
        "struct vk_peer_entry *",
        {
            "family": family,
            "peer": peer + 1,
            "session": session,
            "joined": int(session != 0),
            "udp_port": 1000 + peer,
        },
    )
    return row, address


def hash_of(family: int, address: bytes) -> int:
    """What vk_peer_hash says, which is inline."""
    if family == 4:
        mixed = int.from_bytes(address[:4], "little") * 0x9E3779B9 % 2**32
        return (mixed ^ mixed >> 16) * 0x85EBCA6B % 2**32
    fibonacci, limit = 0x9E3779B97F4A7C15, 2**64
    first, second = (int.from_bytes(address[at : at + 8], "little") for at in (0, 8))
    mixed = first * fibonacci % limit ^ second
    return (mixed ^ mixed >> 32) * fibonacci % limit >> 32


def found(index: Any, at: tuple[Any, bytes]) -> int | None:
    row, address = at
    hashed = hash_of(row.family, address)
    there = lib.vk_peer_index_at(index, hashed, row.family, address)
    return None if there == ffi.NULL else int(there.peer) - 1


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
                lib.vk_peer_index_drop(index, *entry(peer, *known.pop(peer)))
            if where == 0:
                continue
            assert lib.vk_peer_index_put(index, *entry(peer, place, session)) == 0
            known[peer] = place, session
        assert index.count == len(known)
        for peer in range(PEERS):
            for where in (1, 2):
                at = entry(peer, where * PEERS + peer, 0)
                there = peer in known and known[peer][0] == where * PEERS + peer
                assert found(index, at) == (peer if there else None)
            for turn in (1, 2, 3):
                session = turn * PEERS + peer
                there = peer in known and known[peer][1] == session
                assert lib.vk_peer_index_session(index, session) == (peer if there else -1)
    finally:
        lib.vk_peer_index_free(index)


def test_who_was_first_at_an_address_is_found_however_large_the_index_gets() -> None:
    index = ffi.new("struct vk_peer_index *")
    try:
        for peer in (7, 3):
            assert lib.vk_peer_index_put(index, *entry(peer, 1, 0)) == 0
        for peer in range(1000, 6000):
            assert lib.vk_peer_index_put(index, *entry(peer, peer, 0)) == 0
        assert found(index, entry(0, 1, 0)) == 7
        lib.vk_peer_index_drop(index, *entry(7, 1, 0))
        assert found(index, entry(0, 1, 0)) == 3
        lib.vk_peer_index_drop(index, *entry(3, 1, 0))
        assert found(index, entry(0, 1, 0)) is None
        assert index.count == 5000
    finally:
        lib.vk_peer_index_free(index)


def test_an_empty_index_knows_nobody() -> None:
    index = ffi.new("struct vk_peer_index *")
    assert found(index, entry(0, 1, 0)) is None
    assert lib.vk_peer_index_session(index, 5) == -1
    lib.vk_peer_index_drop(index, *entry(0, 1, 0))
    lib.vk_peer_index_free(index)
