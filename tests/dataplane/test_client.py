"""vk_client: what the rings' rules forbid is refused, whatever the other side writes."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dataplane.double import Channel
from tests.dataplane.native import INCLUDES, find, library
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.application.message import ENTRY_SIZE, Batch
from valkyrie.dataplane.application.refusal import NodeGoneError, PolicyError, WouldBlockError
from valkyrie.dataplane.application.rings import OVERHEAD, REASONS, Rings
from valkyrie.dataplane.errors import DataPlaneError, LocalProtocolError
from valkyrie.dataplane.wire import Class

ROOT = Path(__file__).parents[2]
JOB = Class.JOB.value
SIZE = 4096
DATA = lib.VK_RECORD_DATA
MINE = 1 << 32 | 1
"""The key of the stream that ``message`` makes messages of: generation and number of its flow."""


@pytest.fixture
def channel() -> Iterator[Channel]:
    made = Channel([SIZE] * (len(Class) - 1), 3)  # no logs
    yield made
    made.close()


@pytest.fixture
def rings(channel: Channel) -> Iterator[Rings]:
    made = Rings([*channel.memfds, channel.bell_app, channel.bell_worker], 3)
    yield made
    made.close()


KINDS = set(range(lib.VK_RECORD_KIND_COUNT))
ANSWERS = {lib.VK_RECORD_FLUSHED, lib.VK_RECORD_LIMIT}


def outlet(stream: int = 100) -> object:
    made = ffi.new("struct vk_outlet *")
    made.head.stream = stream
    return made


def message(flow: int = 1, sequence: int = 0, generation: int = 1) -> object:
    values = {"flow": flow, "flow_generation": generation, "stream": 100, "sequence": sequence}
    return ffi.new("struct vk_message *", values)


def send(rings: Rings, payload: bytes, stream: int = 100) -> int:
    return int(lib.vk_client_send(rings.client, outlet(stream), payload, len(payload)))


def test_a_worker_gone_mad_makes_the_client_read_or_write_nothing_outside(tmp_path: Path) -> None:
    program = tmp_path / "hostile"
    sources = ["client_hostile.c", "vk_client.c", "vk_inlet.c", "shm/vk_channel.c"]
    flags = ["-std=gnu11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = ["clang-19", *flags, *INCLUDES, "-o", str(program)]
    subprocess.run([*command, *(str(find(each)) for each in sources)], check=True)
    for seed in ("1", "0x5243"):
        ran = subprocess.run([str(program), seed], check=False, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        counts = [int(count) for count in ran.stdout.split()]
        assert len(counts) == 4  # received, refused, sent, reported
        assert min(counts) > 1000  # every branch was taken


def test_a_record_goes_out_as_it_was_given(channel: Channel, rings: Rings) -> None:
    assert send(rings, b"payload") == 0
    taken = channel.take(JOB)
    assert taken is not None
    kind, head, payload = taken
    assert (kind, head.stream, payload) == (DATA, 100, b"payload")


def test_a_batch_is_one_publication_and_says_how_many_fit(channel: Channel, rings: Rings) -> None:
    fits = SIZE // (OVERHEAD + 64)
    out = outlet()
    assert lib.vk_client_send_many(rings.client, out, bytes(64 * 100), ffi.NULL, 64, 100) == fits
    assert (out.sent, out.sent_bytes) == (fits, fits * 64)  # type: ignore[attr-defined]
    taken = [channel.take(JOB) for _ in range(fits)]
    assert None not in taken
    assert channel.take(JOB) is None


def write(rings: Rings, to: object, payload: bytes) -> int:
    """Call vk_client_write, which is inline and therefore in no library."""
    other, rig = library("client_rig.h", "client_rig.c", "vk_client.c", "shm/vk_channel.c")
    client, end = (
        other.cast(f"struct {name} *", int(ffi.cast("uintptr_t", each)))
        for name, each in (("vk_client", rings.client), ("vk_outlet", to))
    )
    return int(rig.client_write(client, end, payload, len(payload)))


def test_what_is_written_is_seen_when_it_is_published(channel: Channel, rings: Rings) -> None:
    out = outlet()
    for payload in (b"one", b"two"):
        assert write(rings, out, payload) == 0
    assert channel.take(JOB) is None
    assert lib.vk_client_publish(rings.client, out) == 0
    taken = [channel.take(JOB) for _ in range(2)]
    assert [(each[1].sequence, each[2]) for each in taken if each] == [(0, b"one"), (1, b"two")]
    assert (out.sent, out.sent_bytes) == (2, 6)  # type: ignore[attr-defined]


def test_who_finds_no_room_has_published_what_was_written(channel: Channel, rings: Rings) -> None:
    fits, out = SIZE // (OVERHEAD + 64), outlet()
    assert [write(rings, out, bytes(64)) for _ in range(fits)] == [0] * fits
    assert write(rings, out, bytes(64)) == -errno.EAGAIN
    assert None not in [channel.take(JOB) for _ in range(fits)]
    assert write(rings, out, bytes(SIZE)) == -errno.EMSGSIZE
    out.closed = 1  # type: ignore[attr-defined]
    assert write(rings, out, b"late") == -errno.EPIPE
    assert write(rings, outlet(lib.VK_FIRST_LOGS), b"no such class") == -errno.EACCES


def test_every_message_has_the_next_sequence(channel: Channel, rings: Rings) -> None:
    out = outlet()
    out.head.sequence = 0xFFFF_FFFE  # type: ignore[attr-defined]
    assert lib.vk_client_send(rings.client, out, b"x", 1) == 0
    sizes = ffi.new("uint32_t[]", [1, 1, SIZE])
    assert lib.vk_client_send_many(rings.client, out, b"abc", sizes, 0, 3) == 2
    assert lib.vk_client_send(rings.client, out, bytes(SIZE), SIZE) < 0
    assert rings.put(lib.VK_RECORD_CLOSE, ffi.addressof(out, "head")) == 0
    taken = [channel.take(JOB) for _ in range(4)]
    assert [each and each[1].sequence for each in taken] == [0xFFFF_FFFE, 0xFFFF_FFFF, 0, 1]


def test_a_full_ring_says_what_it_waits_for(channel: Channel, rings: Rings) -> None:
    while send(rings, bytes(512)) == 0:
        pass
    for reason, name in REASONS.items():
        channel.d.blocked[JOB] = reason
        error = rings.failure(send(rings, bytes(512)), JOB, 512)
        assert isinstance(error, WouldBlockError)
        assert error.reason == name
        assert "job" in str(error)


def test_what_can_never_go_is_an_error_at_once(rings: Rings) -> None:
    too_large = rings.failure(send(rings, bytes(SIZE)), JOB, SIZE)
    assert isinstance(too_large, LocalProtocolError)
    assert str(SIZE - OVERHEAD) in str(too_large)
    assert send(rings, bytes(SIZE - OVERHEAD)) == 0
    no_class = rings.failure(send(rings, b"", stream=10000), Class.LOGS, 0)
    assert isinstance(no_class, PolicyError)


@pytest.mark.parametrize(
    ("size", "kind", "flow"),
    [
        (ffi.sizeof("struct vk_message") - 1, DATA, 0),  # 1: no room for its descriptor
        (ffi.sizeof("struct vk_message"), lib.VK_RECORD_RAW, 0),  # 2: of another kind of channel
        (ffi.sizeof("struct vk_message"), lib.VK_RECORD_FLUSHED, 0),  # 3: of another ring
        (SIZE, DATA, 0),  # 4: longer than what was produced
        (0xFFFF_FFFF, DATA, 0),  # 5: longer than anything
        (ffi.sizeof("struct vk_message"), DATA, lib.VK_FLOWS_MAX),  # 6: no such flow
    ],
)
def test_a_malformed_record_ends_the_attachment(
    channel: Channel, rings: Rings, size: int, kind: int, flow: int
) -> None:
    record = bytes(ffi.buffer(ffi.new("struct vk_record *", {"size": size, "kind": kind})))
    channel.raw(JOB, record + bytes(ffi.buffer(message(flow))))
    error = rings.failure(rings.receive(JOB), JOB, 0)
    assert isinstance(error, NodeGoneError)
    assert "rules" in str(error)


@pytest.mark.parametrize("kind", KINDS - ANSWERS)
def test_no_message_comes_through_ring_0(channel: Channel, rings: Rings, kind: int) -> None:
    channel.put(0, kind, message(), b"")
    assert isinstance(rings.failure(rings.receive(0), JOB, 0), NodeGoneError)


@pytest.mark.parametrize("tail", [4, SIZE + 8, 1 << 63, (1 << 64) - 8])
def test_an_impossible_index_ends_the_attachment(channel: Channel, rings: Rings, tail: int) -> None:
    channel.d.tail[JOB] = tail
    assert isinstance(rings.failure(rings.receive(JOB), JOB, 0), NodeGoneError)
    channel.d.head[JOB] = tail
    assert isinstance(rings.failure(rings.room(JOB), JOB, 0), NodeGoneError)


def test_what_lies_in_the_ring_is_delivered_before_the_end_is(
    channel: Channel, rings: Rings
) -> None:
    channel.put(JOB, DATA, message(), b"last words")
    channel.d.closed = 1
    assert rings.receive(JOB) == 1
    assert isinstance(rings.failure(rings.receive(JOB), JOB, 0), NodeGoneError)
    assert isinstance(rings.failure(send(rings, b"x"), JOB, 1), NodeGoneError)


def test_a_batch_shows_the_ring_and_gives_it_back_in_order(channel: Channel, rings: Rings) -> None:
    for number in range(6):
        channel.put(JOB, DATA, message(), bytes([number]) * 10)
    first, second = rings.batch(JOB, MINE, 2), rings.batch(JOB, MINE, 4)
    assert isinstance(first, Batch)
    assert isinstance(second, Batch)
    assert [bytes(view) for view in first] == [bytes([n]) * 10 for n in (0, 1)]
    assert second[3].tobytes() == bytes([5]) * 10
    assert list(second.sizes) == [10] * 4
    assert [copy.payload[0] for copy in second.messages()] == [2, 3, 4, 5]
    assert second.payloads() == [copy.payload for copy in second.messages()]
    with pytest.raises(TypeError):
        first[0][0] = 1
    second.release()
    assert channel.a.head[JOB] == 0  # the first is still looked at
    first.release()
    assert channel.a.head[JOB] == channel.tail[JOB]


def test_a_batch_ends_before_a_message_astray(channel: Channel, rings: Rings) -> None:
    for sequence in (0xFFFF_FFFF, 0, 2, 1, 2, 2, 3):
        channel.put(JOB, DATA, message(sequence=sequence), b"")

    def run(sequence: int) -> list[int]:
        found = rings.batch(JOB, MINE, 9, sequence)
        return list(found.sequences) if isinstance(found, Batch) else []

    assert run(5) == []
    assert run(0xFFFF_FFFF) == [0xFFFF_FFFF, 0]
    assert run(1) == []
    assert run(2) == [2]
    assert run(1) == [1, 2]
    assert run(3) == []
    assert run(lib.VK_CLIENT_ANY_SEQUENCE) == [2, 3]


def test_a_batch_ends_before_a_message_of_a_former_stream_of_that_number(
    channel: Channel, rings: Rings
) -> None:
    channel.put(JOB, DATA, message(), b"mine")
    channel.put(JOB, DATA, message(generation=0), b"not mine")
    found = rings.batch(JOB, MINE, 2)
    assert isinstance(found, Batch)
    assert found.payloads() == [b"mine"]
    assert rings.batch(JOB, MINE, 2) == 0
    assert rings.receive(JOB) == 1


def test_a_report_rings_the_bell_and_says_the_sum(channel: Channel, rings: Rings) -> None:
    inlet = ffi.new("struct vk_inlet *", {"windowed": 1, "taken": {"flow": 5}})
    channel.d.sleeping = 5
    half = lib.VK_INLET_REPORT // 2
    assert lib.vk_inlet_taken(rings.client, inlet, half, 0) == 0
    assert rings.client.bells == 0
    assert lib.vk_inlet_taken(rings.client, inlet, half, 2) == 0
    assert rings.client.bells == 1
    while lib.vk_inlet_taken(rings.client, inlet, lib.VK_INLET_REPORT, 1) == 0:
        pass
    assert lib.vk_inlet_report(rings.client, inlet) == -errno.EAGAIN
    reports = channel.reports()
    assert len(reports) == SIZE // 24
    assert (reports[0].flow, reports[0].cost) == (5, 2 * half + 2 * lib.VK_MESSAGE_COST)
    assert lib.vk_inlet_report(rings.client, inlet) == 0
    assert lib.vk_inlet_report(rings.client, inlet) == 0  # nothing new: no record
    assert [report.cost for report in channel.reports()] == [inlet.taken.cost]


def test_a_view_may_outlive_the_attachment(channel: Channel) -> None:
    rings = Rings([*channel.memfds, channel.bell_app, channel.bell_worker], 3)
    channel.put(JOB, DATA, message(), b"still here")
    batch = rings.batch(JOB, MINE, 1)
    assert isinstance(batch, Batch)
    view = batch[0]
    rings.close()
    del rings, batch
    assert bytes(view) == b"still here"
    assert channel.a.closed


def test_after_its_end_an_attachment_rings_nobodys_bell(channel: Channel, rings: Rings) -> None:
    channel.d.sleeping = 1
    rings.close()
    assert isinstance(rings.failure(send(rings, b"x"), JOB, 1), NodeGoneError)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(channel.bell_worker)


def test_a_sleeper_is_rung_once_and_only_while_it_sleeps(channel: Channel, rings: Rings) -> None:
    send(rings, b"x")
    with pytest.raises(BlockingIOError):
        os.eventfd_read(channel.bell_worker)
    channel.d.sleeping = 5
    send(rings, b"x")
    send(rings, b"x")
    assert os.eventfd_read(channel.bell_worker) == 1
    assert rings.client.bells == 1


def test_arming_the_bell_looks_once_more(channel: Channel, rings: Rings) -> None:
    assert not rings.arm()
    assert channel.a.sleeping
    rings.disarm()
    channel.put(JOB, DATA, message(), b"")
    assert rings.arm()
    assert not channel.a.sleeping
    rings.pause(JOB, True)
    assert not rings.arm()  # nobody takes from that ring now


def test_waiting_ends_with_room_a_record_or_the_time(channel: Channel, rings: Rings) -> None:
    assert not rings.wait(1_000_000)
    while send(rings, bytes(512)) == 0:
        pass
    rings.need(JOB, 512)
    assert not rings.wait(0)
    channel.take(JOB)
    assert rings.wait(0)
    assert rings.satisfied(JOB)
    assert not rings.wait(0)
    channel.put(JOB, DATA, message(), b"")
    assert rings.wait(-1)


def test_regions_of_another_generation_are_not_mapped(channel: Channel) -> None:
    with pytest.raises(DataPlaneError, match="same version"):
        Rings([*channel.memfds, channel.bell_app, channel.bell_worker], 4)


def test_a_node_of_other_layouts_says_what_to_do(channel: Channel) -> None:
    channel.d.abi ^= 1
    with pytest.raises(DataPlaneError, match="install the node's version of valkyrie here"):
        Rings([*channel.memfds, channel.bell_app, channel.bell_worker], 1)


def test_a_node_without_ring_0_is_of_another_version() -> None:
    channel = Channel([0] + [SIZE] * 5, 1)
    with pytest.raises(DataPlaneError, match="same version"):
        Rings([*channel.memfds, channel.bell_app, channel.bell_worker], 1)
    channel.close()


def test_the_entry_has_no_hidden_bytes() -> None:
    assert ENTRY_SIZE == lib.VK_LINE
