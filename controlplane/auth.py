"""The files of ``[[auth]]``, made into what shows and what checks (``security/providers.py``)."""

from __future__ import annotations

import datetime as dt
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from valkyrie.dataplane.errors import ConfigError

from .security.identity_file import read_plain, read_private
from .security.jwt import JwtProver, JwtVerifier, parse_keys
from .security.proof import EVIDENCE_MAX
from .security.providers import (
    SECOND_NS,
    ApiKeyProver,
    ApiKeyVerifier,
    CertificateProver,
    CertificateVerifier,
    HmacProver,
    HmacVerifier,
    Prover,
    Subject,
    Verifier,
    api_key_of,
    public_of,
)
from .security.tls_files import parse_certificates, parse_chain
from .security.token_file import of_word
from .settings_auth import DEMANDS, SHOWS, Auth, has

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

log = logging.getLogger("valkyrie")


@dataclass(slots=True)
class Providers:
    """What a node can show and check, by the names of its tables."""

    provers: dict[str, Prover] = field(default_factory=dict)
    verifiers: dict[str, Verifier] = field(default_factory=dict)


def read(tables: list[Auth], beside: Callable[[str], Path], user: int) -> Providers:
    """Return what the files have; ConfigError names the one that is no good.

    ``user`` is who the daemon will be: a token that is its own is looked at all the time.
    """
    found = Providers()
    for auth in tables:
        if has(auth, SHOWS[auth.kind]):
            found.provers[auth.name] = _prover(auth, beside, user)
        if has(auth, DEMANDS[auth.kind]):
            found.verifiers[auth.name] = _verifier(auth, beside)
    return found


def _prover(auth: Auth, beside: Callable[[str], Path], user: int) -> Prover:
    match auth.kind:
        case "hmac":
            path = beside(auth.secrets_file)
            secrets = _secrets(path)
            if auth.subject not in secrets:
                raise ConfigError(f"{path}: has no secret of '{auth.subject}', who this node is")
            return HmacProver(auth.subject, secrets[auth.subject])
        case "certificate":
            return _certificate(beside(auth.certificate_file), beside(auth.certificate_key_file))
        case "api_key":
            path = beside(auth.key_file)
            key = api_key_of(_text(path, _private(path)).strip())
            if key is None:
                raise ConfigError(f"{path}: has no key as `valkyrie key api` prints it")
            return ApiKeyProver(key)
        case "jwt":
            return JwtProver(TokenFile(beside(auth.token_file), user))


def _verifier(auth: Auth, beside: Callable[[str], Path]) -> Verifier:
    match auth.kind:
        case "hmac":
            return HmacVerifier(_secrets(beside(auth.secrets_file)))
        case "certificate":
            path = beside(auth.roots_file)
            return CertificateVerifier(parse_certificates(path, _public(path)))
        case "api_key":
            return ApiKeyVerifier(_public_halves(beside(auth.keys_file)))
        case "jwt":
            path = beside(auth.keys_file)
            return JwtVerifier(auth.issuer, auth.audience, parse_keys(_private(path), str(path)))


# ---- Files ----


def _private(path: Path, also: int | None = None) -> bytes:
    try:
        return read_private(path, also)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None


def _public(path: Path) -> bytes:
    try:
        return read_plain(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is no text") from None


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(_text(path, _private(path)).splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.split()


def _secrets(path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for number, words in _lines(path):
        secret = of_word(words[1].encode()) if len(words) == 2 else None
        if secret is None or words[0] in found:
            raise ConfigError(
                f"{path}: line {number} should be a name, once, and a secret as `valkyrie key"
                " token` prints it"
            )
        found[words[0]] = secret
    if not found:
        raise ConfigError(f"{path}: has no secrets: a name and what `valkyrie key token` prints")
    return found


def _public_halves(path: Path) -> dict[bytes, Subject]:
    found: dict[bytes, Subject] = {}
    for number, words in _lines(path):
        public = public_of(words[1]) if len(words) in (2, 3) else None
        if public is None or public in found:
            raise ConfigError(
                f"{path}: line {number} should be a name, the half of a key that `valkyrie key api`"
                " prints for it, and until when if you like"
            )
        found[public] = Subject(words[0], _until(path, number, words[2:]))
    if not found:
        raise ConfigError(f"{path}: has no keys: a name and what `valkyrie key api` prints for it")
    return found


def _until(path: Path, number: int, words: list[str]) -> int | None:
    if not words:
        return None
    try:
        end = dt.datetime.fromisoformat(words[0])
    except ValueError:
        raise ConfigError(f"{path}: line {number}: write a time as 2027-01-31T12:00Z") from None
    if end.tzinfo is None:
        raise ConfigError(f"{path}: line {number}: whose time is it? write {words[0]}Z for UTC")
    return int(end.timestamp()) * SECOND_NS


def _certificate(path: Path, key_path: Path) -> CertificateProver:
    chain = parse_chain(path, _public(path))
    try:
        key = load_pem_private_key(_private(key_path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{key_path}: has no private key in PEM without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{key_path}: is no Ed25519 key, as `valkyrie cert issue` makes them")
    if key.public_key() != chain[0].public_key():
        raise ConfigError(f"{key_path}: is not the key of the first certificate in {path}")
    try:
        return CertificateProver(chain, key)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


class TokenFile:
    """The token that a file has at the moment; the one before where it cannot be read."""

    def __init__(self, path: Path, user: int) -> None:
        self._path = path
        self._user = user
        self._seen: tuple[int, int, int] | None = None
        self._said = ""
        self._token = b""
        try:
            self._read()
        except ConfigError as error:
            # Before it is that user, a daemon may have no right to read it.
            if not isinstance(error.__cause__, PermissionError) or path.stat().st_uid != user:
                raise
            self._seen = None

    def __repr__(self) -> str:
        return f"<TokenFile {self._path}>"

    def __call__(self) -> bytes:
        """Return it."""
        try:
            self._read()
        except (ConfigError, OSError) as error:
            if str(error) != self._said:  # once, not at every handshake
                self._said = str(error)
                log.warning("%s: the token before it is shown", error)
        return self._token

    def _read(self) -> None:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            found = None
        seen = (found.st_mtime_ns, found.st_size, found.st_ino) if found else None
        if seen is not None and seen == self._seen:
            return
        self._seen = seen
        token = _private(self._path, self._user).strip()
        if not token.isascii() or token.count(b".") != 2 or len(token) > EVIDENCE_MAX:
            raise ConfigError(
                f"{self._path}: is no signed JSON web token of at most {EVIDENCE_MAX} bytes"
            )
        self._token = token
