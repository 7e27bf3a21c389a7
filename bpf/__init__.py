"""Compiled eBPF objects, as package data."""

from importlib.resources import files


def load(name: str) -> bytes:
    """Return the ELF bytes of the object built from ``<name>.bpf.c``."""
    return (files(__name__) / f"{name}.bpf.o").read_bytes()
