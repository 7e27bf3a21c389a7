"""Work in another thread, whose failure is its test's and nobody else's."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from tests.lab import PATIENCE

_END_S = 10.0 * PATIENCE


@contextlib.contextmanager
def aside(work: Callable[[], object]) -> Iterator[None]:
    """Do work beside the block; at the block's end it has ended too, and raises what it raised."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # whatever it is, it is the test's
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(_END_S)
    assert not thread.is_alive(), f"{work} has not ended"
    for failure in failures:
        raise failure
