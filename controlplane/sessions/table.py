"""All sessions of a node: who a control message is from, what may be answered without a session.

Sans-IO like ``session.py``. What asks for a session goes to the Door, which keeps nothing before a
cookie has come back, and reaches the session only when the peer has proven who it is.

What time costs depends on how many sessions have something to do, not on how many there are: one
that nobody has touched sleeps until its own deadline.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import islice
from typing import TYPE_CHECKING

from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.door import Door
from valkyrie.controlplane.security.errors import SecurityError
from valkyrie.controlplane.security.handshake import Established
from valkyrie.controlplane.security.messages import NO_COOKIE, Negotiate, parse
from valkyrie.controlplane.security.offer import Offer
from valkyrie.dataplane.control import (
    ControlError,
    Message,
    Ping,
    Pong,
    parse_control,
)
from valkyrie.dataplane.wire import Type

from .agenda import Agenda
from .link import Event, Joined, Left, Link, Refused, Terms
from .lives import spoken
from .seats import Ids, Seats
from .session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from ipaddress import IPv4Address, IPv6Address

    from valkyrie.controlplane.security.handshake import Timing
    from valkyrie.controlplane.security.local import Entropy, Local
    from valkyrie.controlplane.security.offer import Choice
    from valkyrie.controlplane.security.token import Grant, Issuer
    from valkyrie.controlplane.security.trust import Peer

    Address = IPv4Address | IPv6Address

_ASKS = frozenset({Type.HELLO, Type.NEGOTIATE, Type.KEY_EXCHANGE, Type.AUTH_RESPONSE})
"""Messages of who asks."""
BEGIN_MAX = 32
"""Handshakes that one ``advance`` begins: each takes half a millisecond, and others wait."""
_PORT_SIZE = 2
_MOVE_NS = 1_000_000_000
"""How long an address may take to answer a challenge."""
_MOVE_AGAIN_NS = 100_000_000
"""Challenges to one peer are at least so far apart."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer is: what its frames come from and ours go to."""

    address: Address
    udp_port: int

    def pack(self) -> bytes:
        """Return the place as the Door names it."""
        return self.address.packed + self.udp_port.to_bytes(_PORT_SIZE, "big")

    @classmethod
    def parse(cls, data: bytes) -> Place:
        """Return the place of what ``pack`` returned."""
        address, port = data[:-_PORT_SIZE], data[-_PORT_SIZE:]
        return cls(ip_address(address), int.from_bytes(port, "big"))


@dataclass(frozen=True, slots=True)
class Moved:
    """Event: the peer has proven that it is at another place."""

    place: Place


@dataclass(slots=True)
class _Challenge:
    place: Place
    token: int
    began_ns: int
    asked_ns: int
    """Last."""


@dataclass(slots=True)
class _Row:
    session: Session
    place: Place
    home: Place
    """Where the configuration says it is: it may have moved, and may come back."""
    last: Place | None = None
    """Where it was before it was looked for at home."""
    challenge: _Challenge | None = None
    proven: bool = False
    """Whoever has the address hears what is sent there, and has answered it."""


