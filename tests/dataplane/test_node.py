"""Attaching, listening, connecting, opening; what happens when somebody says no or dies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import valkyrie
from tests.dataplane.double import DoubleNode, Fabric


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    made = Fabric(tmp_path)
    yield made
    made.close()


@pytest.fixture
def nodes(fabric: Fabric) -> tuple[DoubleNode, DoubleNode]:
    left, right = fabric.nodes
    return left, right


Nodes = tuple[DoubleNode, DoubleNode]


async def test_a_message_crosses_and_its_reply_comes_back(nodes: Nodes) -> None:
    async with valkyrie.attach(nodes[0].path) as left, valkyrie.attach(nodes[1].path) as right:
        service = await right.listen("echo")

        async def serve() -> None:
            async for stream in service:
                async for message in stream:
                    await stream.send(message.payload.upper())
                return

        server = asyncio.create_task(serve())
        peer = await left.connect("right")
        stream = await peer.open("echo", stream=100)
        await stream.send(b"hello")
        message = await stream.recv(timeout=5)
        assert message is not None
        assert (message.payload, message.stream, message.sequence) == (b"HELLO", 100, 0)
        await stream.close()
        await asyncio.wait_for(server, 5)


def test_a_message_crosses_between_synchronous_applications(nodes: Nodes) -> None:
    with valkyrie.attach_sync(nodes[1].path) as right, right.listen("echo") as service:

        def client() -> None:
            with valkyrie.attach_sync(nodes[0].path) as left:
                stream = left.connect("right").open("echo", cls="job")
                assert stream.id == 100
                assert stream.request(b"hello", timeout=5).payload == b"HELLO"
                stream.close()

        thread = threading.Thread(target=client)
        thread.start()
        stream = service.accept(timeout=5)
        for message in stream:
            stream.reply(message, message.payload.upper())
        stream.close()
        thread.join(5)
        assert not thread.is_alive()
