"""What serving a second receive queue costs: small messages, nodes with one queue and with two.

A session's frames belong to one queue, so one pair of nodes uses one; a worker looks at both. The
two take turns. What many queues give on a NIC, whose interrupts go to many cores, is no matter of a
veth: there the sender's core does a queue's work.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from statistics import median

from .bare import arena_of
from .match import RunError, play
from .network import PLAINTEXT
from .peers import CONTESTANTS
from .peers.valkyrie import nodes
from .rows import Row, make_row
from .scenario import Profile, Scenario

_row = partial(make_row, "queues", digits=None)
COUNTS = (1, 2)
SCENARIO = Scenario("queues", "Two hosts, 64 B one way", "network", "stream", 64)


def _rates(path: str, profile: Profile) -> list[float]:
    """Return messages a second over one path, by how many queues nodes serve."""
    plain = next(one for one in CONTESTANTS if one.name == f"valkyrie-c-{path}")
    found: dict[int, list[float]] = {count: [] for count in COUNTS}
    with ExitStack() as stack:
        served = {count: replace(plain, prepare=nodes(path, PLAINTEXT, count)) for count in COUNTS}
        arenas = {count: arena_of(stack, one) for count, one in served.items()}
        for turn in range(profile.repetitions):
            for count, one in served.items():
                run = play(arenas[count], one, SCENARIO, profile, turn)
                if run.error:
                    raise RunError(f"{one.title}, {count} queues: {run.error}")
                found[count].append(run.rate)
    return [median(found[count]) for count in COUNTS]


def run(quick: bool) -> list[Row]:
    """Return a row a path."""
    profile = Profile("queues", 0.1, 0.3 if quick else 1.0, 5 if quick else 9, ())
    rows = []
    for path in ("udp", "xdp"):
        one, two = _rates(path, profile)
        rows.append(_row(f"{path}, 64 B, nodes serve 2 queues, against 1", two, "messages/s", one))
    return rows
