"""The list of what is asked: the design documents' figures, and the project's beside others."""

from __future__ import annotations

from typing import Any

from .relay.calibration import TOLERANCES
from .scenario import NODES
from .targets import (
    Measure,
    Names,
    Target,
    ahead,
    at,
    best,
    close_up,
    cost,
    error,
    kept,
    latency,
    least,
    most,
    nothing,
    one_of,
    ours,
    over,
    reached,
    times,
)

C, SINGLE, BATCHES = ours("c"), ours("python", batch=False), ours("python", batch=True)
XDP = ours("c", path="xdp")
"""However they send."""
TCP = one_of("tcp-c", "tcp-buffered-c")
PATHS = ("udp", "xdp")
NS_PER_US, GIGA, MEGA = 1e3, 1e9, 1e6
HALF = "half of the round trip between two hosts in C, which is more than that (net-rtt)"


def anybody(name: str) -> bool:
    """Say whose name is not ours."""
    return not name.startswith("valkyrie")


def gigabits(scenario: str, size: int, names: Names = C) -> Measure:
    """Return Gbit/s of the best."""
    return times(best(scenario, names), size * 8 / GIGA)


def worst_path(metric: str) -> Measure:
    """Return the worse path's figure of a metric that says ``PATH: metric`` in ``single``."""
    return most([close_up("single", f"{path}: {metric}") for path in PATHS])


def ask(what: str, asked: float, unit: str, measure: Measure, source: str, **more: Any) -> Target:
    """Return what is to be at least so much."""
    return Target(what, asked, unit, measure, source, **more)


def limit(what: str, asked: float, unit: str, measure: Measure, source: str) -> Target:
    """Return what is to be at most so much."""
    return Target(what, asked, unit, measure, source, at_least=False)


DOCUMENTS = (
    limit("routing", 50, "µs", times(best("net-rtt", C), 0.5 / NS_PER_US), HALF),
    limit("choice of an adapter", 20, "µs", nothing, "there are no adapters yet"),
    limit("dispatch of a job", 100, "µs", nothing, "there are no jobs yet"),
    limit("assignment of a job", 1, "ms", nothing, "there are no jobs yet"),
    limit(
        "multiplexing",
        30,
        "µs",
        over(lambda _: 1e6, least([at("logs", [name], 50_000) for name in NODES])),
        "the slower path's time a message, each on one of 50 000 streams (logs)",
    ),
    limit(
        "classification",
        10,
        "µs",
        times(close_up("classifier", "steer, against"), 1 / NS_PER_US),
        "a packet's time in the XDP program (classifier)",
    ),
    limit("opening a stream", 500, "µs", worst_path("a stream opens, median"), "median (single)"),
    limit(
        "handshake",
        2,
        "ms",
        close_up("joining", "one handshake, both sides, noise, XK"),
        "processor time of both sides by Noise XK (joining)",
    ),
    limit(
        "a log line",
        2,
        "ms",
        times(worst_path("a log line of 120 B arrives, p99"), 1 / NS_PER_US),
        "p99 from one application to the other, in Python (single)",
    ),
    limit(
        "a file of 1 MB",
        100,
        "ms",
        times(worst_path("a file of 1 MB is stored"), 1 / NS_PER_US),
        "median, synced to the disk (single)",
    ),
    ask(
        "messages a core path",
        1,
        "M/s",
        times(least([best("net-64", ours("c", path=path)) for path in PATHS]), 1 / MEGA),
        "64 B, reliable, one core a host, the slower path (net-64)",
    ),
    ask("messages a node", 10, "M/s", times(best("net-64", C), 1 / MEGA), "64 B (net-64)"),
    ask(
        "connections a node",
        1,
        "M",
        times(close_up("sessions", "sessions installed and found"), 1 / MEGA),
        "sessions installed and found at random (sessions)",
    ),
    ask("streams a node", 200_000, "streams", reached("open", NODES, 200_000), "by --full (open)"),
    ask("AF_XDP", 10, "Gbit/s", gigabits("net-64k", 65_000, XDP), "messages of 64 KiB (net-64k)"),
    limit(
        "AF_XDP, there and back",
        1,
        "ms",
        times(latency("net-rtt", XDP, "p99"), 1 / MEGA),
        "p99 (net-rtt)",
    ),
    ask("shared memory", 2, "M/s", times(best("ipc-64", C), 1 / MEGA), "64 B (ipc-64)"),
    limit(
        "shared memory, there and back",
        50,
        "µs",
        times(latency("ipc-rtt", C, "p99"), 1 / NS_PER_US),
        "p99 (ipc-rtt)",
    ),
    ask("encryption", 5, "Gbit/s", gigabits("tls-64k", 65_000), "messages of 64 KiB (tls-64k)"),
    ask(
        "the lab, packets a second",
        1,
        "M/s",
        times(close_up("single", "packets simulated a second"), 1 / MEGA),
        "one thread's, messages of 1000 B over a clean link (single)",
    ),
    ask("coverage of tests", 95, "%", nothing, "no matter of speed, this suite does not know it"),
    ask("public names documented", 100, "%", nothing, "`./scripts/check` refuses one that is not"),
)

