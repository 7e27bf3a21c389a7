"""Reports: written, read again, compared, shown."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from perf import behind, kept, markdown, page, regression, report, svg, targets
from perf.comparison import Figure, Standing, Suite
from perf.peers import CONTESTANTS
from perf.relay.calibration import out_of_calibration
from perf.rows import make_row
from perf.scenario import PROFILES, SCENARIOS, Scenario

STREAM = next(scenario for scenario in SCENARIOS if scenario.name == "net-64")
TRIP = next(scenario for scenario in SCENARIOS if scenario.name == "net-rtt")


def document(*, rate: float = 1000.0, spread: float = 0.0) -> report.Document:
    suite = Suite(CONTESTANTS, PROFILES["quick"], lambda _: None)
    suite.missing["nats-python"] = "nats-server: <not to be had>"
    made = report.build(suite, [STREAM, TRIP], CONTESTANTS, PROFILES["quick"], command="bench")
    figure = Figure(rate, rate - spread, rate + spread)
    made["standings"] = [
        asdict(one)
        for one in (
            Standing("zeromq-c-tcp", STREAM.name, rate=figure, ratio=Figure(0.5, 0.4, 0.6)),
            Standing("valkyrie-c-udp", STREAM.name, rate=Figure(500.0, 499.0, 501.0)),
            Standing(
                "tcp-c",
                TRIP.name,
                p50_ns=Figure(9e3, 8e3, 1e4),
                latency_ns={"p99": 10_000.0},
                histogram=[[64, 50], [200, 50]],
                noisy="others used the machine in 1 of 1 runs",
            ),
            Standing("udp-c", TRIP.name, error="nothing arrived"),
        )
    ]
    made["targets"] = report.targets(made)
    return made


def test_a_report_survives_the_disk(tmp_path: Path) -> None:
    made, path = document(), tmp_path / "report.json"
    report.save(made, path)
    assert report.load(path) == made


def test_who_is_ahead_is_said_in_every_report() -> None:
    made = document()
    (rate,) = behind.lines(made)
    assert rate == "Two hosts, 64 B one way: ZeroMQ (C), tcp carries 2.00 times as much"
    assert all(
        rate in text for text in (markdown.full(made), page.render(made), kept.summary(made))
    )
    tcp = Standing("tcp-buffered-c", STREAM.name, Figure(9.0, 9.0, 9.0), cpu_ns_per_message=1.0)
    made["standings"][2] = asdict(tcp)
    made["standings"][1]["cpu_ns_per_message"] = 4.0
    _, cost, why = behind.lines(made)
    assert cost.endswith("costs 0.25 of the processor time a message")
    assert "zero-copy" in why


def test_nobody_is_ahead_who_is_even() -> None:
    assert not list(behind.lines(document(rate=505.0)))


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"format": 0}', '{"format": 1, "scenario": {}, "explained": []}'),
        json.dumps({"format": 1, **{key: [] for key in report.NEEDED}, "scenarios": [{}]}),
    ],
)
def test_what_is_no_report_is_refused_with_a_reason(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(report.ReportError, match=r"report\.json .*"):
        report.load(path)


def test_a_run_does_not_begin_whose_report_could_not_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.make_room(tmp_path / "new" / "report.json")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(report.ReportError, match="is a folder"):
        report.make_room(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        report.make_room(tmp_path / "file" / "report.json")
    monkeypatch.setattr(report, "ROOM_BYTES", 1 << 70)
    with pytest.raises(report.ReportError, match="MiB left"):
        report.make_room(tmp_path / "report.json")


def test_a_report_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report.save({"a": 1}, path)
    with pytest.raises(ValueError, match="JSON"):
        report.save({"a": float("nan")}, path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_fall_is_worse_only_when_the_quartiles_part() -> None:
    old = document(rate=1000, spread=10)
    verdicts: dict[Any, str] = {}
    for rate, spread in ((1020, 10), (800, 10), (800, 300), (1500, 10)):
        (change, _) = list(regression.changes(old, document(rate=rate, spread=spread)))[:2]
        verdicts[rate, spread] = change.verdict
    assert list(verdicts.values()) == ["same", "worse", "unclear", "better"]


def _row(ratio: float, unit: str) -> dict[str, Any]:
    return make_row("rings", "a metric", 1.0, unit, 1.0, ratio=ratio)


def test_of_two_machines_only_ratios_are_compared() -> None:
    old, new = document(), document(rate=9e9)
    new["machine"] = {**new["machine"], "processor": "another"}
    old["standings"][0]["reference"] = new["standings"][0]["reference"] = "valkyrie-c-udp"
    new["standings"][0]["ratio"] = asdict(Figure(0.9, 0.8, 1.0))
    for ratio, made in ((2.0, old), (1.0, new)):  # of ours to each other: no matter
        made["standings"][1] |= {"ratio": asdict(Figure(ratio, ratio, ratio)), "reference": "x"}
    (change,) = regression.changes(old, new)
    assert (change.what, change.unit, change.verdict) == ("ahead of zeromq-c-tcp", "×", "better")
    assert "processor" in regression.other_processor(old, new)


@pytest.mark.parametrize(
    ("unit", "ratio", "verdict"),
    [
        ("msg/s", 2.0, "better"),
        ("µs", 2.0, "worse"),
        ("ns/packet", 2.0, "better"),
        ("ns", 0.5, "better"),
        ("msg/s", 1.1, "same"),
    ],
)
def test_ratios_of_close_ups_are_compared_by_what_is_better(
    unit: str, ratio: float, verdict: str
) -> None:
    old, new = document(), document()
    old["rows"], new["rows"] = [_row(1.0, unit)], [_row(ratio, unit)]
    for cores in (new["machine"]["cores"], 1000):
        new["machine"] = {**new["machine"], "cores": cores}
        found = [one for one in regression.changes(old, new) if one.what == "a metric"]
        assert [one.verdict for one in found] == [verdict]


@pytest.mark.parametrize(
    ("unit", "verdicts"),
    [("bytes", ["worse"]), ("sess./s", ["better"]), ("msg", [])],
)
def test_figures_without_a_baseline_are_compared_on_one_machine(
    unit: str, verdicts: list[str]
) -> None:
    old, new = document(), document()
    old["rows"], new["rows"] = (
        [make_row("sessions", "m", 1, unit)],
        [make_row("sessions", "m", 2, unit)],
    )
    found = [one.verdict for one in regression.changes(old, new) if one.what == "m"]
    assert found == verdicts
    new["machine"] = {**new["machine"], "cores": 1000}
    assert not [one for one in regression.changes(old, new) if one.what == "m"]


def test_who_no_longer_has_a_figure_is_told_unless_nobody_asked() -> None:
    old, new = document(), document()
    del new["standings"][1]
    new["standings"][1] |= {"p50_ns": None, "error": "1 of 1 runs failed: nothing arrived"}
    assert list(regression.gone(old, new)) == [
        (STREAM.name, "valkyrie-c-udp", "no run of it"),
        (TRIP.name, "tcp-c", "1 of 1 runs failed: nothing arrived"),
    ]
    new["missing"]["valkyrie-c-udp"] = "no XDP"
    new["scenarios"] = new["scenarios"][:1]
    assert list(regression.gone(old, new)) == [(STREAM.name, "valkyrie-c-udp", "no XDP")]
    new["contestants"] = []
    assert not list(regression.gone(old, new))


def test_of_round_trips_less_is_better() -> None:
    old, new = document(), document()
    new["standings"][2]["p50_ns"] = asdict(Figure(4.5e3, 4.4e3, 4.6e3))
    (change,) = [one for one in regression.changes(old, new) if one.what == "tcp-c"]
    assert change.verdict == "better"
    assert change.share == pytest.approx(1.0)


def test_the_page_is_whole_and_needs_nothing_from_elsewhere() -> None:
    text = page.render(document())
    for plot in text.split("<svg")[1:]:
        ET.fromstring("<svg" + plot.split("</svg>")[0] + "</svg>")  # our own
    assert text.count("<svg") == 3
    assert "&lt;not to be had&gt;" in text
    assert "noisy run" in text
    assert "src=" not in text
    assert "<script" not in text


def test_who_failed_stands_among_the_bars() -> None:
    bars = page.render(document()).split("<svg")[2].split("</svg>")[0]
    assert "UDP in batches (C)" in bars
    assert "failed" in bars


def test_no_label_is_cut() -> None:
    name, letter, bold = "Valkyrie (Python, batches), xdp, AES-256-GCM", 6.2, 7.0
    drawings = (
        svg.bars(
            [svg.Bar(name, 9, 8, 10, "26.81 M/s, × 149.72, 12.3% lost, noisy", ours=True)], ""
        ),
        svg.curves([svg.Curve(name, [(50, 10.0), (99, 1e4)], ours=True)], ""),
        svg.plot(
            [svg.Curve(name, [(1, 1.0), (9, 9.0)], ours=True)], "", svg.Axis(""), svg.Axis("")
        ),
    )
    for drawing in drawings:
        for text in ET.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text"):
            width = len(text.text or "") * (bold if "font-weight" in text.attrib else letter)
            share = {"end": 1.0, "middle": 0.5}.get(text.attrib.get("text-anchor", ""), 0.0)
            begin = float(text.attrib["x"]) - share * width
            assert 0 <= begin <= begin + width <= svg.WIDTH, text.text


def test_markdown_tells_losses_failures_doubts_and_who_is_missing() -> None:
    text = markdown.full(document())
    assert "missing: NATS (nats-py): nats-server: <not to be had>" in text
    assert "| 0.50 (0.40–0.60) |" in text
    assert "failed" in text
    assert "others used the machine" in text


def test_the_summary_says_so_where_somebody_else_is_ahead() -> None:
    assert "| ZeroMQ (C), tcp | 1,000/s | 0.50 |" in kept.summary(document())


def test_contestants_and_scenarios_have_names_of_their_own() -> None:
    for names in ([one.name for one in CONTESTANTS], [one.name for one in SCENARIOS]):
        assert len(names) == len(set(names))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_scenario_has_somebody_who_can_answer_it(scenario: Scenario) -> None:
    assert sum(contestant.fits(scenario) for contestant in CONTESTANTS) >= 3


def test_the_readme_gets_the_table_of_a_kept_report_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme, figures = tmp_path / "README.md", tmp_path / "FIGURES.md"
    readme.write_text(f"before\n{kept.BEGIN}\nold\n{kept.END}\nafter\n")
    monkeypatch.setattr(kept, "README", readme)
    monkeypatch.setattr(kept, "FIGURES", figures)
    made = document()
    for _ in range(2):
        kept.write(made)
    table = kept.summary(made)
    assert readme.read_text() == f"before\n{kept.BEGIN}\n{table}\n{kept.END}\nafter\n"
    assert figures.read_text() == kept.whole(made)


def test_the_readme_and_the_page_of_figures_are_those_of_the_kept_report() -> None:
    made = report.load(report.BASELINE)
    shown = kept.README.read_text("utf-8").split(kept.BEGIN)[1].split(kept.END)[0]
    assert shown.strip() == kept.summary(made).strip(), "run scripts/bench readme"
    assert kept.FIGURES.read_text("utf-8") == kept.whole(made), "run scripts/bench readme"


def test_what_goes_through_the_relay_is_judged() -> None:
    made = document()
    flow, base = ("loss: Valkyrie, fixed, goodput", 870.0, "Mbit/s"), 940.0
    made["rows"] = [make_row("transport", *flow, base)]
    found = {one["what"]: one for one in report.targets(made)}
    verdict = found["fixed, of the link, 1 Gbit/s, 1 ms, 1 % loss"]
    assert (verdict["measured"], verdict["verdict"]) == (0.87, "miss")


def test_a_relay_out_of_calibration_is_told() -> None:
    rows = [
        make_row("relay", "rate, asked 1000 Mbit/s", 969.0, "Mbit/s", 1000.0),
        make_row("relay", "delay p99, asked 0.5 ms", 0.59, "ms", 0.5),
    ]
    assert out_of_calibration(rows) == ["rate, asked 1000 Mbit/s: 969"]


def test_a_path_is_judged_by_packets_that_are_sent_as_its_own() -> None:
    made = document()
    made["rows"] = [
        make_row("bare", "xdp, MTU 1500, against packets of two sockets", 3.7, "Gbit/s", 3.3),
        make_row("bare", "xdp both ways, MTU 1500, against packets of two sockets", 3.0, "", 4.0),
    ]
    found = {one["what"]: one["measured"] for one in report.targets(made)}
    assert found["xdp in, udp out, MTU 1500, of the bare path"] is None
    assert found["xdp both ways, MTU 1500, of the bare path"] == 0.75


def test_what_is_asked_is_judged_by_what_was_measured() -> None:
    made = document()
    verdicts = {one["what"]: one for one in report.targets(made)}
    found = verdicts["64 B, of ZeroMQ in C"]
    assert (found["measured"], found["verdict"]) == (0.5, "miss")
    assert verdicts["64 B, fastest path"]["verdict"] == "miss"
    assert verdicts["64 KiB"] | {"measured": None} == verdicts["64 KiB"]
    assert verdicts["dispatch of a job"]["verdict"] == "not measured"


def test_targets_are_met_at_the_figure_itself_from_either_side() -> None:
    for at_least, passes in ((True, (5.0, 6.0)), (False, (5.0, 4.0))):
        for found in (4.0, 5.0, 6.0):
            measure = targets.times(lambda _: 1.0, found)
            target = targets.Target("", 5.0, "", measure, "", at_least)
            verdict = targets.judged(target, "", {}).verdict
            assert verdict == ("pass" if found in passes else "miss")


def test_what_was_missed_stands_in_the_readme_and_on_the_page() -> None:
    made = document()
    made["targets"] = report.targets(made)
    assert "64 B, of ZeroMQ in C: 0.5 ×, asked at least 2.5 ×" in kept.summary(made)
    assert '<tr class="miss"><td>64 B, of ZeroMQ in C</td>' in page.render(made)
    assert "| 64 B, of ZeroMQ in C | at least 2.5 × | 0.5 × | **miss** |" in markdown.full(made)
