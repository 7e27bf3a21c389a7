"""What authorities have revoked, by their own signed word: a file of X.509 CRLs in PEM.

Each list is signed by one of the node's roots and says until when it is to be believed. A file that
is no good takes the place of none that was; an older list never takes the place of a newer one, and
not of one that an earlier daemon has had: ``CrlFile.known`` is what to remember.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from valkyrie.dataplane.errors import ConfigError

from .certificates import SKEW, UNREADABLE
from .changing_file import ChangingFile

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Issued = tuple[dt.datetime, int]
    """When a list was signed, and its number."""

SIZE_MAX = 16 << 20
LISTS_MAX = 16
_BLOCK = re.compile(rb"-----BEGIN X509 CRL-----[^-]*-----END X509 CRL-----\s*")
_FETCH = "fetch the authority's new one"


class RollbackError(ConfigError):
    """A list is older than one that the node has had, or gone: somebody put back an old file."""


def root_id(root: x509.Certificate) -> str:
    """Return what lists of a root are remembered by."""
    return hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()


@dataclass(frozen=True, slots=True)
class SignedLists:
    """Lists that roots have signed, together."""

    serials: dict[int, str] = field(default_factory=dict)
    """With the reasons."""
    until: dt.datetime | None = None
    """When the first of them is too old; None: there is none."""
    issued: dict[str, Issued] = field(default_factory=dict)
    """When, and as which number, by ``root_id``."""

    def stale(self, now: dt.datetime) -> bool:
        """Say whether one of them is too old to be believed."""
        return self.until is not None and now > self.until

    def due(self, now: dt.datetime) -> bool:
        """Say whether it is time for new ones: two thirds of the life of one are over."""
        since = min((issued for issued, _ in self.issued.values()), default=now)
        return self.until is not None and now >= since + (self.until - since) * 2 / 3


def parse_lists(
    data: bytes, name: str, roots: Sequence[x509.Certificate], now: dt.datetime
) -> SignedLists:
    """Return what a file's lists say; ConfigError unless all are signed by one of the roots.

    One that is too old is read: that it is, ``stale`` says.
    """
    blocks = _BLOCK.findall(data)
    if not blocks or b"".join(blocks).split() != data.split():
        raise ConfigError(f"{name}: has no lists of revoked certificates in PEM, or something else")
    if len(blocks) > LISTS_MAX:
        raise ConfigError(f"{name}: has more than {LISTS_MAX} lists")
    found = SignedLists()
    untils = []
    for block in blocks:
        try:
            untils.append(_read(found, block, name, roots, now))
        except UNREADABLE:
            raise ConfigError(f"{name}: a list in it cannot be read: {_FETCH}") from None
    return SignedLists(found.serials, min(untils), found.issued)


def _read(
    found: SignedLists,
    block: bytes,
    name: str,
    roots: Sequence[x509.Certificate],
    now: dt.datetime,
) -> dt.datetime:
    crl = x509.load_pem_x509_crl(block)
    issuer = crl.issuer.rfc4514_string()
    root = next((each for each in roots if _signed(crl, each)), None)
    if root is None:
        raise ConfigError(
            f"{name}: the list of {issuer} is not signed by a root in security.roots_file: {_FETCH}"
        )
    if crl.next_update_utc is None:
        raise ConfigError(f"{name}: the list of {issuer} does not say until when it is good")
    if crl.last_update_utc > now + SKEW:
        raise ConfigError(f"{name}: the list of {issuer} is of the future: set the clock")
    if any(each.critical for each in crl.extensions):
        raise ConfigError(f"{name}: the list of {issuer} is of a kind that is not known here")
    key = root_id(root)
    if key in found.issued:
        raise ConfigError(f"{name}: has two lists of {issuer}")
    found.issued[key] = (crl.last_update_utc, _number(crl))
    for each in crl:
        if any(extension.critical for extension in each.extensions):
            raise ConfigError(f"{name}: the list of {issuer} is of a kind that is not known here")
        found.serials[each.serial_number] = f"on the list of {issuer}"
    return crl.next_update_utc


def _signed(crl: x509.CertificateRevocationList, root: x509.Certificate) -> bool:
    whole = crl.public_bytes(Encoding.DER).endswith(b"\0" + crl.signature)  # no bits unused
    if crl.issuer != root.subject or not whole:
        return False
    try:
        usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
        key = root.public_key()
        return usage.crl_sign and crl.is_signature_valid(key)  # type: ignore[arg-type]
    except (InvalidSignature, *UNREADABLE):
        return False


def _number(crl: x509.CertificateRevocationList) -> int:
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


class CrlFile:
    """The file as it is at the moment; ``poll`` is cheap enough to be called all the time."""

    def __init__(
        self,
        path: Path,
        roots: Sequence[x509.Certificate],
        now: dt.datetime,
        *,
        obeyed: bool,
        known: Mapping[str, Issued] | None = None,
        kept: str = "",
    ) -> None:
        """Read it; ConfigError when it is no good. ``obeyed``: a stale one refuses everybody.

        ``known``: the newest lists that the node has had, by ``root_id``, and ``kept`` is the file
        that has them. When these are older no certificate is believed until there are newer ones;
        ``poll`` raises RollbackError then.
        """
        self._path = path
        self._roots = {root_id(each): each for each in roots}
        self._kept = kept
        self.obeyed = obeyed
        self._file = ChangingFile(path, SIZE_MAX)
        self._rolled_back = ""
        self.lists = SignedLists()
        self.known = {key: issued for key, issued in (known or {}).items() if key in self._roots}
        """The newest that there were, of today's roots."""
        try:
            self.poll(now)
        except RollbackError as error:
            self._rolled_back = str(error)
            self._file.forget()

    def poll(self, now: dt.datetime) -> bool:
        """Read the file if it is another one than before; returns whether it was.

        Raises ConfigError, once for each change, for a file that is no good: the lists before stay.
        """
        try:
            data = self._file.read()
        except OSError as error:
            self._file.forget()
            raise ConfigError(
                f"{self._path}: {error.strerror}: what was revoked stays so; let node.user read it,"
                " and enter its directories"
            ) from error
        if data is None:
            return False
        lists = parse_lists(data, str(self._path), list(self._roots.values()), now)
        for key, had in self.known.items():
            if key not in lists.issued or lists.issued[key] < had:
                raise RollbackError(self._older(key, lists.issued.get(key), had))
        self.lists, self.known, self._rolled_back = lists, self.known | lists.issued, ""
        return True

    def _older(self, key: str, found: Issued | None, had: Issued) -> str:
        issuer = self._roots[key].subject.rfc4514_string()
        state = f"is older, of {_when(found)}" if found is not None else "is missing"
        held = "what it says stays" if self.lists.issued else "no certificate is believed till then"
        forget = f", or, if the authority began anew, remove {self._kept}" if self._kept else ""
        return (
            f"{self._path}: the list of {issuer} {state}, and this node has had the one of"
            f" {_when(had)}; {held}: {_FETCH}{forget}"
        )

    def distrust(self, now: dt.datetime) -> str:
        """Return why no certificate is to be believed now; empty: they are."""
        if self._rolled_back:
            return self._rolled_back
        if not self.obeyed or not self.lists.stale(now):
            return ""
        return f"the list of revoked certificates was good until {self.until} UTC: {_FETCH}"

    @property
    def until(self) -> str:
        """When the lists are too old, for people."""
        return f"{self.lists.until:%Y-%m-%d %H:%M}" if self.lists.until else "for ever"


def _when(issued: Issued) -> str:
    return f"{issued[0]:%Y-%m-%d %H:%M:%S} UTC (number {issued[1]})"
