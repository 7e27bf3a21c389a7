"""What is asked is judged by what was asked about, or not at all."""

from __future__ import annotations

from typing import Any

from perf import targets

NAMES = ("udp", "xdp")


def curve(**lines: dict[int, float]) -> dict[str, Any]:
    """Return a document with a curve of lines: what is varied -> messages a second."""
    found = [
        {"contestant": name, "points": [{"x": x, "rate": rate} for x, rate in line.items()]}
        for name, line in lines.items()
    ]
    return {"curves": [{"name": "streams", "lines": found}]}


def test_what_is_kept_is_the_least_share_of_all_paths() -> None:
    measure = targets.kept("streams", NAMES)
    assert measure(curve(udp={1: 10, 100: 1, 9000: 8}, xdp={1: 10, 100: 9, 9000: 6})) == 0.6


def test_a_curve_whose_last_point_failed_is_not_judged_at_an_easier_one() -> None:
    measure = targets.kept("streams", NAMES)
    whole = {1: 10.0, 100: 9.0, 9000: 6.0}
    assert measure(curve(udp=whole, xdp=whole | {9000: 0.0})) is None
    assert measure(curve(udp=whole, xdp={1: 10.0, 100: 9.0})) is None
    assert measure(curve(udp=whole, xdp=whole | {1: 0.0})) is None
    assert measure(curve(udp=whole)) is None
    assert measure({"curves": []}) is None


def test_without_one_path_no_other_is_the_slower_one() -> None:
    measures = [targets.at("streams", [name], 9000) for name in NAMES]
    whole = curve(udp={9000: 8.0}, xdp={9000: 6.0})
    assert (targets.least(measures)(whole), targets.most(measures)(whole)) == (6.0, 8.0)
    for lacking in (curve(udp={9000: 8.0}), curve(udp={9000: 8.0}, xdp={9000: 0.0})):
        assert targets.least(measures)(lacking) is None
        assert targets.most(measures)(lacking) is None


def test_an_error_is_how_far_a_figure_is_from_what_was_asked() -> None:
    rows = [{"scenario": "relay", "metric": "rate", "value": 969.0, "baseline": 1000.0}]
    measure = targets.error("relay", "rate")
    assert (measure({"rows": rows}), measure({"rows": []})) == (31.0, None)


def test_how_far_a_curve_goes_is_told_by_any_path() -> None:
    measure = targets.reached("streams", NAMES, 9000)
    assert measure(curve(udp={9000: 8.0}, xdp={9000: 0.0})) == 9000
    assert measure(curve(udp={9000: 0.0}, xdp={1: 5.0})) is None
