"""The kernel's own: TCP, TLS over TCP, Unix sockets, UDP in batches and with its offloads."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

from perf.arena import Arena
from perf.contestant import Contestant
from perf.targets import KERNEL

from . import sides

_PYTHON = sides.python("sockets")
_C = sides.c("sockets", sources=[sides.SOURCES / "plain.c"])
_TLS = sides.c("tls", libraries=("-lssl", "-lcrypto"), sources=[sides.SOURCES / "sockets.c"])
_UDP = sides.c("datagrams")
UDP_BYTES_MAX = 1472
"""A datagram in a frame of 1514 bytes."""


def certificate(arena: Arena) -> None:
    """Make the receiver's key and certificate of this run."""
    pem, key = arena.folder / "server.pem", arena.folder / "server.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", f"subjectAltName=DNS:localhost,IP:{arena.receiver_ip()}"),
            *("-keyout", key, "-out", pem),
        ],
        check=True,
        capture_output=True,
    )
    pem.write_bytes(pem.read_bytes() + key.read_bytes())


def tls(arena: Arena) -> str:
    """Return the receiver's address and, after ``#``, its certificate."""
    return f"{sides.tcp()(arena)}#{arena.folder}/server.pem"


def _kernel(
    name: str, title: str, language: str, place: str, address: Callable[[Arena], str], **more: Any
) -> Contestant:
    return Contestant(
        name=f"{name}-{language.lower()}",
        title=f"{title} ({language})",
        family=KERNEL,
        language=language,
        place=place,
        transport=name,
        side=more.pop("side", _C if language == "C" else _PYTHON),
        address=address,
        **more,
    )


STREAM_ONLY = frozenset({"stream"})
CONTESTANTS = (
    _kernel("tcp", "TCP", "C", "network", sides.tcp()),
    _kernel(
        "tcp-buffered",
        "TCP, writes of 64 KiB",
        "C",
        "network",
        sides.tcp(),
        shapes=STREAM_ONLY,
        batched=True,
    ),
    _kernel("tcp", "TCP", "Python", "network", sides.tcp()),
    _kernel(
        *("tls", "TLS over TCP", "C", "network", tls),
        side=_TLS,
        prepare=certificate,
        encrypted=True,
    ),
    _kernel(
        *("tls-buffered", "TLS over TCP, writes of 64 KiB", "C", "network", tls),
        side=_TLS,
        prepare=certificate,
        encrypted=True,
        shapes=STREAM_ONLY,
        batched=True,
    ),
    _kernel("tls", "TLS over TCP", "Python", "network", tls, prepare=certificate, encrypted=True),
    _kernel(
        *("udp", "UDP in batches", "C", "network", sides.tcp()),
        side=_UDP,
        size_max=UDP_BYTES_MAX,
        batched=True,
    ),
    _kernel(
        *("udp-gso", "UDP with GSO and GRO", "C", "network", sides.tcp()),
        side=_UDP,
        size_max=UDP_BYTES_MAX,
        batched=True,
        shapes=STREAM_ONLY,
    ),
    _kernel("unix", "Unix stream", "C", "local", sides.path()),
    _kernel("unix", "Unix stream", "Python", "local", sides.path()),
)
