"""An application's attachment without any waiting: records become events, verbs become records.

Both faces, asyncio and synchronous, drive the same ``Attachment``. A verb that may have to wait is
a generator: it yields ``Wait`` (wake me when something happened to the key, or at the deadline;
answered with the time) or ``Ask`` (send the daemon this request; answered with its reply), and
returns its result. Time is CLOCK_MONOTONIC in nanoseconds and always an argument.
"""

from __future__ import annotations

import errno
import math
import operator
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

from valkyrie.dataplane._core import lib
from valkyrie.dataplane.errors import LocalProtocolError
from valkyrie.dataplane.units import NS_PER_S
from valkyrie.dataplane.wire import FIRST_STREAMS, Class, Code, stream_class

from . import appsocket
from .events import Events, Incoming, Room, Turn
from .flow import Flow
from .loan import Buffer, Loan
from .message import Batch, Message, Placed, batch_of
from .outgoing import Large, Outgoing
from .refusal import (
    ApplicationGoneError,
    RefusedError,
    StreamInUseError,
    StreamResetError,
    UnreachableError,
    WouldBlockError,
    meaning,
    refusal,
)
from .rings import Payload, gone, size_of

T = TypeVar("T")

OPEN_RETRY_NS = 50_000_000
"""After which an unanswered STREAM_OPEN is sent again; doubles each time."""
OPEN_TIMEOUT_NS = 2 * NS_PER_S
OPEN_IDS_MAX = 64
"""Stream ids that ``open`` tries before it says that the class is full."""
TOKEN_MAX = STREAM_MAX = 0xFFFF_FFFF
TIMEOUT_MAX_S = 1e9
CODE_MAX = 0xFFFF_FFFF
FRAGMENT: int = lib.VK_CLIENT_FRAGMENT


class Wait(NamedTuple):
    """Wake me when something happened to ``key``, or at ``deadline_ns`` (None: no limit)."""

    key: object
    deadline_ns: int | None


class Ask(NamedTuple):
    """Send the daemon a request and give me its reply."""

    request: appsocket.Request


Verb = Generator[Wait | Ask, Any, T]


def deadline(now_ns: int, timeout: float | None) -> int | None:
    """Return when a timeout in seconds ends; None: never, or beyond anybody's patience."""
    if timeout is None:
        return None
    if math.isnan(timeout):  # TypeError for what is no number
        raise ValueError("a timeout is seconds, or None for no limit, not NaN")
    return None if timeout > TIMEOUT_MAX_S else now_ns + int(timeout * NS_PER_S)


