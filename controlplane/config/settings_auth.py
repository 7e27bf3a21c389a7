"""The tables ``[[auth]]``: what peers show each other beside their keys, or instead of a pin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from .settings_base import Settings, WrongKeyError

if TYPE_CHECKING:
    from .settings import Config
    from .settings_peer import Peer


class Auth(Settings, frozen=True, kw_only=True):
    """A way to prove on whose behalf a node asks, which `show` and `demand` of [[peer]] name. What
    is shown is sealed within the handshake. Files are looked for beside the configuration, and are
    for their owner only (mode 0600), but for certificates and roots. One that belongs to
    `node.user` can be replaced while the node runs; after others have changed, start it again.
    """

    name: Annotated[
        str,
        Meta(
            pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
            description="What [[peer]] tables call it.",
        ),
    ]
    kind: Annotated[
        Literal["hmac", "certificate", "api_key", "jwt"],
        Meta(
            description="`hmac`: a secret for each node, which both sides have. `certificate`:"
            " X.509 up to a root, as for `mtls`, but in the modes that go by fingerprint."
            " `api_key`: a word, of which the other side has only what cannot be used. `jwt`: a"
            " token from an issuer."
        ),
    ]
    subject: Annotated[
        str, Meta(description="For `hmac`, to show: the name that this node has in `secrets_file`.")
    ] = ""
    secrets_file: Annotated[
        str,
        Meta(
            description="For `hmac`: lines of a name and a secret that `valkyrie key token` made."
        ),
    ] = ""
    certificate_file: Annotated[
        str,
        Meta(
            description="For `certificate`, to show: this node's, and what is between it and the"
            " root, in PEM."
        ),
    ] = ""
    certificate_key_file: Annotated[
        str, Meta(description="For `certificate`, to show: its private key (Ed25519), in PEM.")
    ] = ""
    roots_file: Annotated[
        str, Meta(description="For `certificate`, to demand: the roots that lead to peers, in PEM.")
    ] = ""
    key_file: Annotated[
        str, Meta(description="For `api_key`, to show: the key as `valkyrie key api` prints it.")
    ] = ""
    keys_file: Annotated[
        str,
        Meta(
            description="To demand. For `api_key`: lines of a name, the other half that `valkyrie"
            " key api` prints, and until when if you like (`2027-01-31T12:00Z`). For `jwt`: the"
            " issuer's JSON web key set, for RS256, ES256, EdDSA, HS256."
        ),
    ] = ""
    token_file: Annotated[
        str,
        Meta(description="For `jwt`, to show: the token."),
    ] = ""
    issuer: Annotated[str, Meta(description="For `jwt`, to demand: the token's `iss`.")] = ""
    audience: Annotated[
        str, Meta(description="For `jwt`, to demand: this node's name in the token's `aud`.")
    ] = ""


SHOWS = {
    "hmac": ("secrets_file", "subject"),
    "certificate": ("certificate_file", "certificate_key_file"),
    "api_key": ("key_file",),
    "jwt": ("token_file",),
}
"""Keys that a node must have to show something of a kind ..."""
DEMANDS = {
    "hmac": ("secrets_file",),
    "certificate": ("roots_file",),
    "api_key": ("keys_file",),
    "jwt": ("issuer", "audience", "keys_file"),
}
"""... and to demand it."""
FILES = sorted(
    {key for keys in (*SHOWS.values(), *DEMANDS.values()) for key in keys if key.endswith("_file")}
)


def has(auth: Auth, keys: tuple[str, ...]) -> bool:
    """Say whether a table has all these keys."""
    return all(getattr(auth, key) for key in keys)


def files(auth: Auth) -> list[str]:
    """Return the files that a table names."""
    return [getattr(auth, key) for key in FILES if getattr(auth, key)]


def check(config: Config) -> None:
    """Raise WrongKeyError for tables that make no sense, and for peers that name what is not."""
    tables: dict[str, Auth] = {}
    for i, auth in enumerate(config.auth):
        if auth.name in tables:
            raise WrongKeyError(f"auth[{i}].name", f"'{auth.name}' is another one's already")
        tables[auth.name] = auth
        _check_table(auth, f"auth[{i}]")
    for i, peer in enumerate(config.peers):
        if not peer.gone:
            _check_peer(peer, f"peer[{i}]", tables, _unsealed(peer, config))


def _check_table(auth: Auth, where: str) -> None:
    shows, demands = SHOWS[auth.kind], DEMANDS[auth.kind]
    for key in sorted({each for keys in (*SHOWS.values(), *DEMANDS.values()) for each in keys}):
        if getattr(auth, key) and key not in (*shows, *demands):
            raise WrongKeyError(f"{where}.{key}", f"is of no use for {auth.kind!r}: take it away")
    if not has(auth, shows) and not has(auth, demands):
        raise WrongKeyError(
            where,
            f"can neither show a thing, for want of {_list(auth, shows)}, nor demand one, for want"
            f" of {_list(auth, demands)}",
        )


def _list(auth: Auth, keys: tuple[str, ...]) -> str:
    return " and ".join(key for key in keys if not getattr(auth, key))


def _unsealed(peer: Peer, config: Config) -> str:
    """Return why nothing can be sealed for a peer; empty: it can."""
    if peer.static:
        return "the peer is static"
    if peer.plaintext:
        return "the peer is talked to in plaintext"
    return 'security.modes is ["plaintext"]' if set(config.security.modes) == {"plaintext"} else ""


def _check_peer(peer: Peer, where: str, tables: dict[str, Auth], unsealed: str) -> None:
    for key, needs in (("show", SHOWS), ("demand", DEMANDS)):
        name = getattr(peer, key)
        if not name:
            continue
        if name not in tables:
            raise WrongKeyError(f"{where}.{key}", f"there is no [[auth]] with the name '{name}'")
        auth = tables[name]
        if not has(auth, needs[auth.kind]):
            lacks = _list(auth, needs[auth.kind])
            raise WrongKeyError(f"{where}.{key}", f"[[auth]] '{name}' has no {lacks} to {key} it")
        if unsealed:
            what = f"needs keys to be sealed with, and {unsealed}"
            raise WrongKeyError(f"{where}.{key}", what)
    if peer.subject and not peer.demand:
        raise WrongKeyError(f"{where}.subject", "is of no use without a `demand`")
