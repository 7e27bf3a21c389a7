"""Who is let in, once it is proven who asks. The handshake calls ``admit`` and obeys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from valkyrie.dataplane.errors import ConfigError

from .codes import Failure
from .errors import SecurityError
from .modes import Mode, NoisePattern
from .revocation import Revocations

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography import x509

    from .claim import Claim
    from .fingerprint import Fingerprint
    from .identity import Card
    from .providers import Verifier


@dataclass(frozen=True, slots=True)
class Grant:
    """What it may do, and how long."""

    peer: str
    rights: frozenset[str] = frozenset()
    lifetime_ns: int | None = None
    subject: str = ""
    """On whose behalf, where there was evidence."""


class Trust(Protocol):
    """Decides about proven claims."""

    def admit(self, claim: Claim) -> Grant:
        """Return what the peer may do; raises SecurityError for a peer that is not let in."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer as the configuration has it: how it is known, and what it must do at least."""

    name: str
    fingerprint: Fingerprint | None = None
    card: Card | None = None
    """Known in full: spares the first contact."""
    token_id: bytes | None = None
    certificate_name: str = ""
    modes: frozenset[Mode] | None = None
    """What may be with it, of what the node takes part in; None: all."""
    min_mode: Mode | None = None
    require_pq: bool = False
    pattern: NoisePattern = NoisePattern.XK
    """The one to ask with when the card is known."""
    rights: frozenset[str] = frozenset()
    lifetime_ns: int | None = None
    evidence: bool = False
    """It must also show evidence, when it asks, which the verifier takes."""

    @property
    def pin(self) -> Fingerprint | None:
        """The fingerprint that the peer must have."""
        return self.card.fingerprint if self.card is not None else self.fingerprint

    @property
    def unprotected(self) -> bool:
        """Whether it is talked to in plaintext only: whoever has its address is it."""
        return self.modes == frozenset({Mode.PLAINTEXT})


@dataclass(slots=True)
class Pins:
    """Trust in the peers that somebody named, and in nobody else.

    ``strangers`` are the rights of peers that nobody named, in plaintext mode only: there nobody
    can prove a name.
    """

    peers: Mapping[str, Peer]
    revocations: Revocations = field(default_factory=Revocations)
    strangers: frozenset[str] = frozenset()
    verifier: Verifier | None = None
    clock: Callable[[], int] | None = None
    """Unix time, nanoseconds; goes with the verifier."""

    def __post_init__(self) -> None:
        assert (self.verifier is None) == (self.clock is None)
        for what in ("pin", "token_id", "certificate_name"):
            seen: dict[object, str] = {}
            for peer in self.peers.values():
                value = getattr(peer, what)
                if value and value in seen:
                    raise ConfigError(
                        f"peers {seen[value]} and {peer.name} have the same {what}: nobody could "
                        "tell them apart"
                    )
                seen[value] = peer.name

    def admit(self, claim: Claim) -> Grant:
        """Return what the peer may do."""
        if claim.mode is Mode.PLAINTEXT:
            return Grant("", self.strangers)
        self.revocations.check(claim)
        peer = self._find(claim)
        if claim.mode < (peer.min_mode or Mode.PLAINTEXT):
            raise SecurityError(
                Failure.FLOOR,
                f"{peer.name} is pinned to {peer.min_mode!r} and came with {claim.mode!r}",
            )
        if peer.modes is not None and claim.mode not in peer.modes:
            raise SecurityError(
                Failure.FLOOR, f"{peer.name} is not known by what {claim.mode!r} proves"
            )
        if peer.require_pq and not claim.quantum_safe:
            raise SecurityError(Failure.FLOOR, f"{peer.name} is pinned to post-quantum keys")
        grant = Grant(peer.name, peer.rights, peer.lifetime_ns)
        return self._narrowed(grant, claim) if peer.evidence else grant

    def check_certificate(self, certificate: x509.Certificate) -> None:
        """Raise SecurityError for a certificate that is revoked by now."""
        self.revocations.check_certificate(certificate)

    def _narrowed(self, grant: Grant, claim: Claim) -> Grant:
        """Return what both the peer and the subject of its evidence may do."""
        if self.verifier is None or self.clock is None:
            raise SecurityError(
                Failure.CREDENTIAL,
                f"{grant.peer} is to show evidence and nobody here can check any: configure a "
                "provider",
            )
        now_ns = self.clock()
        subject = self.verifier.check(claim.evidence, claim.binding, now_ns)
        lifetimes = [grant.lifetime_ns, (subject.expires_ns or 0) - now_ns]
        if subject.expires_ns is None:
            lifetimes.pop()
        lifetime_ns = min((each for each in lifetimes if each is not None), default=None)
        return Grant(grant.peer, grant.rights & subject.rights, lifetime_ns, subject.name)

    def _find(self, claim: Claim) -> Peer:
        if claim.card is None:
            for peer in self.peers.values():
                known = peer.token_id.hex() if peer.token_id is not None else ""
                if claim.name and claim.name == (
                    known if claim.mode is Mode.TOKEN else peer.certificate_name
                ):
                    return peer
            raise SecurityError(Failure.IDENTITY, f"nobody here knows a peer {claim.name}")
        fingerprint = claim.card.fingerprint
        for peer in self.peers.values():
            if peer.pin == fingerprint:
                return peer
        raise SecurityError(
            Failure.IDENTITY,
            f"nobody here knows {fingerprint}: if it is the peer's own (`valkyrie key show` there),"
            " let it in with `valkyrie peer add`",
        )
