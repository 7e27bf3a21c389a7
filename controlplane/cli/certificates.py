"""``valkyrie cert``: an authority of one's own, and the certificates of nodes (mode mtls)."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators

from .client import JsonOption, print_document, print_json
from .exits import Exit

if TYPE_CHECKING:
    from cryptography import x509
    from cyclopts import App

Folder = Annotated[Path, Parameter(help="Directory of the authority.")]
Days = Annotated[
    int, Parameter(help="How long it is good.", validator=validators.Number(gte=1, lte=3650))
]


ListDays = Annotated[
    int,
    Parameter(help="How long the list is believed.", validator=validators.Number(gte=1, lte=3650)),
]


def ca(
    directory: Folder,
    /,
    *,
    name: Annotated[str, Parameter(help="What certificates call it.")] = "valkyrie-ca",
    json: JsonOption = False,
) -> int:
    """Make a certificate authority: ca.pem for all nodes, ca.key for nobody else.

    Keep the directory where no node runs. For tests, and for networks of one owner.
    """
    from valkyrie.controlplane.security import authority

    made = authority.create(directory, name, _now())
    return _say({"file": str(directory / "ca.pem"), **_facts(made.certificate)}, json=json)


def issue(
    directory: Folder,
    node: Annotated[str, Parameter(help="Name of the node: what its peers write down.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="Directory for NODE.pem and NODE.key.")] = Path(),
    days: Days = 30,
    json: JsonOption = False,
) -> int:
    """Make a node's key and certificate."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from valkyrie.controlplane.security import authority, certificates
    from valkyrie.controlplane.security.identity_file import write_private
    from valkyrie.dataplane.errors import ConfigError

    above, key = authority.load(directory), Ed25519PrivateKey.generate()
    life = dt.timedelta(days=days)
    chain = certificates.issue(above, node, key.public_key(), _now(), life)
    file, secret = out / f"{node}.pem", out / f"{node}.key"
    try:
        write_private(secret, authority.pem_of_key(key), replace=False)
    except FileExistsError:
        raise ConfigError(
            f"{secret}: is there already: `valkyrie cert renew` keeps the key; or remove it"
        ) from None
    authority.write_public(file, authority.pem_of(chain))
    return _say({"file": str(file), "key": str(secret), **_facts(chain[0])}, json=json)


def show(
    file: Annotated[Path, Parameter(help="A certificate, in PEM.")],
    /,
    *,
    json: JsonOption = False,
) -> int:
    """Say whose a certificate is, how long it is good, and when it should be renewed."""
    return _say({"file": str(file), **_facts(_read(file)[0])}, json=json)


