"""What one session is tuned to."""

from __future__ import annotations

import pytest

from valkyrie.controlplane.sessions import tuning
from valkyrie.dataplane.errors import ConfigError


def test_keys_are_set_changed_and_taken_away() -> None:
    first = tuning.changed({}, {"controller": "delay", "aggregate": 0, "rate": 1_000_000})
    assert tuning.document(first) == {"controller": "delay", "aggregate": False, "rate": 1_000_000}
    second = tuning.changed(first, {"controller": "node", "aggregate": 1, "window_max": 65536})
    assert tuning.document(second) == {"aggregate": True, "rate": 1_000_000, "window_max": 65536}
    assert tuning.changed(second, dict.fromkeys(tuning.KEYS, "node")) == {}


WRONG: dict[str, tuple[dict[str, int | str], str]] = {
    "1 an unknown key": ({"colour": 1}, "known are controller"),
    "2 nearly one": ({"control": "cubic"}, "did you mean 'controller'?"),
    "3 no controller": ({"controller": "bbr"}, "fixed, delay, cubic or node"),
    "4 no switch": ({"aggregate": 2}, "on, off or node"),
    "5 too small": ({"ack_delay_us": 1}, "10 to 100000"),
    "6 no number": ({"rate": "fast"}, "1000 to"),
    "7 bounds that cross": ({"window_min": 9000, "window_max": 8000}, "below window_min"),
    "8 streams' bounds that cross": ({"stream_min": 90_000, "stream_max": 80_000}, "stream_max"),
    "9 too small a packet": ({"mtu": 500}, "1200 to 65507"),
    "10 no switch either": ({"pacing": 5}, "on, off or node"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_says_what_may(case: str) -> None:
    values, says = WRONG[case]
    with pytest.raises(ConfigError, match=says):
        tuning.changed({}, values)
