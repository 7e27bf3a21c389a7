"""The rows that workers read: how they are written, and what survives a dead writer."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from valkyrie.controlplane.config import reader as config
from valkyrie.controlplane.daemon.state import State, Way, writing
from valkyrie.controlplane.security.policy import Grant, Rights, StreamRange
from valkyrie.controlplane.sessions.link import Joined, Link
from valkyrie.controlplane.sessions.table import Place
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.control import Limits
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


def test_keys_are_changed_as_often_as_the_configuration_says(state: State) -> None:
    for text, rotate_ms in (("", lib.VK_ROTATE_MS), ("[security]\nrotate_s = 7\n", 7000)):
        read = config.parse(text + '[[interface]]\nname = "vk0"\n')
        state.set_parameters(read.worker, read.transport, read.classes, read.security)
        assert state.rows.params.rotate_ms == rotate_ms


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


def reached(state: State, slot: int) -> set[int]:
    """Return the rows of peers that the application in a slot may open streams to."""
    return {i for i in range(64) if state.rows.reach[slot].peers[i // 8] >> i % 8 & 1}


def test_an_application_reaches_the_peers_that_it_was_let_connect_to_and_no_later_ones(
    state: State,
) -> None:
    for index in range(20):
        state.set_peer(index, f"10.9.0.{index + 1}", 21000)
    state.set_application(5, GRANT, 1000, 77)
    state.set_application(6, GRANT, 1000, 77)
    for index in (0, 9, 19):
        state.let_reach(5, index)
    state.let_reach(6, 9)
    assert (reached(state, 5), reached(state, 6)) == ({0, 9, 19}, {9})
    assert state.free_peer(9, state.rows.peers[9].generation)
    state.set_peer(9, "10.9.1.1", 21000)  # somebody else in its place
    assert (reached(state, 5), reached(state, 6)) == ({0, 19}, set())
    State(state.rows).set_peer(19, "10.9.0.20", 21000)  # the next daemon's
    assert reached(state, 5) == {0, 19}
    state.set_application_state(5, lib.VK_ROW_FREE)
    state.set_application(5, GRANT, 1000, 78)
    assert reached(state, 5) == set()


def test_all_slots_may_be_taken(state: State) -> None:
    for slot in range(lib.VK_APPS_MAX):
        state.set_application(slot, GRANT, 0, 1)
    assert state.free_slot(set()) is None


def test_services_come_and_go(state: State) -> None:
    for index in range(lib.VK_SERVICES_MAX):
        assert state.add_service(f"s{index}", index, 2)
    assert not state.add_service("one too many", 999, 2)
    epoch = state.rows.service_epoch
    state.remove_service("s7")
    assert state.rows.service_epoch > epoch
    assert "s7" not in state.services()
    assert state.add_service("another", 3, 4)
    assert state.services()["another"] == (3, 4)


def test_an_application_has_no_more_services_than_it_leaves(state: State) -> None:
    def most(slot: int, generation: int) -> int:
        each = f"{slot}-{generation}-"
        return sum(state.add_service(f"{each}{i}", slot, generation) for i in range(300))

    assert [most(1, 2), most(1, 3), most(2, 2)] == [128, 64, 32]
    state.remove_service("1-2-0")
    assert most(3, 2) == 17


def test_a_peer_that_has_moved_stays_where_it_is_for_the_next_daemon(state: State) -> None:
    state.set_peer(0, "10.9.0.2", 21000)
    place = Place(ip_address("10.9.0.77"), 4242)
    state.move(0, place)
    generation = state.rows.peers[0].generation
    state.set_peer(0, "10.9.0.2", 21000)
    assert state.place(0) == place
    assert state.rows.peers[0].generation == generation


def test_a_session_stands_in_its_row_for_the_next_daemon(state: State) -> None:
    state.set_peer(0, "10.9.0.2", 21000)
    assert state.link(0) is None
    link = Link(local=5, remote=6, incarnation=2**63 + 1, limits=Limits(), since_ns=9)
    state.join(0, Joined(link, lost=False))
    found = state.link(0)
    assert found is not None
    assert (found.local, found.remote, found.incarnation, found.since_ns) == (5, 6, 2**63 + 1, 9)
    assert found.limits.window_start == Limits().window_start
    state.leave(0, lib.VK_CODE_UNREACHABLE)
    assert state.link(0) is None


def test_streams_end_with_the_code_and_only_when_they_are_lost(state: State) -> None:
    state.set_peer(0, "10.9.0.2", 21000)
    row = state.rows.peers[0]
    link = Link(local=5, remote=6, incarnation=7, limits=Limits(), since_ns=9)
    numbered: dict[int, tuple[Callable[[], object], int, int, int]] = {
        # what happens, generations more, end code, refuse
        1: (lambda: state.join(0, Joined(link, lost=False)), 0, 0, 0),
        2: (lambda: state.join(0, Joined(link, lost=True)), 1, lib.VK_CODE_PEER_RESTARTED, 0),
        3: (
            lambda: state.leave(0, lib.VK_CODE_UNREACHABLE),
            1,
            lib.VK_CODE_UNREACHABLE,
            lib.VK_CODE_UNREACHABLE,
        ),
        4: (lambda: state.wait(0), 0, lib.VK_CODE_UNREACHABLE, 0),
    }
    for number, (happen, more, end, refuse) in numbered.items():
        before = row.generation
        happen()
        assert (row.generation - before, row.end_code, row.refuse) == (more, end, refuse), number


def test_an_incarnation_is_drawn_once_and_never_zero(state: State) -> None:
    draws = iter([bytes(8), b"\0" * 7 + b"\x09", b"\xff" * 8])
    assert state.incarnation(lambda _: next(draws)) == 9
    assert state.incarnation(lambda _: next(draws)) == 9


def refused(state: State, index: int) -> set[int]:
    """Return the rows of services that a peer may not open."""
    found = bytes(state.rows.rights[index].refused)
    if not state.rows.peers[index].limited:
        return set()
    return {i for i in range(8 * len(found)) if found[i // 8] >> i % 8 & 1}


def test_a_peer_is_kept_from_services_that_its_rights_do_not_name(state: State) -> None:
    names = ["ear", "jobs-1", "jobs-2", *(f"other{i}" for i in range(20))]
    state.set_rights(1, Rights(("ear", "jobs-*"), frozenset({Class.JOB})))
    state.set_rights(2, Rights())
    state.set_rights(3, Rights(()))
    for name in names:
        assert state.add_service(name, 0, 1)
    assert refused(state, 1) == set(range(3, 23))
    assert refused(state, 2) == refused(state, 4) == set()
    assert refused(state, 3) == set(range(23))
    assert [state.rows.peers[i].refused_classes for i in range(1, 4)] == [0b110110, 0, 0]
    state.remove_service("other0")
    assert state.add_service("jobs-3", 0, 1)  # in the place of one that was refused
    assert refused(state, 1) == set(range(4, 23))


def test_the_next_daemon_enters_the_rights_that_its_configuration_has(state: State) -> None:
    state.set_rights(1, Rights(("ear",)))
    for name in ("ear", "eye"):
        assert state.add_service(name, 0, 1)
    after = State(state.rows)
    after.set_rights(1, Rights(("eye",)))
    assert refused(after, 1) == {0}
    after.set_rights(1, Rights())
    assert refused(after, 1) == set()
