"""Work in threads, while the other side hears that this one is there."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.dataplane.test_node import until
from tests.lab import SOON_S
from valkyrie.dataplane.files.filethread import Thread


async def test_signs_of_life_are_given_while_a_call_blocks() -> None:
    signs = 0
    enough = threading.Event()

    async def sign() -> None:
        nonlocal signs
        signs += 1
        if signs == 2:
            enough.set()

    assert await Thread(sign).run(lambda: enough.wait(SOON_S))
    assert signs >= 2


async def test_a_call_has_ended_before_its_caller_is_cancelled() -> None:
    begun = threading.Event()
    ended = threading.Event()
    thread = Thread(_nothing)

    def work() -> None:
        begun.set()
        while not thread.stopped():
            threading.Event().wait(0.001)
        ended.set()

    running = asyncio.create_task(thread.run(work))
    await until(begun.is_set)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()


async def test_a_sign_that_cannot_be_given_ends_the_work() -> None:
    async def sign() -> None:
        raise ConnectionResetError

    thread = Thread(sign)

    def work() -> None:
        while not thread.stopped():
            threading.Event().wait(0.001)

    with pytest.raises(ConnectionResetError):
        await thread.run(work)


async def _nothing() -> None:
    pass
