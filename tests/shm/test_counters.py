"""The counters page: whoever may read it can, while everything runs and after it crashed."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.census import NODE_PREFIX, needs
from valkyrie.shm import counters, ffi, lib
from valkyrie.shm.counters import CountersPage
from valkyrie.shm.errors import CountersError

NODE = f"{NODE_PREFIX}counters"
SIZE = ffi.sizeof("struct vk_counters")
Change = Callable[[Any], None]


@pytest.fixture
def writer() -> Iterator[Any]:
    """The page as its writers see it."""
    fd = counters.create(NODE)
    memory = mmap.mmap(fd, SIZE)
    os.close(fd)
    data = ffi.from_buffer(memory)
    yield ffi.cast("struct vk_counters *", data)
    ffi.release(data)
    memory.close()
    counters.unlink(NODE)


def is_running(page: CountersPage) -> bool:
    return page.running  # a call: it may say something else the next time


def test_names_are_the_headers_in_lower_case() -> None:
    assert counters.COUNTERS[lib.VK_DROP_APP_RING] == "drop_app_ring"
    assert counters.GAUGES[lib.VK_WAKE_BELLS] == "wake_bells"
    assert len(counters.COUNTERS) == lib.VK_COUNTER_COUNT
    assert not [name for name in counters.GAUGES.values() if "count" in name]
    assert counters.APP_COUNTS[0] == "delivered"


def test_rows_are_told_by_their_names(writer: Any) -> None:
    writer.classes[2][lib.VK_RX_MESSAGES] = 1 << 63
    writer.gauges[lib.VK_SLEEPS] = 7
    writer.apps[3][1].refused = 9
    writer.port_count = 1
    writer.verdicts[0].interface = b"eth0".ljust(16, b"\0")
    writer.verdicts[0].packets[5][4] = 11
    with CountersPage(NODE) as page:
        assert page.class_row(2)["rx_messages"] == 1 << 63
        assert page.gauges()["sleeps"] == 7
        assert page.app_row(3, 1)["refused"] == 9
        ((interface, port),) = page.ports()
        assert (interface, port.packets[5][4]) == ("eth0", 11)
        writer.app_before[3][1].refused = 8
        assert page.app_row(3, 1)["refused"] == 1, "the others were of one before it"
        writer.gauges[lib.VK_SLEEPS] = 8
        assert page.gauges()["sleeps"] == 8, "it is the same memory"


def test_the_object_is_read_only_for_its_group_whatever_the_umask() -> None:
    before = os.umask(0)
    try:
        os.close(counters.create(NODE))
        mode = os.stat(f"/dev/shm{counters.object_name(NODE)}").st_mode
        assert stat.S_IMODE(mode) == 0o640
        os.umask(0o777)
        os.close(counters.create(NODE))
        mode = os.stat(f"/dev/shm{counters.object_name(NODE)}").st_mode
        assert stat.S_IMODE(mode) == 0o640
    finally:
        os.umask(before)
        counters.unlink(NODE)


def test_strangers_may_not_read(writer: Any) -> None:
    needs("root")
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with contextlib.suppress(BaseException):
            try:
                CountersPage(NODE)
            except CountersError as error:
                os._exit(0 if "no permission" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_it_can_be_read_after_its_writer_was_killed() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        memory = mmap.mmap(counters.create(NODE), SIZE)
        page = ffi.cast("struct vk_counters *", ffi.from_buffer(memory))
        page.classes[1][lib.VK_TX_MESSAGES] = 5
        page.daemon_pid, page.daemon_heartbeat_ns = os.getpid(), time.monotonic_ns()
        os.write(writing, b"!")
        signal.pause()
    assert os.read(reading, 1) == b"!"
    with CountersPage(NODE) as page:
        assert is_running(page)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert not is_running(page)
    with CountersPage(NODE) as page:
        assert page.class_row(1)["tx_messages"] == 5
        counters.unlink(NODE)
        assert page.class_row(1)["tx_messages"] == 5, "who has it open keeps it"
    os.close(reading)
    os.close(writing)
    with pytest.raises(CountersError, match="never started here, or was stopped"):
        CountersPage(NODE)


def test_a_heart_that_does_not_beat_is_not_running(writer: Any) -> None:
    with CountersPage(NODE) as page:
        assert not is_running(page), "no daemon yet"
        writer.daemon_pid, writer.daemon_heartbeat_ns = os.getpid(), time.monotonic_ns()
        assert is_running(page)
        writer.daemon_heartbeat_ns -= counters.HEARTBEAT_MAX_NS
        assert not is_running(page)


def wrong_abi(page: Any) -> None:
    page.abi += 1


def wrong_magic(page: Any) -> None:
    page.magic = 0


@pytest.mark.parametrize("change", [wrong_abi, wrong_magic])
def test_another_version_is_refused(writer: Any, change: Change) -> None:
    change(writer)
    with pytest.raises(CountersError, match="another version"):
        CountersPage(NODE)


def test_an_object_that_is_too_small_is_refused(writer: Any) -> None:
    os.truncate(f"/dev/shm{counters.object_name(NODE)}", SIZE - 1)
    with pytest.raises(CountersError, match="another version"):
        CountersPage(NODE)
    os.truncate(f"/dev/shm{counters.object_name(NODE)}", SIZE)


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def another_owner(path: Path) -> None:
    path.write_bytes(bytes(SIZE))
    os.chown(path, 65534, -1)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, link, another_owner])
def test_what_only_bears_the_name_is_refused(make: Callable[[Path], None]) -> None:
    needs("root")
    path = Path(f"/dev/shm{counters.object_name(NODE)}")
    make(path)
    try:
        with pytest.raises(CountersError, match="is none of a node's counters"):
            CountersPage(NODE)
    finally:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()


def test_a_new_page_begins_at_nothing(writer: Any) -> None:
    writer.gauges[0] = 5
    os.close(counters.create(NODE))
    with CountersPage(NODE) as page:
        assert page.gauges()["loops"] == 0
    counters.unlink(NODE)
    counters.unlink(NODE)
