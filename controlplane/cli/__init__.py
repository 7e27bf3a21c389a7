"""The ``valkyrie`` command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import App


def _default(value: object) -> str | None:
    """Return what help says of a default; None: nothing, where an option is just not given."""
    return str(value) if value else None


def build() -> App:
    """Return the command line. Commands import what is heavy when they run."""
    from cyclopts import App, Parameter

    import valkyrie

    from . import (
        audit,
        certificates,
        counters,
        files,
        keys,
        lab,
        node,
        peers,
        pipes,
        seals,
        sessions,
        tools,
    )
    from .exits import MEANINGS

    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())
    app = App(
        name="valkyrie",
        help=f"A node-level data plane for Linux hosts.\n\nExit codes:\n{codes}",
        help_format="plaintext",
        version=valkyrie.__version__,
        default_parameter=Parameter(show_default=_default),
    )
    usage: dict[object, str] = {
        command: f"Usage: valkyrie {command.__name__} [OPTIONS] {arguments}"
        for command, arguments in (
            (files.cp, "FILE... PEER:SERVICE[/NAME]"),
            (lab.lab, "[FILE]"),
            (node.tune, "[SESSION] KEY=VALUE..."),
            (seals.sign, "FILE..."),
            (tools.doctor, "[INTERFACE...]"),
        )
    }
    for command in (
        node.up,
        node.status,
        counters.top,
        counters.stat,
        tools.doctor,
        tools.explain,
        lab.lab,
        pipes.send,
        pipes.recv,
        files.cp,
        files.receive_files,
        seals.sign,
        seals.verify,
        node.tune,
        node.upgrade,
        node.stop,
    ):
        app.command(command, usage=usage.get(command))
    app.command(sessions.build())
    for group in (keys, peers, certificates, audit):
        app.command(group.build())
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; expected errors become one line on stderr."""
    from cyclopts import CycloptsError

    from valkyrie.dataplane.errors import ValkyrieError

    from .client import drop_output, quiet_pipe
    from .exits import Exit, exit_code, message

    app = build()
    result: object = None
    try:
        with quiet_pipe():
            result = app(
                arguments, print_error=False, exit_on_error=False, result_action="return_value"
            )
    except CycloptsError as error:
        print(f"valkyrie: {message(error)} (valkyrie --help)", file=sys.stderr)
        return Exit.USAGE
    except (ValkyrieError, OSError, KeyboardInterrupt) as error:
        if not isinstance(error, KeyboardInterrupt):
            print(f"valkyrie: {message(error)}", file=sys.stderr)
        drop_output()
        return exit_code(error)
    return int(result) if isinstance(result, int) else Exit.OK


def main() -> None:
    """Run the command line of this process."""
    sys.exit(run())
