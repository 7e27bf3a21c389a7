"""Libraries for Python without a server: gRPC, aioquic, zenoh, iceoryx2, multiprocessing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from perf.arena import Arena
from perf.contestant import Contestant

from . import sides
from .sockets import certificate, tls

_GRPC = sides.python("grpc", "grpcio", "grpc")


def _make(name: str, title: str, place: str, **more: Any) -> Contestant:
    family, _, transport = name.partition("-")
    return Contestant(
        name=f"{name}-python",
        title=f"{title} (Python)",
        family=more.pop("family", family),
        language="Python",
        place=place,
        transport=transport or family,
        **more,
    )


def _grpc(
    transport: str, title: str, place: str, address: Callable[[Arena], str], **more: Any
) -> Contestant:
    return _make(
        f"grpc-{transport}", title, place, family="gRPC", side=_GRPC, address=address, **more
    )


CONTESTANTS = (
    _grpc("plain", "gRPC", "network", sides.tcp()),
    _grpc("tls", "gRPC over TLS", "network", tls, prepare=certificate, encrypted=True),
    _grpc("uds", "gRPC over a Unix socket", "local", sides.path("unix:")),
    _make(
        "zenoh",
        "zenoh, TCP",
        "network",
        side=sides.python("zenoh", "eclipse-zenoh", "zenoh"),
        address=sides.tcp("tcp/"),
    ),
    _make(
        "aioquic",
        "QUIC, aioquic",
        "network",
        side=sides.python("quic", "aioquic", "aioquic"),
        address=tls,
        prepare=certificate,
        encrypted=True,
    ),
    _make(
        "iceoryx2",
        "iceoryx2",
        "local",
        side=sides.python("iceoryx2", "iceoryx2", "iceoryx2"),
        address=sides.path(),
    ),
    _make(
        "multiprocessing",
        "multiprocessing.connection",
        "local",
        side=sides.python("connection"),
        address=sides.path(),
    ),
)
