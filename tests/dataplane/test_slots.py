"""vk_slots: what an application may do to its rings harms nobody but itself."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from tests.dataplane.fuzzing import fuzz
from tests.dataplane.native import PARTS
from tests.dataplane.rig import Rig, Stream, rig_of
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import Class, Gauge

DATA = int(Class.DATA)
HUGE = 2**64 - 8


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rig_of() as made:
        yield made


def poke(rig: Rig, what: str, *values: int) -> None:
    """Let application 0 of node 0 write where it should not."""
    rig.ask("poke", 0, 0, what, DATA, *values)


def size_of_first_record(rig: Rig, ours: Stream, size: int) -> None:
    """Claim that the first record is larger than it is."""
    assert rig.put(ours, 64, 1)
    at = 8 + 40 + 8  # what OPEN took: record, message, name padded
    for byte in range(4):
        poke(rig, "d", at + byte, size >> 8 * byte & 0xFF)


ATTACKS: dict[str, Callable[[Rig, Stream], None]] = {
    "1 tail beyond the capacity": lambda rig, _: poke(rig, "t", 1 << 40),
    "2 tail goes back": lambda rig, _: poke(rig, "t", 0),
    "3 tail not aligned": lambda rig, _: poke(rig, "t", 63),
    "4 tail near the largest number": lambda rig, _: poke(rig, "t", HUGE),
    "5 record larger than the ring": lambda rig, ours: size_of_first_record(rig, ours, 2**31),
    "6 record larger than what was published": lambda rig, ours: size_of_first_record(
        rig, ours, 4096
    ),
    "7 record smaller than its head": lambda rig, ours: size_of_first_record(rig, ours, 39),
    "8 record that wraps the number": lambda rig, ours: size_of_first_record(rig, ours, 2**32 - 1),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_application_that_breaks_its_ring_is_cut_off_and_nobody_else(
    rig: Rig, attack: str
) -> None:
    for node in (0, 1):
        assert rig.app(node, 0) == rig.app(node, 1) == 0
    rig.service(1, 0, "bad")
    rig.service(1, 1, "good")
    bad, good = rig.open(0, 0, 1000, "bad"), rig.open(0, 1, 1001, "good")
    for slot in range(2):
        rig.accept(1, slot, Class.DATA)
    ATTACKS[attack](rig, bad)
    for mark in range(100):
        assert rig.put(good, 64, mark)
    rig.settle()
    assert rig.gauge(0, Gauge.APP_VIOLATIONS) == 1
    assert rig.gauge(0, Gauge.APPS_ATTACHED) == 1
    assert rig.ask("news", 0) == f"{lib.VK_ORDER_VIOLATION} 0"
    assert [each.mark for each in rig.take(1, 1, Class.DATA)] == list(range(100))
    (reset,) = rig.take(1, 0, Class.DATA)
    assert (reset.kind, reset.code) == (lib.VK_RECORD_RESET, lib.VK_CODE_APPLICATION_GONE)


@pytest.mark.parametrize("head", [1 << 40, 7, HUGE])
def test_an_impossible_consumer_index_is_noticed_when_there_is_something_to_deliver(
    rig: Rig, head: int
) -> None:
    assert rig.app(0, 0, ring=4096) == rig.app(1, 0) == 0
    rig.service(0, 0, "svc")
    end = rig.open(1, 0, 1000, "svc")
    rig.accept(0, 0, Class.DATA)
    poke(rig, "h", head)
    for mark in range(200):
        rig.put(end, 64, mark)
    rig.settle()
    assert rig.gauge(0, Gauge.APP_VIOLATIONS) == 1
    row = rig.count(0, Class.DATA)
    assert row["rx_messages"] == (
        row["rx_delivered"]
        + row["drop_app_ring"]
        + row["drop_unknown_stream"]
        + row["drop_stale"]  # behind the end of its stream
    )
    reset = rig.take(1, 0, Class.DATA)[-1]
    assert (reset.kind, reset.code) == (lib.VK_RECORD_RESET, lib.VK_CODE_APPLICATION_GONE)


def asleep(rig: Rig, node: int, need: int) -> int:
    """Let an application wait while 1000 B become acknowledged or arrive; returns its bells."""
    before = rig.gauge(node, Gauge.WAKE_BELLS)
    rig.ask("sleep", node, 0, DATA, need)
    rig.settle()
    return rig.gauge(node, Gauge.WAKE_BELLS) - before


@pytest.mark.parametrize(
    ("need", "bells"), [(0, 0), (4096 - 2000, 1), (4096, 1)], ids=["none", "soon", "all"]
)
def test_an_application_that_waits_for_room_is_woken_when_it_is_there(
    rig: Rig, need: int, bells: int
) -> None:
    assert rig.app(0, 0, ring=4096) == rig.app(1, 0) == 0
    rig.service(1, 0, "svc")
    ours = rig.open(0, 0, 1000, "svc")
    for mark in range(2):
        assert rig.put(ours, 1000, mark)
    assert asleep(rig, 0, need) == bells


def test_an_application_that_waits_for_more_room_than_there_will_be_sleeps_on(rig: Rig) -> None:
    ours, _ = rig.pair()
    rig.put(ours, 1000, 1)
    assert asleep(rig, 0, (1 << 20) + 1) == 0


def test_an_application_that_waits_for_room_is_woken_by_a_record(rig: Rig) -> None:
    ours, _ = rig.pair()
    rig.put(ours, 1000, 1)
    assert asleep(rig, 1, 1 << 20) == 1


def test_who_sleeps_over_what_a_dead_worker_put_is_woken_by_the_next(rig: Rig) -> None:
    ours, _ = rig.pair()
    rig.put(ours, 1000, 1)
    rig.settle()  # it lies in the ring, and the worker might have died before it rang
    before = rig.gauge(1, Gauge.WAKE_BELLS)
    rig.ask("sleep", 1, 0, DATA, 0)
    rig.ask("worker", 1, "kill")
    rig.ask("worker", 1, "recover")
    rig.turn(1)
    assert rig.gauge(1, Gauge.WAKE_BELLS) == before + 1


def test_a_slot_that_was_cut_off_can_be_used_again(rig: Rig) -> None:
    rig.pair()
    poke(rig, "t", 1 << 40)
    rig.settle()
    assert rig.gauge(0, Gauge.APP_VIOLATIONS) == 1
    assert rig.app(0, 0) == 0
    assert rig.gauge(0, Gauge.APPS_ATTACHED) == 1


def test_a_slot_of_before_begins_anew_under_a_worker_that_took_over(rig: Rig) -> None:
    ours, _ = rig.pair()
    for mark in range(3):
        assert rig.put(ours, 64, mark)
    rig.settle()
    for node in (0, 1):
        rig.ask("worker", node, "kill")
        rig.ask("worker", node, "recover")
        assert rig.ask("detach", node, 0) == "0"
    rig.settle()
    again, _ = rig.pair("again", 1001)  # finds nothing in its rings but what belongs there
    assert rig.put(again, 64, 7)
    rig.settle()
    assert [each.mark for each in rig.take(1, 0, Class.DATA)] == [7]


def test_who_takes_back_what_it_took_while_no_worker_ran_is_cut_off(rig: Rig) -> None:
    assert rig.app(0, 0) == rig.app(1, 0, ring=4096) == 0
    rig.service(1, 0, "svc")
    ours = rig.open(0, 0, 1000, "svc")
    rig.accept(1, 0, Class.DATA)
    for mark in range(100):
        assert rig.put(ours, 64, mark)
    rig.exchange(5)  # the ring is full
    rig.ask("worker", 1, "kill")
    rig.ask("poke", 1, 0, "c", DATA, 1024)
    rig.ask("worker", 1, "recover")
    assert rig.gauge(1, Gauge.APP_VIOLATIONS) == 1
    assert rig.gauge(1, Gauge.APPS_ATTACHED) == 0
    rig.exchange(5)


def test_a_taken_slot_is_not_given_away(rig: Rig) -> None:
    assert rig.app(0, 0) == 0
    assert rig.app(0, 0) < 0
    assert rig.gauge(0, Gauge.APPS_ATTACHED) == 1


FOREIGN = {
    "1 a flow of another application": (1, 0, 0),
    "2 no such flow": (0, 5000, 0),
    "3 a flow beyond the table": (0, 1 << 31, 0),
    "4 an older generation of the flow": (0, 0, -1),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_record_for_a_flow_that_is_not_ones_own_is_refused_and_counted(
    rig: Rig, case: str
) -> None:
    ours, _ = rig.pair()
    assert rig.app(0, 1) == 0
    slot, flow, generation = FOREIGN[case]
    forged = Stream(0, slot, ours.flow + flow, ours.generation + generation, 1000)
    rig.put(forged, 64, 1)
    rig.settle()
    assert rig.count(0, Class.DATA)["refused_flow"] == 1
    assert rig.take(1, 0, Class.DATA) == []


def test_a_message_of_another_class_than_its_ring_is_refused(rig: Rig) -> None:
    ours, _ = rig.pair()
    rig.put(Stream(0, 0, ours.flow, ours.generation, 10000), 64, 1)
    rig.settle()
    assert rig.count(0, Class.LOGS)["refused_flow"] == 1


def ended(rig: Rig, code: int) -> None:
    """Both sides were told that the stream broke, and why."""
    for node in (0, 1):
        reset = rig.take(node, 0, Class.DATA)[-1]
        assert (reset.kind, reset.code) == (lib.VK_RECORD_RESET, code)
    rig.settle()
    assert rig.gauge(0, Gauge.FLOWS_OPEN) == rig.gauge(1, Gauge.FLOWS_OPEN) == 0


@pytest.mark.parametrize("type_", [lib.VK_PING, lib.VK_STREAM_RESET, 0x2F, 0x60])
def test_a_type_that_is_no_message_is_refused_and_ends_its_stream(rig: Rig, type_: int) -> None:
    ours, _ = rig.pair()
    rig.put(ours, 64, 1, type=type_)
    rig.settle()
    assert rig.count(0, Class.DATA)["refused_policy"] == 1
    ended(rig, lib.VK_CODE_MALFORMED)


def test_a_message_too_large_to_be_sharded_is_refused_and_ends_its_stream(rig: Rig) -> None:
    ours, _ = rig.pair()
    assert rig.put(ours, lib.VK_SHARDED_MAX, 1)
    rig.settle()
    assert [each.mark for each in rig.take(1, 0, Class.DATA)] == [1]
    assert rig.put(ours, lib.VK_SHARDED_MAX + 1, 2)
    assert rig.put(ours, 64, 3)
    rig.settle()
    row = rig.count(0, Class.DATA)
    assert (row["refused_size"], row["refused_flow"], row["tx_messages"]) == (1, 1, 1)
    ended(rig, lib.VK_CODE_MALFORMED)


def test_what_ends_one_stream_leaves_the_others_of_its_ring(rig: Rig) -> None:
    bad, _ = rig.pair()
    good = rig.open(0, 0, 1001, "svc")
    rig.accept(1, 0, Class.DATA)
    for mark in range(100):
        rig.put(good, 64, mark)
        rig.put(bad, 64, mark, type=lib.VK_PING if mark == 50 else 0)
    rig.settle()
    records = rig.take(1, 0, Class.DATA)
    data = [each for each in records if each.kind == lib.VK_RECORD_DATA]
    assert [each.mark for each in data if each.stream == good.stream] == list(range(100))
    row = rig.count(0, Class.DATA)
    assert row["tx_messages"] + row["refused_policy"] + row["refused_flow"] == 200


def test_over_its_rate_an_application_waits_and_loses_nothing(rig: Rig) -> None:
    assert rig.app(0, 0, rates=(1000, 0)) == rig.app(1, 0) == 0
    rig.service(1, 0, "svc")
    ours = rig.open(0, 0, 1000, "svc")
    rig.accept(1, 0, Class.DATA)
    for mark in range(500):
        assert rig.put(ours, 64, mark)
    rig.exchange(20)  # time stands still
    burst = len(rig.take(1, 0, Class.DATA))
    assert 40 <= burst <= 60  # 50 ms of its rate
    assert rig.ask("blocked", 0, 0, DATA) == str(lib.VK_BLOCKED_POLICY)
    got = []
    for _ in range(10):
        rig.wait(0.01)
        rig.exchange(5)
        got.append(len(rig.take(1, 0, Class.DATA)))
    assert all(9 <= each <= 11 for each in got)
    rig.settle(lambda: got.append(len(rig.take(1, 0, Class.DATA))))
    assert sum(got) + burst == 500
    assert rig.ask("blocked", 0, 0, DATA) == str(lib.VK_BLOCKED_NONE)
    row = rig.count(0, Class.DATA)
    assert (row["tx_messages"], row["refused_policy"]) == (500, 0)


def test_a_full_path_leaves_records_in_their_ring_and_says_so(rig: Rig) -> None:
    ours, _ = rig.pair()
    rig.net(room=2)
    for mark in range(200):  # no more than the stream's window
        assert rig.put(ours, 200, mark)
    rig.turn(0)
    assert rig.ask("blocked", 0, 0, DATA) == str(lib.VK_BLOCKED_PATH)
    rig.settle()
    assert rig.ask("blocked", 0, 0, DATA) == str(lib.VK_BLOCKED_NONE)
    assert [each.mark for each in rig.take(1, 0, Class.DATA)] == list(range(200))


def test_a_network_that_answers_nothing_leaves_records_in_their_ring_and_says_so(
    rig: Rig,
) -> None:
    ours, _ = rig.pair()
    rig.settle()
    rig.net(loss=1000)
    for mark in range(200):  # no more than the stream's window
        assert rig.put(ours, 200, mark)
    rig.exchange(3)
    assert rig.ask("blocked", 0, 0, DATA) == str(lib.VK_BLOCKED_CONGESTION)
    rig.net()
    rig.settle()
    assert rig.ask("blocked", 0, 0, DATA) == str(lib.VK_BLOCKED_NONE)
    assert sorted(each.mark for each in rig.take(1, 0, Class.DATA)) == list(range(200))


def test_records_stay_in_their_ring_until_they_are_acknowledged(rig: Rig) -> None:
    assert rig.app(0, 0, ring=1 << 13) == rig.app(1, 0) == 0
    rig.service(1, 0, "svc")
    ours = rig.open(0, 0, 1000, "svc")
    rig.accept(1, 0, Class.DATA)
    rig.settle()
    rig.net(loss=1000)
    put = 0
    while rig.put(ours, 200, put):
        put += 1
    for _ in range(50):
        rig.exchange()
        rig.wait(0.02)
    assert rig.count(0, Class.DATA)["tx_messages"] == put
    assert not rig.put(ours, 200, put)  # sent, and still there
    rig.net()
    rig.settle()
    assert sorted(each.mark for each in rig.take(1, 0, Class.DATA)) == list(range(put))
    assert all(rig.put(ours, 200, put + again) for again in range(put))


ANSWERS = lib.VK_CONTROL_RING // (8 + 40)
"""That the ring to an application holds."""


def flush(rig: Rig, end: Stream, count: int) -> None:
    """Ask so often to be told when everything before is acknowledged; nobody takes the answers."""
    for number in range(count):
        assert rig.put(end, 0, 0, kind=lib.VK_RECORD_FLUSH, correlation=number)
    rig.settle()


def test_a_flush_whose_answer_finds_no_room_is_answered_when_there_is_some(rig: Rig) -> None:
    ours, _ = rig.pair()
    flush(rig, ours, 3 * ANSWERS)
    for first in range(0, 3 * ANSWERS, ANSWERS):
        answers = rig.take(0, 0, Class.CONTROL)
        assert [each.correlation for each in answers] == list(range(first, first + ANSWERS))
        assert {each.kind for each in answers} == {lib.VK_RECORD_FLUSHED}
        rig.settle()
    assert rig.take(0, 0, Class.CONTROL) == []


@pytest.mark.parametrize("head", [1 << 40, 7, HUGE])
def test_an_impossible_consumer_index_is_noticed_when_a_flush_is_to_be_answered(
    rig: Rig, head: int
) -> None:
    ours, _ = rig.pair()
    flush(rig, ours, ANSWERS)
    rig.ask("poke", 0, 0, "h", int(Class.CONTROL), head)
    flush(rig, ours, 1)
    assert rig.gauge(0, Gauge.APP_VIOLATIONS) == 1
    assert rig.gauge(0, Gauge.APPS_ATTACHED) == 0


@pytest.mark.parametrize("loss", [0, 200])
@pytest.mark.parametrize("size", [64, 3000])
@pytest.mark.parametrize("left", [0, 1, 2, 3, 20])
def test_a_ring_is_given_back_though_the_numbers_of_its_records_begin_anew(
    rig: Rig, left: int, size: int, loss: int
) -> None:
    ring = 1 << 14
    assert rig.app(0, 0, ring=ring) == rig.app(1, 0) == 0
    rig.service(1, 0, "svc")
    ours = rig.open(0, 0, 1000, "svc")
    rig.accept(1, 0, Class.DATA)
    rig.settle()
    assert rig.ask("ledger", 0, 0, DATA, (1 << 32) - 1 - left) == "1"
    rig.net(loss=loss, reorder=loss, seed=left)
    room = ring // (8 + 40 + size)
    got: list[int] = []
    for mark in range(3 * room):
        if not rig.put(ours, size, mark):
            rig.settle()
            got += [each.mark for each in rig.take(1, 0, Class.DATA)]
            assert rig.put(ours, size, mark)
        if mark % 3 == 0:
            rig.exchange()
    rig.net()
    for _ in range(2):
        rig.settle()
        got += [each.mark for each in rig.take(1, 0, Class.DATA)]
    assert sorted(got) == list(range(3 * room))
    assert loss or got == sorted(got)
    for mark in range(room):
        assert rig.put(ours, size, mark)


def test_a_full_window_leaves_records_in_their_ring_and_says_so(rig: Rig) -> None:
    ours, _ = rig.pair()
    cost = 200 + lib.VK_MESSAGE_COST
    for mark in range(600):
        assert rig.put(ours, 200, mark)
    rig.settle()
    assert rig.count(1, Class.DATA)["rx_delivered"] == lib.VK_WINDOW_START // cost
    assert rig.ask("blocked", 0, 0, DATA) == str(lib.VK_BLOCKED_CREDIT)
    got: list[int] = []
    rig.settle(lambda: got.extend(each.mark for each in rig.take(1, 0, Class.DATA)))
    assert got == list(range(600))
    assert rig.ask("blocked", 0, 0, DATA) == str(lib.VK_BLOCKED_NONE)


def test_a_fuzzing_application_leaves_the_worker_whole_and_others_their_turn() -> None:
    record = struct.pack("<IBBH", 40 + 16, lib.VK_RECORD_DATA, 0, 0)
    message = struct.pack("<6I4BIQ", 0, 1, 0, 1000, 0, 5, 0, 0, 0, 0, 0, 0)
    opening = struct.pack("<IBBH", 40 + 8, lib.VK_RECORD_OPEN, 0, 0)
    seeds = [
        bytes([5, 3]) + record + message + bytes(16),
        bytes([5, 3]) + opening + message + b"service ",
        bytes([0, 4]) + struct.pack("<Q", 1 << 40),
        bytes([1, 4]) + struct.pack("<Q", 64),
        bytes([2, 3]) + struct.pack("<Q", 9),
    ]
    sources = ["fuzz_slots.c", "worker_rig.c", *PARTS]
    fuzz("fuzz_slots", sources, [*seeds, b"".join(seeds)])


def test_a_later_workers_sleeps_are_none_that_an_application_rang_for_before(rig: Rig) -> None:
    """The bell of a sleep is rung once: one with an earlier one's number would go unnoticed."""
    assert rig.app(0, 0) == 0
    known: set[str] = set()
    for _ in range(20):
        rested = [rig.ask("rest", 0, 0) for _ in range(100)]
        assert not known & set(rested)
        known |= set(rested)
        rig.ask("worker", 0, "kill")
        rig.ask("worker", 0, "recover")
