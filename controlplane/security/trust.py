"""Who is let in, once it is proven who asks. The handshake calls ``admit`` and obeys."""

from __future__ import annotations

import time
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

    from valkyrie.dataplane.signing.fingerprint import Fingerprint

    from .claim import Claim
    from .identity import Card
    from .providers import Verifier


@dataclass(frozen=True, slots=True)
class Grant:
    """Who was let in, and how long."""

    peer: str
    lifetime_ns: int | None = None
    subject: str = ""
    """Whose the evidence was, where some was demanded ..."""
    serials: tuple[int, ...] = ()
    """... and of its certificate, and those above it."""


class Trust(Protocol):
    """Decides about proven claims."""

    def admit(self, claim: Claim, expected: Peer | None = None) -> Grant:
        """Return whom to let in; raises SecurityError for a peer that is not let in.

        ``expected`` is who should be where the claim came from: its own demands say what is asked
        of it, and nothing that the claim says.
        """


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
    lifetime_ns: int | None = None
    demand: str = ""
    """The provider whose evidence it must show; empty: none ..."""
    subject: str = ""
    """... and whose; empty: it has the peer's name."""
    show: str = ""
    """The provider whose evidence it is shown."""

    @property
    def pin(self) -> Fingerprint | None:
        """The fingerprint that the peer must have."""
        return self.card.fingerprint if self.card is not None else self.fingerprint

    @property
    def by_evidence(self) -> tuple[str, str] | None:
        """Provider and subject that it is known by, and by nothing else."""
        known = self.pin is not None or self.token_id is not None or self.certificate_name
        return (self.demand, self.whose) if self.demand and not known else None

    @property
    def whose(self) -> str:
        """The subject whose evidence it has to show, if any is demanded."""
        return self.subject or self.name

    @property
    def unprotected(self) -> bool:
        """Whether it is talked to in plaintext only: whoever has its address is it."""
        return self.modes == frozenset({Mode.PLAINTEXT})


@dataclass(slots=True)
class Pins:
    """Trust in the peers that somebody named; in plaintext mode nobody can prove a name."""

    peers: Mapping[str, Peer]
    revocations: Revocations = field(default_factory=Revocations)
    verifiers: Mapping[str, Verifier] = field(default_factory=dict)
    """By the provider's name."""
    clock: Callable[[], int] = time.time_ns
    """Unix time, nanoseconds."""

    def __post_init__(self) -> None:
        for what in ("pin", "token_id", "certificate_name", "by_evidence"):
            seen: dict[object, str] = {}
            for peer in self.peers.values():
                value = getattr(peer, what)
                if value and value in seen:
                    raise ConfigError(
                        f"peers {seen[value]} and {peer.name} have the same {what}: nobody could "
                        "tell them apart"
                    )
                seen[value] = peer.name

    def admit(self, claim: Claim, expected: Peer | None = None) -> Grant:
        """Return whom to let in: what they may do is not asked here."""
        if claim.mode is Mode.PLAINTEXT:
            return Grant("")
        self.revocations.check(claim)
        peer = expected if expected is not None and expected.by_evidence else self._find(claim)
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
        grant = Grant(peer.name, peer.lifetime_ns)
        return self._narrowed(grant, peer, claim) if peer.demand else grant

    def check_certificate(self, certificate: x509.Certificate) -> None:
        """Raise SecurityError for a certificate that is revoked by now."""
        self.revocations.check_certificate(certificate)

    def _narrowed(self, grant: Grant, peer: Peer, claim: Claim) -> Grant:
        """Return a grant that lasts no longer than the evidence that is demanded."""
        verifier = self.verifiers.get(peer.demand)
        if verifier is None:
            raise SecurityError(Failure.CREDENTIAL, f"nobody here can check '{peer.demand}'")
        if not claim.evidence:
            raise SecurityError(
                Failure.CREDENTIAL,
                f"{peer.name} has shown nothing for [[auth]] '{peer.demand}', which is demanded of"
                " it: let its [[peer]] table for this node have a `show`",
            )
        now_ns = self.clock()
        subject = verifier.check(claim.evidence, claim.binding, now_ns)
        if subject.name != peer.whose:
            raise SecurityError(
                Failure.IDENTITY, f"{peer.name} should be '{peer.whose}' and is '{subject.name}'"
            )
        self.revocations.check_subject(subject.name)
        if subject.fingerprint:
            shown = str(claim.card.fingerprint) if claim.card is not None else "of no fingerprint"
            if shown != subject.fingerprint:
                what = f"the token is bound to {subject.fingerprint}, and {peer.name} is {shown}"
                raise SecurityError(Failure.CREDENTIAL, what)
        elif subject.bearer and peer.by_evidence:
            raise SecurityError(
                Failure.CREDENTIAL,
                f"nothing but a bearer's token tells {peer.name} from who has copied it: have it"
                " bound to the fingerprint (cnf.vkfp), or pin the fingerprint too",
            )
        for certificate in subject.chain:
            self.check_certificate(certificate)
        serials = tuple(each.serial_number for each in subject.chain)
        left_ns = None if subject.expires_ns is None else subject.expires_ns - now_ns
        lifetimes = [each for each in (grant.lifetime_ns, left_ns) if each is not None]
        lifetime_ns = min(lifetimes, default=None)
        return Grant(grant.peer, lifetime_ns, subject.name, serials)

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
