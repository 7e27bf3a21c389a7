"""The way of single messages, put together from what the kernel noted.

One message is on its way at a time, so the order of events says whose they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from .comparison import quartiles

MARK, SENDS, RECEIVES, ARRIVES = 1, 2, 3, 4
"""As ``explain.bpf.c`` has them."""
TO_KERNEL, KERNEL, TO_WORKER, TO_APPLICATION = (
    "application, its ring, worker (schedule, frame) until it calls the kernel",
    "kernel: send, wire, until the packet arrives",
    "kernel and worker: from the packet's arrival until the worker has received it",
    "worker, the other ring, until the application has it",
)
NO_CALL = "XDP, worker, the other ring, until the application has it"
"""Where the worker takes packets out of memory, no call tells when."""


@dataclass(frozen=True)
class Event:
    """Something passed; ``who`` is a process, or the network namespace where a packet arrived."""

    ns: int
    what: int
    who: int


@dataclass(frozen=True)
class Side:
    """Where one end of the way is: its application, its worker, its network namespace."""

    application: int
    worker: int
    place: int


def leg(
    events: Sequence[Event], at: int, source: Side, target: Side
) -> tuple[dict[str, int], int] | None:
    """Return the stages of a message that was marked at *at*, and where its receipt was marked.

    None if an event is missing, or they came in an order that no message passes in.
    """
    wanted = [(SENDS, source.worker), (ARRIVES, target.place)]
    stages, last = [TO_KERNEL, KERNEL], events[at].ns
    found: dict[str, int] = {}
    received = 0
    for index in range(at + 1, len(events)):
        event = events[index]
        if wanted and (event.what, event.who) == wanted[0]:
            found[stages[len(found)]] = event.ns - last
            last = event.ns
            del wanted[0]
        elif (event.what, event.who) == (RECEIVES, target.worker) and not wanted:
            received = received or event.ns
        elif (event.what, event.who) == (MARK, target.application):
            if wanted:
                return None
            if received:
                found[TO_WORKER] = received - last
            found[TO_APPLICATION if received else NO_CALL] = event.ns - (received or last)
            return found, index
        elif event.what == MARK:
            return None
    return None


def round_trips(events: Sequence[Event], here: Side, there: Side) -> Iterator[dict[str, int]]:
    """Yield the stages of every round trip that was seen whole, both directions added up."""
    at = 0
    while at < len(events):
        if (events[at].what, events[at].who) != (MARK, here.application):
            at += 1
            continue
        out = leg(events, at, here, there)
        back = leg(events, out[1], there, here) if out else None
        if out is None or back is None:
            at += 1
            continue
        stages = dict(out[0])
        for stage, time_ns in back[0].items():
            stages[stage] = stages.get(stage, 0) + time_ns
        yield stages
        at = back[1] + 1  # the mark of its end begins no other


@dataclass(frozen=True)
class Passage:
    """Mean times of a round trip's stages, ns; they add up to ``total_ns``."""

    count: int
    total_ns: float
    stages: dict[str, float]


def middle(trips: Sequence[dict[str, int]]) -> Passage | None:
    """Return the means over the half of *trips* whose totals lie between the quartiles.

    Medians of stages would not add up; means over all would be those of the slowest few.
    """
    if not trips:
        return None
    low, high = quartiles([float(sum(trip.values())) for trip in trips])
    kept = [trip for trip in trips if low <= sum(trip.values()) <= high]
    order = (TO_KERNEL, KERNEL, TO_WORKER, NO_CALL, TO_APPLICATION)
    stages = {
        stage: fmean(trip.get(stage, 0) for trip in kept)
        for stage in order
        if any(stage in trip for trip in kept)
    }
    return Passage(len(kept), sum(stages.values()), stages)
