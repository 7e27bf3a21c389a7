"""Both paths beside each other on the same link: small messages by an application in C."""

from __future__ import annotations

import os
from typing import Any

import valkyrie
from perf import blast
from perf.network import Network
from tests.lab import laboratory

from .protection import MODES

SIZE = 64
MESSAGES = 1_500_000
BATCH = 128
PINGS = 5_000
DEADLINE_NS = 4_000_000_000
RING_BYTES = 4_194_304


def _receive(ready: int) -> None:
    with valkyrie.attach_sync("demo-b", ring_size=RING_BYTES) as node:
        service = node.listen("beside")
        os.close(ready)
        end = blast.accept(service)
        result = end.receive(MESSAGES, deadline_ns=DEADLINE_NS)
        end.stream.send(int(result.per_second).to_bytes(8, "big"))
        blast.accept(service).echo(PINGS, deadline_ns=DEADLINE_NS)


def _send() -> tuple[int, float]:
    with valkyrie.attach_sync("demo-a", ring_size=RING_BYTES) as node:
        peer = node.connect("b")
        stream = peer.open("beside", stream=1000)
        blast.begin(stream).send(SIZE, MESSAGES, batch=BATCH, deadline_ns=DEADLINE_NS)
        answer = stream.recv(timeout=10)
        rate = int.from_bytes(answer.payload, "big") if answer else 0
        times = blast.begin(peer.open("beside", stream=100)).ping(
            SIZE, PINGS, deadline_ns=DEADLINE_NS
        )
        return rate, times[len(times) // 2] / 1e3 if times else 0.0


def _run(path: str) -> tuple[int, float]:
    with laboratory() as lab:
        network = Network(lab, path, name="demo", modes=MODES)
        try:
            network.start()
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    _receive(writer)
                finally:
                    os._exit(0)
            os.close(writer)
            try:
                os.read(reader, 1)  # returns when the service is there
                return _send()
            finally:
                os.close(reader)
                os.waitpid(pid, 0)
        finally:
            network.stop()


def measure() -> dict[str, Any]:
    """Return messages a second that arrived, and the median round trip, on both paths."""
    udp, udp_us = _run("udp")
    xdp, xdp_us = _run("xdp")
    return {
        "size": SIZE,
        "messages_per_second": udp,
        "p50_us": round(udp_us, 1),
        "xdp_messages_per_second": xdp,
        "xdp_p50_us": round(xdp_us, 1),
    }
