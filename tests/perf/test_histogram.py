"""Buckets of latencies."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perf.histogram import HALF, Histogram, bucket, middle

VALUES = st.integers(0, 1 << 48)


@given(VALUES)
def test_a_bucket_knows_its_values_to_one_part_in_64(value: int) -> None:
    assert abs(middle(bucket(value)) - value) * HALF <= value


@given(VALUES, VALUES)
def test_a_larger_value_is_never_in_a_smaller_bucket(a: int, b: int) -> None:
    assert (bucket(a) <= bucket(b)) or a > b


@given(st.lists(VALUES), st.lists(VALUES))
def test_histograms_add_up_and_survive_json(a: list[int], b: list[int]) -> None:
    together = Histogram.of(a)
    together.add(Histogram.of(b))
    assert Histogram.loads(together.dumps()) == Histogram.of(a + b)


def test_percentiles_are_values_that_the_share_does_not_exceed() -> None:
    counted = Histogram.of(range(1, 101))
    assert [counted.percentile(p) for p in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert Histogram().percentile(50) == 0
