"""How a session is protected, and what proves the control frames that belong to it.

CLOSE, PING and PONG go outside the session's sealed frames: by a proof, which is a keyed hash over
type and payload with a key of the session and of the direction. A repeated one does nothing: CLOSE
ends the session whose key it is, and every question has a number of its own.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from valkyrie.controlplane.security.keys import Direction
from valkyrie.controlplane.security.modes import Mode
from valkyrie.dataplane import lib
from valkyrie.dataplane.control import Close, ControlError, Option, Ping, Pong, SessionTerms

if TYPE_CHECKING:
    from valkyrie.controlplane.security.handshake import Established
    from valkyrie.controlplane.security.modes import NoisePattern

_LABEL = "control"
_Provable = TypeVar("_Provable", Close, Ping, Pong)


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """What the frames of a session begin with: for the key ring, and for nobody else."""

    seals: bytes
    opens: bytes


@dataclass(frozen=True, slots=True)
class Protection:
    """Of one session."""

    cipher: int = lib.VK_CIPHER_NONE
    """enum vk_cipher of its frames."""
    mode: Mode | None = None
    """None: an earlier daemon knew."""
    pattern: NoisePattern | None = None
    quantum_safe: bool = False
    fingerprint: str = ""
    """The peer's; empty where the mode has none."""
    serials: tuple[int, ...] = ()
    """Of the peer's certificate, and of those above it."""
    subject: str = ""
    """Whose evidence the peer has shown, where some is demanded."""
    ends_ns: int | None = None
    """When it is to be over; None: it need not be."""
    ours: bytes = field(default=b"", repr=False)
    theirs: bytes = field(default=b"", repr=False)

    @classmethod
    def of(
        cls, event: Established, now_ns: int, *, asked: bool
    ) -> tuple[Protection, Secrets | None]:
        """Return what a handshake has led to; ``asked``: we did."""
        ends_ns = None if event.lifetime_ns is None else now_ns + event.lifetime_ns
        schedule, card = event.schedule, event.claim.card
        if schedule is None:
            return cls(mode=event.choice.mode, ends_ns=ends_ns), None
        there, back = Direction.THERE, Direction.BACK
        out, into = (there, back) if asked else (back, there)
        protection = cls(
            event.choice.cipher,
            event.choice.mode,
            event.choice.pattern,
            event.claim.quantum_safe,
            str(card.fingerprint) if card is not None else "",
            event.claim.serials,
            event.grant.subject,
            ends_ns,
            ours=schedule.export(_LABEL, bytes([out])),
            theirs=schedule.export(_LABEL, bytes([into])),
        )
        return protection, Secrets(schedule.traffic(out), schedule.traffic(into))

    @property
    def keyed(self) -> bool:
        """Whether the session has keys."""
        return bool(self.cipher != lib.VK_CIPHER_NONE)

    @property
    def able(self) -> bool:
        """Whether we can prove anything in it."""
        return not self.keyed or bool(self.ours)

    def prove(self, message: _Provable) -> _Provable:
        """Return the message with its proof, if the session has keys."""
        if not self.ours:
            return message
        proof = Option(lib.VK_OPTION_PROOF, _tag(self.ours, message))
        return replace(message, options=(*message.options, proof))

    def proves(self, message: Close | Ping | Pong) -> bool:
        """Say whether the peer of this session sent the message."""
        if not self.keyed:
            return True
        proof = message.option(lib.VK_OPTION_PROOF)
        if proof is None or not self.theirs:
            return False
        return hmac.compare_digest(proof, _tag(self.theirs, message))


def turned_away(event: Established, code: int) -> list[Close]:
    """Return what ends a session that only the peer takes to be there; it has answered us."""
    try:
        theirs = SessionTerms.parse(event.terms)
    except ControlError:
        return []
    protection, _ = Protection.of(event, 0, asked=True)
    return [protection.prove(Close(code, theirs.session))]


PLAIN = Protection(mode=Mode.PLAINTEXT)


def _tag(key: bytes, message: Close | Ping | Pong) -> bytes:
    others = tuple(each for each in message.options if each.kind != lib.VK_OPTION_PROOF)
    said = bytes([message.type]) + replace(message, options=others).payload()
    return hmac.digest(key, said, "sha256")[: lib.VK_PROOF_SIZE]
