"""What the classifier asks before anything is spent: tokens, and sessions that are not denied."""

from __future__ import annotations

import ipaddress
import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bpf.bases import SEQ, SHARD, TABLE, TIME
from tests.bpf.guarding import (
    A6,
    KEYS,
    LATER,
    MASTERS,
    NOW,
    A,
    B,
    compare,
    entered,
    known,
    master_of,
    otherwise,
)
from tests.bpf.model import Demands, opinion
from tests.bpf.rig import VERDICTS, Rig, ethernet, extension, frame, ip4, ip6
from tests.bpf.siphash import siphash
from tests.census import needs
from tests.lab import wait_until
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.guard import Address, Guard, Master, tick
from valkyrie.dataplane.loader import open_classifier
from valkyrie.dataplane.wire import Class, Session, Verdict

C, C6 = ipaddress.ip_address("10.9.0.4"), ipaddress.ip_address("fd09::4")
ID, OTHER = 0x08A0B0C1, 0x08A0B0C2
ASKING = {Class.JOB, Class.DATA}
DEMANDS = Demands(
    frozenset({"job", "data"}), KEYS, frozenset({OTHER}), frozenset({str(C), str(C6)}), NOW
)

SESSION = Session(ID, 9, space=1).pack()
GOOD = MASTERS[7].token(ID, LATER, A)


def token(
    generation: int = 7, expiry: int = LATER, session: int = ID, source: Address = A, edit: int = 0
) -> bytes:
    """Return a token by the key that we know, with some bits of its tag changed."""
    good = master_of(generation).token(session, expiry, source)
    return replace(good, tag=good.tag ^ edit).pack()


def packet(*chain: bytes, stream: int = 2000, source: str = str(A), **fields: int) -> bytes:
    data = frame(0x31, stream, b"payload", b"".join(chain), **fields)
    return ethernet((ip6 if ":" in source else ip4)(data, source=source))


