"""The files of the mtls mode: a node's certificate, its key, and the roots, in PEM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from valkyrie.dataplane.errors import ConfigError

from .certificates import CHAIN_MAX, UNREADABLE, node_name
from .errors import SecurityError
from .tls import TlsCredentials

if TYPE_CHECKING:
    from pathlib import Path


def parse_credentials(
    chain: tuple[Path, bytes], key: tuple[Path, bytes], roots: tuple[Path, bytes]
) -> TlsCredentials:
    """Return the credentials of three files; ConfigError names the one that is no good."""
    certificates = _chain(*chain)
    private = _key(*key)
    if private.public_key() != certificates[0].public_key():
        raise ConfigError(f"{key[0]}: is not the key of the first certificate in {chain[0]}")
    _check_name(chain[0], certificates[0])
    return TlsCredentials(certificates, private, parse_certificates(*roots))


def parse_chain(path: Path, data: bytes) -> list[x509.Certificate]:
    """Return a node's certificate and what is between it and the root."""
    certificates = _chain(path, data)
    _check_name(path, certificates[0])
    return certificates


def _chain(path: Path, data: bytes) -> list[x509.Certificate]:
    certificates = parse_certificates(path, data)
    if len(certificates) >= CHAIN_MAX:
        raise ConfigError(
            f"{path}: has {len(certificates)} certificates: the node's own and at most one"
            " between it and the root"
        )
    return certificates


def _check_name(path: Path, certificate: x509.Certificate) -> None:
    try:
        node_name(certificate)
    except SecurityError as error:
        raise ConfigError(f"{path}: is no node's certificate: {error}") from None


def parse_certificates(path: Path, data: bytes) -> list[x509.Certificate]:
    """Return the certificates of a file."""
    try:
        return x509.load_pem_x509_certificates(data)
    except UNREADABLE:
        raise ConfigError(f"{path}: has no certificates in PEM") from None


def _key(path: Path, data: bytes) -> Ed25519PrivateKey | EllipticCurvePrivateKey:
    try:
        found = load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path}: has no private key in PEM without a password") from None
    if not isinstance(found, Ed25519PrivateKey | EllipticCurvePrivateKey):
        raise ConfigError(f"{path}: has a key that is neither Ed25519 nor of an elliptic curve")
    return found
