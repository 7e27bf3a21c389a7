"""The ledger: what went into each level minus what came out of it, which is 0 on a quiet node.

Pure arithmetic over the counters page; the rules are those that vk_counters.h and vk_maps.h state.
While frames are on their way a level may be off by what is in its queues.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import Class

if TYPE_CHECKING:
    from collections.abc import Callable

_REFUSED_FRAMES = (
    lib.VK_DROP_FRAME_INVALID,
    lib.VK_DROP_FRAME_UNKNOWN_PEER,
    lib.VK_DROP_FRAME_TOKEN_MISSING,
    lib.VK_DROP_FRAME_TOKEN_GENERATION,
    lib.VK_DROP_FRAME_TOKEN_EXPIRED,
    lib.VK_DROP_FRAME_TOKEN_FORGED,
)
_ENDS_OF_MESSAGES = (
    lib.VK_RX_DELIVERED,
    lib.VK_DROP_UNKNOWN_STREAM,
    lib.VK_DROP_APP_RING,
    lib.VK_DROP_APP_GONE,
    lib.VK_DROP_STALE,
    lib.VK_DROP_REASSEMBLY,
)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The residuals: ``levels[level][class]``, and the losses that explain the rest."""

    levels: dict[str, dict[str, int]]
    socket_drops: int
    """Steered frames that AF_XDP or UDP sockets had no room for, all classes together."""

    @property
    def residual(self) -> int:
        """What is missing in all; 0 = everything is accounted for."""
        kernel = sum(self.levels["kernel"].values()) - self.socket_drops
        others = (
            abs(value)
            for level, row in self.levels.items()
            if level != "kernel"
            for value in row.values()
        )
        return abs(kernel) + sum(others)

    def document(self) -> dict[str, object]:
        """Return it for status."""
        shown = {
            level: {name: value for name, value in row.items() if value}
            for level, row in self.levels.items()
        }
        return {"residual": self.residual, "levels": shown, "socket_drops": self.socket_drops}


def _kernel(page: Any, klass: Class) -> int:
    """Steered to the class's sockets, minus frames the worker took out of them."""
    ports = range(page.port_count)
    steered = sum(page.verdicts[i].packets[klass][lib.VK_STEER] for i in ports)
    row = page.classes[klass]
    if klass == Class.CONTROL:  # handed to Python as they are
        taken = row[lib.VK_RX_CONTROL] + row[lib.VK_DROP_APP_RING]
    else:
        taken = row[lib.VK_RX_FRAMES]
    return int(steered - taken - sum(row[i] for i in _REFUSED_FRAMES))


def _worker(page: Any, klass: Class) -> int:
    """Messages out of frames, shards made whole, minus where each of them ended."""
    if klass == Class.CONTROL:
        return 0
    row = page.classes[klass]
    messages = row[lib.VK_RX_MESSAGES] - row[lib.VK_RX_SHARDS] + row[lib.VK_RX_REASSEMBLED]
    return int(messages - sum(row[i] for i in _ENDS_OF_MESSAGES))


def _application(page: Any, klass: Class) -> int:
    """Delivered by class, minus delivered by application."""
    delivered = sum(page.apps[i][klass].delivered for i in range(lib.VK_APPS_MAX))
    return int(page.classes[klass][lib.VK_RX_DELIVERED] - delivered)


def _sender(page: Any, klass: Class) -> int:
    """Sent by class, minus sent by application."""
    sent = sum(page.apps[i][klass].sent for i in range(lib.VK_APPS_MAX))
    return int(page.classes[klass][lib.VK_TX_MESSAGES] - sent)


_LEVELS: dict[str, Callable[[Any, Class], int]] = {
    "kernel": _kernel,
    "worker": _worker,
    "application": _application,
    "sender": _sender,
}


def balance(page: Any) -> Ledger:
    """Return the ledger of a counters page (``struct vk_counters``)."""
    levels = {
        level: {klass.name.lower(): residual(page, klass) for klass in Class}
        for level, residual in _LEVELS.items()
    }
    ports = [page.verdicts[i] for i in range(page.port_count)]
    drops = sum(port.xsk_dropped + port.xsk_ring_full for port in ports)
    return Ledger(levels, int(drops))
