"""``valkyrie peer``: the nodes that this one knows, and by what."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from .client import JsonOption, ask, print_json, print_rows
from .exits import Exit, NotRunningError, message
from .node import ConfigOption

if TYPE_CHECKING:
    from cyclopts import App

    from valkyrie.controlplane.config.settings import Config
    from valkyrie.controlplane.config.settings_peer import Peer
    from valkyrie.dataplane.application.appsocket import AnyRequest

_KNOWN_BY = ("fingerprint", "card", "token", "certificate", "demand")


def add(
    name: Annotated[str, Parameter(help="What applications and rules are to call it.")],
    address: Annotated[str, Parameter(help="Its IPv4 or IPv6 address.")],
    fingerprint: Annotated[
        str,
        Parameter(help="What `valkyrie key fingerprint` prints there, or its card (`key show`)."),
    ] = "",
    /,
    *,
    port: Annotated[int, Parameter(help="Its UDP port, if it is not this node's.")] = 0,
    require_pq: Annotated[
        bool, Parameter(negative="", help="Only with post-quantum keys.")
    ] = False,
    show: Annotated[str, Parameter(help="The [[auth]] that it is shown.")] = "",
    demand: Annotated[str, Parameter(help="The [[auth]] that it has to show.")] = "",
    subject: Annotated[str, Parameter(help="Whose that has to be, if not NAME's.")] = "",
    service: Annotated[
        list[str] | None,
        Parameter(negative="", help="A service that it may open, with * and ?; else all of them."),
    ] = None,
    klass: Annotated[
        list[str] | None,
        Parameter(name="--class", negative="", help="A class that it may use; else all of them."),
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> int:
    """Know another node from now on, by its fingerprint. Wants root.

    Do the same there. A node that runs knows it at once. --service and --class may be given more
    than once. Written to node.peers_file, never to the configuration itself; what else may be said
    of a peer (docs/CONFIGURATION.md) can be added to its table by hand.
    """
    from valkyrie.controlplane.config import peerfile
    from valkyrie.controlplane.config import reader as configuration
    from valkyrie.dataplane.application import appsocket
    from valkyrie.dataplane.signing.fingerprint import parse_fingerprint

    table: dict[str, str | int | bool | list[str]] = {"name": name, "address": address}
    if fingerprint.startswith("vkid1:"):
        table["card"] = fingerprint
    elif fingerprint:
        table["fingerprint"] = str(parse_fingerprint(fingerprint))
    if port:
        table["port"] = port
    if require_pq:
        table["require_pq"] = True
    evidence = {"show": show, "demand": demand, "subject": subject}
    table |= {key: value for key, value in evidence.items() if value}
    rights = {"services": service, "classes": klass}
    table |= {key: value for key, value in rights.items() if value}
    read = configuration.load_alone(config or configuration.DEFAULT_PATH)
    path = configuration.peers_path(read)

    def change(text: str) -> str:
        after = peerfile.added(text, table)
        configuration.with_peers(read, after, str(path))
        return after

    peerfile.edit(path, change)
    request = appsocket.AddPeer(peerfile.added("", table))
    live, why = _told(read, request, "knows it now", "takes it")
    document = {"added": name, "file": str(path), "live": live}
    _say(document, f"peer '{name}' is in {path}: {why}", json=json)
    return Exit.OK


def remove(
    name: Annotated[str, Parameter(help="What the peer is called.")],
    /,
    *,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> int:
    """Forget a peer that `valkyrie peer add` has added. Wants root.

    A node that runs ends its session and lets it in no more; streams with it fail.
    """
    from valkyrie.controlplane.config import peerfile
    from valkyrie.controlplane.config import reader as configuration
    from valkyrie.dataplane.application import appsocket
    from valkyrie.dataplane.errors import ConfigError

    read = configuration.load_alone(config or configuration.DEFAULT_PATH)
    path = configuration.peers_path(read)
    try:
        peerfile.edit(path, lambda text: peerfile.removed(text, name, str(path)))
    except KeyError:
        if name in (peer.name for peer in read.peers):
            raise ConfigError(f"peer '{name}' stands in {read.file}: take it away there") from None
        raise ConfigError(f"{path} has no peer '{name}': see `valkyrie peer list`") from None
    live, why = _told(read, appsocket.RemovePeer(name), "has put it out", "lets it in no more")
    document = {"removed": name, "file": str(path), "live": live}
    _say(document, f"peer '{name}' is no more in {path}: {why}", json=json)
    return Exit.OK


def list_(*, config: ConfigOption = None, json: JsonOption = False) -> int:
    """Print the peers of the configuration: where they are, what they are known by, what may be.

    Whether there is a session with one says `valkyrie session list`.
    """
    from valkyrie.controlplane.config import reader as configuration
    from valkyrie.controlplane.config import trust

    read = configuration.load(config or configuration.DEFAULT_PATH)
    rows = [
        {
            **_row(peer, read),
            "modes": sorted(mode.name.lower() for mode in known.modes or ()) if known else [],
        }
        for peer, known in zip(read.peers, trust.pins(read), strict=True)
    ]
    none = "no peers: add one with `valkyrie peer add NAME ADDRESS FINGERPRINT`"
    print_rows(rows, json=json, none=none)
    return Exit.OK


def _row(peer: Peer, config: Config) -> dict[str, object]:
    by = [key for key in _KNOWN_BY if getattr(peer, key)]
    return {
        "name": peer.name,
        "address": peer.address,
        "port": peer.port or config.node.udp_port,
        "known by": ", ".join(by) or ("nothing (static)" if peer.static else "its address"),
        "fingerprint": _fingerprint(peer),
        "services": peer.services,
        "classes": sorted(klass.name.lower() for klass in peer.rights.classes),
    }


def _fingerprint(peer: Peer) -> str:
    if peer.card:
        from valkyrie.controlplane.security.identity import Card

        return str(Card.of_text(peer.card).fingerprint)
    return peer.fingerprint


def _told(config: Config, request: AnyRequest, now: str, later: str) -> tuple[bool, str]:
    """Tell the node what has changed; whether it knows that now, and how to say so."""
    from pathlib import Path

    from valkyrie.dataplane.errors import ValkyrieError

    path = Path(config.node.run_directory) / f"{config.node.name}.sock"
    try:
        ask(str(path), request)
    except NotRunningError:
        return False, f"the node {later} when it starts"
    except ValkyrieError as error:
        return False, f"the node {later} when it starts anew ({message(error)})"
    return True, f"the node {now}"


def _say(document: dict[str, object], what: str, *, json: bool) -> None:
    if json:
        print_json(document)
    else:
        print(what, file=sys.stderr)


def build() -> App:
    """Return the commands below ``valkyrie peer``."""
    from cyclopts import App

    app = App(name="peer", help="The nodes that this one knows.", help_format="plaintext")
    app.command(add, usage="Usage: valkyrie peer add [OPTIONS] NAME ADDRESS [FINGERPRINT]")
    app.command(list_, name="list")
    app.command(remove)
    return app
