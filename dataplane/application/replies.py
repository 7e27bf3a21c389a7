"""Replies that the requests of a stream's end wait for, and those that come too late."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .message import Message

CORRELATION_MAX = 0xFFFF_FFFF
GIVEN_UP_MAX = 65_536
"""Requests without a reply that are remembered; one to an older one is a message like others."""


class Replies:
    """What requests wait for, by correlation. Not thread-safe."""

    __slots__ = ("_correlation", "_given_up", "_waiting", "late")

    def __init__(self) -> None:
        self._correlation = 0
        self._waiting: dict[int, Message | None] = {}
        self._given_up: dict[int, None] = {}
        self.late = 0
        """Replies that came when their requests had been given up."""

    def __bool__(self) -> bool:
        return bool(self._waiting or self._given_up)

    def begin(self) -> int:
        """Return a correlation that no request of this end has, and wait for its reply."""
        while True:
            self._correlation = self._correlation % CORRELATION_MAX + 1
            if self._correlation not in self._waiting and self._correlation not in self._given_up:
                self._waiting[self._correlation] = None
                return self._correlation

    def get(self, correlation: int) -> Message | None:
        """Return the reply to a request, if it is there."""
        return self._waiting[correlation]

    def end(self, correlation: int, *, sent: bool) -> None:
        """Wait no more for a reply; to a request that was sent it may still come."""
        if self._waiting.pop(correlation) is None and sent:
            self._given_up[correlation] = None
            if len(self._given_up) > GIVEN_UP_MAX:
                del self._given_up[next(iter(self._given_up))]

    def take(self, reply: Message) -> bool:
        """Take a reply, for who waits for it or for nobody; False: it answers no request."""
        correlation = reply.correlation
        if correlation in self._waiting:
            self._waiting[correlation] = reply
        elif correlation in self._given_up:
            del self._given_up[correlation]
            self.late += 1
        else:
            return False
        return True
