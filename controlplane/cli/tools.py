"""Commands that look at this host and at captures: doctor and explain."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from .client import DEFAULT_NODE, JsonOption, NodeOption, ask, print_json, quiet_pipe
from .exits import Exit, NotRunningError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from valkyrie.controlplane.host.doctor import Finding, Report
    from valkyrie.dataplane.loader import Map


def doctor(
    *interfaces: Annotated[str, Parameter(help="Interfaces to examine, else all that are up.")],
    config: Annotated[
        Path | None, Parameter(help="Examine the interfaces of this configuration.")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Say what kernel, devices and privileges allow, what is missing, and how to get it.

    Changes nothing. Exit code 4 when no node can run here.
    """
    from valkyrie.controlplane.config.reader import load
    from valkyrie.controlplane.host.doctor import examine

    wanted = dict.fromkeys(interfaces, 0)
    if config is not None:
        wanted |= {each.name: each.queues for each in load(config).interfaces}
    report = examine(wanted)
    if json:
        print_json(report.document())
    else:
        with quiet_pipe():
            _print_report(report)
    return Exit.OK if report.ok else Exit.DENIED


def _print_report(report: Report) -> None:
    for finding in report.findings:
        print(f"{'ok     ' if finding.ok else 'MISSING'}  {finding.name}: {finding.found}")
        if not finding.ok:
            _print_cost(finding)
    paths = [name for name, need in (("xdp", "xdp"), ("udp", "udp")) if _possible(report, need)]
    if paths:
        print(f"\nA node can run here; paths: {', '.join(paths)}.")
    else:
        print("\nNo node can run here: see what is MISSING.")


def _possible(report: Report, need: Any) -> bool:
    return report.can("node") and report.can(need)


def _print_cost(finding: Finding) -> None:
    print(f"         gives   {finding.gives}")
    print(f"         without {finding.costs}")
    print(f"         how     {finding.how}")


def explain(
    file: Annotated[Path, Parameter(help="A pcap file of Ethernet frames.")],
    /,
    *,
    node: NodeOption = DEFAULT_NODE,
    interface: Annotated[
        str, Parameter(help="Interface of the node whose limits apply; its first one.")
    ] = "",
    offline: Annotated[bool, Parameter(negative="", help="Do not look at a node.")] = False,
    udp_port: Annotated[
        int | None, Parameter(help="Valkyrie's UDP port; the node's own or 21059.")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Say what the kernel's program makes of every packet of a capture.

    Prints index, verdict (pass, drop or steer), class, reason and stream. Runs the real program by
    BPF_PROG_TEST_RUN: with the rates, buckets and credits of the node when one is up. Wants root.
    """
    from valkyrie.dataplane.explain import Explainer, read_pcap
    from valkyrie.dataplane.wire import PORT

    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet_pipe())
        source = stack.enter_context(file.open("rb"))
        live, live_port = (None, 0) if offline else stack.enter_context(_live(node, interface))
        explainer = Explainer(udp_port or live_port or PORT, live)
        stack.callback(explainer.close)
        for index, packet in enumerate(read_pcap(source, str(file))):
            row = explainer.explain(index, packet).document()
            if json:
                print_json(row)
            else:
                shown = ("-" if value in (None, "") else str(value) for value in row.values())
                print(" ".join(shown))
    return Exit.OK


@contextlib.contextmanager
def _live(node: str, interface: str) -> Iterator[tuple[dict[str, Map] | None, int]]:
    """Yield the maps and the UDP port of a node that is up, else None and 0."""
    from valkyrie.controlplane.counters.livemaps import live_maps
    from valkyrie.dataplane.application import appsocket

    try:
        document = ask(node, appsocket.Status()).document
    except NotRunningError:
        if node != DEFAULT_NODE:
            raise
        print("valkyrie: no node is up: without a node's limits", file=sys.stderr)
        yield None, 0
        return
    port = document.get("udp_port")
    with live_maps(interface or _first_xdp(document)) as maps:
        yield maps, port if isinstance(port, int) else 0


def _first_xdp(document: dict[str, Any]) -> str:
    """Return the first interface that a node serves by XDP."""
    from valkyrie.dataplane.errors import ConfigError

    interfaces = document.get("interfaces")
    for row in interfaces if isinstance(interfaces, list) else []:
        if "xdp" in str(row.get("rx", row.get("mode", ""))):
            return str(row["name"])
    raise ConfigError(
        "the node receives on no interface by XDP, so it runs no classifier: take --offline"
    )
