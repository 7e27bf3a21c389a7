"""A flood that is none is no measurement."""

from __future__ import annotations

import os

import pytest

from perf import isolation


def test_a_flood_keeps_a_tenth_of_its_rate_beside_critical_messages_or_is_none() -> None:
    assert isolation.checked("bulk", 30.0, 100.0) == 30.0
    for beside, alone in ((9.0, 100.0), (0.0, 0.0)):
        with pytest.raises(isolation.FloodError, match="no bulk"):
            isolation.checked("bulk", beside, alone)


def test_an_application_of_a_flood_that_ends_is_noticed() -> None:
    flood = isolation.Flood.__new__(isolation.Flood)
    flood._kind, flood._arrived = isolation.KINDS[0], memoryview(bytearray(8)).cast("Q")
    flood._pids = [isolation._child(lambda: None, 0)]
    os.waitid(os.P_PID, flood._pids[0], os.WEXITED | os.WNOWAIT)
    with pytest.raises(isolation.FloodError, match="log flood ended"):
        flood.beside(lambda: None)
    flood.stop()
