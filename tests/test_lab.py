"""The laboratory itself: what every net test stands on."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from tests.census import Census, needs
from tests.lab import PATIENCE, Lab, Link, wait_until


def test_hosts_live_in_namespaces_of_their_own(lab: Lab) -> None:
    here = os.stat("/proc/thread-self/ns/net").st_ino
    a, b = lab.host("a"), lab.host("b")
    assert len({here, a.inode, b.inode}) == 3
    assert a.run(lambda: os.stat("/proc/thread-self/ns/net").st_ino) == a.inode
    assert os.stat("/proc/thread-self/ns/net").st_ino == here


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_cross_a_wire(pair: tuple[Link, Link], version: int) -> None:
    a, b = pair
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    target = str((b.v4 if version == 4 else b.v6).ip)
    with b.host.socket(family) as receiver, a.host.socket(family) as sender:
        receiver.bind((target, 4000))
        receiver.settimeout(2 * PATIENCE)
        sender.sendto(b"hello", (target, 4000))
        assert receiver.recv(100) == b"hello"


def test_packet_sockets_see_whole_frames(pair: tuple[Link, Link]) -> None:
    a, b = pair
    frame = bytes.fromhex(b.mac.replace(":", "") + a.mac.replace(":", "") + "88b5") + b"x" * 46
    with a.host.packet_socket("vk0") as sender, b.host.packet_socket("vk0") as receiver:
        sender.send(frame)
        wait_until(lambda: receiver.recv(2000) == frame)


def test_checksums_are_complete_when_asked_for(lab: Lab) -> None:
    a, b = lab.wire(lab.host("a"), lab.host("b"), tx_checksum=False, queues=2, mtu=9000)
    with b.host.packet_socket("vk0") as receiver, a.host.socket() as sender:
        sender.sendto(b"sum", (str(b.v4.ip), 4000))
        # The kernel's own multicast reports come when they like.
        datagram = wait_until(lambda: datagram_of(receiver.recv(2000)))
    total = sum(int.from_bytes(datagram[i : i + 2], "big") for i in (12, 14, 16, 18))
    udp = datagram[20:31] + b"\0"
    total += 17 + 11 + sum(int.from_bytes(udp[i : i + 2], "big") for i in range(0, 12, 2))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


def datagram_of(frame: bytes) -> bytes:
    """Return the IPv4 packet of a UDP frame, else nothing."""
    return frame[14:] if frame[12:14] == b"\x08\x00" and frame[23] == 17 else b""


def test_a_wire_can_have_a_queueing_discipline(lab: Lab) -> None:
    a, _ = lab.wire(lab.host("a"), lab.host("b"), qdisc="pfifo")
    rows = a.host.run(lambda: list(a.host.netlink.get_qdiscs()))
    assert "pfifo" in [row.get_attr("TCA_KIND") for row in rows]


def test_processes_start_inside_and_end_with_the_host(lab: Lab) -> None:
    host = lab.host("a")
    process = host.popen(["sleep", "1000"])
    wait_until(lambda: os.stat(f"/proc/{process.pid}/ns/net").st_ino == host.inode)
    host.close()
    del lab.hosts["a"]
    assert process.returncode is not None


def test_processes_run_as_another_user(lab: Lab) -> None:
    process = lab.host("a").popen(["id", "-un"], user="nobody", stdout=subprocess.PIPE)
    assert process.communicate(timeout=5 * PATIENCE)[0] == b"nobody\n"


def test_the_census_finds_a_leaked_descriptor() -> None:
    before = Census()
    fd = os.open("/dev/null", os.O_RDONLY)
    assert any("/dev/null" in leak for leak in before.leaks([]))
    os.close(fd)
    assert before.leaks([]) == []
    before.close()


def test_the_census_finds_a_process_that_stayed(lab: Lab) -> None:
    before = Census()
    process = lab.host("a").popen(["sleep", "1000"])
    assert any(f"process {process.pid}" in leak for leak in before.leaks([]))
    before.close()


def test_the_kernel_log_tells_of_a_warning() -> None:
    needs("root", "kernel log")
    before = Census()
    with open("/dev/kmsg", "w", encoding="ascii") as log:  # a device, not a file
        log.write("<6>valkyrie test: not a WARNING: of the kernel\n")
    assert wait_until(before.log.trouble) == ["valkyrie test: not a WARNING: of the kernel"]
    before.close()
