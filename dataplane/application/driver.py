"""What waits for an ``Attachment``: an asyncio driver and a synchronous one."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import select
import socket
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from threading import get_ident
from typing import TypeVar
from weakref import WeakSet

from valkyrie.dataplane.errors import DataPlaneError, RemoteProtocolError

from . import appsocket
from .attachment import Ask, Attachment, Verb, Wait
from .events import Room
from .refusal import NodeGoneError, WouldBlockError, refusal
from .rings import Rings, shared

T = TypeVar("T")

REQUEST_TIMEOUT_S = 10.0
"""A daemon that does not answer for this long is taken for stuck."""
AGAIN_S = 0.05
"""After which rings are looked at again, if something like a lack of memory ended a look."""
DESCRIPTORS = 4
"""Of the reply to Attach: region D, region A, our bell, the worker's."""


class Link:
    """The socket to the daemon, the rings and the bells that it gave."""

    def __init__(self, sock: socket.socket, reply: appsocket.Reply, descriptors: list[int]) -> None:
        self.socket = sock
        self.slot = reply.slot
        self.rings = Rings(descriptors, reply.generation)
        self._bells = descriptors[2:]
        for descriptor in descriptors[:2]:  # mapped
            os.close(descriptor)

    def close(self) -> None:
        """Give everything back; the node ends the streams."""
        self.rings.close()
        self.drop()

    def drop(self) -> None:
        """Close this process's descriptors."""
        self.socket.close()
        for bell in self._bells:
            os.close(bell)
        self._bells = []


def socket_path(node: str) -> str:
    """Return the path of a node's application socket; a name with a slash is a path."""
    if not isinstance(node, str):
        raise TypeError(f"a node is given by its name or its socket's path, not {node!r}")
    return node if "/" in node else f"{appsocket.SOCKET_DIRECTORY}/{node}.sock"


def exchange(sock: socket.socket, request: appsocket.Request) -> tuple[appsocket.Reply, list[int]]:
    """Send a request on a blocking socket; returns the reply and its descriptors."""
    sock.sendall(appsocket.encode_request(request))
    packet, descriptors, _, _ = socket.recv_fds(
        sock, appsocket.PACKET_SIZE_MAX, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
    )
    if not packet:
        raise lost_error()
    return appsocket.decode_reply(packet), descriptors


def link(node: str, name: str, ring_size: int) -> Link:
    """Attach to a node; blocks for at most REQUEST_TIMEOUT_S a step."""
    path = socket_path(node)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.settimeout(REQUEST_TIMEOUT_S)
        try:
            sock.connect(path)
            reply, descriptors = exchange(sock, appsocket.Attach(name=name, ring_size=ring_size))
        except OSError as error:
            if isinstance(error, DataPlaneError):
                raise
            raise _attach_error(error, path) from error
        return _linked(sock, reply, descriptors)
    except BaseException:
        sock.close()
        raise


def _check_reply(reply: appsocket.Reply, descriptors: list[int]) -> None:
    if reply.code:
        raise refusal(reply.code, reply.message)
    if len(descriptors) != DESCRIPTORS:
        raise RemoteProtocolError(
            f"the node gave {len(descriptors)} descriptors, not {DESCRIPTORS}: are library and "
            "node of the same version?"
        )


def _linked(sock: socket.socket, reply: appsocket.Reply, descriptors: list[int]) -> Link:
    try:
        _check_reply(reply, descriptors)
        return Link(sock, reply, descriptors)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _attach_error(error: OSError, path: str) -> DataPlaneError:
    if isinstance(error, TimeoutError):
        return _stuck(f"attach to {Path(path)}")
    number = error.errno or errno.EIO
    hint = {
        errno.ENOENT: "Start the node: valkyrie up",
        errno.ECONNREFUSED: "Start the node: valkyrie up",
        errno.EACCES: "Ask who runs the node for access to its socket",
        errno.EPIPE: "The node refused the connection: see its log",
        errno.ECONNRESET: "The node refused the connection: see its log",
    }.get(number, "See the node's log")
    return DataPlaneError.of(number, f"attach to {Path(path)}", hint)


def _stuck(what: str) -> DataPlaneError:
    return DataPlaneError.of(errno.ETIMEDOUT, what, "The daemon is stuck: see its log")


def lost_error() -> DataPlaneError:
    """Return the error of a request to a daemon that is gone."""
    return DataPlaneError.of(
        errno.EPIPE,
        "ask the node",
        "It is gone, or too slow to be asked again: attach again",
    )


