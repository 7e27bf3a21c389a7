"""Tests of the eBPF programs."""
