"""The files of ``[[auth]]``, made into what shows and what checks (``security/providers.py``)."""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from valkyrie.controlplane.config.settings_auth import DEMANDS, FILES, SHOWS, Auth, has
from valkyrie.controlplane.security.changing_file import Stamp, stamp
from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.errors import SecurityError
from valkyrie.controlplane.security.identity_file import read_plain, read_private
from valkyrie.controlplane.security.jwt import JwtProver, JwtVerifier, parse_keys
from valkyrie.controlplane.security.proof import EVIDENCE_MAX
from valkyrie.controlplane.security.providers import (
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
from valkyrie.controlplane.security.tls_files import parse_certificates, parse_chain
from valkyrie.controlplane.security.token_file import of_word
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

log = logging.getLogger("valkyrie")


@dataclass(slots=True)
class Providers:
    """What a node can show and check, by the names of its tables."""

    provers: dict[str, Prover] = field(default_factory=dict)
    verifiers: dict[str, Verifier] = field(default_factory=dict)
    currents: list[Current[Prover] | Current[Verifier]] = field(default_factory=list)
    """What both are made of."""

    def look(self) -> str:
        """Take over files that have changed; returns why others could not be, empty: all were."""
        return "; ".join(dict.fromkeys(why for each in self.currents if (why := each.look())))


def read(tables: list[Auth], beside: Callable[[str], Path], user: int) -> Providers:
    """Return what the files have; ConfigError names the one that is no good.

    ``user`` is who the daemon will be: files that it can read then are looked at all the time.
    """
    found = Providers()
    for auth in tables:
        paths = {key: beside(getattr(auth, key)) for key in FILES if getattr(auth, key)}
        if has(auth, SHOWS[auth.kind]):
            show = Current(partial(_prover, auth, paths, user), _only(paths, SHOWS, auth), user)
            found.provers[auth.name] = CurrentProver(show)
            found.currents.append(show)
        if has(auth, DEMANDS[auth.kind]):
            demand = Current(
                partial(_verifier, auth, paths, user), _only(paths, DEMANDS, auth), user
            )
            found.verifiers[auth.name] = CurrentVerifier(demand)
            found.currents.append(demand)
    return found


def _only(paths: dict[str, Path], needs: Mapping[str, tuple[str, ...]], auth: Auth) -> list[Path]:
    return [path for key, path in paths.items() if key in needs[auth.kind]]


def _prover(auth: Auth, paths: dict[str, Path], user: int) -> Prover:
    match auth.kind:
        case "hmac":
            path = paths["secrets_file"]
            secrets = _secrets(path, user)
            if auth.subject not in secrets:
                raise ConfigError(f"{path}: has no secret of '{auth.subject}', who this node is")
            return HmacProver(auth.subject, secrets[auth.subject])
        case "certificate":
            return _certificate(paths["certificate_file"], paths["certificate_key_file"], user)
        case "api_key":
            path = paths["key_file"]
            key = api_key_of(_text(path, _private(path, user)).strip())
            if key is None:
                raise ConfigError(f"{path}: has no key as `valkyrie key api` prints it")
            return ApiKeyProver(key)
        case "jwt":
            return JwtProver(_token(paths["token_file"], user))


def _verifier(auth: Auth, paths: dict[str, Path], user: int) -> Verifier:
    match auth.kind:
        case "hmac":
            return HmacVerifier(_secrets(paths["secrets_file"], user))
        case "certificate":
            path = paths["roots_file"]
            return CertificateVerifier(parse_certificates(path, _public(path)))
        case "api_key":
            return ApiKeyVerifier(_public_halves(paths["keys_file"], user))
        case "jwt":
            path = paths["keys_file"]
            keys = parse_keys(_private(path, user), str(path))
            return JwtVerifier(auth.issuer, auth.audience, keys)


# ---- Files ----


def _private(path: Path, user: int) -> bytes:
    try:
        return read_private(path, user)
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


def _lines(path: Path, user: int) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(_text(path, _private(path, user)).splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.split()


def _secrets(path: Path, user: int) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for number, words in _lines(path, user):
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


def _public_halves(path: Path, user: int) -> dict[bytes, Subject]:
    found: dict[bytes, Subject] = {}
    for number, words in _lines(path, user):
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
    return int(end.timestamp()) * NS_PER_S


def _certificate(path: Path, key_path: Path, user: int) -> CertificateProver:
    chain = parse_chain(path, _public(path))
    try:
        key = load_pem_private_key(_private(key_path, user), None)
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


def _token(path: Path, user: int) -> bytes:
    token = _private(path, user).strip()
    if not token.isascii() or token.count(b".") != 2 or len(token) > EVIDENCE_MAX:
        raise ConfigError(f"{path}: is no signed JSON web token of at most {EVIDENCE_MAX} bytes")
    return token


# ---- Files that change ----

_NOT_OURS = (
    ", and is read when the node starts only: start it again, or let the file belong to node.user"
)
Kind = TypeVar("Kind")


class Current(Generic[Kind]):
    """What some files make at the moment; what they made before, where they cannot be read."""

    def __init__(self, make: Callable[[], Kind], files: Sequence[Path], user: int) -> None:
        """Make it; ConfigError names the file that is no good."""
        self._make = make
        self._files = files
        self._said = ""
        self._made: Kind | None = None
        self._seen: list[Stamp | None] = []
        try:
            self._look()
        except ConfigError as error:
            # Before it is that user, a daemon may have no right to read what is the user's.
            owners = {file.stat().st_uid for file in files if file.exists()}
            if not isinstance(error.__cause__, PermissionError) or user not in owners:
                raise
            self._seen = []

    def __repr__(self) -> str:
        return f"<Current {', '.join(map(str, self._files))}>"

    def __call__(self) -> Kind:
        """Return it; SecurityError if there never was any."""
        self.look()
        if self._made is None:
            raise SecurityError(Failure.CREDENTIAL, f"cannot be used: {self._said}")
        return self._made

    def look(self) -> str:
        """Make it anew if files have changed; returns why that could not be, or nothing."""
        try:
            if self._look():
                self._said = ""
        except ConfigError as error:
            said = str(error)
            if isinstance(error.__cause__, PermissionError):
                said += _NOT_OURS
            if said != self._said:  # once, not at every handshake
                self._said = said
                log.warning("%s: what was there before stays", said)
        return self._said

    @property
    def made(self) -> Kind | None:
        """What was made last; None: nothing yet."""
        return self._made

    def _look(self) -> bool:
        seen = [_stamp(file) for file in self._files]
        if seen == self._seen:
            return False
        self._seen = seen
        self._made = self._make()
        return True


def _stamp(path: Path) -> Stamp | None:
    try:
        return stamp(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be looked at: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class CurrentProver:
    """Shows what there is to show at the moment."""

    current: Current[Prover]

    @property
    def bearer(self) -> bool:
        """Whether that is a bearer's."""
        return self.current().bearer

    def prove(self, binding: bytes) -> bytes:
        """Return evidence."""
        return self.current().prove(binding)


@dataclass(frozen=True, slots=True)
class CurrentVerifier:
    """Checks by what there is to check by at the moment."""

    current: Current[Verifier]

    @property
    def subjects(self) -> Collection[str] | None:
        """Those that there are when the node starts."""
        made = self.current.made
        return made.subjects if made is not None else None

    def check(self, evidence: bytes, binding: bytes, unix_ns: int) -> Subject:
        """Return whose evidence it is."""
        return self.current().check(evidence, binding, unix_ns)
