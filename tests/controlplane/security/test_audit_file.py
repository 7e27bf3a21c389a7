"""The audit log on a disk: crashes, full disks, and who may write."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from valkyrie.controlplane.security import audit_file, audit_files
from valkyrie.controlplane.security.audit import AuditError, verify
from valkyrie.controlplane.security.audit_file import PENDING_MAX, AuditFile
from valkyrie.controlplane.security.audit_files import read_lines
from valkyrie.dataplane.errors import ConfigError, DataPlaneError

from .parties import identity

NODE = identity("node")


class Disk:
    """A disk that is full, or fails, when it is told to."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self.fails = False
        self._write, self._ftruncate = os.write, os.ftruncate
        patch.setattr(os, "write", self.write)
        patch.setattr(os, "ftruncate", self.ftruncate)

    def ftruncate(self, descriptor: int, size: int) -> None:
        if self.fails:
            raise OSError(errno.EIO, "Input/output error")
        self._ftruncate(descriptor, size)

    def write(self, descriptor: int, data: bytes) -> int:
        if self.room is None:
            return self._write(descriptor, data)
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._write(descriptor, data[: self.room])


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def events(path: Path) -> list[str]:
    import json

    lines = list(read_lines(path))
    verify(lines, NODE.card)
    return [json.loads(line)["event"] for line in lines]


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    for number in range(3):
        log = AuditFile(path, NODE)
        log.record("start", number)
        log.close()
    assert events(path) == ["start"] * 3
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("room", [0, 1, 50])
def test_a_full_disk_refuses_administration_and_lets_data_flow(
    tmp_path: Path, disk: Disk, room: int
) -> None:
    path = tmp_path / "audit.log"
    log = AuditFile(path, NODE)
    log.record("start", 0)
    disk.room = room
    with pytest.raises(DataPlaneError, match=r"Administration is refused.*Data flows on"):
        log.record("peer.add", 1)
    log.note("session.up", 2)
    log.note("session.down", 3)
    assert log.pending == 2
    assert events(path) == ["start"]
    with pytest.raises(DataPlaneError):
        log.record("peer.add", 4)
    disk.room = None
    log.record("peer.add", 5)
    assert events(path) == ["start", "session.up", "session.down", "peer.add"]
    log.close()


@pytest.mark.parametrize("room", [0, 1, 50])
def test_half_a_record_that_cannot_be_taken_back_is_before_the_next_one_is_written(
    tmp_path: Path, disk: Disk, room: int
) -> None:
    path = tmp_path / "audit.log"
    log = AuditFile(path, NODE)
    log.record("start", 0)
    whole = path.read_bytes()
    disk.room, disk.fails = room, True
    for number in range(1, 4):
        log.note("session.up", number)
        with pytest.raises(DataPlaneError, match="Administration is refused"):
            log.record("peer.add", number)
        assert path.read_bytes()[: len(whole)] == whole
        assert path.stat().st_size - len(whole) == room, "nothing is written behind it"
    disk.room = None  # there is room again, but what is half there still cannot be removed
    with pytest.raises(DataPlaneError, match="cannot be written"):
        log.flush(4)
    disk.fails = False
    log.record("peer.add", 5)
    assert events(path) == ["start", *["session.up"] * 3, "peer.add"]
    log.close()


def test_half_a_record_that_a_failing_disk_kept_is_dropped_by_who_opens_the_log_next(
    tmp_path: Path, disk: Disk
) -> None:
    path = tmp_path / "audit.log"
    log = AuditFile(path, NODE)
    log.record("start", 0)
    disk.room, disk.fails = 50, True
    with pytest.raises(DataPlaneError):
        log.record("peer.add", 1)
    log.close()
    with pytest.raises(ConfigError, match="Input/output error"):
        AuditFile(path, NODE)
    disk.room, disk.fails = None, False
    log = AuditFile(path, NODE)
    log.record("again", 2)
    log.close()
    assert events(path) == ["start", "again"]


def test_notes_that_are_lost_are_counted_in_the_log(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "audit.log"
    log = AuditFile(path, NODE)
    disk.room = 0
    for number in range(PENDING_MAX + 5):
        log.note("session.up", number)
    assert (log.pending, log.dropped) == (PENDING_MAX, 5)
    disk.room = None
    log.record("peer.add", 0)
    found = [event for event in events(path) if event != "checkpoint"]
    assert found == ["audit.dropped", *["session.up"] * PENDING_MAX, "peer.add"]
    assert b'"count":5' in next(read_lines(path))
    assert log.dropped == 0
    log.close()


def test_a_line_that_a_crash_cut_is_dropped_and_the_chain_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = AuditFile(path, NODE)
    log.record("start", 0)
    log.record("peer.add", 1)
    log.close()
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    for cut in (0, 1, second - 1, second, second + 1, len(whole) - 1):
        path.write_bytes(whole[:cut])
        log = AuditFile(path, NODE)
        log.record("again", 2)
        log.close()
        kept = 0 if cut < second else 1
        assert events(path) == [*["start", "peer.add"][:kept], "again"]


def test_a_broken_log_is_named_and_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = AuditFile(path, NODE)
    for number in range(3):
        log.record("start", number)
    log.close()
    broken = path.read_bytes().replace(b'"time_ns":1', b'"time_ns":9')
    path.write_bytes(broken)
    with pytest.raises(AuditError, match="audit record 1: was changed") as caught:
        AuditFile(path, NODE)
    assert caught.value.record == 1
    assert path.read_bytes() == broken
    path.write_bytes(b"x" * 10_000)
    with pytest.raises(AuditError, match="too long"):
        AuditFile(path, NODE)


def test_a_log_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    AuditFile(path, NODE).close()
    path.chmod(0o620)
    with pytest.raises(ConfigError, match="chmod 600"):
        AuditFile(path, NODE)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ConfigError, match="audit log"):
        AuditFile(tmp_path / "link", NODE)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="plain file"):
        AuditFile(tmp_path / "pipe", NODE)


def test_of_a_long_log_only_the_end_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.log"
    log = AuditFile(path, NODE)
    for number in range(600):
        log.note("start", number)
        log.flush(number)
    log.close()
    monkeypatch.setattr(audit_file, "TAIL_SIZE", path.stat().st_size * 3 // 4)
    path.write_bytes(path.read_bytes().replace(b'"time_ns":1}', b'"time_ns":9}'))
    log = AuditFile(path, NODE)
    log.record("again", 0)
    log.close()
    with pytest.raises(AuditError, match="audit record 1: was changed"):
        events(path)
    path.write_bytes(path.read_bytes().replace(b'"time_ns":590}', b'"time_ns":591}'))
    with pytest.raises(AuditError, match="was changed"):
        AuditFile(path, NODE)


@pytest.mark.parametrize("number", range(4))
def test_a_disk_that_fails_while_a_log_is_opened_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "audit.log"
    log = AuditFile(path, NODE)
    log.record("start", 0)
    log.close()
    name, module = [
        ("recover", audit_files),
        ("verify", audit_file),
        ("first_of", audit_files),
        ("time_of", audit_files),
    ][number]

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(module, name, fail)
    with pytest.raises(ConfigError, match=r"cannot be opened: Input/output error: see to the disk"):
        AuditFile(path, NODE)
    assert os.listdir("/proc/self/fd") == before
