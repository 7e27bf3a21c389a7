"""What handshakes are told by the configuration: what the node demands, how it knows its peers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from valkyrie.controlplane.rest import beating, unseen
from valkyrie.controlplane.security.modes import SIGNED, Cipher, Mode, Policy, Rhythm
from valkyrie.controlplane.security.trust import Peer, Pins
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.signing.fingerprint import parse_fingerprint
from valkyrie.dataplane.signing.signature import Algorithm
from valkyrie.dataplane.units import NS_PER_S

from . import settings_auth
from .settings_base import WrongKeyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from valkyrie.controlplane.security.identity import Card
    from valkyrie.dataplane.signing.fingerprint import Fingerprint

    from .settings import Config
    from .settings_peer import Peer as PeerSettings
    from .settings_security import Security

_KNOWN_BY = ("fingerprint", "card", "token", "certificate", "demand")
_BY_KEY = frozenset({Mode.NOISE, *SIGNED})
"""Modes in which a peer proves the key that its fingerprint is of."""


def policy(security: Security) -> Policy:
    """Return what the node demands; WrongKeyError when no session could ever be."""
    modes = frozenset(Mode[name.upper()] for name in security.modes)
    min_mode = Mode[security.min_mode.upper()] if security.min_mode else min(modes)
    ciphers = tuple(dict.fromkeys(Cipher[name.upper()] for name in security.ciphers))
    signatures = tuple(dict.fromkeys(Algorithm[name.upper()] for name in security.signatures))
    try:
        return Policy(
            modes,
            min_mode,
            require_pq=security.require_pq,
            ciphers=ciphers,
            rhythm=rhythm(security),
            signatures=signatures,
        )
    except ConfigError as error:
        raise WrongKeyError("security.modes", str(error).removeprefix("security: ")) from None


def rhythm(security: Security) -> Rhythm:
    """Return what zero_trust is to be."""
    return Rhythm(
        lifetime_ns=security.zero_trust_session_s * NS_PER_S,
        every_ns=security.zero_trust_proof_s * NS_PER_S,
        answer_ns=security.zero_trust_answer_s * NS_PER_S,
    )


def pins(config: Config, beat: Callable[[], None] = unseen) -> tuple[Peer | None, ...]:
    """Return how each peer is known; WrongKeyError for one that nobody could know or talk to."""
    security = config.security
    _check_files(security)
    settings_auth.check(config)
    ours = policy(security)
    found = tuple(
        None if peer.static or peer.gone else _pin(peer, f"peer[{i}]", ours)
        for i, peer in enumerate(beating(config.peers, beat))
    )
    try:
        Pins({peer.name: peer for peer in found if peer is not None})
    except ConfigError as error:
        raise WrongKeyError("peer", str(error)) from None
    return found


def _check_files(security: Security) -> None:
    needs = {
        "token": ("secrets_file",),
        "mtls": ("certificate_file", "certificate_key_file", "roots_file"),
    }
    if security.crl_file and "mtls" not in security.modes:
        raise WrongKeyError(
            "security.crl_file", "is of no use: add 'mtls' to modes, or take it away"
        )
    for mode, keys in needs.items():
        for key in keys:
            if mode in security.modes and not getattr(security, key):
                raise WrongKeyError(f"security.{key}", f"is missing, and modes has {mode!r}")
            if mode not in security.modes and getattr(security, key):
                raise WrongKeyError(
                    f"security.{key}", f"is of no use: add {mode!r} to modes, or take it away"
                )


def _pin(peer: PeerSettings, where: str, ours: Policy) -> Peer:
    named = [key for key in _KNOWN_BY if getattr(peer, key)]
    if peer.plaintext and named:
        raise WrongKeyError(
            f"{where}.plaintext", f"it has a {named[0]} too: which one? take the other away"
        )
    if {"fingerprint", "card"} <= set(named):
        raise WrongKeyError(f"{where}.card", "says the fingerprint already: take that away")
    if peer.plaintext and not ours.allows(Mode.PLAINTEXT):
        raise WrongKeyError(
            f"{where}.plaintext",
            'this node takes part in none: add "plaintext" to security.modes (and have no'
            " min_mode and no require_pq above it)",
        )
    if not named and not peer.plaintext and ours.allowed() != (Mode.PLAINTEXT,):
        raise WrongKeyError(
            where,
            f"nothing tells '{peer.name}' from somebody who has its address: run `valkyrie key"
            ' fingerprint` on it and write fingerprint = "..." here; or, to talk to it unprotected,'
            ' plaintext = true here and "plaintext" in security.modes',
        )
    found = Peer(
        name=peer.name,
        fingerprint=_fingerprint(peer, where),
        card=_card(peer, where),
        token_id=bytes.fromhex(peer.token) or None,
        certificate_name=peer.certificate,
        min_mode=Mode[peer.min_mode.upper()] if peer.min_mode else None,
        require_pq=peer.require_pq,
        demand=peer.demand,
        subject=peer.subject,
        show=peer.show,
    )
    return replace(found, modes=_modes(found, where, named, ours))


def _fingerprint(peer: PeerSettings, where: str) -> Fingerprint | None:
    try:
        return parse_fingerprint(peer.fingerprint) if peer.fingerprint else None
    except ConfigError as error:
        raise WrongKeyError(f"{where}.fingerprint", str(error)) from None


def _card(peer: PeerSettings, where: str) -> Card | None:
    if not peer.card:
        return None
    from valkyrie.controlplane.security.identity import Card

    try:
        return Card.of_text(peer.card)
    except ConfigError as error:
        raise WrongKeyError(f"{where}.card", str(error)) from None


def _modes(peer: Peer, where: str, named: list[str], ours: Policy) -> frozenset[Mode]:
    """Return what may be with a peer: what the node allows, and the peer's table is good for."""
    try:
        allowed = set(ours.tightened(peer.min_mode, require_pq=peer.require_pq).allowed())
    except ConfigError:
        raise WrongKeyError(
            where, "security.modes has nothing that its min_mode and require_pq allow"
        ) from None
    good = set(_BY_KEY if peer.pin is not None or peer.by_evidence else ())
    good |= {Mode.TOKEN} if peer.token_id is not None else set()
    good |= {Mode.MTLS} if peer.certificate_name else set()
    good |= set() if named else {Mode.PLAINTEXT}
    if not good & allowed:
        what = " and ".join(named) or "plaintext"
        names = ", ".join(mode.name.lower() for mode in sorted(allowed))
        raise WrongKeyError(where, f"its {what} is of no use for what may be with it: {names}")
    return frozenset(good & allowed)
