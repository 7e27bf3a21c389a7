"""What tests of tokens and of cookies share: keys, addresses, a clock, and expiries near it."""

from __future__ import annotations

import ipaddress
import random
import time

from tests.bpf.bases import damaged
from tests.bpf.model import Demands, opinion
from tests.bpf.rig import Rig
from valkyrie.dataplane.guard import Guard, Master, tick

KEYS = {6: bytes(range(16)), 7: bytes(range(16, 32))}
MASTERS = {generation: Master(generation, key) for generation, key in KEYS.items()}
A, B, A6 = (ipaddress.ip_address(text) for text in ("10.9.0.1", "10.9.0.3", "fd09::1"))
NOW = tick(time.monotonic_ns())
LATER = NOW + 100_000
NEAR = 1000
"""Ticks around now in which the model does not know what time it is."""


def master_of(generation: int) -> Master:
    """Return the key of a generation; of one that nobody entered, the newest key."""
    return MASTERS.get(generation, Master(generation, KEYS[7]))


def otherwise(data: bytes, at: int, value: int = 1) -> bytes:
    """Return ``data`` with some bits of a byte changed."""
    return data[:at] + bytes((data[at] ^ value,)) + data[at + 1 :]


def entered(rig: Rig) -> Guard:
    """Return a guard of the rig's program that knows both keys."""
    guard = Guard(rig.program)
    for master in MASTERS.values():
        guard.enter(master)
    return guard


def known(expiry: int) -> int:
    """Return an expiry of which the model can say whether it is over."""
    return NOW if abs(expiry - NOW) < NEAR else expiry


def near(data: bytes, behind: int) -> bool:
    """Say whether the expiry ``behind`` the SESSION's place is so near that the clock decides."""
    places = (14 + ip + 8 + 24 + behind for ip in (20, 40))
    return any(0 < abs(int.from_bytes(data[at : at + 4], "big") - NOW) < NEAR for at in places)


def compare(rig: Rig, data: bytes, seed: int, demands: Demands, behind: int) -> None:
    """Judge a packet, and it damaged in eight ways, beside the model."""
    rng = random.Random(seed)
    rig.settle()
    for each in (data, *(damaged(data, rng) for _ in range(8))):
        assert near(each, behind) or not rig.check(each, opinion(each, demands=demands))
    assert rig.settle(), "something was counted twice"
