"""Security modes, weakest first, and what a node's own policy demands of them.

What a peer is willing to do decides nothing: a mode below the floor is neither offered nor taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.signing.signature import Algorithm
from valkyrie.dataplane.units import NS_PER_S

ZERO_TRUST_LIFETIME_NS = 300 * NS_PER_S
"""The longest that a zero_trust session lasts, whatever the grant says."""


class Mode(IntEnum):
    """How a session is protected; a floor is the least of them that will do."""

    PLAINTEXT = 0
    """Nothing: both sides must allow it."""
    TOKEN = 1
    """A secret that both share proves both (HMAC-SHA256); keys are from X25519."""
    NOISE = 2
    MTLS = 3
    """TLS 1.3 with certificates on both sides."""
    POST_QUANTUM = 4
    """Noise with ML-KEM-768, and every signature of two kinds."""
    ZERO_TRUST = 5
    """As post_quantum; short sessions, renewed proofs. (Rights for each operation are a peer's, in
    all modes.)"""


class NoisePattern(IntEnum):
    """Noise patterns; the numbers cross the wire."""

    XK = 1
    """The initiator knows the responder's card."""
    IK = 2
    """As XK, one message earlier proven; the initiator's identity is less well hidden."""
    XX = 3
    """Neither has more than a fingerprint."""


class Cipher(IntEnum):
    """Of handshake proofs and packets; the numbers cross the wire."""

    CHACHA20_POLY1305 = lib.VK_CIPHER_CHACHA20_POLY1305
    AES_256_GCM = lib.VK_CIPHER_AES_256_GCM


NOISE_CIPHERS = {Cipher.CHACHA20_POLY1305: "ChaChaPoly", Cipher.AES_256_GCM: "AESGCM"}


SIGNED = frozenset({Mode.POST_QUANTUM, Mode.ZERO_TRUST})
"""Modes whose peers sign, and whose keys are hybrid."""
QUANTUM_SAFE = SIGNED | {Mode.MTLS}
"""Modes that can be: of TLS, it is seen when its key exchange is done."""
PROVEN_ANEW = frozenset({Mode.ZERO_TRUST})
"""Modes whose peers prove themselves again within a session."""
_DEFAULT_MODES = frozenset({Mode.NOISE, Mode.POST_QUANTUM})


@dataclass(frozen=True, slots=True)
class Rhythm:
    """What a zero_trust session is, beyond how it begins."""

    lifetime_ns: int = ZERO_TRUST_LIFETIME_NS
    every_ns: int = 60 * NS_PER_S
    """How often the peer is asked to prove itself anew."""
    answer_ns: int = 10 * NS_PER_S
    """How long it has for that."""

    @property
    def again_ns(self) -> int:
        """How soon a question is repeated that was not answered; and answers cost no more."""
        return min(NS_PER_S // 2, self.answer_ns // 16)


@dataclass(frozen=True, slots=True)
class Policy:
    """What this node does; of a peer, ``tightened`` by its own demands."""

    modes: frozenset[Mode] = _DEFAULT_MODES
    min_mode: Mode = Mode.NOISE
    require_pq: bool = False
    patterns: tuple[NoisePattern, ...] = (NoisePattern.XK, NoisePattern.IK, NoisePattern.XX)
    ciphers: tuple[Cipher, ...] = (Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305)
    """Best first."""
    rhythm: Rhythm = Rhythm()
    signatures: tuple[Algorithm, ...] = (Algorithm.ML_DSA_65,)
    """In the modes that sign, beside Ed25519; best first."""

    def __post_init__(self) -> None:
        if not self.allowed():
            raise ConfigError(
                "security: no mode is left: `modes` has none that `min_mode` and `require_pq` "
                f"allow; add {Mode.POST_QUANTUM.name.lower()} to it"
            )
        if not self.ciphers or not self.patterns:
            raise ConfigError("security: name at least one cipher and one Noise pattern")

    def allowed(self) -> tuple[Mode, ...]:
        """Return the modes that this node would take part in, strongest first."""
        found = (mode for mode in self.modes if self.allows(mode))
        return tuple(sorted(found, reverse=True))

    def allows(self, mode: Mode) -> bool:
        """Say whether a mode is at or above the floor."""
        return (
            mode in self.modes
            and mode >= self.min_mode
            and (not self.require_pq or mode in QUANTUM_SAFE)
        )

    def tightened(
        self,
        min_mode: Mode | None,
        *,
        require_pq: bool,
        modes: frozenset[Mode] | None = None,
    ) -> Policy:
        """Return the policy for a peer with demands of its own; they can only add."""
        return Policy(
            modes=self.modes if modes is None else self.modes & modes,
            min_mode=max(self.min_mode, min_mode or Mode.PLAINTEXT),
            require_pq=self.require_pq or require_pq,
            patterns=self.patterns,
            ciphers=self.ciphers,
            rhythm=self.rhythm,
            signatures=self.signatures,
        )
