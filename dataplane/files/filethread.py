"""Work on files that blocks, in a thread, while the other side hears that this one is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .transfer import SIGN_OF_LIFE_NS

T = TypeVar("T")


class Thread:
    """Runs one call at a time; what the calls use may be let go of once ``run`` has ended."""

    def __init__(self, sign: Callable[[], Awaitable[None]]) -> None:
        self._sign = sign
        self._stopped = False

    def stopped(self) -> bool:
        """Say whether a long call should end early; asked from within it."""
        return self._stopped

    async def run(self, call: Callable[[], T]) -> T:
        """Return the result of a call, giving a sign of life now and then."""
        return await self.result(self.start(call))

    def start(self, call: Callable[[], T]) -> asyncio.Task[T]:
        """Start a call; ``result`` has to be asked for."""
        return asyncio.create_task(asyncio.to_thread(call))

    async def result(self, task: asyncio.Task[T]) -> T:
        """Return the result of a call that was started."""
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=SIGN_OF_LIFE_NS / 1e9)
                if not task.done():
                    await self._sign()
        except BaseException:
            await self.drain(task)
            raise
        return task.result()

    async def drain(self, task: asyncio.Task[T]) -> None:
        """Have a call end early, and wait for that."""
        self._stopped = True
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen: another error is under way
