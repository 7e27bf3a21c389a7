"""What the classifier asks of a handshake behind its HELLO: the cookie of its source."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bpf.bases import SEQ, SESSION, TABLE
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
from tests.bpf.model import Demands, mapped, opinion
from tests.bpf.rig import VERDICTS, Rig, ethernet, extension, frame, ip4, ip6
from tests.bpf.siphash import siphash
from tests.census import needs
from valkyrie.dataplane.guard import Address, Guard, Master
from valkyrie.dataplane.loader import open_classifier
from valkyrie.dataplane.wire import Class

SENDER = 40000
"""What tests.bpf.rig sends from."""
ATTEMPT = 0x0102030405060708
DEMANDS = Demands(frozenset({"control"}), KEYS, tick=NOW)
HELLO, ACK, NEGOTIATE, CHALLENGE, RESPONSE, SUCCESS, FAILURE, EXCHANGE = (
    *(0x00, 0x01, 0x07, 0x10, 0x11, 0x12, 0x13),
    0x14,
)


def cookie(
    generation: int = 7,
    expiry: int = LATER,
    attempt: int = ATTEMPT,
    source: Address = A,
    port: int = SENDER,
) -> bytes:
    return master_of(generation).cookie(attempt, expiry, source, port)


def packet(
    kind: int,
    half: bytes,
    *chain: bytes,
    attempt: int = ATTEMPT,
    source: str = str(A),
    cut: int = 0,
    **fields: int,
) -> bytes:
    """Return a packet of a handshake; ``cut``: bytes that its payload lacks."""
    payload = struct.pack("!Q16sHH", attempt, half, 0, 7) + b"message"
    data = frame(kind, 0, payload[: len(payload) - cut], b"".join(chain), **fields)
    return ethernet((ip6 if ":" in source else ip4)(data, source=source))


ROWS: list[tuple[int, bytes, str]] = [
    # let in
    (1, packet(NEGOTIATE, cookie()), "steer"),
    (2, packet(EXCHANGE, cookie()), "steer"),
    (3, packet(RESPONSE, bytes(16)), "steer"),
    (4, packet(EXCHANGE, cookie(6)), "steer"),  # the generation before
    (5, packet(NEGOTIATE, cookie(source=A6), source=str(A6)), "steer"),
    (6, packet(EXCHANGE, cookie(expiry=0xFFFFFFFF)), "steer"),
    (7, packet(EXCHANGE, cookie(), cut=7), "steer"),  # a head and no body: for the daemon to say
    # asked of nobody who begins, or who answers
    (20, packet(HELLO, bytes(16)), "steer"),
    (21, packet(ACK, cookie(5)), "steer"),
    (22, packet(CHALLENGE, bytes(16)), "steer"),
    (23, packet(SUCCESS, bytes(16)), "steer"),
    (24, packet(FAILURE, bytes(16)), "steer"),
    (25, ethernet(ip4(frame(0x02, 0, bytes(8)))), "steer"),
    (26, ethernet(ip4(frame(0x05, 0, bytes(8)))), "steer"),
    # no place for one, or not where it belongs
    (30, ethernet(ip4(frame(NEGOTIATE, 0))), "drop_cookie_missing"),
    (31, packet(EXCHANGE, cookie(), cut=8), "drop_cookie_missing"),
    (32, packet(EXCHANGE, cookie(), cut=8) + bytes(40), "drop_cookie_missing"),  # padding
    (33, packet(NEGOTIATE, cookie(), SEQ), "drop_cookie_missing"),
    (34, packet(NEGOTIATE, cookie(), extension(99, 2)), "drop_cookie_missing"),
    # keys that are not known
    (40, packet(NEGOTIATE, bytes(16)), "drop_cookie_generation"),
    (41, packet(NEGOTIATE, cookie(5)), "drop_cookie_generation"),
    (42, packet(NEGOTIATE, cookie(8)), "drop_cookie_generation"),
    (43, packet(EXCHANGE, cookie(7 + 2**15)), "drop_cookie_generation"),
    # too late
    (50, packet(NEGOTIATE, cookie(expiry=NOW)), "drop_cookie_expired"),
    (51, packet(NEGOTIATE, cookie(expiry=0)), "drop_cookie_expired"),
    # not ours, or not for this
    (60, packet(NEGOTIATE, otherwise(cookie(), 4)), "drop_cookie_forged"),
    (61, packet(NEGOTIATE, otherwise(cookie(), 11, 0x80)), "drop_cookie_forged"),
    (62, packet(NEGOTIATE, cookie(source=B)), "drop_cookie_forged"),
    (63, packet(NEGOTIATE, cookie(), source=str(B)), "drop_cookie_forged"),
    (64, packet(NEGOTIATE, cookie(), source=str(A6)), "drop_cookie_forged"),
    (65, packet(NEGOTIATE, cookie(port=SENDER + 1)), "drop_cookie_forged"),
    (66, packet(NEGOTIATE, cookie(), attempt=ATTEMPT ^ 1), "drop_cookie_forged"),
    (67, packet(NEGOTIATE, cookie(), attempt=ATTEMPT ^ 1 << 63), "drop_cookie_forged"),
    (68, packet(NEGOTIATE, otherwise(cookie(), 0)), "drop_cookie_forged"),  # a later expiry
    (69, packet(NEGOTIATE, otherwise(cookie(), 13)), "drop_cookie_forged"),  # the other key
]
"""Number, packet of the control class, verdict."""


def enter(rig: Rig) -> Guard:
    guard = entered(rig)
    guard.demand({Class.CONTROL})
    return guard


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    needs("root", "AF_XDP")
    with Rig() as made:
        enter(made)
        yield made


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]:02}-{row[2]}")
def test_the_truth_table_holds(rig: Rig, row: tuple[int, bytes, str]) -> None:
    _, data, verdict = row
    assert rig.judge(data)[1:] == ("control", verdict)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]:02}")
def test_the_model_agrees_with_the_truth_table(row: tuple[int, bytes, str]) -> None:
    _, data, verdict = row
    view = opinion(data, demands=DEMANDS)
    assert (view.klass, view.verdict) == ("control", verdict)


def test_the_table_has_every_verdict_about_cookies() -> None:
    about = {each for each in VERDICTS if each.startswith("drop_cookie_")}
    assert about < {row[2] for row in ROWS}


def test_the_truth_table_holds_when_sources_are_policed() -> None:
    needs("root", "AF_XDP")
    with Rig() as limited:
        enter(limited)
        limited.program.set_source_police(1, 1000)
        for _, data, verdict in ROWS:
            assert limited.judge(data)[2] == verdict


def test_nothing_but_handshakes_is_asked_for_a_cookie(rig: Rig) -> None:
    for _, data, klass, verdict in TABLE:
        expected = verdict
        if verdict == "steer" and klass == "control":
            expected = opinion(data, demands=DEMANDS).verdict
        assert rig.judge(data)[1:] == (klass, expected)
    inside = frame(NEGOTIATE, 2000, b"", SESSION)  # a session's frames are of its classes
    assert rig.judge(ethernet(ip4(inside)))[1:] == ("data", "steer")


def test_what_is_refused_costs_neither_tokens_nor_credit() -> None:
    needs("root", "AF_XDP")
    with Rig() as rig:
        enter(rig)
        rig.program.set_police(Class.CONTROL, 1, 2)
        for _, data, verdict in ROWS:
            if verdict != "steer":
                assert rig.judge(data)[2] == verdict
        assert rig.lanes[Class.CONTROL].used == 0
        good = packet(NEGOTIATE, cookie())
        assert [rig.judge(good)[2] for _ in range(3)] == ["steer", "steer", "drop_class_rate"]


@given(
    key=st.binary(min_size=16, max_size=16),
    attempt=st.integers(0, 2**64 - 1),
    shorts=st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)),
    expiry=st.integers(0, 0xFFFFFFFF),
    address=st.ip_addresses(),
)
def test_c_tags_as_the_model_does(
    key: bytes, attempt: int, shorts: tuple[int, int], expiry: int, address: Address
) -> None:
    generation, port = shorts
    found = Master(generation, key).cookie(attempt, expiry, address, port)
    covered = mapped(str(address)) + struct.pack("!QIHHHH", attempt, expiry, generation, port, 2, 0)
    assert found == struct.pack("!IQHH", expiry, siphash(key, covered), generation, 0)


def made(kind: int, generation: int, expiry: int, attempt: int, source: Address) -> bytes:
    """Return a packet with a cookie that would be good if the rest of it allowed."""
    half = cookie(generation, known(expiry), attempt, source)
    return packet(kind, half, attempt=attempt, source=str(source))


generated = st.builds(
    made,
    st.sampled_from([NEGOTIATE, EXCHANGE, RESPONSE, NEGOTIATE, HELLO, FAILURE]),
    st.sampled_from([5, 6, 7, 8]),
    st.sampled_from([NOW, LATER]) | st.integers(0, 0xFFFFFFFF),
    st.integers(0, 2**64 - 1),
    st.ip_addresses(),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=generated, seed=st.integers(0, 1 << 32))
def test_generated_cookies_and_damaged_ones_are_judged_as_the_model_does(
    rig: Rig, data: bytes, seed: int
) -> None:
    compare(rig, data, seed, DEMANDS, 8)


@pytest.mark.sweep
def test_no_bit_of_a_cookie_its_attempt_or_its_source_can_be_changed(rig: Rig) -> None:
    good = packet(NEGOTIATE, cookie())
    assert rig.judge(good)[2] == "steer"
    head = 14 + 20 + 8 + 24
    for at in (*range(26, 30), *range(34, 36), *range(head, head + 22)):
        for bit in range(8):
            verdict = rig.judge(otherwise(good, at, 1 << bit))[2]
            assert verdict.startswith("drop_"), f"byte {at} bit {bit}: {verdict}"


def test_without_a_key_nobody_has_a_cookie() -> None:
    needs("root", "AF_XDP")
    with Rig() as rig:
        Guard(rig.program).demand({Class.CONTROL})
        zeros = Master(0, bytes(16)).cookie(ATTEMPT, LATER, A, SENDER)
        assert rig.judge(packet(NEGOTIATE, zeros))[2] == "drop_cookie_generation"
        assert rig.judge(packet(HELLO, bytes(16)))[2] == "steer"


def test_a_token_is_no_cookie() -> None:
    needs("root", "AF_XDP")
    with Rig() as rig:
        enter(rig)
        tag = MASTERS[7].token(0x01020304, LATER, A).tag
        assert rig.judge(packet(NEGOTIATE, struct.pack("!IQHH", LATER, tag, 7, 0)))[2] == (
            "drop_cookie_forged"
        )


def test_the_next_program_asks_the_same() -> None:
    needs("root", "AF_XDP")
    with Rig() as rig:
        enter(rig)
        with open_classifier(reuse=rig.program.maps) as following:
            for _, data, verdict in ROWS:
                result = following.test_run(data).result
                assert result == (4 if verdict == "steer" else 1)
