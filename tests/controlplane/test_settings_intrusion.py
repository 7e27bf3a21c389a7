"""[[intrusion]]: what is refused, and that nothing else happens than being refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valkyrie.controlplane.config import reader as config
from valkyrie.controlplane.config.settings_intrusion import (
    ACTIONS,
    COUNTERS,
    DEFAULTS,
    Intrusion,
    check,
)
from valkyrie.dataplane.errors import ConfigError

LEAST = '[[interface]]\nname = "eth0"\n'


def written(**values: Any) -> str:
    lines = (f"{key} = {json.dumps(value)}" for key, value in values.items())
    return LEAST + "[[intrusion]]\n" + "\n".join(lines) + "\n"


GOOD: dict[str, Any] = {"name": "x", "counter": "daemon.peer_left", "by": "peer", "count": 5}
WRONG: dict[int, tuple[dict[str, Any], str]] = {
    1: (
        {"counter": "kernel.drop_class_rat"},
        r"\.counter: .* did you mean 'kernel.drop_class_rate",
    ),
    2: ({"counter": "kernel.steer"}, r"\.counter: 'kernel.steer' is none"),
    3: ({"by": "class"}, r"\.by: 'daemon.peer_left' is counted by node or peer, not by class"),
    4: ({"by": "planet"}, r"intrusion.*planet"),
    5: ({"action": "detach"}, r"\.action: 'detach' is done by application, not by peer"),
    6: (
        {"counter": "daemon.control_refused", "by": "source", "action": "block"},
        r"\.action: 'block' is done by peer, not by source",
    ),
    7: ({"action": "limit"}, r"\.action: 'limit' is done by class or source, not by peer"),
    8: ({"rate_packets": 5}, r"\.rate_packets: goes with action 'limit'"),
    9: ({"count": 0}, r"count"),
    10: ({"window_s": 0}, r"window_s"),
    11: ({"hold_s": 86401}, r"hold_s"),
    12: ({"name": "two words"}, r"name"),
    13: ({"colour": "red"}, r"colour: unknown key"),
    14: (
        {"counter": "kernel.drop_credit", "by": "class", "action": "limit"},
        r"\.rate_packets: goes with action 'limit'",
    ),
}


@pytest.mark.parametrize("number", WRONG)
def test_a_rule_that_makes_no_sense_is_refused_with_its_key(number: int) -> None:
    change, said = WRONG[number]
    assert config.parse(written(**GOOD)).intrusion == [Intrusion(**GOOD)]
    with pytest.raises(ConfigError, match=said):
        config.parse(written(**GOOD | change))


def test_names_are_unique() -> None:
    twice = written(**GOOD) + written(**GOOD).removeprefix(LEAST)
    with pytest.raises(ConfigError, match=r"intrusion\[1\]\.name"):
        config.parse(twice)


def test_without_rules_there_are_some_that_only_tell() -> None:
    assert config.parse(LEAST).intrusion == DEFAULTS
    assert {rule.action for rule in DEFAULTS} == {"log"}
    for rule in DEFAULTS:
        check(rule, "")


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.floats()
TABLES = st.dictionaries(
    st.sampled_from([*Intrusion.__struct_fields__, "else"]),
    VALUES
    | st.sampled_from([*COUNTERS])
    | st.sampled_from([*ACTIONS])
    | st.sampled_from(["node", "class", "application", "peer", "source"]),
)


@given(TABLES | TABLES.map(lambda table: GOOD | table))
def test_any_table_is_read_or_refused(table: dict[str, Any]) -> None:
    usable = {key: value for key, value in table.items() if value is not None}
    try:
        (rule,) = config.parse(written(**usable)).intrusion
    except ConfigError:
        return
    assert rule.by in ACTIONS[rule.action]
    assert rule.by in COUNTERS[rule.counter]
    assert 1 <= rule.window_s <= 3600
