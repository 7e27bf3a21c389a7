"""An audit log in several files: it is one chain, whatever dies while they change places."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security import audit_files
from valkyrie.controlplane.security.audit import AuditError, Head
from valkyrie.controlplane.security.audit_file import AuditFile
from valkyrie.controlplane.security.audit_files import archive, archived, following, verify_all
from valkyrie.dataplane.errors import DataPlaneError

from .parties import identity

NODE = identity("node")
CARD = NODE.card


def rotate(log: AuditFile, path: Path, keep: int = 0, now_ns: int = 0) -> None:
    """Do what daemon and broker do together."""
    first = log.first
    descriptor = audit_files.make_next(path)
    try:
        log.go_on(descriptor, audit_files.first_kept(path, first, keep), now_ns)
    except BaseException:
        os.close(descriptor)
        raise
    audit_files.give_way(path, first, keep)


def written(path: Path, files: int = 4, keep: int = 0) -> AuditFile:
    """Return a log of so many files, each with two records of ours."""
    log = AuditFile(path, NODE)
    for number in range(files):
        if number:
            rotate(log, path, keep)
        for at in range(2):
            log.record("peer.add", number, peer=f"p{number}", at=at)
    return log


def peers(path: Path) -> list[tuple[Any, Any]]:
    """Return our records in all files, which are whole."""
    verify_all(path, CARD)
    lines = itertools.chain.from_iterable(map(audit_files.read_lines, audit_files.parts(path)))
    fields = [
        record["fields"] for record in map(json.loads, lines) if record["event"] == "peer.add"
    ]
    return [(each["peer"], each["at"]) for each in fields]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_the_chain_goes_on_in_the_next_file_and_names_the_one_before(path: Path) -> None:
    log = written(path, 3)
    names = [each.name for each in audit_files.parts(path)]
    assert names == ["audit-000000000000.jsonl", "audit-000000000003.jsonl", "audit.jsonl"]
    first = json.loads(path.read_bytes().splitlines()[0])
    assert first["event"] == "audit.continue"
    assert first["fields"] == {"file": names[1], "hash": first["previous"]}
    assert peers(path) == [(f"p{number}", at) for number in range(3) for at in range(2)]
    log.close()
    again = AuditFile(path, NODE)
    assert (again.head.count, again.first) == (log.head.count, log.first)
    again.close()


def test_each_file_but_the_last_ends_with_a_signed_checkpoint(path: Path) -> None:
    written(path).close()
    for file in archived(path).values():
        assert json.loads(file.read_bytes().splitlines()[-1])["event"] == "checkpoint"


def test_every_changed_byte_of_every_file_is_found(path: Path) -> None:
    written(path, 3).close()
    for file in audit_files.parts(path):
        whole = file.read_bytes()
        for at in range(0, len(whole), 7):
            changed = bytearray(whole)
            changed[at] ^= 1
            file.write_bytes(changed)
            with pytest.raises(AuditError) as caught:
                verify_all(path, CARD)
            assert caught.value.file == file.name
        file.write_bytes(whole)
    verify_all(path, CARD)


def test_a_file_that_is_missing_is_named(path: Path) -> None:
    written(path).close()
    for number, file in archived(path).items():
        data = file.read_bytes()
        file.unlink()
        with pytest.raises(AuditError, match="is missing") as caught:
            verify_all(path, CARD)
        if number:
            assert file.name in str(caught.value)
            assert caught.value.record == number
        else:
            assert "audit-000000000003.jsonl" in str(caught.value)
        file.write_bytes(data)
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(AuditError, match=r"no file audit\.jsonl"):
        verify_all(path, CARD)


def test_what_the_node_removes_is_not_missing_and_what_it_did_not_is(path: Path) -> None:
    written(path, 5, keep=2).close()
    assert len(archived(path)) == 2
    reader = verify_all(path, CARD)
    assert reader.first == reader.removed == min(archived(path))
    min(archived(path).items())[1].unlink()
    with pytest.raises(AuditError, match="did not remove"):
        verify_all(path, CARD)


def test_a_removal_that_nobody_signed_does_not_count(path: Path) -> None:
    log = written(path, 2)
    forged = AuditFile(path.with_name("forged.jsonl"), identity("other"))
    lines = forged._log.go_on("x", 3, 0)
    forged.close()
    log.close()
    archived(path)[0].unlink()
    with path.open("ab") as file:
        file.writelines(lines)
    with pytest.raises(AuditError):
        verify_all(path, CARD)


def test_files_may_be_compressed_and_damage_is_found_there_too(path: Path) -> None:
    written(path).close()
    for file in archived(path).values():
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert len(peers(path)) == 8
    log = AuditFile(path, NODE)
    rotate(log, path, keep=1)
    log.close()
    assert [each.name for each in archived(path).values()] == ["audit-000000000013.jsonl"]
    verify_all(path, CARD)


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)
@given(data=st.binary(max_size=200), name=st.sampled_from(["next", "old", "gz", "log"]))
def test_any_bytes_in_place_of_a_file_are_refused_or_ignored(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    written(path, 2).close()
    file = {
        "next": following(path),
        "old": archive(path, 0),
        "gz": archive(path, 0).with_name(f"{archive(path, 0).name}.gz"),
        "log": path,
    }[name]
    if name == "gz":
        archive(path, 0).unlink()
    file.write_bytes(data)
    if name == "next":
        assert len(peers(path)) == 4
        AuditFile(path, NODE).close()
        assert not file.exists()
        return
    if name == "log" and not data:
        return
    with pytest.raises(AuditError):
        verify_all(path, CARD)


def test_a_kept_head_tells_of_a_log_that_was_written_anew(path: Path) -> None:
    log = written(path, 2)
    kept = log.head
    log.close()
    verify_all(path, CARD, kept=kept)
    with pytest.raises(AuditError, match="there before"):
        verify_all(path, CARD, kept=Head(kept.count, "0" * 64))
    with pytest.raises(AuditError, match="records once"):
        verify_all(path, CARD, kept=Head(kept.count + 1, "0" * 64))


def test_a_log_is_due_when_it_is_large_or_old_and_never_while_it_is_empty(path: Path) -> None:
    log = AuditFile(path, NODE)
    assert not log.is_due(10**18, 1, 1)
    log.record("start", 1000)
    assert log.is_due(1000, 1, 0)
    assert not log.is_due(1000, 1 << 20, 0)
    assert log.is_due(1010, 0, 10)
    assert not log.is_due(1009, 0, 10)
    assert not log.is_due(0, 0, 10)  # the clock was set back
    rotate(log, path, now_ns=2000)
    assert not log.is_due(2009, 0, 10)
    log.close()
    log = AuditFile(path, NODE)
    assert log.is_due(2010, 0, 10)
    log.close()


def test_a_log_that_was_moved_away_begins_anew_behind_the_files_that_are_there(path: Path) -> None:
    log = written(path, 2)
    log.close()
    path.unlink()
    log = AuditFile(path, NODE)
    log.note("peer.add", 7, peer="new", at=0)
    log.flush(7)
    log.close()
    assert peers(path) == [("p0", 0), ("p0", 1), ("new", 0)]
    log = AuditFile(path, NODE)
    assert log.first == 3
    log.close()


@pytest.mark.parametrize("step", ["write", "fsync"])
def test_a_disk_that_is_full_leaves_the_log_where_it_is(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    log = written(path, 1)
    descriptor = audit_files.make_next(path)
    real: Callable[..., Any] = getattr(os, step)

    def full(file: int, *data: bytes) -> Any:
        if file == descriptor:
            raise OSError(28, "No space left on device")
        return real(file, *data)

    monkeypatch.setattr(os, step, full)
    with pytest.raises(DataPlaneError, match="cannot be written"):
        log.go_on(descriptor, 0, 0)
    monkeypatch.undo()
    os.close(descriptor)
    assert len(peers(path)) == 2
    log.record("peer.add", 1, peer="more", at=0)
    rotate(log, path)
    log.record("peer.add", 1, peer="more", at=1)
    assert len(peers(path)) == 4
    log.close()


def test_a_step_that_is_asked_for_again_changes_nothing(path: Path) -> None:
    log = written(path, 2)
    first = log.first
    rotate(log, path)
    before = [each.name for each in audit_files.parts(path)]
    audit_files.give_way(path, first, 0)
    assert [each.name for each in audit_files.parts(path)] == before
    log.record("peer.add", 9, peer="behind", at=0)
    assert peers(path)[-1] == ("behind", 0)
    with pytest.raises(FileNotFoundError):
        audit_files.give_way(path, log.first, 0)  # nothing is there to go on in
    log.close()


# ---- Death ----

STEPS = ("open", "write", "fsync", "ftruncate", "rename", "unlink")
"""What changes files. A process dies before each of these, and in the middle of a write."""


def die_at(step: int, cut: bool, work: Callable[[], object]) -> bool:
    """Run work in a process that is killed at a step; says whether it came so far."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    count = itertools.count()

    def watched(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if next(count) == step:
                if cut and name == "write":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    try:
        for name in STEPS:
            setattr(os, name, watched(name))
        work()
    finally:
        os._exit(0)


@pytest.mark.parametrize("cut", [False, True])
def test_who_dies_between_any_two_steps_leaves_a_log_that_verifies(
    tmp_path: Path,
    cut: bool,
) -> None:
    died = 0
    for step in itertools.count():
        path = tmp_path / f"{step}" / "audit.jsonl"
        path.parent.mkdir()
        before = written(path, 3, keep=2)

        def work(log: AuditFile = before, path: Path = path) -> None:
            rotate(log, path, keep=2)
            log.record("peer.add", 9, peer="behind", at=0)
            rotate(log, path, keep=2)

        killed = die_at(step, cut=cut, work=work)
        before.close()
        if not cut:
            assert {("p2", 0), ("p2", 1)} <= set(peers(path))  # as it was left
        second = AuditFile(path, NODE)
        second.record("peer.add", 10, peer="next", at=0)
        assert peers(path)[-1] == ("next", 0)
        rotate(second, path, keep=2)
        second.record("peer.add", 11, peer="last", at=0)
        second.close()
        assert peers(path)[-1] == ("last", 0)
        assert len(archived(path)) == 2
        assert not following(path).exists()
        if not killed:
            break
        died += 1
    assert died > 15


def test_who_dies_while_it_recovers_leaves_a_log_that_recovers(tmp_path: Path) -> None:
    for outer, inner in itertools.product(range(30), range(6)):
        path = tmp_path / f"{outer}-{inner}" / "audit.jsonl"
        path.parent.mkdir()
        log = written(path, 2)
        die_at(outer, cut=False, work=partial(rotate, log, path))
        log.close()
        die_at(inner, cut=False, work=partial(AuditFile, path, NODE))
        AuditFile(path, NODE).close()
        assert len(peers(path)) == 4
