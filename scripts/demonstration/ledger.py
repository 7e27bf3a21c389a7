"""What became of everything: the nodes' own ledgers, and the wire between them."""

from __future__ import annotations

from typing import Any

from perf.network import Network
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


def wires(network: Network) -> dict[str, int]:
    """Return, per direction, the frames that one node sent and the other's kernel never saw."""
    levels: dict[str, int] = {}
    pages = {host: CountersPage(node.name) for host, node in network.nodes.items()}
    try:
        for here, there in (("a", "b"), ("b", "a")):
            levels[f"wire {here}→{there}"] = _frames_sent(pages[here]) - _frames_seen(
                pages[there], "vk0"
            )
    finally:
        for page in pages.values():
            page.close()
    return levels


def joined(network: Network) -> bool:
    """Say whether all nodes have their sessions."""
    rows = [row for node in network.nodes.values() for row in node.status()["sessions"]]
    return all(row["state"] == "up" for row in rows)


def balance(network: Network, early: dict[str, int]) -> dict[str, Any]:
    """Return the residuals of every level; all are 0 when each message is accounted for.

    ``early`` is what ``wires`` said when the sessions were there and no application ran: greetings
    to a node that had not begun. It is shown beside the rest, and must not grow.
    """
    levels = {name: value - early[name] for name, value in wires(network).items()}
    for host, node in network.nodes.items():
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
