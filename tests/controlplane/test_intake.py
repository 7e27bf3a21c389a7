"""What the worker has for the daemon: all of it, soon, and in heaps when there is much."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter

from valkyrie.controlplane.daemon.intake import Intake, Turns
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.wire import Type, make_frame

HEAD = bytes(ffi.sizeof("struct vk_control_frame"))


def test_a_few_turns_are_at_once_and_a_crowd_waits() -> None:
    turns = Turns()
    waits = [turns.taken(100 + 0.001 * number) for number in range(20)]
    assert waits == [0.0] * 7 + [Turns.pause_s] * 13
    assert turns.taken(100 + Turns.window_s) == 0.0, "later, all is forgotten"


def test_a_crowd_has_few_turns_a_second() -> None:
    turns, now_s, count = Turns(), 100.0, 0
    while now_s < 110:
        now_s += turns.taken(now_s) or 0.0005
        count += 1
    assert count < 10 * 130


def test_the_worker_is_told_whom_to_ask_and_not_waited_for() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        intake = Intake(ours, lambda _packet: None, Counter())
        for index in range(10_000):
            intake.ask(index)
        packet = theirs.recv(1024)
    head = ffi.from_buffer("struct vk_control_frame *", packet)
    assert len(packet) == len(HEAD)
    assert (head.kind, head.peer) == (lib.VK_CONTROL_ASK, 0)


def test_nothing_is_lost_when_there_is_more_than_a_turn_takes() -> None:
    async def run() -> tuple[list[bytes], Counter[str]]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        found: list[bytes] = []
        done = asyncio.Event()

        def receive(packet: bytes) -> None:
            found.append(packet)
            if packet == HEAD:
                done.set()

        counts: Counter[str] = Counter()
        sent = [HEAD + make_frame(Type.HELLO, 0, b"%d" % number).pack() for number in range(100)]
        with ours, theirs:
            Intake(ours, receive, counts).start()
            for each in (*sent, HEAD + b"?", HEAD):
                theirs.send(each)
            await asyncio.wait_for(done.wait(), 10)
            asyncio.get_running_loop().remove_reader(ours)
        assert found == [*sent, HEAD + b"?", HEAD]
        return found, counts

    _, counts = asyncio.run(run())
    assert counts == {"hello": 100, "malformed": 1}
