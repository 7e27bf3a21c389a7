"""A stand-in for daemon and worker: the real application socket and rings, but one thread and no
network. Nodes of one Fabric are each other's peers, by name."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from valkyrie.dataplane import appsocket, ffi, lib
from valkyrie.dataplane.wire import Class, Code, stream_class

MESSAGE_SIZE = ffi.sizeof("struct vk_message")
RECORD = struct.Struct("=IBBH")
DEFAULT_RING_SIZE = 65536


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
        self.bell_app = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
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
            os.eventfd_write(self.bell_app, 1)

    def close(self) -> None:
        for descriptor in (*self.memfds, self.bell_app, self.bell_worker):
            os.close(descriptor)
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
    sequence: int = 0

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
        self._thread.join(5)
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
                events = poll.poll(0 if busy else 1000)
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
                    )
        return busy

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
                del app.node.flows[end.number]
                if end.other is not None:
                    self._reset(end.other, Code.APPLICATION_GONE)
        if app.channel is not None:
            app.channel.close()
        app.node.apps.remove(app)

    def _reset(self, end: End, code: int) -> None:
        end.other = None
        end.app.node.flows.pop(end.number, None)
        self._deliver(end.app, end.stream, lib.VK_RECORD_RESET, end.message(code=code), b"")

    # The worker's part

    def _deliver(self, app: App, stream: int, kind: int, message: Any, payload: bytes) -> None:
        if app.channel is None:
            return
        if not app.channel.put(stream_class(stream).value, kind, message, payload):
            app.dropped += 1
        app.channel.ring_bell()

    def _move(self, app: App) -> bool:
        channel = app.channel
        if channel is None or app.held:
            return False
        channel.d.sleeping = 0
        moved = False
        for ring in range(len(Class)):
            for _ in range(64):
                if not channel.capacity[ring]:
                    break
                record = channel.take(ring)
                if record is None:
                    break
                moved = True
                self._record(app, *record)
        if moved:
            channel.ring_bell()  # there is room again
        return moved

    def _record(self, app: App, kind: int, message: Any, payload: bytes) -> None:
        if kind == lib.VK_RECORD_OPEN:
            self._open(app, message, payload.decode())
            return
        end = app.node.flows.get(message.flow)
        if end is None or end.app is not app or end.generation != message.flow_generation:
            app.violations += 1
            return
        other = end.other
        if kind == lib.VK_RECORD_DATA and other is not None:
            message.sequence = end.sequence
            end.sequence += 1
            message.flow, message.flow_generation = other.number, other.generation
            message.peer = other.peer
            self._deliver(other.app, end.stream, kind, message, payload)
        elif kind == lib.VK_RECORD_CLOSE and other is not None:
            self._deliver(other.app, end.stream, kind, other.message(), b"")
        elif kind == lib.VK_RECORD_RESET:
            app.node.flows.pop(end.number, None)
            if other is not None:
                self._reset(other, message.code)

    def _open(self, app: App, message: Any, service: str) -> None:
        node = app.node
        node.opens += 1
        if node.lose_opens:
            node.lose_opens -= 1
            return
        peer = self.nodes[message.peer]
        taken = next(
            (
                end
                for end in node.flows.values()
                if end.peer == peer.index and end.stream == message.stream
            ),
            None,
        )
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
        self._deliver(app, message.stream, lib.VK_RECORD_OPENED, opened, b"")

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
        self._deliver(found, message.stream, lib.VK_RECORD_OPEN, theirs.message(), service.encode())
        return mine
