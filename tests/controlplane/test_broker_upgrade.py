"""A planned upgrade under traffic: a new worker, a new program, nothing lost or delivered twice."""

from __future__ import annotations

import platform
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil
import pytest

import valkyrie
from tests.census import needs
from tests.controlplane.test_broker import compile_library
from tests.lab import PATIENCE, Lab, wait_until
from tests.nodes import PATIENT, NodeUnderTest, expect, make_pair, running, streams
from valkyrie import bpf
from valkyrie.controlplane.broker import broker
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.stream import SyncStream

ROOT = Path(__file__).resolve().parents[2]
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
        self._ready.wait(10 * PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20 * PATIENCE)
        assert not self._errors, self._errors

    def _send(self) -> None:
        try:
            with valkyrie.attach_sync(self._nodes[0].socket, name="sender") as node:
                self._ready.wait(10 * PATIENCE)
                stream = node.connect("b").open("numbers", stream=100)
                self._send_paced(stream)
                self._all_sent.set()
                self._threads[1].join(20 * PATIENCE)  # leaving would reset the stream
        except BaseException as error:
            self._errors.append(error)

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
                self._ready.wait(10 * PATIENCE)
                stream = service.accept(timeout=10 * PATIENCE)
                end = time.monotonic() + 60 * PATIENCE
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
    "that has no entry": "int vk_worker_other(void) { return 0; }",
    "of other layouts": f"uint32_t vk_worker_abi(void) {{ return {lib.VK_WORKER_ABI ^ 1}; }}",
    "that crashes when it is loaded": "uint32_t vk_worker_abi(void) { __builtin_trap(); }",
}
"""Libraries that are known to be of no use before anything is stopped."""

_LOADS = f"uint32_t vk_worker_abi(void) {{ return {lib.VK_WORKER_ABI}; }}"
FAILING = {
    "that fails at once": f"{_LOADS} int vk_worker_run(void *boot) {{ (void)boot; return -5; }}",
    "that crashes": f"{_LOADS} int vk_worker_run(void *boot) {{ (void)boot; __builtin_trap(); }}",
}


def replace_library(node: NodeUnderTest, source: str) -> None:
    needs("clang-19")
    assert node.library is not None
    if source:
        compile_library(node.library, source)
    else:
        node.library.unlink()
        node.library.write_bytes(b"not an ELF object")


@pytest.mark.parametrize("broken", BROKEN)
def test_a_library_of_no_use_is_refused_before_anything_stops(pair: Pair, broken: str) -> None:
    a, _ = pair
    with Traffic(*pair) as traffic:
        traffic.flows()
        worker, program = a.pid("worker"), a.program()
        replace_library(a, BROKEN[broken])
        reply = a.ask(appsocket.Upgrade(), 30)
        assert reply.code == lib.VK_CODE_FAILED
        assert "nothing has changed" in reply.message
        assert ("stop the node and start it" in reply.message) == (broken == "of other layouts")
        assert (a.pid("worker"), a.program()) == (worker, program)
        traffic.flows()
    assert traffic.got == list(range(traffic.sent))


@pytest.mark.parametrize("broken", FAILING)
def test_a_new_worker_that_does_not_run_leaves_the_old_one_in_charge(
    pair: Pair, broken: str
) -> None:
    a, _ = pair
    with Traffic(*pair) as traffic:
        traffic.flows()
        program = a.program()
        replace_library(a, FAILING[broken])
        reply = a.ask(appsocket.Upgrade(), 30)
        assert reply.code == lib.VK_CODE_FAILED
        assert "the old worker and programs run on" in reply.message
        assert a.program() == program
        traffic.flows()
    assert traffic.got == list(range(traffic.sent))
    assert a.status()["worker"]["phase"] == "running"


def offset(struct: str, field: str) -> int:
    return int(ffi.offsetof(f"struct {struct}", field))


_LATE = f"""{_LOADS}
#include <unistd.h>
int vk_worker_run(char *boot)
{{
	char *work = *(char **)(boot + {offset("vk_boot", "work")});

	*(volatile uint32_t *)(work + {offset("vk_work", "pid")}) = (uint32_t)getpid();
	usleep(500000);
	return -5;
}}
"""
"""A library whose worker has entered its process, and then fails in its start."""


def test_a_worker_runs_when_it_says_so_and_not_when_the_one_before_did(
    lab: Lab, tmp_path: Path
) -> None:
    library = tmp_path / "vk_worker.so"
    shutil.copy(broker.LIBRARY, library)
    a, b = make_pair(lab, tmp_path, library=library, extra=PATIENT)
    with running(a, b), streams(a, b) as (out, into):
        replace_library(a, _LATE)
        psutil.Process(a.pid("worker")).suspend()  # it will not say that it has stopped
        reply = a.ask(appsocket.Upgrade(), 30)
        assert reply.code == lib.VK_CODE_FAILED, reply.message
        assert "the old worker and programs run on" in reply.message
        out.send(b"still")
        expect(into, b"still")
        assert a.status()["worker"]["restarts"] == 0


OTHER_MAPS = {
    "a table of sockets of another size": ("VK_SOCKS_MAX = 14", "VK_SOCKS_MAX = 15"),
    "a table of sources of another size": ("VK_SOURCES_MAX = 16384", "VK_SOURCES_MAX = 8192"),
}


def compile_programs(directory: Path, before: str, after: str) -> None:
    """Put the programs into a directory, built from a header with something else in it."""
    source = directory / "source"
    shutil.copytree(ROOT / "bpf", source)
    header = source / "vk_maps.h"
    assert before in header.read_text()
    header.write_text(header.read_text().replace(before, after))
    system = f"/usr/include/{platform.machine()}-linux-gnu"
    flags = ["-g", "-O2", "-ffreestanding", "-target", "bpf", "-mcpu=v3", "-idirafter", system]
    for program in ("classify", "select"):
        made = directory / f"{program}.bpf.o"
        command = ["clang-19", *flags, "-c", f"{program}.bpf.c", "-o", str(made)]
        subprocess.run(command, cwd=source, check=True, timeout=60)


@pytest.mark.parametrize("change", OTHER_MAPS)
def test_programs_for_other_maps_are_refused_before_anything_stops(
    lab: Lab, tmp_path: Path, change: str
) -> None:
    needs("clang-19")
    programs = tmp_path / "programs"
    programs.mkdir()
    for program in ("classify", "select"):
        (programs / f"{program}.bpf.o").write_bytes(bpf.load(program))
    a, b = make_pair(lab, tmp_path)
    a.programs = programs
    with running(a, b), Traffic(a, b) as traffic:
        traffic.flows()
        worker = a.pid("worker")
        compile_programs(programs, *OTHER_MAPS[change])
        reply = a.ask(appsocket.Upgrade(), 30)
        assert reply.code == lib.VK_CODE_FAILED
        assert "live map" in reply.message
        assert "stop and start the node" in reply.message
        assert a.pid("worker") == worker
        traffic.flows()
    assert traffic.got == list(range(traffic.sent))


def test_without_a_library_nothing_is_touched(pair: Pair) -> None:
    a, _ = pair
    assert a.library is not None
    worker = a.pid("worker")
    a.library.unlink()
    reply = a.ask(appsocket.Upgrade(), 30)
    assert reply.code == lib.VK_CODE_FAILED
    assert "vk_worker.so" in reply.message
    assert a.pid("worker") == worker
