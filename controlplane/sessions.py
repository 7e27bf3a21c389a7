"""All sessions of a node: who a control message is from, what may be answered without a session.

Sans-IO like ``session.py``. A Hello is answered with a cookie and forgotten; an Offer reaches a
session only with a good cookie, so an address that was forged allocates nothing. Nothing that is
sent to an unproven address is longer than three times what came from it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from valkyrie.dataplane import lib
from valkyrie.dataplane.control import (
    HANDSHAKE_VERSION,
    ControlError,
    Error,
    Hello,
    HelloAck,
    Offer,
    Option,
    Ping,
    Pong,
    parse_control,
)
from valkyrie.dataplane.wire import Code

from .cookie import KEY_SIZE, CookieJar
from .session import Entropy, Event, Link, Session, Terms

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address, IPv6Address

    Address = IPv4Address | IPv6Address

AMPLIFICATION_MAX = 3
"""Bytes to an unproven address, for each that came from it (RFC 9000, section 8)."""
_MOVE_NS = 1_000_000_000
"""How long an address may take to answer a challenge."""
_MOVE_AGAIN_NS = 100_000_000
"""Challenges to one peer are at least so far apart."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer is: what its frames come from and ours go to."""

    address: Address
    udp_port: int


@dataclass(frozen=True, slots=True)
class Moved:
    """Event: the peer has proven that it is at another place."""

    place: Place


@dataclass(slots=True)
class _Challenge:
    place: Place
    token: int
    began_ns: int


@dataclass(slots=True)
class _Row:
    session: Session
    place: Place
    challenge: _Challenge | None = None


class Sessions:
    """The sessions of a node with the peers that its configuration names."""

    def __init__(self, incarnation: int, entropy: Entropy) -> None:
        self.incarnation = incarnation
        self.refused: Counter[str] = Counter()
        """Control messages that no session took, by why."""
        self._entropy = entropy
        self._cookies = CookieJar(entropy(KEY_SIZE), incarnation)
        self._rows: dict[int, _Row] = {}
        self._places: dict[Address, int] = {}
        self._messages: list[tuple[int, Place, bytes]] = []
        self._events: list[tuple[int, Event | Moved]] = []

    def add(self, index: int, place: Place, terms: Terms, now_ns: int) -> Session:
        """Add a peer."""
        session = Session(self.incarnation, terms, self._entropy, now_ns)
        self._rows[index] = _Row(session, place)
        self._places[place.address] = index
        return session

    def restore(self, index: int, link: Link, now_ns: int) -> None:
        """Take over a session that an earlier daemon made."""
        self._rows[index].session.restore(link, now_ns)

    def __getitem__(self, index: int) -> Session:
        return self._rows[index].session

    def __contains__(self, index: int) -> bool:
        return index in self._rows

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def place(self, index: int) -> Place:
        """Return where a peer is."""
        return self._rows[index].place

    # ---- Inputs ----

    def receive(self, place: Place, data: bytes, now_ns: int) -> None:
        """Take a control-class frame in; never raises for what others sent."""
        try:
            message = parse_control(data)
        except ControlError:
            self.refused["malformed"] += 1
            return
        if isinstance(message, Pong) and self._answers_challenge(place, message, now_ns):
            return
        index = self._places.get(place.address)
        if index is None:
            self.refused["stranger"] += 1
            return
        if isinstance(message, Hello):
            self._greet(index, place, message, len(data), now_ns)
            return
        if isinstance(message, Offer) and type(message) is Offer:
            if not self._cookies.good(message.cookie, place.address, place.udp_port, now_ns):
                self.refused["cookie"] += 1
                again = Hello(message.incarnation, message.attempt)
                self._greet(index, place, again, len(data), now_ns)
                return
            if self._rows[index].place.udp_port != place.udp_port:
                self._move(index, place)
        self._rows[index].session.receive(message, now_ns)
        self._collect(index)

    def _greet(self, index: int, place: Place, hello: Hello, size: int, now_ns: int) -> None:
        if not hello.version_min <= HANDSHAKE_VERSION <= hello.version_max:
            answer = Error(Code.VERSION, hello.attempt & 0xFFFF_FFFF).pack()
        else:
            cookie = self._cookies.make(place.address, place.udp_port, now_ns)
            option = Option(lib.VK_OPTION_COOKIE, cookie)
            answer = HelloAck(self.incarnation, hello.attempt, options=(option,)).pack()
        assert len(answer) <= AMPLIFICATION_MAX * size
        self._messages.append((index, place, answer))

    def cookie(self, index: int, now_ns: int) -> bytes:
        """Return a cookie for a peer that is told of a session nobody knows."""
        place = self._rows[index].place
        return self._cookies.make(place.address, place.udp_port, now_ns)

    def want(self, index: int, now_ns: int) -> None:
        """Have a session with a peer."""
        self._rows[index].session.want(now_ns)
        self._collect(index)

    def close(self, index: int, code: int, now_ns: int) -> None:
        """Leave the session with a peer."""
        self._rows[index].session.close(code, now_ns)
        self._collect(index)

    def advance(self, now_ns: int) -> None:
        """Do what is due."""
        for index, row in self._rows.items():
            row.session.advance(now_ns)
            self._collect(index)

    def deadline_ns(self) -> int | None:
        """Return when ``advance`` is due."""
        found = (row.session.deadline_ns() for row in self._rows.values())
        return min((due_ns for due_ns in found if due_ns is not None), default=None)

    # ---- A peer that has moved ----

    def found_at(self, index: int, place: Place, now_ns: int) -> None:
        """A frame of a peer's session came from another place: ask there whether it is true."""
        row = self._rows[index]
        if row.session.link is None or place == row.place:
            return
        last = row.challenge
        if last is not None and now_ns < last.began_ns + _MOVE_AGAIN_NS:
            return
        if self._places.get(place.address, index) != index:
            self.refused["address taken"] += 1
            return
        token = int.from_bytes(self._entropy(8), "big")
        row.challenge = _Challenge(place, token, now_ns)
        self._messages.append((index, place, Ping(token).pack()))

    def _answers_challenge(self, place: Place, message: Pong, now_ns: int) -> bool:
        for index, row in self._rows.items():
            asked = row.challenge
            if asked is None or (asked.place, asked.token) != (place, message.token):
                continue
            row.challenge = None
            if now_ns <= asked.began_ns + _MOVE_NS and row.session.link is not None:
                row.session.hear(now_ns)
                self._move(index, place)
            return True
        return False

    def _move(self, index: int, place: Place) -> None:
        row = self._rows[index]
        self._places.pop(row.place.address, None)
        self._places[place.address] = index
        row.place = place
        self._events.append((index, Moved(place)))

    # ---- Outputs ----

    def _collect(self, index: int) -> None:
        row = self._rows[index]
        for message in row.session.take_messages():
            self._messages.append((index, row.place, message.pack()))
        self._events += [(index, event) for event in row.session.take_events()]

    def take_messages(self) -> list[tuple[int, Place, bytes]]:
        """Return what to send: to which peer, where, the frame."""
        found, self._messages = self._messages, []
        return found

    def take_events(self) -> list[tuple[int, Event | Moved]]:
        """Return what has happened, by peer."""
        found, self._events = self._events, []
        return found