def renew(
    directory: Folder,
    file: Annotated[Path, Parameter(help="The node's certificate; a copy will do.")],
    /,
    *,
    days: Days = 30,
    if_due: Annotated[
        bool, Parameter(help="Do nothing before two thirds of its life are over: for a timer.")
    ] = False,
    json: JsonOption = False,
) -> int:
    """Issue a node's certificate anew, for the same name and key, in the place of the old one.

    A running node shows the new one from its next handshake on, with no restart.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from valkyrie.controlplane.security import authority, certificates
    from valkyrie.dataplane.errors import ConfigError

    if if_due and _now() < certificates.renewal_time(old := _read(file)[0]):
        return _say({"file": str(file), **_facts(old)}, json=json)
    above, old = authority.load(directory), _read(file)[0]
    public = old.public_key()
    try:
        old.verify_directly_issued_by(above.certificate)
    except Exception:  # whatever cryptography says, it has not
        raise ConfigError(f"{file}: was not issued by the authority in {directory}") from None
    assert isinstance(public, Ed25519PublicKey)
    if old.serial_number in authority.revoked(directory):
        raise ConfigError(f"{file}: is revoked: issue the node a new key and certificate")
    name, life = certificates.node_name(old), dt.timedelta(days=days)
    chain = certificates.issue(above, name, public, _now(), life)
    authority.write_public(file, authority.pem_of(chain))
    return _say({"file": str(file), **_facts(chain[0])}, json=json)


def due(
    file: Annotated[Path, Parameter(help="The node's certificate.")],
    /,
    *,
    json: JsonOption = False,
) -> int:
    """Say whether two thirds of a certificate's life are over: ends with 0 if so, else with 1.

    For a timer that brings a new one from wherever the authority is; `valkyrie cert take` puts it
    in its place.
    """
    from valkyrie.controlplane.security.certificates import renewal_time

    found = _read(file)[0]
    is_due = _now() >= renewal_time(found)
    _say({"file": str(file), "due": is_due, **_facts(found)}, json=json)
    return Exit.OK if is_due else Exit.FAILED


def take(
    new: Annotated[Path, Parameter(help="A certificate that somebody brought, in PEM.")],
    file: Annotated[Path, Parameter(help="The node's certificate: security.certificate_file.")],
    /,
    *,
    roots: Annotated[Path, Parameter(help="The root that it must lead to, as ca.pem.")],
    json: JsonOption = False,
) -> int:
    """Put a renewed certificate in the place of the old one, if it is one.

    That is for the same name and key, leads to a root, is good now, and for longer than the old
    one. Otherwise the old one stays.
    """
    from valkyrie.controlplane.security import authority, certificates
    from valkyrie.controlplane.security.errors import SecurityError
    from valkyrie.dataplane.errors import ConfigError

    old, chain = _read(file)[0], _read(new)
    try:
        name = certificates.check_chain(chain, _read(roots), [], _now())
        same = name == certificates.node_name(old)
    except SecurityError as error:
        raise ConfigError(f"{new}: is not taken: {error}") from None
    if not same or chain[0].public_key() != old.public_key():
        raise ConfigError(f"{new}: is not taken: it has another name or key than {file}")
    if chain[0].not_valid_after_utc <= old.not_valid_after_utc:
        raise ConfigError(f"{new}: is not taken: it is good no longer than {file}")
    authority.write_public(file, authority.pem_of(chain))
    return _say({"file": str(file), **_facts(chain[0])}, json=json)


def revoke(
    directory: Folder,
    what: Annotated[str, Parameter(help="The certificate's file, or its serial number in hex.")],
    /,
    *,
    reason: Annotated[str, Parameter(help="Why, for people.")] = "",
    to: Annotated[
        Path | None, Parameter(help="A node's revoked.toml: its session ends within a second.")
    ] = None,
    days: ListDays = 365,
    json: JsonOption = False,
) -> int:
    """Revoke a certificate: in the authority's signed list, and with --to on a node of this host.

    Nodes obey the list where security.crl_file names a copy, and their revoked.toml
    (docs/AUDIT.md); a session ends within a second of the file's coming.
    """
    from valkyrie.controlplane.security import authority
    from valkyrie.dataplane.errors import ConfigError

    if Path(what).exists():
        serial = _read(Path(what))[0].serial_number
    else:
        try:
            serial = int(what.replace(":", ""), 16)
        except ValueError:
            raise ConfigError(f"{what}: is neither a file nor a serial number") from None
    count = authority.revoke(directory, [serial], _now(), dt.timedelta(days=days))
    if to is not None:
        authority.add_revoked(to, serial, reason)
    return _say({"serial": f"{serial:x}", **_list(directory, count, days)}, json=json)


def crl(directory: Folder, /, *, days: ListDays = 365, json: JsonOption = False) -> int:
    """Sign the list of what was revoked anew, and make it if there is none.

    Nodes with security.crl_file want a new one before this one is too old.
    """
    from valkyrie.controlplane.security import authority

    count = authority.revoke(directory, [], _now(), dt.timedelta(days=days))
    return _say(_list(directory, count, days), json=json)


def _list(directory: Path, count: int, days: int) -> dict[str, Any]:
    until = _now() + dt.timedelta(days=days)
    file = str(directory / "revoked.pem")
    return {"revoked": count, "list": file, "until": f"{until:%Y-%m-%dT%H:%M:%SZ}"}


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _read(file: Path) -> list[x509.Certificate]:
    from cryptography import x509

    from valkyrie.controlplane.security.certificates import UNREADABLE
    from valkyrie.dataplane.errors import ConfigError

    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except UNREADABLE:
        raise ConfigError(f"{file}: has no certificate in PEM") from None
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such file") from None


def _facts(certificate: x509.Certificate) -> dict[str, Any]:
    from cryptography.hazmat.primitives.hashes import SHA256

    from valkyrie.controlplane.security.certificates import renewal_time

    times = {
        "from": certificate.not_valid_before_utc,
        "renew_at": renewal_time(certificate),
        "until": certificate.not_valid_after_utc,
    }
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        **{name: f"{time:%Y-%m-%dT%H:%M:%SZ}" for name, time in times.items()},
        "sha256": certificate.fingerprint(SHA256()).hex(),
    }


def _say(document: dict[str, Any], *, json: bool) -> int:
    if json:
        print_json(document)
    else:
        print_document(document)
    return Exit.OK


def build() -> App:
    """Return the commands below ``valkyrie cert``."""
    from cyclopts import App

    app = App(name="cert", help="An authority and certificates of nodes.", help_format="plaintext")
    for command in (ca, issue, show, renew, due, take, revoke, crl):
        app.command(command)
    return app
