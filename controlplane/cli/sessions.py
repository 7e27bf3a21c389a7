"""``valkyrie session``: the sessions with other nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .client import DEFAULT_NODE, JsonOption, NodeOption, ask, columns, print_json
from .exits import Exit

if TYPE_CHECKING:
    from cyclopts import App


def sessions(*, node: NodeOption = DEFAULT_NODE, json: JsonOption = False) -> int:
    """Say with which peers a node has sessions: state, ids, age, round trip, why one ended."""
    from valkyrie.dataplane import appsocket

    rows = ask(node, appsocket.Status()).document["sessions"]
    assert isinstance(rows, list)
    if json:
        print_json(rows)
    elif rows:
        for line in columns(rows):
            print(line)
    else:
        print("no peers are configured: see [[peer]] in docs/CONFIGURATION.md")
    return Exit.OK


def build() -> App:
    """Return the commands below ``valkyrie session``."""
    from cyclopts import App

    app = App(name="session", help="The sessions with other nodes.", help_format="plaintext")
    app.command(sessions, name="list")
    return app
