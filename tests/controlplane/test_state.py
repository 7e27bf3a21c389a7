"""The rows that workers read: how they are written, and what survives a dead writer."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from valkyrie.controlplane.policy import Grant, StreamRange
from valkyrie.controlplane.state import State, Way, writing
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.wire import Class

GRANT = Grant(
    rule="r",
    classes=frozenset({Class.JOB, Class.LOGS}),
    streams=(StreamRange(100, 999), StreamRange(10_000, 0xFFFFFFFF)),
    listen=(),
    peers=(),
    rate_messages=5,
    rate_bytes=6,
    weight=7,
    ring_bytes=4096,
    memory_bytes_max=1 << 20,
    attachments_max=1,
)


@pytest.fixture
def state() -> State:
    return State(ffi.new("struct vk_state *"))


def test_a_row_is_odd_while_it_is_written_and_another_afterwards(state: State) -> None:
    row = state.rows.peers[3]
    for expected in (2, 4):
        with writing(row):
            assert row.sequence == expected - 1
        assert row.sequence == expected


def test_a_row_that_a_dead_writer_left_is_taken_over(state: State) -> None:
    row = state.rows.peers[3]
    row.sequence = 7
    with writing(row):
        assert row.sequence == 7
    assert row.sequence == 8


def test_a_peer_that_is_there_already_is_not_written_again(state: State) -> None:
    state.set_peer(0, "10.9.0.2", 21000)
    generation, epoch = state.rows.peers[0].generation, state.rows.peer_epoch
    state.set_peer(0, "10.9.0.2", 21000)
    assert (state.rows.peers[0].generation, state.rows.peer_epoch) == (generation, epoch)
    state.set_peer(0, "fd09::2", 21000)
    assert state.rows.peers[0].generation == generation + 1
    assert state.rows.peers[0].family == 6
    assert bytes(state.rows.peers[0].address) == ip_address("fd09::2").packed


def test_a_way_is_written_once_and_taken_back(state: State) -> None:
    state.set_peer(0, "10.9.0.2", 21000)
    source = ip_address("10.9.0.1")
    known = Way(1, source, 1472, bytes(range(6)), bytes(range(6, 12)))
    assert state.set_way(0, known)
    assert not state.set_way(0, known)
    row = state.rows.peers[0]
    assert (row.resolved, row.port_index, row.payload_max) == (1, 1, 1472)
    assert state.set_way(0, Way(1, source, 1472))
    assert row.resolved == 0
    assert not state.set_way(0, None)


def test_a_slot_has_another_generation_for_each_application(state: State) -> None:
    first = state.set_application(5, GRANT, 1000, 77)
    row = state.rows.apps[5]
    assert row.class_mask == 1 << Class.JOB | 1 << Class.LOGS
    assert [(row.range_first[i], row.range_last[i]) for i in range(row.range_count)] == [
        (100, 999),
        (10_000, 0xFFFFFFFF),
    ]
    assert state.free_slot(set()) == 0
    assert state.free_slot(set(range(5))) == 6
    state.set_application_state(5, lib.VK_ROW_FREE)
    assert state.set_application(5, GRANT, 1000, 78) == first + 1
    row.generation = 0xFFFFFFFF
    assert state.set_application(5, GRANT, 1000, 79) == 1  # never 0


def test_all_slots_may_be_taken(state: State) -> None:
    for slot in range(lib.VK_APPS_MAX):
        state.set_application(slot, GRANT, 0, 1)
    assert state.free_slot(set()) is None


def test_services_come_and_go(state: State) -> None:
    for index in range(lib.VK_SERVICES_MAX):
        assert state.add_service(f"s{index}", 1, 2)
    assert not state.add_service("one too many", 1, 2)
    epoch = state.rows.service_epoch
    state.remove_service("s7")
    assert state.rows.service_epoch > epoch
    assert "s7" not in state.services()
    assert state.add_service("another", 3, 4)
    assert state.services()["another"] == (3, 4)
