"""Descriptors that nobody asked for: whatever they are, they hold nobody up but their sender."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.census import skip_missing
from tests.controlplane.test_appserver import Server, ask, receive
from tests.lab import PATIENCE, Host, wait_until
from valkyrie.controlplane.confinement import rights
from valkyrie.dataplane.application import appsocket

LINGER_S = 60
SOON_S = 5


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """An application socket on a kernel that cannot refuse descriptors."""
    made = Server(tmp_path, refuse=False)
    made.apps.start()
    yield made
    await made.close()


class Lingering:
    """Connections of which the last descriptor takes a minute to close, or until ``release``."""

    def __init__(self, host: Host) -> None:
        self._listener = host.run(socket.create_server, ("127.0.0.1", 0))
        self._host = host
        self._peers: list[socket.socket] = []

    def make(self) -> int:
        """Return the descriptor of one."""
        end = self._host.run(socket.create_connection, self._listener.getsockname())
        self._peers.append(self._listener.accept()[0])
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
        end.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                end.send(bytes(65536))
        return end.detach()

    def send(self, client: socket.socket, packet: bytes) -> None:
        """Send one beside a packet, and keep no descriptor of it."""
        fd = self.make()
        try:
            socket.send_fds(client, [packet], [fd])
        finally:
            if rights.refused(client):
                self.release()
            os.close(fd)

    def release(self) -> None:
        """Let them be closed: their peers break off."""
        for each in (self._listener, *self._peers):
            each.close()


def closers() -> list[threading.Thread]:
    """Return the threads that are closing something."""
    return [each for each in threading.enumerate() if each.name == rights.CLOSER]


@pytest.fixture
def lingering() -> Iterator[Lingering]:
    host = Host("lingering")
    made = Lingering(host)
    try:
        yield made
    finally:
        made.release()
        wait_until(lambda: not closers(), SOON_S)
        host.close()


async def is_cut_off(client: socket.socket) -> None:
    """Wait for the end of a connection that left something unread."""
    with contextlib.suppress(ConnectionResetError):
        assert await receive(client) == b""


async def answers_soon(server: Server) -> None:
    """Check that another application is served while the first one's descriptors linger."""
    begin = time.monotonic()
    other = await server.connect()
    assert (await ask(other, appsocket.Status())).code == 0
    other.close()
    assert time.monotonic() - begin < SOON_S * PATIENCE


async def test_on_new_kernels_descriptors_cannot_be_sent(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.apps.start()
    client = await server.connect()
    if not rights.refused(server.listener):
        skip_missing("SO_PASSRIGHTS", "Linux 6.16 has it")
    with pytest.raises(PermissionError):
        socket.send_fds(client, [appsocket.encode(appsocket.Status())], [0])
    assert (await ask(client, appsocket.Status())).code == 0
    client.close()
    await server.close()


async def test_who_sends_descriptors_is_cut_off_and_counted(server: Server) -> None:
    client = await server.connect()
    await ask(client, appsocket.Status())
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(client, [appsocket.encode(appsocket.Status())], [client.fileno()] * 8)
    await is_cut_off(client)
    assert server.apps.refused["descriptors"] == 1
    wait_until(lambda: len(os.listdir("/proc/self/fd")) == before - 1)
    client.close()


async def test_a_socket_that_lingers_holds_nobody_else_up(
    server: Server, lingering: Lingering
) -> None:
    client = await server.connect()
    lingering.send(client, appsocket.encode(appsocket.Status()))
    await is_cut_off(client)
    await answers_soon(server)
    assert closers(), "it did not linger"
    assert server.apps.refused["descriptors"] == 1
    assert server.seen == [appsocket.Status()], "what came beside descriptors was answered"
    client.close()


@pytest.mark.parametrize("first", [b"", b"no request"])
async def test_one_that_is_never_looked_at_holds_nobody_up_either(
    server: Server, lingering: Lingering, first: bytes
) -> None:
    client = await server.connect()
    client.send(first)
    lingering.send(client, b"")
    await asyncio.wait_for(server.somebody_left.wait(), SOON_S * PATIENCE)
    await answers_soon(server)
    client.close()


async def test_connections_that_linger_count_as_their_users(
    server: Server, lingering: Lingering
) -> None:
    for _ in range(3):
        client = await server.connect()
        lingering.send(client, b"")
        await is_cut_off(client)
        client.close()
    begun = [await server.connect() for _ in range(64)]
    served = 0
    for client in begun:
        with contextlib.suppress(OSError):
            served += (await ask(client, appsocket.Status())).code == 0
        client.close()
    assert served == 61
