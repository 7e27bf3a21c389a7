"""An application's attachment without any waiting: records become events, verbs become records.

Both faces, asyncio and synchronous, drive the same ``Attachment``. A verb that may have to wait is
a generator: it yields ``Wait`` (wake me when something happened to the key, or at the deadline;
answered with the time) or ``Ask`` (send the daemon this request; answered with its reply), and
returns its result. Time is CLOCK_MONOTONIC in nanoseconds and always an argument.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar

from . import appsocket
from ._core import lib
from .errors import LocalProtocolError
from .flow import Flow, Outgoing
from .message import ENTRY, ENTRY_FIELDS, ENTRY_SIZE, Batch, Message, batch_of, message_of
from .refusal import (
    ApplicationGoneError,
    NodeGoneError,
    RefusedError,
    StreamInUseError,
    UnreachableError,
    WouldBlockError,
    refusal,
)
from .rings import Payload, Rings, gone
from .wire import FIRST_STREAMS, Class, Code, Flag, stream_class

T = TypeVar("T")

NS_PER_S = 1_000_000_000
OPEN_RETRY_NS = 50_000_000
"""After which an unanswered STREAM_OPEN is sent again; doubles each time."""
OPEN_TIMEOUT_NS = 2 * NS_PER_S
OPEN_IDS_MAX = 64
"""Stream ids that ``open`` tries before it says that the class is full."""
BACKLOG_MAX = 1024
"""Incoming streams that wait for ``accept`` before more are refused."""
TOKEN_MAX = 0xFFFF_FFFF
_EOS = Flag.EOS.value


class Wait(NamedTuple):
    """Wake me when something happened to ``key``, or at ``deadline_ns`` (None: no limit)."""

    key: object
    deadline_ns: int | None


class Ask(NamedTuple):
    """Send the daemon a request and give me its reply."""

    request: appsocket.Request


Verb = Generator[Wait | Ask, Any, T]


class Room(NamedTuple):
    """Key of waiting for room in a class's ring."""

    ring: int


