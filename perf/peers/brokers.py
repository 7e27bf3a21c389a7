"""NATS and Redis, each with its server beside the receiver."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from perf.arena import Arena
from perf.contestant import Contestant, MissingError

from . import sides


def _answers(arena: Arena, ip: str) -> Callable[[], bool]:
    """Return what says whether the server accepts connections."""

    def ask() -> bool:
        with arena.hosts["receiver"].socket(kind=socket.SOCK_STREAM) as caller:
            caller.settimeout(1)
            return caller.connect_ex((ip, sides.LISTEN_PORT)) == 0

    return ask


def _start(package: str, command: Callable[[str, str], Sequence[str]]) -> Callable[[Arena], None]:
    def prepare(arena: Arena) -> None:
        if package in sides.lacking():
            raise MissingError(f"{package}: {sides.lacking()[package]}")
        ip = arena.receiver_ip()
        argv = command(ip, str(sides.LISTEN_PORT))
        arena.help(argv, ready=_answers(arena, ip), name=package)

    return prepare


def _nats(ip: str, port: str) -> Sequence[str]:
    return ["nats-server", "--addr", ip, "--port", port]


def _redis(ip: str, port: str) -> Sequence[str]:
    quiet = ["--save", "", "--appendonly", "no", "--protected-mode", "no"]
    unbounded = ["--client-output-buffer-limit", "pubsub 0 0 0"]
    return ["redis-server", "--bind", ip, "--port", port, *quiet, *unbounded]


CONTESTANTS = tuple(
    Contestant(
        name=f"{name}-python",
        title=title,
        family=family,
        language="Python",
        place="network",
        transport=name,
        side=sides.python(name, package, name),
        address=sides.tcp(),
        prepare=prepare,
        size_max=1_000_000,
    )
    for name, title, family, package, prepare in (
        ("nats", "NATS (nats-py)", "NATS", "nats-py", _start("nats-server", _nats)),
        ("redis", "Redis pub/sub (redis-py)", "Redis", "redis", _start("redis-server", _redis)),
    )
)
