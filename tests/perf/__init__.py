"""Tests of the benchmark suite: figures are only as good as what makes them."""
