"""What a peer has proven about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .identity import Card
    from .modes import Mode


@dataclass(frozen=True, slots=True)
class Claim:
    """What a peer has proven, and how."""

    mode: Mode
    quantum_safe: bool = False
    card: Card | None = None
    """Its identity, in the modes that use Noise."""
    name: str = ""
    """Of its certificate (mtls) or of the shared secret (token)."""
    serials: tuple[int, ...] = ()
    """Of its certificate and those above it, also where that was evidence."""
    evidence: bytes = field(default=b"", repr=False)
    """Of an authentication provider, for ``binding``; not verified yet, and gone when it is."""
    binding: bytes = b""
