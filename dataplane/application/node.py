"""The application's API: attach to the node of this host, listen, connect."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import DataPlaneError, LocalProtocolError
from valkyrie.dataplane.signing.seal import SALT_SIZE, Draft, Message, Seal, check_batch
from valkyrie.dataplane.wire import Class

from . import appsocket
from .attachment import Verb
from .driver import AsyncDriver, Driver, Link, SyncDriver, link
from .events import Incoming
from .peer import Peer, SyncPeer
from .stream import Stream, SyncStream

D = TypeVar("D", bound=Driver)


class _NodeFace(Generic[D]):
    def __init__(self, driver: D) -> None:
        self._driver = driver

    @property
    def classes(self) -> list[str]:
        """Names of the classes that the policy gives this application."""
        return [Class(ring).name.lower() for ring in self._driver.rings.classes]

    @property
    def lost(self) -> bool:
        """Whether the node is gone, or has left a request without an answer: attach again."""
        return self._driver.lost

    @property
    def strays(self) -> int:
        """Messages that came for streams this application does not have (any more)."""
        return self._driver.attachment.strays

    def __repr__(self) -> str:
        state = "left" if self._driver.closed else "lost" if self.lost else "attached"
        return f"<{type(self).__name__} slot {self._driver.link.slot} {state}>"


class Service:
    """A service name of this application; iterate over the streams that peers open on it."""

    def __init__(self, driver: AsyncDriver, name: str, ordered: bool | None) -> None:
        self._driver = driver
        self.name = name
        self._ordered = ordered
        self._incoming: Incoming | None = None
        self._listening = asyncio.Lock()

    async def _listen(self) -> Incoming:
        async with self._listening:  # others wait until the node knows the name
            if self._incoming is None:
                verb = self._driver.attachment.listen(self.name, self._ordered)
                self._incoming = await self._driver.run(verb)
            return self._incoming

    async def accept(self, timeout: float | None = None) -> Stream:  # noqa: ASYNC109
        """Return the next incoming stream; TimeoutError after ``timeout`` seconds."""
        incoming = await self._listen()
        verb = self._driver.attachment.accept(incoming, timeout, time.monotonic_ns())
        return Stream(self._driver, await self._driver.run(verb))

    async def close(self) -> None:
        """Take the name back; open streams stay."""
        if self._incoming is not None:
            await self._driver.run(self._driver.attachment.unlisten(self._incoming))

    def __await__(self) -> Generator[Any, None, Service]:
        """Register the name now rather than at the first ``accept``."""
        yield from self._listen().__await__()
        return self

    def __aiter__(self) -> Service:
        return self

    async def __anext__(self) -> Stream:
        try:
            return await self.accept()
        except LocalProtocolError:
            if self._incoming is not None and self._incoming.closed:
                raise StopAsyncIteration from None
            raise

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._driver.closed:
            with suppress(DataPlaneError):  # the name went with the daemon
                await self.close()


class Node(_NodeFace[AsyncDriver]):
    """The node of this host as one application sees it (asyncio)."""

    async def connect(self, peer: str) -> Peer:
        """Return a configured peer by address or name; NoPeerError if there is none."""
        driver = self._driver
        reply = await driver.run(driver.attachment.ask(appsocket.Connect(peer)))
        return Peer(driver, reply.peer, peer, reply.family)

    def listen(self, service: str, *, ordered: bool | None = None) -> Service:
        """Return a service to iterate over; the name is registered when that starts.

        ``await`` it, or enter it with ``async with``, to have it registered at once. ``ordered``:
        how this end reads the streams that come in, see ``Peer.open``.
        """
        return Service(self._driver, service, ordered)

    async def sign(
        self, messages: Sequence[Message], *, post_quantum: bool = False, fn_dsa: bool = False
    ) -> list[Seal]:
        """Have the node sign messages, all by one signature; returns a seal for each, in order.

        ``valkyrie.verify`` takes message, seal and the node's fingerprint. ``post_quantum``:
        sign by ML-DSA-65 too, which makes each seal 5 261 bytes larger. ``fn_dsa``: by FN-DSA-512
        too, 1 563 bytes, if the node's identity has such a key; verifying takes a package then.
        PolicyError: the rule does not allow it, or the node has not the key.
        """
        draft = _draft(messages)
        request = _request(draft, post_quantum=post_quantum, fn_dsa=fn_dsa)
        return draft.seals(await self._driver.run(_signed(self._driver, request)))


class SyncService:
    """A service name of this application; iterate over the streams that peers open on it."""

    def __init__(self, driver: SyncDriver, incoming: Incoming) -> None:
        self._driver = driver
        self._incoming = incoming
        self.name = incoming.name

    def accept(self, timeout: float | None = None) -> SyncStream:
        """Return the next incoming stream; TimeoutError after ``timeout`` seconds."""
        self._driver.attachment.pump()
        verb = self._driver.attachment.accept(self._incoming, timeout, time.monotonic_ns())
        return SyncStream(self._driver, self._driver.run(verb))

    def close(self) -> None:
        """Take the name back; open streams stay."""
        self._driver.run(self._driver.attachment.unlisten(self._incoming))

    def __iter__(self) -> Iterator[SyncStream]:
        while not self._incoming.closed:
            yield self.accept()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._driver.closed:
            with suppress(DataPlaneError):  # the name went with the daemon
                self.close()


class SyncNode(_NodeFace[SyncDriver]):
    """The node of this host as one application sees it (synchronous, one thread)."""

    def connect(self, peer: str) -> SyncPeer:
        """Return a configured peer by address or name; NoPeerError if there is none."""
        driver = self._driver
        reply = driver.run(driver.attachment.ask(appsocket.Connect(peer)))
        return SyncPeer(driver, reply.peer, peer, reply.family)

    def listen(self, service: str, *, ordered: bool | None = None) -> SyncService:
        """Register a service name and return it; ``ordered`` as in ``Node.listen``."""
        driver = self._driver
        return SyncService(driver, driver.run(driver.attachment.listen(service, ordered)))

    def sign(
        self, messages: Sequence[Message], *, post_quantum: bool = False, fn_dsa: bool = False
    ) -> list[Seal]:
        """Have the node sign messages, as ``Node.sign`` does."""
        draft = _draft(messages)
        request = _request(draft, post_quantum=post_quantum, fn_dsa=fn_dsa)
        return draft.seals(self._driver.run(_signed(self._driver, request)))


def _draft(messages: Sequence[Message]) -> Draft:
    return Draft(messages, secrets.token_bytes(SALT_SIZE * check_batch(messages)))


def _request(draft: Draft, *, post_quantum: bool, fn_dsa: bool) -> appsocket.Sign:
    return appsocket.Sign(
        root=draft.root, count=draft.count, post_quantum=post_quantum, fn_dsa=fn_dsa
    )


def _signed(driver: Driver, request: appsocket.Sign) -> Verb[bytes]:
    return (yield from driver.attachment.ask(request)).attested


class _Attaching:
    """Who is to attach to what, until ``with`` or ``async with`` does."""

    _HOW = ""

    def __init__(self, node: str, name: str, ring_size: int) -> None:
        self._asked = node, name, ring_size
        self._stack: list[Any] = []

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(f"no {name!r} before attaching: write `{self._HOW}(...) as node:`")


class _AsyncAttaching(_Attaching, AbstractAsyncContextManager[Node, None]):
    _HOW = "async with valkyrie.attach"

    async def __aenter__(self) -> Node:
        linking = asyncio.ensure_future(asyncio.to_thread(link, *self._asked))
        try:
            linked = await asyncio.shield(linking)
        except asyncio.CancelledError:
            linking.add_done_callback(_give_back)  # the thread goes on
            raise
        self._stack.append(AsyncDriver(linked))
        return Node(self._stack[-1])

    async def __aexit__(self, *_: object) -> None:
        self._stack.pop().close()


def _give_back(linking: asyncio.Future[Link]) -> None:
    if not linking.cancelled() and linking.exception() is None:
        linking.result().close()


class _SyncAttaching(_Attaching, AbstractContextManager[SyncNode, None]):
    _HOW = "with valkyrie.attach_sync"

    def __enter__(self) -> SyncNode:
        self._stack.append(SyncDriver(link(*self._asked)))
        return SyncNode(self._stack[-1])

    def __exit__(self, *_: object) -> None:
        self._stack.pop().close()


def attach(
    node: str = "valkyrie", *, name: str = "", ring_size: int = 0
) -> AbstractAsyncContextManager[Node, None]:
    """Attach to a node of this host by name, or by the path of its socket, for an ``async with``.

    ``name`` is what status shows and policies match; ``ring_size`` is bytes a class and
    direction, a power of two (0: the policy's default).
    """
    return _AsyncAttaching(node, name, ring_size)


def attach_sync(
    node: str = "valkyrie", *, name: str = "", ring_size: int = 0
) -> AbstractContextManager[SyncNode, None]:
    """Attach to a node of this host, as ``attach`` does, for a ``with`` and without asyncio."""
    return _SyncAttaching(node, name, ring_size)


def prefer_latency() -> bool:
    """Ask the scheduler for short slices for the calling thread; False where it has none.

    For threads that handle critical messages on a busy host: they get a core sooner when they
    wake. Their share of it stays the same, and no right is needed. Linux 6.12 and later.
    """
    return bool(lib.vk_slice_set(lib.VK_SLICE_SHORT_NS) == 0)
