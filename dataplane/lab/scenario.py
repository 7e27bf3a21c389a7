"""Scenarios of the lab: nodes, links between them, traffic, and what happens to all of it.

A scenario is data with a TOML form; vk_lab.h says what its numbers do. Names carry their units:
``_ms``, ``_us``, ``_mbps`` (10^6 bits per second), ``_bytes``; chances are shares from 0 to 1.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec

from valkyrie.dataplane import lib as wire
from valkyrie.dataplane._lab import ffi, lib
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.units import NS_PER_MS, NS_PER_US
from valkyrie.dataplane.wire import FIRST_STREAMS, Class

if TYPE_CHECKING:
    from collections.abc import Iterable

PPB = 1_000_000_000
BPS_PER_MBPS = 1_000_000

LOGS_END = FIRST_STREAMS[Class.LOGS] + 100_000
"""Ids of logs that traffics are given; there is no last one."""


Amount = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Chance = Annotated[float, msgspec.Meta(ge=0, le=1)]


class _Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Link(_Row, frozen=True, kw_only=True):
    """One direction between two nodes."""

    rate_mbps: Amount = 0
    """0: no limit."""
    delay_ms: Amount = 0.05
    jitter_ms: Amount = 0
    buffer_bytes: Count = 0
    """What waits for the rate; 0: no limit."""
    mark_bytes: Count = 0
    """CE from so much waiting on; 0: never."""
    policer_mbps: Amount = 0
    policer_bytes: Count = 0
    loss: Chance = 0
    bad_enter: Chance = 0
    """Gilbert-Elliott: from the good state to the bad one, a packet."""
    bad_leave: Chance = 0
    bad_loss: Chance = 0
    reorder: Chance = 0
    reorder_ms: Amount = 0
    duplicate: Chance = 0
    corrupt: Chance = 0
    mtu: Count = 0
    """Bytes of the largest IP packet; 0: any."""
    down: bool = False

    def fill(self, row: Any) -> None:
        """Write it into a struct vk_link_config."""
        row.rate_bps = round(self.rate_mbps * BPS_PER_MBPS)
        row.delay_ns = round(self.delay_ms * NS_PER_MS)
        row.jitter_ns = round(self.jitter_ms * NS_PER_MS)
        row.buffer_bytes = self.buffer_bytes
        row.mark_bytes = self.mark_bytes
        row.policer_bps = round(self.policer_mbps * BPS_PER_MBPS)
        row.policer_bytes = self.policer_bytes
        row.loss_ppb = round(self.loss * PPB)
        row.bad_enter_ppb = round(self.bad_enter * PPB)
        row.bad_leave_ppb = round(self.bad_leave * PPB)
        row.bad_loss_ppb = round(self.bad_loss * PPB)
        row.reorder_ppb = round(self.reorder * PPB)
        row.reorder_ns = round(self.reorder_ms * NS_PER_MS)
        row.duplicate_ppb = round(self.duplicate * PPB)
        row.corrupt_ppb = round(self.corrupt * PPB)
        row.mtu = self.mtu
        row.down = self.down
        row.overhead = lib.VK_LINK_OVERHEAD


class Path(Link, frozen=True, kw_only=True):
    """The link from one node to another, where it is not the scenario's."""

    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    shared: str = ""
    """Paths of the same name are one link: they share its rate and its buffer."""


class Node(_Row, frozen=True, kw_only=True):
    """A node; times model its CPU."""

    name: str
    mtu: Count = 1500
    socket_frames: Count = 4096
    """Datagrams that the socket of a class holds."""
    turn_us: Amount = 1
    packet_us: Amount = 0.1
    wake_us: Amount = 5
    stall: Chance = 0
    """Chance that its worker is held up between reading the clock and the turn ..."""
    stall_us: Amount = 0
    """... for so long."""
    ready_bytes: Count = 0
    """Its interface takes no more while so much waits for a link; 0: it always takes."""
    window_start: Count = lib.VK_WINDOW_START
    session_window: Count = 1 << 20
    ack_delay_us: Count = 1000
    params: dict[str, int] = {}
    """Of its worker, by their names in struct vk_params."""
    tuning: dict[str, int] = {}
    """Of its sessions, by their names in struct vk_tuning."""


class App(_Row, frozen=True, kw_only=True):
    """An application of a node."""

    name: str
    node: str
    ring_bytes: Count = 1 << 18
    wake_us: Amount = 10
    consume_mbps: Amount = 0
    """What its code takes of what came; 0: everything at once."""


