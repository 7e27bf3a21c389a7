"""What streams may be ahead of their readers: one, many at once, and all of a node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from valkyrie.dataplane import lib
from valkyrie.dataplane.lab.scenario import App, Event, Link, Node, Scenario, Traffic
from valkyrie.dataplane.lab.trial import Lab, Outcome

MIB = 1 << 20
LINK = Link(rate_mbps=1000, delay_ms=0.5)
HELD = Event(at_ms=0, kind="hold", app="lazy")
"""The application `lazy` never reads."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def nodes(session_window: int = MIB, memory_kib: int = 262_144) -> tuple[Node, Node]:
    params = {"memory_kib": memory_kib}
    left = Node(name="left", session_window=session_window, params=params)
    return left, Node(name="right", session_window=session_window, params=params)


def apps(ring: int = MIB) -> tuple[App, ...]:
    where = {"a": "left", "b": "left", "eager": "right", "lazy": "right"}
    return tuple(App(name=name, node=node, ring_bytes=ring) for name, node in where.items())


def many(source: str, target: str, streams: int, **more: object) -> Traffic:
    fields = {"klass": "data", "concurrent": streams, "messages": 100, "size": 1000}
    fields |= {"source": source, "target": target, "streams": streams} | more
    return Traffic(**fields)  # type: ignore[arg-type]


def run(lab: Lab, *traffic: Traffic, limit_s: float = 5, **more: object) -> Outcome:
    rows = {"link": LINK, "nodes": nodes(), "apps": apps(), "reliable": False} | more
    return lab.run(Scenario(traffic=traffic, limit_s=limit_s, **rows))  # type: ignore[arg-type]


def cost(outcome: Outcome, number: int) -> int:
    row = outcome.traffic[number]
    return row.arrived_bytes + row.arrived * int(lib.VK_MESSAGE_COST)


@pytest.mark.parametrize("klass", ["system", "job", "data"])
def test_one_that_never_reads_is_sent_what_every_stream_begins_with(lab: Lab, klass: str) -> None:
    outcome = run(lab, many("a", "lazy", 1, klass=klass, messages=5000), events=(HELD,))
    assert outcome.ok, outcome.failures
    start = lib.VK_WINDOW_START
    assert start - 1000 - lib.VK_MESSAGE_COST < cost(outcome, 0) <= start


def test_others_go_on_beside_one_that_never_reads(lab: Lab) -> None:
    good = many("b", "eager", 4, messages=2000)
    alone = run(lab, good).traffic[0]
    both = run(lab, many("a", "lazy", 300), good, events=(HELD,))
    assert both.ok, both.failures
    assert both.traffic[1].finished == 4
    assert both.traffic[1].finished_ms < 1.5 * alone.finished_ms


@pytest.mark.parametrize("window", [MIB, 2 * MIB])
def test_many_streams_that_nobody_reads_get_half_of_the_pool(lab: Lab, window: int) -> None:
    rows = nodes(session_window=window)
    lazy, large = many("a", "lazy", 100, messages=62), apps(4 * MIB)
    outcome = run(lab, lazy, nodes=rows, apps=large, events=(HELD,))
    assert outcome.ok, outcome.failures
    assert window // 2 - MIB // 16 <= cost(outcome, 0) <= window // 2 + 1000


def test_without_a_pool_they_would_get_all_that_streams_begin_with(lab: Lab) -> None:
    rows = nodes(session_window=0)
    lazy, large = many("a", "lazy", 100, messages=62), apps(4 * MIB)
    outcome = run(lab, lazy, nodes=rows, apps=large, events=(HELD,))
    assert cost(outcome, 0) > 3 * MIB


def test_who_waited_for_the_pool_goes_on_when_it_is_read(lab: Lab) -> None:
    taken = Event(at_ms=500, kind="take", app="lazy")
    rows = nodes(session_window=MIB)
    outcome = run(lab, many("a", "lazy", 300), nodes=rows, events=(HELD, taken), reliable=True)
    assert outcome.ok, outcome.failures
    assert outcome.traffic[0].finished == 300


def test_streams_that_say_little_do_not_keep_the_pool(lab: Lab) -> None:
    rows = nodes(session_window=MIB)
    # All are open to the end: each sends a little, waits, and sends again.
    quiet = many("a", "eager", 1500, messages=4, size=1000, burst=2, interval_us=400_000)
    outcome = run(lab, quiet, nodes=rows, reliable=True)
    assert outcome.ok, outcome.failures
    assert outcome.traffic[0].finished_ms < 1500


def test_who_begins_with_more_than_the_pool_lends_it_goes_on_when_the_peer_speaks(lab: Lab) -> None:
    """Though what it says at first is less than what the stream began with."""
    rows = [Node(name=name, session_window=MIB, window_start=MIB) for name in ("left", "right")]
    outcome = run(lab, many("a", "eager", 1, messages=5000), nodes=tuple(rows), reliable=True)
    assert outcome.ok, outcome.failures


def test_a_window_grows_to_what_a_long_path_needs(lab: Lab) -> None:
    link = Link(rate_mbps=100, delay_ms=20, buffer_bytes=500_000)
    bulk = many("a", "eager", 1, messages=20_000)
    outcome = run(lab, bulk, link=link, apps=apps(2 * MIB), reliable=True, limit_s=30)
    assert outcome.ok, outcome.failures
    assert outcome.traffic[0].goodput_mbps > 75  # 64 KiB a round trip would be 13


@pytest.mark.parametrize("streams", [1, 64])
def test_streams_of_a_small_memory_all_come_to_their_end(lab: Lab, streams: int) -> None:
    rows = nodes(memory_kib=1024)
    traffic = [
        many(a, b, streams, messages=20_000 // streams) for a, b in (("a", "eager"), ("b", "lazy"))
    ]
    outcome = run(lab, *traffic, nodes=rows, reliable=True, limit_s=30)
    assert outcome.ok, outcome.failures
    assert [row.finished for row in outcome.traffic] == [streams, streams]


def test_a_small_ring_is_not_overrun_by_many_streams(lab: Lab) -> None:
    bulk = many("a", "eager", 2, messages=10_000)
    outcome = run(lab, bulk, apps=apps(1 << 17), reliable=True, limit_s=30)
    assert outcome.ok, outcome.failures
    drops = sum(row[lib.VK_DROP_APP_RING] for row in lab.counters(1).classes)
    assert drops == 0