NETWORK = (
    ask(
        "64 B, of ZeroMQ in C",
        2.5,
        "times",
        ahead("net-64", C, one_of("zeromq-c", "aeron")),
        "net-64; of Aeron too where it is there",
    ),
    ask("64 B encrypted, of CURVE", 6, "times", ahead("tls-64", C, one_of("zeromq-c")), "tls-64"),
    ask("1 KiB, of ZeroMQ in C", 2, "times", ahead("net-1k", C, one_of("zeromq-c")), "net-1k"),
    ask("64 B, fastest path", 8, "M/s", times(best("net-64", C), 1 / MEGA), "net-64"),
    ask(
        "64 B, AF_XDP",
        5,
        "M/s",
        times(best("net-64", XDP), 1 / MEGA),
        "net-64",
    ),
    ask("1 KiB", 10, "Gbit/s", gigabits("net-1k", 1024), "net-1k"),
    ask("64 KiB", 20, "Gbit/s", gigabits("net-64k", 65_000), "net-64k"),
    ask("64 MiB", 20, "Gbit/s", gigabits("net-64m", 64 << 20, one_of("valkyrie")), "net-64m"),
    ask("64 KiB, of kernel TCP", 0.8, "times", ahead("net-64k", C, TCP), "net-64k"),
    limit("round trip, p50", 25, "µs", times(best("net-rtt", C), 1 / NS_PER_US), "net-rtt"),
    limit(
        "round trip, p99", 60, "µs", times(latency("net-rtt", C, "p99"), 1 / NS_PER_US), "net-rtt"
    ),
    ask("round trip, of the best other", 1, "times", ahead("net-rtt", C, anybody), "net-rtt"),
    *(
        limit(
            f"critical beside {flood}, p99, {path}",
            3,
            "times",
            close_up("isolation", f"critical p99 under {metric}, {path}", "ratio"),
            "of calm (isolation)",
        )
        for flood, metric in (("a flood of logs", "log flood"), ("bulk data", "bulk"))
        for path in PATHS
    ),
    *(
        ask(
            f"{way}, MTU {mtu}, of the bare path",
            0.8 if way == "udp" else 0.85,
            "times",
            close_up("bare", f"{way}, MTU {mtu}", "ratio"),
            "the same packet size, sent and received by the same means (bare)",
        )
        for way, mtu in (
            ("udp", 1500),
            ("udp", 9000),
            ("xdp in, udp out", 1500),
            ("xdp both ways", 1500),
        )
    ),
    ask(
        "bulk, MTU 1500, of kernel TCP",
        0.8,
        "times",
        close_up("bare", "udp at MTU 1500 against TCP", "ratio"),
        "in writes of 64 KiB, which is its fastest (bare)",
    ),
)

LINK = {"loss": 1_000, "long": 100}
"""Mbit/s of a case."""
KINDS = ("fixed", "delay", "cubic")
"""Of congestion control."""


def flow(case: str, kind: str, figure: str, word: str = "value") -> Measure:
    """Return a figure of a flow of ours through the relay."""
    return close_up("transport", f"{case}: Valkyrie, {kind}, {figure}", word)


def of_link(case: str, kind: str, source: str) -> Target:
    """Return that a flow takes nine tenths of the link."""
    share = times(flow(case, kind, "goodput"), 1 / LINK[case])
    return ask(f"{kind}, of the link, {source}", 0.9, "times", share, f"transport, case {case}")