class Driver:
    """What both drivers have."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.rings = link.rings
        self.attachment = Attachment(link.rings, secrets.randbits(31))
        self.lost = False
        """The node closed the socket, which was the lease, or does not answer."""
        self.closed = False
        _drivers.add(self)

    def turn_soon(self) -> None:
        """Look at the rings again before waiting."""

    def check(self) -> None:
        """Raise what keeps the daemon from being asked."""
        if self.attachment.failure is not None and self.closed:
            raise self.attachment.failure
        if self.lost:
            raise lost_error()

    def close(self) -> None:
        """Leave the node."""
        if not self.closed:
            self.link.close()
            self._end("this attachment was closed: attach again")

    def orphan(self) -> None:
        """Leave the attachment to the process that this one is a fork of; touch nothing of it."""
        if not self.closed:
            self.rings.orphan()
            self.link.drop()
            self._end("this process was forked, and its parent is attached: attach here")

    def _end(self, why: str) -> None:
        self.closed = True
        self.rings.farewell = NodeGoneError(why)
        self.attachment.fail(self.rings.farewell)


_drivers: WeakSet[Driver] = WeakSet()


def _forked() -> None:
    """In a child: both processes would write into the same rings."""
    for driver in list(_drivers):
        driver.orphan()


os.register_at_fork(after_in_child=_forked)


class SyncDriver(Driver):
    """Waits by blocking the calling thread."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self._running = False
        self._unread = 0
        """Replies that are still to come, to requests that were interrupted or nobody waits for."""
        self.rings.lease(link.socket.fileno())

    def run(self, verb: Verb[T], *, pump: bool = True) -> T:
        """Return the result of a verb; pump: take records in after every wait."""
        answer: object = None
        self.alone()
        if self._running:
            raise shared()
        client = self.rings.client
        engaged = client.engaged
        self._running, client.engaged, waited = True, get_ident(), False
        try:
            while True:
                step = verb.send(answer)
                if isinstance(step, Ask):
                    answer = self._ask(step.request)
                else:
                    answer, waited = self._wait(step, pump), True
        except StopIteration as stop:
            result: T = stop.value
            return result
        except (TimeoutError, WouldBlockError):
            if not waited:
                self._glance(pump)
            raise
        finally:
            verb.close()  # an error in between: the verb cleans up
            self._running, client.engaged = False, engaged
            if self.attachment.unsaid and not (self.lost or self.closed):
                with suppress(OSError):  # no room: before the next request, then
                    self._say(0)

    def _glance(self, pump: bool) -> None:
        """Look at lease and bell for a call that did not wait; the next one has what comes of it.

        Who only asks what is there already would never hear that the node is gone.
        """
        self._wait(Wait(None, 0), pump)

    def alone(self) -> None:
        """Raise if another thread is within a call."""
        if self.rings.client.engaged not in (0, get_ident()):
            raise shared()

    def _wait(self, wait: Wait, pump: bool) -> int:
        attachment = self.attachment
        timeout_ns = -1
        if wait.deadline_ns is not None:
            timeout_ns = max(0, wait.deadline_ns - time.monotonic_ns())
        if self.closed or not self.rings.wait(timeout_ns):
            return time.monotonic_ns()
        if pump or isinstance(wait.key, Room):
            attachment.pump()
        attachment.woken.clear()
        return time.monotonic_ns()

    def _ask(self, request: appsocket.Request) -> appsocket.Reply:
        self.check()
        packet = appsocket.encode_request(request)
        try:
            self._say(REQUEST_TIMEOUT_S)
            self._put(packet, REQUEST_TIMEOUT_S)
            while self._unread > 1:
                self._reply()
            return appsocket.decode_reply(self._reply())
        except OSError as error:
            self.lost = True  # an answer that comes after all would be taken for another's
            raise lost_error() from error

    def _say(self, timeout_s: float) -> None:
        """Make the requests whose replies nobody waits for."""
        unsaid = self.attachment.unsaid
        while unsaid:
            self._put(unsaid[0], timeout_s)
            unsaid.popleft()

    def _put(self, packet: bytes, timeout_s: float) -> None:
        """Send a request. A signal's handler may raise at any time, but it went and counts or not.

        Python runs handlers after calls and while they wait, and neither of these waits.
        """
        sock = self.link.socket
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        if not poll.poll(timeout_s * 1000):
            raise TimeoutError
        self._unread += 1
        sock.send(packet, socket.MSG_DONTWAIT)

    def _reply(self) -> bytes:
        """Return the next reply, likewise: it is here and waits, or it does not count any more."""
        sock = self.link.socket
        packet = sock.recv(appsocket.PACKET_SIZE_MAX, socket.MSG_PEEK)
        if not packet:
            raise lost_error()
        self._unread -= 1
        sock.recv(1, socket.MSG_DONTWAIT)  # the rest of the packet goes with it
        return packet


