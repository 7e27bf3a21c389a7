"""Joins the sessions, which know no clock and no socket, to rows, sockets and time."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from valkyrie.controlplane.rest import beating, unseen
from valkyrie.controlplane.security.handshake import Timing
from valkyrie.controlplane.security.modes import Cipher
from valkyrie.controlplane.sessions.link import Asked, Joined, Left, Quiet, Refused, Terms
from valkyrie.controlplane.sessions.liveness import Patience
from valkyrie.controlplane.sessions.rounds import Rounds
from valkyrie.controlplane.sessions.session import Session, State
from valkyrie.controlplane.sessions.table import Moved, Place, Sessions
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.control import Limits
from valkyrie.dataplane.units import NS_PER_MS
from valkyrie.dataplane.wire import Code

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from valkyrie.controlplane.config.settings import Config
    from valkyrie.controlplane.config.settings_peer import Peer
    from valkyrie.controlplane.host.voice import Voice
    from valkyrie.controlplane.security.reproof import Reproof
    from valkyrie.controlplane.security.trust import Peer as KnownPeer
    from valkyrie.controlplane.sessions.keyring import Keyring
    from valkyrie.controlplane.sessions.link import Event, Link
    from valkyrie.controlplane.sessions.protection import Protection

    from .credentials import Credentials
    from .peers import Peers
    from .state import State as Rows

log = logging.getLogger("valkyrie")

_TICK_NS, _TICK_FEW_NS = 50 * NS_PER_MS, 100 * NS_PER_MS
"""How often is looked whether a peer was heard, and whether anything is at stake: see Rounds."""
_TROUBLES_MAX = 8
"""Reasons of one peer that are logged: a stranger at its address can think of any number."""
_REFUSE_NS = 200 * NS_PER_MS
"""After a session ended, streams that wait for it are refused for this long."""
_ERASE_NS = 1_000 * NS_PER_MS
"""The keys of a session that was made anew are erased after this time: its worker knows by then."""
_EPOCHS_RENEW = 240
"""Of lib.VK_EPOCHS: a session that has used so many is made anew before they end."""
_DEAF_NS = 200 * NS_PER_MS
"""A worker that has not beaten for so long hears nobody: it beats at least every 100 ms."""
_HEAD_SIZE = ffi.sizeof("struct vk_control_frame")


class Links:
    """The sessions of a running node."""

    def __init__(
        self,
        config: Config,
        rows: Rows,
        work: Any,
        counters: Any,
        peers: Peers,
        *,
        keyring: Keyring,
        credentials: Credentials,
        voices: Sequence[Voice],
        payload_max: int,
        beat: Callable[[], None] = unseen,
    ) -> None:
        """Begin; ``payload_max``: bytes of UDP payload that this node's interfaces take."""
        self._config = config
        self._rows = rows
        self._work = work
        self._counters = counters
        self._peers = peers
        self._keyring = keyring
        self._payload_max = payload_max
        self._voices = {voice.ifindex: voice for voice in voices}
        self._stir = asyncio.Event()
        self._refusing: dict[int, int] = {}
        """When streams to a peer may wait again, by peer."""
        self._troubles: dict[int, dict[str, None]] = {}
        """Why peers have no session, the newest last; each is logged once until they join."""
        self._erasing: dict[int, int] = {}
        """When what the session in use does not need is erased, by peer."""
        self._leaving: set[int] = set()
        """Rows of peers that were removed, until the worker has let go of them."""
        self._barred: set[str] = set()
        """Peers that are not asked."""
        timing = Timing(give_up_ns=config.session.handshake_ms * NS_PER_MS)
        self._heir = bool(rows.rows.incarnation)
        """An earlier daemon may have ended sessions whose ids come again."""
        self._ended: set[int] = set()
        """Sessions that were ended here: the kernel drops what has such an id."""
        incarnation = rows.incarnation(os.urandom)
        self.sessions = Sessions(
            incarnation, credentials.local, os.urandom, timing, rows.seats(os.urandom)
        )
        keepalive_ns = config.session.keepalive_ms * NS_PER_MS
        self.sessions.heard_ns = lambda index: int(work.packets[index].heard_ns)
        self._rounds = Rounds(_TICK_NS, max(_TICK_NS, min(_TICK_FEW_NS, keepalive_ns)))
        self._known = 0
        self.add(config, credentials.peers, beat)
        self.observe: Callable[[int, Event | Moved], None] = lambda _index, _event: None
        """Hears what happens to sessions."""
        self.ask: Callable[[int], None] = lambda _index: None
        """Has the worker ask a peer in its session."""
        self.refused_from: Callable[[Place], None] = lambda _place: None
        """Hears where messages are from that no session took; anybody can say so."""
        self.denied: Callable[[int], None] = lambda _session: None
        """Hears which sessions were ended here: by their ids on the frames that we get."""
        self.allowed: Callable[[int], None] = lambda _session: None
        """Hears which ids are in use again that may have been denied."""
        peers.on_way = self._found_way

    def add(
        self, config: Config, known: Sequence[KnownPeer | None], beat: Callable[[], None] = unseen
    ) -> None:
        """Have sessions with the peers that the configuration has more than before."""
        self._config = config
        now_ns, first = time.monotonic_ns(), self._known
        self._known = len(config.peers)
        for index in beating(range(first, self._known), beat):
            peer, rows = known[index], self._rows
            if config.peers[index].gone:
                self._put_out(index)
                continue
            if peer is None:
                rows.join_static(index)
                continue
            terms = self._terms(config.peers[index], wan=False)
            place, home = rows.place(index), rows.home(index)
            self.sessions.add(index, place, peer, terms, now_ns, home=home)
            self._rounds.add(index)
            if link := rows.link(index):
                self.sessions.restore(index, self._adopted(index, link), now_ns)
                self._erasing[index] = now_ns + _ERASE_NS
                self._rounds.warm(index, now_ns)
                self._peers.limit(index, link.limits.payload_max)
            else:
                rows.wait(index)
        self._stir.set()

    def remove(self, index: int, config: Config) -> None:
        """Know a peer no more: its session ends, it is told so, and streams with it fail."""
        self.close(index, Code.CREDENTIAL)
        if index in self.sessions:
            self.sessions.remove(index)
            self._rounds.remove(index)
        self._barred.discard(self._config.peers[index].name)
        for each in (self._refusing, self._troubles, self._erasing):
            each.pop(index, None)
        self._config = config
        self._put_out(index)
        self._stir.set()

    def _put_out(self, index: int) -> None:
        self._keyring.keep(index, 0)
        if self._rows.put_out(index, Code.CREDENTIAL):
            self._leaving.add(index)

    def has_left(self, index: int) -> bool:
        """Say whether nothing is left of a peer that was removed."""
        return index not in self._leaving

    def _terms(self, peer: Peer, *, wan: bool) -> Terms:
        settings = self._config.session
        delay_us = self._config.transport.ack_delay_us
        if peer.link != "auto":
            wan = peer.link == "wan"
        keepalive_ms = settings.keepalive_wan_ms if wan else settings.keepalive_ms
        return Terms(
            limits=Limits(
                payload_max=self._payload_max,
                session_window=self._config.transport.session_bytes,
                streams_max=self._config.transport.streams_max,
                ack_delay_e_us=delay_us,
                ack_delay_b_us=delay_us,
                ack_delay_l_us=delay_us,
                keepalive_ms=keepalive_ms,
            ),
            patience=Patience(keepalive_ms * NS_PER_MS, settings.keepalive_tries, wan),
            give_up_ns=settings.handshake_ms * NS_PER_MS,
            again_ns=settings.retry_ms * NS_PER_MS,
            again_max_ns=max(settings.retry_max_ms, settings.retry_ms) * NS_PER_MS,
            eager=settings.eager and peer.name not in self._barred,
        )

    async def run(self) -> None:
        """Keep the sessions for ever."""
        loop = asyncio.get_running_loop()
        while True:
            self._stir.clear()
            now_ns = time.monotonic_ns()
            self._look(now_ns)
            self.sessions.advance(now_ns)
            self._settle()
            due_ns = self.sessions.deadline_ns()
            look_ns = self._rounds.next_ns
            left_ns = (look_ns if due_ns is None else min(due_ns, look_ns)) - now_ns
            # Not wait_for: it makes a task for each wake.
            timer = loop.call_later(max(left_ns, NS_PER_MS) / 1e9, self._stir.set)
            await self._stir.wait()
            timer.cancel()

    def leave(self) -> None:
        """Tell all peers that this node goes."""
        now_ns = time.monotonic_ns()
        for index in self.sessions:
            self.sessions.close(index, Code.SESSION_CLOSED, now_ns)
        self._send()

    def close(self, index: int, code: int) -> None:
        """End the session with a peer, and tell it; nothing more of it is heard."""
        if index in self.sessions:
            if local := self._rows.session(index):
                self._ended.add(local)
                self.denied(local)
            self.sessions.close(index, code, time.monotonic_ns())
            self._settle()

    def bar(self, index: int, *, barred: bool) -> None:
        """Stop asking a peer for a session that it would not get, or ask it again."""
        name = self._config.peers[index].name
        if index not in self.sessions or barred == (name in self._barred):
            return
        self._barred ^= {name}
        session = self.sessions[index]
        session.terms = replace(session.terms, eager=self._config.session.eager and not barred)
        self._stir.set()

    def want(self, index: int) -> None:
        """Have a session with a peer that somebody wants to talk to."""
        if index in self.sessions:
            now_ns = time.monotonic_ns()
            self._rounds.warm(index, now_ns)
            self.sessions.want(index, now_ns)
            self._settle()
            self._stir.set()

    def renew(self, index: int) -> None:
        """Have the session with a peer made anew, with new keys."""
        if index in self.sessions:
            self.sessions.renew(index, time.monotonic_ns())
            self._settle()
            self._stir.set()

    def receive(self, packet: bytes) -> None:
        """Take a message of the worker: a frame of the control class, or news."""
        if len(packet) < _HEAD_SIZE:
            return
        head = ffi.new("struct vk_control_frame *")
        ffi.memmove(head, packet[:_HEAD_SIZE], _HEAD_SIZE)
        now_ns = time.monotonic_ns()
        if head.kind == lib.VK_CONTROL_WANTED:
            self.want(int(head.peer))
            return
        if head.kind == lib.VK_CONTROL_SPENT:
            self.renew(int(head.peer))
            return
        address = ip_address(bytes(head.address)[: 4 if head.family == 4 else 16])
        place = Place(address, int(head.udp_port))
        if head.kind == lib.VK_CONTROL_FRAME:
            refused = self.sessions.refused.total()
            self.sessions.receive(place, packet[_HEAD_SIZE:], now_ns)
            if self.sessions.refused.total() != refused:
                self.refused_from(place)
        elif head.kind == lib.VK_CONTROL_ELSEWHERE and head.peer in self.sessions:
            self.sessions.found_at(int(head.peer), place, now_ns)
        self._settle()
        self._stir.set()

    def _look(self, now_ns: int) -> None:
        deaf = now_ns - int(self._work.heartbeat_ns) > _DEAF_NS
        for index in self.sessions.renewing:
            self._rounds.warm(index, now_ns)
        for index in self._rounds.turn(now_ns):
            link = self.sessions.link(index)
            if link is None:
                continue
            seen = self._work.packets[index]
            at_stake = bool(seen.streams or seen.flying)
            if at_stake:
                self._rounds.warm(index, now_ns)
            self.sessions.look(index, now_ns, heard_ns=seen.heard_ns, expecting=at_stake, deaf=deaf)
            if max(self._epochs(index, link)) >= _EPOCHS_RENEW:
                self.sessions.renew(index, now_ns)
        self._erase(now_ns)
        for index in list(self._leaving):
            if self._rows.free_peer(index, self._work.packets[index].peer_generation):
                self._leaving.discard(index)
        for index, until_ns in list(self._refusing.items()):
            if now_ns >= until_ns:
                del self._refusing[index]
                self._rows.wait(index)

    def _erase(self, now_ns: int) -> None:
        """Erase the keys of former sessions whose time is over."""
        for index, due_ns in list(self._erasing.items()):
            if now_ns >= due_ns:
                del self._erasing[index]
                self._keyring.keep(index, self._rows.session(index))

    def _found_way(self, index: int, *, direct: bool) -> None:
        """Frames can reach a peer now, perhaps over another interface."""
        if index not in self.sessions:
            return
        session, now_ns = self.sessions[index], time.monotonic_ns()
        session.terms = self._terms(self._config.peers[index], wan=not direct)
        session.agree()
        session.nudge(now_ns)
        self._stir.set()

    # ---- What sessions want done ----

    def _settle(self) -> None:
        for index, event in self.sessions.take_events():
            if isinstance(event, Quiet):
                self.ask(index)
                continue
            self.observe(index, event)
            self._trouble(index, event)
            if isinstance(event, Refused):
                continue
            if isinstance(event, Joined):
                self._refusing.pop(index, None)
                self._rounds.warm(index, event.link.since_ns)
                self._join(index, event)
                self._peers.limit(index, event.link.limits.payload_max)
                self._say(index, "started anew" if event.lost else "has joined")
            elif isinstance(event, Left):
                # Before any session was there nobody need be told again and again.
                self._rows.leave(index, event.code)
                self._keyring.keep(index, 0)
                self._erasing.pop(index, None)
                self._refusing[index] = time.monotonic_ns() + _REFUSE_NS
                if event.joined:
                    self._say(index, f"has left: {event.why or _code_name(event.code)}")
            elif isinstance(event, Asked):
                self._rows.set_token(index, event.told)
            else:
                assert isinstance(event, Moved)
                self._rows.move(index, event.place)
                self._peers.move(index, event.place.address)
                self._say(index, f"is at {event.place.address} port {event.place.udp_port} now")
        self._send()

    def _join(self, index: int, event: Joined) -> None:
        """Let workers use a session; its keys are there before, the last one's for a while."""
        link, which = event.link, 0
        if self._heir or link.local in self._ended:  # a peer's ids come again
            self._ended.discard(link.local)
            self.allowed(link.local)
        if event.secrets is not None:
            which = self._keyring.enter(
                index,
                link.local,
                self._rows.session(index),
                seals=event.secrets.seals,
                opens=event.secrets.opens,
                proofs=(link.protection.ours, link.protection.theirs),
            )
        self._rows.join(index, event, keys=which)
        self._erasing[index] = time.monotonic_ns() + _ERASE_NS

    def _adopted(self, index: int, link: Link) -> Link:
        """Return an earlier daemon's session with what its control frames are proven by."""
        proofs = self._keyring.proofs(index, link.local)
        if not link.protection.keyed or proofs is None:
            return link
        ours, theirs = proofs
        return replace(link, protection=replace(link.protection, ours=ours, theirs=theirs))

    def _epochs(self, index: int, link: Link) -> tuple[int, int]:
        return self._keyring.epochs(index, link.local) or (0, 0)

    def _say(self, index: int, what: str) -> None:
        log.info("peer '%s' %s", self._config.peers[index].name, what)

    def _trouble(self, index: int, event: Event | Moved) -> None:
        """Keep why there is no session, in words, and log what was not the reason before."""
        if isinstance(event, Joined):
            self._troubles.pop(index, None)
        elif isinstance(event, Left | Refused):
            why = event.reason if isinstance(event, Refused) else event.why
            why = why or _code_name(event.code)
            told = self._troubles.setdefault(index, {})
            new = why not in told and len(told) < _TROUBLES_MAX
            if new and not (isinstance(event, Left) and event.joined):
                log.warning("no session with peer '%s': %s", self._config.peers[index].name, why)
            told.pop(why, None)
            if len(told) == _TROUBLES_MAX:
                told.popitem()
            told[why] = None  # the last one is the newest

    def _send(self) -> None:
        for index, place, data in self.sessions.take_messages():
            source, ifindex = self._peers.way_to(index)
            voice = self._voices.get(ifindex)
            if voice is not None and source is not None:
                self._counters.daemon_frames += voice.send(
                    source, place.address, place.udp_port, data
                )

    # ---- Status ----

    def describe(self) -> list[dict[str, object]]:
        """Return what status says of the sessions."""
        now_ns = time.monotonic_ns()
        return [
            self._row(index, peer, now_ns)
            for index, peer in enumerate(self._config.peers)
            if not peer.gone
        ]

    def _row(self, index: int, peer: Peer, now_ns: int) -> dict[str, object]:
        seen = self._work.packets[index]
        row: dict[str, object] = {"peer": peer.name}
        if index not in self.sessions:
            return row | {"state": "static", "address": peer.address, **_BLANK}
        session = self.sessions[index]
        place = self.sessions.place(index)
        row |= {"state": _state(session), "address": str(place.address), **_BLANK}
        if link := session.link:
            rtt_ns = seen.rtt_ns or session.rtt_ns
            row |= {
                "local": f"{link.local:08x}",
                "remote": f"{link.remote:08x}",
                "age_s": round((now_ns - link.since_ns) / 1e9, 3),
                "rtt_us": round(rtt_ns / 1000, 1) if rtt_ns else None,
                "silent_ms": round((now_ns - session.liveness.heard_ns) / 1e6, 1),
                "streams": int(seen.streams),
                "keepalive_ms": session.liveness.patience.interval_ns // NS_PER_MS,
                "epoch": max(self._epochs(index, link)) if link.protection.keyed else None,
                "proven_s": _ago(session.reproof, now_ns),
                **_protection(link.protection, now_ns),
            }
        elif session.reason:
            row["reason"] = _code_name(session.reason)
            row["why"] = next(reversed(self._troubles.get(index, {"": None})))
        return row


