"""Two nodes' sessions, joined by a simulated wire: virtual time, no I/O.

Each side also plays its worker: frames carry the session's id, and those of a session that is not
known are answered by an ERROR, as the worker answers them. What asks for it is acknowledged.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address

from tests.controlplane.security.parties import SECRET, identity, only, peer, trust
from valkyrie.controlplane.security.local import Local
from valkyrie.controlplane.security.modes import Mode, Policy
from valkyrie.controlplane.security.trust import Peer
from valkyrie.controlplane.sessions.link import Asked, Joined, Left, Quiet, Refused, Terms
from valkyrie.controlplane.sessions.liveness import Patience
from valkyrie.controlplane.sessions.session import State
from valkyrie.controlplane.sessions.table import Moved, Place, Sessions
from valkyrie.dataplane import lib
from valkyrie.dataplane.control import Error, Limits
from valkyrie.dataplane.wire import Code

MS = 1_000_000
SECOND = 1_000 * MS
PEER = 0

NAMES = {"a": "alice", "b": "bob"}
"""As tests.controlplane.security.parties knows them."""

Fate = Callable[[], list[int]]
"""Delays of the copies of the next datagram, in ns; none: it is lost."""


def prompt() -> list[int]:
    """Let every datagram arrive once, after half a millisecond."""
    return [MS // 2]


@dataclass(frozen=True)
class Frame:
    """What a worker sends in a session."""

    session: int
    what: str = "data"


@dataclass
class Side:
    """A node: its sessions, and what became of its streams."""

    name: str
    place: Place
    sessions: Sessions
    epoch: tuple[int, int] | None = None
    """Which session the streams began in; None: there are none."""
    ended: list[int] = field(default_factory=list)
    """Codes that streams ended with."""
    events: list[object] = field(default_factory=list)
    sent: int = 0
    heard: int = 0
    asking: int = 0
    """Questions that its worker has yet to send."""
    seals: bytes = b""
    opens: bytes = b""

    @property
    def session(self) -> object:
        return self.sessions[PEER]

    @property
    def up(self) -> bool:
        return self.sessions[PEER].state is State.UP

    def take_events(self) -> None:
        for _, event in self.sessions.take_events():
            self.events.append(event)
            if isinstance(event, Joined):
                link = event.link
                secrets = event.secrets
                self.seals = secrets.seals if secrets is not None else b""
                self.opens = secrets.opens if secrets is not None else b""
                if event.lost:
                    self.ended.append(Code.PEER_RESTARTED)
                if self.epoch is None or event.lost or link.before == (0, 0):
                    self.epoch = (min(link.local, link.remote), max(link.local, link.remote))
            elif isinstance(event, Left):
                if self.epoch is not None:
                    self.ended.append(event.code)
                self.epoch = None
            elif isinstance(event, Quiet):
                self.asking += 1
            else:
                assert isinstance(event, Moved | Refused | Asked)


def local_of(name: str, policy: Policy, *, knows: str) -> Local:
    """Return what a node is that trusts one other."""
    return Local(identity(name), trust(knows), policy, secrets=(SECRET,))


def locals_of(policy: Policy) -> dict[str, Local]:
    """Return two nodes with the same policy, by side."""
    others = {"a": "bob", "b": "alice"}
    return {side: local_of(NAMES[side], policy, knows=others[side]) for side in NAMES}


class Meeting:
    """Nodes a and b and the wire between them."""

    def __init__(
        self,
        seed: int = 0,
        fate: Fate = prompt,
        mode: Mode = Mode.PLAINTEXT,
        locals_: dict[str, Local] | None = None,
        peers: dict[str, Peer] | None = None,
        **terms: object,
    ) -> None:
        """Begin; ``locals_`` and ``peers`` are by side: who each is, and whom it expects."""
        others = {"a": "bob", "b": "alice"}
        self.locals = locals_of(only(mode)) | (locals_ or {})
        self.peers = {side: peer(others[side]) for side in NAMES} | (peers or {})
        self.now_ns = SECOND
        self.fate = fate
        self.cut = False
        self.random = random.Random(seed)
        self._order = itertools.count()
        self._wire: list[tuple[int, int, str, Place, object]] = []
        defaults: dict[str, object] = {
            "limits": Limits(),
            "patience": Patience(100 * MS),
            "eager": False,
        }
        self.terms = Terms(**(defaults | terms))  # type: ignore[arg-type]
        self.sides = {
            "a": self._make("a", "10.0.0.1"),
            "b": self._make("b", "10.0.0.2"),
        }
        self.datagrams = 0
        self.said: list[tuple[str, bytes]] = []
        """All messages of sessions that were ever sent, and who sent them."""

    @property
    def a(self) -> Side:
        return self.sides["a"]

    @property
    def b(self) -> Side:
        return self.sides["b"]

    def other(self, name: str) -> Side:
        return self.sides["b" if name == "a" else "a"]

    def _make(self, name: str, address: str) -> Side:
        incarnation = self.random.getrandbits(64)
        place = Place(ip_address(address), lib.VK_PORT)
        sessions = Sessions(
            incarnation, self.locals[name], self.random.randbytes, self.terms.timing
        )
        side = Side(name, place, sessions)
        theirs = Place(ip_address("10.0.0.2" if name == "a" else "10.0.0.1"), lib.VK_PORT)
        side.sessions.add(PEER, theirs, self.peers[name], self.terms, self.now_ns)
        return side

    def restart(self, name: str) -> None:
        """Let a node die and another one start in its place."""
        self.sides[name] = self._make(name, str(self.sides[name].place.address))

    def want(self, name: str) -> None:
        self.sides[name].sessions.want(PEER, self.now_ns)
        self._collect(name)

    def close(self, name: str) -> None:
        self.sides[name].sessions.close(PEER, Code.SESSION_CLOSED, self.now_ns)
        self._collect(name)

    def send_data(self, name: str) -> None:
        """Let a node's worker send a frame of its session, if it has one."""
        side = self.sides[name]
        link = side.sessions[PEER].link
        if link is not None:
            side.sent += 1
            self._put(name, side.sessions.place(PEER), Frame(link.remote))

    def _put(self, sender: str, to: Place, what: object) -> None:
        self.datagrams += 1
        if isinstance(what, bytes):
            self.said.append((sender, what))
        if self.cut:
            return
        for delay_ns in self.fate():
            entry = (self.now_ns + delay_ns, next(self._order), sender, to, what)
            heapq.heappush(self._wire, entry)

    def _collect(self, name: str) -> None:
        side = self.sides[name]
        for _, to, data in side.sessions.take_messages():
            self._put(name, to, data)
        side.take_events()
        asking, side.asking = side.asking, 0
        link = side.sessions.link(PEER)
        for _ in range(asking):
            if link is not None:
                self._put(name, side.sessions.place(PEER), Frame(link.remote, "question"))

    def _deliver(self, sender: str, to: Place, what: object) -> None:
        receiver = self.other(sender)
        if to != receiver.place:
            return
        source = self.sides[sender].place
        if isinstance(what, bytes):
            receiver.sessions.receive(source, what, self.now_ns)
            self._collect(receiver.name)
            return
        assert isinstance(what, Frame)
        link = receiver.sessions[PEER].link
        if link is not None and link.local == what.session:
            receiver.heard += what.what == "data"
            receiver.sessions[PEER].hear(self.now_ns)
            if what.what == "question":
                answer = Frame(link.remote, "answer")
                self._put(receiver.name, receiver.sessions.place(PEER), answer)
            if source != receiver.sessions.place(PEER):
                receiver.sessions.found_at(PEER, source, self.now_ns)
                self._collect(receiver.name)
            return
        unknown = Error(Code.SESSION_UNKNOWN, what.session)
        self._put(receiver.name, source, unknown.pack())

    def run(self, ns: int) -> None:
        """Let time pass."""
        end_ns = self.now_ns + ns
        while True:
            due = [end_ns]
            if self._wire:
                due.append(self._wire[0][0])
            deadlines = (side.sessions.deadline_ns() for side in self.sides.values())
            due += [max(each, self.now_ns) for each in deadlines if each is not None]
            self.now_ns = max(self.now_ns, min(due))
            if self.now_ns >= end_ns:
                self.now_ns = end_ns
                return
            while self._wire and self._wire[0][0] <= self.now_ns:
                _, _, sender, to, what = heapq.heappop(self._wire)
                self._deliver(sender, to, what)
            for name, side in self.sides.items():
                side.sessions.advance(self.now_ns)
                self._collect(name)

    def agree(self) -> None:
        """Check that both have the same session, and the same streams in it."""
        a, b = self.a.sessions[PEER].link, self.b.sessions[PEER].link
        assert a is not None
        assert b is not None
        assert (a.local, a.remote) == (b.remote, b.local)
        assert a.local
        assert b.local
        assert a.incarnation == self.b.sessions.incarnation
        assert b.incarnation == self.a.sessions.incarnation
        assert self.a.epoch == self.b.epoch
        assert (a.protection.ours, a.protection.theirs) == (b.protection.theirs, b.protection.ours)
        assert (self.a.seals, self.a.opens) == (self.b.opens, self.b.seals)
