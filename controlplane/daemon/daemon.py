"""The daemon: everything that needs judgement and no rights.

Forked by the broker, another user, no capability, no descriptor of eBPF or AF_XDP. It decides by
the policy, writes the rows that workers read, asks the broker for the rest, and can be forked anew
at any time: what it knows is in the shared rows, or comes again from the configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import json
import logging
import os
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from valkyrie.controlplane.broker import messages
from valkyrie.controlplane.broker.messages import Kind, Message
from valkyrie.controlplane.config import reader as configuration
from valkyrie.controlplane.confinement import privileges, sandbox
from valkyrie.controlplane.security import policy
from valkyrie.controlplane.security.policy import Grant, Refusal
from valkyrie.controlplane.sessions.keyring import Keyring
from valkyrie.controlplane.sessions.link import Event, Joined, Left, Refused
from valkyrie.controlplane.sessions.table import Moved
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.appsocket import AnyRequest, Reply
from valkyrie.dataplane.errors import ConfigError, DataPlaneError

from . import administration, auditor, credentials
from .appserver import Answer, AppServer, Connection
from .archive import Archive
from .auditor import FLUSH_S, Auditor, Opens
from .intake import Intake
from .links import Links
from .listed import Memory
from .notary import Notary
from .peers import Peers, PortFacts
from .revoker import Revoker
from .state import State, get, set_application_name
from .tokens import Tokens
from .watch import Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from valkyrie.controlplane.broker.boot import Boot
    from valkyrie.controlplane.config.reader import Config
    from valkyrie.controlplane.confinement.privileges import User
    from valkyrie.controlplane.host.voice import Voice
    from valkyrie.controlplane.security.policy import Operator, Rule

    from .credentials import Credentials

log = logging.getLogger("valkyrie")

_BEAT_S = 0.1
_BROKER_S = 10.0
"""How long the broker may take to answer."""


@dataclass(slots=True)
class Inherited:
    """What the broker hands to a daemon by fork."""

    config: Config
    boot: Boot
    link: socket.socket
    listener: socket.socket
    frames: socket.socket
    """Control-class frames, from and to the worker."""
    interfaces: list[dict[str, object]]
    voices: list[Voice]
    """What control frames leave by."""
    connections: dict[int, tuple[int, socket.socket]]
    """Of attached applications, by slot, with its generation."""
    tuned: str
    restarts: int
    worker_pid: int
    worker_deaths: int
    audit: Auditor = field(default_factory=lambda: Auditor(None))
    """Opened by the daemon itself, while it has the right."""
    credentials: Credentials | None = None
    """Read by the daemon itself, while it has the right."""
    rules: Sequence[Rule] = ()
    operators: Sequence[Operator] = ()
    """Users and groups are looked up before: that may take files, sockets, libraries."""
    reads: Sequence[Path] = ()
    """Files and directories a daemon reads once it runs (``sandbox.enter_daemon``)."""
    writes: Sequence[Path] = ()
    """Those it makes files in, too."""

    def prepare(self) -> None:
        """In the daemon, while it has the right: open, read and look up what it may not later."""
        privileges.hide()
        self.audit = auditor.open_log(self.config)
        self.credentials = credentials.load(self.config)
        self.rules = configuration.rules(self.config)
        self.operators = configuration.operators(self.config)
        self.reads = credentials.watched(self.config)

    def descriptors(self) -> list[int]:
        """Return the descriptors a daemon keeps."""
        ends = [self.link, self.listener, self.frames]
        ends += [connection for _, connection in self.connections.values()]
        spoken = [fd for voice in self.voices for fd in voice.descriptors()]
        return [end.fileno() for end in ends] + spoken + self.audit.descriptors()


class BrokerLink:
    """Asks the broker, and hears its news."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._tokens = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self.news: asyncio.Queue[Message | None] = asyncio.Queue()
        """None: the broker is gone."""
        self._loop.add_reader(link, self._read)

    def _read(self) -> None:
        try:
            message = messages.receive(self._link)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            message = None
        if message is None:
            self._loop.remove_reader(self._link)
            self.news.put_nowait(None)
            return
        if message.kind >= Kind.VIOLATION:
            self.news.put_nowait(message)
            return
        waiting = self._waiting.pop(message.token, None)
        if waiting is None or waiting.done():
            messages.close_all(message.descriptors)
        else:
            waiting.set_result(message)

    async def ask(self, message: Message, timeout_s: float = _BROKER_S) -> Message:
        """Return the broker's answer; DataPlaneError when it could not."""
        message.token = next(self._tokens) & 0xFFFFFFFF
        answer: asyncio.Future[Message] = self._loop.create_future()
        self._waiting[message.token] = answer
        try:
            messages.send(self._link, message)
            found = await asyncio.wait_for(answer, timeout_s)
        except BlockingIOError as error:
            raise DataPlaneError.of(error.errno or 0, "ask the broker") from error
        except TimeoutError as error:
            raise DataPlaneError.of(errno.ETIMEDOUT, "ask the broker") from error
        finally:
            self._waiting.pop(message.token, None)
        if found.result < 0:
            raise DataPlaneError(-found.result, found.text or os.strerror(-found.result))
        return found


