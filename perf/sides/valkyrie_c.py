"""Valkyrie from an application in C: Python opens the stream, the loops are ``side.c``'s."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

from valkyrie.dataplane import ffi

from .main import Order, order
from .valkyrie import _stream

LIBRARY = Path(__file__).parents[2] / "build" / "perf" / "sides" / "valkyrie.so"
"""What ``valkyrie.c`` is compiled into."""


def run(asked: Order) -> None:
    """Do what is asked; does not return."""
    stream: Any = _stream(asked)
    flow = stream._flow  # noqa: SLF001
    ends = stream._driver.rings.client, flow.outlet, flow.inlet  # noqa: SLF001
    library = ctypes.CDLL(str(LIBRARY))
    pointers = [ctypes.c_void_p(int(ffi.cast("uintptr_t", end))) for end in ends]
    library.valkyrie_ends(*pointers)
    words = [word.encode() for word in ("valkyrie", *sys.argv[1:])]
    library.side_said()  # "ready" was, before the stream was accepted
    library.main(len(words), (ctypes.c_char_p * len(words))(*words))


if __name__ == "__main__":
    run(order())
