"""A planned upgrade under traffic: a new worker, a new program, nothing lost or delivered twice."""

from __future__ import annotations

import shutil
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

import valkyrie
from tests.census import needs
from tests.controlplane.test_broker import compile_library
from tests.lab import SLOWNESS, Lab, wait_until
from tests.nodes import NodeUnderTest, make_pair, running
from valkyrie.controlplane.broker import broker
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.stream import SyncStream

Pair = tuple[NodeUnderTest, NodeUnderTest]


@pytest.fixture(params=["udp", "xdp"])
def pair(lab: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two running nodes, whose worker's library is a file of the test's own."""
    library = tmp_path / "vk_worker.so"
    shutil.copy(broker.LIBRARY, library)
    nodes = make_pair(lab, tmp_path, path=request.param, library=library)
    with running(*nodes):
        yield nodes


class Traffic:
    """Numbered messages on one stream, while something else happens."""

    def __init__(self, a: NodeUnderTest, b: NodeUnderTest) -> None:
        self.sent = 0
        self.got: list[int] = []
        self._nodes = a, b
        self._ready = threading.Barrier(3)
        self._stop = threading.Event()
        self._all_sent = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=each) for each in (self._send, self._receive)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self._ready.wait(10 * SLOWNESS)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20 * SLOWNESS)
        assert not self._errors, self._errors

    def _send(self) -> None:
        try:
            with valkyrie.attach_sync(self._nodes[0].socket, name="sender") as node:
                self._ready.wait(10 * SLOWNESS)
                stream = node.connect("b").open("numbers", stream=100)
                self._send_paced(stream)
                self._all_sent.set()
                self._threads[1].join(20 * SLOWNESS)  # leaving would reset the stream
        except BaseException as error:
            self._errors.append(error)
            raise

    def _send_paced(self, stream: SyncStream) -> None:
        """Never more on the way than the kernel's smallest buffer holds: losses are not its."""
        while not self._stop.is_set():
            if self.sent - len(self.got) < 400:
                stream.send(struct.pack("<I", self.sent) + b"n" * 100)
                self.sent += 1

    def _receive(self) -> None:
        try:
            with (
                valkyrie.attach_sync(self._nodes[1].socket, name="receiver") as node,
                node.listen("numbers") as service,
            ):
                self._ready.wait(10 * SLOWNESS)
                stream = service.accept(timeout=10 * SLOWNESS)
                end = time.monotonic() + 60 * SLOWNESS
                while not self._all_sent.is_set() or len(self.got) < self.sent:
                    try:
                        message = stream.recv(timeout=0.1)
                    except TimeoutError:
                        assert time.monotonic() < end
                        continue
                    assert message is not None
                    self.got.append(struct.unpack_from("<I", message.payload)[0])
        except BaseException as error:
            self._errors.append(error)
            raise

    def flows(self) -> None:
        """Wait until some more has arrived."""
        mark = len(self.got)
        wait_until(lambda: len(self.got) > mark + 200)


def test_an_upgrade_under_traffic_loses_and_doubles_nothing(pair: Pair) -> None:
    with Traffic(*pair) as traffic:
        traffic.flows()
        for node in (*pair, *pair):
            worker, program = node.pid("worker"), node.program()
            reply = node.ask(appsocket.Upgrade(), 30)
            assert reply.code == 0, reply.message
            assert node.pid("worker") != worker
            assert bool(program) == bool(node.program())
            assert not program or node.program() != program
            traffic.flows()
    assert traffic.got == list(range(traffic.sent))
    for node in pair:
        wait_until(lambda node=node: node.status()["ledger"]["residual"] == 0)  # type: ignore[misc]
        document = node.status()
        assert document["worker"]["restarts"] == 0
        assert document["worker"]["starts"] == 3
        for census in document["census"].values():
            assert census["twice"] == 0
            assert census["total"] == census["frames"]


BROKEN = {
    "that is no library": "",
    "of another ABI": "uint32_t vk_worker_abi(void) { return 77; }",
    "that fails at once": "uint32_t vk_worker_abi(void) { return 1; }"
    " int vk_worker_run(void *boot) { (void)boot; return -5; }",
    "that crashes": "uint32_t vk_worker_abi(void) { return 1; }"
    " int vk_worker_run(void *boot) { (void)boot; __builtin_trap(); }",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_new_worker_that_does_not_run_leaves_the_old_one_in_charge(
    pair: Pair, broken: str
) -> None:
    needs("clang-19")
    a, _ = pair
    assert a.library is not None
    with Traffic(*pair) as traffic:
        traffic.flows()
        if BROKEN[broken]:
            compile_library(a.library, BROKEN[broken])
        else:
            a.library.unlink()
            a.library.write_bytes(b"not an ELF object")
        reply = a.ask(appsocket.Upgrade(), 30)
        assert reply.code == lib.VK_CODE_FAILED
        assert "the old one's library runs again" in reply.message
        traffic.flows()
    assert traffic.got == list(range(traffic.sent))
    assert a.status()["worker"]["phase"] == "running"


def test_without_a_library_nothing_is_touched(pair: Pair) -> None:
    a, _ = pair
    assert a.library is not None
    worker = a.pid("worker")
    a.library.unlink()
    reply = a.ask(appsocket.Upgrade(), 30)
    assert reply.code == lib.VK_CODE_FAILED
    assert "vk_worker.so" in reply.message
    assert a.pid("worker") == worker
