"""The ids of sessions, of which each side chooses those on the frames that it gets.

Workers read the peer's row out of an id: ``shm/vk_seat.h`` says how, and what may rest on that.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Self

from valkyrie import shm
from valkyrie.dataplane import lib

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .link import Link

_KEY_SIZE = 4
_TURN_SIZE = 4


class Seats:
    """Chooses the ids on the frames that we get: workers read the peer's row out of them."""

    def __init__(self, keys: Sequence[int]) -> None:
        """Mix ids under ``keys``, the workers' ``vk_state.seat_keys``."""
        self._keys = shm.ffi.new("uint32_t[]", list(keys))

    @classmethod
    def drawn(cls, entropy: Callable[[int], bytes]) -> Self:
        """Return seats with keys of their own."""
        words = entropy(_KEY_SIZE * lib.VK_SEAT_KEYS)
        return cls(struct.unpack(f"<{lib.VK_SEAT_KEYS}I", words))

    def name(self, seat: int, turn: int) -> int:
        """Return the id of a peer's session: its ``turn``-th, modulo ``VK_SEAT_TURNS``."""
        return int(shm.lib.vk_seat_id(self._keys, seat, turn % lib.VK_SEAT_TURNS))


class Ids:
    """The ids that one peer's sessions get, one after the other."""

    def __init__(self, seats: Seats, seat: int, entropy: Callable[[int], bytes]) -> None:
        """Begin anywhere: an earlier daemon has used some."""
        self._seats, self._seat = seats, seat
        self._turn = int.from_bytes(entropy(_TURN_SIZE), "big")

    def next(self, live: Link | None) -> int:
        """Return an id for a new session; the live one, and the one before it, have others."""
        taken = {0} if live is None else {0, live.local, live.before[0]}
        while True:
            self._turn += 1
            if (found := self._seats.name(self._seat, self._turn)) not in taken:
                return found
