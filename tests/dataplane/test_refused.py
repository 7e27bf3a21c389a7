"""What came and was not taken: a reader that is behind is no congestion, a copy is no news."""

from __future__ import annotations

import pytest

from tests.dataplane.rig import Rig, rig_of
from valkyrie.dataplane import lib
from valkyrie.dataplane.lab.scenario import App, Event, Link, Node, Scenario, Traffic
from valkyrie.dataplane.lab.trial import Lab, Outcome
from valkyrie.dataplane.wire import Class, Session, make_frame


def run(*, frozen: bool, seed: int) -> Outcome:
    """Two applications send over one session; the reader of the first stands still again and again.

    Its eight streams may be sent 512 KiB, and its ring takes 64.
    """
    starts = range(20, 1020, 50)
    still = (
        *(Event(at_ms=at, kind="freeze", app="slow") for at in starts),
        *(Event(at_ms=at + 40, kind="thaw", app="slow") for at in starts),
    )
    rings = {"a": 1 << 20, "b": 1 << 20, "slow": 1 << 16, "quick": 1 << 20}
    with Lab() as lab:
        outcome = lab.run(
            Scenario(
                seed=seed,
                limit_s=60,
                sample_ms=10,
                link=Link(rate_mbps=100, delay_ms=2, buffer_bytes=100_000),
                nodes=(Node(name="left"), Node(name="right")),
                apps=tuple(
                    App(name=name, node="left" if name in "ab" else "right", ring_bytes=size)
                    for name, size in rings.items()
                ),
                events=still if frozen else (),
                traffic=(
                    Traffic(
                        source="a",
                        target="slow",
                        klass="data",
                        messages=300,
                        streams=8,
                        concurrent=8,
                        size=1000,
                    ),
                    Traffic(source="b", target="quick", klass="data", messages=10_000, size=1000),
                ),
            )
        )
    assert outcome.ok, outcome.failures
    return outcome


def window_min(outcome: Outcome) -> int:
    """Return the smallest window of the sender once slow start was over."""
    return min(sample.window_bytes for sample in outcome.samples if 100 < sample.at_ms < 1000)


@pytest.mark.parametrize("seed", range(1, 4))
def test_a_full_ring_does_not_shrink_the_window_of_the_sessions_other_streams(seed: int) -> None:
    calm, frozen = run(frozen=False, seed=seed), run(frozen=True, seed=seed)
    assert frozen.traffic[0].finished_ms > 1.5 * calm.traffic[0].finished_ms
    assert window_min(frozen) > 0.6 * window_min(calm)
    assert frozen.traffic[1].finished_ms < 1.5 * calm.traffic[1].finished_ms


def ask_to_open(rig: Rig, number: int, stream: int = 1000) -> list[int]:
    """Let a packet of a number come that opens a stream; returns the kinds of records it gives."""
    session = Session(0, number, space=1)
    frame = make_frame(lib.VK_STREAM_OPEN, stream, b"late", session, correlation=77)
    rig.ask("raw", 1, int(Class.DATA), 0, frame.pack().hex())
    rig.turn(1)
    return [record.kind for record in rig.take(1, 0, Class.DATA)]


def test_a_copy_of_a_packet_that_was_refused_is_not_taken_later() -> None:
    with rig_of() as rig:
        assert rig.app(1, 0) == 0
        assert ask_to_open(rig, 5) == []  # nobody listens yet
        rig.service(1, 0, "late")
        assert ask_to_open(rig, 5) == []
        assert rig.count(1, Class.DATA)["drop_frame_twice"] == 1
        assert ask_to_open(rig, 4) == [lib.VK_RECORD_OPEN]


def test_no_number_is_forgotten_however_many_are_refused_here_and_there() -> None:
    numbers = [number for first in (300, 100, 200, 0) for number in range(first, first + 100, 3)]
    with rig_of() as rig:
        assert rig.app(1, 0) == 0
        for number in numbers:
            assert ask_to_open(rig, number) == []
        known = rig.count(1, Class.DATA)["drop_frame_twice"]
        rig.service(1, 0, "late")
        for number in numbers:
            assert ask_to_open(rig, number) == []
        assert rig.count(1, Class.DATA)["drop_frame_twice"] == known + len(numbers)
        assert ask_to_open(rig, max(numbers) - 1) == [lib.VK_RECORD_OPEN]
