"""The middle of a large message, out of the ring to where it is to lie, in one call for many."""

from __future__ import annotations

from .flow import SEQUENCE_MAX, Flow


def collect(flow: Flow, index: int, count: int, sequence: int) -> int:
    """Take fragments in that come in order while nothing else waits; returns how many.

    The first one is ``flow.rings.entries[index]``, of *count*. What is no such case is left to
    ``flow.receive_fragment``.
    """
    if sequence != flow.expected or flow.early or flow.owed or flow.closed or flow.ended:
        return 0
    space = flow.fragments.space(sequence)
    if space is None:
        return 0
    with space:
        taken, size = flow.rings.collect(flow.ring, index, count, space)
    if taken:
        flow.fragments.filled(sequence, taken, size)
        flow.expected = (sequence + taken) & SEQUENCE_MAX
        flow.rings.collected(flow.ring, index + taken - 1)
        flow.seen.fragments += taken
        flow.taken(size, taken)
    return taken
