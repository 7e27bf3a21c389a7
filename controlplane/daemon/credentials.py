"""What a node brings to every handshake (``Local``), made from its configuration and its files.

The files are read by root in a process that gives its rights up afterwards: the daemon. The broker
and the workers never hold what is in them.
"""

from __future__ import annotations

import datetime as dt
import pwd
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from valkyrie.controlplane.config import settings_auth
from valkyrie.controlplane.config.reader import DEFAULT_PATH, beside
from valkyrie.controlplane.config.settings_base import WrongKeyError
from valkyrie.controlplane.config.settings_security import IDENTITY_FILE
from valkyrie.controlplane.config.trust import pins, policy
from valkyrie.controlplane.rest import beating, unseen
from valkyrie.controlplane.security.crl import CrlFile
from valkyrie.controlplane.security.exchange import token_id
from valkyrie.controlplane.security.identity import Identity
from valkyrie.controlplane.security.identity_file import (
    load_or_make,
    of_pem,
    read_plain,
    read_private,
)
from valkyrie.controlplane.security.local import Local
from valkyrie.controlplane.security.modes import Mode
from valkyrie.controlplane.security.revocation import RevocationFile, Revocations
from valkyrie.controlplane.security.tls_files import parse_credentials
from valkyrie.controlplane.security.token_file import parse_secrets
from valkyrie.controlplane.security.trust import Peer, Pins
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.signing import fn_dsa

from . import auth, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography import x509

    from valkyrie.controlplane.config.settings import Config
    from valkyrie.controlplane.security.crl import SignedLists
    from valkyrie.controlplane.security.tls import TlsCredentials

    from .auth import Providers


@dataclass(slots=True)
class Credentials:
    """What a node is and whom it knows, in the words of the handshake."""

    local: Local
    """Its ``trust`` is ``pins``."""
    pins: Pins
    peers: tuple[Peer | None, ...]
    """In the order of the configuration; None: a static one, which has no handshake.

    Whoever comes in plaintext is granted no name: only a peer that is ``unprotected`` is to be
    taken for who has its address.
    """
    revoked: RevocationFile | None = None
    """Of which ``pins`` has what is revoked."""
    made: bool = False
    """The identity was made now, for want of a file."""
    providers: Providers | None = None

    crl: CrlFile | None = None
    """What authorities have revoked; ``pins`` has that, too."""
    _obeyed: tuple[Revocations | None, SignedLists | None, str] = (None, None, "")

    def obey(self, now: dt.datetime) -> bool:
        """Have ``pins`` refuse what both files say now; returns whether that is something else."""
        own = self.revoked.revocations if self.revoked is not None else None
        lists = self.crl.lists if self.crl is not None else None
        distrust = self.crl.distrust(now) if self.crl is not None else ""
        if own is self._obeyed[0] and lists is self._obeyed[1] and distrust == self._obeyed[2]:
            return False
        self._obeyed = own, lists, distrust
        found = own or Revocations()
        self.pins.revocations = found.with_lists(lists.serials, distrust) if lists else found
        return True

    def know(self, config: Config) -> None:
        """Take over the peers of a configuration that has more; ConfigError, and it does not."""
        local = self.local
        found = assemble(config, local.identity, local.secrets, local.tls, self.providers)
        self.pins.peers, self.peers = found.pins.peers, found.peers

    @property
    def lasting_identity(self) -> Identity | None:
        """The node's identity, if it is one that others can know it by."""
        protected = self.local.policy.modes != {Mode.PLAINTEXT}
        return self.local.identity if protected else None

    def describe(self) -> dict[str, object]:
        """Return what status says of this node's security."""
        modes = self.local.policy.allowed()
        protected = modes != (Mode.PLAINTEXT,)
        return {
            "fingerprint": str(self.local.identity.card.fingerprint) if protected else "",
            "modes": [mode.name.lower() for mode in modes],
            "require_pq": self.local.policy.require_pq,
            "unread": self.providers.look() if self.providers is not None else "",
        }


def watched(config: Config) -> list[Path]:
    """Return the directories of files that are looked at while the node runs, or replaced."""
    security = config.security
    names = [config.file, security.revoked_file, security.crl_file, security.certificate_file]
    names += [name for each in config.auth for name in settings_auth.files(each)]
    return [beside(config, name).absolute().parent for name in names if name]


def identity_path(file: Path | None) -> Path:
    """Return where a node keeps its identity, also when its configuration is not finished yet.

    A peer can only be pinned when both nodes have one.
    """
    given = file or Path(DEFAULT_PATH)
    name = IDENTITY_FILE
    try:
        tree = tomllib.loads(given.read_text())
        name = str(tree.get("security", {}).get("identity_file", name))
    except FileNotFoundError as error:
        if file is not None:
            raise ConfigError(f"{file}: {error.strerror}") from error
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{given}: cannot be read: {error}") from error
    return given.parent / name


