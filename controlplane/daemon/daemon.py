"""The daemon: everything that needs judgement and no rights.

Forked by the broker, another user, no capability, no descriptor of eBPF or AF_XDP. It decides by
the policy, writes the rows that workers read, asks the broker for the rest, and can be forked anew
at any time: what it knows is in the shared rows, or comes again from the configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from valkyrie.controlplane.broker.messages import Kind, Message
from valkyrie.controlplane.config import reader as configuration
from valkyrie.controlplane.confinement import sandbox
from valkyrie.controlplane.rest import rest
from valkyrie.controlplane.sessions.keyring import Keyring
from valkyrie.controlplane.sessions.link import Event, Joined, Left, Refused
from valkyrie.controlplane.sessions.table import Moved
from valkyrie.dataplane import lib

from .applications import Applications
from .archive import Archive
from .auditor import FLUSH_S, Opens
from .brokerlink import BrokerLink
from .intake import Intake
from .links import Links
from .listed import Memory
from .peers import Peers, PortFacts
from .revoker import Revoker
from .state import State
from .tokens import Tokens
from .watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from valkyrie.controlplane.confinement.privileges import User

    from .inherited import Inherited, Prepared

log = logging.getLogger("valkyrie")

_BEAT_S = 0.25
"""Workers take a daemon for lost after 2 s, the broker after 5 s."""


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

    def __init__(self, inherited: Inherited, prepared: Prepared) -> None:
        self.inherited, self.prepared = inherited, prepared
        self.audit = prepared.audit
        self.config = inherited.config
        if inherited.tuned:
            self.config = configuration.tuned(self.config, json.loads(inherited.tuned))
        self.state = State(inherited.boot.state)
        self.counters = inherited.boot.counters
        self._opens = Opens(self.counters)
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
            inherited.beat,
        )
        self.links = Links(
            self.config,
            self.state,
            self.work,
            self.counters,
            self.peers,
            keyring=self.keyring,
            credentials=prepared.credentials,
            voices=inherited.voices,
            payload_max=_payload_max(inherited.interfaces),
            beat=inherited.beat,
        )
        self.links.observe = self._peer_event
        self.watch = Watch(self)
        self._revoker = self._make_revoker()
        self.links.refused_from = lambda place: self.watch.happened(
            "control_refused", str(place.address)
        )
        self.tokens = Tokens(
            self.config, inherited.boot.secrets.mint, self.broker, self.links.sessions
        )
        self.links.denied = lambda session: self._deny(session, denied=True)
        self.links.allowed = lambda session: self._deny(session, denied=False)
        self.apps = Applications(self)
        self._denying: set[asyncio.Task[None]] = set()
        self.tuning = asyncio.Lock()
        """Held by who changes what the kernel, the worker and the next daemon are told."""
        self.stopping = asyncio.Event()
        """The broker has said goodbye."""

    async def run(self) -> None:
        """Serve until the broker says goodbye; after a mistake of ours the next daemon goes on."""
        try:
            await self._serve()
        finally:
            if not self.stopping.is_set():
                self.apps.abandon()

    async def _serve(self) -> None:
        self.set_parameters()
        loop = asyncio.get_running_loop()
        intake = Intake(self.inherited.frames, self.links.receive, self.figures.control_frames)
        self.links.ask = intake.ask
        intake.start()
        self.counters.daemon_pid = os.getpid()
        self._beat()
        self.audit.note("daemon.start", restarts=self.inherited.restarts, pid=os.getpid())
        self.apps.start()
        await self.tokens.begin()
        tasks = [
            loop.create_task(each)
            for each in (
                self._heart(),
                self._put_on_record(),
                self.watch.run(),
                self._revoker.run(),
                self.peers.run(),
                self.links.run(),
                self.tokens.run(),
                self._hear(),
                self.stopping.wait(),
            )
        ]
        await self.broker.ask(Message(Kind.READY))
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        if self.stopping.is_set():
            self.links.leave()
            await self.apps.stop()
            self._note_opens(self._opens.final())
        self.audit.close("node.stop" if self.stopping.is_set() else "")
        for task in done:
            task.result()

    def _make_revoker(self) -> Revoker:
        known = self.prepared.credentials
        name = self.config.security.certificate_file
        certificate = configuration.beside(self.config, name) if name else None
        memory = Memory(known.crl, self.broker, known.revoked)
        return Revoker(known, self.audit, self.links, certificate, memory)

    # ---- Life ----

    def _deny(self, session: int, *, denied: bool) -> None:
        deny = self.tokens.deny(session, denied=denied)
        task = asyncio.get_running_loop().create_task(deny)
        self._denying.add(task)
        task.add_done_callback(self._denying.discard)

    def _beat(self) -> None:
        now_ns = time.monotonic_ns()
        self.state.beat(now_ns)
        self.counters.daemon_heartbeat_ns = now_ns

    async def _heart(self) -> None:
        while True:
            self._beat()
            await rest(_BEAT_S)

    async def _put_on_record(self) -> None:
        archive = Archive(self.config, self.audit, self.broker)
        while True:
            self._note_opens(self._opens.news(time.monotonic_ns()))
            self.audit.flush()
            await archive.look()
            await rest(FLUSH_S)

    def _note_opens(self, refused: Iterable[tuple[str, int]]) -> None:
        for klass, count in refused:
            self.audit.note("open.refuse", klass, count=count, **{"class": klass})

    async def _hear(self) -> None:
        while (news := await self.broker.news.get()) is not None:
            if news.kind == Kind.STOPPING:
                break
            if news.kind == Kind.WORKER:
                if news.second > self.figures.worker_deaths:
                    self.audit.note("worker.death", deaths=news.second, pid=self.figures.worker_pid)
                self.figures.worker_pid, self.figures.worker_deaths = news.first, news.second
            elif news.kind == Kind.VIOLATION:
                self.apps.violated(news.slot, news.generation)
        self.stopping.set()

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

    def set_parameters(self) -> None:
        """Tell the worker what the configuration says now."""
        config = self.config
        self.state.set_parameters(config.worker, config.transport, config.classes, config.security)


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


def run(inherited: Inherited, prepared: Prepared, user: User, parent: int) -> None:
    """Give up all rights, and run the daemon in this process until the broker ends it."""
    sandbox.enter_daemon(user, parent, inherited.config.node.sandbox, prepared.reads)
    gc.collect()
    gc.freeze()  # nothing of the broker's is ever finalised here

    async def main() -> None:
        await Daemon(inherited, prepared).run()

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(main())
