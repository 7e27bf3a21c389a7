"""``scripts/bench``: compare Valkyrie with what else there is, and write the report.

scripts/bench [--quick | --full]        the suite and the close-ups; ends with an HTML page
scripts/bench compare OLD NEW           what changed between two reports; exit 1 if worse
scripts/bench merge REPORT...           one report of several, each of some of the parts
scripts/bench render REPORT             all that is made from a report, again
scripts/bench readme [REPORT]           README and docs/FIGURES.md from the kept report
scripts/bench explain SCENARIO          where a message's time and cost go, on both paths
scripts/bench schema                    docs/report.schema.json, what a report is
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from . import (
    closeup,
    ending,
    explain,
    kept,
    load,
    machine,
    markdown,
    merge,
    page,
    regression,
    report,
    scale,
    schema,
    tables,
)
from .arena import PINS
from .comparison import Suite
from .contestant import BUILD, Contestant, MissingError
from .curve import Curve
from .match import Run
from .peers import CONTESTANTS
from .plan import Plan, seconds
from .scenario import PROFILES, SCENARIOS, Profile, Scenario

CLOSE_UPS = {
    "transport": "flows through the relay, and the kernel's TCP there, under loss and long delay",
    "limits": "what the machine can do: AF_XDP alone, memory, a cache line, libcrypto",
    "classifier": "the XDP program against a bare parse-and-drop program",
    "rings": "shared-memory rings, C and Python, against a one-slot ping-pong and a pipe",
    "receive": "XDP to application ring against a minimal AF_XDP receive-and-drop",
    "flood": "refused packets a second against a bare drop, on a veth",
    "dpdk": "XDP to application ring against DPDK's testpmd on AF_XDP",
    "queues": "64 B where nodes serve two queues, against one",
    "bare": "bulk over each path, against the same packets with nothing around them",
    "relay": "the relay between two hosts: rate, delay and loss, against what was asked of it",
    "sessions": "1 to 1 000 000 sessions in a worker: finding, receiving, installing, memory",
    "isolation": "critical messages under a flood of logs, against calm",
    "single": "a stream that opens, a log line, a file of 1 MB, against TCP and UDP in the clear",
    "joining": "what one handshake costs, by mode, against TLS 1.3",
    "handshakes": "a session's data while 1 000 handshakes a second are offered, against calm",
}
"""Parts of Valkyrie beside the nearest thing to a limit; each module's ``run`` gives rows.

The first one is the longest: where a run is late, what comes behind it is left out before it is.
"""
PARTS = {
    "quick": ("limits", "classifier", "rings", "single", "joining"),
    "default": tuple(name for name in CLOSE_UPS if name != "transport"),
    "full": tuple(CLOSE_UPS),
}
"""Close-ups of a profile; flows through the relay alone would take a default run's time."""
CURVES = {one.name: one for one in (*load.SWEEPS, *scale.SCALES)}


