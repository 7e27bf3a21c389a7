"""Shared tallies: what each application sent, delivered and measured, by phase and class.

One anonymous shared mapping made before the applications are forked. Every row has one writer per
column group (the sender or the receiver), so no lock is needed; the parent only reads.
"""

from __future__ import annotations

import mmap
from enum import IntEnum

CLASSES = ("critical", "system", "job", "data", "logs")
PHASES = ("calm", "flood")

SUB_BITS = 5
"""Log-linear histogram: 2**SUB_BITS buckets an octave, so a value is known within 3 %."""
OCTAVES = 36
BUCKETS = OCTAVES << SUB_BITS


class Column(IntEnum):
    """Columns of a row, then its histogram of one-way latencies in nanoseconds."""

    SENT = 0
    SENT_BYTES = 1
    DELIVERED = 2
    DELIVERED_BYTES = 3
    WAITED = 4
    HISTOGRAM = 5


ROW_WORDS = Column.HISTOGRAM + BUCKETS


def bucket_of(value: int) -> int:
    """Return the histogram bucket of a value in nanoseconds (0 ≤ value < 2**OCTAVES)."""
    if value < 1 << SUB_BITS:
        return max(value, 0)
    shift = value.bit_length() - SUB_BITS - 1
    return min(((shift + 1) << SUB_BITS) + (value >> shift) - (1 << SUB_BITS), BUCKETS - 1)


def value_of(bucket: int) -> float:
    """Return the middle of a bucket, in nanoseconds."""
    octave, sub = bucket >> SUB_BITS, bucket & ((1 << SUB_BITS) - 1)
    if octave == 0:
        return float(sub)
    return ((1 << SUB_BITS) + sub + 0.5) * 2.0 ** (octave - 1)


class Row:
    """Figures of one class in one phase."""

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def add(self, column: Column, amount: int = 1) -> None:
        """Add to a counter."""
        self._words[column] += amount

    def get(self, column: Column) -> int:
        """Return a counter."""
        return int(self._words[column])

    def latency(self, value_ns: int) -> None:
        """Record one latency."""
        self._words[Column.HISTOGRAM + bucket_of(value_ns)] += 1

    def percentile_us(self, share: float) -> float:
        """Return the latency in microseconds below which ``share`` (0..1) of all values lie."""
        counts = self._words[Column.HISTOGRAM :].tolist()
        wanted, seen = share * sum(counts), 0
        for bucket, count in enumerate(counts):
            seen += count
            if count and seen >= wanted:
                return round(value_of(bucket) / 1e3, 1)
        return 0.0


class Tally:
    """All rows, the current phase and the stop flag."""

    def __init__(self) -> None:
        words = ROW_WORDS * len(CLASSES) * len(PHASES)
        self._map = mmap.mmap(-1, (words + 8) * 8)
        self._words = memoryview(self._map).cast("Q")
        self._control = self._words[words:]

    def row(self, phase: int, name: str) -> Row:
        """Return the row of a class in a phase (index into PHASES)."""
        at = (phase * len(CLASSES) + CLASSES.index(name)) * ROW_WORDS
        return Row(self._words[at : at + ROW_WORDS])

    @property
    def phase(self) -> int:
        """Index into PHASES that senders stamp on what they send."""
        return int(self._control[0])

    @phase.setter
    def phase(self, index: int) -> None:
        self._control[0] = index

    @property
    def sending(self) -> bool:
        """Whether senders go on."""
        return self._control[1] == 0

    def stop_sending(self) -> None:
        """Tell senders to finish."""
        self._control[1] = 1

    @property
    def receiving(self) -> bool:
        """Whether receivers go on."""
        return self._control[2] == 0

    def stop_receiving(self) -> None:
        """Tell receivers to finish."""
        self._control[2] = 1

    @property
    def file_bytes(self) -> int:
        """Bytes of the file that have arrived."""
        return int(self._control[3])

    @file_bytes.setter
    def file_bytes(self, value: int) -> None:
        self._control[3] = value

    @property
    def file_state(self) -> int:
        """0 under way, 1 arrived with an equal digest, 2 arrived with another digest."""
        return int(self._control[4])

    @file_state.setter
    def file_state(self, value: int) -> None:
        self._control[4] = value

    @property
    def garbage(self) -> int:
        """Malformed packets that the third host sent."""
        return int(self._control[5])

    @garbage.setter
    def garbage(self, value: int) -> None:
        self._control[5] = value