_BLANK: dict[str, object] = {
    "local": "",
    "remote": "",
    "age_s": None,
    "rtt_us": None,
    "silent_ms": None,
    "streams": 0,
    "keepalive_ms": None,
    "mode": "",
    "pattern": "",
    "cipher": "",
    "post_quantum": None,
    "fingerprint": "",
    "subject": "",
    "epoch": None,
    "proven_s": None,
    "ends_s": None,
    "reason": "",
    "why": "",
}


def _protection(protection: Protection, now_ns: int) -> dict[str, object]:
    """Return how a session is protected; of one that an earlier daemon made, what is left."""
    return {
        "mode": protection.mode.name.lower() if protection.mode is not None else "",
        "pattern": protection.pattern.name if protection.pattern is not None else "",
        "cipher": Cipher(protection.cipher).name.lower() if protection.keyed else "",
        "post_quantum": protection.quantum_safe if protection.mode is not None else None,
        "fingerprint": protection.fingerprint,
        "subject": protection.subject,
        "ends_s": round((protection.ends_ns - now_ns) / 1e9, 1)
        if protection.ends_ns is not None
        else None,
    }


def _ago(reproof: Reproof | None, now_ns: int) -> float | None:
    """Return how long ago a peer proved itself that has to do so again and again."""
    return None if reproof is None else round((now_ns - reproof.proven_ns) / 1e9, 1)


def _state(session: Session) -> str:
    if session.link is not None and session.state is not State.UP:
        return "renewing"
    return session.step or session.state.value


def _code_name(code: int) -> str:
    try:
        return Code(code).name.lower().replace("_", " ")
    except ValueError:
        return f"code {code}"
