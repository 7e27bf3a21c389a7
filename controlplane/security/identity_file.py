"""The file that a node's identity is kept in: PEM, for its owner only, never half written."""

from __future__ import annotations

import base64
import os
import re
import stat
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from valkyrie.controlplane import wholefile
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.signing.fn_dsa import FnDsaKey

from .identity import Identity

if TYPE_CHECKING:
    from pathlib import Path

MODE = 0o600
SIZE_MAX = 65536
_BLOCK = re.compile(rb"-----BEGIN PRIVATE KEY-----\n.*?-----END PRIVATE KEY-----\n", re.DOTALL)
_FN_DSA = "FN-DSA-512 PRIVATE KEY"
"""Of both halves, since there is no PKCS #8 for it yet."""
_FN_DSA_BLOCK = re.compile(
    rf"-----BEGIN {_FN_DSA}-----\n([A-Za-z0-9+/=\n]*)-----END {_FN_DSA}-----\n\Z".encode()
)


def read_plain(path: Path) -> bytes:
    """Return the bytes of a plain file; FileNotFoundError when there is none."""
    return _read(path, private=False)


def read_private(path: Path, also: int | None = None) -> bytes:
    """Return the same of a file that only its owner can open: we, or user ``also``."""
    return _read(path, private=True, also=also)


def _read(path: Path, *, private: bool, also: int | None = None) -> bytes:
    follow = os.O_NOFOLLOW if private else 0
    try:
        descriptor = os.open(path, os.O_RDONLY | follow | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path}: is not a plain file")
        if private:
            _check_owner(path, found, also)
        data = os.read(descriptor, SIZE_MAX + 1)
    finally:
        os.close(descriptor)
    if len(data) > SIZE_MAX:
        raise ConfigError(f"{path}: has more than {SIZE_MAX} bytes: it is no file of this program")
    return data


def _check_owner(path: Path, found: os.stat_result, also: int | None) -> None:
    if found.st_uid not in (os.geteuid(), also):
        raise ConfigError(
            f"{path}: belongs to user {found.st_uid}: run as that user, or `chown` it to user "
            f"{os.geteuid()}"
        )
    if stat.S_IMODE(found.st_mode) & ~MODE:
        raise ConfigError(
            f"{path}: others could read it (mode {stat.S_IMODE(found.st_mode):04o}): if nobody "
            f"has, `chmod 600 {path}`; if somebody may have, remove it and start again with "
            "a new identity"
        )


def write_private(path: Path, data: bytes, *, replace: bool) -> None:
    """Write a file for its owner only, as ``wholefile.write`` does."""
    wholefile.write(path, data, MODE, replace=replace)


def to_pem(identity: Identity) -> bytes:
    """Return all private keys, one PKCS #8 block after the other."""
    blocks = [
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for key in (identity.exchange, identity.ed25519, identity.ml_dsa)
    ]
    if identity.fn_dsa is not None:
        body = base64.encodebytes(identity.fn_dsa.pack()).decode()
        blocks.append(f"-----BEGIN {_FN_DSA}-----\n{body}-----END {_FN_DSA}-----\n".encode())
    return b"".join(blocks)


def of_pem(data: bytes, name: str) -> Identity:
    """Return the identity; ConfigError names ``name``, never what the data is."""
    data, fn_dsa = _fn_dsa(data, name)
    keys: list[object] = []
    for block in _BLOCK.findall(data):
        try:
            keys.append(load_pem_private_key(block, None))
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise _damaged(name) from None
    if b"".join(_BLOCK.findall(data)) != data:
        raise _damaged(name)
    match keys:
        case [X25519PrivateKey() as exchange, Ed25519PrivateKey() as ed, MLDSA65PrivateKey() as ml]:
            return Identity(exchange, ed, ml, fn_dsa)
    raise _damaged(name)


def _fn_dsa(data: bytes, name: str) -> tuple[bytes, FnDsaKey | None]:
    """Return what is before the FN-DSA key, and that key."""
    found = _FN_DSA_BLOCK.search(data)
    if found is None:
        return data, None
    try:
        return data[: found.start()], FnDsaKey.parse(base64.b64decode(found[1]))
    except ValueError:
        raise _damaged(name) from None


def _damaged(name: str) -> ConfigError:
    return ConfigError(
        f"{name}: is damaged: an identity is an X25519, an Ed25519 and an ML-DSA-65 key, and an"
        " FN-DSA-512 key at most. Restore it from a copy, or remove it and tell the peers the new"
        " fingerprint"
    )


def load_or_make(path: Path, *, with_fn_dsa: bool = False) -> tuple[Identity, bool]:
    """Return the identity that a file has, and whether it was made now, for want of a file."""
    try:
        return of_pem(read_private(path), str(path)), False
    except FileNotFoundError:
        pass
    identity = Identity.generate(with_fn_dsa=with_fn_dsa)
    try:
        write_private(path, to_pem(identity), replace=False)
    except FileExistsError:  # another one was quicker
        return of_pem(read_private(path), str(path)), False
    except OSError as error:
        raise ConfigError(f"{path}: the identity cannot be kept: {error.strerror}") from error
    return identity, True
