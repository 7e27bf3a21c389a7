"""Packets that are entered in rows: vk_recovery knows no difference to one behind the other."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.test_recovery import MS, SIZE, Recovery

SPACE = 1
RATE = 10**9


def state(recovery: Recovery) -> list[Any]:
    """What decides about what follows."""
    it, pacer = recovery.it.recovery, recovery.it.recovery.pacer
    sent = it.sent[SPACE]
    events = recovery.it.events[0 : recovery.it.count]
    told = [(each.kind, each.number, each.time_ns) for each in events]
    ack = recovery.it.ack
    return [
        *(it.in_flight, it.delivered, it.delivered_ns, it.first_ns, it.count.sent, it.count.lost),
        *(pacer.credit, pacer.empty, pacer.at_ns, sent.eliciting, sent.oldest, sent.next),
        *(sent.issued, sent.last_ns, recovery.deadline, ack.rate, ack.app_limited, told),
    ]


steps = st.one_of(
    st.tuples(st.just("wait"), st.integers(1, 20 * MS)),
    st.tuples(st.just("row"), st.integers(1, 100)),
    st.tuples(st.just("skip"), st.just(1)),
    st.tuples(st.just("ack"), st.integers(0, 200)),
    st.tuples(st.just("expire"), st.just(0)),
)


@settings(deadline=None)  # it compiles first
@given(st.lists(steps, max_size=40))
def test_a_row_is_as_its_packets_one_behind_the_other(todo: list[tuple[str, int]]) -> None:
    rows, singles = Recovery(), Recovery()
    issued, skipped = 0, set[int]()
    for each in (rows, singles):
        each.it.recovery.congestion.pacing_rate = RATE
    for step, amount in todo:
        if step == "row":
            row = (SPACE, issued, amount, SIZE, rows.now)
            assert rows.lib.rig_sent_row(rows.it, *row)
            singles.send(*range(issued, issued + amount), space=SPACE)
        for each in (rows, singles):
            if step == "wait":
                each.wait(amount)
            elif step == "skip":
                each.lib.rig_skip(each.it, SPACE, issued)
            elif step == "ack" and amount < issued - len(skipped):
                each.ack(*sorted(set(range(issued)) - skipped)[amount:], space=SPACE)
            elif step == "expire":
                each.expire()
        if step == "skip":
            skipped.add(issued)
        issued += amount if step in ("row", "skip") else 0
        assert state(rows) == state(singles)
    assert rows.check() == singles.check()
