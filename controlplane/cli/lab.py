"""``valkyrie lab``: the data plane under virtual time."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from valkyrie.dataplane.errors import ConfigError

from .client import JsonOption, print_json, quiet_pipe
from .exits import Exit

if TYPE_CHECKING:
    from valkyrie.dataplane.lab.scenario import Scenario
    from valkyrie.dataplane.lab.trial import Outcome

BAR = "▁▂▃▄▅▆▇█"
ROWS_MAX = 20
SEED_MAX = (1 << 64) - 1


def lab(
    file: Annotated[Path | None, Parameter(help="A scenario in TOML (docs/LAB.md).")] = None,
    /,
    *,
    seed: Annotated[int | None, Parameter(help="Instead of the scenario's own.")] = None,
    draw: Annotated[
        str, Parameter(help="Draw the scenario by a seed: 47; or many of them: 0:10000.")
    ] = "",
    threads: Annotated[
        int, Parameter(help="For many scenarios.", validator=validators.Number(gte=1))
    ] = 2,
    json: JsonOption = False,
) -> int:
    """Run whole nodes under virtual time, over links that lose, delay, reorder and break.

    Nothing of this host is touched. The same seed gives the same run on every machine. Exit code 1
    when anything went wrong that may not: a message lost, repeated or changed.
    """
    from valkyrie.dataplane.lab.campaign import short

    if bool(draw) == (file is not None):
        raise ConfigError("name a scenario, or draw one with --draw SEED")
    if file is not None:
        return _one(_read(file), seed, json=json)
    first, colon, last = draw.partition(":")
    if not first.isdecimal() or (colon and not last.isdecimal()):
        raise ConfigError(f"--draw {draw}: a seed, or FIRST:END")
    if int(last or first) > SEED_MAX:
        raise ConfigError(f"--draw {draw}: seeds are 0 to {SEED_MAX}")
    if not colon:
        return _one(short(int(first)), seed, json=json)
    if int(first) >= int(last):
        raise ConfigError(f"--draw {draw}: none; END is the first that is not drawn any more")
    return _many(range(int(first), int(last)), threads, json=json)


def _read(file: Path) -> Scenario:
    from valkyrie.dataplane.lab.scenario import parse

    try:
        return parse(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}: write a scenario (docs/LAB.md)") from error


def _one(scenario: Scenario, seed: int | None, *, json: bool) -> int:
    from valkyrie.dataplane.lab.trial import Lab

    with Lab() as run:
        begin_s = time.monotonic()
        outcome = run.run(scenario, seed)
        took_s = time.monotonic() - begin_s
    with quiet_pipe():
        if json:
            print_json(outcome.document())
        else:
            _print(scenario, outcome, took_s)
    return Exit.OK if outcome.ok else Exit.FAILED


def _many(seeds: range, threads: int, *, json: bool) -> int:
    from valkyrie.dataplane.lab.campaign import run

    begin_s = time.monotonic()
    failed = 0
    for failure in run(seeds, threads=threads):
        failed += 1
        if json:
            print_json({"seed": failure.seed, "failures": failure.failures})
        else:
            print(f"{failure.seed}: {'; '.join(failure.failures)}", flush=True)
    took_s = time.monotonic() - begin_s
    print(f"{len(seeds)} scenarios, {failed} failed, {took_s:.0f} s", file=sys.stderr)
    return Exit.FAILED if failed else Exit.OK


def _print(scenario: Scenario, outcome: Outcome, took_s: float) -> None:
    speed = outcome.packets / max(took_s, 1e-9) / 1e6
    print(
        f"{scenario.name or 'scenario'}, seed {outcome.seed}: {outcome.virtual_ms:.3f} ms of "
        f"virtual time in {took_s:.3f} s, {outcome.packets} packets ({speed:.2f} M/s)"
    )
    for each in outcome.traffic:
        delay = ""
        if scenario.timed:
            delay = f", delay mean {each.delay_mean_ms:.3f} max {each.delay_max_ms:.3f} ms"
        print(
            f"  {each.source} to {each.target}, {each.klass}: {each.arrived} of {each.sent} "
            f"messages, {each.goodput_mbps:.2f} Mbit/s, {each.finished} of {each.streams} "
            f"streams finished, {each.broken} reset{delay}"
        )
    for number, link in enumerate(outcome.links):
        did = {
            name: getattr(link, name)
            for name in link.__slots__
            if name not in ("packets", "bytes", "arrived") and getattr(link, name)
        }
        what = "".join(f", {count} {name}" for name, count in did.items())
        print(f"  link {number}: {link.packets} packets, {link.bytes} bytes{what}")
    _print_samples(outcome)
    print(f"  digest {outcome.digest}")
    for line in outcome.failures:
        print(f"  WRONG  {line}")


def _bars(values: list[float]) -> str:
    high = max(values, default=0) or 1
    return "".join(BAR[min(int(value / high * len(BAR)), len(BAR) - 1)] for value in values)


def _print_samples(outcome: Outcome) -> None:
    samples = outcome.samples
    if not samples:
        return
    print(f"  goodput  {_bars([each.goodput_mbps for each in samples])}")
    print("     at ms   Mbit/s  srtt ms  queue ms   window  flight   lost")
    step = -(-len(samples) // ROWS_MAX)
    for begin in range(0, len(samples), step):
        rows = samples[begin : begin + step]
        last = rows[-1]
        goodput = sum(each.goodput_mbps for each in rows) / len(rows)
        print(
            f"  {last.at_ms:8.0f} {goodput:8.2f} {last.srtt_ms:8.3f} {last.queue_ms:9.3f} "
            f"{last.window_bytes:8d} {last.flight_bytes:7d} {sum(e.lost for e in rows):6d}"
        )
