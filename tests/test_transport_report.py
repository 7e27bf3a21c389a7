"""What runs through the relay are made into: rows of flows, figures, drawings and the page."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from perf.relay import Count
from perf.transport import document, measure, report, svg
from perf.transport.cases import ALONE, BAD, BESIDE, LONG, PAIR
from perf.transport.flows import Record, jain, kernel
from perf.transport.race import Race, Span, run
from perf.transport.results import Results, course, line
from tests.census import needs
from tests.lab import SLOWNESS

QUIET = Count(**dict.fromkeys(Count.__dataclass_fields__, 0) | {"packets": 900, "overflowed": 7})


def steady(bytes_a_row: int) -> Record:
    """Ten seconds with a row every 50 ms, a ping every 10 ms that takes as many ms as seconds."""
    return Record(
        arrived=[(100 + 0.05 * n, float(bytes_a_row)) for n in range(201)],
        smoothed=[(100 + 0.05 * n, 0.04 + 0.001 * (n % 2)) for n in range(201)],
        pings=[(100 + 0.01 * n, 0.001 * (n // 100)) for n in range(1000)],
        retransmitted=3,
    )


def race(*records: Record, worse: tuple[float, float] | None = None) -> Race:
    return Race(100, 102, 110, worse, list(records), QUIET, QUIET)


def test_goodput_is_what_arrived_between_the_first_and_the_last_row_of_a_span() -> None:
    record = steady(62_500)  # 10 Mbit/s
    assert record.goodput_bps(102, 110) == pytest.approx(10e6)
    assert record.goodput_bps(200, 210) == 0.0
    record.arrived[100] = (record.arrived[100][0], 0.0)
    assert record.goodput_bps(102, 110) == pytest.approx(10e6 * 159 / 160, rel=0.01)


def test_percentiles_of_pings_count_only_those_sent_in_the_span() -> None:
    record = steady(1)
    assert record.ping_s(105, 106) == pytest.approx(0.005)
    assert record.ping_s(100, 110, share=0.99) == pytest.approx(0.009)
    assert record.ping_s(50, 60) is None
    assert record.smoothed_s(102, 110) == pytest.approx(0.0405, rel=0.01)


def test_fairness_is_one_for_equals_and_a_share_for_one_that_has_all() -> None:
    assert jain([5.0, 5.0]) == 1.0
    assert jain([10.0, 0.0]) == 0.5
    assert jain([0.0, 0.0]) == 0.0
    assert jain([68.0, 26.0]) == pytest.approx(94**2 / (2 * (68**2 + 26**2)))


def test_figures_of_a_case_are_medians_of_its_rounds() -> None:
    races = [race(steady(size), steady(1000)) for size in (1000, 3000, 90_000)]
    found = line("x", races)
    first, second = found.flows
    assert first.goodput_bps == pytest.approx(3000 * 160)
    assert second.goodput_bps == pytest.approx(1000 * 160)
    assert found.jain == pytest.approx(0.8)
    assert found.share == pytest.approx(1.5)
    assert found.relay["overflowed"] == 7
    unknown = replace(first, smoothed_s=None, ping_s=0.25)
    assert unknown.rtt_s == 0.25


def test_a_course_starts_with_its_run_and_says_when_it_was_worse() -> None:
    found = course("x", race(steady(62_500), worse=(103, 106)))
    assert len(found.throughput) == 50
    assert found.worse == (3.0, 6.0)
    assert sum(rate for _, rate in found.throughput) / 50 == pytest.approx(10, rel=0.01)
    assert dict(found.latency)[5.1] == pytest.approx(5.0)


def results() -> Results:
    lines = [line(name, [race(steady(62_500))]) for name in ("kernel TCP, cubic", "<new> & fast")]
    twos = [line("kernel TCP, cubic", [race(steady(62_500), steady(31_250))])]
    calibration = [{"metric": "rate", "value": 9.9, "baseline": 10.0, "unit": "Mbit/s"}]
    return Results(
        rounds=1,
        seconds={"alone": (2, 8), "shared": (5, 20), "impaired": (0, 30)},
        load=[0.5],
        missing=["kernel TCP, bbr: this kernel does not have it"],
        calibration=calibration,
        lines={case.key: lines for case in ALONE} | {PAIR.key: twos, BESIDE.key: twos},
        courses={
            "bloat": [course("<new> & fast", race(steady(1000)))],
            BAD.key: [course("kernel TCP, cubic", race(steady(1000), worse=(103, 106)))],
        },
    )


def test_the_page_keeps_what_people_wrote_and_gets_its_figures_again(tmp_path: Path) -> None:
    page = tmp_path / document.PAGE
    page.write_text(f"# Before\n{document.BEGIN}\nold\n{document.END}\nafter\n", "utf-8")
    for _ in range(2):
        document.write(results(), "scripts/bench", tmp_path)
    text = page.read_text("utf-8")
    assert text.startswith(f"# Before\n{document.BEGIN}\n`scripts/bench`, ")
    assert text.endswith(f"{document.END}\nafter\n")
    assert "old" not in text
    assert "Not taken part: kernel TCP, bbr: this kernel does not have it." in text
    assert "| kernel TCP, cubic | 10.0 | 10.0 – 10.0 | 0.10 | 1.01 |" in text
    assert "| kernel TCP, cubic | 10.0 | 5.0 | 10.0:5.0 | 0.900 |" in text
    assert "| kernel TCP, cubic | 10.0 | 5.0 | 10.0:5.0 | 1.33 |" in text
    found = json.loads((tmp_path / document.FOLDER / "transport.json").read_text("utf-8"))
    assert found["lines"]["long"][0]["flows"][0]["retransmitted"] == 3


def test_a_race_that_fails_is_run_once_more_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes: list[Race | Exception] = [RuntimeError("no luck"), race(), OSError("a"), OSError("b")]

    def once(*_: object, **__: object) -> Race:
        if isinstance(outcome := outcomes.pop(0), Exception):
            raise outcome
        return outcome

    monkeypatch.setattr("perf.transport.race.run", once)
    measured = measure._Measurement.__new__(measure._Measurement)
    measured._spans, measured.results = measure.SPANS[True], results()
    assert measured._race(BAD, [kernel("cubic")], "impaired", seed=1) == race()
    with pytest.raises(OSError, match="b"):
        measured._race(BAD, [kernel("cubic")], "impaired", seed=1)
    told = "impaired, kernel TCP, cubic: no luck"
    assert measured.results.again[0] == told
    assert f"Run once more: {told}." in document.section(measured.results, "")


def test_rows_compare_with_kernel_cubic_and_with_an_empty_network() -> None:
    rows = {row["metric"]: row for row in report.rows(results())}
    assert rows["long: <new> & fast, goodput"]["ratio"] == pytest.approx(1.0)
    assert rows["long: kernel TCP, cubic, rtt"]["baseline"] == LONG.rtt_s * 1e3
    assert rows["beside: kernel TCP, cubic, of fair"]["value"] == pytest.approx(1.333, abs=0.001)


def test_a_drawing_has_a_line_a_flow_a_panel_and_the_interval() -> None:
    lines = [svg.Line(name, [(0.0, 1.0), (5.0, 9.5), (10.0, 0.0)]) for name in ("<a>", "b & c")]
    drawn = svg.chart("x < y", [svg.Panel("p", lines), svg.Panel("q", lines)], 10.0, (3.0, 6.0))
    root = ET.fromstring(drawn)
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}polyline")) == 4
    assert len(root.findall(f"{space}rect")) == 2
    assert "b & c" in [element.text for element in root.iter(f"{space}text")]
    _, _, width, height = (float(word) for word in root.attrib["viewBox"].split())
    for drawn_line in root.findall(f"{space}polyline"):
        for x, y in (pair.split(",") for pair in drawn_line.attrib["points"].split()):
            assert 0 <= float(x) <= width
            assert 0 <= float(y) <= height


def test_an_empty_course_is_drawn_as_axes() -> None:
    ET.fromstring(svg.chart("", [svg.Panel("p", [svg.Line("none", [])])], 10.0))


def test_kernel_flows_through_the_relay_leave_rows_that_add_up() -> None:
    needs("root")
    network = replace(LONG, rate_bps=20e6 / SLOWNESS, rtt_s=0.01)
    found = run(network, [kernel("cubic")], Span(0.2, 1.0), seed=1)
    (record,) = found.records
    assert found.there.faults == found.back.faults == 0
    assert record.goodput_bps(found.settled, found.end) < network.rate_bps
    assert sum(count for _, count in record.arrived) > 0
    assert record.smoothed_s(found.settled, found.end) is not None
    assert min(rtt_s for _, rtt_s in record.pings) >= network.rtt_s
    assert found.there.packets >= found.there.sent
