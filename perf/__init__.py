"""Benchmarks: every figure stands next to a baseline measured in the same run."""
