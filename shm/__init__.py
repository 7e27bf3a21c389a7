"""Shared memory: rings, regions and the counters page (the ABI is vk_shm.h and vk_ring.h)."""

from ._shm import ffi, lib

__all__ = ["ffi", "lib"]