ROWS: list[tuple[int, bytes, str, str]] = [
    # let in
    (1, packet(SESSION, token(), SEQ), "data", "steer"),
    (2, packet(SESSION, token()), "data", "steer"),
    (3, packet(SESSION, token(), SHARD, stream=500), "job", "steer"),
    (4, packet(SESSION, token(), TIME, SEQ, extension(99, 3)), "data", "steer"),
    (5, packet(SESSION, token(6)), "data", "steer"),  # the generation before
    (6, packet(SESSION, token(source=A6), source=str(A6)), "data", "steer"),
    (7, packet(SESSION, token(expiry=0xFFFFFFFF)), "data", "steer"),
    (8, packet(SESSION, token(), flags=8), "data", "steer"),
    # asked of nobody in these classes
    (20, packet(SESSION, SEQ, stream=7), "system", "steer"),
    (21, packet(SESSION, token(edit=1), stream=7), "system", "steer"),
    (22, packet(stream=20000), "logs", "steer"),
    (23, ethernet(ip4(frame(0x00, 2000))), "control", "steer"),
    # missing: there is none, or not where it belongs
    (30, packet(), "data", "drop_token_missing"),
    (31, packet(SESSION), "data", "drop_token_missing"),
    (32, packet(SESSION, SEQ, stream=500), "job", "drop_token_missing"),
    (33, packet(token()), "data", "drop_token_missing"),
    (34, packet(token(), SESSION), "data", "drop_token_missing"),
    (35, packet(SESSION, SEQ, token()), "data", "drop_token_missing"),
    (36, ethernet(ip4(frame(0x31, 2000, token(), SESSION))), "data", "drop_token_missing"),
    (37, ethernet(ip4(frame(0x02, 2000, b"", SESSION))), "data", "drop_token_missing"),
    # keys that are not known
    (40, packet(SESSION, token(5)), "data", "drop_token_generation"),
    (41, packet(SESSION, token(8)), "data", "drop_token_generation"),
    (42, packet(SESSION, token(0)), "data", "drop_token_generation"),
    (43, packet(SESSION, token(7 + 2**15)), "data", "drop_token_generation"),
    # too late
    (50, packet(SESSION, token(expiry=NOW)), "data", "drop_token_expired"),
    (51, packet(SESSION, token(expiry=0)), "data", "drop_token_expired"),
    (52, packet(SESSION, token(expiry=NOW - 1, edit=1)), "data", "drop_token_expired"),
    # not ours, or not for this
    (60, packet(SESSION, token(edit=1)), "data", "drop_token_forged"),
    (61, packet(SESSION, token(edit=1 << 63)), "data", "drop_token_forged"),
    (62, packet(SESSION, token(source=B)), "data", "drop_token_forged"),
    (63, packet(SESSION, token(), source=str(B)), "data", "drop_token_forged"),
    (64, packet(SESSION, token(session=ID + 1)), "data", "drop_token_forged"),
    (65, packet(SESSION, token(), source=str(A6)), "data", "drop_token_forged"),
    (66, packet(SESSION, otherwise(token(), 7, 1)), "data", "drop_token_forged"),  # expiry
    (67, packet(SESSION, otherwise(token(), 3, 1)), "data", "drop_token_forged"),  # generation
    (68, packet(SESSION, extension(2, 4, 7)[:4] + b"\xff" * 12), "data", "drop_token_forged"),
    # a second SESSION does not change whose token it is
    (69, packet(SESSION, token(), Session(OTHER, 1).pack()), "data", "steer"),
    # ended sessions, whatever their class
    (80, packet(Session(OTHER, 1).pack(), SEQ, stream=7), "system", "drop_denied"),
    (81, packet(TIME, Session(OTHER, 1).pack(), stream=20000), "logs", "drop_denied"),
    (82, packet(Session(OTHER, 1).pack(), token(session=OTHER)), "data", "drop_denied"),
    (83, ethernet(ip4(frame(0x05, 0, b"", Session(OTHER, 1).pack()))), "critical", "drop_denied"),
    # addresses that are blocked, whatever they send
    (84, packet(SESSION, token(source=C), source=str(C)), "data", "drop_blocked"),
    (85, packet(SESSION, stream=7, source=str(C6)), "system", "drop_blocked"),
    (86, packet(Session(OTHER, 1).pack(), source=str(C)), "data", "drop_blocked"),
    (87, ethernet(ip4(frame(0x00, 2000), source=str(C))), "control", "drop_blocked"),
    (88, ethernet(ip4(frame(0x00, 2000), source=str(C), port=9)), "control", "pass_port"),
    # what is malformed is told first
    (90, packet(SESSION, token()[:12]), "control", "drop_extension"),
    (91, packet(SESSION, token(), version=1), "control", "drop_version"),
]
"""Number, packet, class it is counted under, verdict; by 10.9.0.1 unless it says otherwise."""


def enter(rig: Rig) -> Guard:
    guard = entered(rig)
    guard.demand(ASKING)
    guard.deny(OTHER)
    for address in (C, C6):
        guard.block(address, LATER, NOW)
    return guard


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    needs("root", "AF_XDP")
    with Rig() as made:
        enter(made)
        yield made


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]:02}-{row[3]}")
def test_the_truth_table_holds(rig: Rig, row: tuple[int, bytes, str, str]) -> None:
    _, data, klass, verdict = row
    assert rig.judge(data)[1:] == (klass, verdict)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]:02}")
def test_the_model_agrees_with_the_truth_table(row: tuple[int, bytes, str, str]) -> None:
    _, data, klass, verdict = row
    view = opinion(data, demands=DEMANDS)
    assert (view.klass, view.verdict) == (klass, verdict)


def test_the_table_has_every_verdict_of_the_guard() -> None:
    guarded = {
        each for each in VERDICTS if each.startswith(("drop_token_", "drop_denied", "drop_blocked"))
    }
    assert guarded < {row[3] for row in ROWS}


def test_the_truth_table_holds_when_sources_are_policed() -> None:
    needs("root", "AF_XDP")
    with Rig() as limited:
        enter(limited)
        limited.program.set_source_police(1, 1000)
        for _, data, klass, verdict in ROWS:
            assert limited.judge(data)[1:] == (klass, verdict)


