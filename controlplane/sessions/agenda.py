"""When each of many has something to do: what it costs depends on how many have, not on how many
there are.
"""

from __future__ import annotations

import heapq

_SPARE = 64


class Agenda:
    """One time for each index, or none. Cheap: the earliest, and whose time has come."""

    def __init__(self) -> None:
        self._due: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []
        """Time and index; what differs from ``_due`` is over, and goes when it comes up."""

    def __len__(self) -> int:
        return len(self._due)

    def put(self, index: int, due_ns: int | None) -> None:
        """Set the time of one; None: it has none any more."""
        if self._due.get(index) == due_ns:
            return
        if due_ns is None:
            del self._due[index]
            return
        self._due[index] = due_ns
        heapq.heappush(self._heap, (due_ns, index))
        if len(self._heap) > 2 * len(self._due) + _SPARE:
            # Times that were put off would stay until they come: hours, for a session's end.
            self._heap = [(ns, each) for each, ns in self._due.items()]
            heapq.heapify(self._heap)

    def first_ns(self) -> int | None:
        """Return the earliest time."""
        heap = self._heap
        while heap and self._due.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def take(self, now_ns: int) -> set[int]:
        """Return those whose time has come; they have none any more."""
        found = set()
        while (due_ns := self.first_ns()) is not None and due_ns <= now_ns:
            _, index = heapq.heappop(self._heap)
            del self._due[index]
            found.add(index)
        return found