class Incoming:
    """A service name that streams come in on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting: deque[Flow] = deque()
        self.refused = 0
        """Streams refused because nobody accepted the ones before."""
        self.closed = False


def deadline(now_ns: int, timeout: float | None) -> int | None:
    """Return when a timeout in seconds ends."""
    return None if timeout is None else now_ns + int(timeout * NS_PER_S)


class Attachment:
    """What the application has open on its node."""

    def __init__(self, rings: Rings) -> None:
        self.rings = rings
        self.flows: dict[int, Flow] = {}
        self.streams: dict[tuple[int, int], Flow] = {}
        """By (peer, stream): open, and being opened."""
        self.services: dict[str, Incoming] = {}
        self.woken: set[object] = set()
        """Keys that something happened to since the driver last looked."""
        self.failure: NodeGoneError | None = None
        self.strays = 0
        """Messages for streams that this application does not have (any more)."""
        self._tokens: dict[int, Flow] = {}
        self._token = 0
        self._next_stream: dict[tuple[int, Class], int] = {}
        self._paused: dict[int, Flow] = {}

    # Records into events

    def pump(self) -> bool:
        """Take in up to a batch of each ring that is not left alone; True if there was any."""
        any_found = False
        for ring in self.rings.classes:
            if ring not in self._paused and self._pump_ring(ring):
                any_found = True
            if self.rings.satisfied(ring):
                self.woken.add(Room(ring))
        return any_found

    def _pump_ring(self, ring: int) -> bool:
        rings = self.rings
        begin = rings.position(ring)
        count = rings.receive(ring)
        if count <= 0:
            if count < 0:
                self.fail(gone(count))
            return False
        memory = rings.copies[ring]
        flows = self.flows
        for entry in ENTRY.iter_unpack(rings.entries[: count * ENTRY_SIZE]):
            offset, end, size, kind, number, generation = entry[:6]
            if kind != lib.VK_RECORD_DATA:
                self._control(ring, entry, memory[offset : offset + size])
                begin = end
                continue
            flow = flows.get(number)
            if flow is None or flow.generation != generation:
                flow = self._adopt(entry)
                if flow is None:
                    begin = end
                    continue
            if flow.full and not flow.closed:
                flow.held_up += 1
                rings.rewind(ring, begin)
                rings.pause(ring, True)
                self._paused[ring] = flow
                break
            flow.receive(message_of(memory[offset : offset + size], entry))
            self.woken.add(flow)
            begin = end
        rings.consumed(ring)
        return True

    def _adopt(self, entry: tuple[int, ...]) -> Flow | None:
        """Return the stream that is being opened and whose answer a message overtook, if any."""
        event = _Event(entry)
        flow = self.streams.get((event.peer, event.stream))
        if flow is None or flow.number >= 0:
            self.strays += 1
            return None
        self._bind(flow, event)
        return flow

    def _bind(self, flow: Flow, event: _Event) -> None:
        flow.bind(event.flow, event.flow_generation)
        self.flows[event.flow] = flow

    def _control(self, ring: int, entry: tuple[int, ...], payload: bytes) -> None:
        event = _Event(entry)
        if event.kind == lib.VK_RECORD_OPENED:
            self._opened(ring, event)
        elif event.kind == lib.VK_RECORD_OPEN:
            self._incoming(ring, event, payload)
        else:
            flow = self.flows.get(event.flow)
            if flow is None or flow.generation != event.flow_generation:
                return
            if event.kind == lib.VK_RECORD_CLOSE:
                flow.ended = True
            else:
                flow.reset(event.code)
                self.woken.add(Room(ring))
            if flow.closed or event.kind == lib.VK_RECORD_RESET:
                self._forget(flow)
            self.woken.add(flow)

    def _opened(self, ring: int, event: _Event) -> None:
        flow = self._tokens.get(event.correlation)
        if flow is None:
            if event.code == Code.OK:  # nobody waits for it any more: let the worker free it
                late = Flow(self.rings, event.peer, event.stream, ring)
                late.bind(event.flow, event.flow_generation)
                late.send_control(lib.VK_RECORD_CLOSE)
            return
        if flow.code is None:
            flow.code = event.code
            if event.code == Code.OK:
                self._bind(flow, event)
            self.woken.add(flow)

    def _incoming(self, ring: int, event: _Event, payload: bytes) -> None:
        known = self.flows.get(event.flow)
        if known is not None and known.generation == event.flow_generation:
            return  # told before: a worker that died tells again
        flow = Flow(self.rings, event.peer, event.stream, ring)
        flow.bind(event.flow, event.flow_generation)
        flow.service = payload.decode("utf-8", "replace")
        service = self.services.get(flow.service)
        if service is None:
            flow.send_control(lib.VK_RECORD_RESET, Code.NO_SERVICE)
            return
        if len(service.waiting) >= BACKLOG_MAX:
            service.refused += 1
            flow.send_control(lib.VK_RECORD_RESET, Code.STREAMS_FULL)
            return
        old = self.streams.get((event.peer, event.stream))
        if old is not None and old.number >= 0:
            old.reset(Code.STREAM_UNKNOWN)
            self._forget(old)
            self.woken.add(old)
        self.flows[event.flow] = flow
        self.streams[event.peer, event.stream] = flow
        service.waiting.append(flow)
        self.woken.add(service)

    def _forget(self, flow: Flow) -> None:
        if self.flows.get(flow.number) is flow:
            del self.flows[flow.number]
        if self.streams.get((flow.peer, flow.stream)) is flow:
            del self.streams[flow.peer, flow.stream]
        self._resume(flow)

    def _resume(self, flow: Flow) -> None:
        """Look at a ring again that was left alone because of this stream."""
        if self._paused.get(flow.ring) is flow:
            del self._paused[flow.ring]
            self.rings.pause(flow.ring, False)
            self.woken.add(self)

    def fail(self, error: NodeGoneError) -> None:
        """Note that the node ended the attachment: everybody who waits is told."""
        if self.failure is None:
            self.failure = error
            self.woken.update(self.flows.values())
            self.woken.update(self.streams.values())
            self.woken.update(self.services.values())
            self.woken.update(Room(ring) for ring in self.rings.classes)

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    # Verbs: sending

    def wait_room(
        self, flow: Flow, size: int, now_ns: int, deadline_ns: int | None, sent: int = 0
    ) -> Verb[int]:
        """Wait until a message of size bytes may fit; returns the time. WouldBlockError: late."""
        if deadline_ns is not None and now_ns >= deadline_ns:
            reason = self.rings.reason(flow.ring)
            raise WouldBlockError(reason, Class(flow.ring).name.lower(), sent)
        self._check()
        self.rings.need(flow.ring, size)
        return int((yield Wait(Room(flow.ring), deadline_ns)))

    def send(
        self, flow: Flow, payload: Payload, timeout: float | None, now_ns: int, options: Any = None
    ) -> Verb[None]:
        """Send a message, with the keyword arguments of ``Flow.send_as`` if there are any."""
        deadline_ns = deadline(now_ns, timeout)
        while True:
            try:
                if options:
                    flow.send_as(payload, **options)
                else:
                    flow.send(payload)
            except WouldBlockError:
                now_ns = yield from self.wait_room(flow, len(payload), now_ns, deadline_ns)
            else:
                return

    def send_many(
        self, flow: Flow, outgoing: Outgoing, timeout: float | None, now_ns: int
    ) -> Verb[None]:
        """Send all messages of ``outgoing``; WouldBlockError.sent says how many went."""
        deadline_ns = deadline(now_ns, timeout)
        while not outgoing.push(flow):
            now_ns = yield from self.wait_room(
                flow, outgoing.next_size, now_ns, deadline_ns, outgoing.sent
            )

    def request(
        self, flow: Flow, payload: Payload, timeout: float | None, now_ns: int, options: Any
    ) -> Verb[Message]:
        """Send a message with a correlation of its own and return the reply to it."""
        deadline_ns = deadline(now_ns, timeout)
        correlation = flow.next_correlation()
        flow.replies[correlation] = None
        try:
            yield from self.send(
                flow, payload, timeout, now_ns, {**options, "correlation": correlation}
            )
            while (reply := flow.replies[correlation]) is None:
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
            del flow.replies[correlation]

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

    def receive(self, flow: Flow, timeout: float | None, now_ns: int) -> Verb[Message | None]:
        """Return a stream's next message; None after the last one. TimeoutError when late."""
        deadline_ns = deadline(now_ns, timeout)
        while True:
            message = self.take(flow)
            if message is not None:
                return message
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
        deadline_ns = deadline(now_ns, timeout)
        while True:
            batch = self._batch(flow, count_max)
            if batch is not None:
                return batch
            self._check_reading(flow)
            if flow.ended:
                return batch_of([])
            if deadline_ns is not None and now_ns >= deadline_ns:
                raise TimeoutError(f"no message on stream {flow.stream} in {timeout} s")
            now_ns = yield Wait(flow, deadline_ns)

    def _batch(self, flow: Flow, count_max: int) -> Batch | None:
        if not flow.queue and not flow.replies:
            found = self.rings.batch(flow.ring, flow.number, count_max)
            if isinstance(found, Batch):
                flow.received += len(found)
                flow.received_bytes += sum(found.sizes)
                flags = found.flags.tobytes()
                if any(flags) and any(flag & _EOS for flag in flags):
                    flow.ended = True
                return found
            if found < 0 and found != -errno.ESHUTDOWN:
                self.fail(gone(found))
            self.pump()  # somebody else's record is first
        if not flow.queue:
            return None
        messages = flow.take_many(count_max)
        if flow.ring in self._paused and flow.drained:
            self._resume(flow)
        return batch_of(messages)

    # Verbs: streams

    def open(
        self, peer: int, service: str, stream: int | None, klass: str | None, now_ns: int
    ) -> Verb[Flow]:
        """Open a stream to a service at a peer: a given id, or the next free one of a class."""
        if not 0 < len(service.encode()) <= lib.VK_SERVICE_NAME_MAX:
            raise LocalProtocolError(
                f"service name {service!r}: 1 to {lib.VK_SERVICE_NAME_MAX} bytes of UTF-8"
            )
        if (stream is None) == (klass is None):
            raise LocalProtocolError('say which stream: either stream=100 or cls="job"')
        if stream is not None:
            return (yield from self._open_one(peer, service, stream, now_ns))
        for candidate in self._candidates(peer, class_of(klass)):
            try:
                return (yield from self._open_one(peer, service, candidate, now_ns))
            except StreamInUseError:
                continue
        raise refusal(
            Code.STREAM_IN_USE, f"no free stream of class {klass} to this peer: close some"
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

    def _open_one(self, peer: int, service: str, stream: int, now_ns: int) -> Verb[Flow]:
        self._check()
        if (peer, stream) in self.streams:
            raise refusal(Code.STREAM_IN_USE, f"stream {stream} is open to this peer already")
        klass = stream_class(stream)
        self._next_stream[peer, klass] = stream + 1
        flow = Flow(self.rings, peer, stream, klass.value)
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
        name = RefusedError(flow.code or Code.OK).name.replace("_", " ")
        return f"open stream {flow.stream} to service {flow.service!r}: {name}"

    def close(self, flow: Flow, now_ns: int) -> Verb[None]:
        """Send no more on a stream, and take nothing more in."""
        if flow.closed:
            return
        flow.closed = True
        flow.queue.clear()
        flow.queue_size = 0
        self._resume(flow)
        self.woken.add(flow)
        if flow.error is not None or self.failure is not None:
            self._forget(flow)
            return
        while not flow.send_control(lib.VK_RECORD_CLOSE):
            now_ns = yield from self.wait_room(flow, 0, now_ns, None)
        flow.outlet.closed = 1
        if flow.ended:
            self._forget(flow)
        elif self.streams.get((flow.peer, flow.stream)) is flow:
            del self.streams[flow.peer, flow.stream]  # the id is the worker's to give again

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

    def listen(self, name: str) -> Verb[Incoming]:
        """Register a service name with the node."""
        if name in self.services:
            raise LocalProtocolError(f"service {name!r} is listened to already")
        service = self.services[name] = Incoming(name)  # streams may come before the reply does
        try:
            yield from self.ask(appsocket.Listen(name))
        except BaseException:
            del self.services[name]
            raise
        return service

    def unlisten(self, service: Incoming) -> Verb[None]:
        """Take a service name back; streams that nobody accepted are refused."""
        if service.closed:
            return
        service.closed = True
        self.services.pop(service.name, None)
        self.woken.add(service)
        for flow in service.waiting:
            flow.send_control(lib.VK_RECORD_RESET, Code.NO_SERVICE)
            flow.closed = True
            self._forget(flow)
        if self.failure is None:
            yield from self.ask(appsocket.Unlisten(service.name))

    def ask(self, request: appsocket.Request) -> Verb[appsocket.Reply]:
        """Return the daemon's reply to a request; a refusal raises its error."""
        reply: appsocket.Reply = yield Ask(request)
        if reply.code:
            raise refusal(reply.code, reply.message)
        return reply


class _Event:
    """A record that is no message, by field name."""

    __slots__ = ("code", "correlation", "flow", "flow_generation", "kind", "peer", "stream")

    def __init__(self, entry: tuple[int, ...]) -> None:
        values = dict(zip(ENTRY_FIELDS, entry, strict=True))
        self.kind = values["kind"]
        self.flow = values["flow"]
        self.flow_generation = values["flow_generation"]
        self.peer = values["peer"]
        self.stream = values["stream"]
        self.correlation = values["correlation"]
        self.code = values["code"]


def class_of(name: str | None) -> Class:
    """Return the class of a name; raises LocalProtocolError."""
    for klass in FIRST_STREAMS:
        if klass.name.lower() == name:
            return klass
    names = ", ".join(klass.name.lower() for klass in FIRST_STREAMS)
    raise LocalProtocolError(f"no class {name!r}: one of {names}")
