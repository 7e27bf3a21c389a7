"""Commands that run a node or talk to one: up, status, tune, upgrade, stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .client import DEFAULT_NODE, JsonOption, NodeOption, ask, print_document, print_json
from .exits import Exit
from .sessions import shown

UPGRADE_S = 60.0

ConfigOption = Annotated[
    Path | None, Parameter(help="Configuration file, instead of /etc/valkyrie/valkyrie.toml.")
]


def up(*, config: ConfigOption = None, json: JsonOption = False) -> int:
    """Run a node in the foreground, until SIGTERM or Ctrl-C.

    Wants root, or the capabilities that `valkyrie doctor` lists. Tells systemd when it is ready.
    """
    from valkyrie.controlplane.broker import broker
    from valkyrie.controlplane.config.reader import DEFAULT_PATH, load

    settings = load(config or DEFAULT_PATH)
    code = broker.run(settings)
    if json:
        print_json({"node": settings.node.name, "exit": code})
    return code


def status(*, node: NodeOption = DEFAULT_NODE, json: JsonOption = False) -> int:
    """Say what a node is doing: interfaces and their paths with the reason, peers, applications.

    --json has all that is known; of sessions only what `valkyrie session list` shows is printed.
    """
    from valkyrie.dataplane.application import appsocket

    document = ask(node, appsocket.Status()).document
    if json:
        print_json(document)
    else:
        print_document(document | {"sessions": shown(document.get("sessions", []))})
    return Exit.OK


def tune(
    *values: Annotated[
        str, Parameter(help="[SESSION] KEY=VALUE..., as class.logs.rate_packets=100000.")
    ],
    node: NodeOption = DEFAULT_NODE,
    json: JsonOption = False,
) -> int:
    """Change live parameters of a node, or of the session with one peer, until the node stops.

    The keys of a node are those marked live in docs/CONFIGURATION.md, those of a session are
    any of those in docs/TUNING.md: controller, rate, window_max, stream_max, mtu, pacing ...; the
    value `node` takes a session's own value away. --json prints all of them. Wants root.
    """
    from valkyrie.dataplane.application import appsocket
    from valkyrie.dataplane.application.refusal import PolicyError
    from valkyrie.dataplane.errors import ConfigError

    session = values[0] if len(values) > 1 and "=" not in values[0] else ""
    parsed = dict(_assignment(value) for value in (values[1:] if session else values))
    if not parsed:
        raise ConfigError("tune: say what to change, as worker.spin_us=0")
    try:
        document = ask(node, appsocket.Tune(parsed, session)).document
    except PolicyError as error:
        if "tune:" in str(error):  # a key or a value, and no right
            raise ConfigError(str(error).partition(": ")[2]) from None
        raise
    if json:
        print_json(document)
    else:
        print_document(
            document if session else {key: document[key] for key in parsed if key in document}
        )
    return Exit.OK


_WORDS = {"true": 1, "on": 1, "yes": 1, "false": 0, "off": 0, "no": 0}


def _assignment(text: str) -> tuple[str, int | str]:
    from valkyrie.dataplane.errors import ConfigError

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"tune: '{text}' is no KEY=VALUE")
    if value.lower() in _WORDS:
        return key, _WORDS[value.lower()]
    try:
        return key, int(value.replace("_", ""))
    except ValueError:
        return key, value


def upgrade(*, node: NodeOption = DEFAULT_NODE, json: JsonOption = False) -> int:
    """Let a node run the worker and the program that are installed now, under traffic.

    Wants root. Nothing is lost or delivered twice. When what is installed has other layouts than
    the running node, nothing changes, and it says so: stop the node and start it then.
    """
    from valkyrie.dataplane.application import appsocket

    document = ask(node, appsocket.Upgrade(), UPGRADE_S).document
    if json:
        print_json(document)
    elif document:
        print_document(document)
    return Exit.OK


def stop(*, node: NodeOption = DEFAULT_NODE, json: JsonOption = False) -> int:
    """Stop a node. Wants root."""
    from valkyrie.dataplane.application import appsocket

    ask(node, appsocket.Stop())
    if json:
        print_json({"node": node, "stopped": True})
    return Exit.OK
