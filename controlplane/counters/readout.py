"""Reads a node's counters page: without the node's help, while it runs or after it crashed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from valkyrie.controlplane.config.settings import Controller
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import Class, Verdict
from valkyrie.shm import ffi
from valkyrie.shm.counters import XSK_COUNTS, CountersPage, text_of
from valkyrie.shm.errors import CountersError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRIES = 100
"""A worker writes a row in less than a microsecond."""
_NEVER = 2**64 - 1
_VERDICT_FIELDS = ("packets", "bytes", "messages")

Table = dict[str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """One counter, as ``stat`` prints it."""

    name: str
    labels: dict[str, str]
    value: int

    def __str__(self) -> str:
        labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in self.labels.items())
        return f"{self.name}{{{labels}}} {self.value}" if labels else f"{self.name} {self.value}"

    def document(self) -> dict[str, object]:
        """Return it for --json."""
        return {"name": self.name, "labels": self.labels, "value": self.value}


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return "".join(char if char.isprintable() else "?" for char in text)


@dataclass(frozen=True, slots=True)
class AppCounts:
    """Counters of an application's slot, by class."""

    slot: int
    name: str
    uid: int
    pid: int
    classes: dict[str, Table]


@dataclass(frozen=True, slots=True)
class PortCounts:
    """What the kernel did with the packets of a port."""

    port: int
    interface: str
    rx_mode: str
    tx_mode: str
    verdicts: dict[str, dict[str, Table]]
    """[class][verdict] -> packets, bytes, messages; without the rows that are all zero."""
    xsk: Table


@dataclass(frozen=True, slots=True)
class Signals:
    """How the session with a peer fares."""

    address: str
    controller: str
    values: Table
    """By the names in ``struct vk_signals``; without an RTT that was never measured."""


@dataclass(frozen=True, slots=True)
class Readout:
    """The page at one time."""

    node: str
    up: bool
    """The daemon lives, and its heart beats."""
    at_ns: int
    """CLOCK_MONOTONIC of the reading."""
    started_ns: int
    """CLOCK_REALTIME of the node's start."""
    daemon_pid: int
    classes: dict[str, Table]
    gauges: Table
    apps: list[AppCounts] = field(default_factory=list)
    ports: list[PortCounts] = field(default_factory=list)
    sessions: list[Signals] = field(default_factory=list)

    def rows(self) -> Iterator[Row]:
        """Yield every counter."""
        yield Row("node_up", {"node": self.node}, int(self.up))
        yield Row("node_started_ns", {}, self.started_ns)
        for name, value in self.gauges.items():
            yield Row(name, {}, value)
        for klass, table in self.classes.items():
            for name, value in table.items():
                yield Row(name, {"class": klass}, value)
        for app in self.apps:
            labels = {"slot": str(app.slot), "app": app.name, "uid": str(app.uid)}
            for klass, table in app.classes.items():
                for name, value in table.items():
                    yield Row(f"app_{name}", {**labels, "class": klass}, value)
        for port in self.ports:
            yield from _port_rows(port)
        for session in self.sessions:
            labels = {"peer": session.address}
            yield Row("session_info", {**labels, "controller": session.controller}, 1)
            for name, value in session.values.items():
                yield Row(f"session_{name}", labels, value)


def _port_rows(port: PortCounts) -> Iterator[Row]:
    labels = {"interface": port.interface, "port": str(port.port)}
    yield Row("port_info", {**labels, "rx": port.rx_mode, "tx": port.tx_mode}, 1)
    for name, value in port.xsk.items():
        yield Row(name, labels, value)
    for klass, verdicts in port.verdicts.items():
        for verdict, table in verdicts.items():
            for name, value in table.items():
                yield Row(f"kernel_{name}", {**labels, "class": klass, "verdict": verdict}, value)


class Page(CountersPage):
    """A node's counters page; the node by name, or by the path of its socket."""

    def __init__(self, node: str) -> None:
        """Map it; CountersError ENOENT, EACCES, or EPROTO if another version wrote it."""
        super().__init__(Path(node).stem if "/" in node else node)

    def successor(self) -> Page | None:
        """Return the page of the node that has started since, if one has."""
        try:
            page = Page(self.node)
        except CountersError:
            return None
        if page.struct.started_ns == self.struct.started_ns:
            page.close()
            return None
        return page

    def read(self) -> Readout:
        """Read everything; every counter is true, though not all of the same instant."""
        page = self.struct
        return Readout(
            node=text_of(page.node),
            up=self.running,
            at_ns=time.monotonic_ns(),
            started_ns=page.started_ns,
            daemon_pid=page.daemon_pid,
            classes={_name(klass): self.class_row(klass) for klass in Class},
            gauges=self.gauges(),
            apps=[app for slot in range(lib.VK_APPS_MAX) if (app := self._app(slot))],
            sessions=[
                session
                for index in range(min(page.peer_count, lib.VK_PEERS_MAX))
                if (session := _session(page.signals[index]))
            ],
            ports=[_port(i, name, row) for i, (name, row) in enumerate(self.ports())],
        )

    def _app(self, slot: int) -> AppCounts | None:
        """Return a slot's counters, if it ever had an application."""
        page = self.struct
        if not page.app_pid[slot] and not ffi.buffer(page.apps[slot])[:].strip(b"\0"):
            return None
        rows = {_name(klass): self.app_row(slot, klass) for klass in Class}
        classes = {klass: table for klass, table in rows.items() if any(table.values())}
        name = text_of(page.app_name[slot])
        return AppCounts(slot, name, page.app_uid[slot], page.app_pid[slot], classes)


def _name(member: Class | Verdict) -> str:
    return member.name.lower()


_SIGNALS = [
    name
    for name, field_ in ffi.typeof("struct vk_signals").fields
    if field_.type.cname == "uint64_t" or name in ("tuning", "reordering", "payload_max")
]


def _session(row: Any) -> Signals | None:
    """Return a session's signals, if there is one: of very many peers few have."""
    if not row.live:
        return None
    for _ in range(_TRIES):
        sequence = row.sequence
        copy = ffi.new("struct vk_signals *", row)
        if not sequence & 1 and row.sequence == sequence:
            break
    else:
        return None
    if not copy.live:
        return None
    address = bytes(copy.address)
    values = {name: int(getattr(copy, name)) for name in _SIGNALS}
    if values["rtt_min_ns"] == _NEVER:
        del values["rtt_min_ns"]
    return Signals(
        str(ip_address(address[:4] if copy.family == 4 else address)),
        get_args(Controller)[copy.controller],
        values,
    )


def _port(index: int, interface: str, row: Any) -> PortCounts:
    verdicts: dict[str, dict[str, Table]] = {}
    counts = {name: getattr(row, name) for name in _VERDICT_FIELDS}
    for klass in Class:
        for verdict in Verdict:
            table = {name: count[klass][verdict] for name, count in counts.items()}
            if any(table.values()):
                verdicts.setdefault(_name(klass), {})[_name(verdict)] = table
    return PortCounts(
        index,
        interface,
        text_of(row.rx_mode),
        text_of(row.tx_mode),
        verdicts,
        {name: int(getattr(row, name)) for name in XSK_COUNTS},
    )