def test_the_worker_judges_frames_behind_the_first_as_the_program_does() -> None:
    guard = ffi.new("struct vk_guard *")
    for master in MASTERS.values():
        master.write(guard)
    guard.checks = sum(1 << klass for klass in ASKING)
    judged = 0
    for number, data, klass, verdict in ROWS:
        six = data[12:14] == b"\x86\xdd"
        if not verdict.startswith(("steer", "drop_token_")):
            continue
        payload = ffi.from_buffer(data[14 + (40 if six else 20) + 8 :])
        source = data[22:38] if six else data[26:30] + bytes(12)
        datagram = ffi.new("struct vk_rx_frame *", {"family": 6 if six else 4, "joined": 1})
        datagram.data, datagram.size, datagram.source = payload, len(payload), source
        found = lib.vk_tokens_check(guard, Class[klass.upper()], datagram, NOW << lib.VK_TICK_SHIFT)
        assert Verdict(found).name.lower() == verdict, number
        judged += 1
    assert judged > 30


def test_the_guard_changes_nothing_for_what_needs_no_token(rig: Rig) -> None:
    for _, data, klass, verdict in TABLE:
        expected = (klass, verdict)
        if verdict == "steer" and klass in DEMANDS.classes:
            expected = (klass, "drop_token_missing")
        assert rig.judge(data)[1:] == expected


def test_what_is_refused_costs_neither_tokens_nor_credit() -> None:
    needs("root", "AF_XDP")
    with Rig() as rig:
        enter(rig)
        rig.program.set_police(Class.DATA, 1, 2)
        rig.lanes[Class.DATA].granted = 2
        for _, data, klass, verdict in ROWS:
            if klass == "data" and verdict != "steer":
                assert rig.judge(data)[2] == verdict
        assert rig.lanes[Class.DATA].used == 0
        good = packet(SESSION, token())
        assert [rig.judge(good)[2] for _ in range(3)] == ["steer", "steer", "drop_class_rate"]


@given(
    key=st.binary(min_size=16, max_size=16),
    generation=st.integers(0, 0xFFFF),
    session=st.integers(0, 0xFFFFFFFF),
    expiry=st.integers(0, 0xFFFFFFFF),
    address=st.ip_addresses(),
)
def test_c_tags_as_the_model_does(
    key: bytes,
    generation: int,
    session: int,
    expiry: int,
    address: Address,
) -> None:
    found = Master(generation, key).token(session, expiry, address)
    mapped = address.packed if address.version == 6 else b"\0" * 10 + b"\xff" * 2 + address.packed
    covered = mapped + struct.pack("!IIHH", session, expiry, generation, 1)
    assert found.tag == siphash(key, covered)


def made(
    generation: int, session: int, expiry: int, source: Address, tail: tuple[int, bytes]
) -> bytes:
    """Return a frame with a token that would be good if the rest of it allowed."""
    expiry = known(expiry)
    lead = Session(session, 1).pack() + token(generation, expiry, session, source)
    return packet(lead, tail[1], stream=tail[0], source=str(source))


generated = st.builds(
    made,
    st.sampled_from([5, 6, 7, 8]),
    st.sampled_from([ID, OTHER, 0, 0xFFFFFFFF]) | st.integers(0, 0xFFFFFFFF),
    st.sampled_from([NOW, LATER]) | st.integers(0, 0xFFFFFFFF),
    st.ip_addresses(),
    st.tuples(
        st.sampled_from([7, 500, 2000, 20000]), st.sampled_from([b"", SEQ, SHARD, TIME + SEQ])
    ),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=generated, seed=st.integers(0, 1 << 32))
def test_generated_tokens_and_damaged_ones_are_judged_as_the_model_does(
    rig: Rig, data: bytes, seed: int
) -> None:
    compare(rig, data, seed, DEMANDS, 20)


@pytest.mark.sweep
def test_no_bit_of_a_token_its_session_or_its_source_can_be_changed(rig: Rig) -> None:
    good = packet(SESSION, token(), SEQ)
    assert rig.judge(good)[2] == "steer"
    places = [*range(26, 30), *range(70, 74), *range(82, 98)]  # source, session id, token
    for at in places:
        for bit in range(8):
            verdict = rig.judge(otherwise(good, at, 1 << bit))[2]
            assert verdict.startswith("drop_"), f"byte {at} bit {bit}: {verdict}"


