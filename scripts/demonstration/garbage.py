"""Malformed frames that a third host throws at a node, made with scapy, one a reason to drop."""

from __future__ import annotations

import socket
import time

from valkyrie.dataplane import wire

from .tally import Tally

BURST = 32


def frames(source_mac: str, mac: str, source: str, address: str) -> list[bytes]:
    """Return whole Ethernet frames, each malformed in another way."""
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    good = wire.Header(type=wire.Type.LOG_ENTRY, stream=10_001, length=32).pack() + bytes(32)
    payloads = [
        good[:11],  # ends inside the header
        b"\xde\xad" + good[2:],  # magic
        good[:2] + b"\x7f" + good[3:],  # version
        good[:3] + b"\x3f" + good[4:],  # reserved type
        good[:7] + b"\x01" + good[8:24] + b"\x03\x00\x00\x00" + good[24:],  # extension of no words
        good[:7] + b"\xff" + good[8:],  # extensions past the end
        good + b"trailing",  # longer than it says
        good[:-8],  # shorter than it says
        b"",
    ]
    base = Ether(src=source_mac, dst=mac) / IP(src=source, dst=address)
    port = wire.PORT
    made = [bytes(base / UDP(sport=port, dport=port) / Raw(payload)) for payload in payloads]
    made.append(bytes(base / UDP(sport=9, dport=9) / Raw(b"not ours: must pass")))
    return made


def throw(raw: socket.socket, packets: list[bytes], tally: Tally, rate: int) -> None:
    """Send the packets round and round at ``rate`` a second while senders go on."""
    begin, sent = time.monotonic(), 0
    while tally.sending:
        due = int((time.monotonic() - begin) * rate)
        if sent >= due:
            time.sleep(0.001)
            continue
        for packet in packets[: min(BURST, due - sent)]:
            raw.send(packet)
            sent += 1
        tally.garbage = sent
