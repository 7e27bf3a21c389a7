"""The application socket: connections, their credentials, and limits on what they ask.

What a request means is the daemon's business; here each gets one answer, in order, and who breaks
the protocol or does not read is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from valkyrie.controlplane.confinement import rights
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.appsocket import AnyRequest, Reply

if TYPE_CHECKING:
    from collections.abc import Iterable

    from valkyrie.controlplane.security.policy import Grant, Refusal

log = logging.getLogger("valkyrie")

_SO_PEERGROUPS = 59  # asm-generic/socket.h
_CONNECTIONS_MAX = 512
_CONNECTIONS_PER_USER_MAX = 64
_CONNECT_RATE, _CONNECT_BURST = 50.0, 100.0
"""New connections of one user per second, and at once."""
_REQUEST_RATE, _REQUEST_BURST = 500.0, 500.0
"""Requests of one connection per second, and at once; beyond it is read more slowly."""
_USERS_MAX = 4096
_ACCEPT_BATCH = 16
_ACCEPT_PAUSE_S = 1.0
_STOP_S = 0.5
"""How long connections that end are waited for."""
"""Between tries where no descriptors are left: who waits stays ready, and would cost a core."""
_FAULT = "the node made a mistake: its log says which, please report it"

Answer = tuple[Reply, list[int]]
"""A reply and the descriptors that go with it, closed after it was sent."""


def refuse(refusal: Refusal) -> Reply:
    """Return what a refused application is told."""
    return Reply(code=refusal.code, message=refusal.reason)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who is at the other end, as the kernel says."""

    pid: int
    uid: int
    gids: frozenset[int]

    @classmethod
    def of(cls, connection: socket.socket) -> Credentials:
        """Return the credentials that the peer had when it connected."""
        data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, gid = struct.unpack("iII", data)
        groups = b""
        with contextlib.suppress(OSError):
            groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * 1024)
        return cls(pid, uid, frozenset({gid, *(g for (g,) in struct.iter_unpack("I", groups))}))


class Bucket:
    """A token bucket."""

    def __init__(self, rate: float, burst: float, now_s: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._last_s = burst, now_s

    def take(self, now_s: float) -> float:
        """Take a token; 0 if there was one, else the seconds until there is (it is taken)."""
        passed = max(0.0, now_s - self._last_s)
        self._tokens = min(self._burst, self._tokens + passed * self._rate)
        self._last_s = now_s
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate)

    def give_back(self) -> None:
        """Return a token that was refused."""
        self._tokens += 1


@dataclass(eq=False, slots=True)
class Connection:
    """One connection and what it has."""

    socket: socket.socket
    who: Credentials
    requests: Bucket
    slot: int = -1
    generation: int = 0
    name: str = ""
    grant: Grant | None = None
    peer: int = -1
    """The one that it asked for first."""
    capacity: tuple[int, ...] = ()
    services: set[str] = field(default_factory=set)
    task: asyncio.Task[None] | None = None
    closed: bool = False

    @property
    def attached(self) -> bool:
        """Say whether it has rings."""
        return self.slot >= 0

    @property
    def subject(self) -> str:
        """What alarms call it: this attachment, or this process until it has one."""
        who = f"pid {self.who.pid} uid {self.who.uid}"
        return f"slot {self.slot}.{self.generation} {who}" if self.attached else who

    def on_record(self) -> dict[str, str | int]:
        """Return what the audit log says of it."""
        return {"uid": self.who.uid, "pid": self.who.pid, "name": self.name, "slot": self.slot}


