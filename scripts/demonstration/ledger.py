"""What became of everything: the nodes' own ledgers, and the wire between them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from perf.network import Network, Node
from valkyrie.dataplane import wire
from valkyrie.shm.counters import CountersPage

LOSSES = ("drop_", "refused_")
CLASS_NAMES = [klass.name.lower() for klass in wire.Class]
OURS = [verdict for verdict in wire.Verdict if verdict.action != "pass"]


def _frames_sent(page: CountersPage) -> int:
    """Datagrams that a node gave to the kernel and that the kernel did not lose."""
    rows = [page.class_row(index) for index in range(len(CLASS_NAMES))]
    workers = sum(row["tx_frames"] - row["drop_tx_frames"] for row in rows)
    return workers + int(page.struct.daemon_frames)


def _frames_seen(page: CountersPage, interface: str) -> int:
    """Valkyrie datagrams that the kernel's program saw on an interface."""
    return sum(
        port.packets[klass][verdict]
        for name, port in page.ports()
        if name == interface
        for klass in wire.Class
        for verdict in OURS
    )


def drops(network: Network) -> dict[str, dict[str, int]]:
    """Return, per host, how many were dropped where and why."""
    found: dict[str, dict[str, int]] = {}
    for host, node in network.nodes.items():
        reasons = found.setdefault(host, {})
        with CountersPage(node.name) as page:
            for index, name in enumerate(CLASS_NAMES):
                for counter, value in page.class_row(index).items():
                    if value and counter.startswith(LOSSES):
                        reasons[f"{counter} ({name})"] = value
            for interface, port in page.ports():
                for verdict in wire.Verdict:
                    packets = sum(port.packets[klass][verdict] for klass in wire.Class)
                    if packets and verdict.action == "drop":
                        reasons[f"{interface} {verdict.name.lower()}"] = packets
    return found


TRIES = 20
WAYS = {"a→b": ("a", "b"), "b→a, c": ("b", "a", "c")}
"""Who sends, and who hears that. What c sends besides handshakes no node knows of."""


def wires(nodes: Mapping[str, Node]) -> dict[str, int]:
    """Return, per sender, the frames that one node sent and no other's kernel saw.

    Nodes that do not find together ask each other again and again: it is read when nobody does.
    """
    with ExitStack() as stack:
        pages = {host: stack.enter_context(CountersPage(node.name)) for host, node in nodes.items()}
        for _ in range(TRIES):
            sent = {host: _frames_sent(page) for host, page in pages.items()}
            for node in nodes.values():
                node.status()  # copies the kernel's counters
            if sent == {host: _frames_sent(page) for host, page in pages.items()}:
                break
        return {
            f"wire {way}": sent[here] - sum(_frames_seen(pages[there], "vk0") for there in others)
            for way, (here, *others) in WAYS.items()
        }


def joined(network: Network) -> bool:
    """Say whether a and b have their session."""
    rows = [row for node in network.nodes.values() for row in node.status()["sessions"]]
    return all(row["state"] == "up" for row in rows if row["peer"] in network.nodes)


def balance(nodes: Mapping[str, Node], early: dict[str, int]) -> dict[str, Any]:
    """Return the residuals of every level; all are 0 when each message is accounted for.

    ``early`` is what ``wires`` said when the sessions were there and no application ran: greetings
    to a node that had not begun. It is shown beside the rest, and must not grow.
    """
    levels = {name: value - early[name] for name, value in wires(nodes).items()}
    for host, node in nodes.items():
        levels[f"node {host}"] = node.status()["ledger"]["residual"]
    return {
        "residual": sum(abs(value) for value in levels.values()),
        "levels": levels,
        "early": early,
    }


def interfaces(network: Network) -> dict[str, Any]:
    """Return the mode of each host's interface and why it is that."""
    found: dict[str, Any] = {}
    for host, node in network.nodes.items():
        row = node.status()["interfaces"][0]
        found[host] = {
            "mode": f"rx {row['rx']['mode']}, tx {row['tx']['mode']}",
            "reason": f"rx: {row['rx']['reason']}; tx: {row['tx']['reason']}",
        }
    return found
