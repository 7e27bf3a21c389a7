"""X.509 for nodes: a root, at most one authority between, and the node's own certificate.

Ed25519 throughout. Time is an argument, in UTC. ``check_chain`` is for who proves an identity by
certificate outside TLS; within TLS, OpenSSL does the same.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from .codes import Failure
from .errors import MisuseError, SecurityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

NODE_URI = "valkyrie://node/"
"""A node's certificate has its name behind this, as a URI among its alternative names."""
CHAIN_MAX = 3
"""Certificates from root to node."""
ROOT_LIFE = dt.timedelta(days=3650)
NODE_LIFE = dt.timedelta(days=30)
SKEW = dt.timedelta(minutes=5)
"""How far the clocks of two nodes may be apart."""
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for certificates that make no sense, some of it only when asked."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")


@dataclass(frozen=True, slots=True, repr=False)
class Authority:
    """A certificate that may issue others, its key, and what is above it up to the root."""

    certificate: x509.Certificate
    key: Ed25519PrivateKey
    above: tuple[x509.Certificate, ...] = ()

    def __repr__(self) -> str:
        return f"<Authority {self.certificate.subject.rfc4514_string()}>"

    @property
    def root(self) -> x509.Certificate:
        """The certificate that peers are to trust."""
        return self.above[-1] if self.above else self.certificate


def _name(name: str) -> x509.Name:
    if not _NAME.match(name):
        raise MisuseError(f"{name!r} is no name: up to 63 letters, digits, dots, - and _")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, public: Ed25519PublicKey, now: dt.datetime, life: dt.timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def make_root(name: str, now: dt.datetime, life: dt.timedelta = ROOT_LIFE) -> Authority:
    """Return a new root, for tests and for networks of one owner."""
    key = Ed25519PrivateKey.generate()
    subject = _name(name)
    certificate = (
        _builder(subject, key.public_key(), now, life)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=CHAIN_MAX - 2), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(key, None)
    )
    return Authority(certificate, key)


