"""Token buckets and credit of the classifier, changed while packets come."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.bpf.rig import Rig, ethernet, frame, ip4, ip6, one_cpu
from tests.census import needs
from tests.lab import wait_until
from valkyrie.dataplane import ffi
from valkyrie.dataplane.loader import police
from valkyrie.dataplane.wire import Class

STREAMS = {Class.CRITICAL: 0, Class.SYSTEM: 5, Class.JOB: 500, Class.DATA: 2000, Class.LOGS: 20000}
SLOWEST = 1
"""Packets/s so few that no bucket gains one within UNREFILLED_S."""
UNREFILLED_S = 0.9


def packet(klass: Class, source: int = 1) -> bytes:
    return ethernet(ip4(frame(0x31, STREAMS[klass]), source=f"10.9.0.{source}"))


@dataclass
class Bucket:
    """What the model knows of a bucket that hardly refills."""

    limited: bool = False
    burst: int = 0
    tokens: int = 0
    fresh: bool = True

    def take(self) -> bool:
        if not self.limited:
            return True
        if self.fresh and self.burst:
            self.tokens, self.fresh = self.burst, False
        self.tokens = min(self.tokens, self.burst)
        if not self.tokens:
            self.fresh = False
            return False
        self.tokens -= 1
        return True


class Policing(RuleBasedStateMachine):
    """Every packet's verdict follows from the rates, bursts and grants set so far."""

    rig: ClassVar[Rig]
    """One for all that is drawn: loading the program takes longer than all the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.rig.forget()
        self.begin_s = time.monotonic()
        self.buckets = {klass: Bucket() for klass in STREAMS}
        self.sources: dict[int, Bucket] = {}
        self.source_burst = 0
        self.left = dict.fromkeys(STREAMS, 1 << 40)
        for klass in STREAMS:
            self.rig.lanes[klass].granted = 1 << 40

    @rule(klass=st.sampled_from(list(STREAMS)), burst=st.integers(0, 6))
    def limit(self, klass: Class, burst: int) -> None:
        self.rig.program.set_police(klass, SLOWEST, burst)
        self.buckets[klass].limited, self.buckets[klass].burst = True, burst

    @rule(klass=st.sampled_from(list(STREAMS)))
    def unlimit(self, klass: Class) -> None:
        self.rig.program.set_police(klass, 0, 0)
        self.buckets[klass].limited = False

    @precondition(lambda self: not self.source_burst)
    @rule(burst=st.integers(1, 6))
    def limit_sources(self, burst: int) -> None:
        self.rig.program.set_source_police(SLOWEST, burst)
        self.source_burst = burst

    @rule(klass=st.sampled_from(list(STREAMS)), frames=st.integers(0, 5))
    def grant_no_more_than(self, klass: Class, frames: int) -> None:
        credit = self.rig.lanes[klass]
        credit.granted = credit.used + frames
        self.left[klass] = frames

    @rule(klass=st.sampled_from(list(STREAMS)), source=st.integers(1, 3), count=st.integers(1, 5))
    def receive(self, klass: Class, source: int, count: int) -> None:
        for _ in range(count):
            verdict, expected = self.rig.judge(packet(klass, source))[2], self.expect(klass, source)
            if time.monotonic() - self.begin_s < UNREFILLED_S:  # or the machine stood still
                assert verdict == expected

    def expect(self, klass: Class, source: int) -> str:
        if self.source_burst:
            bucket = self.sources.setdefault(source, Bucket(True, self.source_burst))
            if not bucket.take():
                return "drop_source_rate"
        if not self.buckets[klass].take():
            return "drop_class_rate"
        if not self.left[klass]:
            return "drop_credit"
        self.left[klass] -= 1
        return "steer"

    @invariant()
    def the_control_class_is_untouched(self) -> None:
        assert self.rig.lanes[Class.CONTROL].used == 0


def test_verdicts_follow_rates_bursts_and_grants_changed_live() -> None:
    needs("root", "AF_XDP")
    with one_cpu(), Rig() as Policing.rig:
        run_state_machine_as_test(
            Policing,
            settings=settings(
                max_examples=40,
                stateful_step_count=25,
                deadline=None,
                database=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )


def test_a_bucket_refills_with_time_up_to_its_burst() -> None:
    needs("root", "AF_XDP")
    with Rig() as rig:
        rig.program.set_police(Class.LOGS, 200, 3)
        flood = [rig.judge(packet(Class.LOGS))[2] for _ in range(4)]
        assert flood[:3] == ["steer"] * 3
        wait_until(lambda: rig.judge(packet(Class.LOGS))[2] == "steer", what="a new token")
        # With the state set back very far, a refill gives the burst and not one token more.
        rig.program.set_police(Class.LOGS, SLOWEST + 10, 3)

        def refilled() -> list[str]:
            rig.lanes[Class.LOGS].bucket = {"tokens": 0, "last_ns": 1}
            begin_s = time.monotonic()
            verdicts = [rig.judge(packet(Class.LOGS))[2] for _ in range(4)]
            in_time = time.monotonic() - begin_s < UNREFILLED_S / (SLOWEST + 10)
            return verdicts if in_time else []

        assert wait_until(refilled) == [*["steer"] * 3, "drop_class_rate"]


def test_one_source_cannot_spend_what_belongs_to_another() -> None:
    needs("root", "AF_XDP")
    with one_cpu(), Rig() as rig:
        rig.program.set_source_police(SLOWEST, 2)
        sources = itertools.count(1)

        def policed() -> list[str]:
            begin_s, first = time.monotonic(), next(sources)
            verdicts = [
                rig.judge(packet(Class.DATA, source))[2]
                for source in (*[first] * 3, *[next(sources)] * 3)
            ]
            return verdicts if time.monotonic() - begin_s < UNREFILLED_S else []

        assert wait_until(policed) == ["steer", "steer", "drop_source_rate"] * 2
        for address, expected in (("fd09::1", "steer"), ("a09:1::", "steer")):
            assert rig.judge(ethernet(ip6(frame(), source=address)))[2] == expected


def test_more_sources_than_the_table_holds_do_no_harm() -> None:
    needs("root", "AF_XDP")
    with Rig() as rig:
        rig.program.set_source_police(SLOWEST, 1)
        for i in range(40_000):
            spoofed = f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}"
            run = rig.program.test_run(ethernet(ip4(frame(0x31, 2000), source=spoofed)))
            assert run.result == 4
        assert rig.judge(packet(Class.DATA, 1))[2] in ("steer", "drop_source_rate")


@pytest.mark.parametrize("rate", [1, 1000, 1_000_000, 7_000_000_000])
def test_rates_are_kept_within_what_the_program_can_compute(rate: int) -> None:
    data = police(rate, 1)
    row = ffi.cast("struct vk_police *", ffi.from_buffer(data))
    assert row.rate == pytest.approx(rate * 1.073741824, abs=1)
    assert row.rate * 1_000_000_000 < 1 << 64