BESIDE = flow("beside", "cubic", "of fair")
LOSS, LONG = "1 Gbit/s, 1 ms, 1 % loss", "100 Mbit/s, 40 ms"
RELAYED = (
    *(of_link("loss", kind, LOSS) for kind in ("fixed", "delay")),
    ask(
        f"cubic, of the kernel's CUBIC, {LOSS}",
        0.9,
        "times",
        flow("loss", "cubic", "goodput", "ratio"),
        "transport, case loss",
    ),
    *(of_link("long", kind, LONG) for kind in KINDS),
    limit(
        f"delay, smoothed round trip of the empty one, {LONG}, buffer of ten BDP",
        1.5,
        "times",
        flow("bloat", "delay", "rtt", "ratio"),
        "transport, case bloat",
    ),
    *(
        ask(
            f"{kind}, two alike, Jain's index",
            0.9,
            "",
            flow("pair", kind, "Jain"),
            "transport, case pair",
        )
        for kind in KINDS
    ),
    ask(
        "cubic's part beside the kernel's CUBIC, at the least",
        0.5,
        "times",
        BESIDE,
        "of a fair share: transport, case beside",
    ),
    limit(
        "cubic's part beside it, at the most",
        1.5,
        "times",
        BESIDE,
        "of a fair share: transport, case beside",
    ),
    *(
        limit(f"the relay, {metric}, off by", most_off, unit, error("relay", metric), "relay")
        for metric, (unit, most_off) in TOLERANCES.items()
    ),
)

HOST = (
    ask("64 B in C, of the best other", 1, "times", ahead("ipc-64", C, anybody), "ipc-64"),
    ask("1 KiB in C, of the best other", 1, "times", ahead("ipc-1k", C, anybody), "ipc-1k"),
    ask("round trip in C, of the best other", 1, "times", ahead("ipc-rtt", C, anybody), "ipc-rtt"),
    *(
        ask(
            f"64 B in Python, {how}, of pyzmq and iceoryx2",
            asked,
            "times",
            ahead("ipc-64", names, one_of("zeromq-python", "iceoryx2")),
            "ipc-64",
        )
        for how, names, asked in (("one at a time", SINGLE, 5), ("batches", BATCHES, 10))
    ),
    ask(
        "round trip in Python, of pyzmq and iceoryx2",
        2,
        "times",
        ahead("ipc-rtt", SINGLE, one_of("zeromq-python", "iceoryx2")),
        "ipc-rtt",
    ),
)

COST = (
    *(
        ask(
            f"CPU a message, {scenario}, {language}: the cheapest messaging system over ours",
            1,
            "times",
            cost(scenario, language),
            "all processes together",
        )
        for scenario in ("net-64", "net-1k", "net-rtt", "tls-64", "ipc-64", "ipc-rtt")
        for language in ("C", "Python")
    ),
    limit(
        "an idle session",
        1024,
        "B",
        close_up("sessions", "memory of one that is installed"),
        "without a daemon's objects of the peer (sessions)",
    ),
    ask(
        "rate kept on one stream, most streams open",
        0.8,
        "times",
        kept("open", NODES),
        "50 000 others that say nothing, by --full 200 000 (open)",
    ),
    ask(
        "rate kept on reliable streams drawn at random",
        0.8,
        "times",
        kept("streams", NODES),
        "9 000 against one (streams)",
    ),
    ask(
        "rate kept on streams of logs drawn at random",
        0.8,
        "times",
        kept("logs", NODES),
        "50 000 against one, by --full 200 000 (logs)",
    ),
    ask(
        "rate kept beside 100 000 idle sessions",
        0.8,
        "times",
        close_up("sessions", "received a second beside 100,000 idle", "ratio"),
        "sealed control frames, by the engine only (sessions)",
    ),
    ask(
        "classifier, of a bare parse and drop",
        0.6,
        "times",
        close_up("classifier", "steer, against", "ratio"),
        "classifier",
    ),
)

GROUPS = {
    "The design documents": DOCUMENTS,
    "Between two hosts": NETWORK,
    "Through the relay": RELAYED,
    "On one host": HOST,
    "Cost, and cost as work grows": COST,
}
