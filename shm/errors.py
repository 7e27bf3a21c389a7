"""What can go wrong in shared memory. This layer imports nothing, so its errors are its own."""

from __future__ import annotations


class RingError(OSError):
    """A ring could not be made, or the other party broke its rules: it is of no further use."""


class RingClosedError(RingError):
    """The other party closed its end, or died; everything it published has been received."""


class CountersError(OSError):
    """A node's counters cannot be read; the message says why."""
