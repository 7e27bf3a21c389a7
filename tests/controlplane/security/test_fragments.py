"""Messages in pieces: any order, any copies, no more memory than a message has."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security.errors import SecurityError
from valkyrie.controlplane.security.fragments import BODY_MAX, PIECES_MAX, Assembly, split


@settings(deadline=None)
@given(st.integers(0, 6000), st.integers(256, 1400), st.randoms(use_true_random=False))
def test_pieces_come_together_in_any_order_with_any_copies(
    size: int, piece: int, chance: random.Random
) -> None:
    body = chance.randbytes(size)
    pieces = split(body, piece)
    assert len(pieces) == max(1, -(-size // piece))
    assert all(len(data) <= piece for _, data in pieces)
    sent = [*pieces, *chance.sample(pieces, chance.randrange(len(pieces)))]
    chance.shuffle(sent)
    assembly, left = Assembly(), {offset for offset, _ in pieces}
    for offset, data in sent:
        done = assembly.add(offset, size, data)
        left.discard(offset)
        if done is not None:
            assert done == body
            assert not left
            return
    raise AssertionError("never whole")


@pytest.mark.parametrize(
    ("number", "pieces", "what"),
    [
        (1, [(0, BODY_MAX + 1, b"x")], "not within"),
        (2, [(4, 4, b"x")], "not within"),
        (3, [(0, 4, b"xxxxx")], "not within"),
        (4, [(0, 4, b"")], "not within"),
        (5, [(0, 4, b"xx"), (2, 5, b"xx")], "disagree"),
        (6, [(0, 4, b"xx"), (0, 4, b"xy")], "contradict"),
        (7, [(0, 4, b"xx"), (0, 4, b"xxx")], "contradict"),
        (8, [(0, 4, b"xx"), (1, 4, b"xx")], "overlap"),
        (9, [(0, 4, b"xxx"), (1, 4, b"xxx")], "overlap"),
        (10, [(at, BODY_MAX, b"x") for at in range(0, 2 * PIECES_MAX + 2, 2)], "too many"),
    ],
)
def test_pieces_that_make_no_sense_are_refused(
    number: int, pieces: list[tuple[int, int, bytes]], what: str
) -> None:
    assembly = Assembly()
    for piece in pieces[:-1]:
        assert assembly.add(*piece) is None
    with pytest.raises(SecurityError, match=what):
        assembly.add(*pieces[-1])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 70), st.integers(0, 64), st.binary(max_size=9))))
def test_any_pieces_are_taken_or_refused(pieces: list[tuple[int, int, bytes]]) -> None:
    assembly = Assembly()
    for offset, total, data in pieces:
        try:
            done = assembly.add(offset, total, data)
        except SecurityError:
            return
        if done is not None:
            assert len(done) == total
            return
