"""Critical frames that a third host forges: well made, but for their tokens."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from perf.network import Network
from valkyrie.dataplane import wire
from valkyrie.shm.counters import CountersPage

from .protection import session
from .tally import Tally

POLICY = """
[class.critical]
token = true
"""
"""Host b lets critical frames in only with a token."""
INTERFACE = "vk1"
RATE = 1000
REASONS = {
    verdict.reason: verdict for verdict in wire.Verdict if verdict.name.startswith("DROP_TOKEN_")
}


def frames(network: Network) -> dict[str, bytes]:
    """Return whole Ethernet frames by the reason to drop each.

    They name the session that b has with a, as somebody could who listens between the two.
    """
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    source, target = network.stranger
    node = network.nodes["b"]
    local = int(session(node, "a")["local"], 16)
    generation = node.status()["tokens"]["generation"]
    units = time.monotonic_ns() >> 30
    tokens = {
        "token_missing": None,
        "token_generation": wire.Token(generation + 1000 & 0xFFFF, units + 1000, 1),
        "token_expired": wire.Token(generation, units - 5, 1),
        "token_forged": wire.Token(generation, units + 1000, 1),
    }
    lead = wire.Session(local, 1 << 40, space=wire.class_space(wire.Class.CRITICAL))
    base = Ether(src=source.mac, dst=target.mac) / IP(src=source.v4.ip, dst=target.v4.ip)
    base /= UDP(sport=wire.PORT, dport=wire.PORT)
    made = {}
    for reason, token in tokens.items():
        shown = [token] if token is not None else []
        data = wire.make_frame(wire.Type.STREAM_DATA, 0, b"open the door", lead, *shown)
        made[reason] = bytes(base / Raw(data.pack()))
    return made


def throw(
    raw: socket.socket, made: Mapping[str, bytes], tally: Tally, thrown: Counter[str]
) -> None:
    """Send the frames round and round while senders go on, and count them by reason."""
    begin = time.monotonic()
    while tally.sending:
        due = int((time.monotonic() - begin) * RATE / len(made))
        for reason, packet in made.items():
            while thrown[reason] < due:
                raw.send(packet)
                thrown[reason] += 1
        time.sleep(0.002)


def document(network: Network, thrown: Mapping[str, int]) -> dict[str, Any]:
    """Return what was thrown, what the kernel dropped of it and why, and what got through."""
    network.nodes["b"].status()  # copies the kernel's counters
    with CountersPage(network.nodes["b"].name) as page:
        ports = {name: port.packets[wire.Class.CRITICAL] for name, port in page.ports()}
        dropped = {
            reason: {name: int(row[verdict]) for name, row in ports.items()}
            for reason, verdict in REASONS.items()
        }
        let_in = int(ports[INTERFACE][wire.Verdict.STEER])
    return {
        "class": "critical",
        "thrown": dict(thrown),
        "dropped": {reason: row[INTERFACE] for reason, row in dropped.items()},
        "let_in": let_in,
        "refused_wrongly": sum(row["vk0"] for row in dropped.values()),
    }


def verdict(document: dict[str, Any]) -> list[str]:
    """Return what is wrong, one sentence each."""
    wrong = []
    if document["let_in"]:
        wrong.append(f"{document['let_in']} critical frames of the third host were let in")
    if document["dropped"] != document["thrown"] or not all(document["dropped"].values()):
        wrong.append(f"forged frames, and those that the kernel dropped, differ: {document}")
    if document["refused_wrongly"]:
        wrong.append(f"{document['refused_wrongly']} frames of a were refused for their tokens")
    return wrong


def lines(document: dict[str, Any]) -> list[str]:
    """Return its lines of the page."""
    by = ", ".join(f"{name} {count}" for name, count in sorted(document["dropped"].items()))
    thrown = sum(document["thrown"].values())
    return [
        f"forged    {thrown} critical frames of the third host, {document['let_in']} let in",
        f"          dropped in XDP: {by}",
    ]
