"""Peers: the nodes that streams are opened to."""

from __future__ import annotations

import time

from valkyrie.dataplane.wire import Class

from .driver import AsyncDriver, SyncDriver
from .stream import Stream, SyncStream


class _PeerFace:
    def __init__(self, index: int, name: str, family: int) -> None:
        self.index = index
        """At the node; what ``stream.peer`` says."""
        self.name = name
        """As it was asked for: an address or a name of the configuration."""
        self.family = family
        """4 or 6."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.index} {self.name}>"


class Peer(_PeerFace):
    """A node to open streams to (asyncio)."""

    def __init__(self, driver: AsyncDriver, index: int, name: str, family: int) -> None:
        super().__init__(index, name, family)
        self._driver = driver

    async def open(
        self,
        service: str,
        stream: int | None = None,
        *,
        cls: str | Class | None = None,
        ordered: bool | None = None,
    ) -> Stream:
        """Open a stream to a service: a given id, or the next free id of a class by name.

        ``ordered``: whether this end reads messages in the order of sending, or as they come (each
        once all the same); None: as the class is. Raises NoServiceError, StreamInUseError,
        PolicyError, UnreachableError (2 s without an answer) or another RefusedError.
        """
        now_ns = time.monotonic_ns()
        verb = self._driver.attachment.open(
            self.index, service, stream, cls, now_ns, ordered=ordered
        )
        return Stream(self._driver, await self._driver.run(verb))


class SyncPeer(_PeerFace):
    """A node to open streams to (synchronous)."""

    def __init__(self, driver: SyncDriver, index: int, name: str, family: int) -> None:
        super().__init__(index, name, family)
        self._driver = driver

    def open(
        self,
        service: str,
        stream: int | None = None,
        *,
        cls: str | Class | None = None,
        ordered: bool | None = None,
    ) -> SyncStream:
        """Open a stream to a service, as ``Peer.open`` does."""
        now_ns = time.monotonic_ns()
        verb = self._driver.attachment.open(
            self.index, service, stream, cls, now_ns, ordered=ordered
        )
        return SyncStream(self._driver, self._driver.run(verb))
