"""Who is let in no more: `revoked.toml`, which also ends sessions that are there already.

    [[revoked]]
    fingerprint = "abcde-..."      # or: certificate = "0f3a..." (serial number, hexadecimal)
    reason = "laptop lost"         # or: name = "build-7" (of a certificate), token = "0123..."
                                   # or: subject = "build-7" (of what is shown for [[auth]])

A file that cannot be read takes nothing back: what was revoked stays revoked until it can be.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.signing.fingerprint import Fingerprint, parse_fingerprint

from .changing_file import ChangingFile
from .codes import Failure
from .errors import SecurityError
from .modes import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cryptography import x509

    from .claim import Claim
    from .trust import Peer

SIZE_MAX = 4 << 20


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the file's tables: exactly one of all but the reason is given."""

    fingerprint: str = ""
    certificate: str = ""
    name: str = ""
    token: str = ""
    subject: str = ""
    reason: str = ""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    revoked: list[Entry] = []


@dataclass(frozen=True, slots=True)
class Revocations:
    """All that is revoked, with the reasons."""

    fingerprints: dict[Fingerprint, str] = field(default_factory=dict)
    serials: dict[int, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    subjects: dict[str, str] = field(default_factory=dict)
    """Whose evidence is taken no more."""
    distrust: str = ""
    """Why no certificate is believed at all."""

    def with_lists(self, serials: dict[int, str], distrust: str) -> Revocations:
        """Return this with what authorities have signed."""
        return replace(self, serials=serials | self.serials, distrust=distrust)

    def reason(self, claim: Claim) -> str | None:
        """Return why a peer is not let in; None: it is not revoked."""
        if claim.card is not None:
            return self.fingerprints.get(claim.card.fingerprint)
        if claim.mode is Mode.TOKEN:
            return self.tokens.get(claim.name)
        reason = self.reason_against_any(claim.serials)
        if reason is not None:
            return reason
        return self.names.get(claim.name) if claim.mode is Mode.MTLS else None

    @property
    def count(self) -> int:
        """How many entries there are."""
        named = len(self.names) + len(self.tokens) + len(self.subjects)
        return len(self.fingerprints) + len(self.serials) + named

    def reason_for(self, peer: Peer) -> str | None:
        """Return why a peer of the configuration is revoked, by all that it is known by."""
        token = peer.token_id.hex() if peer.token_id is not None else ""
        if peer.pin is not None and peer.pin in self.fingerprints:
            return self.fingerprints[peer.pin]
        if peer.demand and peer.whose in self.subjects:
            return self.subjects[peer.whose]
        return self.tokens.get(token, self.names.get(peer.certificate_name))

    def reason_against(self, fingerprint: str) -> str | None:
        """Return why nobody with a fingerprint may stay; None: they may. Empty: there is none."""
        return self.fingerprints.get(parse_fingerprint(fingerprint)) if fingerprint else None

    def reason_against_any(self, serials: Iterable[int]) -> str | None:
        """Return why a chain of certificates is good no more; None: none of it is revoked."""
        return next((self.serials[each] for each in serials if each in self.serials), None)

    def check(self, claim: Claim) -> None:
        """Raise SecurityError for a peer that is revoked."""
        if self.distrust and claim.mode is Mode.MTLS:
            raise SecurityError(Failure.CREDENTIAL, self.distrust)
        reason = self.reason(claim)
        if reason is not None:
            why = f": {reason}" if reason else ""
            raise SecurityError(Failure.CREDENTIAL, f"the peer is revoked{why}")

    def check_subject(self, name: str) -> None:
        """Raise SecurityError for one whose evidence is taken no more."""
        if name in self.subjects:
            why = self.subjects[name]
            what = f"what '{name}' shows is revoked{f': {why}' if why else ''}"
            raise SecurityError(Failure.CREDENTIAL, what)

    def check_certificate(self, certificate: x509.Certificate) -> None:
        """Raise SecurityError for a certificate that is revoked, of a node or an authority."""
        if self.distrust:
            raise SecurityError(Failure.CREDENTIAL, self.distrust)
        if certificate.serial_number in self.serials:
            raise SecurityError(Failure.CREDENTIAL, "the certificate is revoked")


def parse_revocations(data: bytes, name: str) -> Revocations:
    """Return what a file revokes; ConfigError names the place."""
    try:
        parsed = msgspec.convert(tomllib.loads(data.decode()), _File, strict=True)
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise ConfigError(f"{name}: {error}: what was revoked before stays so") from None
    found = Revocations()
    for number, entry in enumerate(parsed.revoked):
        place = f"{name}: revoked[{number}]"
        given = (entry.fingerprint, entry.certificate, entry.name, entry.token, entry.subject)
        if sum(map(bool, given)) != 1:
            raise ConfigError(
                f"{place}: give one of fingerprint, certificate, name, token or subject, and only"
                " one"
            )
        _add(found, entry, place)
    return found


def _add(found: Revocations, entry: Entry, place: str) -> None:
    try:
        if entry.fingerprint:
            found.fingerprints[parse_fingerprint(entry.fingerprint)] = entry.reason
        elif entry.certificate:
            found.serials[int(entry.certificate.replace(":", ""), 16)] = entry.reason
        elif entry.token:
            found.tokens[bytes.fromhex(entry.token).hex()] = entry.reason
        elif entry.subject:
            found.subjects[entry.subject] = entry.reason
        else:
            found.names[entry.name] = entry.reason
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    except ValueError:
        raise ConfigError(f"{place}: is not in hexadecimal") from None


class RevocationFile:
    """The file as it is at the moment; ``poll`` is cheap enough to be called all the time."""

    def __init__(self, path: Path, *, expected: bool = False) -> None:
        """``expected``: raise ConfigError if there is none."""
        self._path = path
        self._file = ChangingFile(path, SIZE_MAX)
        self.revocations = Revocations()
        self.poll()
        if expected and not self.read:
            raise ConfigError(
                f"{path}: is gone: put it back, empty if nobody is revoked, so that nobody is let"
                " in again by mistake"
            )

    @property
    def read(self) -> bool:
        """Say whether there was a file when it was last looked at."""
        return self._file.known

    def poll(self) -> bool:
        """Read the file if it is another one than before; returns whether it was.

        Raises ConfigError, once for each change, for a file that cannot be read; one that is gone
        is such, unless there never was any.
        """
        try:
            data = self._file.read()
        except FileNotFoundError:
            if not self._file.known:
                return False
            self._file.forget()
            raise ConfigError(
                f"{self._path}: is gone: what was revoked stays so until the node starts anew"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"{self._path}: {error.strerror}: revocations are not seen while the node runs: let"
                " node.user read it, and enter its directories"
            ) from error
        if data is None:
            return False
        self.revocations = parse_revocations(data, str(self._path))
        return True
