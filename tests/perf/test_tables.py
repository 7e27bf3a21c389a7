"""Reports for other programs."""

from __future__ import annotations

import csv
import io
import re

from perf import report, tables
from perf.rows import make_row
from tests.perf.test_report import STREAM, TRIP, document

SAMPLE = re.compile(r'(\w+)(\{(?:\w+="(?:[^"\\\n]|\\.)*",?)*\})? (\S+)')


def test_csv_has_a_line_for_every_figure_and_none_for_what_failed() -> None:
    made = document(rate=1000, spread=10)
    trip = made["standings"][2]
    trip["rate"] = {"median": 5.0, "low": 4.0, "high": 6.0}
    point = {"x": 16, "rate": 7.0, "latency_ns": {"p50": 3}, "lost_share": 0.0}
    point["cpu_ns_per_message"] = 2.0
    lines = [{"contestant": "tcp-c", "remark": "", "points": [point]}]
    made["curves"] = [{"name": "size", "title": "", "axis": "", "figure": "cost", "lines": lines}]
    made["rows"] = [make_row("rings", "a metric", 3.0, "msg/s", 2.0)]
    made["targets"] = report.targets(made)
    rows = list(csv.DictReader(io.StringIO(tables.csv_text(made))))
    found = {(row["scenario"], row["contestant"], row["x"], row["metric"]): row for row in rows}
    rate = found[STREAM.name, "zeromq-c-tcp", "", "rate"]
    assert (rate["value"], rate["low"], rate["high"]) == ("1000", "990", "1010")
    assert found[TRIP.name, "tcp-c", "", "latency_p99"]["value"] == "10000.0"
    assert found["size", "tcp-c", "16", "latency_p50"]["unit"] == "ns"
    for word, value in (("", "3.0"), (": baseline", "2.0"), (": ratio", "1.5")):
        assert found["rings", "", "", f"a metric{word}"]["value"] == value
    assert found["Between two hosts", "", "", "64 B, of ZeroMQ in C: asked"]["value"] == "2.5"
    assert not [row for row in rows if row["contestant"] == "udp-c"]


def test_prometheus_text_has_every_sample_under_its_type() -> None:
    typed: set[str] = set()
    seen: set[str] = set()
    made = document()
    made["rows"] = [make_row("rings", 'a "metric"', 3.0, "msg/s", 2.0)]
    made["targets"] = report.targets(made)
    for line in tables.prometheus(made).splitlines():
        if line.startswith("# TYPE"):
            typed.add(line.split()[2])
        elif not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] in typed
            assert line not in seen
            float(match[3])
            seen.add(line)
    assert any('contestant="zeromq-c-tcp",quartile="0.5"} 1000.0' in line for line in seen)
    for name in ("missing", "close_up", "close_up_ratio", "target_met"):
        assert any(f"valkyrie_bench_{name}{{" in line for line in seen)