def make_place(path: Path) -> None:
    """Make the directory of an identity."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path.parent}: cannot be made: {error.strerror}") from error


def assemble(
    config: Config,
    identity: Identity,
    secrets: tuple[bytes, ...] = (),
    tls: TlsCredentials | None = None,
    providers: Providers | None = None,
    *,
    revoked: RevocationFile | None = None,
    crl: CrlFile | None = None,
    made: bool = False,
    beat: Callable[[], None] = unseen,
) -> Credentials:
    """Return the credentials of a node whose secrets are these."""
    try:
        peers = pins(config, beat)
        ours = policy(config.security)
    except WrongKeyError as error:
        raise ConfigError(f"{config.file}: {error}") from None
    shared = {token_id(secret) for secret in secrets}
    for peer in peers:
        if peer is not None and peer.token_id is not None and peer.token_id not in shared:
            raise ConfigError(
                f"{beside(config, config.security.secrets_file)}: has no secret with the id"
                f" {peer.token_id.hex()}, which is shared with peer '{peer.name}': put it there"
            )
    known = {peer.name: peer for peer in peers if peer is not None}
    trust = Pins(known, verifiers=providers.verifiers if providers else {})
    for peer in beating(known.values(), beat):
        _check_subject(config, trust, peer)
    if tls is not None:
        tls = replace(tls, check=trust.check_certificate)
    provers = providers.provers if providers else {}
    local = Local(identity, trust, ours, secrets, tls, provers)
    found = Credentials(local, trust, peers, revoked, made, providers, crl)
    found.obey(dt.datetime.now(dt.UTC))
    return found


def _check_subject(config: Config, trust: Pins, peer: Peer) -> None:
    known = trust.verifiers[peer.demand].subjects if peer.demand else None
    if known is not None and peer.whose not in known:
        raise ConfigError(
            f"{config.file}: the file of [[auth]] '{peer.demand}' has nothing of '{peer.whose}',"
            f" which is demanded of peer '{peer.name}'"
        )


def load(
    config: Config,
    *,
    make: bool = False,
    revokes: bool = False,
    beat: Callable[[], None] = unseen,
) -> Credentials:
    """Return a node's credentials; ``make``: its identity too, if it has none yet.

    ``revokes``: its `revoked.toml` has to be there.

    Reads files that are their owner's only: call it before rights are dropped. ConfigError says
    what is wrong.
    """
    security, made = config.security, False
    if set(security.modes) == {"plaintext"}:
        identity = Identity.generate()  # nobody asks for proof of it
    else:
        identity, made = _identity(config, make=make)
    secrets = _read_secrets(config) if security.secrets_file else ()
    tls = _read_tls(config) if security.certificate_file else None
    providers = _read_providers(config) if config.auth else None
    revoked = RevocationFile(beside(config, security.revoked_file), expected=revokes)
    crl = _read_crl(config, tls.roots) if tls is not None and security.crl_file else None
    return assemble(
        config, identity, secrets, tls, providers, revoked=revoked, crl=crl, made=made, beat=beat
    )


def _identity(config: Config, *, make: bool) -> tuple[Identity, bool]:
    path, wanted = beside(config, config.security.identity_file), config.security.signatures
    with_fn_dsa = "fn_dsa_512" in wanted
    if with_fn_dsa and fn_dsa.library() is None:
        raise ConfigError(
            f"{config.file}: security.signatures: fn_dsa_512 needs the package py-fn-dsa: `pip"
            f" install '{fn_dsa.EXTRA}'`, or take it away"
        )
    if make:
        make_place(path)
        identity, made = load_or_make(path, with_fn_dsa=with_fn_dsa)
    else:
        identity, made = of_pem(_read(path), str(path)), False
    if with_fn_dsa and identity.fn_dsa is None:
        raise ConfigError(
            f"{path}: has no FN-DSA-512 key, and security.signatures has fn_dsa_512: make another"
            " identity by `valkyrie key new --fn-dsa --replace`, and tell the peers its fingerprint"
        )
    return identity, made


def _read_secrets(config: Config) -> tuple[bytes, ...]:
    path = beside(config, config.security.secrets_file)
    return parse_secrets(_read(path), str(path))


def _read_crl(config: Config, roots: Sequence[x509.Certificate]) -> CrlFile:
    path, stale = beside(config, config.security.crl_file), config.security.crl_stale
    kept = listed.state_path(config)
    return CrlFile(
        path,
        roots,
        dt.datetime.now(dt.UTC),
        obeyed=stale == "refuse",
        known=listed.read(kept),
        kept=str(kept),
    )


def _read_providers(config: Config) -> Providers:
    user = pwd.getpwnam(config.node.user).pw_uid
    return auth.read(config.auth, lambda name: beside(config, name), user)


def _read_tls(config: Config) -> TlsCredentials:
    security = config.security
    chain = beside(config, security.certificate_file)
    key = beside(config, security.certificate_key_file)
    roots = beside(config, security.roots_file)
    return parse_credentials(
        (chain, _read(chain, private=False)),
        (key, _read(key)),
        (roots, _read(roots, private=False)),
    )


def _read(path: Path, *, private: bool = True) -> bytes:
    try:
        return read_private(path) if private else read_plain(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