class Traffic(_Row, frozen=True, kw_only=True):
    """Streams from one application to another."""

    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    klass: str = msgspec.field(name="class", default="data")
    streams: Count = 1
    concurrent: Count = 1
    ids: Count = 0
    """Stream ids in use; 0: as many as streams, if the class has them."""
    messages: Count = 100
    size: int | tuple[int, int] = 1000
    """Bytes, or the least and the most. What is over 64 KiB goes in fragments, as libraries cut it:
    ``sent`` and ``arrived`` count them."""
    sizes: Literal["uniform", "log"] = "uniform"
    burst: Count = 1
    interval_us: Amount = 0
    """Between two bursts of a stream; 0: as fast as it goes."""
    reply: bool = False
    outstanding: Count = 0
    """Requests without an answer at once; 0: any."""
    flush: bool = False
    start_ms: Amount = 0


Kind = Literal[
    "kill-worker",
    "stop-worker",
    "restart-node",
    "freeze",
    "thaw",
    "hold",
    "take",
    "detach",
    "leave",
    "attach",
    "link",
    "rebind",
    "renew",
    "replay",
    "tune",
]

KINDS: dict[str, int] = {
    "kill-worker": lib.VK_LAB_KILL_WORKER,
    "stop-worker": lib.VK_LAB_STOP_WORKER,
    "restart-node": lib.VK_LAB_RESTART_NODE,
    "freeze": lib.VK_LAB_FREEZE,
    "thaw": lib.VK_LAB_THAW,
    "hold": lib.VK_LAB_HOLD,
    "take": lib.VK_LAB_TAKE,
    "detach": lib.VK_LAB_DETACH,
    "leave": lib.VK_LAB_LEAVE,
    "attach": lib.VK_LAB_ATTACH,
    "link": lib.VK_LAB_LINK,
    "rebind": lib.VK_LAB_REBIND,
    "renew": lib.VK_LAB_RENEW,
    "replay": lib.VK_LAB_REPLAY,
    "tune": lib.VK_LAB_TUNE,
}

OF_NODES = ("kill-worker", "stop-worker", "restart-node", "rebind", "renew", "replay", "tune")


class Event(_Row, frozen=True, kw_only=True):
    """Something that happens at a time of the scenario."""

    at_ms: Amount
    kind: Kind
    node: str = ""
    app: str = ""
    source: str = msgspec.field(name="from", default="")
    target: str = msgspec.field(name="to", default="")
    packets: Count = 1000
    """To send once more, at most."""
    for_ms: Amount = 0
    """How long a worker or node is away, or until others know a node's new address."""
    link: Link | None = None
    """What the link from one node to another becomes."""
    params: dict[str, int] = {}
    """What the node's are to be from now on, beside those that it began with ..."""
    tuning: dict[str, int] = {}
    """... and of its sessions."""


Cipher = Literal["none", "chacha20-poly1305", "aes-256-gcm"]
"""In the order of enum vk_cipher."""

Without = Literal["nothing", "recovery", "credit", "budget"]
"""In the order of enum vk_lab_without."""


class Scenario(_Row, frozen=True, kw_only=True):
    """Everything about a run."""

    name: str = ""
    seed: Count = 1
    limit_s: Amount = 60
    linger_ms: Amount = 50
    """It goes on so long when everything has come: nothing more may."""
    sample_ms: Amount = 0
    reliable: bool = True
    """Everything of a reliable class has to arrive, once."""
    corrupt_through: bool = False
    """Damaged packets pass the checksum."""
    cipher: Cipher = "none"
    """What all sessions' frames are sealed with."""
    unchecked: bool = False
    """Content is not looked at."""
    without: Without = "nothing"
    """A negative control: engines do not send again, or heed no limits, or no bound of memory."""
    spurious: Amount = 0
    """That share of the packets may be declared lost and arrive after all; 0: any."""
    held_bytes: Count = 0
    """A library never holds more for one stream; 0: any."""
    again: Amount = 0
    """Links may carry that share of bytes more than messages need; 0: any."""
    timed: bool = False
    link: Link = Link()
    nodes: tuple[Node, ...] = (Node(name="left"), Node(name="right"))
    apps: tuple[App, ...] = (App(name="left", node="left"), App(name="right", node="right"))
    paths: tuple[Path, ...] = ()
    traffic: tuple[Traffic, ...] = ()
    events: tuple[Event, ...] = ()


