"""What comes out of an application's rings: messages for its streams, and what becomes of those.

No waiting happens here: ``woken`` gathers the keys that something happened to.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import NamedTuple

from valkyrie.dataplane._core import lib
from valkyrie.dataplane.wire import Class, Code

from .collect import collect
from .flow import Flow, address, take_in
from .message import CODE, ENTRY, ENTRY_FIELDS, ENTRY_SIZE, SEQUENCE, message_of
from .refusal import NodeGoneError
from .rings import Rings, gone

BACKLOG_MAX = 1024
"""Incoming streams that wait for ``accept`` before more are refused."""
_BATCH: int = lib.VK_CLIENT_BATCH
_DATA = lib.VK_RECORD_DATA
_MIDDLE = lib.VK_FRAGMENT_MASK


class Room(NamedTuple):
    """Key of waiting for room in a class's ring."""

    ring: int


class Turn(NamedTuple):
    """Key of waiting for a large message of another task to be through."""

    flow: Flow


class Incoming:
    """A service name that streams come in on."""

    def __init__(self, name: str, ordered: bool | None = None) -> None:
        self.name = name
        self.ordered = ordered
        """How its streams are read; None: as their class is."""
        self.waiting: deque[Flow] = deque()
        self.refused = 0
        """Streams refused because nobody accepted the ones before."""
        self.closed = False


