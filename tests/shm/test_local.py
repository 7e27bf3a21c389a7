"""Two applications meet and share a ring; a hostile one breaks only the channel it shares."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import valkyrie
from tests.aside import aside
from tests.census import skip_missing
from valkyrie.shm import (
    RingClosedError,
    RingError,
    Server,
    connect,
    ffi,
    lib,
    local,
    serve,
)
from valkyrie.shm.local import _HELLO

SIZE = 4096


@pytest.fixture(params=["path", "abstract"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = f"valkyrie-test-{os.getpid()}"
    return str(tmp_path / "ring") if request.param == "path" else f"@{name}"


@contextlib.contextmanager
def served(path: str, client: Callable[[], None]) -> Iterator[Server]:
    """A server here, and a client in a process of its own that must end well."""
    with serve(path, ring_size=SIZE) as server:
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                client()
                status = 0
            os._exit(status)
        try:
            yield server
        finally:
            assert os.waitpid(child, 0)[1] == 0, "the client failed"


def test_two_processes_meet_and_talk_both_ways(place: str) -> None:
    def client() -> None:
        with connect(place) as channel:
            assert channel.peer == (os.getppid(), os.getuid(), os.getgid())
            assert channel.send(b"ping")
            assert channel.recv(10) == b"pong"

    with served(place, client) as server, server.accept(10) as channel:
        assert channel.peer is not None
        assert channel.peer[1:] == (os.getuid(), os.getgid())
        assert channel.recv(10) == b"ping"
        assert channel.send(b"pong")
        with pytest.raises(RingClosedError):
            channel.recv(10)


def test_a_server_takes_one_after_the_other_and_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    with serve(str(path), ring_size=SIZE) as server:
        assert stat.S_ISSOCK(path.stat().st_mode)
        for number in range(3):
            with ThreadPoolExecutor() as pool:
                made = pool.submit(connect, str(path))
                channel = server.accept(10)
            channel.send(b"%d" % number)
            assert made.result().recv(10) == b"%d" % number
            channel.close()
            made.result().close()
        with pytest.raises(TimeoutError):
            server.accept(0.01)
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        connect(str(path))


def test_who_is_not_allowed_is_refused_on_both_sides(tmp_path: Path) -> None:
    path = str(tmp_path / "ring")
    with serve(path, ring_size=SIZE, allowed_uids={os.getuid() + 1}) as server:
        refused: list[BaseException] = []

        def client() -> None:
            try:
                connect(path)
            except RingError as error:
                refused.append(error)

        none_of_them = f"uid {os.getuid()} is none of the users"
        with aside(client), pytest.raises(RingError, match=none_of_them):
            server.accept(10)
        assert "refused" in str(refused[0])
        with pytest.raises(RingError, match="none of the users"):
            connect(path, allowed_uids=())


@pytest.mark.parametrize("size", [0, -1, 5000, 1 << 40])
def test_an_impossible_ring_size_is_named(tmp_path: Path, size: int) -> None:
    path = str(tmp_path / "ring")
    with (
        serve(path, ring_size=size) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller,
    ):
        caller.connect(path)
        with pytest.raises(RingError, match="no ring of"):
            server.accept(10)


def test_regions_that_were_handed_over_can_neither_shrink_nor_be_forged(tmp_path: Path) -> None:
    path = str(tmp_path / "ring")
    with (
        serve(path, ring_size=SIZE) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller,
    ):
        caller.connect(path)
        channel = server.accept(10)
        _, (own, other), _, _ = socket.recv_fds(caller, 64, 2)
        for fd in (own, other):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, 0)
        capacity = ffi.new("uint32_t[]", lib.VK_RINGS_MAX)
        assert lib.vk_channel_check(other, 1, capacity, ffi.NULL) == 0
        assert lib.vk_channel_map(other, capacity, 1, ffi.NULL) == ffi.NULL
        with pytest.raises(PermissionError):
            os.pwrite(other, b"forged", lib.VK_SHM_PAGE)
        os.close(own)
        os.close(other)
        channel.close()


def region(
    size: int, seals: int = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW, abi: int = lib.VK_REGION_ABI
) -> int:
    capacity = ffi.new("uint32_t[]", lib.VK_RINGS_MAX)
    capacity[0] = size
    fd = int(lib.vk_channel_create(capacity, 1, 0))
    os.pwrite(fd, struct.pack("I", abi), 4)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


HOSTILE: list[tuple[str, Callable[[], tuple[bytes, list[int]]], str]] = [
    ("1 nothing to say", lambda: (b"hello", []), "no Valkyrie ring"),
    ("2 no descriptors", lambda: (_HELLO, []), "no Valkyrie ring"),
    ("3 one descriptor", lambda: (_HELLO, [region(SIZE)]), "no Valkyrie ring"),
    ("4 not sealed", lambda: (_HELLO, [region(SIZE), region(SIZE, 0)]), "be truncated"),
    ("5 two sizes", lambda: (_HELLO, [region(SIZE), region(2 * SIZE)]), "not belong"),
    ("6 two sizes", lambda: (_HELLO, [region(2 * SIZE), region(SIZE)]), "not belong"),
    (
        "7 nothing can be written",
        lambda: (
            _HELLO,
            [
                region(SIZE, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE),
                region(SIZE),
            ],
        ),
        "could not map",
    ),
    (
        "8 another version",
        lambda: (_HELLO, [region(SIZE, abi=lib.VK_REGION_ABI ^ 1), region(SIZE)]),
        "use one version on both sides",
    ),
    ("9 pipes", lambda: (_HELLO, list(os.pipe())), "be truncated"),
]


@pytest.mark.parametrize(
    ("make", "complaint"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE]
)
def test_a_hostile_server_is_refused_and_nothing_leaks(
    tmp_path: Path, make: Callable[[], tuple[bytes, list[int]]], complaint: str
) -> None:
    before = set(os.listdir("/proc/self/fd"))
    path = str(tmp_path / "ring")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(path)
        server.listen()

        def answer() -> None:
            caller, _ = server.accept()
            hello, fds = make()
            with caller:
                socket.send_fds(caller, [hello], fds)
            for fd in fds:
                os.close(fd)

        with aside(answer), pytest.raises(RingError, match=complaint):
            connect(path)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_client_that_never_reads_or_dies_costs_the_server_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "ring")

    with serve(path, ring_size=SIZE) as server:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as gone:
            gone.connect(path)
        with contextlib.suppress(RingError):
            server.accept(10).close()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
            silent.connect(path)
            with server.accept(10) as channel:
                while channel.send(bytes(100)):
                    pass
                assert channel.wait(0, room=100) is False
                silent.close()
                with pytest.raises(RingClosedError):
                    channel.recv(10)


def refused(bell: int) -> bool:
    """Whether descriptors cannot be sent by a bell."""
    with socket.socket(fileno=os.dup(bell)) as end:
        try:
            socket.send_fds(end, [b"!"], [0])
        except PermissionError:
            return True
    return False


def test_no_end_of_a_channel_is_sent_descriptors_that_it_would_have_to_close(place: str) -> None:
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if release < (6, 16):
        skip_missing("SO_PASSRIGHTS", "Linux 6.16 has it")

    def client() -> None:
        with connect(place) as channel:
            assert refused(channel._bell)
            assert channel.send(b"connected")
            assert channel.recv(10) == b"done"

    with served(place, client) as server, server.accept(10) as channel:
        assert channel.recv(10) == b"connected"
        assert refused(channel._bell)
        assert channel.send(b"done")
    here, there = local.pair(SIZE)
    with here, there:
        assert refused(here._bell)
        assert refused(there._bell)


def test_a_place_where_nobody_is_or_somebody_already_is_named(place: str) -> None:
    with pytest.raises((ConnectionRefusedError, FileNotFoundError), match="start who does first"):
        connect(place)
    with serve(place), pytest.raises(OSError, match=f"serve '{place}': .*somebody serves it"):
        serve(place)
    with pytest.raises(FileNotFoundError, match="serve '/nowhere/x': No such file"):
        serve("/nowhere/x")


def test_the_public_name_is_this_module() -> None:
    assert valkyrie.local is local