def parse(text: str, file: str = "scenario.toml") -> Scenario:
    """Return the scenario in a TOML text; ConfigError when there is anything wrong with it."""
    try:
        return msgspec.convert(tomllib.loads(text), Scenario)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {error}") from None


def _index(rows: Iterable[Any], name: str, what: str) -> int:
    names = [row.name for row in rows]
    if name not in names:
        known = ", ".join(names)
        raise ConfigError(f"the scenario has no {what} {name!r}: it has {known}")
    return names.index(name)


def _bounded(rows: tuple[Any, ...], limit: int, what: str) -> None:
    if len(rows) > limit:
        raise ConfigError(f"the scenario has {len(rows)} {what}: {limit} are possible")


class _Ids:
    """Gives the traffics of a scenario stream ids that do not meet."""

    def __init__(self) -> None:
        self._next: dict[tuple[frozenset[int], Class], int] = {}

    def take(self, nodes: frozenset[int], traffic: Traffic) -> tuple[int, int]:
        """Return the first id of a traffic and how many it has."""
        try:
            klass = Class[traffic.klass.upper()]
            first = FIRST_STREAMS[klass]
        except KeyError:
            known = ", ".join(each.name.lower() for each in FIRST_STREAMS)
            raise ConfigError(
                f"class {traffic.klass!r} of a traffic: it is one of {known}"
            ) from None
        end = min((each for each in FIRST_STREAMS.values() if each > first), default=LOGS_END)
        at = self._next.get((nodes, klass), first)
        count = min(traffic.ids or traffic.streams, end - at)
        if count < traffic.concurrent:
            raise ConfigError(
                f"{traffic.concurrent} {traffic.klass} streams at once between two nodes: "
                f"the class has {end - at} ids left for them"
            )
        self._next[nodes, klass] = at + count
        return at, count


def _fill_params(row: Any, node: Node, now: Node | Event) -> None:
    """Write what a node begins with, and what it is to have now."""
    lib.vk_lab_params(ffi.addressof(row, "params"))
    for name, value in (node.tuning | now.tuning).items():
        if not hasattr(row.tuning, name):
            raise ConfigError(f"node {node.name}: tuning: {name!r} is none of struct vk_tuning")
        setattr(row.tuning, name, value)
    for name, value in (node.params | now.params).items():
        if not hasattr(row.params, name):
            raise ConfigError(f"node {node.name}: a worker has no parameter {name!r}")
        setattr(row.params, name, value)


def _fill_node(row: Any, node: Node) -> None:
    _fill_params(row, node, node)
    row.mtu = node.mtu
    row.socket_frames = node.socket_frames
    row.turn_ns = round(node.turn_us * NS_PER_US)
    row.packet_ns = round(node.packet_us * NS_PER_US)
    row.wake_ns = round(node.wake_us * NS_PER_US)
    row.stall_ns = round(node.stall_us * NS_PER_US)
    row.stall_ppb = round(node.stall * PPB)
    row.ready_bytes = node.ready_bytes
    row.window_start = node.window_start
    row.session_window = node.session_window
    row.ack_delay_us = node.ack_delay_us


def _fill_links(raw: Any, scenario: Scenario) -> None:
    """Give every pair of nodes a link: its own path's, a shared one, or the scenario's."""
    paths = {}
    for each in scenario.paths:
        source = _index(scenario.nodes, each.source, "node")
        paths[source, _index(scenario.nodes, each.target, "node")] = each
    links: list[Link] = []
    shared: dict[str, int] = {}
    for a in range(len(scenario.nodes)):
        for b in range(len(scenario.nodes)):
            path = paths.get((a, b))
            name = path.shared if path is not None else ""
            if a == b:
                continue
            raw.route[a][b] = shared.get(name, len(links))
            if name in shared:
                continue
            if name:
                shared[name] = len(links)
            links.append(scenario.link if path is None else path)
    raw.link_count = len(links)
    for number, link in enumerate(links):
        link.fill(raw.links[number])


