"""The status document: everything a person or a tool may want to know of a running node."""

from __future__ import annotations

import json
import os
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from valkyrie.controlplane.broker import messages
from valkyrie.controlplane.broker.messages import Kind, Message
from valkyrie.controlplane.config import reader as configuration
from valkyrie.controlplane.counters import ledger
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.errors import DataPlaneError
from valkyrie.dataplane.wire import Class

if TYPE_CHECKING:
    from .daemon import Daemon

_PHASES = {
    lib.VK_WORKER_NONE: "none",
    lib.VK_WORKER_RUNNING: "running",
    lib.VK_WORKER_STOPPED: "stopped",
    lib.VK_WORKER_FAILED: "failed",
}


def streams(work: Any) -> dict[int, int]:
    """Return the open streams by application slot."""
    found: dict[int, int] = {}
    if not work.flow_count:
        return found
    step = ffi.sizeof("struct vk_flow") // 4
    states = memoryview(ffi.buffer(work.flows)).cast("I")[::step].tolist()
    for index, state in enumerate(states):
        if state == lib.VK_ROW_LIVE:
            slot = work.flows[index].app
            found[slot] = found.get(slot, 0) + 1
    return found


async def document(daemon: Daemon) -> dict[str, object]:
    """Return the document; asks the broker for what only it can see."""
    census: dict[str, object] = {}
    fills: dict[str, object] = {}
    kept_in: dict[str, object] = {}
    try:
        kept_in = json.loads((await daemon.broker.ask(Message(Kind.PROCESSES))).text)
        fills = json.loads((await daemon.broker.ask(Message(Kind.COUNT))).text)
        census = json.loads((await daemon.broker.ask(Message(Kind.CENSUS))).text)
    except DataPlaneError as error:
        census = {"error": str(error.args[-1])}
    config = daemon.config
    source = daemon.watch.rates(messages.SOURCE)
    return {
        "node": config.node.name,
        "udp_port": config.node.udp_port,
        "version": version("valkyrie"),
        "uptime_s": round(time.time() - daemon.counters.started_ns / 1e9, 3),
        "broker": {"pid": os.getppid()},
        "daemon": {"pid": os.getpid(), "restarts": daemon.inherited.restarts},
        "worker": _worker(daemon),
        "sandbox": kept_in,
        "interfaces": daemon.inherited.interfaces,
        "peers": daemon.peers.describe(),
        "sessions": daemon.links.describe(),
        "refused_control": dict(daemon.links.sessions.refused),
        "handshakes": daemon.links.sessions.kept(),
        "applications": _applications(daemon, fills),
        "classes": {klass.name.lower(): _limits(daemon, klass) for klass in Class},
        "source": dict(zip(("rate_packets", "burst_packets"), source, strict=True)),
        "refused": dict(daemon.apps.refused),
        "security": daemon.prepared.credentials.describe(),
        "tokens": daemon.tokens.describe(),
        "audit": daemon.audit.describe(),
        "alarms": daemon.watch.describe(),
        "violations": daemon.figures.violations,
        "control_frames": dict(daemon.figures.control_frames),
        "census": census,
        "ledger": ledger.balance(daemon.counters).document(),
    }


def _limits(daemon: Daemon, klass: Class) -> dict[str, object]:
    rate, burst = daemon.watch.rates(klass)
    quantum = configuration.limits(daemon.config, klass).quantum_bytes
    return {
        "rate_packets": rate,
        "burst_packets": burst,
        "quantum_bytes": quantum,
        "token": configuration.limits(daemon.config, klass).token,
    }


def _worker(daemon: Daemon) -> dict[str, object]:
    work = daemon.work
    silent_ns = time.monotonic_ns() - work.heartbeat_ns
    return {
        "pid": daemon.figures.worker_pid,
        "phase": _PHASES.get(work.phase, "unknown"),
        "starts": int(work.starts),
        "restarts": daemon.figures.worker_deaths,
        "silent_ms": round(silent_ns / 1e6, 1) if work.heartbeat_ns else None,
        "streams": int(work.flow_count),
        "spin_us": daemon.config.worker.spin_us,
        "budget_frames": daemon.config.worker.budget_frames,
    }


def _applications(daemon: Daemon, fills: dict[str, object]) -> list[dict[str, object]]:
    open_streams = streams(daemon.work)
    return [
        {
            "slot": each.slot,
            "name": each.name,
            "uid": each.who.uid,
            "pid": each.who.pid,
            "rule": each.grant.rule if each.grant else "",
            "classes": sorted(klass.name.lower() for klass in each.grant.classes)
            if each.grant
            else [],
            "services": sorted(each.services),
            "streams": open_streams.get(each.slot, 0),
            "fill": fills.get(str(each.slot), {}),
        }
        for each in sorted(daemon.apps.connections, key=lambda c: c.slot)
        if each.attached
    ]
