"""Writes the rows of ``vk_state``: the daemon's side of the memory that workers read.

A row is seqlocked: its sequence is odd while it is being written, and readers try again.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, get_args

from valkyrie import shm
from valkyrie.controlplane.config.settings import Controller
from valkyrie.controlplane.security.policy import Rights, may_be_opened
from valkyrie.controlplane.sessions.link import Joined, Link
from valkyrie.controlplane.sessions.protection import PLAIN, Protection
from valkyrie.controlplane.sessions.seats import Seats
from valkyrie.controlplane.sessions.table import Place
from valkyrie.controlplane.sessions.tuning import KEYS, Tuning
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.control import Limits
from valkyrie.dataplane.units import NS_PER_MS
from valkyrie.dataplane.wire import Class

if TYPE_CHECKING:
    from collections.abc import Callable

    from valkyrie.controlplane.config.settings import Classes, Transport
    from valkyrie.controlplane.config.settings import Worker as WorkerSettings
    from valkyrie.controlplane.config.settings_security import Security
    from valkyrie.controlplane.security.policy import Grant
    from valkyrie.controlplane.security.token import Told

_ACK_DELAY_MAX_US = 1_000_000


class writing:  # noqa: N801  # it is used like a function
    """Write a row; what a dead daemon left half written is taken over.

    A class, because a generator costs as much as the rest of it: a daemon writes very many.
    """

    __slots__ = ("_row", "_sequence")

    def __init__(self, row: Any) -> None:
        self._row = row
        self._sequence = _counter(row, "sequence")

    def __enter__(self) -> Any:
        shm.lib.vk_row_begin(self._sequence)
        return self._row

    def __exit__(self, *_: object) -> None:
        shm.lib.vk_row_end(self._sequence)


def _counter(struct: Any, name: str) -> Any:
    """Return a counter's address, for shm's functions."""
    return shm.ffi.cast("uint32_t *", int(ffi.cast("uintptr_t", ffi.addressof(struct, name))))


def _put(target: Any, data: bytes) -> None:
    size = ffi.sizeof(target)
    ffi.memmove(target, data[:size].ljust(size, b"\0"), size)


def get(source: Any) -> str:
    """Return the text in a byte array."""
    return bytes(source).split(b"\0")[0].decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Way:
    """How frames reach a peer; without MAC addresses only the kernel path can send."""

    port_index: int
    source: IPv4Address | IPv6Address
    payload_max: int
    mac: bytes = b""
    source_mac: bytes = b""

    @property
    def resolved(self) -> bool:
        """Say whether the MAC addresses are known."""
        return len(self.mac) == 6 and len(self.source_mac) == 6


class State:
    """All rows of a node."""

    def __init__(self, pointer: Any) -> None:
        self.rows = pointer
        self._rights: dict[int, Rights] = {}
        """Of peers that may not open all services: of so many others nothing is asked."""
        self._news = shm.ffi.cast("struct vk_state *", int(ffi.cast("uintptr_t", pointer)))

    def beat(self, now_ns: int) -> None:
        """Show workers that the daemon lives."""
        self.rows.daemon_heartbeat_ns = now_ns

    def set_parameters(
        self,
        settings: WorkerSettings,
        transport: Transport,
        classes: Classes,
        security: Security,
    ) -> None:
        """Tell workers how to work."""
        with writing(self.rows.params) as row:
            row.spin_ns = settings.spin_us * 1000
            row.budget_frames = settings.budget_frames
            row.aggregate = settings.aggregate
            row.reassembly_bytes = settings.reassembly_bytes
            patience_ns = settings.reassembly_ms * NS_PER_MS
            row.reassembly_ns_high = patience_ns >> 32
            row.reassembly_ns_low = patience_ns & 0xFFFFFFFF
            row.stamp = settings.stamp
            row.controller = get_args(Controller).index(transport.controller)
            row.ack_delay_us = transport.ack_delay_us
            row.window_bytes = transport.window_bytes
            row.streams_max = transport.streams_max
            row.memory_kib = transport.memory_bytes // 1024
            row.rotate_ms = security.rotate_s * 1000
            for klass in Class:
                quantum = getattr(classes, klass.name.lower()).quantum_bytes
                row.quantum_bytes[klass] = quantum

    # ---- Peers ----

    def incarnation(self, entropy: Callable[[int], bytes]) -> int:
        """Return this node's incarnation: it lasts as long as what its workers remember."""
        while not self.rows.incarnation:
            self.rows.incarnation = int.from_bytes(entropy(8), "big")
        return int(self.rows.incarnation)

    def set_peer(self, index: int, address: str, udp_port: int) -> None:
        """Enter a configured peer; one that is there already, from an earlier daemon, stays.

        It stays where it has proven to be, too.
        """
        parsed = ip_address(address)
        row = self.rows.peers[index]
        same = (
            row.state == lib.VK_ROW_LIVE
            and row.home_family == parsed.version
            and bytes(row.home)[: len(parsed.packed)] == parsed.packed
            and row.home_port == udp_port
        )
        if same and not row.sequence & 1:
            return
        with writing(row):
            row.family = row.home_family = parsed.version
            _put(row.address, parsed.packed)
            _put(row.home, parsed.packed)
            row.udp_port = row.home_port = udp_port
            row.resolved = 0
            row.session = row.session_local = row.before = row.before_local = 0
            row.joined = row.cipher = row.keys = row.token_classes = 0
            row.refuse = row.end_code = 0
            row.incarnation = 0
            row.generation += 1
            row.state = lib.VK_ROW_LIVE
        self._changed_peer(index)

    def put_out(self, index: int, code: int) -> bool:
        """End all that is with a peer that is one no more; False: its row is free already."""
        row = self.rows.peers[index]
        if row.state != lib.VK_ROW_LIVE:
            return False
        self.leave(index, code)
        return True

    def free_peer(self, index: int, seen: int) -> bool:
        """Take a peer's row back if its worker has let go: it has *seen* the row's generation."""
        row = self.rows.peers[index]
        if seen != row.generation:
            return False
        self.set_rights(index, Rights())
        for slot, application in enumerate(self.rows.apps):
            if application.state != lib.VK_ROW_FREE:
                self.rows.reach[slot].peers[index // 8] &= ~(1 << index % 8)
        with writing(row):
            row.state = lib.VK_ROW_FREE
            row.resolved = row.payload_max = 0
            row.session = row.session_local = row.before = row.before_local = 0
        self._changed_peer(index)
        return True

    def seats(self, entropy: Callable[[int], bytes]) -> Seats:
        """Return how sessions' ids are made here, as long as the incarnation lasts."""
        keys = self.rows.seat_keys
        while not all(keys):
            for i in range(len(keys)):
                keys[i] = int.from_bytes(entropy(4), "big")
        return Seats(list(keys))

    def set_rights(self, index: int, rights: Rights) -> None:
        """Enter what a configured peer may open here."""
        limited, row = "*" not in rights.services, self.rows.peers[index]
        self._rights.pop(index, None)
        if limited:
            self._rights[index] = rights
            for number, service in enumerate(self.rows.services):
                if service.state == lib.VK_ROW_LIVE:
                    self._refuse(index, number, bytes(service.name)[: service.name_size].decode())
        wanted = rights.refused_mask, limited
        if (row.refused_classes, row.limited) != wanted:
            with writing(row):
                row.refused_classes, row.limited = wanted

    def _refuse(self, index: int, number: int, service: str) -> None:
        """Keep a peer from a service that it has no right to, or from no service in that row."""
        refused, bit = self.rows.rights[index].refused, 1 << number % 8
        others = refused[number // 8] & ~bit
        may = may_be_opened(self._rights[index], service)
        refused[number // 8] = others if may else others | bit

    def join(self, index: int, event: Joined, *, keys: int = 0) -> None:
        """Enter a session. Its frames are sealed with row ``keys`` of the key ring."""
        link, told = event.link, event.told
        with writing(self.rows.peers[index]) as row:
            if event.lost:
                row.generation += 1
                row.end_code = lib.VK_CODE_PEER_RESTARTED
            row.session, row.session_local = link.remote, link.local
            row.before_local, row.before = link.before
            row.cipher, row.keys = link.protection.cipher, keys
            row.known = link.asked
            row.incarnation = link.incarnation
            row.since_ns = link.since_ns
            row.ack_delay_us = min(link.limits.ack_delay_us, _ACK_DELAY_MAX_US)
            row.window_start = link.limits.window_start
            row.session_window = link.limits.session_window
            row.streams_max = link.limits.streams_max
            row.keepalive_ms = link.limits.keepalive_ms
            row.takes = link.limits.payload_max
            row.refuse = 0
            row.token_classes = told.classes if told is not None else 0
            if told is not None:
                _put(row.token, told.token)
            row.joined = 1
        self._changed_peer(index)

    def set_token(self, index: int, told: Told) -> None:
        """Put a peer's token on the frames that it is for, while the session is this one."""
        row = self.rows.peers[index]
        if not row.joined or row.session != told.session:
            return
        with writing(row):
            if told.classes:  # else frames that are under construction keep theirs
                _put(row.token, told.token)
            row.token_classes = told.classes
        self._changed_peer(index)

    def leave(self, index: int, code: int) -> None:
        """End a session and its streams; until ``wait``, new ones are refused."""
        with writing(self.rows.peers[index]) as row:
            row.generation += 1
            row.end_code = row.refuse = code
            row.joined = 0
            row.incarnation = 0
        self._changed_peer(index)

    def wait(self, index: int) -> None:
        """Let new streams wait for the next session."""
        with writing(self.rows.peers[index]) as row:
            row.refuse = 0
        self._changed_peer(index)

    def session(self, index: int) -> int:
        """Return the id on the frames that we get in the session in use; 0 = there is none."""
        row = self.rows.peers[index]
        return int(row.session_local) if row.joined else 0

    def link(self, index: int) -> Link | None:
        """Return the session that an earlier daemon has entered."""
        row = self.rows.peers[index]
        if not row.joined or not row.incarnation:
            return None
        limits = Limits(
            payload_max=row.takes,
            window_start=row.window_start,
            session_window=row.session_window,
            streams_max=row.streams_max,
            keepalive_ms=row.keepalive_ms,
            ack_delay_e_us=row.ack_delay_us,
        )
        return Link(
            local=row.session_local,
            remote=row.session,
            incarnation=row.incarnation,
            limits=limits,
            since_ns=row.since_ns,
            before=(row.before_local, row.before),
            asked=not row.before,
            protection=Protection(cipher=row.cipher) if row.cipher else PLAIN,
        )

    def place(self, index: int) -> Place:
        """Return where a peer is."""
        row = self.rows.peers[index]
        return Place(ip_address(bytes(row.address)[: 4 if row.family == 4 else 16]), row.udp_port)

    def home(self, index: int) -> Place:
        """Return where the configuration says a peer is."""
        row = self.rows.peers[index]
        address = bytes(row.home)[: 4 if row.home_family == 4 else 16]
        return Place(ip_address(address), row.home_port)

    def move(self, index: int, place: Place) -> None:
        """Enter that a peer is somewhere else now; its session and its streams stay."""
        with writing(self.rows.peers[index]) as row:
            row.family = place.address.version
            _put(row.address, place.address.packed)
            row.udp_port = place.udp_port
            row.resolved = 0
        self._changed_peer(index)

    def join_static(self, index: int) -> None:
        """Enter a session without a handshake, with ids 0."""
        row = self.rows.peers[index]
        if not row.joined:
            with writing(row):
                row.joined = 1
            self._changed_peer(index)

    def set_way(self, index: int, way: Way | None) -> bool:
        """Enter how a peer is reached, None = not now; says whether that changed."""
        row = self.rows.peers[index]
        if way is None:
            if not row.resolved:
                return False
            with writing(row):
                row.resolved = 0
            self._changed_peer(index)
            return True
        if self._way(row) == way:
            return False
        with writing(row):
            row.port_index = way.port_index
            _put(row.source, way.source.packed)
            row.payload_max = way.payload_max
            _put(row.mac, way.mac)
            _put(row.source_mac, way.source_mac)
            row.resolved = way.resolved
        self._changed_peer(index)
        return True

    @staticmethod
    def _way(row: Any) -> Way | None:
        if not row.payload_max:
            return None
        known = bool(row.resolved)
        return Way(
            port_index=row.port_index,
            source=ip_address(bytes(row.source)[: 4 if row.family == 4 else 16]),
            payload_max=row.payload_max,
            mac=bytes(row.mac) if known else b"",
            source_mac=bytes(row.source_mac) if known else b"",
        )

    def _changed_peer(self, index: int) -> None:
        shm.lib.vk_peer_news(self._news, index)

    def tuning(self, index: int) -> Tuning:
        """Return what the session with a peer is tuned to."""
        row = self.rows.tunings[index]
        return {key: int(getattr(row, key)) for key in KEYS if getattr(row, key)}

    def set_tuning(self, index: int, tuning: Tuning) -> int:
        """Tune the session with a peer; returns the version that its signals tell back."""
        with writing(self.rows.tunings[index]) as row:
            for key in KEYS:
                setattr(row, key, tuning.get(key, 0))
            row.version = row.version % 0xFFFFFFFF + 1
        return int(row.version)

    # ---- Applications ----

    def free_slot(self, taken: set[int]) -> int | None:
        """Return a slot that nobody has, None when all are taken."""
        for index in range(lib.VK_APPS_MAX):
            if index not in taken and self.rows.apps[index].state == lib.VK_ROW_FREE:
                return index
        return None

    def set_application(self, slot: int, grant: Grant, uid: int, pid: int) -> int:
        """Enter an application, which reaches no peer yet; returns its slot's new generation."""
        row, size = self.rows.apps[slot], -(-self.rows.peer_count // 8)
        ffi.memmove(self.rows.reach[slot].peers, bytes(size), size)
        with writing(row):
            row.class_mask = grant.class_mask
            row.weight = grant.weight
            row.generation = row.generation % 0xFFFFFFFF + 1
            row.uid, row.pid = uid, pid
            row.range_count = len(grant.streams)
            for i, streams in enumerate(grant.streams):
                row.range_first[i], row.range_last[i] = streams.first, streams.last
            row.rate_messages, row.rate_bytes = grant.rate_messages, grant.rate_bytes
            row.many_peers = 0
            row.state = lib.VK_ROW_LIVE
        return int(row.generation)

    def set_many_peers(self, slot: int) -> None:
        """Have an application's streams with one peer not keep those with others waiting."""
        with writing(self.rows.apps[slot]) as row:
            row.many_peers = 1

    def set_application_state(self, slot: int, state: int) -> None:
        """Mark an application as closing, or its slot as free."""
        with writing(self.rows.apps[slot]) as row:
            row.state = state

    def let_reach(self, slot: int, index: int) -> None:
        """Let an application open streams to a peer, as long as both have their rows."""
        self.rows.reach[slot].peers[index // 8] |= 1 << index % 8

    # ---- Services ----

    def services(self) -> dict[str, tuple[int, int]]:
        """Return slot and generation of the application behind every service."""
        return {
            bytes(row.name)[: row.name_size].decode(): (row.app, row.app_generation)
            for row in self.rows.services
            if row.state == lib.VK_ROW_LIVE
        }

    def add_service(self, name: str, slot: int, generation: int) -> bool:
        """Bind a service; False when its application has no fewer than it leaves to all."""
        owners = list(self.services().values())
        if owners.count((slot, generation)) >= lib.VK_SERVICES_MAX - len(owners):
            return False
        rows = enumerate(self.rows.services)
        number, row = next(each for each in rows if each[1].state == lib.VK_ROW_FREE)
        for index in self._rights:
            self._refuse(index, number, name)
        data = name.encode()
        with writing(row):
            _put(row.name, data)
            row.name_size = len(data)
            row.app, row.app_generation = slot, generation
            row.state = lib.VK_ROW_LIVE
        self._changed_services()
        return True

    def remove_service(self, name: str) -> None:
        """Unbind a service."""
        data = name.encode()
        for row in self.rows.services:
            if row.state == lib.VK_ROW_LIVE and bytes(row.name)[: row.name_size] == data:
                with writing(row):
                    row.state = lib.VK_ROW_FREE
        self._changed_services()

    def _changed_services(self) -> None:
        shm.lib.vk_epoch_bump(_counter(self.rows, "service_epoch"))


def begin_application(counters: Any, slot: int, name: str, uid: int, pid: int) -> None:
    """Say in the counters page whose a slot's counters are from now on."""
    counted = counters.apps[slot]
    ffi.memmove(counters.app_before[slot], counted, ffi.sizeof(counted))
    _put(counters.app_name[slot], name.encode()[:31])
    counters.app_uid[slot], counters.app_pid[slot] = uid, pid