def _cores(text: str) -> tuple[int, ...]:
    """Return two cores that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    found = tuple(int(word) for word in text.split(",") if word.isdecimal())
    if text.count(",") != 1 or len(found) != 2 or not set(found) <= set(allowed):
        raise argparse.ArgumentTypeError(f"name two of {allowed}, as in 0,1")
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.set_defaults(command="run", profile="default")
    length = parser.add_mutually_exclusive_group()
    for name in ("quick", "full"):
        length.add_argument(f"--{name}", dest="profile", action="store_const", const=name)
    known = [*(scenario.name for scenario in SCENARIOS), *CURVES, *CLOSE_UPS]
    parser.add_argument("--scenario", action="append", choices=known, help="only this")
    parser.add_argument("--without", action="append", choices=known, help="all but this")
    parser.add_argument("--only", metavar="WORD", action="append", help="names that contain WORD")
    parser.add_argument(
        "--pin",
        choices=PINS,
        default="hosts",
        help="\n".join(f"{name}: {what}" for name, what in PINS.items()),
    )
    parser.add_argument(
        "--cores", type=_cores, default=(), metavar="A,B", help="of sender and receiver"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="the report")
    parser.add_argument(
        "--performance",
        action="store_true",
        help="put what transport finds into docs/PERFORMANCE.md; --full does",
    )
    parser.add_argument("--keep", action="store_true", help="keep it as the README's report")
    commands = parser.add_subparsers(dest="command", metavar="")
    compare = commands.add_parser("compare")
    compare.add_argument("old", type=Path)
    compare.add_argument("new", type=Path)
    pieces = commands.add_parser("merge")
    pieces.add_argument("reports", type=Path, nargs="+")
    pieces.add_argument("--json", type=Path, dest="merged", metavar="FILE", help="the report")
    commands.add_parser("render").add_argument("report", type=Path)
    commands.add_parser("schema")
    why = commands.add_parser("explain")
    why.add_argument("explained", choices=[one.name for one in SCENARIOS], metavar="SCENARIO")
    why.add_argument("--json", type=Path, dest="explanation", metavar="FILE")
    readme = commands.add_parser("readme")
    readme.add_argument("report", type=Path, nargs="?", default=report.BASELINE)
    options = parser.parse_args()
    options.command = options.command or "run"
    chosen = PROFILES[options.profile]
    options.profile = dataclasses.replace(chosen, pin=options.pin, cores=options.cores)
    options.performance |= chosen.name == "full"
    return options


def _say(run: Run) -> None:
    latency = f"{run.latency_ns['p50'] / 1e3:10,.1f} µs" if run.latency_ns else ""
    lost = f"  lost {run.lost / (run.received + run.lost):.1%}" if run.lost else ""
    doubt = (
        f"  (others used {run.foreign_share:.0%} of the machine, its host took "
        f"{run.stolen_share:.0%})"
    )
    offered = f" of {markdown.number(run.offered)} due" if run.offered else ""
    figures = f"{markdown.number(run.rate):>10}/s{offered}{latency}{lost}"
    print(
        f"{run.scenario:<9}{run.contestant:<28}{run.error or figures}{doubt if run.noisy else ''}",
        flush=True,
    )


def _compete(
    profile: Profile,
    scenarios: Sequence[Scenario],
    chosen: Sequence[load.Sweep | scale.Scale],
    contestants: Sequence[Contestant],
    plan: Plan,
) -> tuple[Suite, list[Curve]]:
    curves = []
    with Suite(contestants, profile, _say) as suite:
        for scenario in scenarios:
            with plan.part(scenario.name, scenario.title) as fits:
                if fits:
                    suite.compete(scenario)
        for one in chosen:
            with plan.part(one.name, one.title) as fits:
                if fits:
                    measure: Any = scale.measure if isinstance(one, scale.Scale) else load.measure
                    curves.append(measure(suite, one, profile))
    for name, why in suite.missing.items():
        print(f"missing: {name}: {why}")
    return suite, curves


def _close_ups(
    names: Iterable[str], notes: list[str], plan: Plan, *, quick: bool, document: str
) -> list[dict[str, Any]]:
    """Run close-ups, and note which cannot be run and why.

    *document*, where not empty, is the command that transport's page names.
    """
    rows: list[dict[str, Any]] = []
    for name in names:
        extra = {"command": document} if document and name == "transport" else {}
        found: list[dict[str, Any]] = []
        with plan.part(name, f"{name}: {CLOSE_UPS[name]}") as fits:
            if fits:
                try:
                    found = closeup.run(f"perf.{name}", quick=quick, **extra)
                except MissingError as error:
                    notes.append(f"missing: {name}: {error}")
                    print(f"  {notes[-1]}")
        for row in found:
            values = (markdown.number(row[word]) for word in ("value", "baseline", "ratio"))
            value, baseline, ratio = values
            print(f"  {row['metric']:<46}{value:>12} {row['unit']:<9}{baseline:>12}{ratio:>9}")
            rows.append(row)
    return rows


def _command(options: argparse.Namespace) -> str:
    """Return what to type for the same figures: nothing about where they go."""
    words = ["scripts/bench"]
    profile = options.profile
    words += [f"--{profile.name}"] if profile.name != "default" else []
    words += [f"--pin {profile.pin}"] if profile.pin != "hosts" else []
    words += [f"--cores {','.join(map(str, profile.cores))}"] if profile.cores else []
    words += [f"--scenario {name}" for name in options.scenario or []]
    words += [f"--without {name}" for name in options.without or []]
    words += [f"--only {word}" for word in options.only or []]
    words += ["--performance"] if options.performance and profile.name != "full" else []
    return " ".join(words)


def _run(options: argparse.Namespace) -> int:
    path = options.json or BUILD / "report.json"
    report.make_room(path)
    profile = options.profile
    curves = CURVES if profile.curve_repetitions else {}
    every = options.scenario or [*profile.scenarios, *curves, *PARTS[profile.name]]
    wanted = [name for name in every if name not in (options.without or [])]
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in wanted]
    words = options.only or [""]
    contestants = [one for one in CONTESTANTS if any(word in one.name for word in words)]
    chosen = [one for name, one in CURVES.items() if name in wanted]
    names = [name for name in CLOSE_UPS if name in wanted]
    named = [*((one.name, one) for one in (*scenarios, *chosen)), *((name, name) for name in names)]
    parts = [(name, seconds(part, profile, contestants)) for name, part in named]
    plan = Plan(parts, None if options.scenario else profile.limit_s)
    print("\n".join(plan.lines()))
    facts = machine.facts()  # before docs/ is written to
    suite, drawn = _compete(profile, scenarios, chosen, contestants, plan)
    command = _command(options)
    document = command if options.performance else ""
    rows = _close_ups(names, suite.notes, plan, quick=not profile.long, document=document)
    suite.notes += plan.notes()
    suite.durations_s = plan.durations_s
    made = report.build(
        suite,
        scenarios,
        contestants,
        profile,
        command=command,
        facts=facts,
        rows=rows,
        curves=drawn,
    )
    report.save(made, path)
    if options.keep and not plan.ended:
        shutil.copyfile(path, report.BASELINE)
        kept.write(made)
    return _render(path) or int(bool(plan.failed or plan.ended))


def _render(path: Path) -> int:
    document = report.load(path)
    path.with_suffix(".md").write_text(kept.whole(document), "utf-8")
    html = path.with_suffix(".html")
    html.write_text(page.render(document), "utf-8")
    path.with_suffix(".csv").write_text(tables.csv_text(document), "utf-8")
    path.with_suffix(".prom").write_text(tables.prometheus(document), "utf-8")
    print(f"\nreport: {path}, .md, .csv, .prom\nopen:   {html.resolve()}")
    return 0


def _merge(options: argparse.Namespace) -> int:
    made = merge.merged([report.load(path) for path in options.reports])
    path = options.merged or BUILD / "report.json"
    report.save(made, path)
    return _render(path)


def _compare(old: Path, new: Path) -> int:
    before, after = report.load(old), report.load(new)
    if differ := regression.other_processor(before, after):
        print(f"The machines differ: {differ}.\nTheir figures cannot be compared, only ratios:\n")
    elif differ := regression.same_machine(before, after):
        print(f"not quite the same machine: {differ}")
    ours = {one["name"]: one["ours"] for one in after["contestants"]}
    worse = 0
    for change in regression.changes(before, after):
        worse += change.verdict == "worse" and ours.get(change.what, True)
        values = f"{markdown.number(change.before):>10} → {markdown.number(change.after):>10}"
        print(
            f"{change.verdict:<8}{change.share:+8.1%}  {change.scenario:<11}{change.what:<44}"
            f"{values} {change.unit}"
        )
    for scenario, contestant, why in regression.gone(before, after):
        worse += ours[contestant]
        print(f"{'gone':<18}{scenario:<11}{contestant}: {why}")
    return int(worse > 0)


def _explain(options: argparse.Namespace) -> int:
    scenario = next(one for one in SCENARIOS if one.name == options.explained)
    found = explain.explain(scenario, options.profile)
    for one in found:
        print("\n".join(explain.lines(one)))
    path = options.explanation or BUILD / f"explain-{scenario.name}.json"
    report.save(explain.document(scenario, found), path)
    print(f"\nreport: {path}")
    return 0


def _schema() -> int:
    schema.SCHEMA.write_text(schema.text(), "utf-8")
    return 0


def _readme(path: Path) -> int:
    kept.write(report.load(path))
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "compare": lambda options: _compare(options.old, options.new),
    "merge": _merge,
    "render": lambda options: _render(options.report),
    "readme": lambda options: _readme(options.report),
    "explain": _explain,
    "schema": lambda _: _schema(),
}


def main() -> int:
    """Do what the command line asks for; returns the exit code."""
    ending.in_order()
    options = _arguments()
    try:
        return COMMANDS[options.command](options)
    except (report.ReportError, explain.ExplainError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