class Sessions:
    """The sessions of a node with the peers that its configuration names."""

    def __init__(
        self,
        incarnation: int,
        local: Local,
        entropy: Entropy,
        timing: Timing | None = None,
        seats: Seats | None = None,
    ) -> None:
        self.incarnation = incarnation
        self._seats = seats or Seats.drawn(entropy)
        self.refused: Counter[str] = Counter()
        """Control messages that no session took, by why."""
        self._entropy = entropy
        self._local = local
        self._door = Door(
            local,
            entropy,
            timing=timing,
            answer=self._answer,
            expected=self._expected,
            known=self._is_known,
            stamp=self._stamp,
            extra=spoken(incarnation),
        )
        self._door.refused = self.refused
        self._rows: dict[int, _Row] = {}
        self._places: dict[Address, int] = {}
        """Where peers are."""
        self._homes: dict[Address, int] = {}
        self._lasts: dict[Address, int] = {}
        """Where else they may come from to ask for a session: home, or where they were last."""
        self._names: dict[str, int] = {}
        self._challenges: dict[tuple[Place, int], int] = {}
        """Who is asked whether it is at a place, by that and the question's token."""
        self._agenda = Agenda()
        """When sessions are to be advanced that nobody has touched since they were last."""
        self._touched: set[int] = set()
        """Sessions that may have changed: their deadlines are not known, and they are advanced next
        whatever these are."""
        self._waiting: dict[int, None] = {}
        """Sessions whose handshake is due and had no turn yet, the one that waits longest first."""
        self.renewing: set[int] = set()
        """Peers with a session, and asked for another one."""
        self._wanted: tuple[Issuer | None, int] = None, 0
        """Who said last which tokens peers get, and what."""
        self._messages: list[tuple[int, Place, bytes]] = []
        self._events: list[tuple[int, Event | Moved]] = []
        self.heard_ns: Callable[[int], int] = lambda _index: 0
        """Says when a frame of a peer's session last came."""
        self.issuer: Issuer | None = None
        """Says which tokens and cookies the peers get; None: nobody gets any."""

    def add(
        self,
        index: int,
        place: Place,
        peer: Peer,
        terms: Terms,
        now_ns: int,
        *,
        home: Place | None = None,
    ) -> Session:
        """Add a peer; it is asked, and let in, as ``peer`` says.

        ``home`` is where the configuration has it, if it was found at another ``place``.
        """
        ids = Ids(self._seats, index, self._entropy)
        parties = self._local, peer
        session = Session(self.incarnation, parties, terms, self._entropy, now_ns, ids=ids)
        session.refused = self.refused
        session.handing.issue = lambda local, had, at_ns: self._issue(index, local, had, at_ns)
        home = home or place
        self._rows[index] = _Row(session, place, home)
        self._places[place.address] = index
        self._homes[home.address] = index
        self._names[peer.name] = index
        self._touched.add(index)
        return session

    def remove(self, index: int) -> None:
        """Forget a peer: what it sends is a stranger's, and what it has begun comes to nothing."""
        row = self._rows.pop(index)
        self._forget_challenge(row)
        self._forget_place(self._places, row.place, index)
        self._forget_place(self._homes, row.home, index)
        self._forget_place(self._lasts, row.last, index)
        del self._names[row.session.peer.name]
        self._agenda.put(index, None)
        self._touched.discard(index)
        self._waiting.pop(index, None)
        self.renewing.discard(index)

    @staticmethod
    def _forget_place(places: dict[Address, int], place: Place | None, index: int) -> None:
        if place is not None and places.get(place.address) == index:
            del places[place.address]

    def _who_asks(self, address: Address) -> int | None:
        """Return whose handshakes may come from an address: they prove who it is."""
        for places in (self._places, self._homes, self._lasts):
            if (index := places.get(address)) is not None:
                return index
        return None

    def _index_of(self, peer: Peer | None) -> int | None:
        """Return where a peer is that a handshake began with; None: it was removed since."""
        assert peer is not None
        index = self._names.get(peer.name)
        return index if index is not None and self._rows[index].session.peer is peer else None

    def _issue(self, index: int, local: int, had: Grant | None, now_ns: int) -> Grant | None:
        issuer, address = self.issuer, self._rows[index].place.address
        if issuer is None or not issuer.owed(had, address, now_ns):
            return None
        return issuer.grant(local, address, now_ns)

    def owing(self, now_ns: int) -> bool:
        """Say whether a peer has not taken the token yet that it is to have."""
        sessions = (row.session for row in self._rows.values())
        return any(
            each.link is not None
            and each.link.protection.able
            and each.handing.owing(each.link.local, now_ns)
            for each in sessions
        )

    def kept(self) -> dict[str, int]:
        """Return what status says of handshakes that others have begun."""
        return {"kept": len(self._door), "under_way": self._door.under_way}

    def restore(self, index: int, link: Link, now_ns: int) -> None:
        """Take over a session that an earlier daemon made."""
        self[index].restore(link, now_ns)
        self._rows[index].proven = True

    def __getitem__(self, index: int) -> Session:
        """Return a session that may be changed until the next ``advance``, and then is not kept.

        Whoever only wants to look takes ``link``: it costs the session no turn.
        """
        session = self._rows[index].session
        self._touched.add(index)
        return session

    def link(self, index: int) -> Link | None:
        """Return the session that there is with a peer, to look at."""
        return self._rows[index].session.link

    def __contains__(self, index: int) -> bool:
        return index in self._rows

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def proven(self, index: int) -> Place | None:
        """Return where a peer is if whoever is there has proven to be; nobody can forge that."""
        row = self._rows[index]
        return row.place if row.proven else None

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
        index = self._who_asks(place.address)
        if index is None:
            self.refused["stranger"] += 1
        elif isinstance(message, Message) and self._is_for_door(index, message):
            self._ask_door(index, place, message, now_ns)
        elif place.address != self._rows[index].place.address:
            self.refused["stranger"] += 1
        else:
            self[index].receive(message, now_ns)
            self._collect(index)

    def _is_for_door(self, index: int, message: Message) -> bool:
        if self._rows[index].session.concerns(message):
            return False
        if message.type != Type.AUTH_FAILURE:
            return message.type in _ASKS
        try:
            return parse(message).attempt != self._rows[index].session.attempt
        except SecurityError:
            return False

    # ---- Peers that ask ----

    def _ask_door(self, index: int, place: Place, message: Message, now_ns: int) -> None:
        source = place.pack()
        if self._insists(index, source, message):
            self.refused["crossed"] += 1
            return
        self._door.receive(source, message, now_ns)
        self._collect_door(now_ns)

    def _insists(self, index: int, source: bytes, message: Message) -> bool:
        """Say whether our own attempt comes first."""
        session = self._rows[index].session
        if session.attempt is None or message.type not in (Type.NEGOTIATE, Type.AUTH_RESPONSE):
            return False
        try:
            piece = parse(message)
            if message.type == Type.AUTH_RESPONSE:
                return session.insists(self._door.said_by(source, piece.attempt), proven=True)
            return session.insists(
                Offer.parse(Negotiate.parse(piece.data).hello).extra, proven=False
            )
        except SecurityError:
            return False

    def _expected(self, source: bytes) -> Peer | None:
        index = self._who_asks(Place.parse(source).address)
        assert index is not None, "the door hears of nobody else"
        return self._rows[index].session.peer

    def _is_known(self, source: bytes) -> bool:
        place = Place.parse(source)
        index = self._who_asks(place.address)
        assert index is not None, "the door hears of nobody else"
        return place in (self._rows[index].place, self._rows[index].home)

    def _stamp(self, source: bytes, attempt: int, now_ns: int) -> bytes:
        place, issuer = Place.parse(source), self.issuer
        if issuer is None:
            return NO_COOKIE
        return issuer.cookie(attempt, place.address, place.udp_port, now_ns)

    def _answer(self, peer: Peer | None, choice: Choice, terms: bytes, now_ns: int) -> bytes:
        index = self._index_of(peer)
        if index is None:
            raise SecurityError(Failure.IDENTITY, "the peer was removed meanwhile")
        return self[index].answer(choice, terms, now_ns)

    def _collect_door(self, now_ns: int) -> None:
        while (found := self._door.next_event()) is not None:
            source, peer, event = found
            if (index := self._index_of(peer)) is None:
                self.refused["stranger"] += 1
                continue
            place, row = Place.parse(source), self._rows[index]
            row.proven |= place.address == row.place.address  # our cookie came back from there
            if not isinstance(event, Established):
                self[index].failed(event.code)
                self._events.append((index, Refused(event.code, event.reason)))
                continue
            self[index].accepted(event, now_ns)
            if place != row.place and self._who_asks(place.address) == index:
                self._move(index, place)
            self._collect(index)
        for source, message in self._door.take():
            place = Place.parse(source)
            if (index := self._who_asks(place.address)) is not None:
                self._messages.append((index, place, message.pack()))

    def renew(self, index: int, now_ns: int) -> None:
        """Make the session with a peer anew, with new keys."""
        self[index].renew(now_ns)
        self._collect(index)

    def want(self, index: int, now_ns: int) -> None:
        """Have a session with a peer."""
        self[index].want(now_ns)
        self._collect(index)

    def close(self, index: int, code: int, now_ns: int) -> None:
        """Leave the session with a peer."""
        self[index].close(code, now_ns)
        self._collect(index)

    def look(
        self, index: int, now_ns: int, *, heard_ns: int, expecting: bool, deaf: bool = False
    ) -> None:
        """Say when a frame of a session last came, and whether anything would be lost with it.

        ``deaf``: nobody has listened lately, and silence counts from now on.
        Costs the session a turn only when something begins or ends to be at stake: a sign of life
        puts off what is due, so it is enough to find that out when it would have been.
        """
        session = self._rows[index].session
        if session.link is None:
            return
        self._hear(session, heard_ns)
        if expecting is not session.liveness.expecting:
            self[index].expect(now_ns, expecting=expecting)
        if deaf and session.liveness.expecting:
            self[index].liveness.wait(now_ns)

    @staticmethod
    def _hear(session: Session, heard_ns: int) -> None:
        if session.link is not None and heard_ns > session.link.since_ns:
            session.hear(heard_ns)

    def advance(self, now_ns: int) -> None:
        """Do what is due, but begin no more than some handshakes: the next call does."""
        self._follow_issuer()
        due, self._touched = self._agenda.take(now_ns) | self._touched, set()
        turns = list(islice(self._waiting, BEGIN_MAX))
        for index in turns:
            del self._waiting[index]
        left = BEGIN_MAX - len(turns)
        for index in sorted(due.union(turns)):
            session = self._rows[index].session
            may_begin = True
            if index not in turns and session.begins(now_ns):
                may_begin = left > 0 and index not in self._waiting
                left -= may_begin
                if not may_begin:
                    self._waiting[index] = None
            self._hear(session, self.heard_ns(index))
            session.advance(now_ns, may_begin=may_begin)
            self._collect(index)
            self._schedule(index)
        self._door.advance(now_ns)
        self._collect_door(now_ns)

    def _follow_issuer(self) -> None:
        """Let all see whether they are to tell their peers of tokens, when what is told changes."""
        wanted = self.issuer, self.issuer.wanted if self.issuer is not None else 0
        if wanted != self._wanted:
            self._wanted = wanted
            self._touched.update(self._rows)

    def _schedule(self, index: int) -> None:
        session = self._rows[index].session
        if index not in self._waiting:
            self._agenda.put(index, session.deadline_ns())
        else:  # of what else it has to do nothing waits as long as a peer's silence
            self._agenda.put(index, session.liveness.deadline_ns() if session.link else None)
        if session.link is not None and session.attempt is not None:
            self.renewing.add(index)
        else:
            self.renewing.discard(index)

    def deadline_ns(self) -> int | None:
        """Return when ``advance`` is due."""
        for index in self._touched:
            self._schedule(index)
        if self._waiting:
            return 0
        found = self._agenda.first_ns(), self._door.timer()
        return min((each for each in found if each is not None), default=None)

    # ---- A peer that has moved ----

    def found_at(self, index: int, place: Place, now_ns: int) -> None:
        """A frame of a peer's session came from another place: ask there whether it is true."""
        row = self._rows[index]
        if row.session.link is None or place == row.place:
            return
        last = row.challenge
        if last is not None and now_ns < last.asked_ns + _MOVE_AGAIN_NS:
            return
        if self._places.get(place.address, index) != index:
            self.refused["address taken"] += 1
            return
        if last is None or last.place != place or now_ns > last.began_ns + _MOVE_NS:
            token = int.from_bytes(self._entropy(8), "big")
            self._forget_challenge(row)
            last = row.challenge = _Challenge(place, token, now_ns, now_ns)
            self._challenges[place, token] = index
        last.asked_ns = now_ns
        question = row.session.link.protection.prove(Ping(last.token))
        self._messages.append((index, place, question.pack()))

    def _answers_challenge(self, place: Place, message: Pong, now_ns: int) -> bool:
        index = self._challenges.get((place, message.token))
        if index is None:
            return False
        row = self._rows[index]
        asked, link = row.challenge, row.session.link
        assert asked is not None
        if link is None or not link.protection.proves(message):
            self.refused["unproven pong"] += 1
            return True
        self._forget_challenge(row)
        if self._places.get(place.address, index) != index:  # another was faster
            self.refused["address taken"] += 1
        elif now_ns <= asked.began_ns + _MOVE_NS:
            self[index].hear(now_ns)
            self._move(index, place)
        return True

    def _forget_challenge(self, row: _Row) -> None:
        if row.challenge is not None:
            self._challenges.pop((row.challenge.place, row.challenge.token), None)
            row.challenge = None

    def _move(self, index: int, place: Place) -> None:
        row = self._rows[index]
        self._forget_place(self._places, row.place, index)
        self._places[place.address] = index
        row.place, row.proven = place, True
        self._touched.add(index)  # its token is for where it was
        self._events.append((index, Moved(place)))

    def _look_at_home(self, index: int) -> None:
        """Ask a peer at home that was not found where it was; it may ask us from there yet."""
        row = self._rows[index]
        if row.place == row.home or self._places.get(row.home.address, index) != index:
            return
        self._forget_place(self._lasts, row.last, index)
        row.last = row.place
        self._lasts[row.last.address] = index
        self._move(index, row.home)
        row.proven = False

    # ---- Outputs ----

    def _collect(self, index: int) -> None:
        row = self._rows[index]
        for message in row.session.take_messages():
            self._messages.append((index, row.place, message.pack()))
        events = row.session.take_events()
        row.proven |= any(isinstance(event, Joined) for event in events)
        self._events += [(index, event) for event in events]
        if any(isinstance(event, Left) and not event.joined for event in events):
            self._look_at_home(index)

    def take_messages(self) -> list[tuple[int, Place, bytes]]:
        """Return what to send: to which peer, where, the frame."""
        found, self._messages = self._messages, []
        return found

    def take_events(self) -> list[tuple[int, Event | Moved]]:
        """Return what has happened, by peer."""
        found, self._events = self._events, []
        return found