class Attachment(Events):
    """What the application has open on its node, and what it can do with it."""

    # Verbs: sending

    def wait_room(
        self,
        flow: Flow,
        size: int,
        now_ns: int,
        deadline_ns: int | None,
        sent: int = 0,
        *,
        mine: bool = False,
    ) -> Verb[int]:
        """Wait until a message of size bytes may fit; returns the time. WouldBlockError: late.

        mine: the message that the stream is within is the one that waits.
        """
        busy = flow.outlet.within and not mine
        if deadline_ns is not None and now_ns >= deadline_ns:
            reason = "credit" if flow.short(size) else self.rings.reason(flow.ring)
            reason = "message" if busy else reason
            raise WouldBlockError(reason, Class(flow.ring).name.lower(), sent)
        self._check()
        if busy:
            return int((yield Wait(Turn(flow), deadline_ns)))
        if not flow.short(size):  # else its next limit wakes it, and not room
            self.rings.need(flow.ring, size)
        return int((yield Wait(Room(flow.ring), deadline_ns)))

    def send(
        self, flow: Flow, payload: Payload, timeout: float | None, now_ns: int, options: Any = None
    ) -> Verb[None]:
        """Send a message, with the keyword arguments of ``Flow.send_as`` if there are any."""
        deadline_ns = deadline(now_ns, timeout)
        size = size_of(payload)
        if flow.in_fragments(size):
            yield from self._send_large(flow, Large(payload, options or {}), now_ns, deadline_ns)
            return
        while True:
            try:
                if options:
                    flow.send_as(payload, **options)
                else:
                    flow.send(payload)
            except WouldBlockError:
                now_ns = yield from self.wait_room(flow, size, now_ns, deadline_ns)
            else:
                return

    def _send_large(
        self, flow: Flow, large: Large, now_ns: int, deadline_ns: int | None, sent: int = 0
    ) -> Verb[int]:
        """Send a message in fragments; returns the time. It is not late once it has begun."""
        flow.check_sending()
        try:
            while not large.push(flow):
                begun = large.sent > 0
                now_ns = yield from self.wait_room(
                    flow, FRAGMENT, now_ns, None if begun else deadline_ns, sent, mine=begun
                )
        except BaseException:
            if large.sent and flow.outlet.within:
                self._abandon(flow)
            raise
        finally:
            if large.sent:
                self._through(flow)
        if large.last:
            yield from self._close_sending(flow, now_ns)
        return now_ns

    def _through(self, flow: Flow) -> None:
        """Note that a stream is within a message no more."""
        self.woken.add(Turn(flow))
        if flow in self._closing:
            self._closing.discard(flow)
            if flow.broken is None:
                self._owe_close(flow)

    def _abandon(self, flow: Flow) -> None:
        """End a stream of which a message is half sent and will not be finished."""
        self.reset(flow, Code.CANCELLED)
        flow.error = flow.broken = StreamResetError(
            Code.CANCELLED,
            f"stream {flow.stream}: a message was given up when a part of it had been sent: "
            "open it again",
        )

    def send_many(
        self, flow: Flow, outgoing: Outgoing, timeout: float | None, now_ns: int
    ) -> Verb[None]:
        """Send all messages of ``outgoing``; WouldBlockError.sent says how many went."""
        deadline_ns = deadline(now_ns, timeout)
        while not outgoing.push(flow):
            if flow.in_fragments(outgoing.next_size):
                now_ns = yield from self._send_large(
                    flow, outgoing.next_large(), now_ns, deadline_ns, outgoing.sent
                )
                outgoing.skip()
                continue
            now_ns = yield from self.wait_room(
                flow, outgoing.next_size, now_ns, deadline_ns, outgoing.sent
            )

    def request(
        self, flow: Flow, payload: Payload, timeout: float | None, now_ns: int, options: Any
    ) -> Verb[Message]:
        """Send a message with a correlation of its own and return the reply to it."""
        deadline_ns = deadline(now_ns, timeout)
        correlation = flow.replies.begin()
        sent = False
        try:
            yield from self.send(
                flow, payload, timeout, now_ns, {**options, "correlation": correlation}
            )
            sent = True
            while (reply := flow.replies.get(correlation)) is None:
                flow.idle()
                self._check_reading(flow)
                if flow.ended:
                    raise ApplicationGoneError(
                        Code.APPLICATION_GONE, "the peer closed the stream without a reply"
                    )
                if deadline_ns is not None and now_ns >= deadline_ns:
                    raise TimeoutError(f"no reply on stream {flow.stream} in {timeout} s")
                now_ns = yield Wait(flow, deadline_ns)
            return reply
        finally:
            flow.replies.end(correlation, sent=sent)

    # Verbs: receiving

    def _check_reading(self, flow: Flow) -> None:
        if flow.error is not None and not flow.ended_well:
            raise flow.error
        if flow.closed:
            raise LocalProtocolError(f"stream {flow.stream} is closed: open another")
        if self.failure is not None and not flow.ended:
            raise self.failure

    def take(self, flow: Flow) -> Message | None:
        """Return a stream's next message if it is there."""
        message = flow.take()
        if message is not None and flow.ring in self._paused and flow.drained:
            self._resume(flow)
        return message

    def receive_into(
        self, flow: Flow, buffer: Buffer, timeout: float | None, now_ns: int
    ) -> Verb[Placed | None]:
        """Return the next message, put into a buffer; SmallBufferError if it does not fit."""
        loan = Loan(flow, buffer)
        try:
            return (yield from self._receive(flow, timeout, now_ns, loan.take))
        finally:
            loan.end()
            if flow.ring in self._paused and flow.drained:
                self._resume(flow)

    def receive(self, flow: Flow, timeout: float | None, now_ns: int) -> Verb[Message | None]:
        """Return a stream's next message; None after the last one. TimeoutError when late."""
        return self._receive(flow, timeout, now_ns, partial(self.take, flow))

    def _receive(
        self, flow: Flow, timeout: float | None, now_ns: int, take: Callable[[], T | None]
    ) -> Verb[T | None]:
        deadline_ns = deadline(now_ns, timeout)
        while True:
            message = take()
            if message is not None:
                return message
            flow.idle()
            self._check_reading(flow)
            if flow.ended:
                return None
            if deadline_ns is not None and now_ns >= deadline_ns:
                raise TimeoutError(f"no message on stream {flow.stream} in {timeout} s")
            now_ns = yield Wait(flow, deadline_ns)

    def receive_many(
        self, flow: Flow, count_max: int, timeout: float | None, now_ns: int
    ) -> Verb[list[Message]]:
        """Return all messages that are there (at least one, at most count_max; [] at the end)."""
        _check_count(count_max)
        first = yield from self.receive(flow, timeout, now_ns)
        if first is None:
            return []
        messages = [first, *flow.take_many(count_max - 1)]
        if flow.ring in self._paused and flow.drained:
            self._resume(flow)
        return messages

    def receive_batch(
        self, flow: Flow, count_max: int, timeout: float | None, now_ns: int
    ) -> Verb[Batch]:
        """Return messages as they lie in the ring; an empty batch after the last one."""
        _check_count(count_max)
        deadline_ns = deadline(now_ns, timeout)
        while True:
            batch = self._batch(flow, count_max)
            if batch is not None:
                return batch
            flow.idle()
            self._check_reading(flow)
            if flow.ended:
                return batch_of([])
            if deadline_ns is not None and now_ns >= deadline_ns:
                raise TimeoutError(f"no message on stream {flow.stream} in {timeout} s")
            now_ns = yield Wait(flow, deadline_ns)

    def _batch(self, flow: Flow, count_max: int) -> Batch | None:
        if not flow.queue:
            found = None if flow.astray else self._batch_in_ring(flow, count_max)
            if found is not None:
                return found
            self.pump()  # somebody else's record is first, or one that has to wait
        if not flow.queue:
            return None
        messages = flow.take_many(count_max)
        if flow.ring in self._paused and flow.drained:
            self._resume(flow)
        return batch_of(messages)

    def _batch_in_ring(self, flow: Flow, count_max: int) -> Batch | None:
        sequence = lib.VK_CLIENT_ANY_SEQUENCE if flow.best_effort else flow.expected
        found = self.rings.batch(flow.ring, flow.key, count_max, sequence)
        if isinstance(found, Batch):
            flow.took_batch(found)
            if flow.over:
                self._forget(flow)
            return found
        if found < 0 and found != -errno.ESHUTDOWN:
            self.fail(gone(found))
        return None

    # Verbs: streams

    def open(
        self,
        peer: int,
        service: str,
        stream: int | None,
        klass: str | Class | None,
        now_ns: int,
        *,
        ordered: bool | None = None,
    ) -> Verb[Flow]:
        """Open a stream to a service at a peer: a given id, or the next free one of a class."""
        if not isinstance(service, str):
            raise TypeError(f"a service is a name, not {service!r}")
        if not 0 < len(service.encode()) <= lib.VK_SERVICE_NAME_MAX:
            raise LocalProtocolError(
                f"service name {service!r}: 1 to {lib.VK_SERVICE_NAME_MAX} bytes of UTF-8"
            )
        if (stream is None) == (klass is None):
            raise LocalProtocolError('say which stream: either stream=100 or cls="job"')
        if stream is not None:
            if not 0 <= operator.index(stream) <= STREAM_MAX:  # TypeError for what is no integer
                raise LocalProtocolError(f"stream {stream}: ids are 0 to {STREAM_MAX}")
            return (yield from self._open_one(peer, service, stream, now_ns, ordered))
        for candidate in self._candidates(peer, class_of(klass)):
            try:
                return (yield from self._open_one(peer, service, candidate, now_ns, ordered))
            except StreamInUseError:
                continue
        raise refusal(
            Code.STREAM_IN_USE,
            f"no free stream of class {class_of(klass).name.lower()} to this peer: close some",
        )

    def _candidates(self, peer: int, klass: Class) -> list[int]:
        """Return ids of a class to try, after the one used last."""
        first = FIRST_STREAMS[klass]
        end = min((id_ for id_ in FIRST_STREAMS.values() if id_ > first), default=TOKEN_MAX)
        start = self._next_stream.get((peer, klass), first)
        found: list[int] = []
        for step in range(min(end - first, OPEN_IDS_MAX + len(self.streams))):
            candidate = first + (start - first + step) % (end - first)
            if (peer, candidate) not in self.streams and len(found) < OPEN_IDS_MAX:
                found.append(candidate)
        return found

    def _open_one(
        self, peer: int, service: str, stream: int, now_ns: int, ordered: bool | None
    ) -> Verb[Flow]:
        self._check()
        if (peer, stream) in self.streams:
            raise refusal(Code.STREAM_IN_USE, f"stream {stream} is open to this peer already")
        klass = stream_class(stream)
        self._next_stream[peer, klass] = stream + 1
        flow = Flow(self.rings, peer, stream, klass.value, ordered)
        flow.service = service
        while (self._token + 1) % TOKEN_MAX in self._tokens:
            self._token += 1
        flow.token = self._token = (self._token + 1) % TOKEN_MAX
        self._tokens[flow.token] = flow
        self.streams[peer, stream] = flow
        try:
            yield from self._ask_open(flow, now_ns)
        except BaseException:
            self._forget(flow)
            if flow.code in (None, Code.OK) and not flow.give_up():
                self.rings.owe(flow.ring, flow.give_up)
            raise
        finally:
            del self._tokens[flow.token]
        return flow

    def _ask_open(self, flow: Flow, now_ns: int) -> Verb[None]:
        end_ns = now_ns + OPEN_TIMEOUT_NS
        delay_ns = OPEN_RETRY_NS
        while not flow.answered() and now_ns < end_ns:
            error = self._put_open(flow)
            if error == -errno.EAGAIN:
                now_ns = yield from self.wait_room(flow, len(flow.service), now_ns, end_ns)
                continue
            again_ns = min(now_ns + delay_ns, end_ns)
            delay_ns *= 2
            while now_ns < again_ns:
                now_ns = yield Wait(flow, again_ns)
                self._check()
                if flow.answered():
                    break
        if flow.code is None:
            raise UnreachableError(Code.UNREACHABLE, self._silence(flow))
        if flow.code != Code.OK:
            raise refusal(flow.code, self._explain(flow))

    def _put_open(self, flow: Flow) -> int:
        flow.head.correlation = flow.token
        error = self.rings.put(lib.VK_RECORD_OPEN, flow.head, flow.service.encode())
        flow.head.correlation = 0
        if error and error != -errno.EAGAIN:
            raise self.rings.failure(error, flow.ring, len(flow.service))
        return error

    def _silence(self, flow: Flow) -> str:
        paused = self._paused.get(flow.ring)
        if paused is not None:
            return (
                f"no answer seen: the {Class(flow.ring).name.lower()} ring waits for a reader of "
                f"stream {paused.stream}; read it or close it"
            )
        return (
            f"no answer to STREAM_OPEN in {OPEN_TIMEOUT_NS // NS_PER_S} s: check that the peer's "
            "node is up and the path to it"
        )

    def _explain(self, flow: Flow) -> str:
        code = flow.code or Code.OK
        return f"open stream {flow.stream} to service {flow.service!r}: {meaning(code)}"

    # Verbs: endings

    def close_sending(self, flow: Flow, now_ns: int) -> Verb[None]:
        """Send no more on a stream; what the peer sends still comes."""
        flow.check_sending()
        yield from self._close_sending(flow, now_ns)

    def _close_sending(self, flow: Flow, now_ns: int) -> Verb[None]:
        flow.outlet.closed = 1
        try:
            while not self._put_close(flow):
                now_ns = yield from self.wait_room(flow, 0, now_ns, None)
        except BaseException:
            if flow.outlet.within:
                self._closing.add(flow)
            else:
                self._owe_close(flow)
            raise

    def _owe_close(self, flow: Flow) -> None:
        self.rings.owe(flow.ring, partial(self._put_close, flow))

    def _put_close(self, flow: Flow) -> bool:
        if flow.send_close() and flow.over:
            self._forget(flow)
        return flow.said_close

    def close(self, flow: Flow, now_ns: int) -> Verb[None]:
        """Send no more on a stream, and take nothing more in."""
        if flow.closed:
            return
        flow.discard()
        self._resume(flow)
        self.woken.add(flow)
        if flow.error is not None or self.failure is not None:
            self._forget(flow)
            return
        yield from self._close_sending(flow, now_ns)
        if self.streams.get((flow.peer, flow.stream)) is flow:
            del self.streams[flow.peer, flow.stream]  # the id is the worker's to give again

    def reset(self, flow: Flow, code: int) -> None:
        """End both directions of a stream at once; what is on its way is lost."""
        if not 0 < code <= CODE_MAX:
            raise LocalProtocolError(f"code {code}: 1 to {CODE_MAX}, 0 is no error")
        if self.flows.get(flow.number) is flow:
            self._refuse(flow, code)
            flow.break_(code, "was reset here")
        flow.discard()
        flow.early.clear()
        flow.outlet.closed = 1
        flow.outlet.within = 0
        self._forget(flow)
        self.woken.update((flow, Room(flow.ring)))

    def flush(self, flow: Flow, timeout: float | None, now_ns: int) -> Verb[None]:
        """Wait until all that was sent on a stream is acknowledged; TimeoutError when late."""
        deadline_ns = deadline(now_ns, timeout)
        while (self._token + 1) % TOKEN_MAX in self._flushes:
            self._token += 1
        token = self._token = (self._token + 1) % TOKEN_MAX
        self._flushes[token] = flow
        try:
            while not self._put_flush(flow, token):
                _check_whole(flow)
                now_ns = yield from self.wait_room(flow, 0, now_ns, deadline_ns)
            while token in self._flushes:
                _check_whole(flow)
                self._check()
                if deadline_ns is not None and now_ns >= deadline_ns:
                    raise TimeoutError(
                        f"stream {flow.stream}: not all is acknowledged after {timeout} s"
                    )
                now_ns = yield Wait(flow, deadline_ns)
            _check_whole(flow)
        finally:
            self._flushes.pop(token, None)
            self._flushed.pop(token, None)

    def _put_flush(self, flow: Flow, token: int) -> bool:
        flow.head.correlation = token
        went = flow.send_control(lib.VK_RECORD_FLUSH)
        flow.head.correlation = 0
        return went

    # Verbs: services and peers

    def accept(self, service: Incoming, timeout: float | None, now_ns: int) -> Verb[Flow]:
        """Return the next stream that a peer opened on a service."""
        deadline_ns = deadline(now_ns, timeout)
        while not service.waiting:
            self._check()
            if service.closed:
                raise LocalProtocolError(f"service {service.name!r} is closed: listen again")
            if deadline_ns is not None and now_ns >= deadline_ns:
                raise TimeoutError(f"no stream came in on {service.name!r} in {timeout} s")
            now_ns = yield Wait(service, deadline_ns)
        return service.waiting.popleft()

    def listen(self, name: str, ordered: bool | None = None) -> Verb[Incoming]:
        """Register a service name with the node."""
        if name in self.services:
            raise LocalProtocolError(f"service {name!r} is listened to already")
        service = Incoming(name, ordered)
        self.services[name] = service  # streams may come before the reply does
        try:
            yield from self.ask(appsocket.Listen(name))
        except BaseException as error:
            self._leave(service)
            if not isinstance(error, RefusedError):  # the node may know the name
                self._give_name_back(name)
            raise
        return service

    def unlisten(self, service: Incoming) -> Verb[None]:
        """Take a service name back; streams that nobody accepted are refused."""
        if service.closed:
            return
        self._leave(service)
        try:
            if self.failure is None:
                yield from self.ask(appsocket.Unlisten(service.name))
        except GeneratorExit:
            self._give_name_back(service.name)
            raise

    def _leave(self, service: Incoming) -> None:
        service.closed = True
        self.services.pop(service.name, None)
        self.woken.add(service)
        for flow in service.waiting:
            self._refuse(flow, Code.NO_SERVICE)
            flow.discard()
            self._forget(flow)

    def _give_name_back(self, name: str) -> None:
        with suppress(TypeError, LocalProtocolError):  # a name that the node was never told
            self.unsaid.append(appsocket.encode_request(appsocket.Unlisten(name)))

    def ask(self, request: appsocket.Request) -> Verb[appsocket.Reply]:
        """Return the daemon's reply to a request; a refusal raises its error."""
        reply: appsocket.Reply = yield Ask(request)
        if reply.code:
            raise refusal(reply.code, reply.message)
        return reply


def _check_whole(flow: Flow) -> None:
    """Raise if a stream ended before all that was sent need have arrived."""
    if flow.broken is not None:
        raise flow.broken


def _check_count(count_max: int) -> None:
    if operator.index(count_max) < 1:
        raise LocalProtocolError(f"max={count_max}: ask for 1 message or more")


def class_of(name: str | Class | None) -> Class:
    """Return the class of a name, or the class itself; raises LocalProtocolError."""
    for klass in FIRST_STREAMS:
        if name is klass or name == klass.name.lower():
            return klass
    names = ", ".join(klass.name.lower() for klass in FIRST_STREAMS)
    raise LocalProtocolError(f"no class {name!r}: one of {names}")
