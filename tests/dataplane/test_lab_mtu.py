"""Paths that carry less than the interfaces on their ends, or less than they did."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from valkyrie.dataplane.lab.scenario import Event, Link, Node, Scenario, Traffic
from valkyrie.dataplane.lab.trial import Lab, Outcome

CLASSES = ("critical", "system", "job", "data")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def traffic(klass: str = "data", **more: object) -> tuple[Traffic, ...]:
    fields = {"source": "left", "target": "right", "klass": klass, "messages": 300, "size": 20_000}
    return (Traffic(**(fields | more)),)  # type: ignore[arg-type]


def run(
    lab: Lab, link: Link, mtu: int, *events: Event, klass: str = "data", **more: object
) -> Outcome:
    nodes = tuple(Node(name=name, mtu=mtu) for name in ("left", "right"))
    scenario = Scenario(
        link=link, nodes=nodes, events=events, traffic=traffic(klass, **more), limit_s=60
    )
    outcome = lab.run(scenario)
    assert outcome.ok, outcome.failures
    assert outcome.traffic[0].finished == 1
    return outcome


def becomes(link: Link, at_ms: float) -> tuple[Event, Event]:
    left = Event(at_ms=at_ms, kind="link", source="left", target="right", link=link)
    right = Event(at_ms=at_ms, kind="link", source="right", target="left", link=link)
    return left, right


def shards(mtu: int) -> int:
    """Return how many a message of 20 000 bytes takes."""
    return -(-20_000 // (mtu - 100))


def narrow(mtu: int) -> Link:
    return Link(rate_mbps=1000, delay_ms=1, mtu=mtu)


@pytest.mark.parametrize("klass", CLASSES)
@pytest.mark.parametrize("mtu", [1280, 1492, 4000, 9000])
def test_messages_cross_a_path_narrower_than_the_interfaces(lab: Lab, klass: str, mtu: int) -> None:
    outcome = run(lab, narrow(mtu), 9000, klass=klass)
    if klass == "data":  # the others wait for credit and acknowledgements of small windows
        assert outcome.links[0].packets < 1.4 * 300 * shards(mtu) + 100


def test_a_path_as_wide_as_the_interface_costs_one_probe(lab: Lab) -> None:
    narrowest = run(lab, narrow(1500), 1500).links[0]
    assert narrowest.oversized == 0
    assert narrowest.packets < 1.1 * 300 * shards(1500)


def test_nobody_looks_for_more_than_small_messages_need(lab: Lab) -> None:
    outcome = run(lab, narrow(1300), 9000, size=100, interval_us=500)
    assert outcome.links[0].oversized == 0


@pytest.mark.parametrize("klass", CLASSES)
@pytest.mark.parametrize("mtu", [1280, 1400])
def test_a_path_that_shrinks_under_a_message_recovers(lab: Lab, klass: str, mtu: int) -> None:
    calm = run(lab, narrow(0), 1500, klass=klass)
    events = becomes(narrow(mtu), calm.traffic[0].finished_ms / 2)
    outcome = run(lab, narrow(0), 1500, *events, klass=klass)
    assert outcome.links[0].oversized > 0
    assert outcome.traffic[0].finished_ms < calm.traffic[0].finished_ms * 1.5 + 500


def test_large_frames_that_stop_crossing_are_cut_to_what_does(lab: Lab) -> None:
    calm = run(lab, narrow(0), 9000)
    events = becomes(narrow(1500), calm.traffic[0].finished_ms / 2)
    outcome = run(lab, narrow(0), 9000, *events)
    assert outcome.traffic[0].finished_ms < calm.traffic[0].finished_ms * 1.5 + 500


@pytest.mark.parametrize("size", [1300, 1400])
def test_whole_messages_that_no_longer_fit_go_on_in_shards(lab: Lab, size: int) -> None:
    calm = run(lab, narrow(0), 1500, size=size, messages=3000)
    events = becomes(narrow(1280), calm.traffic[0].finished_ms / 2)
    run(lab, narrow(0), 1500, *events, size=size, messages=3000)


def test_loss_is_no_black_hole(lab: Lab) -> None:
    link = Link(rate_mbps=1000, delay_ms=1, loss=0.05)
    outcome = run(lab, link, 9000)
    assert outcome.links[0].packets < 1.4 * 300 * shards(9000) + 100


@pytest.mark.parametrize("mtu", [600, 1000])
def test_even_a_path_below_the_base_is_used(lab: Lab, mtu: int) -> None:
    run(lab, narrow(mtu), 1500, size=3000, messages=50)


@pytest.mark.parametrize("klass", ["system", "job", "data"])
def test_a_lone_stream_goes_on_where_its_messages_fit_no_datagram_by_a_little(
    lab: Lab, klass: str
) -> None:
    link = Link(rate_mbps=5, delay_ms=1, buffer_bytes=4000, mtu=560)
    asked = traffic(klass, messages=100, size=(440, 555), reply=True, outstanding=4, burst=20)
    outcome = lab.run(Scenario(limit_s=60, link=link, traffic=asked))
    assert outcome.ok, outcome.failures
