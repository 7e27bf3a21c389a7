"""The mtls mode: a TLS 1.3 handshake in memory, certificates on both sides, bound by its exporter.

OpenSSL does the handshake and checks the chains up to our roots; whose certificate it is, and
whether it was revoked, is for the policy to say. No data goes through TLS afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from OpenSSL import SSL, crypto

from .certificates import CHAIN_MAX, UNREADABLE, node_name
from .codes import Failure
from .errors import MisuseError, SecurityError
from .exchange import Exchange, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HYBRID_GROUP = "X25519MLKEM768"
_LABEL = b"EXPORTER-valkyrie-handshake"
_READ_SIZE = 65536


@dataclass(frozen=True, slots=True, repr=False)
class TlsCredentials:
    """What a node shows, and whose certificates it takes."""

    chain: list[x509.Certificate]
    """The node's own first, then what is between it and the root."""
    key: Ed25519PrivateKey | EllipticCurvePrivateKey
    roots: Sequence[x509.Certificate]
    check: Callable[[x509.Certificate], None] | None = None
    """Raises SecurityError for a node's certificate that is not to be taken (revoked)."""

    def __repr__(self) -> str:
        return f"<TlsCredentials {node_name(self.chain[0])}>"

    def renew(self, chain: Sequence[x509.Certificate]) -> None:
        """Show another certificate of the same name and key from now on; MisuseError for others."""
        same_key = chain[0].public_key() == self.chain[0].public_key()
        if not same_key or node_name(chain[0]) != node_name(self.chain[0]):
            raise MisuseError("a renewed certificate has the name and the key of the old one")
        self.chain[:] = chain


def make_context(credentials: TlsCredentials) -> SSL.Context:
    """Return a context that demands a certificate of the other side, and no version but TLS 1.3."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    context.set_verify_depth(CHAIN_MAX - 2)  # OpenSSL counts what is between root and node
    context.use_certificate(credentials.chain[0])
    for certificate in credentials.chain[1:]:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(credentials.key)
    context.check_privatekey()
    store = context.get_cert_store()
    assert store is not None
    for root in credentials.roots:
        store.add_cert(crypto.X509.from_cryptography(root))
    return context


class TlsExchange(Exchange):
    """One side of the handshake. TLS has no room for payloads."""

    third = True

    def __init__(
        self,
        prologue: bytes,
        credentials: TlsCredentials,
        *,
        initiator: bool,
        require_pq: bool,
    ) -> None:
        self._prologue = prologue
        self._check = credentials.check
        self._require_pq = require_pq
        self._initiator = initiator
        self._connection = SSL.Connection(make_context(credentials), None)
        self._done = False
        self._begun = False
        self._flight = b""
        if initiator:
            self._connection.set_connect_state()
            self._done = self._step()
        else:
            self._connection.set_accept_state()

    def _step(self) -> bool:
        """Go on as far as it goes; returns whether that is the end."""
        done = True
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            done = False
        except SSL.Error as error:
            raise SecurityError(Failure.UNPROVEN, f"TLS: {_reason(error)}") from None
        try:
            self._flight = self._connection.bio_read(_READ_SIZE)
        except SSL.WantReadError:
            self._flight = b""
        return done

    def write(self, payload: bytes = b"") -> bytes:
        """Return what TLS has to say."""
        if payload or not self._flight:
            raise MisuseError("it is not this side's turn, or a payload was given")
        flight, self._flight = self._flight, b""
        return flight

    def read(self, message: bytes) -> bytes:
        """Hand TLS what the other side said; a flight that is not whole is refused."""
        if self._done or not message:
            raise SecurityError(Failure.MALFORMED, "TLS: a flight that nobody waits for")
        last = self._initiator or self._begun
        self._connection.bio_write(message)
        self._done = self._step()
        if self._done != last or (not last and not self._flight):
            raise SecurityError(Failure.MALFORMED, "TLS: a flight is not whole, or asks for more")
        self._begun = True
        if last:
            self._judge()
        return b""

    def _judge(self) -> None:
        if self._require_pq and self._connection.get_group_name() != HYBRID_GROUP:
            raise SecurityError(
                Failure.FLOOR, f"TLS: the keys are not from {HYBRID_GROUP}, which policy demands"
            )
        if self._check is not None:
            for each in self._chain():
                self._check(each)

    def _chain(self) -> list[x509.Certificate]:
        """Return the other's certificate and what is above it, up to our root."""
        try:
            found = self._connection.get_verified_chain(as_cryptography=True)
        except UNREADABLE:
            raise SecurityError(Failure.CREDENTIAL, "a certificate cannot be read") from None
        return found or [self._certificate()]

    def _certificate(self) -> x509.Certificate:
        try:
            certificate = self._connection.get_peer_certificate(as_cryptography=True)
        except UNREADABLE:
            raise SecurityError(Failure.CREDENTIAL, "a certificate cannot be read") from None
        assert certificate is not None
        return certificate

    def outcome(self) -> Outcome:
        """Return the exporter's secret and the name in the other's certificate."""
        if not self._done:
            raise SecurityError(Failure.MALFORMED, "TLS: the handshake has not come to its end")
        exported = self._connection.export_keying_material(_LABEL, 64, self._prologue)
        return Outcome(
            exported[:32],
            exported[32:],
            name=node_name(self._certificate()),
            serials=tuple(each.serial_number for each in self._chain()),
            quantum_safe=self._connection.get_group_name() == HYBRID_GROUP,
        )


def _reason(error: SSL.Error) -> str:
    """Return OpenSSL's own words; the errors of a failed verification are among them."""
    try:
        return "; ".join(str(each[-1]) for each in error.args[0]) or "the handshake failed"
    except (IndexError, TypeError):
        return "the handshake failed"
