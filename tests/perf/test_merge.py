"""Reports of parts, put together."""

from __future__ import annotations

import pytest

from perf import merge, report, schema
from perf.report import Document
from perf.rows import make_row
from tests.perf.test_report import document


def close_up(name: str, value: float) -> Document:
    """Return a report of nothing but a close-up."""
    made = document()
    made |= {key: [] for key in ("scenarios", "standings", "runs", "curves")}
    made["profile"] = {**made["profile"], "scenarios": []}
    made["rows"] = [make_row(name, "a metric", value, "ns")]
    return {**made, "command": name, "durations_s": {name: 1.0}}


def test_a_report_has_the_parts_of_all() -> None:
    made = merge.merged([document(), close_up("rings", 1.0), close_up("bare", 2.0)])
    assert made["standings"] == document()["standings"]
    assert [row["scenario"] for row in made["rows"]] == ["rings", "bare"]
    assert made["durations_s"] == {"rings": 1.0, "bare": 1.0}
    assert made["command"] == "bench; rings; bare"
    schema.check(made)


def test_what_was_run_again_takes_the_place_of_what_was_before() -> None:
    made = merge.merged([close_up("rings", 1.0), close_up("bare", 2.0), close_up("rings", 3.0)])
    assert [row["value"] for row in made["rows"]] == [2.0, 3.0]


def test_targets_are_judged_by_all_that_is_there() -> None:
    row = make_row("sessions", "sessions installed and found at random", 1_000_000, "sess.")
    other = {**close_up("sessions", 1.0), "rows": [row]}
    made = merge.merged([close_up("rings", 1.0), other])
    (found,) = (one for one in made["targets"] if one["what"] == "connections a node")
    assert found["verdict"] == "pass"


def test_what_a_part_left_out_is_said_no_more() -> None:
    first = {**close_up("rings", 1.0), "notes": ["left out: bare: no time", "missing: dpdk: no"]}
    assert merge.merged([first, close_up("bare", 2.0)])["notes"] == ["missing: dpdk: no"]


def test_what_is_still_lacking_is_still_said() -> None:
    notes = [
        "failed: rings: no luck",
        "ended by somebody during bare, which may lack figures",
        "left out: rings, single: the run was ended before; run them by --scenario",
    ]
    first = {**close_up("bare", 1.0), "notes": notes}
    assert merge.merged([first, close_up("rings", 2.0)])["notes"] == [
        notes[1],
        "left out: single: the run was ended before; run them by --scenario",
    ]
    assert merge.merged([close_up("rings", 1.0), first])["notes"][0] == notes[0]


def test_who_came_in_a_later_part_is_not_missing() -> None:
    later = {**document(), "runs": [{"contestant": "nats-python", "scenario": "net-64"}]}
    later["missing"] = {"redis-python": "no"}
    assert merge.merged([document(), later])["missing"] == {"redis-python": "no"}


def test_reports_of_two_machines_or_lengths_are_not_put_together() -> None:
    one, other = close_up("rings", 1.0), close_up("bare", 2.0)
    elsewhere = {**other, "machine": {**other["machine"], "processor": "another"}}
    longer = {**other, "profile": {**other["profile"], "run_s": 9.0}}
    for wrong, why in ((elsewhere, "two machines"), (longer, "another length")):
        with pytest.raises(report.ReportError, match=why):
            merge.merged([one, wrong])