class AppServer:
    """Serves the application socket inside the running loop."""

    def __init__(
        self,
        listener: socket.socket,
        answer: Callable[[Connection, AnyRequest], Awaitable[Answer]],
        ended: Callable[[Connection], Awaitable[None]],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._answer = answer
        self._ended = ended
        self._connects: dict[int, Bucket] = {}
        self.connections: set[Connection] = set()
        self._closing: Counter[int] = Counter()
        """Connections that are being closed, by user; they count as connections until then."""
        self._paused: asyncio.TimerHandle | None = None
        self._abandoned = False
        self.refused: Counter[str] = Counter()
        """Connections and requests refused, by reason."""

    def start(self, adopted: Iterable[Connection] = ()) -> None:
        """Serve; ``adopted`` connections are an earlier daemon's."""
        for connection in adopted:
            self._serve(connection)
        self._listen()

    def _listen(self) -> None:
        self._paused = None
        self._loop.add_reader(self._listener, self._accept)

    def abandon(self) -> None:
        """Leave all connections as they are: this process ends, and another goes on with them."""
        self._abandoned = True

    async def stop(self) -> None:
        """End all connections and serve nobody any more.

        What they have asked of the broker is not waited for: it answers nobody who stops.
        """
        self._loop.remove_reader(self._listener)
        if self._paused is not None:
            self._paused.cancel()
        for connection in list(self.connections):
            self.cut(connection)
        tasks = [each.task for each in self.connections if each.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_S)

    def connection(self, end: socket.socket) -> Connection:
        """Return an accepted socket as a connection."""
        end.setblocking(False)
        requests = Bucket(_REQUEST_RATE, _REQUEST_BURST, time.monotonic())
        return Connection(end, Credentials.of(end), requests)

    def cut(self, connection: Connection) -> None:
        """End a connection; its task then cleans up."""
        connection.closed = True
        with contextlib.suppress(OSError):
            connection.socket.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        for _ in range(_ACCEPT_BATCH):
            try:
                end, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as error:  # no descriptors left: let those who are here go on
                log.warning("an application cannot be accepted: %s", error.strerror)
                self._loop.remove_reader(self._listener)
                self._paused = self._loop.call_later(_ACCEPT_PAUSE_S, self._listen)
                return
            try:
                connection = self.connection(end)
            except OSError:
                end.close()
                continue
            if why := self._too_many(connection.who.uid):
                self.refused["flood"] += 1
                self._send(connection, Reply(code=lib.VK_CODE_OVERLOAD, message=why), [])
                self._close(connection)
                continue
            self._serve(connection)

    def _too_many(self, uid: int) -> str:
        now_s = time.monotonic()
        if len(self._connects) > _USERS_MAX:
            self._connects.clear()
        bucket = self._connects.setdefault(uid, Bucket(_CONNECT_RATE, _CONNECT_BURST, now_s))
        if bucket.take(now_s):
            bucket.give_back()
            return f"uid {uid} connects more than {_CONNECT_RATE:.0f} times a second: slow down"
        if len(self.connections) + self._closing.total() >= _CONNECTIONS_MAX:
            return f"the node has {_CONNECTIONS_MAX} connections: close some"
        theirs = sum(each.who.uid == uid for each in self.connections) + self._closing[uid]
        if theirs >= _CONNECTIONS_PER_USER_MAX:
            return f"uid {uid} has {_CONNECTIONS_PER_USER_MAX} connections: close some"
        return ""

    def _serve(self, connection: Connection) -> None:
        self.connections.add(connection)
        connection.task = self._loop.create_task(self._run(connection))

    async def _run(self, connection: Connection) -> None:
        try:
            while not connection.closed and (packet := await self._receive(connection)):
                wait_s = connection.requests.take(time.monotonic())
                if wait_s:
                    self.refused["slowed"] += 1
                    await asyncio.sleep(wait_s)
                reply, descriptors = await self._reply(connection, packet)
                try:
                    sent = self._send(connection, reply, descriptors)
                finally:
                    for fd in descriptors:
                        os.close(fd)
                if not sent:
                    self.refused["does not read"] += 1
                    break
                if reply.code == lib.VK_CODE_MALFORMED:
                    break
        finally:
            if not self._abandoned:
                self.connections.discard(connection)
                try:
                    await self._ended(connection)
                finally:
                    self._close(connection)

    def _close(self, connection: Connection) -> None:
        uid = connection.who.uid
        self._closing[uid] += 1

        def closed() -> None:
            self._closing[uid] -= 1
            if not self._closing[uid]:
                del self._closing[uid]

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(closed)

        with contextlib.suppress(OSError):
            connection.socket.shutdown(socket.SHUT_RDWR)
        rights.close(connection.socket, tell)

    async def _receive(self, connection: Connection) -> bytes:
        """Return the next packet; empty at the end."""
        guarded = rights.refused(connection.socket)
        while True:
            try:
                if not guarded and rights.waiting(connection.socket):
                    self.refused["descriptors"] += 1
                    return b""
                data, _, flags, _ = connection.socket.recvmsg(appsocket.PACKET_SIZE_MAX)
            except BlockingIOError:
                await self._readable(connection.socket)
                continue
            except OSError:
                return b""
            return b"cut" if flags & socket.MSG_TRUNC else data

    async def _readable(self, end: socket.socket) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        self._loop.add_reader(end, wake)
        try:
            await ready
        finally:
            self._loop.remove_reader(end)

    async def _reply(self, connection: Connection, packet: bytes) -> Answer:
        try:
            request = appsocket.decode_request(packet)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            self.refused["malformed"] += 1
            message = f"not a request: {error}"
            return Reply(code=lib.VK_CODE_MALFORMED, message=message), []
        try:
            reply, descriptors = await self._answer(connection, request)
        except Exception:  # a fault of ours: the others go on
            log.exception("a request could not be answered: %s", type(request).__name__)
            reply, descriptors = Reply(code=lib.VK_CODE_FAILED, message=_FAULT), []
        if reply.code:
            self.refused[f"code {reply.code}"] += 1
        return reply, descriptors

    @staticmethod
    def _send(connection: Connection, reply: Reply, descriptors: list[int]) -> bool:
        try:
            socket.send_fds(connection.socket, [appsocket.encode(reply)], descriptors)
        except OSError:
            return False
        return True
