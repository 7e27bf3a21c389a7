"""Aeron in C, with a media driver a host. It is not packaged: whoever has built it says where.

``VALKYRIE_AERON`` names a folder that holds ``aeronmd``, ``libaeron.so`` and ``aeronc.h``, at
whatever depth: an installation, or Aeron's source with its build in it. Drivers are set up for
throughput, as its guides to performance advise: what they take by default is for small machines.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from perf.arena import Arena
from perf.contestant import Contestant, MissingError

from . import sides

FOLDER = "VALKYRIE_AERON"
SHARED_MEMORY = Path("/dev/shm")
_streams = itertools.count(1001, 2)
"""Ids that no run before has used."""
TERM = "term-length=8m"
"""Of a channel: three such terms are its memory, where defaults are 16 MiB, and 64 on one host."""
MESSAGE_MAX = 1 << 20
"""Bytes: an eighth of a term, Aeron's limit."""
BUFFER_BYTES = 2 << 20
"""Of sockets, and what a receiver lets come at once."""
HEADERS, ALIGNMENT = 28, 32
"""Bytes of IPv4 and UDP in a packet; what the rest of it is a multiple of."""
TOGETHER = 16
"""Packets that are sent or received by one call: the most that a driver can."""
IDLE = "backoff"
"""What a driver without work does: ``yield`` its core, or ``backoff``, which sleeps after a while.
"""


@functools.cache
def _find(name: str) -> Path:
    folder = os.environ.get(FOLDER, "")
    if not folder:
        raise MissingError(f"Aeron is in no package: build it and set {FOLDER} to its folder")
    found = next((path for path in sorted(Path(folder).rglob(name)) if path.is_file()), None)
    if found is None:
        raise MissingError(f"Aeron: there is no {name} below {FOLDER}={folder}")
    return found.resolve()


def _side() -> tuple[str, ...]:
    library = _find("libaeron.so")
    _find("aeronmd")
    where = [f"-L{library.parent}", f"-Wl,-rpath,{library.parent}", "-laeron"]
    return sides.c("aeron", "Aeron", where, include=[_find("aeronc.h").parent])()


def _base(arena: Arena) -> Path:
    return SHARED_MEMORY / f"{arena.folder.name}-aeron"


def _allowed(direction: str) -> int:
    """Return the bytes of a socket's buffer as far as the kernel allows them."""
    return min(BUFFER_BYTES, int(Path(f"/proc/sys/net/core/{direction}mem_max").read_text("ascii")))


def settings(mtu: int) -> Iterator[str]:
    """Yield a driver's arguments on a link of an MTU; a window is never above its buffer."""
    receive, send = _allowed("r"), _allowed("w")
    payload = (mtu - HEADERS) // ALIGNMENT * ALIGNMENT
    for name, value in (
        ("threading.mode", "SHARED"),
        ("shared.idle.strategy", IDLE),
        ("socket.so_rcvbuf", receive),
        ("socket.so_sndbuf", send),
        ("rcv.initial.window.length", receive),
        ("mtu.length", payload),
        ("receiver.io.vector.capacity", TOGETHER),
        ("sender.io.vector.capacity", TOGETHER),
        ("network.publication.max.messages.per.send", TOGETHER),
        ("term.buffer.sparse.file", "false"),
    ):
        yield f"-Daeron.{name}={value}"


def _drivers(*roles: str) -> Callable[[Arena], None]:
    """Return what starts a media driver for each of *roles*; all its threads are one."""

    def prepare(arena: Arena) -> None:
        if arena.place == "network":
            arena.join()
        for role in roles:
            folder = Path(f"{_base(arena)}-{role}")
            argv = [str(_find("aeronmd")), f"-Daeron.dir={folder}", *settings(arena.mtu)]
            ready = functools.partial((folder / "cnc.dat").exists)
            arena.help(argv, ready=ready, name="aeronmd", role=role)
        if len(roles) == 1:  # both sides use it
            Path(f"{_base(arena)}-sender").symlink_to(f"{_base(arena)}-{roles[0]}")

    return prepare


def _udp(arena: Arena) -> str:
    here, there = arena.join()
    channels = [
        f"aeron:udp?endpoint={end.v4.ip}:{sides.LISTEN_PORT}|{TERM}" for end in (there, here)
    ]
    return f"{','.join(channels)},{next(_streams)}#{_base(arena)}"


def _ipc(arena: Arena) -> str:
    return f"aeron:ipc?{TERM},aeron:ipc?{TERM},{next(_streams)}#{_base(arena)}"


CONTESTANTS = tuple(
    Contestant(
        name=f"aeron-c-{transport}",
        title=f"Aeron (C), {transport}",
        family="Aeron",
        language="C",
        place=place,
        transport=transport,
        side=_side,
        address=address,
        prepare=prepare,
        size_max=MESSAGE_MAX,
    )
    for transport, place, address, prepare in (
        ("udp", "network", _udp, _drivers("receiver", "sender")),
        ("ipc", "local", _ipc, _drivers("receiver")),
    )
)
