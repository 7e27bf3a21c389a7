"""Commands that read a node's counters page: stat and top."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators

from .client import DEFAULT_NODE, JsonOption, NodeOption, print_json, quiet_pipe
from .exits import Exit, reaching_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from valkyrie.controlplane.counters.readout import Page, Readout, Signals

INTERVAL_MIN_S = 0.25
"""Between two readings: a node may copy the kernel's counters no more often by itself."""
PIPE_COLUMNS = 200
"""Width of a table that goes to a file or a pipe."""


def stat(
    *,
    node: NodeOption = DEFAULT_NODE,
    nonzero: Annotated[bool, Parameter(negative="", help="Leave out what is 0.")] = False,
    json: JsonOption = False,
) -> int:
    """Print one line per counter: name{labels} value.

    Reads the node's counters page itself, so it works beside a stuck node and after a crash.
    """
    with _page(node) as page:
        readout = page.read()
    rows = [row for row in readout.rows() if row.value or not nonzero]
    if json:
        document = {"node": readout.node, "up": readout.up, "started_ns": readout.started_ns}
        print_json({**document, "counters": [row.document() for row in rows]})
        return Exit.OK
    with quiet_pipe():
        for row in rows:
            print(row)
    return Exit.OK


def top(
    *,
    node: NodeOption = DEFAULT_NODE,
    interval: Annotated[
        float,
        Parameter(
            help=f"Seconds between two readings, {INTERVAL_MIN_S} at least.",
            validator=validators.Number(gte=INTERVAL_MIN_S),
        ),
    ] = 1.0,
    once: Annotated[bool, Parameter(negative="", help="Print one table and end.")] = False,
    json: JsonOption = False,
) -> int:
    """Show rates of classes and applications, drops by reason and ring fill, live.

    With --json one object an interval.
    """
    with _page(node) as page, contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how it ends
        views = _views(page, node, interval, once=once)
        if json:
            with quiet_pipe():
                for view in views:
                    print_json(view)
        else:
            _draw(views, once=once)
    return Exit.OK


def _draw(views: Iterator[dict[str, Any]], *, once: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    from .live import render

    console = Console()
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    if once:
        console.print(render(next(views)))
        return
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        for view in views:
            live.update(render(view), refresh=True)


def _page(node: str) -> Page:
    from valkyrie.controlplane.counters.readout import Page

    with reaching_node():
        return Page(node)


def _views(page: Page, node: str, interval_s: float, *, once: bool) -> Iterator[dict[str, Any]]:
    _fills(node)
    before = page.read()
    while True:
        time.sleep(interval_s)
        fills = _fills(node)  # first: who is asked for them brings the kernel's counters up to date
        now = page.read()
        if not now.up and (successor := page.successor()) is not None:
            page.close()
            page = successor
            before = now = page.read()
        yield view(before, now, fills if now.up else {})
        if once:
            return
        before = now


def _fills(node: str) -> dict[int, Any]:
    """Return the ring fill by slot, which only the node itself knows; nothing if it is silent."""
    from valkyrie.dataplane.application import appsocket
    from valkyrie.dataplane.errors import ValkyrieError

    from .client import ask

    try:
        applications = ask(node, appsocket.Status(), 1.0).document.get("applications")
    except (ValkyrieError, OSError):
        return {}
    if not isinstance(applications, list):
        return {}
    return {row["slot"]: row.get("fill", {}) for row in applications if "slot" in row}


def view(before: Readout, now: Readout, fills: dict[int, Any]) -> dict[str, Any]:
    """Return what ``top`` shows: rates per second between two readings, and drops so far."""
    seconds = max(now.at_ns - before.at_ns, 1) / 1e9

    def rates(old: dict[str, int], new: dict[str, int]) -> dict[str, float]:
        return {name: (value - old.get(name, 0)) / seconds for name, value in new.items()}

    was = {app.slot: app for app in before.apps}
    apps = []
    for app in now.apps:
        old = was[app.slot].classes if app.slot in was else {}
        per_class = {
            klass: rates(old.get(klass, {}), table) for klass, table in app.classes.items()
        }
        apps.append(
            {
                "slot": app.slot,
                "name": app.name,
                "uid": app.uid,
                "pid": app.pid,
                "per_second": per_class,
                "fill": fills.get(app.slot, {}),
            }
        )
    return {
        "node": now.node,
        "up": now.up,
        "seconds": seconds,
        "interfaces": [
            {"interface": port.interface, "rx": port.rx_mode, "tx": port.tx_mode}
            for port in now.ports
        ],
        "classes": {
            klass: rates(before.classes[klass], table) for klass, table in now.classes.items()
        },
        "applications": apps,
        "sessions": [_session(before, session, seconds) for session in now.sessions],
        "drops": _drops(before, now, seconds),
    }


def _session(before: Readout, now: Signals, seconds: float) -> dict[str, Any]:
    """Return a session's state, and per second what of it are sums."""
    old = next((each.values for each in before.sessions if each.address == now.address), {})
    sums = ("sent", "acked", "lost", "spurious", "timeouts", "marked")
    limits = ("window_limited_ns", "credit_limited_ns")
    return {
        "peer": now.address,
        "controller": now.controller,
        **{name: value for name, value in now.values.items() if name not in (*sums, *limits)},
        "per_second": {name: (now.values[name] - old.get(name, 0)) / seconds for name in sums},
        "share": {
            name.removesuffix("_limited_ns"): min(
                (now.values[name] - old.get(name, 0)) / (seconds * 1e9), 1.0
            )
            for name in limits
        },
    }


def _drops(before: Readout, now: Readout, seconds: float) -> list[dict[str, Any]]:
    """Return every reason that has dropped or refused anything: total and per second."""
    old = {(row.name, *row.labels.values()): row.value for row in before.rows()}
    found = []
    for row in now.rows():
        verdict = row.labels.get("verdict", "")
        by_kernel = row.name == "kernel_packets" and verdict.startswith("drop_")
        by_worker = row.name.startswith(("drop_", "refused_"))
        by_socket = row.name.startswith("xsk_")
        if row.value and (by_kernel or by_worker or by_socket):
            rate = (row.value - old.get((row.name, *row.labels.values()), 0)) / seconds
            found.append(
                {
                    "where": row.labels.get("interface", "worker"),
                    "class": row.labels.get("class", ""),
                    "reason": verdict if by_kernel else row.name,
                    "total": row.value,
                    "per_second": rate,
                }
            )
    return found
