"""The data plane: wire views, BPF loader, worker and the application's API."""

from ._core import ffi, lib

__all__ = ["ffi", "lib"]