@dataclass(slots=True)
class Figures:
    """What the daemon counts itself."""

    control_frames: Counter[str] = field(default_factory=Counter)
    """Control-class frames by type."""
    violations: int = 0
    worker_pid: int = 0
    worker_deaths: int = 0


class Daemon:
    """The node's judgement."""

    def __init__(self, inherited: Inherited) -> None:
        self.inherited = inherited
        self.audit = inherited.audit
        self.config = inherited.config
        if inherited.tuned:
            self.config = configuration.tuned(self.config, json.loads(inherited.tuned))
        self.rules, self.operators = inherited.rules, inherited.operators
        self.state = State(inherited.boot.state)
        self.counters = inherited.boot.counters
        self.work = inherited.boot.work
        self.keyring = Keyring(inherited.boot.secrets)
        self.broker = BrokerLink(inherited.link)
        self.figures = Figures(
            worker_pid=inherited.worker_pid, worker_deaths=inherited.worker_deaths
        )
        self.peers = Peers(
            self.state,
            self.config.peers,
            [_port_facts(row) for row in inherited.interfaces],
            self.config.node.udp_port,
        )
        assert inherited.credentials is not None
        self.links = Links(
            self.config,
            self.state,
            self.work,
            self.counters,
            self.peers,
            keyring=self.keyring,
            credentials=inherited.credentials,
            voices=inherited.voices,
            payload_max=_payload_max(inherited.interfaces),
        )
        self.links.observe = self._peer_event
        self.watch = Watch(self)
        self._revoker = self._make_revoker()
        identity = inherited.credentials.lasting_identity
        self._notary = Notary(self.config.node.name, identity, self.audit)
        self.links.refused_from = lambda place: self.watch.happened(
            "control_refused", str(place.address)
        )
        self.tokens = Tokens(
            self.config, inherited.boot.secrets.mint, self.broker, self.links.sessions
        )
        self.links.denied = self._deny
        self.apps = AppServer(inherited.listener, self._answer, self._ended)
        self._denying: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until the broker says goodbye."""
        self.set_parameters()
        loop = asyncio.get_running_loop()
        Intake(self.inherited.frames, self.links.receive, self.figures.control_frames).start()
        self.counters.daemon_pid = os.getpid()
        self._beat()
        self.audit.note("daemon.start", restarts=self.inherited.restarts, pid=os.getpid())
        self.apps.start(self._adopted())
        await self.tokens.begin()
        tasks = [
            loop.create_task(each)
            for each in (
                self._heart(),
                self._put_on_record(),
                self.watch.run(),
                *([self._revoker.run()] if self._revoker else []),
                self.peers.run(),
                self.links.run(),
                self.tokens.run(),
                self._hear(),
                self._stop.wait(),
            )
        ]
        await self.broker.ask(Message(Kind.READY))
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await self.apps.stop()
        if self._stop.is_set():
            self.links.leave()
            self.audit.note("node.stop")
        self.audit.close()
        for task in done:
            task.result()

    def _make_revoker(self) -> Revoker | None:
        known = self.inherited.credentials
        if known is None:
            return None
        name = self.config.security.certificate_file
        certificate = configuration.beside(self.config, name) if name else None
        memory = Memory(known.crl, self.broker) if known.crl is not None else None
        return Revoker(known, self.audit, self.links, certificate, memory)

    # ---- Life ----

    def _deny(self, session: int) -> None:
        task = asyncio.get_running_loop().create_task(self.tokens.deny(session))
        self._denying.add(task)
        task.add_done_callback(self._denying.discard)

    def _beat(self) -> None:
        now_ns = time.monotonic_ns()
        self.state.beat(now_ns)
        self.counters.daemon_heartbeat_ns = now_ns

    async def _heart(self) -> None:
        while True:
            self._beat()
            await asyncio.sleep(_BEAT_S)

    async def _put_on_record(self) -> None:
        archive = Archive(self.config, self.audit, self.broker)
        opens = Opens(self.counters)
        while True:
            for klass, count in opens.news(time.monotonic_ns()):
                self.audit.note("open.refuse", klass, count=count, **{"class": klass})
            self.audit.flush()
            await archive.look()
            await asyncio.sleep(FLUSH_S)

    async def _hear(self) -> None:
        while (news := await self.broker.news.get()) is not None:
            if news.kind == Kind.STOPPING:
                break
            if news.kind == Kind.WORKER:
                if news.second > self.figures.worker_deaths:
                    self.audit.note("worker.death", deaths=news.second, pid=self.figures.worker_pid)
                self.figures.worker_pid, self.figures.worker_deaths = news.first, news.second
            elif news.kind == Kind.VIOLATION:
                self._violated(news)
        self._stop.set()

    def _violated(self, news: Message) -> None:
        for connection in self.apps.connections:
            if (connection.slot, connection.generation) == (news.slot, news.generation):
                self.figures.violations += 1
                self.watch.happened("violation", _subject(connection))
                self.audit.note("application.violation", "", **_whose(connection))
                log.warning(
                    "application '%s' (pid %d, uid %d) broke the rules of its rings: cut off",
                    connection.name,
                    connection.who.pid,
                    connection.who.uid,
                )
                self.apps.cut(connection)

    def _peer_event(self, index: int, event: Event | Moved) -> None:
        name = self.config.peers[index].name
        match event:
            case Joined():
                how = event.link.protection
                mode = how.mode.name.lower() if how.mode is not None else ""
                who = {"peer": name, "mode": mode, "fingerprint": how.fingerprint}
                who |= {"evidence": how.subject} if how.subject else {}
                self.audit.note("peer.join", name, anew=event.lost, **who)
            case Left(joined=True):
                more = {"reason": event.why} if event.why else {}
                self.audit.note("peer.leave", name, peer=name, code=event.code, **more)
                self.watch.happened("peer_left", name)
            case Left() | Refused():
                why = event.reason if isinstance(event, Refused) else event.why
                self.audit.note("peer.refuse", name, peer=name, code=event.code, reason=why)
                self.watch.happened("peer_refused", name)
            case Moved():
                place = event.place
                where = f"{place.address} port {place.udp_port}"
                self.audit.note("peer.move", name, peer=name, place=where)

    # ---- Applications ----

    def slots(self) -> list[tuple[int, str]]:
        """Return the slots of attached applications, and what alarms call each."""
        attached = (each for each in self.apps.connections if each.attached)
        return [(each.slot, _subject(each)) for each in attached]

    def cut(self, subject: str) -> None:
        """Cut off an application that an alarm names."""
        for connection in list(self.apps.connections):
            if _subject(connection) == subject:
                self.apps.cut(connection)

    def _adopted(self) -> list[Connection]:
        """Return the connections of applications that an earlier daemon attached."""
        found = []
        services = self.state.services()
        taken = self.inherited.connections
        for slot, (generation, end) in taken.items():
            connection = self.apps.connection(end)
            connection.slot, connection.generation = slot, generation
            connection.name = get(self.counters.app_name[slot])
            grant = policy.decide(self.rules, connection.who.uid, connection.who.gids)
            connection.grant = grant if isinstance(grant, Grant) else None
            connection.services = {
                name for name, owner in services.items() if owner == (slot, generation)
            }
            found.append(connection)
        for slot in range(lib.VK_APPS_MAX):  # what the dead one left half done
            if slot not in taken and self.state.rows.apps[slot].state != lib.VK_ROW_FREE:
                self._forget(slot)
        for name, (slot, generation) in services.items():
            if slot not in taken or taken[slot][0] != generation:
                self.state.remove_service(name)
        return found

    def _forget(self, slot: int) -> None:
        # Its name stays in the counters page beside what it counted.
        self.state.set_application_state(slot, lib.VK_ROW_FREE)

    async def _ended(self, connection: Connection) -> None:
        if not connection.attached or self._stop.is_set():
            return
        for name in connection.services:
            self.state.remove_service(name)
        slot = connection.slot
        self.audit.note("application.detach", f"uid {connection.who.uid}", **_whose(connection))
        self.state.set_application_state(slot, lib.VK_ROW_CLOSING)
        message = Message(Kind.DETACH, slot=slot, generation=connection.generation)
        try:
            await self.broker.ask(message)
        except DataPlaneError as error:
            log.warning("slot %d could not be taken back: %s", slot, error)
        self._forget(slot)

    async def _answer(self, connection: Connection, request: AnyRequest) -> Answer:
        answer = await self._try(connection, request)
        if answer[0].code == lib.VK_CODE_POLICY:
            self.watch.happened("policy_refused", _subject(connection))
            who = _whose(connection)
            request_name = type(request).__name__.lower()
            self.audit.note(
                "policy.refuse",
                f"uid {connection.who.uid} {request_name}",
                request=request_name,
                reason=answer[0].message,
                **who,
            )
        return answer

    async def _try(self, connection: Connection, request: AnyRequest) -> Answer:
        try:
            if isinstance(request, appsocket.Attach):
                return await self._attach(connection, request)
            return await self._reply(connection, request), []
        except DataPlaneError as error:
            return Reply(code=lib.VK_CODE_FAILED, message=str(error.args[-1])), []
        except ConfigError as error:
            return Reply(code=lib.VK_CODE_POLICY, message=str(error)), []

    async def _reply(self, connection: Connection, request: AnyRequest) -> Reply:
        match request:
            case appsocket.Connect():
                return self._connect(connection, request)
            case appsocket.Listen():
                return self._listen(connection, request)
            case appsocket.Unlisten():
                return self._unlisten(connection, request)
            case appsocket.Sign():
                return await self._notary.sign(
                    connection, request, time.monotonic(), time.time_ns()
                )
            case _:
                return await administration.answer(self, connection, request)

    def _grant(self, connection: Connection) -> Grant | Refusal:
        return connection.grant or policy.decide(
            self.rules, connection.who.uid, connection.who.gids
        )

    async def _attach(self, connection: Connection, request: appsocket.Attach) -> Answer:
        if connection.attached:
            return Reply(code=lib.VK_CODE_POLICY, message="attached already: connect anew"), []
        who = connection.who
        grant = self._grant(connection)
        if isinstance(grant, Refusal):
            return Reply(code=grant.code, message=grant.reason), []
        others = [each for each in self.apps.connections if each.attached]
        mine = sum(
            each.who.uid == who.uid and each.grant is not None and each.grant.rule == grant.rule
            for each in others
        )
        capacity = policy.rings(grant, mine, request.ring_size)
        if isinstance(capacity, Refusal):
            return Reply(code=capacity.code, message=capacity.reason), []
        slot = self.state.free_slot({each.slot for each in others})
        if slot is None:
            message = f"all {lib.VK_APPS_MAX} slots are taken: close an application"
            return Reply(code=lib.VK_CODE_OVERLOAD, message=message), []
        generation = self.state.set_application(slot, grant, who.uid, who.pid)
        connection.slot, connection.generation = slot, generation
        connection.grant = grant
        connection.name = request.name.encode("ascii", "replace").decode()[:31]
        rings = capacity + (0,) * (lib.VK_RINGS_MAX - len(capacity))
        try:
            answer = await self.broker.ask(
                Message(
                    Kind.ATTACH,
                    slot=slot,
                    generation=generation,
                    capacity=rings,
                    descriptors=[connection.socket.fileno()],
                )
            )
        except DataPlaneError:
            connection.slot = -1
            self._forget(slot)
            raise
        connection.capacity = capacity
        set_application_name(self.counters, slot, connection.name, who.uid, who.pid)
        self.audit.note(
            "application.attach", f"uid {who.uid}", rule=grant.rule, **_whose(connection)
        )
        reply = Reply(slot=slot, generation=generation, capacity=list(capacity))
        return reply, answer.descriptors

    def _connect(self, connection: Connection, request: appsocket.Connect) -> Reply:
        grant = self._grant(connection)
        if isinstance(grant, Refusal):
            return Reply(code=grant.code, message=grant.reason)
        index = self.peers.find(request.peer)
        if index is None:
            known = ", ".join(peer.name for peer in self.config.peers[:16]) or "none"
            message = f"no peer '{request.peer}' in the configuration; known: {known}"
            return Reply(code=lib.VK_CODE_NO_PEER, message=message)
        peer = self.config.peers[index]
        if refusal := policy.may_reach(grant, peer.name, peer.address):
            return Reply(code=refusal.code, message=refusal.reason)
        self.links.want(index)
        return Reply(peer=index, family=self.peers.family(index))

    def _listen(self, connection: Connection, request: appsocket.Listen) -> Reply:
        name, grant = request.service, connection.grant
        if grant is None or not connection.attached:
            return Reply(code=lib.VK_CODE_POLICY, message="attach first")
        if refusal := policy.may_listen(grant, name):
            return Reply(code=refusal.code, message=refusal.reason)
        if name in connection.services:
            return Reply()
        if name in self.state.services():
            message = f"another application listens on '{name}': choose another name"
            return Reply(code=lib.VK_CODE_STREAM_IN_USE, message=message)
        if not self.state.add_service(name, connection.slot, connection.generation):
            message = f"all {lib.VK_SERVICES_MAX} service names are taken"
            return Reply(code=lib.VK_CODE_OVERLOAD, message=message)
        connection.services.add(name)
        return Reply()

    def _unlisten(self, connection: Connection, request: appsocket.Unlisten) -> Reply:
        if request.service not in connection.services:
            message = f"this application does not listen on '{request.service}'"
            return Reply(code=lib.VK_CODE_NO_SERVICE, message=message)
        connection.services.discard(request.service)
        self.state.remove_service(request.service)
        return Reply()

    def set_parameters(self) -> None:
        """Tell the worker what the configuration says now."""
        config = self.config
        self.state.set_parameters(config.worker, config.transport, config.classes, config.security)


def _whose(connection: Connection) -> dict[str, str | int]:
    """Return what the audit log says of an application."""
    who = connection.who
    return {"uid": who.uid, "pid": who.pid, "name": connection.name, "slot": connection.slot}


def _subject(connection: Connection) -> str:
    """Return what alarms call an application: this attachment, or this process until it has one."""
    who = connection.who
    if not connection.attached:
        return f"pid {who.pid} uid {who.uid}"
    return f"slot {connection.slot}.{connection.generation} pid {who.pid} uid {who.uid}"


def _payload_max(rows: list[dict[str, object]]) -> int:
    """Return the UDP payload that all interfaces take: a frame of AF_XDP holds less."""
    by_xdp = any(not str(row["mode"]).startswith("udp") for row in rows)
    return int(lib.VK_XDP_PAYLOAD_MAX if by_xdp else lib.VK_UDP_PAYLOAD_MAX)


def _port_facts(row: dict[str, object]) -> PortFacts:
    name = str(row["name"])
    return PortFacts(
        index=int(str(row["port"])),
        ifindex=socket.if_nametoindex(name),
        interface=name,
        mtu=int(str(row["mtu"])),
    )


def run(inherited: Inherited, user: User, parent: int) -> None:
    """Give up all rights, and run the daemon in this process until the broker ends it."""
    mode = inherited.config.node.sandbox
    sandbox.enter_daemon(user, parent, mode, inherited.reads, inherited.writes)
    gc.collect()
    gc.freeze()  # nothing of the broker's is ever finalised here

    async def main() -> None:
        await Daemon(inherited).run()

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(main())
