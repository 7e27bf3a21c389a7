"""Latencies in log-linear buckets: bounded memory, the same relative error everywhere.

Values below ``2 * HALF`` have a bucket each; above, every power of two is cut into ``HALF``
buckets, so a value is known to 1 part in 64. ``sides/side.h`` counts into the same buckets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

HALF = 64
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)


def bucket(value: int) -> int:
    """Return the index of the bucket that counts *value*."""
    shift = max(value.bit_length() - HALF.bit_length(), 0)
    return shift * HALF + (value >> shift)


def middle(index: int) -> int:
    """Return the value in the middle of a bucket."""
    shift = max(index // HALF - 1, 0)
    return ((index - shift * HALF) << shift) + ((1 << shift) >> 1)


@dataclass
class Histogram:
    """How often each bucket was met."""

    counts: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, values: Iterable[int]) -> Histogram:
        """Count *values*."""
        return cls(Counter(map(bucket, values)))

    @classmethod
    def loads(cls, pairs: Iterable[Sequence[int]]) -> Histogram:
        """Return what ``dumps`` wrote."""
        return cls(Counter({pair[0]: pair[1] for pair in pairs}))

    def dumps(self) -> list[list[int]]:
        """Return [bucket, count] of the buckets that were met, ascending."""
        return [[index, self.counts[index]] for index in sorted(self.counts)]

    def add(self, other: Histogram) -> None:
        """Count what *other* counted too."""
        self.counts.update(other.counts)

    @property
    def total(self) -> int:
        """How many values were counted."""
        return self.counts.total()

    def percentile(self, percent: float) -> int:
        """Return the value that *percent* of all values do not exceed, 0 if there are none."""
        left = max(self.total * percent / 100, 1)
        for index in sorted(self.counts):
            left -= self.counts[index]
            if left <= 0:
                return middle(index)
        return 0
