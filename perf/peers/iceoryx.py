"""iceoryx in C++, with its daemon RouDi."""

from __future__ import annotations

from pathlib import Path

from perf.arena import Arena
from perf.contestant import Contestant, MissingError

from . import sides

_VERSIONS = Path("/usr/include/iceoryx")
CHUNK_MAX = 4_000_000
"""Bytes of the largest chunk that RouDi makes by itself, less its header."""


def _roudi(arena: Arena) -> None:
    if "iceoryx" in sides.lacking():
        raise MissingError(f"iceoryx: {sides.lacking()['iceoryx']}")
    log = arena.folder / "iceoryx.log"
    argv = ["iox-roudi", "--log-level", "warning"]
    arena.help(argv, ready=lambda: "ready" in log.read_text(errors="replace"), name="iceoryx")


CONTESTANTS = (
    Contestant(
        name="iceoryx-c",
        title="iceoryx (C++)",
        family="iceoryx",
        language="C",
        place="local",
        transport="iceoryx",
        side=sides.c(
            "iceoryx",
            "libiceoryx-posh-dev",
            ("-liceoryx_posh", "-liceoryx_hoofs", "-liceoryx_platform"),
            include=sorted(_VERSIONS.glob("v*")),
        ),
        address=sides.path(),
        prepare=_roudi,
        size_max=CHUNK_MAX,
    ),
)
