"""When a peer is asked whether it lives, and when it is dead."""

from __future__ import annotations

from valkyrie.controlplane.sessions.liveness import INTERVAL_MIN_NS, Liveness, Patience, Verdict


def test_questions_and_death_come_when_the_table_says() -> None:
    live = Liveness(Patience(100), 0)
    live.expect(50, expecting=True)
    numbered = {
        # number: now, heard at, verdict
        1: (99, None, Verdict.NOTHING),
        2: (100, None, Verdict.ASK),
        3: (199, None, Verdict.NOTHING),
        4: (200, None, Verdict.ASK),
        5: (250, 240, Verdict.NOTHING),
        6: (339, None, Verdict.NOTHING),
        7: (340, None, Verdict.ASK),
        8: (440, None, Verdict.ASK),
        9: (540, None, Verdict.LAST),
        10: (639, None, Verdict.NOTHING),
        11: (640, None, Verdict.DEAD),
    }
    for number, (now, heard, verdict) in numbered.items():
        if heard is not None:
            live.hear(heard)
        assert live.look(now) is verdict, number


def test_silence_before_anything_was_at_stake_does_not_count() -> None:
    live = Liveness(Patience(100), 0)
    assert live.look(10_000) is Verdict.NOTHING
    live.expect(10_000, expecting=True)
    assert [live.look(now) for now in (10_000, 10_100, 10_200, 10_299, 10_300)] == [
        Verdict.ASK,
        Verdict.ASK,
        Verdict.LAST,
        Verdict.NOTHING,
        Verdict.DEAD,
    ]


def test_a_standstill_of_ours_does_not_kill_the_peer() -> None:
    live = Liveness(Patience(100), 0)
    live.expect(0, expecting=True)
    assert live.look(1_000_000) is Verdict.ASK
    assert live.look(1_000_050) is Verdict.NOTHING


def test_the_shorter_time_of_both_sides_holds() -> None:
    second = 1_000_000_000
    ours = Patience(20 * second, wan=True)
    assert ours.beside(5 * second) == Patience(5 * second, wan=True)
    assert ours.beside(60 * second) == ours.beside(0) == ours
    assert Patience(second).beside(1).interval_ns == INTERVAL_MIN_NS


def test_a_peer_in_a_hurry_does_not_make_a_wan_seem_dead() -> None:
    second = 1_000_000_000
    live = Liveness(Patience(20 * second, wan=True).beside(second // 10), 0)
    live.expect(0, expecting=True)
    looks = [(now, live.look(now)) for now in range(0, 3 * second, second // 20)]
    asked = [now for now, verdict in looks if verdict is not Verdict.NOTHING]
    assert [now - asked[0] for now in asked] == [0, second, 2 * second]
    assert live.look(asked[0] + 3 * second) is Verdict.DEAD


def test_questions_over_a_wan_are_spread_and_come_when_they_were_announced() -> None:
    second = 1_000_000_000
    live = Liveness(Patience(20 * second, wan=True), 0)
    live.expect(0, expecting=True)
    silences = set()
    now = 0
    for number in range(11):
        due = live.deadline_ns()
        assert due is not None
        assert live.look(due - 1, number / 10) is Verdict.NOTHING
        assert live.look(due, number / 10) is Verdict.ASK
        silences.add(due - now)
        now = due + second // 10
        live.hear(now)
    assert len(silences) == 10  # the first is as the one after number 5
    assert min(silences) < 16 * second
    assert max(silences) <= 25 * second