def test_without_a_key_nobody_has_a_token() -> None:
    needs("root", "AF_XDP")
    with Rig() as rig:
        Guard(rig.program).demand(ASKING)
        zeros = Master(0, bytes(16)).token(ID, LATER, A).pack()
        assert rig.judge(packet(SESSION, zeros))[2] == "drop_token_generation"


def test_a_key_is_good_until_the_second_one_after_it_comes() -> None:
    needs("root", "AF_XDP")
    with Rig() as rig:
        guard = Guard(rig.program)
        guard.demand(ASKING)
        masters = [Master(0xFFFE + i, bytes((i,)) * 16) for i in range(5)]
        tokens = [packet(SESSION, each.token(ID, LATER, A).pack()) for each in masters]
        for i, master in enumerate(masters):
            guard.enter(master)
            for j, each in enumerate(tokens):
                expected = "steer" if j in (i, i - 1) else "drop_token_generation"
                assert rig.judge(each)[2] == expected, f"token {j} after key {i}"


def test_a_session_is_denied_and_allowed_again() -> None:
    needs("root", "AF_XDP")
    with Rig() as rig:
        guard = Guard(rig.program)
        data = packet(SESSION, SEQ)
        assert rig.judge(data)[2] == "steer"
        guard.deny(ID)
        assert rig.judge(data)[2] == "drop_denied"
        guard.deny(OTHER)
        guard.allow(ID)
        assert rig.judge(data)[2] == "steer"
        guard.allow(OTHER)
        guard.allow(OTHER)
        assert rig.judge(packet(Session(OTHER, 1).pack()))[2] == "steer"


def test_more_denials_than_there_is_room_for_forget_the_oldest() -> None:
    needs("root", "AF_XDP")
    with Rig() as rig:
        guard = Guard(rig.program)
        for session in range(lib.VK_DENIED_MAX + 2):
            guard.deny(session)
        verdicts = [
            rig.judge(packet(Session(each, 1).pack()))[2]
            for each in (0, 1, 2, lib.VK_DENIED_MAX + 1)
        ]
        assert verdicts == ["steer", "steer", "drop_denied", "drop_denied"]


def test_an_address_is_blocked_until_its_time_is_over_and_not_longer() -> None:
    needs("root", "AF_XDP")
    with Rig() as rig:
        guard, data = Guard(rig.program), packet(SESSION, SEQ)
        guard.block(A, tick(time.monotonic_ns()) + 2, 0)
        assert rig.judge(data)[2] == "drop_blocked"
        assert rig.judge(packet(SESSION, SEQ, source=str(B)))[2] == "steer"
        wait_until(lambda: rig.judge(data)[2] == "steer")  # nobody has ended it
        guard.block(A, LATER, NOW)
        assert rig.judge(data)[2] == "drop_blocked"
        guard.unblock(A)
        guard.unblock(A)
        assert rig.judge(data)[2] == "steer"


def test_more_blocks_than_there_is_room_for_forget_what_is_over_then_the_oldest() -> None:
    needs("root", "AF_XDP")
    with Rig() as rig:
        guard = Guard(rig.program)
        addresses = [A + each for each in range(lib.VK_BLOCKED_MAX + 2)]
        guard.block(addresses[0], LATER, NOW)
        guard.block(addresses[1], NOW + 1, NOW)
        for address in addresses[2:]:
            guard.block(address, LATER, NOW + 1)
        sources = [packet(SESSION, SEQ, source=str(addresses[each])) for each in (0, 1, 2, -1)]
        verdicts = [rig.judge(each)[2] for each in sources]
        assert verdicts == ["steer", "steer", "drop_blocked", "drop_blocked"]


def test_the_next_program_asks_the_same() -> None:
    needs("root", "AF_XDP")
    with Rig() as rig:
        enter(rig)
        with open_classifier(reuse=rig.program.maps) as following:
            for _, data, klass, verdict in ROWS:
                rig.delta()
                following.test_run(data)
                assert list(rig.delta()) == [(klass, verdict)]
