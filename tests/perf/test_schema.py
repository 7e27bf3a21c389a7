"""The schema of reports: that of the docs, and true of the reports that are made."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import msgspec
import pytest

from perf import report, schema
from tests.perf.test_report import document


def made() -> Any:
    return json.loads(json.dumps(document()))


def test_the_docs_have_the_schema_of_the_types() -> None:
    assert schema.SCHEMA.read_text("utf-8") == schema.text(), "run scripts/bench schema"


def test_a_report_is_what_the_schema_says() -> None:
    schema.check(made())


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", 2), ("standings", [{"scenario": 3}]), ("machine", {}), ("runs", 1)],
)
def test_what_is_no_report_is_told_where(key: str, value: object) -> None:
    with pytest.raises(msgspec.ValidationError, match=rf"\$\.{key}"):
        schema.check({**made(), key: value})


def test_the_schema_knows_every_key_of_a_report() -> None:
    assert {field.name for field in fields(schema.Report)} == made().keys()
    definitions = schema.schema()["$defs"]
    for name, key in (("Standing", "standings"), ("ScenarioFacts", "scenarios")):
        assert definitions[name]["properties"].keys() == made()[key][0].keys()
    assert definitions["MachineFacts"]["properties"].keys() == made()["machine"].keys()


def test_the_kept_report_can_still_be_read() -> None:
    assert report.load(report.BASELINE)["standings"]
