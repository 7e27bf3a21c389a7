"""The application socket by itself: one answer each, in order, and limits for everybody."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.lab import PATIENCE
from valkyrie.controlplane.confinement import rights
from valkyrie.controlplane.daemon.appserver import (
    Answer,
    AppServer,
    Bucket,
    Connection,
    Credentials,
)
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.appsocket import AnyRequest, Reply

MALFORMED = {
    "not JSON": b"hello",
    "not an object": b"[1, 2]",
    "no operation": b"{}",
    "an unknown operation": b'{"op": "reboot"}',
    "an unknown key": b'{"op": "status", "please": true}',
    "a wrong type": b'{"op": "listen", "service": 7}',
    "too deep": b'{"op": "tune", "values": ' + b"[" * 100_000,
    "not UTF-8": b'{"op": "listen", "service": "\xff"}',
    "a value out of range": b'{"op": "attach", "ring_size": 1e400}',
}


class Server:
    """An application socket whose answers a test decides."""

    def __init__(self, directory: Path, *, refuse: bool = True) -> None:
        self.path = str(directory / "test.sock")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        if refuse:
            rights.refuse(self.listener)
        self.listener.bind(self.path)
        self.listener.listen(256)
        self.seen: list[AnyRequest] = []
        self.ended: list[Connection] = []
        self.somebody_left = asyncio.Event()
        self.big = ""
        self.apps = AppServer(self.listener, self._answer, self._ended)

    async def _answer(self, _connection: Connection, request: AnyRequest) -> Answer:
        self.seen.append(request)
        if isinstance(request, appsocket.Stop):
            raise KeyError("a mistake")
        descriptors = []
        if isinstance(request, appsocket.Attach):
            descriptors = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]
        return Reply(peer=len(self.seen), message=self.big), descriptors

    async def _ended(self, connection: Connection) -> None:
        self.ended.append(connection)
        self.somebody_left.set()

    async def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, self.path)
        return client

    async def close(self) -> None:
        await self.apps.stop()
        self.listener.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path)
    made.apps.start()
    yield made
    await made.close()


async def receive(client: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    return await asyncio.wait_for(loop.sock_recv(client, appsocket.PACKET_SIZE_MAX), 5 * PATIENCE)


async def ask(client: socket.socket, request: appsocket.Request) -> Reply:
    client.send(appsocket.encode(request))
    return appsocket.decode_reply(await receive(client))


async def test_every_request_gets_one_answer_in_order(server: Server) -> None:
    client = await server.connect()
    for _ in range(20):
        client.send(appsocket.encode(appsocket.Status()))
    answers = [appsocket.decode_reply(await receive(client)).peer for _ in range(20)]
    assert answers == list(range(1, 21))
    client.close()


@pytest.mark.parametrize("packet", MALFORMED)
async def test_a_malformed_request_gets_one_answer_and_the_end(server: Server, packet: str) -> None:
    client = await server.connect()
    client.send(MALFORMED[packet])
    reply = appsocket.decode_reply(await receive(client))
    assert reply.code == lib.VK_CODE_MALFORMED
    assert reply.message.startswith("not a request")
    assert await receive(client) == b""
    assert server.seen == []
    assert server.apps.refused["malformed"] == 1
    client.close()


async def test_a_request_that_is_too_long_is_malformed(server: Server) -> None:
    client = await server.connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    long = appsocket.encode(appsocket.Listen("x" * appsocket.PACKET_SIZE_MAX))
    with contextlib.suppress(OSError):  # the socket buffer's limit may forbid it before we can
        client.send(long)
        reply = appsocket.decode_reply(await receive(client))
        assert reply.code == lib.VK_CODE_MALFORMED
    client.close()


async def test_descriptors_of_an_answer_are_closed_here_when_they_were_sent(
    server: Server,
) -> None:
    client = await server.connect()
    await ask(client, appsocket.Status())
    before = len(os.listdir("/proc/self/fd"))
    client.send(appsocket.encode(appsocket.Attach()))
    reader = asyncio.Event()
    asyncio.get_running_loop().add_reader(client, reader.set)
    await asyncio.wait_for(reader.wait(), 5 * PATIENCE)
    asyncio.get_running_loop().remove_reader(client)
    _, descriptors, _, _ = socket.recv_fds(client, 65536, 8)
    assert len(descriptors) == 4
    assert len(os.listdir("/proc/self/fd")) == before + 4
    for fd in descriptors:
        os.close(fd)
    client.close()


async def test_a_mistake_of_the_node_is_an_answer_too(server: Server) -> None:
    client = await server.connect()
    assert (await ask(client, appsocket.Stop())).code == lib.VK_CODE_FAILED
    assert (await ask(client, appsocket.Status())).code == 0
    client.close()


async def test_who_does_not_read_its_answers_is_let_go(server: Server) -> None:
    client = await server.connect()
    server.big = "m" * 100_000
    end = asyncio.get_running_loop().time() + 10 * PATIENCE
    while not server.ended:
        assert asyncio.get_running_loop().time() < end
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            client.send(appsocket.encode(appsocket.Status()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.somebody_left.wait(), 0.001)
    assert server.apps.refused["does not read"] == 1
    client.close()


async def test_one_user_has_a_limited_number_of_connections(server: Server) -> None:
    clients = [await server.connect() for _ in range(80)]
    served = 0
    for client in clients:
        with contextlib.suppress(OSError):
            served += (await ask(client, appsocket.Status())).code == 0
    assert served == 64
    assert server.apps.refused["flood"] == 16
    for client in clients:
        client.close()


async def test_connecting_again_and_again_is_limited(server: Server) -> None:
    refused = 0
    for _ in range(200):
        client = await server.connect()
        try:
            refused += (await ask(client, appsocket.Status())).code == lib.VK_CODE_OVERLOAD
        except OSError:
            refused += 1
        client.close()
    assert refused > 50


async def test_the_end_of_a_connection_is_noticed_while_it_is_idle(server: Server) -> None:
    client = await server.connect()
    await ask(client, appsocket.Status())
    client.close()
    await asyncio.wait_for(server.somebody_left.wait(), 5 * PATIENCE)
    assert not server.apps.connections


async def test_without_descriptors_nobody_is_accepted_and_no_core_is_burnt(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    client = await server.connect()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.dup(client.fileno())  # the lowest number that is free
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, limits[1]))
    try:
        for _ in range(100):  # turns of the loop
            turn = asyncio.get_running_loop().create_future()
            turn.get_loop().call_soon(turn.set_result, None)
            await turn
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [each.message for each in caplog.records] == [
        f"an application cannot be accepted: {os.strerror(errno.EMFILE)}"
    ]
    assert (await ask(client, appsocket.Status())).peer == 1
    client.close()


async def test_the_kernel_says_who_is_there(server: Server) -> None:
    client = await server.connect()
    await ask(client, appsocket.Status())
    (connection,) = server.apps.connections
    assert connection.who.pid == os.getpid()
    assert connection.who.uid == os.getuid()
    assert {os.getgid(), *os.getgroups()} == connection.who.gids
    assert isinstance(connection.who, Credentials)
    client.close()


BUCKETS = [
    # rate, burst, seconds of each request -> seconds to wait
    (1.0, 1.0, [0, 0, 0], [0, 1, 2]),
    (10.0, 2.0, [0, 0, 0, 1], [0, 0, 0.1, 0]),
    (10.0, 1.0, [0, 100, 100], [0, 0, 0.1]),
]


@pytest.mark.parametrize(("rate", "burst", "times", "waits"), BUCKETS)
def test_a_bucket_fills_at_its_rate_and_no_further_than_its_burst(
    rate: float, burst: float, times: list[float], waits: list[float]
) -> None:
    bucket = Bucket(rate, burst, 0.0)
    assert [bucket.take(now_s) for now_s in times] == pytest.approx(waits)