class AsyncDriver(Driver):
    """Waits by futures of the running event loop."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self._loop = asyncio.get_running_loop()
        self._waiters: dict[object, list[asyncio.Future[None]]] = {}
        self._replies: deque[asyncio.Future[appsocket.Reply]] = deque()
        self._asking = asyncio.Lock()
        self._saying: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        """Somebody waits for room in the socket to the daemon."""
        self._turn_due = False
        self.rings.owing = self.turn_soon
        link.socket.setblocking(False)
        self._loop.add_reader(link.socket, self._answered)
        self._loop.add_reader(self.rings.bell, self._rung)
        self._turn()

    def close(self) -> None:
        """Leave the node; whoever waits gets NodeGoneError."""
        if self.closed:
            return
        self._loop.remove_reader(self.rings.bell)
        if not self.lost:
            self._loop.remove_reader(self.link.socket)
        self._loop.remove_writer(self.link.socket)
        super().close()
        self._fail_replies()
        self._wake()

    async def run(self, verb: Verb[T]) -> T:
        """Return the result of a verb."""
        answer: object = None
        try:
            while True:
                step = verb.send(answer)
                if self.attachment.woken:
                    self.turn_soon()
                answer = await self._step(step)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            verb.close()  # an error in between: the verb cleans up
            if self.attachment.woken:
                self.turn_soon()
            if self.attachment.unsaid and not (self.lost or self.closed):
                self._saying = self._loop.create_task(self._say_all())

    async def _step(self, step: Wait | Ask) -> object:
        if isinstance(step, Ask):
            return await self._ask(step.request)
        await self._wait(step)
        return time.monotonic_ns()

    async def _wait(self, wait: Wait) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        waiters = self._waiters.setdefault(wait.key, [])
        waiters.append(future)
        timer = None
        if wait.deadline_ns is not None:
            delay_s = (wait.deadline_ns - time.monotonic_ns()) / 1e9
            timer = self._loop.call_later(max(0.0, delay_s), _finish, future)
        if isinstance(wait.key, Room) and not self.closed and self.rings.arm():
            self.turn_soon()  # the room came before the request for a bell did
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()
            if future in waiters:
                waiters.remove(future)
            if not waiters and self._waiters.get(wait.key) is waiters:
                del self._waiters[wait.key]

    def turn_soon(self) -> None:
        """Look at the rings again before the loop sleeps."""
        if not self._turn_due and not self.closed:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _rung(self) -> None:
        self.rings.disarm()
        self._turn()

    def _turn(self) -> None:
        """Take records in, wake who waited for them, and ask for the bell."""
        self._turn_due = False
        if self.closed:
            return
        attachment = self.attachment
        try:
            attachment.pump()
        except BaseException:
            self._turn_due = True  # without it nobody would hear of anything any more
            self._loop.call_later(AGAIN_S, self._turn)
            raise
        finally:
            self._wake()
        if attachment.failure is not None:
            self._loop.remove_reader(self.rings.bell)
        elif self.rings.arm():
            self.turn_soon()

    def _wake(self) -> None:
        woken, self.attachment.woken = self.attachment.woken, set()
        waiters = self._waiters
        for key in woken:
            for future in waiters.pop(key, ()):
                if not future.done():
                    future.set_result(None)

    async def _ask(self, request: appsocket.Request) -> appsocket.Reply:
        packet = appsocket.encode_request(request)
        async with self._asking:
            await self._say()
            await self._put_in_turn(packet)
            future: asyncio.Future[appsocket.Reply] = self._loop.create_future()
            self._replies.append(future)
        try:
            return await asyncio.wait_for(future, REQUEST_TIMEOUT_S)
        except TimeoutError as error:
            raise _stuck("ask the node") from error

    async def _put_in_turn(self, packet: bytes) -> None:
        self.check()
        while not self._put(packet):  # cancelled here, it has not gone, and gets no answer
            await self._socket_room()
            self.check()

    async def _say(self) -> None:
        """Make the requests whose replies nobody waits for."""
        unsaid = self.attachment.unsaid
        while unsaid:
            await self._put_in_turn(unsaid[0])
            unsaid.popleft()
            nobody: asyncio.Future[appsocket.Reply] = self._loop.create_future()
            nobody.cancel()
            self._replies.append(nobody)

    async def _say_all(self) -> None:
        with suppress(DataPlaneError):  # the node forgets who is gone
            async with self._asking:
                await self._say()

    async def _socket_room(self) -> None:
        self._room = self._loop.create_future()
        self._loop.add_writer(self.link.socket, _finish, self._room)
        try:
            await self._room
        finally:
            if not self.closed:  # else the socket is no more
                self._loop.remove_writer(self.link.socket)
            self._room = None

    def _put(self, packet: bytes) -> bool:
        """Send a request; False = the daemon has as many to look at as the socket takes."""
        try:
            self.link.socket.send(packet)
        except BlockingIOError:
            return False
        except OSError as error:
            self._lose()
            raise lost_error() from error
        return True

    def _answered(self) -> None:
        try:
            packet = self.link.socket.recv(appsocket.PACKET_SIZE_MAX)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet or not self._replies:
            self._lose()
            return
        future = self._replies.popleft()
        if not future.done():
            future.set_result(appsocket.decode_reply(packet))

    def _lose(self) -> None:
        if not self.lost and not self.closed:
            self.lost = True
            self._loop.remove_reader(self.link.socket)
            self._fail_replies()
            self.rings.end()
            self.turn_soon()

    def _fail_replies(self) -> None:
        if self._room is not None:
            _finish(self._room)
        while self._replies:
            future = self._replies.popleft()
            if not future.done():
                future.set_exception(lost_error())


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
