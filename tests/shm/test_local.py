"""shm/local.py: two applications meet, and nobody else comes in."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import valkyrie
from tests.lab import wait_until
from valkyrie.shm import local
from valkyrie.shm.errors import RingError
from valkyrie.shm.ring import Channel


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[Channel, Channel]]:
    listener = local.serve(str(tmp_path / "meet"), ring_size=65536)
    found: list[Channel] = []
    thread = threading.Thread(target=lambda: found.append(listener.accept(5)))
    thread.start()
    near = local.connect(str(tmp_path / "meet"))
    thread.join()
    listener.close()
    yield near, found[0]
    near.close()
    found[0].close()


def test_what_one_end_sends_the_other_receives(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    for size in (0, 1, 7, 8, 9, 63, 64, 65, 4096):
        assert near.send(bytes(size))
        assert far.recv() == bytes(size)
        assert far.send(b"x" * size)
        assert near.recv() == b"x" * size
    assert near.recv() is None


def test_messages_stay_whole_and_in_order_around_the_ring(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    sent = received = 0
    for round_number in range(400):
        burst = [n.to_bytes(4, "big") * (n % 50) for n in range(sent, sent + round_number % 90)]
        sent += near.send_many(burst)
        with far.recv_many() as batch:
            for view in batch:
                assert bytes(view) == received.to_bytes(4, "big") * (received % 50)
                received += 1
    while (message := far.recv()) is not None:
        assert message == received.to_bytes(4, "big") * (received % 50)
        received += 1
    assert received == sent


def test_a_full_ring_takes_nothing_and_loses_nothing(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    went = near.send_buffer(bytes(120) * 2000, 120)
    assert went == near.capacity // 128
    assert not near.send(b"more")
    assert not near.wait(0.01, room=120)
    with far.recv_many() as batch:
        assert len(batch) == went
        assert batch.copy() == [bytes(120)] * went
    assert near.wait(1, room=120)
    assert near.send(b"more")
    assert far.recv() == b"more"


def test_a_waiter_is_woken(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    assert not far.wait(0.01)
    thread = threading.Thread(target=lambda: near.send(b"wake up"))
    thread.start()
    assert far.wait(5)
    thread.join()
    assert far.recv() == b"wake up"


async def test_a_waiter_in_an_event_loop_is_woken(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    thread = threading.Thread(target=lambda: near.send(b"wake up"))
    thread.start()
    await far.wait_async()
    thread.join()
    assert far.recv() == b"wake up"


def test_a_closed_end_is_seen_and_what_it_sent_still_comes(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    near.send(b"last words")
    near.close()
    wait_until(lambda: far.closed_by_peer)
    assert far.recv() == b"last words"


def test_another_uid_is_refused(tmp_path: Path) -> None:
    listener = local.serve(str(tmp_path / "meet"), allowed_uids={os.getuid() + 1})
    caught: list[Exception] = []

    def accept() -> None:
        try:
            listener.accept(5)
        except RingError as error:
            caught.append(error)

    thread = threading.Thread(target=accept)
    thread.start()
    with pytest.raises((RingError, OSError)):
        local.connect(str(tmp_path / "meet"), timeout_s=2)
    thread.join()
    listener.close()
    assert caught


def test_descriptors_that_are_no_sealed_regions_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "fake")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(path)
        server.listen()

        def serve() -> None:
            caller, _ = server.accept()
            with caller:
                fds = [os.memfd_create("fake") for _ in range(2)]
                socket.send_fds(caller, [b"valkyrie ring 2"], fds)
                for fd in fds:
                    os.close(fd)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(RingError):
            local.connect(path)
        thread.join()


def test_the_public_name_is_this_module() -> None:
    assert valkyrie.local is local
