"""``valkyrie session``: the sessions with other nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from .client import DEFAULT_NODE, JsonOption, NodeOption, ask, print_json, print_rows
from .exits import Exit

if TYPE_CHECKING:
    from cyclopts import App


def sessions(*, node: NodeOption = DEFAULT_NODE, json: JsonOption = False) -> int:
    """Say with which peers a node has sessions: state, age, protection, or why there is none.

    --json has all that is known of them: ids, fingerprints, times.
    """
    from valkyrie.dataplane.application import appsocket

    rows = ask(node, appsocket.Status()).document["sessions"]
    assert isinstance(rows, list)
    print_rows(
        rows if json else shown(rows),
        json=json,
        none="no peers are configured: see [[peer]] in docs/CONFIGURATION.md",
    )
    return Exit.OK


_SHOWN = ("peer", "state", "address", "mode", "epoch", "age_s", "rtt_us", "streams", "why")


def shown(rows: object) -> list[dict[str, Any]]:
    """Return of sessions what fits a line of a terminal."""
    assert isinstance(rows, list)
    return [{key: row.get(key, "") for key in _SHOWN} for row in rows]


PeerArgument = Annotated[str, Parameter(help="Name or address of the peer.")]


def kill(peer: PeerArgument, *, node: NodeOption = DEFAULT_NODE, json: JsonOption = False) -> int:
    """End the session with a peer, and its streams. A new one begins when somebody wants it.

    To keep a peer out, take it out of the configuration, or revoke its certificate. Wants root.
    """
    from valkyrie.dataplane.application import appsocket

    document = ask(node, appsocket.Kill(peer)).document
    if json:
        print_json(document)
    return Exit.OK


def rotate(peer: PeerArgument, *, node: NodeOption = DEFAULT_NODE, json: JsonOption = False) -> int:
    """Make the session with a peer anew by a handshake, with new keys; its streams go on.

    Keys rotate by themselves; this also heals what is lost with a key. Wants root.
    """
    from valkyrie.dataplane.application import appsocket

    document = ask(node, appsocket.Rotate(peer)).document
    if json:
        print_json(document)
    elif not document["rotated"]:
        print("the peer has not answered yet: the old session goes on, see `valkyrie session list`")
    return Exit.OK if document["rotated"] else Exit.FAILED


def build() -> App:
    """Return the commands below ``valkyrie session``."""
    from cyclopts import App

    app = App(name="session", help="The sessions with other nodes.", help_format="plaintext")
    app.command(sessions, name="list")
    app.command(kill)
    app.command(rotate)
    return app
