"""What is compared: an adapter a system, each as data and two commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .arena import Arena
from .scenario import Scenario

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "perf"
PYTHON = BUILD / "venv" / "bin" / "python"


class MissingError(RuntimeError):
    """A contestant cannot run here; the text says why."""


def nothing(arena: Arena) -> None:
    """Start no helper."""


@dataclass(frozen=True)
class Contestant:
    """One system in one language over one transport."""

    name: str
    title: str
    family: str
    language: str
    """Of the application: ``C`` or ``Python``."""
    place: str
    transport: str
    """The word that its sides know it by."""
    side: Callable[[], tuple[str, ...]]
    """Gives the command of a side, or raises MissingError."""
    address: Callable[[Arena], str]
    """Gives what both sides are told."""
    prepare: Callable[[Arena], None] = nothing
    """Starts what runs beside the sides."""
    encrypted: bool = False
    shapes: frozenset[str] = frozenset({"stream", "request", "open"})
    size_max: int = 64 << 20
    ours: bool = False
    batched: bool = False
    """The application hands over many messages a call, or holds back what it sends."""
    shares: str = ""
    """Contestants of the same word share hosts and helpers."""

    @property
    def arena(self) -> str:
        """Return the name of the arena it runs in."""
        return self.shares or self.name

    def fits(self, scenario: Scenario) -> bool:
        """Say whether this contestant can answer the question."""
        return (
            self.place == scenario.place
            and scenario.shape in self.shapes
            and scenario.size <= self.size_max
            and self.encrypted == scenario.encrypted
        )
