"""What a node brings to every handshake: its keys, its policy, whom it trusts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.signing.signature import Algorithm

from .codes import Failure
from .errors import SecurityError
from .exchange import (
    TOKEN_SIZE_MIN,
    Exchange,
    NoiseExchange,
    PlainExchange,
    TokenExchange,
    token_id,
)
from .modes import Mode, NoisePattern, Policy
from .offer import NONCE_SIZE, Choice, Offer

if TYPE_CHECKING:
    from .identity import Identity
    from .providers import Prover
    from .tls import TlsCredentials
    from .trust import Peer, Trust

Entropy = Callable[[int], bytes]
"""``entropy(n)`` returns n random bytes."""


@dataclass(frozen=True, slots=True)
class Local:
    """This node. Its methods take the peer that is asked; None: we are asked, by anybody."""

    identity: Identity
    trust: Trust
    policy: Policy = field(default_factory=Policy)
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    """Shared with others, for token mode."""
    tls: TlsCredentials | None = None
    provers: Mapping[str, Prover] = field(default_factory=dict)
    """What shows evidence, by the provider's name."""

    def __post_init__(self) -> None:
        for secret in self.secrets:
            if len(secret) < TOKEN_SIZE_MIN:
                raise ConfigError(
                    f"a shared secret has {len(secret)} bytes, at least {TOKEN_SIZE_MIN} are "
                    "needed: make one with `valkyrie key token`",
                )

    def policy_for(self, peer: Peer | None) -> Policy:
        """Return the policy with what is demanded of the peer."""
        if peer is None:
            return self.policy
        return self.policy.tightened(peer.min_mode, require_pq=peer.require_pq, modes=peer.modes)

    def offer(self, peer: Peer | None, entropy: Entropy, extra: bytes = b"") -> Offer:
        """Return what we would do, only what we have the credentials for."""
        policy = self.policy_for(peer)
        patterns = policy.patterns
        if peer is not None and peer.card is not None:
            patterns = (peer.pattern, *(each for each in patterns if each is not peer.pattern))
            patterns = tuple(each for each in patterns if each is not NoisePattern.XX)
        elif peer is not None:
            patterns = tuple(each for each in patterns if each is NoisePattern.XX)
        modes = [mode for mode in policy.allowed() if self._has_credentials(mode, peer)]
        able = (each for each in policy.signatures if self.identity.able(each))
        signatures = (Algorithm.ED25519, *able)
        nonce = entropy(NONCE_SIZE)
        return Offer(nonce, tuple(modes), patterns, policy.ciphers, signatures, extra)

    def _has_credentials(self, mode: Mode, peer: Peer | None) -> bool:
        if mode is Mode.TOKEN:
            if peer is None:
                return bool(self.secrets)
            return peer.token_id in {token_id(secret) for secret in self.secrets}
        if mode is Mode.MTLS:
            return self.tls is not None and (peer is None or bool(peer.certificate_name))
        return True

    def evidence(self, peer: Peer | None, binding: bytes) -> bytes:
        """Return what a peer is to be shown beside our keys; empty: nothing."""
        if peer is None or not peer.show:
            return b""
        prover = self.provers[peer.show]
        if prover.bearer and peer.by_evidence:
            raise SecurityError(
                Failure.CREDENTIAL,
                f"'{peer.show}' is a bearer's token, and {peer.name} could be anybody by now: pin"
                " its fingerprint",
            )
        return prover.prove(binding)

    def check_floor(self, choice: Choice, peer: Peer | None) -> None:
        """Raise SecurityError for a choice below our floor, whoever computed it."""
        if not self.policy_for(peer).allows(choice.mode):
            raise SecurityError(
                Failure.FLOOR, f"{choice.mode.name.lower()} is below what this node demands"
            )

    def exchange(self, prologue: bytes, choice: Choice, peer: Peer | None) -> Exchange:
        """Return our side of the key exchange that was chosen."""
        initiator = peer is not None
        match choice.mode:
            case Mode.PLAINTEXT:
                return PlainExchange(prologue)
            case Mode.TOKEN:
                secrets = {token_id(secret): secret for secret in self.secrets}
                return TokenExchange(prologue, secrets, peer.token_id if peer else None)
            case Mode.MTLS:
                from .tls import TlsExchange

                assert self.tls is not None
                require_pq = self.policy_for(peer).require_pq
                return TlsExchange(prologue, self.tls, initiator=initiator, require_pq=require_pq)
            case _:
                return NoiseExchange(
                    prologue,
                    choice,
                    self.identity.exchange,
                    initiator=initiator,
                    remote_static=peer.card.exchange if peer and peer.card else None,
                )
