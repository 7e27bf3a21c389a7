"""The program for veth peers: loads, attaches and lets everything through."""

from __future__ import annotations

import pytest

from tests.census import needs
from tests.lab import PATIENCE, Link
from valkyrie.dataplane.loader import Program, XdpMode, attached_to

XDP_PASS = 2  # linux/bpf.h

FRAME = bytes(range(12)) + b"\x88\xb5" + bytes(50)  # an experimental EtherType, IEEE 802


@pytest.mark.parametrize("size", [14, 64])
def test_every_packet_passes_unchanged(size: int) -> None:
    needs("root")
    with Program("pass") as program:
        run = program.test_run(FRAME[:size])
    assert (run.result, run.packet, run.meta) == (XDP_PASS, FRAME[:size], b"")


@pytest.mark.parametrize("mode", list(XdpMode))
def test_an_interface_that_carries_it_receives_as_before(
    pair: tuple[Link, Link], mode: XdpMode
) -> None:
    a, b = pair
    with (
        Program("pass") as program,
        b.host.socket() as receiver,
        a.host.socket() as sender,
    ):
        link = b.host.run(program.attach, b.index, [mode])
        try:
            attached = b.host.run(attached_to, b.index)
            assert (attached.name, attached.mode) == ("vk_pass", mode)
            receiver.bind((str(b.v4.ip), 4000))
            receiver.settimeout(2 * PATIENCE)
            sender.sendto(b"through", (str(b.v4.ip), 4000))
            assert receiver.recv(100) == b"through"
        finally:
            link.close()
