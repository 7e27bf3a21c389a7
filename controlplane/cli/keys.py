"""``valkyrie key``: who this node is, and secrets that are shared with others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from .client import JsonOption, print_document, print_json
from .exits import Exit
from .node import ConfigOption

if TYPE_CHECKING:
    from cyclopts import App

    from valkyrie.controlplane.security.identity import Card


def show(*, config: ConfigOption = None, json: JsonOption = False) -> int:
    """Print this node's fingerprint and card, and where its keys are. Wants root.

    The fingerprint is what peers pin; the card says as much and is longer (docs/SECURITY.md).
    """
    path, card = _card(config)
    document = {
        "fingerprint": str(card.fingerprint),
        "card": card.text(),
        "file": str(path),
    }
    if json:
        print_json(document)
    else:
        print_document(document)
    return Exit.OK


def fingerprint(*, config: ConfigOption = None, json: JsonOption = False) -> int:
    """Print this node's fingerprint, which its peers write down. Wants root."""
    _, card = _card(config)
    if json:
        print_json({"fingerprint": str(card.fingerprint)})
    else:
        print(card.fingerprint)
    return Exit.OK


def new(
    *,
    replace: Annotated[
        bool,
        Parameter(negative="", help="Give up the identity that there is: no peer knows the next."),
    ] = False,
    fn_dsa: Annotated[
        bool, Parameter(negative="", help="With a key for FN-DSA-512 too (security.signatures).")
    ] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> int:
    """Make this node's identity, as its first start would. Wants root.

    A running node has its old one until it starts anew.
    """
    from valkyrie.controlplane.daemon.credentials import identity_path, make_place
    from valkyrie.controlplane.security.identity import Identity
    from valkyrie.controlplane.security.identity_file import to_pem, write_private
    from valkyrie.dataplane.errors import ConfigError

    path = identity_path(config)
    make_place(path)
    identity = Identity.generate(with_fn_dsa=fn_dsa)
    try:
        write_private(path, to_pem(identity), replace=replace)
    except FileExistsError:
        raise ConfigError(
            f"{path}: there is an identity: see it with `valkyrie key show`, or give it up with"
            " --replace, and every peer that knows it has to be told the new fingerprint"
        ) from None
    document = {"fingerprint": str(identity.card.fingerprint), "file": str(path)}
    if json:
        print_json(document)
    else:
        print(document["fingerprint"])
        print(
            f"kept in {path}: tell the fingerprint to this node's peers, and start the node anew",
            file=sys.stderr,
        )
    return Exit.OK


def token(*, json: JsonOption = False) -> int:
    """Make a secret for two nodes to share: a line for the file security.secrets_file of both.

    What to do with it goes to standard error, so that `umask 077; valkyrie key token >> FILE` keeps
    the secret and nothing else.
    """
    import os

    from valkyrie.controlplane.security.exchange import token_id
    from valkyrie.controlplane.security.token_file import WORD_SIZE, to_word

    secret = os.urandom(WORD_SIZE)
    name = token_id(secret).hex()
    if json:
        print_json({"secret": to_word(secret), "id": name})
        return Exit.OK
    print(to_word(secret))
    print(
        f"its id is {name}: put the secret on a line of security.secrets_file on both nodes, and"
        f' token = "{name}" in the [[peer]] tables that they have for each other',
        file=sys.stderr,
    )
    return Exit.OK


def api(
    name: Annotated[str, Parameter(help="What the node is called by those who demand it.")],
    /,
    *,
    json: JsonOption = False,
) -> int:
    """Make an API key for [[auth]]: the key for `key_file` of who is to show it.

    What the others have in their `keys_file` goes to standard error; nobody can use that to show
    the key, so that `umask 077; valkyrie key api NAME > FILE` keeps the key and nothing else.
    """
    import os

    from valkyrie.controlplane.security.providers import API_KEY_SIZE, api_key_word, public_word

    key = os.urandom(API_KEY_SIZE)
    line = f"{name} {public_word(key)}"
    if json:
        print_json({"key": api_key_word(key), "line": line})
        return Exit.OK
    print(api_key_word(key))
    print(f"a line for keys_file of the [[auth]] of who demands it:\n{line}", file=sys.stderr)
    return Exit.OK


def _card(config: Path | None) -> tuple[Path, Card]:
    from valkyrie.controlplane.daemon.credentials import identity_path
    from valkyrie.controlplane.security.identity_file import of_pem, read_private
    from valkyrie.dataplane.errors import ConfigError

    path = identity_path(config)
    try:
        return path, of_pem(read_private(path), str(path)).card
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: this node has no identity yet: make it with `valkyrie key new`, or start the"
            " node"
        ) from None


def build() -> App:
    """Return the commands below ``valkyrie key``."""
    from cyclopts import App

    app = App(name="key", help="Who this node is, and shared secrets.", help_format="plaintext")
    for command in (show, fingerprint, new, token, api):
        app.command(command)
    return app
