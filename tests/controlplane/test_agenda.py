"""The agenda against a plain table of times."""

from __future__ import annotations

import random

import pytest

from valkyrie.controlplane.sessions.agenda import Agenda


@pytest.mark.parametrize("seed", range(8))
def test_it_says_what_a_table_of_all_times_would(seed: int) -> None:
    chance, agenda, now_ns = random.Random(seed), Agenda(), 0
    times: dict[int, int] = {}
    for _ in range(5000):
        index, due_ns = chance.randrange(20), now_ns + chance.randrange(50)
        if chance.randrange(4):
            times[index] = due_ns
            agenda.put(index, due_ns)
        else:
            times.pop(index, None)
            agenda.put(index, None)
        assert agenda.first_ns() == min(times.values(), default=None)
        assert len(agenda) == len(times)
        if not chance.randrange(10):
            now_ns += chance.randrange(20)
            due = {each for each, ns in times.items() if ns <= now_ns}
            assert agenda.take(now_ns) == due
            for each in due:
                del times[each]


def test_times_that_are_put_off_again_and_again_take_no_memory() -> None:
    agenda = Agenda()
    agenda.put(0, 10**15)
    for ns in range(1, 10_000):
        agenda.put(1, 10**15 - ns)
        agenda.put(1, 10**15 + ns)
    assert len(agenda._heap) < 100
    assert agenda.first_ns() == 10**15
    assert agenda.take(10**16) == {0, 1}