def _fill_traffic(row: Any, traffic: Traffic, scenario: Scenario, ids: _Ids) -> None:
    source = _index(scenario.apps, traffic.source, "application")
    target = _index(scenario.apps, traffic.target, "application")
    ends = (scenario.apps[source].node, scenario.apps[target].node)
    nodes = frozenset(_index(scenario.nodes, end, "node") for end in ends)
    if len(nodes) < 2:
        raise ConfigError(
            f"{traffic.source} and {traffic.target} are on one node: no link joins it"
        )
    setattr(row, "from", source)
    row.to = target
    row.stream, row.stream_span = ids.take(nodes, traffic)
    row.streams, row.concurrent = traffic.streams, traffic.concurrent
    row.messages = traffic.messages
    if isinstance(traffic.size, int):
        row.size_min = row.size_max = traffic.size
        row.size_kind = lib.VK_LAB_SIZE_FIXED
    else:
        row.size_min, row.size_max = traffic.size
        log = traffic.sizes == "log"
        row.size_kind = lib.VK_LAB_SIZE_LOG if log else lib.VK_LAB_SIZE_UNIFORM
    if row.size_min > row.size_max:
        raise ConfigError(f"size {traffic.size}: the least and the most bytes, in this order")
    if traffic.klass == "logs" and row.size_max > wire.VK_SHARDED_MAX:
        raise ConfigError(f"logs of {row.size_max} bytes: they have {wire.VK_SHARDED_MAX} at most")
    row.burst = traffic.burst
    row.reply = traffic.reply
    row.outstanding = traffic.outstanding
    row.flush = traffic.flush
    row.interval_ns = round(traffic.interval_us * NS_PER_US)
    row.start_ns = round(traffic.start_ms * NS_PER_MS)


def _fill_event(row: Any, event: Event, scenario: Scenario, raw: Any) -> None:
    row.at_ns = round(event.at_ms * NS_PER_MS)
    row.kind = KINDS[event.kind]
    row.value = event.packets if event.kind == "replay" else round(event.for_ms * NS_PER_MS)
    if event.kind == "link":
        source = _index(scenario.nodes, event.source, "node")
        target = _index(scenario.nodes, event.target, "node")
        row.target = raw.route[source][target]
        (event.link or scenario.link).fill(row.link)
    elif event.kind in OF_NODES:
        row.target = _index(scenario.nodes, event.node, "node")
        _fill_params(row, scenario.nodes[row.target], event)
    else:
        row.target = _index(scenario.apps, event.app, "application")


def fill(raw: Any, scenario: Scenario, seed: int | None = None) -> None:
    """Write a scenario into a zeroed struct vk_lab_scenario; ConfigError when it cannot be."""
    try:
        _fill(raw, scenario, seed)
    except OverflowError as error:
        raise ConfigError(f"a number of the scenario is out of range: {error}") from None


def _fill(raw: Any, scenario: Scenario, seed: int | None) -> None:
    _bounded(scenario.nodes, lib.VK_LAB_NODES_MAX, "nodes")
    _bounded(scenario.apps, lib.VK_LAB_APPS_MAX, "applications")
    _bounded(scenario.traffic, lib.VK_LAB_TRAFFICS_MAX, "traffics")
    _bounded(scenario.events, lib.VK_LAB_FAULTS_MAX, "events")
    raw.seed = scenario.seed if seed is None else seed
    raw.limit_ns = round(scenario.limit_s * 1000 * NS_PER_MS)
    raw.linger_ns = round(scenario.linger_ms * NS_PER_MS)
    raw.sample_ns = round(scenario.sample_ms * NS_PER_MS)
    raw.reliable, raw.timed = scenario.reliable, scenario.timed
    raw.corrupt_through, raw.unchecked = scenario.corrupt_through, scenario.unchecked
    raw.cipher = get_args(Cipher).index(scenario.cipher)
    raw.without = get_args(Without).index(scenario.without)
    raw.spurious_ppm = round(scenario.spurious * 1_000_000)
    raw.held_bytes = scenario.held_bytes
    raw.again_ppm = round(scenario.again * 1_000_000)
    raw.node_count, raw.app_count = len(scenario.nodes), len(scenario.apps)
    raw.traffic_count, raw.fault_count = len(scenario.traffic), len(scenario.events)
    for number, node in enumerate(scenario.nodes):
        _fill_node(raw.nodes[number], node)
    for number, app in enumerate(scenario.apps):
        row = raw.apps[number]
        row.node = _index(scenario.nodes, app.node, "node")
        row.ring_bytes = app.ring_bytes
        row.wake_ns = round(app.wake_us * NS_PER_US)
        row.consume_bps = round(app.consume_mbps * BPS_PER_MBPS / 8)
    _fill_links(raw, scenario)
    ids = _Ids()
    for number, traffic in enumerate(scenario.traffic):
        _fill_traffic(raw.traffics[number], traffic, scenario, ids)
    for number, event in enumerate(sorted(scenario.events, key=lambda each: each.at_ms)):
        _fill_event(raw.faults[number], event, scenario, raw)
