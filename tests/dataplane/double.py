"""A stand-in for daemon and worker: the real application socket and rings, but one thread and no
network. Nodes of one Fabric are each other's peers, by name."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tests.lab import SOON_S
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.wire import Class, Code, stream_class

MESSAGE_SIZE = ffi.sizeof("struct vk_message")
RECORD = struct.Struct("=IBBH")
DEFAULT_RING_SIZE = 65536
HELD_MAX = 256
"""Records of a stream that wait for credit, or for its receiver's ring, before their ring waits."""
CREDITED = (Class.SYSTEM, Class.JOB, Class.DATA)
CONSUMED_SIZE = ffi.sizeof("struct vk_consumed")


def span(size: int) -> int:
    align = lib.VK_RECORD_ALIGN
    return int((RECORD.size + size + align - 1) // align * align)


def drain(bell: int) -> None:
    with suppress(OSError):  # it may be closed by an event before this one
        os.eventfd_read(bell)


class Channel:
    """The worker's end of one application's rings."""

    def __init__(self, capacities: list[int], generation: int) -> None:
        self.capacity = ffi.new("uint32_t[8]", capacities + [0] * (8 - len(capacities)))
        self.memfds = [
            lib.vk_channel_create(self.capacity, len(Class), generation) for _ in range(2)
        ]
        self.d = lib.vk_channel_map(self.memfds[0], self.capacity, 1, ffi.NULL)
        self.a = lib.vk_channel_map(self.memfds[1], self.capacity, 0, ffi.NULL)
        for memfd, future_write in zip(self.memfds, (1, 0), strict=True):
            assert lib.vk_channel_seal(memfd, future_write) == 0
        self._bell, application = socket.socketpair()
        self.bell_app = application.detach()
        self.bell_worker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.tail = [0] * 8
        self.head = [0] * 8
        self.rang = 0
        self.sleeps = 0

    def memory(self, region: Any, ring: int) -> Any:
        data = lib.vk_channel_data(region, self.capacity, ring)
        return ffi.buffer(data, 2 * self.capacity[ring])

    def put(self, ring: int, kind: int, message: Any, payload: bytes) -> bool:
        body = bytes(ffi.buffer(message, MESSAGE_SIZE)) + payload
        if self.capacity[ring] - (self.tail[ring] - self.a.head[ring]) < span(len(body)):
            return False
        self.raw(ring, RECORD.pack(len(body), kind, 0, 0) + body)
        return True

    def raw(self, ring: int, record: bytes) -> None:
        """Produce bytes as they are, good or bad."""
        at = self.tail[ring] % self.capacity[ring]
        self.memory(self.d, ring)[at : at + len(record)] = record
        self.tail[ring] += span(len(record) - RECORD.size)
        self.d.tail[ring] = self.tail[ring]

    def reports(self) -> list[Any]:
        """Take what the application says it has consumed."""
        found = []
        while self.head[0] != self.a.tail[0]:
            at = self.head[0] % self.capacity[0]
            memory = self.memory(self.a, 0)
            record = memory[at : at + RECORD.size + CONSUMED_SIZE]
            assert RECORD.unpack(record[: RECORD.size])[:2] == (
                CONSUMED_SIZE,
                lib.VK_RECORD_CONSUMED,
            )
            report = ffi.new("struct vk_consumed *")
            ffi.memmove(report, record[RECORD.size :], CONSUMED_SIZE)
            found.append(report)
            self.head[0] += RECORD.size + CONSUMED_SIZE
            self.d.head[0] = self.head[0]
        return found

    def take(self, ring: int) -> tuple[int, Any, bytes] | None:
        if self.head[ring] == self.a.tail[ring]:
            return None
        at = self.head[ring] % self.capacity[ring]
        memory = self.memory(self.a, ring)
        size, kind, _, _ = RECORD.unpack(memory[at : at + RECORD.size])
        body = memory[at + RECORD.size : at + RECORD.size + size]
        self.head[ring] += span(size)
        self.d.head[ring] = self.head[ring]
        message = ffi.new("struct vk_message *")
        ffi.memmove(message, body, MESSAGE_SIZE)
        return kind, message, bytes(body[MESSAGE_SIZE:])

    def ring_bell(self) -> None:
        sleeping = self.a.sleeping
        if sleeping and sleeping != self.rang:
            self.rang = sleeping
            with suppress(BlockingIOError, BrokenPipeError):
                self._bell.send(b"!", socket.MSG_DONTWAIT)

    def close(self) -> None:
        for descriptor in (*self.memfds, self.bell_app, self.bell_worker):
            os.close(descriptor)
        self._bell.close()
        lib.vk_channel_unmap(self.d, self.capacity, 0)
        lib.vk_channel_unmap(self.a, self.capacity, 0)


@dataclass
class End:
    """One end of a stream."""

    app: App
    peer: int
    stream: int
    number: int
    generation: int
    token: int
    other: End | None = None
    held: deque[tuple[int, Any, bytes]] = field(default_factory=deque)
    """Records that wait for credit, or for room in the receiver's ring."""
    sequence: int = 0
    """Of the next message to send."""
    spent: int = 0
    consumed: int = 0
    """Cost of what its application has taken."""
    closed: bool = False

    @property
    def ring(self) -> Class:
        return stream_class(self.stream)

    @property
    def limit(self) -> int | None:
        """Cost that may be sent to it in all; None: there is no window."""
        if self.ring not in CREDITED:
            return None
        return self.consumed + int(self.app.node.window)

    def message(self, **fields: int) -> Any:
        values = {"flow": self.number, "flow_generation": self.generation}
        values |= {"peer": self.peer, "stream": self.stream, **fields}
        return ffi.new("struct vk_message *", values)


@dataclass(eq=False)
class App:
    node: DoubleNode
    socket: socket.socket
    channel: Channel | None = None
    services: set[str] = field(default_factory=set)
    dropped: int = 0
    held: bool = False
    """The worker takes nothing from its rings."""
    violations: int = 0
    reports: int = 0
    deaf: bool = False
    """The worker takes no reports."""
    orphaned: bool = False
    """The daemon is gone; the worker goes on."""

    def cut(self) -> None:
        """Let the daemon die, as far as this application sees."""
        self.orphaned = True
        self.socket.close()


class DoubleNode:
    """A node: its socket, applications and flows."""

    def __init__(self, fabric: Fabric, name: str, index: int) -> None:
        self.fabric = fabric
        self.name = name
        self.index = index
        self.path = str(fabric.folder / f"{name}.sock")
        self.apps: list[App] = []
        self.flows: dict[int, End] = {}
        self.requests: list[appsocket.AnyRequest] = []
        self.classes = list(Class)[1:]
        self.lose_opens = 0
        """STREAM_OPENs that get lost on the way."""
        self.opens = 0
        self.open_code = 0
        """Refuse every stream with this code."""
        self.silent = False
        """Answer no request."""
        self.control_ring = lib.VK_CONTROL_RING
        """Bytes of ring 0."""
        self.window = lib.VK_WINDOW_START
        self.tells_limits = False
        """Its applications hear what they may put for their streams."""
        self.disorder: Random | None = None
        """Hand reliable messages over out of order and more than once."""
        self.mixed: list[tuple[App, End, tuple[int, Any, bytes]]] = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen(8)


class Fabric:
    """Nodes joined by nothing but this object, moved by one thread."""

    def __init__(self, folder: Path, names: tuple[str, ...] = ("left", "right")) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self._kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = False
        self.failure: BaseException | None = None
        self.nodes = [DoubleNode(self, name, index) for index, name in enumerate(names)]
        self._generation = 0
        self._thread = threading.Thread(target=self._run, name="double")
        self._thread.start()

    def kick(self) -> None:
        os.eventfd_write(self._kick, 1)

    def do(self, change: Callable[[], None]) -> None:
        """Change the nodes' state between two turns of the worker."""
        with self.lock:
            change()
        self.kick()

    def close(self) -> None:
        self._stop = True
        self.kick()
        self._thread.join(SOON_S)
        for node in self.nodes:
            for app in list(node.apps):
                self._detach(app)
            node.listener.close()
        os.close(self._kick)
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            while not self._stop:
                with self.lock:
                    while sum(self._move(app) for node in self.nodes for app in node.apps):
                        pass
                    waiting = self._descriptors()
                    busy = self._fall_asleep()
                poll = select.poll()
                for descriptor in waiting:
                    poll.register(descriptor, select.POLLIN)
                events = poll.poll(0 if busy else 1 if self._again() else 1000)
                with self.lock:
                    for descriptor, _ in events:
                        waiting[descriptor]()
        except BaseException as error:
            self.failure = error

    def _descriptors(self) -> dict[int, Callable[[], object]]:
        found: dict[int, Callable[[], object]] = {
            self._kick: partial(drain, self._kick),
        }
        for node in self.nodes:
            if node.listener.fileno() >= 0:
                found[node.listener.fileno()] = partial(self._accept, node)
            for app in node.apps:
                if app.socket.fileno() >= 0:
                    found[app.socket.fileno()] = partial(self._request, app)
                if app.channel is not None:
                    bell = app.channel.bell_worker
                    found[bell] = partial(drain, bell)
        return found

    def _fall_asleep(self) -> bool:
        """Ask for bells; True if there is something after all."""
        busy = False
        for node in self.nodes:
            for app in node.apps:
                channel = app.channel
                if channel is None:
                    continue
                channel.sleeps += 1
                channel.d.sleeping = channel.sleeps
                if not app.held:
                    busy |= any(
                        channel.capacity[r] and channel.head[r] != channel.a.tail[r]
                        for r in range(8)
                        if not (app.deaf if r == 0 else self._blocked(app, r))
                    )
        return busy

    def _again(self) -> bool:
        """Whether something has to be tried again: no bell says that there is room in a ring."""
        nodes = self.nodes
        return any(node.mixed or any(end.held for end in node.flows.values()) for node in nodes)

    # The daemon's part

    def _accept(self, node: DoubleNode) -> None:
        node.apps.append(App(node, node.listener.accept()[0]))

    def _request(self, app: App) -> None:
        try:
            packet = app.socket.recv(appsocket.PACKET_SIZE_MAX)
        except OSError:
            packet = b""
        if not packet:
            if not app.orphaned:
                self._detach(app)
            return
        request = appsocket.decode_request(packet)
        app.node.requests.append(request)
        if app.node.silent:
            return
        descriptors: list[int] = []
        if isinstance(request, appsocket.Attach):
            reply = self._attach(app, request)
            if app.channel is not None:
                channel = app.channel
                descriptors = [*channel.memfds, channel.bell_app, channel.bell_worker]
        else:
            reply = self._answer(app, request)
        socket.send_fds(app.socket, [appsocket.encode(reply)], descriptors)

    def _attach(self, app: App, request: appsocket.Attach) -> appsocket.Reply:
        if request.name == "forbidden":
            return appsocket.Reply(code=Code.POLICY, message="no rule lets it attach")
        self._generation += 1
        size = request.ring_size or DEFAULT_RING_SIZE
        capacities = [size if Class(ring) in app.node.classes else 0 for ring in range(len(Class))]
        capacities[0] = app.node.control_ring
        app.channel = Channel(capacities, self._generation)
        return appsocket.Reply(generation=self._generation, capacity=capacities)

    def _answer(self, app: App, request: appsocket.AnyRequest) -> appsocket.Reply:
        match request:
            case appsocket.Connect(peer):
                for node in self.nodes:
                    if node.name == peer:
                        return appsocket.Reply(peer=node.index, family=4)
                return appsocket.Reply(code=Code.NO_PEER, message=f"no peer {peer}")
            case appsocket.Listen(service):
                if any(service in other.services for other in app.node.apps):
                    return appsocket.Reply(code=Code.POLICY, message="the name is taken")
                app.services.add(service)
            case appsocket.Unlisten(service):
                app.services.discard(service)
        return appsocket.Reply()

    def _detach(self, app: App) -> None:
        while self._move(app):  # what it sent still goes out
            pass
        app.socket.close()
        for end in list(app.node.flows.values()):
            if end.app is app:
                app.node.flows.pop(end.number, None)
                if end.other is not None:
                    self._reset(end.other, Code.APPLICATION_GONE)
        if app.channel is not None:
            app.channel.close()
        app.node.apps.remove(app)

    def _reset(self, end: End, code: int) -> None:
        end.other = None
        end.app.node.flows.pop(end.number, None)
        self._deliver(end.app, end.ring, lib.VK_RECORD_RESET, end.message(code=code), b"")

    # The worker's part

    def _deliver(self, app: App, ring: int, kind: int, message: Any, payload: bytes) -> bool:
        if app.channel is None:
            return True
        went = app.channel.put(ring, kind, message, payload)
        app.channel.ring_bell()
        return went

    def _move(self, app: App) -> bool:
        channel = app.channel
        if channel is None or app.held:
            return False
        channel.d.sleeping = 0
        moved = self._reports(app)
        for end in list(app.node.flows.values()):
            moved |= end.app is app and self._held(end)
        for ring in range(1, len(Class)):
            for _ in range(64):
                if not channel.capacity[ring] or self._blocked(app, ring):
                    break
                record = channel.take(ring)
                if record is None:
                    break
                moved = True
                self._record(app, *record)
        moved |= self._mixed()
        if moved:
            channel.ring_bell()  # there is room again
        return moved

    def _reports(self, app: App) -> bool:
        if app.deaf or app.channel is None:
            return False
        found = app.channel.reports()
        for report in found:
            app.reports += 1
            end = app.node.flows.get(report.flow)
            if end is None or end.generation != report.flow_generation:
                continue  # it ended meanwhile
            if report.cost < end.consumed:
                app.violations += 1
            end.consumed = report.cost
            self._tell_limit(end.other)
        if found:
            app.channel.ring_bell()
        return bool(found)

    def _tell_limit(self, end: End | None) -> None:
        if end is None or not end.app.node.tells_limits or end.other is None:
            return
        if end.other.limit is not None:
            limit = end.message(time_ns=end.other.limit)
            self._deliver(end.app, 0, lib.VK_RECORD_LIMIT, limit, b"")

    @staticmethod
    def _blocked(app: App, ring: int) -> bool:
        """Whether a ring waits for one of its streams, and say why."""
        assert app.channel is not None
        held = [end for end in app.node.flows.values() if end.app is app and end.ring == ring]
        full = any(len(end.held) >= HELD_MAX for end in held)
        if app.channel.d.blocked[ring] in (0, lib.VK_BLOCKED_CREDIT):
            app.channel.d.blocked[ring] = lib.VK_BLOCKED_CREDIT if full else 0
        return full

    def _record(self, app: App, kind: int, message: Any, payload: bytes) -> None:
        if kind == lib.VK_RECORD_OPEN:
            self._open(app, message, payload.decode())
            return
        end = app.node.flows.get(message.flow)
        if message.flow >= lib.VK_FLOWS_MAX:  # who opened it gave up
            end = self._find(app.node, message.peer, message.stream)
            if end is None or end.token != message.correlation:
                return
        elif end is None or end.app is not app or end.generation != message.flow_generation:
            if kind == lib.VK_RECORD_FLUSH:
                self._deliver(app, 0, lib.VK_RECORD_FLUSHED, message, b"")
            else:
                app.violations += kind == lib.VK_RECORD_DATA
            return
        if kind == lib.VK_RECORD_RESET:
            app.node.flows.pop(end.number, None)
            if end.other is not None:
                self._reset(end.other, message.code)
            return
        if kind == lib.VK_RECORD_DATA:
            app.violations += message.sequence != end.sequence
            end.sequence = (end.sequence + 1) & 0xFFFF_FFFF
        elif kind == lib.VK_RECORD_CLOSE:
            app.violations += message.sequence != end.sequence
        end.held.append((kind, message, payload))
        self._held(end)

    def _held(self, end: End) -> bool:
        """Hand over what an end may send and its other end's ring has room for."""
        moved = False
        while end.held and self._hand_over(end, *end.held[0]):
            end.held.popleft()
            moved = True
        other = end.other
        if moved and end.closed and other is not None and other.closed:
            for each in (end, other):
                if not each.held:
                    each.app.node.flows.pop(each.number, None)
        return moved

    def _hand_over(self, end: End, kind: int, message: Any, payload: bytes) -> bool:
        other = end.other
        if kind == lib.VK_RECORD_FLUSH:
            if any(source is end for _, source, _ in self._everywhere_mixed()):
                return False
            return self._deliver(end.app, 0, lib.VK_RECORD_FLUSHED, message, b"")
        if other is None:
            return True
        cost = len(payload) + lib.VK_MESSAGE_COST if kind == lib.VK_RECORD_DATA else 0
        if cost and other.limit is not None and end.spent + cost > other.limit:
            return False
        flow = other.message(sequence=message.sequence)
        message.flow, message.flow_generation = flow.flow, flow.flow_generation
        message.peer = other.peer
        if end.ring == Class.LOGS:
            message.code = 0  # the lifetime
        node = other.app.node
        if node.disorder is not None and end.ring != Class.LOGS:
            node.mixed.append((other.app, end, (kind, message, payload)))
        elif not self._deliver(other.app, end.ring, kind, message, payload):
            if end.ring != Class.LOGS:
                return False
            other.app.dropped += 1
        end.spent += cost
        end.closed |= kind == lib.VK_RECORD_CLOSE
        return True

    def _everywhere_mixed(self) -> list[tuple[App, End, tuple[int, Any, bytes]]]:
        return [each for node in self.nodes for each in node.mixed]

    def _mixed(self) -> bool:
        """Hand over what came in disorder."""
        moved = False
        for target in self.nodes:
            waiting, target.mixed = target.mixed, []
            random = target.disorder
            if random is not None:
                random.shuffle(waiting)
            for app, end, record in waiting:
                if random is not None and record[0] == lib.VK_RECORD_DATA and random.random() < 0.1:
                    self._deliver(app, end.ring, *record)  # once more, unless the ring is full
                if self._deliver(app, end.ring, *record):
                    moved = True
                else:
                    target.mixed.append((app, end, record))
        return moved

    @staticmethod
    def _find(node: DoubleNode, peer: int, stream: int) -> End | None:
        return next(
            (end for end in node.flows.values() if (end.peer, end.stream) == (peer, stream)), None
        )

    def _open(self, app: App, message: Any, service: str) -> None:
        node = app.node
        node.opens += 1
        if node.lose_opens:
            node.lose_opens -= 1
            return
        peer = self.nodes[message.peer]
        taken = self._find(node, peer.index, message.stream)
        code = node.open_code
        if taken is not None and (taken.app is not app or taken.token != message.correlation):
            code = code or Code.STREAM_IN_USE
        found = next((other for other in peer.apps if service in other.services), None)
        if found is None:
            code = code or Code.NO_SERVICE
        if code or found is None:
            answer = {"peer": peer.index, "stream": message.stream, "code": code}
            answer["correlation"] = message.correlation
            opened = ffi.new("struct vk_message *", answer)
        else:
            mine = taken or self._bind(app, found, message, service)
            opened = mine.message(correlation=mine.token)
        self._deliver(app, stream_class(message.stream), lib.VK_RECORD_OPENED, opened, b"")

    def _bind(self, app: App, found: App, message: Any, service: str) -> End:
        ends = []
        for owner, peer in ((app, found.node.index), (found, app.node.index)):
            number = 1 + max(owner.node.flows, default=0)
            self._generation += 1
            end = End(owner, peer, message.stream, number, self._generation, message.correlation)
            owner.node.flows[number] = end
            ends.append(end)
        mine, theirs = ends
        mine.other, theirs.other = theirs, mine
        for end in ends:
            self._tell_limit(end)
        self._deliver(found, mine.ring, lib.VK_RECORD_OPEN, theirs.message(), service.encode())
        return mine
