"""The XDP classifier against the format and an independent model."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.bpf.bases import ONE_PER_VERDICT, TABLE, damaged
from tests.bpf.model import opinion
from tests.bpf.rig import VERDICTS, Rig, ethernet, extension, frame, ip4, ip6, meta_difference
from tests.census import needs
from valkyrie.dataplane import lib
from valkyrie.dataplane.loader import open_classifier
from valkyrie.dataplane.wire import Class, Verdict

PACKETS = {number: packet for number, packet, _, _ in TABLE}


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    needs("root", "AF_XDP")
    with Rig() as made:
        yield made


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]:02}-{row[3]}")
def test_the_truth_table_holds(rig: Rig, row: tuple[int, bytes, str, str]) -> None:
    _, packet, klass, verdict = row
    assert rig.judge(packet)[1:] == (klass, verdict)


def test_the_truth_table_holds_when_sources_are_policed() -> None:
    needs("root", "AF_XDP")
    with Rig() as limited:
        limited.program.set_source_police(1, 1000)
        for _, packet, klass, verdict in TABLE:
            run, *found = limited.judge(packet)
            assert found == [klass, verdict]
            assert not meta_difference(run, opinion(packet))


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]:02}")
def test_the_model_agrees_with_the_truth_table(row: tuple[int, bytes, str, str]) -> None:
    _, packet, klass, verdict = row
    view = opinion(packet)
    assert (view.klass, view.verdict) == (klass, verdict)


def test_the_table_has_every_verdict_of_parsing() -> None:
    policed = {"drop_class_rate", "drop_source_rate", "drop_credit", "drop_no_socket"}
    asked = ("drop_token_", "drop_cookie_", "drop_denied", "drop_blocked")
    guarded = {each for each in VERDICTS if each.startswith(asked)}
    assert {row[3] for row in TABLE} == VERDICTS - policed - guarded - {"pass_queue"}
    swept = {row[3] for row in TABLE if row[0] in ONE_PER_VERDICT}
    assert swept == {row[3] for row in TABLE}


def mutations(packet: bytes) -> Iterator[bytes]:
    """Yield every truncation and every byte set to all of its 256 values (bit flips among them)."""
    for size in range(14, len(packet)):
        yield packet[:size]
    for at in range(len(packet)):
        head, tail = packet[:at], packet[at + 1 :]
        for value in range(256):
            yield head + bytes((value,)) + tail


@pytest.mark.sweep
def test_every_mutation_of_one_packet_per_verdict_is_judged_as_the_model_does(rig: Rig) -> None:
    cases, wrong = 0, []
    rig.settle()
    for number in ONE_PER_VERDICT:
        for packet in mutations(PACKETS[number]):
            cases += 1
            if difference := rig.check(packet, opinion(packet)):
                wrong.append(f"{number}: {difference}")
    assert not wrong[:5]
    assert rig.settle(), "something was counted twice"
    assert cases >= 70_000


extensions = st.builds(
    lambda kind, words, slack: extension(kind, words)[: 4 * max(words - slack, 1)],
    st.integers(0, 9) | st.integers(0, 255),
    st.sampled_from([2, 4, 4, 3, 7, 1, 0]) | st.integers(0, 12),
    st.sampled_from([0, 0, 0, 0, 1]),
)
frames = st.builds(
    lambda kind, stream, payload, chain, over: frame(
        kind, stream, payload, b"".join(chain), **over
    ),
    st.sampled_from([0x31, 0x02, 0x00, 0x15, 0x20, 0x45]) | st.integers(0, 255),
    st.sampled_from([0, 1, 99, 100, 999, 1000, 9999, 10000]) | st.integers(0, 0xFFFFFFFF),
    st.binary(max_size=64),
    st.lists(extensions, max_size=18),
    st.fixed_dictionaries(
        {},
        optional={
            "flags": st.integers(0, 255),
            "correlation": st.integers(0, 70) | st.integers(0, 0xFFFFFFFF),
            "length": st.integers(0, 80),
            "ext": st.integers(0, 255),
            "version": st.integers(0, 3),
        },
    ),
)
datagrams = st.one_of(
    st.builds(
        ip4,
        frames,
        port=st.sampled_from([*[lib.VK_PORT] * 3, 53]),
        udp_size=st.just(0) | st.integers(0, 200),
    ),
    st.builds(ip4, frames, fragment=st.sampled_from([0, 0x4000, 0x2000])),
    st.builds(ip4, frames),
    st.builds(ip6, frames),
    st.builds(ip6, frames, protocol=st.sampled_from([17, 0, 43, 44, 60, 6])),
)
packets = st.builds(
    lambda datagram, tags, pad: ethernet(datagram, *tags) + bytes(pad),
    datagrams,
    st.lists(st.sampled_from([0x8100, 0x88A8]), max_size=3),
    st.sampled_from([0, 0, 0, 18]),
)
EDITS = 9
"""Damaged copies of every generated packet that are tried too."""


@pytest.mark.sweep
@settings(
    max_examples=2_200,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(packet=packets, seed=st.integers(0, 1 << 32))
@example(packet=PACKETS[16], seed=0)
def test_22_000_generated_packets_are_judged_as_the_model_does(
    rig: Rig, packet: bytes, seed: int
) -> None:
    rng = random.Random(seed)
    rig.settle()
    for each in (packet, *(damaged(packet, rng) for _ in range(EDITS))):
        assert not rig.check(each, opinion(each))
    assert rig.settle(), "something was counted twice"


def test_the_port_is_configuration() -> None:
    needs("root", "AF_XDP")
    with Rig(open_classifier(4433)) as other:
        assert other.judge(ethernet(ip4(frame(), port=4433)))[2] == "steer"
        assert other.judge(ethernet(ip4(frame())))[2] == "pass_port"


def test_a_class_without_a_socket_drops_and_keeps_its_credit(rig: Rig) -> None:
    packet = ethernet(ip4(frame(0x31, 5)))
    used = rig.lanes[Class.SYSTEM].used
    rig.program.maps["vk_xsks"].delete(Class.SYSTEM)
    try:
        assert rig.judge(packet)[1:] == ("system", "drop_no_socket")
    finally:
        rig.program.maps["vk_xsks"].update(Class.SYSTEM, rig.socket.fileno())
    assert rig.lanes[Class.SYSTEM].used == used
    assert rig.judge(packet)[1:] == ("system", "steer")
    assert rig.lanes[Class.SYSTEM].used == used + 1


def test_spent_credit_drops_only_its_own_class(rig: Rig) -> None:
    rig.lanes[Class.LOGS].granted = rig.lanes[Class.LOGS].used + 2
    logs, data = ethernet(ip4(frame(0x31, 20000))), ethernet(ip4(frame(0x31, 2000)))
    try:
        verdicts = [rig.judge(logs)[2] for _ in range(4)]
        assert verdicts == ["steer", "steer", "drop_credit", "drop_credit"]
        assert rig.judge(data)[2] == "steer"
        rig.lanes[Class.LOGS].granted += 1
        assert [rig.judge(logs)[2] for _ in range(2)] == ["steer", "drop_credit"]
    finally:
        rig.lanes[Class.LOGS].granted = 1 << 62


def test_credit_counts_on_when_the_numbers_wrap(rig: Rig) -> None:
    packet = ethernet(ip4(frame(0x31, 150)))
    credit = rig.lanes[Class.JOB]
    credit.used, credit.granted = (1 << 64) - 1, 1
    try:
        assert [rig.judge(packet)[2] for _ in range(3)] == ["steer", "steer", "drop_credit"]
    finally:
        credit.used, credit.granted = 0, 1 << 62


def test_every_frame_is_stamped_when_asked_to() -> None:
    needs("root", "AF_XDP")
    packet = ethernet(ip4(frame()))
    for shift, expected in ((0, 8), (2, 2), (lib.VK_SAMPLE_NEVER, 0)):
        with Rig(open_classifier(sample_shift=shift)) as other:
            stamps = [other.judge(packet)[0].meta[12:16] for _ in range(8)]
            assert sum(stamp != bytes(4) for stamp in stamps) == expected


def test_verdict_names_say_what_happens() -> None:
    assert {verdict.action for verdict in Verdict} == {"steer", "pass", "drop"}
    assert Verdict.DROP_CLASS_RATE.reason == "class_rate"
