"""Whom a node looks at, among few peers and among many."""

from __future__ import annotations

from valkyrie.controlplane.sessions.rounds import A_TURN, WARM_NS, Rounds

TURN_NS, FEW_NS = 50_000_000, 100_000_000


def rounds_of(count: int) -> Rounds:
    rounds = Rounds(TURN_NS, FEW_NS)
    for index in range(count):
        rounds.add(index)
    return rounds


def test_few_peers_are_all_looked_at_whenever_one_looks() -> None:
    rounds = rounds_of(A_TURN)
    for now_ns in (0, 1, TURN_NS // 2, TURN_NS):
        assert list(rounds.turn(now_ns)) == list(range(A_TURN))
        assert rounds.next_ns == now_ns + FEW_NS


def test_of_ten_thousand_peers_each_is_looked_at_within_a_second() -> None:
    rounds, last = rounds_of(10_000), dict.fromkeys(range(10_000), 0)
    for turn in range(100):
        now_ns = turn * TURN_NS
        found = list(rounds.turn(now_ns))
        assert len(found) == len(set(found)) == A_TURN
        last.update(dict.fromkeys(found, now_ns))
        assert turn < 20 or now_ns - min(last.values()) < 1_000_000_000


def test_a_peer_with_something_at_stake_is_looked_at_once_in_every_turn() -> None:
    rounds = rounds_of(10_000)
    for turn in range(100):
        now_ns = turn * TURN_NS
        rounds.warm(7, now_ns)
        assert list(rounds.turn(now_ns)).count(7) == 1
        assert list(rounds.turn(now_ns + 1)) == [7], "only those, before the next turn is due"
    assert 7 in rounds.turn(now_ns + WARM_NS - 1)
    assert list(rounds.turn(now_ns + WARM_NS)).count(7) <= 1
    assert not rounds.turn(now_ns + WARM_NS + 1)


def test_a_peer_that_is_added_has_its_turn() -> None:
    rounds = rounds_of(A_TURN)
    rounds.turn(0)
    rounds.add(A_TURN)
    seen = {*rounds.turn(FEW_NS), *rounds.turn(FEW_NS + TURN_NS)}
    assert seen == set(range(A_TURN + 1))
