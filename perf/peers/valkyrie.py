"""Valkyrie itself: whole nodes on both paths, and channels between applications of one host."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Sequence

from perf.arena import Arena, descendants
from perf.contestant import ROOT, Contestant
from perf.network import PLAINTEXT, Network

from . import sides

_numbers = itertools.count()
ONE_RECORD, LARGEST = 65_000, 64 << 20
"""Bytes of messages: channels between applications and calls for many know of no fragments."""


def _ours(module: str) -> Callable[[], tuple[str, ...]]:
    return lambda: (sys.executable, "-m", f"perf.sides.{module}")


WAYS = {"udp": ("udp", "udp"), "xdp": ("xdp", "udp"), "xdp-tx": ("xdp", "xdp")}
"""How nodes receive and send, by the word in a contestant's name."""
TITLES = {"udp": "udp", "xdp": "xdp in, udp out", "xdp-tx": "xdp both ways"}


def nodes(way: str, modes: Sequence[str], queues: int = 1) -> Callable[[Arena], None]:
    """Return what starts a node on each host that receives and sends by *way*."""
    path, tx = WAYS[way]

    def prepare(arena: Arena) -> None:
        name = f"perf-{os.getpid()}-{next(_numbers)}"
        of = arena.pinning.core
        cpus = of("sender", arena.place), of("receiver", arena.place)
        network = Network(
            *(arena.lab, path),
            name=name,
            cpus=cpus,
            modes=modes,
            mtu=arena.mtu,
            queues=queues,
            tx=tx,
        )
        arena.adopt(network.wire)
        arena.closing.callback(network.stop)
        network.start()
        for node in network.nodes.values():
            status = node.status()
            known = {status[part]["pid"]: part for part in ("broker", "daemon", "worker")}
            arena.helpers.update({pid: known.get(pid, "other") for pid in descendants(node.pid)})
        arena.facts["nodes"] = f"{name}-b {name}-a"

    return prepare


PARTS = ("client", "gather", "inlet", "reader")
_C = sides.c(
    "valkyrie",
    sources=[
        *(ROOT / "shm" / f"{name}.c" for name in ("vk_channel", "vk_row")),
        *(ROOT / "dataplane" / "application" / f"vk_{name}.c" for name in PARTS),
    ],
    include=[ROOT / layer for layer in ("bpf", "shm", "dataplane/application")],
    run_by=_ours("valkyrie_c")(),
)


def _network(
    language: str,
    how: str,
    way: str,
    side: Callable[[], tuple[str, ...]],
    shapes: set[str],
    *,
    encrypted: bool = False,
) -> Contestant:
    apart = {("C", "single"): ", one a call", ("Python", "batch"): ", batches"}.get((language, how))
    words = ["valkyrie", language.lower(), *([how] if apart else []), way]
    title = f"Valkyrie ({language}{apart or ''}), {TITLES[way]}"
    return Contestant(
        name="-".join([*words, "noise"] if encrypted else words),
        title=f"{title}, AES-256-GCM" if encrypted else title,
        family="Valkyrie",
        language=language,
        place="network",
        transport=how,
        side=side,
        address=lambda arena: arena.facts["nodes"],
        prepare=nodes(way, ("noise",) if encrypted else PLAINTEXT),
        encrypted=encrypted,
        shapes=frozenset(shapes),
        size_max=ONE_RECORD if how == "batch" else LARGEST,
        ours=True,
        batched=how in ("batch", "rings"),
        shares=f"valkyrie-{way}{'-noise' if encrypted else ''}",
    )


_PIPE = sides.c(
    "pipe",
    sources=[ROOT / "shm" / f"{name}.c" for name in ("vk_pipe", "vk_channel", "vk_row", "vk_wake")],
    include=[ROOT / "shm"],
)


def _local(
    language: str, how: str, side: Callable[[], tuple[str, ...]], shapes: set[str]
) -> Contestant:
    batch = how.endswith("batch")
    return Contestant(
        name=f"valkyrie-{language.lower()}-local{'-batch' if batch else ''}",
        title=f"Valkyrie channel ({language}{', batches' if batch else ''})",
        family="Valkyrie",
        language=language,
        place="local",
        transport=how,
        side=side,
        address=sides.path(),
        shapes=frozenset(shapes),
        size_max=ONE_RECORD,
        ours=True,
        batched=batch,
    )


MANY = {"streams", "logs", "beside", "applications", "marked"}
ALL, BULK = {"stream", "request", "open"}, {"stream"}
CONTESTANTS = (
    _network("C", "rings", "xdp-tx", _C, ALL),
    _network("C", "rings", "xdp-tx", _C, ALL, encrypted=True),
    *(
        _network(*how, way=way, side=side, shapes=shapes)
        for way in ("udp", "xdp")
        for how, side, shapes in (
            (("C", "rings"), _C, ALL | MANY),
            (("C", "single"), _C, BULK),
            (("Python", "single"), _ours("valkyrie"), ALL),
            (("Python", "batch"), _ours("valkyrie"), {"stream", "open"}),
        )
    ),
    *(
        _network(*how, way=way, side=side, shapes=shapes, encrypted=True)
        for way in ("udp", "xdp")
        for how, side, shapes in (
            (("C", "rings"), _C, ALL),
            (("C", "single"), _C, BULK),
            (("Python", "single"), _ours("valkyrie"), ALL),
            (("Python", "batch"), _ours("valkyrie"), BULK),
        )
    ),
    _local("C", "pipe", _PIPE, ALL),
    _local("C", "pipe-batch", _PIPE, BULK),
    _local("Python", "local", _ours("valkyrie"), ALL),
    _local("Python", "local-batch", _ours("valkyrie"), BULK),
)
