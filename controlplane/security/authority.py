"""The directory of a certificate authority: its certificate, its key, and what it has revoked.

ca.pem       what peers take as `security.roots_file`
ca.key       for its owner only
revoked.pem  the signed list of what was revoked
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from valkyrie.controlplane import wholefile
from valkyrie.dataplane.errors import ConfigError

from .certificates import UNREADABLE, Authority, make_crl, make_root
from .identity_file import read_plain, read_private, write_private
from .revocation import parse_revocations

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

CRL_LIFE = dt.timedelta(days=365)
_CERTIFICATE, _KEY, _REVOKED = "ca.pem", "ca.key", "revoked.pem"


def pem_of_key(key: Ed25519PrivateKey) -> bytes:
    """Return a private key as files have it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def pem_of(chain: Iterable[x509.Certificate]) -> bytes:
    """Return certificates as files have them."""
    return b"".join(each.public_bytes(Encoding.PEM) for each in chain)


def write_public(path: Path, data: bytes) -> None:
    """Write a file that anybody may read, as ``wholefile.write`` does."""
    wholefile.write(path, data, 0o644)


def create(folder: Path, name: str, now: dt.datetime) -> Authority:
    """Make an authority in a directory; ConfigError when there is one."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    authority = make_root(name, now)
    try:
        write_private(folder / _KEY, pem_of_key(authority.key), replace=False)
    except FileExistsError:
        raise ConfigError(f"{folder}: has an authority already: name another directory") from None
    write_public(folder / _CERTIFICATE, pem_of([authority.certificate]))
    return authority


def load(folder: Path) -> Authority:
    """Return the authority of a directory."""
    try:
        certificate = x509.load_pem_x509_certificate(read_plain(folder / _CERTIFICATE))
        key = load_pem_private_key(read_private(folder / _KEY), None)
    except FileNotFoundError:
        raise ConfigError(f"{folder}: has no authority: make one with `valkyrie cert ca`") from None
    except (*UNREADABLE, UnsupportedAlgorithm):
        raise ConfigError(f"{folder}: {_CERTIFICATE} or {_KEY} cannot be read") from None
    if not isinstance(key, Ed25519PrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError(f"{folder}: {_KEY} is not the key of {_CERTIFICATE}")
    return Authority(certificate, key)


def revoked(folder: Path) -> dict[int, dt.datetime]:
    """Return the serial numbers that an authority has revoked, and when."""
    try:
        crl = x509.load_pem_x509_crl(read_plain(folder / _REVOKED))
    except FileNotFoundError:
        return {}
    except UNREADABLE:
        raise ConfigError(f"{folder / _REVOKED}: cannot be read: restore it from a copy") from None
    return {each.serial_number: each.revocation_date_utc for each in crl}


def revoke(
    folder: Path, more: Iterable[int], now: dt.datetime, life: dt.timedelta = CRL_LIFE
) -> int:
    """Put serial numbers on the authority's list, and sign it; returns how many are on it."""
    before = revoked(folder)
    serials = {*before, *more}
    crl = make_crl(load(folder), serials, now, life, before)
    write_public(folder / _REVOKED, crl.public_bytes(Encoding.PEM))
    return len(serials)


def add_revoked(path: Path, serial: int, reason: str) -> None:
    """Add a certificate to a node's `revoked.toml`, keeping what stands there as it is."""
    try:
        text = read_plain(path).decode()
    except FileNotFoundError:
        text = ""
    shown = "".join(each for each in reason if each.isprintable() and each not in '"\\')
    entry = f'[[revoked]]\ncertificate = "{serial:x}"\nreason = "{shown}"\n'
    whole = f"{text.rstrip()}\n\n{entry}" if text.strip() else entry
    if serial not in parse_revocations(text.encode(), str(path)).serials:
        parse_revocations(whole.encode(), str(path))
        write_public(path, whole.encode())
