"""Captures, and what the real program says about them."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bpf.bases import TABLE
from tests.bpf.model import opinion
from tests.bpf.rig import Rig, ethernet, frame, ip4
from tests.census import NODE_PREFIX, needs
from valkyrie.dataplane import explain
from valkyrie.dataplane.explain import CaptureError, Explainer, Packet
from valkyrie.dataplane.wire import Class

DATA = ethernet(ip4(frame(0x31, 2000, b"payload")))


def capture(
    packets: Sequence[bytes], order: str = "<", magic: int = 0xA1B2C3D4, link: int = 1
) -> bytes:
    """Return a pcap file."""
    rows = [struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)]
    for i, packet in enumerate(packets):
        rows += [struct.pack(f"{order}IIII", 7, i, len(packet), len(packet)), packet]
    return b"".join(rows)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "unit"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_captures_of_both_byte_orders_and_resolutions_are_read(
    order: str, magic: int, unit: int
) -> None:
    file = io.BytesIO(capture([b"a" * 20, b"b" * 30], order, magic))
    first, second = explain.read_pcap(file, "x")
    assert (first.data, first.time_ns) == (b"a" * 20, 7_000_000_000)
    assert (second.data, second.time_ns) == (b"b" * 30, 7_000_000_000 + unit)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "ends inside the file header"),
        (b"hello, this is no capture at all", "begins with 68656c6c"),
        (b"\x0a\x0d\x0d\x0a" + bytes(40), "tcpdump -r"),
        (capture([DATA])[:-1], "ends inside packet 0"),
        (capture([DATA])[:30], "ends inside the header of packet 0"),
        (capture([DATA], link=101), "link type 101"),
        (capture([]) + struct.pack("<IIII", 0, 0, 1 << 30, 1 << 30), "damaged"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "bad.pcap"
    path.write_bytes(content)
    with pytest.raises(CaptureError, match=why):
        list(explain.read_pcap(io.BytesIO(content), str(path)))


def test_every_packet_of_the_truth_table_is_explained(tmp_path: Path) -> None:
    needs("root", "AF_XDP")
    path = tmp_path / "table.pcap"
    path.write_bytes(capture([row[1] for row in TABLE]))
    rows = list(explain.run(path))
    assert [row.index for row in rows] == list(range(len(TABLE)))
    for row, (_, packet, klass, verdict) in zip(rows, TABLE, strict=True):
        action, _, reason = verdict.partition("_")
        view = opinion(packet)
        stream = int.from_bytes(view.frame[8:12], "big") if view.frame else None
        steered = klass if action == "steer" else None
        assert (row.verdict, row.reason, row.klass, row.stream) == (
            action,
            reason,
            steered,
            stream,
        )


def test_a_packet_that_the_capture_cut_is_judged_as_it_was_on_the_wire() -> None:
    needs("root", "AF_XDP")
    packet = ethernet(ip4(frame(0x31, 20000, bytes(1000))))
    explainer = Explainer()
    try:
        cut = explainer.explain(0, Packet(0, packet[:96], len(packet)))
        assert (cut.verdict, cut.klass, cut.stream) == ("steer", "logs", 20000)
        assert explainer.explain(1, Packet(0, b"runt", 4)).reason == "short"
        assert explainer.explain(2, Packet(0, packet, 60_000)).reason == "too_large"
    finally:
        explainer.close()


def test_a_running_nodes_limits_apply_and_its_state_stays(tmp_path: Path) -> None:
    needs("root", "AF_XDP", "bpffs")
    pins = Path("/sys/fs/bpf") / f"{NODE_PREFIX}explain"
    path = tmp_path / "four.pcap"
    path.write_bytes(capture([DATA] * 4))
    pins.mkdir()
    try:
        with Rig() as node:
            node.program.pin(pins)
            node.program.set_police(Class.DATA, 1, 2)
            node.lanes[Class.JOB].granted = 0
            rows = list(explain.run(path, pins=pins))
            assert [row.document()["reason"] for row in rows] == ["", ""] + ["class_rate"] * 2
            assert {row.klass for row in rows} == {"data"}
            assert node.totals() == {}
            assert node.lanes[Class.DATA].used == 0
    finally:
        for pin in pins.iterdir():
            pin.unlink()
        pins.rmdir()
