"""Shared memory: rings, regions and the counters page. Layouts: vk_region.h, vk_counters.h."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._shm import ffi, lib

if TYPE_CHECKING:
    from .errors import RingClosedError, RingError
    from .local import Server, connect, serve
    from .ring import Batch, Channel, Consumer, Producer

__all__ = [
    "Batch",
    "Channel",
    "Consumer",
    "Producer",
    "RingClosedError",
    "RingError",
    "Server",
    "connect",
    "ffi",
    "lib",
    "serve",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for: most of the product needs only ``ffi`` and ``lib``."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import errors, local, ring

    for module in (errors, local, ring):
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(name)
