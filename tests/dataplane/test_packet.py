"""Headers below a frame: built, found, cut and padded."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.census import needs, skip_missing
from tests.dataplane.endpoint import frame
from tests.dataplane.native import INCLUDES, find
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.wire import Class

scapy: Any = pytest.importorskip("scapy.layers.inet", reason="needs scapy: requirements.lock")
scapy6: Any = pytest.importorskip("scapy.layers.inet6", reason="needs scapy: requirements.lock")
layer2: Any = pytest.importorskip("scapy.layers.l2", reason="needs scapy: requirements.lock")

MACS = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
SOURCE_PORT = 40000
DS_FIELD = 46 << 2 | 2  # EF, ECT(0)


def build(family: int, payload: bytes) -> bytes:
    """Return the packet that vk_packet makes of a payload."""
    peer = ffi.new("struct vk_peer *")
    peer.family, peer.udp_port = family, lib.VK_PORT
    packed = bytes([10, 9, 0, 2]) if family == 4 else bytes([0xFD, 9, *[0] * 13, 2])
    peer.address[0 : len(packed)] = list(packed)
    peer.source[0 : len(packed)] = [*packed[:-1], 1]
    peer.mac[0:6] = [2, 0, 0, 0, 0, 2]
    peer.source_mac[0:6] = [2, 0, 0, 0, 0, 1]
    head = ffi.new("struct vk_packet_head *")
    lib.vk_packet_head_init(head, peer, SOURCE_PORT)
    room = ffi.new("uint8_t[]", lib.VK_HEAD_ROOM + len(payload) + 1)
    ffi.memmove(room + lib.VK_HEAD_ROOM, payload, len(payload))
    size = lib.vk_packet_head_write(head, DS_FIELD, room + lib.VK_HEAD_ROOM, len(payload))
    return bytes(ffi.buffer(room + lib.VK_HEAD_ROOM - size, size + len(payload)))


def locate(packet: bytes, meta: Any = ffi.NULL) -> bytes | None:
    """Return the frame found in a packet."""
    data = ffi.new("uint8_t[]", packet)
    found = ffi.new("struct vk_rx_frame *")
    if lib.vk_packet_locate(data, len(packet), meta, lib.VK_PORT, found):
        return None
    return bytes(ffi.buffer(found.data, found.size))


@pytest.mark.parametrize("family", [4, 6])
def test_headers_are_what_scapy_would_write(family: int) -> None:
    for size in [24, 25, 31, 64, 1399, 1400]:
        payload = bytes((7 * i + size) & 0xFF for i in range(size))
        udp = scapy.UDP(sport=SOURCE_PORT, dport=lib.VK_PORT)
        if family == 4:
            udp.chksum = 0
            ip = scapy.IP(src="10.9.0.1", dst="10.9.0.2", tos=DS_FIELD, flags="DF", id=0, ttl=64)
        else:
            ip = scapy6.IPv6(src="fd09::1", dst="fd09::2", tc=DS_FIELD, hlim=64)
        wanted = bytes(layer2.Ether(**MACS) / ip / udp / payload)
        assert build(family, payload) == wanted


def test_a_checksum_that_comes_out_as_zero_is_sent_as_ones() -> None:
    head = build(6, bytes(32))
    (checksum,) = struct.unpack("!H", head[60:62])
    zeroing = build(6, struct.pack("!H", checksum) + bytes(30))
    assert zeroing[60:62] == b"\xff\xff"


def ipv4(inside: bytes, **fields: Any) -> bytes:
    """Return IPv4 and UDP around a frame."""
    udp = scapy.UDP(sport=1, dport=fields.pop("dport", lib.VK_PORT), len=fields.pop("udp", None))
    return bytes(scapy.IP(src="10.9.0.1", dst="10.9.0.2", **fields) / udp / inside)


FRAME = frame(Class.DATA, 1)
ETHERNET = bytes(12)
TRUTH = [
    ("1 plain IPv4", ETHERNET + b"\x08\0" + ipv4(FRAME), True),
    ("2 padding behind", ETHERNET + b"\x08\0" + ipv4(FRAME) + bytes(9), True),
    ("3 one tag", ETHERNET + b"\x81\0\0\x05\x08\0" + ipv4(FRAME), True),
    ("4 two tags", ETHERNET + b"\x88\xa8\0\x05\x81\0\0\x06\x08\0" + ipv4(FRAME), True),
    ("5 three tags", ETHERNET + b"\x81\0\0\x05" * 3 + b"\x08\0" + ipv4(FRAME), False),
    ("6 another port", ETHERNET + b"\x08\0" + ipv4(FRAME, dport=53), False),
    ("7 options", ETHERNET + b"\x08\0" + ipv4(FRAME, options=[scapy.IPOption(b"\x01")]), False),
    ("8 a first fragment", ETHERNET + b"\x08\0" + ipv4(FRAME, flags="MF"), False),
    ("9 a later fragment", ETHERNET + b"\x08\0" + ipv4(FRAME, frag=8), False),
    ("10 TCP", ETHERNET + b"\x08\0" + ipv4(FRAME, proto=6), False),
    ("11 ARP", ETHERNET + b"\x08\x06" + ipv4(FRAME), False),
    ("12 UDP longer than IP", ETHERNET + b"\x08\0" + ipv4(FRAME, udp=500), False),
    ("13 IP longer than the packet", ETHERNET + b"\x08\0" + ipv4(FRAME, len=500), False),
    ("14 UDP too short", ETHERNET + b"\x08\0" + ipv4(FRAME, udp=30), False),
    ("15 no frame", ETHERNET + b"\x08\0" + ipv4(FRAME[:23]), False),
    ("16 half an Ethernet header", ETHERNET[:8], False),
    ("17 a tag cut short", ETHERNET + b"\x81\0\0", False),
]


@pytest.mark.parametrize(("packet", "found"), [row[1:] for row in TRUTH], ids=[r[0] for r in TRUTH])
def test_frames_are_found_without_metadata(packet: bytes, found: bool) -> None:
    assert locate(packet) == (FRAME if found else None)
    for size in range(len(packet)):
        assert locate(packet[:size]) in (None, FRAME)


def test_metadata_is_believed_only_as_far_as_it_fits() -> None:
    packet = TRUTH[0][1]
    good = {"magic": lib.VK_META_MAGIC, "family": 4, "l3_offset": 14, "frame_offset": 42}
    good["frame_size"] = len(FRAME)
    hidden = packet[:36] + b"\0\x35" + packet[38:]  # parsing alone would not find it
    assert locate(hidden, ffi.new("struct vk_meta *", good)) == FRAME
    for field, value in [
        ("magic", 0),
        ("family", 5),
        ("family", 6),
        ("l3_offset", 0),
        ("l3_offset", 13),
        ("frame_offset", 65535),
        ("frame_offset", 43),
        ("frame_size", 23),
        ("frame_size", len(FRAME) + 1),
        ("frame_size", 65535),
    ]:
        bad = ffi.new("struct vk_meta *", {**good, field: value})
        assert locate(hidden, bad) is None, (field, value)
        assert locate(packet, bad) == FRAME, "what does not fit is parsed"


def test_a_padded_frame_says_its_new_length_and_ends_in_zeros() -> None:
    room = ffi.new("uint8_t[]", FRAME + b"\xff" * 100)
    lib.vk_packet_pad(room, len(FRAME), len(FRAME) + 100)
    padded = bytes(ffi.buffer(room, len(FRAME) + 100))
    (length,) = struct.unpack_from("!I", padded, 12)
    assert lib.VK_HEADER_SIZE + length == len(padded)
    assert padded[lib.VK_HEADER_SIZE :] == FRAME[lib.VK_HEADER_SIZE :] + bytes(100)


def test_no_input_makes_the_parsers_leave_the_packet(tmp_path: Path) -> None:
    needs("clang-19")
    compiler = shutil.which("clang-19") or "clang-19"
    target, corpus = tmp_path / "fuzz", tmp_path / "corpus"
    flags = ["-std=gnu11", "-g", "-O1", "-fsanitize=fuzzer,address,undefined"]
    sources = [find("fuzz_packet.c"), find("vk_packet.c")]
    built = subprocess.run(
        [compiler, *flags, "-fno-sanitize-recover=all", *INCLUDES, "-o", target, *sources],
        capture_output=True,
        text=True,
        check=False,
    )
    if "libclang_rt.fuzzer" in built.stderr:
        skip_missing("libFuzzer", "scripts/setup --test installs it")
    assert built.returncode == 0, built.stderr
    corpus.mkdir()
    for number, (_, packet, _found) in enumerate(TRUTH):
        (corpus / str(number)).write_bytes(bytes(18) + packet)
    run = subprocess.run(
        [
            target,
            "-runs=200000",
            "-max_len=1600",
            "-seed=1",
            f"-artifact_prefix={tmp_path}/",
            corpus,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("field", range(4))
def test_a_mark_of_the_path_is_seen(family: int, field: int) -> None:
    packet = bytearray(build(family, bytes(64)))
    if family == 4:
        packet[15] = field
    else:
        packet[15] = field << 4
    data = ffi.new("uint8_t[]", bytes(packet))
    found = ffi.new("struct vk_rx_frame *")
    # A frame's header is looked at later: here only where it lies.
    assert lib.vk_packet_locate(data, len(packet), ffi.NULL, lib.VK_PORT, found) == 0
    assert found.ce == (field == lib.VK_CE)
