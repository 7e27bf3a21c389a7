"""The scapy layer agrees with the views of the wire."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from valkyrie.dataplane import wire
from valkyrie.dataplane.scapy_layer import EXTENSIONS, Valkyrie, ValkyrieExtension


def test_a_scapy_frame_is_the_same_bytes() -> None:
    built = Valkyrie(
        type=wire.Type.STREAM_DATA,
        stream=2000,
        flags="EOS+URG",
        priority=60,
        extensions=[
            EXTENSIONS[wire.ExtKind.SESSION](session=7, number_low=9),
            EXTENSIONS[wire.ExtKind.SEQ](sequence=3),
            ValkyrieExtension(kind=99, body=b"12345678"),
        ],
    ) / Raw(b"payload")
    expected = wire.make_frame(
        wire.Type.STREAM_DATA,
        2000,
        b"payload",
        wire.Session(7, 9),
        wire.Seq(3),
        wire.Extension(99, 0, b"12345678"),
        flags=wire.Flag.EOS | wire.Flag.URG,
        priority=60,
    )
    assert bytes(built) == expected.pack()


def test_a_frame_is_dissected_from_its_datagram() -> None:
    frame = wire.make_frame(
        wire.Type.LOG_ENTRY, 20000, b"line", wire.Shard(1, 2, 3), wire.Extension(50)
    )
    packet = IP(bytes(IP() / UDP(sport=1, dport=wire.PORT) / frame.pack()))
    seen = packet[Valkyrie]
    assert seen.stream == 20000
    assert [extension.kind for extension in seen.extensions] == [wire.ExtKind.SHARD, 50]
    assert seen.extensions[0].last == 2
    assert bytes(seen.payload) == b"line"


@pytest.mark.parametrize("kind", list(wire.KNOWN))
def test_every_known_extension_has_a_layer_of_its_size(kind: int) -> None:
    assert len(bytes(EXTENSIONS[kind]())) == wire.KNOWN[kind].layout.size


def test_given_lengths_are_not_corrected() -> None:
    built = wire.Header.parse(bytes(Valkyrie(ext=9, length=1234)))
    assert (built.ext, built.length) == (9, 1234)
