"""``scripts/bench``: run scenarios, print the table, write the rows.

A row is ``{scenario, metric, value, unit, baseline, ratio}``: baseline is the same metric of the
thing compared with, measured in the same run; ratio is value / baseline.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from . import table

SCENARIOS = {
    "classifier": "the XDP program against a bare parse-and-drop program",
    "rings": "shared-memory rings, C and Python, against a one-slot ping-pong and a pipe",
    "receive": "XDP to application ring against a minimal AF_XDP receive-and-drop",
    "hosts": "two hosts, messages a second and round trips, on both paths",
    "relay": "the relay between two hosts: rate, delay and loss, against what was asked of it",
    "transport": "flows through the relay, and the kernel's TCP there, under loss and long delay",
    "isolation": "critical messages under a flood of logs, against calm",
}


def _print_row(row: dict[str, Any]) -> None:
    print(
        f"{row['scenario']:<11}{row['metric']:<46}{table.number(row['value']):>12} {row['unit']:<8}"
        f"{table.number(row['baseline']):>12}{table.number(row['ratio']):>9}",
        flush=True,
    )


def main() -> int:
    """Run the scenarios asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter runs, about a minute")
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS), help="only this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON")
    parser.add_argument("--readme", action="store_true", help="put the table into the README")
    parser.add_argument(
        "--performance", action="store_true", help="put what transport finds into docs/"
    )
    options = parser.parse_args()
    command = "scripts/bench --quick" if options.quick else "scripts/bench"
    print(f"{'scenario':<11}{'metric':<46}{'value':>12} {'unit':<8}{'baseline':>12}{'ratio':>9}")
    rows: list[dict[str, Any]] = []
    for name in options.scenario or SCENARIOS:
        scenario = importlib.import_module(f"perf.{name}")
        extra: dict[str, Any] = {}
        if options.performance and name == "transport":
            extra["command"] = f"{command} --scenario transport --performance"
        for row in scenario.run(options.quick, **extra):
            _print_row(row)
            rows.append(row)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.readme:
        table.write(rows, command)
    return 0


if __name__ == "__main__":
    sys.exit(main())
