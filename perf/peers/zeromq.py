"""ZeroMQ, in C and through pyzmq, over TCP, CURVE and Unix sockets."""

from __future__ import annotations

from collections.abc import Callable

from perf.arena import Arena
from perf.contestant import Contestant

from . import sides

_SIDES = {
    "C": sides.c("zeromq", "libzmq3-dev", ("-lzmq",)),
    "Python": sides.python("zeromq", "pyzmq", "zmq"),
}


def _curve(arena: Arena) -> str:
    return f"{sides.tcp('tcp://')(arena)}#{arena.folder}/server.key"


def _make(language: str, place: str, transport: str, address: Callable[[Arena], str]) -> Contestant:
    return Contestant(
        name=f"zeromq-{language.lower()}-{transport}",
        title=f"ZeroMQ ({language}), {transport}",
        family="ZeroMQ",
        language=language,
        place=place,
        transport=transport,
        side=_SIDES[language],
        address=address,
        encrypted=transport == "curve",
    )


CONTESTANTS = tuple(
    _make(language, *how)
    for language in _SIDES
    for how in (
        ("network", "tcp", sides.tcp("tcp://")),
        ("network", "curve", _curve),
        ("local", "ipc", sides.path("ipc://")),
    )
)
