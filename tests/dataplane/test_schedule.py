"""vk_schedule: critical first, the others share as they should, nobody is starved."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import library
from valkyrie.controlplane.config.settings import Classes
from valkyrie.dataplane.wire import Class

ALL, BUDGET, RATE, PATH, GONE = range(5)
SHARING = [Class.SYSTEM, Class.JOB, Class.DATA, Class.LOGS]
QUANTA = {klass: getattr(Classes(), klass.name.lower()).quantum_bytes for klass in SHARING}
"""Those of a node whose configuration says nothing about it."""
SECOND = 1_000_000_000


class Senders:
    """Applications with records of some size in some classes, and a path that takes so much."""

    def __init__(self, quanta: dict[Class, int] | None = None) -> None:
        self.ffi, self.lib = library("vk_schedule.h", "vk_schedule.c")
        self.schedule = self.ffi.new("struct vk_schedule *")
        for klass, quantum in (quanta or QUANTA).items():
            self.schedule.quantum[klass] = quantum
        self.waiting: dict[tuple[int, Class], list[int]] = {}
        """Records: their sizes, by (application, class)."""
        self.endless: dict[tuple[int, Class], int] = {}
        """Size of records of which there is always one more."""
        self.sent: Tally[tuple[int, Class]] = Tally()
        self.order: list[tuple[int, Class]] = []
        self.room = 1 << 40
        self.over_rate: set[int] = set()
        self.blocked: set[tuple[int, Class]] = set()
        """Whose peer takes nothing."""
        self.on_serve: Callable[[int], int | None] = lambda _app: None
        self._serve = self.ffi.callback(
            "enum vk_served(void *, uint32_t, uint32_t, int64_t, int64_t *)", self._send
        )

    def add(self, app: int, weight: int = 100) -> None:
        self.lib.vk_schedule_add(self.schedule, app)
        self.lib.vk_schedule_weigh(self.schedule, app, weight)

    def _send(self, _context: Any, app: int, number: int, budget: int, sent: Any) -> int:
        klass = Class(number)
        special = self.on_serve(app)
        if special is not None:
            return special
        while sent[0] < budget:
            size = self.endless.get((app, klass)) or next(
                iter(self.waiting.get((app, klass), ())), 0
            )
            if not size:
                return ALL
            if app in self.over_rate:
                return RATE
            if self.room < size or (app, klass) in self.blocked:
                return PATH
            if (app, klass) not in self.endless:
                self.waiting[app, klass].pop(0)
            self.room -= size
            self.sent[app, klass] += size
            self.order.append((app, klass))
            sent[0] += size
        return BUDGET

    def turn(self) -> int:
        return int(self.lib.vk_schedule_turn(self.schedule, self._serve, self.ffi.NULL))

    def crowded(self, turns: int, room: int) -> None:
        """Take turns on a path that takes only so many bytes each time."""
        for _ in range(turns):
            self.room = room
            self.turn()


def by_class(senders: Senders) -> dict[Class, int]:
    return {
        klass: sum(size for (_, of), size in senders.sent.items() if of == klass)
        for klass in SHARING
    }


@pytest.mark.parametrize("room", [1500, 9000, 40_000, 1 << 40])
@pytest.mark.parametrize("size", [100, 1400])
def test_classes_share_by_their_quanta_however_little_the_path_takes(room: int, size: int) -> None:
    senders = Senders()
    senders.add(0)
    for klass in SHARING:
        senders.endless[0, klass] = size
    senders.crowded(max(100, 40_000_000 // min(room, 131_072)), room)
    total = sum(by_class(senders).values())
    for klass, sent in by_class(senders).items():
        wanted = QUANTA[klass] / sum(QUANTA.values())
        assert abs(sent / total - wanted) < 0.05 * wanted + 0.005, klass


SHORT = 8192


@pytest.mark.parametrize("critical", [0, 100, 60_000])
@pytest.mark.parametrize("room", [1500, 1 << 40])
@pytest.mark.parametrize("size", [100, 1400])
def test_classes_share_by_their_quanta_however_short_turns_are(
    critical: int, room: int, size: int
) -> None:
    senders = Senders()
    senders.add(0)
    senders.schedule.cut, senders.schedule.turn_max = 1, SHORT
    for klass in SHARING:
        senders.endless[0, klass] = size
    for _ in range(6000):
        senders.room = room
        senders.waiting[0, Class.CRITICAL] = [critical] if critical and room > critical else []
        senders.turn()
    total = sum(by_class(senders).values())
    for klass, sent in by_class(senders).items():
        wanted = QUANTA[klass] / sum(QUANTA.values())
        assert abs(sent / total - wanted) < 0.05 * wanted + 0.005, klass


@pytest.mark.parametrize("others", [0, 1], ids=["its own", "another's"])
@pytest.mark.parametrize("quanta", [QUANTA, dict.fromkeys(SHARING, 1 << 16)], ids=["few", "many"])
def test_who_waits_for_a_peer_takes_nothing_from_other_classes_however_short_turns_are(
    quanta: dict[Class, int], others: int
) -> None:
    senders = Senders(quanta)
    senders.add(0)
    senders.add(1)
    senders.schedule.cut, senders.schedule.turn_max = 1, SHORT
    senders.endless[0, Class.JOB] = 1000
    senders.blocked.add((0, Class.JOB))
    sharing = [Class.SYSTEM, Class.DATA, Class.LOGS]
    for klass in sharing:
        senders.endless[others, klass] = 1000
    for _ in range(6000):
        senders.turn()
    total = sum(by_class(senders).values())
    for klass in sharing:
        wanted = quanta[klass] / sum(quanta[each] for each in sharing)
        assert abs(by_class(senders)[klass] / total - wanted) < 0.1 * wanted + 0.005, klass


def test_applications_share_a_class_by_their_weights_however_short_turns_are() -> None:
    senders = Senders()
    senders.schedule.cut, senders.schedule.turn_max = 1, SHORT
    for app, weight in enumerate((100, 300)):
        senders.add(app, weight)
        senders.endless[app, Class.LOGS] = 1000
    for _ in range(2000):
        senders.turn()
    assert 2.9 < senders.sent[1, Class.LOGS] / senders.sent[0, Class.LOGS] < 3.1


def test_a_short_turn_ends_within_an_applications_share() -> None:
    senders = Senders()
    senders.add(0)
    senders.endless[0, Class.LOGS] = 1000
    assert senders.turn() > 2 * SHORT
    senders.schedule.cut, senders.schedule.turn_max = 1, SHORT
    for _ in range(20):
        assert SHORT <= senders.turn() < SHORT + 1000


@pytest.mark.parametrize("klass", [Class.JOB, Class.DATA, Class.LOGS])
def test_whoever_is_alone_a_short_turn_is_one_of_a_few_rounds(klass: Class) -> None:
    senders = Senders()
    senders.add(0)
    senders.endless[0, klass] = 100
    senders.schedule.turn_max = SHORT
    longest = max(SHORT, QUANTA[klass])
    for _ in range(20):
        assert SHORT <= senders.turn() < SHORT + longest + 100


@pytest.mark.parametrize("room", [1500, 9000, 1 << 40])
@pytest.mark.parametrize("size", [100, 1400, 60_000])
def test_by_default_a_class_gets_at_least_four_times_as_much_as_logs(room: int, size: int) -> None:
    for klass in (Class.SYSTEM, Class.JOB, Class.DATA):
        senders = Senders()
        for app, of in enumerate((klass, Class.LOGS)):
            senders.add(app)
            senders.endless[app, of] = size
        senders.crowded(20_000_000 // min(room + size, 131_072), room + size)
        share = by_class(senders)
        assert share[Class.LOGS] > 0, klass
        assert share[klass] > 3.9 * share[Class.LOGS], klass


def test_a_class_with_many_applications_gets_no_more_than_one_with_a_single() -> None:
    senders = Senders(dict.fromkeys(SHARING, 10000))
    for app in range(20):
        senders.add(app)
        senders.endless[app, Class.LOGS] = 500
    senders.endless[0, Class.DATA] = 500
    senders.crowded(3000, 20_000)
    share = by_class(senders)
    assert abs(share[Class.LOGS] / share[Class.DATA] - 1) < 0.05


@pytest.mark.parametrize("size", [60, 1400, 60_000])
def test_applications_of_a_class_share_by_weight(size: int) -> None:
    senders, weights = Senders(), {0: 50, 1: 100, 2: 200, 3: 1000}
    for app, weight in weights.items():
        senders.add(app, weight)
        senders.endless[app, Class.DATA] = size
    senders.crowded(3000, 100_000)
    total = sum(senders.sent.values())
    for app, weight in weights.items():
        wanted = weight / sum(weights.values())
        assert abs(senders.sent[app, Class.DATA] / total - wanted) < 0.05 * wanted + 0.01


def test_large_records_buy_no_larger_share_than_small_ones() -> None:
    senders = Senders()
    for app, size in enumerate([64, 1400, 65_000]):
        senders.add(app)
        senders.endless[app, Class.DATA] = size
    senders.crowded(5000, 70_000)
    shares = [senders.sent[app, Class.DATA] for app in range(3)]
    assert max(shares) / min(shares) < 1.1


def test_who_is_alone_goes_on_for_longer() -> None:
    served: list[int] = []
    senders = Senders()
    senders.add(0)
    senders.endless[0, Class.DATA] = 1400
    senders.on_serve = served.append
    senders.turn()
    assert senders.sent[0, Class.DATA] >= 131_072
    assert len(served) < 20  # critical is asked in every round, others once


def test_who_was_alone_has_no_more_than_its_quantum_left_when_others_come() -> None:
    senders, shared = Senders(), Tally[Class]()
    senders.add(0)
    senders.endless[0, Class.DATA] = 100
    for _ in range(200):
        senders.crowded(1, 1000)
        before = by_class(senders)
        senders.endless[0, Class.LOGS] = 100
        senders.crowded(1, QUANTA[Class.DATA] + QUANTA[Class.LOGS])
        del senders.endless[0, Class.LOGS]
        shared.update({klass: sent - before[klass] for klass, sent in by_class(senders).items()})
    wanted = QUANTA[Class.LOGS] / (QUANTA[Class.DATA] + QUANTA[Class.LOGS])
    assert abs(shared[Class.LOGS] / shared.total() - wanted) < 0.05 * wanted


def test_critical_is_first_in_every_turn() -> None:
    senders = Senders()
    senders.add(0)
    senders.add(1)
    for klass in SHARING:
        senders.endless[0, klass] = 1000
    for _ in range(50):
        senders.order.clear()
        senders.waiting[1, Class.CRITICAL] = [64] * 5
        senders.room = 20_000
        senders.turn()
        assert senders.order[:5] == [(1, Class.CRITICAL)] * 5


def test_a_critical_flood_leaves_the_others_their_turn() -> None:
    senders = Senders()
    senders.add(0)
    senders.endless[0, Class.CRITICAL] = 100
    senders.endless[0, Class.DATA] = 100
    senders.turn()
    assert senders.sent[0, Class.DATA] > 0


def test_a_class_alone_gets_the_whole_turn() -> None:
    senders = Senders()
    senders.add(0)
    senders.endless[0, Class.DATA] = 100
    assert senders.turn() >= senders.lib.VK_TURN_BYTES


def test_an_idle_application_saves_nothing_up() -> None:
    senders = Senders()
    senders.add(0)
    senders.add(1)
    senders.endless[0, Class.DATA] = 100
    senders.crowded(1000, 10_000)
    senders.endless[1, Class.DATA] = 100
    senders.sent.clear()
    senders.crowded(200, 10_000)
    share = senders.sent[1, Class.DATA] / sum(senders.sent.values())
    assert abs(share - 0.5) < 0.05


def test_an_application_over_its_rate_holds_nobody_up() -> None:
    senders = Senders()
    for app in range(3):
        senders.add(app)
        senders.endless[app, Class.DATA] = 100
    senders.over_rate = {1}
    senders.crowded(100, 50_000)
    assert senders.sent[1, Class.DATA] == 0
    assert abs(senders.sent[0, Class.DATA] / senders.sent[2, Class.DATA] - 1) < 0.1


def test_an_application_may_vanish_while_it_is_served() -> None:
    senders = Senders()
    for app in range(4):
        senders.add(app)
        senders.endless[app, Class.DATA] = 100

    def vanish(app: int) -> int | None:
        if app != 2:
            return None
        senders.lib.vk_schedule_remove(senders.schedule, 2)
        return GONE

    senders.on_serve = vanish
    senders.turn()
    senders.on_serve = lambda _app: None
    senders.crowded(100, 50_000)
    assert senders.schedule.count == 3
    shares = [senders.sent[app, Class.DATA] for app in (0, 1, 3)]
    assert senders.sent[2, Class.DATA] == 0
    assert max(shares) / min(shares) < 1.1


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.integers(0, 5), st.sampled_from([Class.CRITICAL, *SHARING])),
        st.lists(st.integers(40, 65_600), max_size=30),
        max_size=12,
    ),
    st.lists(st.integers(1, 1000), min_size=6, max_size=6),
    st.integers(70_000, 300_000),
)
def test_everything_that_waits_goes_in_order_and_in_bounded_time(
    waiting: dict[tuple[int, Class], list[int]], weights: list[int], room: int
) -> None:
    senders = Senders()
    for app, weight in enumerate(weights):
        senders.add(app, weight)
    senders.waiting = {key: list(sizes) for key, sizes in waiting.items()}
    total = sum(map(sum, waiting.values()))
    for _ in range(total // 30_000 * 8 + 50):
        senders.room = room
        senders.turn()
    assert sum(senders.sent.values()) == total


@pytest.mark.parametrize("rate", [1, 1000, 1_000_000, 5_000_000_000])
def test_a_meter_lets_its_rate_through_and_a_short_burst(rate: int) -> None:
    ffi, native = library("vk_schedule.h", "vk_schedule.c")
    meter = ffi.new("struct vk_meter *")
    native.vk_meter_set(meter, rate)
    assert abs(meter.cost_ns / 2**native.VK_METER_SHIFT * rate / SECOND - 1) < 0.05
    native.vk_meter_set(meter, 0)
    assert meter.cost_ns == 0