class Events:
    """What the application has open on its node, and what happens to it."""

    def __init__(self, rings: Rings, first_token: int = 0) -> None:
        """``first_token``: random below 2**31, or peers take an OPEN for an earlier one's copy.

        The application before this one may have used the same stream a moment ago.
        """
        self.rings = rings
        self._client = address(rings.client)
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
        self._token = first_token
        self._next_stream: dict[tuple[int, Class], int] = {}
        self._former: dict[tuple[int, int], Flow] = {}
        """By number and generation: not read to their ends, and another stream has their number."""
        self._paused: dict[int, Flow] = {}
        self._begin = 0
        """In the ring that is being looked at: where the next record begins."""
        self._taking: Flow | None = None
        """Whose message that is, while it is being taken in."""
        self._limits: dict[int, _Event] = {}
        """What may be put for flows that are not known yet, by number."""
        self._closing: set[Flow] = set()
        """To be closed for sending when the large message that they are within is through."""
        self.unsaid: deque[bytes] = deque()
        """Requests to the daemon that are to be made, and whose replies nobody waits for."""
        self._flushes: dict[int, Flow] = {}
        """Waiting for what was sent to be acknowledged, by token."""
        self._flushed: dict[int, int] = {}
        """Answered, by token: up to where its stream's ring has to be read before that counts. Of a
        stream that was reset all is done, and the reset lies there."""

    # Records into events

    def pump(self, but: int | None = None) -> bool:
        """Take in up to a batch of each ring that is not left alone; True if there was any.

        ``but``: of a ring that its reader takes from by itself, nothing.
        """
        any_found = self._pump_answers()
        for ring in self.rings.classes:
            if ring != but and ring not in self._paused and self._pump_ring(ring):
                any_found = True
            if self.rings.satisfied(ring):
                self.woken.add(Room(ring))
        if self._flushed:
            self._settle_flushes()
        self.rings.pay()
        return any_found

    def _pump_answers(self) -> bool:
        rings = self.rings
        rings.satisfied(Class.CONTROL)
        begin = rings.position(Class.CONTROL)
        try:
            count = rings.receive(Class.CONTROL)
            if count <= 0:
                if count < 0:
                    self.fail(gone(count))
                return False
            for entry in ENTRY.iter_unpack(rings.entries[: count * ENTRY_SIZE]):
                self._answer(_Event(entry))
        except BaseException:
            rings.rewind(Class.CONTROL, begin)  # to know an answer twice does no harm
            raise
        rings.consumed(Class.CONTROL)
        return True

    def _answer(self, event: _Event) -> None:
        if event.kind == lib.VK_RECORD_LIMIT:
            self._limit(event)
            return
        flow = self._flushes.get(event.correlation)
        if flow is not None:  # else nobody waits any more
            self._flushed[event.correlation] = self.rings.tail(flow.ring)

    def _settle_flushes(self) -> None:
        """Wake who waits for a flush, as soon as what was put before its answer is known."""
        for token, tail in list(self._flushed.items()):
            flow = self._flushes[token]
            if flow.ring in self._paused or self.rings.position(flow.ring) >= tail:
                del self._flushes[token], self._flushed[token]
                self.woken.add(flow)

    def _limit(self, event: _Event) -> None:
        flow = self._known(event.flow, event.flow_generation)
        if flow is None:
            self._limits[event.flow] = event  # the record that names it is in another ring
            return
        flow.outlet.limit = event.time_ns
        self.woken.add(Room(flow.ring))

    def _known(self, number: int, generation: int) -> Flow | None:
        flow = self.flows.get(number)
        if flow is not None and flow.generation == generation:
            return flow
        return self._former.get((number, generation))

    def _keep(self, flow: Flow) -> None:
        """Note that a flow's number is known.

        Whose number it was may have records left, in a ring of another class.
        """
        former = self.flows.get(flow.number)
        if former is not None and former is not flow:
            self._former[former.number, former.generation] = former
        self.flows[flow.number] = flow
        limit = self._limits.pop(flow.number, None)
        if limit is not None:
            self._limit(limit)

    def _pump_ring(self, ring: int) -> bool:
        taken = take_in(self._client, ring, self.flows, self.woken)
        if taken:
            self.rings.consumed(ring)
        return (taken < _BATCH and self._pump_others(ring)) or taken > 0

    def _pump_others(self, ring: int) -> bool:
        """Take in records among which are some that are no plain messages of known streams.

        Handlers of signals, which may raise, wait meanwhile; but for those of signals that came to
        another thread. What was not looked at when something was raised stays in the ring.
        """
        rings = self.rings
        self._begin = rings.position(ring)
        try:
            count = rings.receive(ring)
            if count <= 0:
                if count < 0:
                    self.fail(gone(count))
                return False
            lib.vk_client_hold(1)
            self._look_at(ring, count)
        except BaseException:
            rings.rewind(ring, self._begin)
            flow, self._taking = self._taking, None
            if flow is not None:
                flow.interrupt()
                self._gave(flow)
            raise
        finally:
            lib.vk_client_hold(0)
        rings.consumed(ring)
        return True

    def _look_at(self, ring: int, count: int) -> None:
        """Take in records that were described; ``_begin`` is where the next one begins."""
        rings = self.rings
        memory = rings.copies[ring]
        flows = self.flows
        collected = 0
        for index, entry in enumerate(ENTRY.iter_unpack(rings.entries[: count * ENTRY_SIZE])):
            offset, end, size, kind, number, generation = entry[:6]
            if index < collected:
                self._begin = end
                continue
            if kind != _DATA:
                self._control(ring, entry, memory[offset : offset + size])
                self._begin = end
                continue
            flow = flows.get(number)
            if flow is None or flow.generation != generation:
                flow = self._adopt(entry)
                if flow is None:
                    self._begin = end
                    continue
            if flow.halting and flow.full and not flow.closed:
                flow.seen.held_up += 1
                rings.rewind(ring, self._begin)
                rings.pause(ring, True)
                self._paused[ring] = flow
                break
            if entry[CODE]:
                self._taking = flow
                collected = index + self._take_fragments(flow, entry, index, count)
            else:
                message = message_of(memory[offset : offset + size], entry)
                self._taking = flow
                flow.receive(message)
            self._begin, self._taking = end, None
            self._gave(flow)

    def _gave(self, flow: Flow) -> None:
        """Note that a flow has something new."""
        if flow.careful and flow.over:
            self._forget(flow)
            self.woken.add(Room(flow.ring))  # who sends has to know, if it was broken
        self.woken.add(flow)

    def _take_fragments(self, flow: Flow, entry: tuple[int, ...], index: int, count: int) -> int:
        """Give a flow a fragment, and those behind it that can come at once; returns how many."""
        mark = entry[CODE]
        taken = collect(flow, index, count, entry[SEQUENCE]) if mark == _MIDDLE else 0
        if not taken:
            offset, _, size = entry[:3]
            payload = self.rings.copies[flow.ring][offset : offset + size]
            flow.receive_fragment(message_of(payload, entry), mark)
        return taken or 1

    def _adopt(self, entry: tuple[int, ...]) -> Flow | None:
        """Return whose message it is, if anybody's.

        It is of a stream that is being opened, and overtook the answer, or of one whose number is
        another's by now.
        """
        event = _Event(entry)
        former = self._former.get((event.flow, event.flow_generation))
        if former is not None:
            return former
        flow = self.streams.get((event.peer, event.stream))
        if flow is None or flow.number >= 0:
            self.strays += 1
            return None
        self._bind(flow, event)
        return flow

    def _bind(self, flow: Flow, event: _Event) -> None:
        flow.bind(event.flow, event.flow_generation)
        self._keep(flow)

    def _control(self, ring: int, entry: tuple[int, ...], payload: bytes) -> None:
        event = _Event(entry)
        if event.kind == lib.VK_RECORD_OPENED:
            self._opened(ring, event)
        elif event.kind == lib.VK_RECORD_OPEN:
            self._incoming(ring, event, payload)
        else:
            flow = self._known(event.flow, event.flow_generation)
            if flow is None:
                return
            if event.kind == lib.VK_RECORD_CLOSE:
                flow.finish(event.sequence)
                if flow.error is not None:
                    self.woken.add(Room(ring))
            else:
                flow.reset(event.code)
                self.woken.add(Room(ring))
            if flow.over or event.kind == lib.VK_RECORD_RESET:
                self._forget(flow)
            self.woken.add(flow)

    def _opened(self, ring: int, event: _Event) -> None:
        flow = self._tokens.get(event.correlation)
        if flow is None:
            if event.code == Code.OK:  # nobody waits for it any more: let the worker free it
                late = Flow(self.rings, event.peer, event.stream, ring)
                late.bind(event.flow, event.flow_generation)
                late.send_control(lib.VK_RECORD_RESET, Code.CANCELLED)
            return
        if flow.code is None:
            flow.code = event.code
            if event.code == Code.OK:
                self._bind(flow, event)
            self.woken.add(flow)

    def _incoming(self, ring: int, event: _Event, payload: bytes) -> None:
        if self._known(event.flow, event.flow_generation) is not None:
            return  # told before: a worker that died tells again
        name = payload.decode("utf-8", "replace")
        service = self.services.get(name)
        ordered = None if service is None or ring == Class.LOGS else service.ordered
        flow = Flow(self.rings, event.peer, event.stream, ring, ordered)
        flow.bind(event.flow, event.flow_generation)
        flow.service = name
        if service is None:
            self._refuse(flow, Code.NO_SERVICE)
            return
        if len(service.waiting) >= BACKLOG_MAX:
            service.refused += 1
            self._refuse(flow, Code.STREAMS_FULL)
            return
        old = self.streams.get((event.peer, event.stream))
        if old is not None and old.number >= 0:
            old.reset(Code.STREAM_UNKNOWN)
            self._forget(old)
            self.woken.update((old, Room(ring)))
        self._keep(flow)
        self.streams[event.peer, event.stream] = flow
        service.waiting.append(flow)
        self.woken.add(service)

    def _refuse(self, flow: Flow, code: int) -> None:
        """Reset a stream now, or as soon as there is room."""
        if not flow.send_control(lib.VK_RECORD_RESET, code):
            self.rings.owe(flow.ring, partial(flow.send_control, lib.VK_RECORD_RESET, code))

    def _forget(self, flow: Flow) -> None:
        if self.flows.get(flow.number) is flow:
            del self.flows[flow.number]
        self._former.pop((flow.number, flow.generation), None)
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
            for flow in (*self.flows.values(), *self._former.values(), *self.streams.values()):
                self.woken.update((flow, Turn(flow)))
            self.woken.update(self.services.values())
            self.woken.update(self._flushes.values())
            self.woken.update(Room(ring) for ring in self.rings.classes)

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure


class _Event:
    """A record that is no message, by field name."""

    __slots__ = (
        "code",
        "correlation",
        "flow",
        "flow_generation",
        "kind",
        "peer",
        "sequence",
        "stream",
        "time_ns",
    )

    def __init__(self, entry: tuple[int, ...]) -> None:
        values = dict(zip(ENTRY_FIELDS, entry, strict=True))
        self.kind = values["kind"]
        self.flow = values["flow"]
        self.flow_generation = values["flow_generation"]
        self.peer = values["peer"]
        self.stream = values["stream"]
        self.time_ns = values["time_ns"]
        self.sequence = values["sequence"]
        self.correlation = values["correlation"]
        self.code = values["code"]
