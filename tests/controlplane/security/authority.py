"""A certificate authority for tests of the mtls mode."""

from __future__ import annotations

import datetime as dt
import functools

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from valkyrie.controlplane.security.certificates import NODE_URI
from valkyrie.controlplane.security.tls import TlsCredentials


@functools.cache
def authority(name: str = "root") -> tuple[x509.Certificate, Ed25519PrivateKey]:
    key = Ed25519PrivateKey.generate()
    return certificate(name, key, name, key, ca=True), key


def certificate(
    name: str,
    key: Ed25519PrivateKey,
    issuer: str,
    issuer_key: Ed25519PrivateKey,
    *,
    ca: bool = False,
    days: tuple[int, int] = (-1, 1),
    uri: str | None = None,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    subject, above = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer)
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=days[0]))
        .not_valid_after(now + dt.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        names = [x509.UniformResourceIdentifier(uri or f"{NODE_URI}{name}")]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, None)


@functools.cache
def credentials(name: str, root: str = "root", trusted: str = "root") -> TlsCredentials:
    _, root_key = authority(root)
    key = Ed25519PrivateKey.generate()
    return TlsCredentials([certificate(name, key, root, root_key)], key, [authority(trusted)[0]])