def issue_authority(above: Authority, name: str, now: dt.datetime) -> Authority:
    """Return an authority below a root."""
    if above.above:
        raise MisuseError(f"a chain has at most {CHAIN_MAX} certificates: issue from the root")
    key = Ed25519PrivateKey.generate()
    life = above.certificate.not_valid_after_utc - now
    certificate = (
        _builder(_name(name), key.public_key(), now, life)
        .issuer_name(above.certificate.subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(above.key, None)
    )
    return Authority(certificate, key, (above.certificate, *above.above))


def issue(
    above: Authority,
    name: str,
    public: Ed25519PublicKey,
    now: dt.datetime,
    life: dt.timedelta = NODE_LIFE,
) -> list[x509.Certificate]:
    """Return a node's certificate and what is between it and the root, as the node is to show it.

    No certificate outlives the one above it.
    """
    subject = _name(name)
    life = min(life, above.certificate.not_valid_after_utc - now)
    if life <= dt.timedelta():
        raise MisuseError("the authority's own certificate has expired: renew that first")
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(NODE_URI + name)])
    certificate = (
        _builder(subject, public, now, life)
        .issuer_name(above.certificate.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(names, critical=False)
        .sign(above.key, None)
    )
    return [certificate, *([above.certificate] if above.above else [])]


def renewal_time(certificate: x509.Certificate) -> dt.datetime:
    """Return when to ask for a new one: at two thirds of its life."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin + (end - begin) * 2 / 3


def make_crl(
    authority: Authority,
    serials: Iterable[int],
    now: dt.datetime,
    life: dt.timedelta,
    since: Mapping[int, dt.datetime] | None = None,
) -> x509.CertificateRevocationList:
    """Return a signed list of revoked certificates; ``since`` is for those that were so before."""
    dates = since or {}
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - SKEW)
        .next_update(now + life)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
        .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
    )
    for serial in sorted(set(serials)):
        entry = x509.RevokedCertificateBuilder().serial_number(serial)
        entry = entry.revocation_date(dates.get(serial, now))
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(authority.key, None)


def node_name(certificate: x509.Certificate) -> str:
    """Return the one name that a node's certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except UNREADABLE:
        uris = []
    found = [uri.removeprefix(NODE_URI) for uri in uris if uri.startswith(NODE_URI)]
    if len(found) != 1 or not found[0]:
        raise SecurityError(
            Failure.CREDENTIAL, f"a certificate does not name one node as {NODE_URI}NAME"
        )
    return found[0]


def load_chain(data: Sequence[bytes]) -> list[x509.Certificate]:
    """Return certificates that somebody sent, as DER."""
    try:
        return [x509.load_der_x509_certificate(each) for each in data]
    except UNREADABLE:
        raise SecurityError(Failure.MALFORMED, "a certificate cannot be read") from None


def check_chain(
    chain: Sequence[x509.Certificate],
    roots: Iterable[x509.Certificate],
    crls: Iterable[x509.CertificateRevocationList],
    now: dt.datetime,
) -> str:
    """Return the name of a node whose chain leads to a root; raises SecurityError.

    ``chain`` is as shown: the node's own first, without the root. A list of revoked certificates
    that is too old to be believed refuses all that its authority has issued.
    """
    if not 1 <= len(chain) < CHAIN_MAX:
        raise SecurityError(
            Failure.CREDENTIAL, f"a chain has at most {CHAIN_MAX} certificates, root included"
        )
    try:
        return _check_chain(list(chain), list(roots), list(crls), now)
    except UNREADABLE:
        raise SecurityError(Failure.CREDENTIAL, "a certificate cannot be read") from None


def _check_chain(
    chain: list[x509.Certificate],
    roots: list[x509.Certificate],
    crls: list[x509.CertificateRevocationList],
    now: dt.datetime,
) -> str:
    above = [root for root in roots if root.subject == chain[-1].issuer]
    for root in above:
        try:
            _check_links([*chain, root], now)
        except SecurityError:
            if root is above[-1]:
                raise
        else:
            _check_revoked([*chain, root], crls, now)
            return node_name(chain[0])
    raise SecurityError(Failure.CREDENTIAL, "a chain does not lead to a root that is trusted here")


def _check_links(chain: list[x509.Certificate], now: dt.datetime) -> None:
    for depth, certificate in enumerate(chain):
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise SecurityError(
                Failure.CREDENTIAL,
                f"the certificate of {certificate.subject.rfc4514_string()} is good from "
                f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to "
                f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it, or set the clock",
            )
        _check_constraints(certificate, depth)
        issuer = chain[min(depth + 1, len(chain) - 1)]  # a root has issued itself
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, *UNREADABLE):
            what = f"{issuer.subject.rfc4514_string()} has not issued what it should have"
            raise SecurityError(Failure.UNPROVEN, what) from None


def _check_constraints(certificate: x509.Certificate, depth: int) -> None:
    """A node's certificate is none of an authority, and the other way round; no unknown demands."""
    known = (x509.BasicConstraints, x509.KeyUsage, x509.SubjectAlternativeName)
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except UNREADABLE:
        raise SecurityError(
            Failure.CREDENTIAL, "a certificate does not say what it may be used for"
        ) from None
    if any(each.critical and not isinstance(each.value, known) for each in extensions):
        raise SecurityError(Failure.CREDENTIAL, "a certificate demands what is not known here")
    authority = depth > 0
    length = constraints.path_length
    if (
        constraints.ca != authority
        or usage.key_cert_sign != authority
        or (authority and length is not None and length < depth - 1)
    ):
        raise SecurityError(Failure.CREDENTIAL, "a certificate is used for what it is not for")


def _check_revoked(
    chain: list[x509.Certificate], crls: list[x509.CertificateRevocationList], now: dt.datetime
) -> None:
    for certificate, issuer in pairwise(chain):
        for crl in crls:
            if crl.issuer != issuer.subject:
                continue
            key = issuer.public_key()
            if not isinstance(key, Ed25519PublicKey) or not crl.is_signature_valid(key):
                continue  # of another authority of the same name
            if crl.next_update_utc is None or now > crl.next_update_utc:
                raise SecurityError(
                    Failure.CREDENTIAL,
                    f"the list of what {issuer.subject.rfc4514_string()} revoked is too old: "
                    "fetch a new one",
                )
            if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
                raise SecurityError(
                    Failure.CREDENTIAL,
                    f"the certificate of {certificate.subject.rfc4514_string()} is revoked",
                )
