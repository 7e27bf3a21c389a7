"""What a node puts on record: how much, what becomes of it on a full disk, and who may read it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import valkyrie
from tests.lab import SOON_S, Lab, wait_until
from tests.nodes import NodeUnderTest, make_pair, running
from valkyrie.controlplane.cli import run
from valkyrie.controlplane.config.reader import parse
from valkyrie.controlplane.daemon import auditor
from valkyrie.controlplane.daemon.auditor import (
    OPENS_PAUSE_NS,
    REPEATS_MAX,
    SUBJECTS_MAX,
    TEXT_MAX,
    WINDOW_NS,
    Auditor,
    Damper,
    Opens,
    clip,
)
from valkyrie.controlplane.security import audit_files
from valkyrie.controlplane.security.audit import verify
from valkyrie.controlplane.security.audit_file import AuditFile
from valkyrie.controlplane.security.audit_files import read_lines
from valkyrie.controlplane.security.identity_file import load_or_make
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.errors import ConfigError, DataPlaneError
from valkyrie.dataplane.wire import Class


def records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log that is whole."""
    identity, made = load_or_make(auditor.key_path(path))
    assert not made
    lines = list(read_lines(path))
    verify(lines, identity.card)
    return [json.loads(line) for line in lines]


def events(path: Path) -> list[str]:
    return [record["event"] for record in records(path) if record["event"] != "checkpoint"]


class Clock:
    def __init__(self) -> None:
        self.now_ns = 10**18

    def __call__(self) -> int:
        return self.now_ns


# ---- How much ----


def test_the_same_again_and_again_is_written_a_few_times_and_then_counted() -> None:
    damper = Damper()
    admitted = [damper.admits("policy.refuse", "uid 7", number) for number in range(100)]
    assert admitted == [True] * REPEATS_MAX + [False] * (100 - REPEATS_MAX)
    assert damper.admits("policy.refuse", "uid 8", 0)
    assert list(damper.ended(WINDOW_NS - 1)) == []
    assert list(damper.ended(WINDOW_NS)) == [("policy.refuse", "uid 7", 100 - REPEATS_MAX)]
    assert damper.admits("policy.refuse", "uid 7", WINDOW_NS)


def test_a_clock_that_is_set_back_ends_windows_too() -> None:
    damper = Damper()
    for _ in range(REPEATS_MAX + 1):
        damper.admits("x", "", WINDOW_NS)
    assert list(damper.ended(0)) == [("x", "", 1)]


def test_opens_that_were_refused_are_told_at_once_then_seldom_and_all_of_them() -> None:
    rows = [[0] * lib.VK_COUNTER_COUNT for _ in Class]
    rows[Class.JOB][lib.VK_REFUSED_OPEN] = 5  # before this daemon
    opens = Opens(SimpleNamespace(classes=rows))
    damper, told = Damper(), 0
    for now_ns in range(0, WINDOW_NS, WINDOW_NS // 600):
        rows[Class.JOB][lib.VK_REFUSED_OPEN] += 10
        for klass, count in opens.news(now_ns):
            assert damper.admits("open.refuse", klass, now_ns)
            assert klass == "job"
            assert told or (now_ns, count) == (0, 10)
            told += count
    assert told > 5000
    told += sum(count for _, count in opens.news(WINDOW_NS + OPENS_PAUSE_NS))
    assert told == 6000
    assert list(opens.news(2 * WINDOW_NS)) == []
    rows[Class.JOB][lib.VK_REFUSED_OPEN] += 3
    assert list(opens.final()) == [("job", 3)]
    assert list(opens.final()) == []


def test_many_subjects_take_no_more_memory_than_a_thousand() -> None:
    damper = Damper()
    admitted = sum(damper.admits("x", f"uid {number}", 0) for number in range(100_000))
    assert admitted == SUBJECTS_MAX + REPEATS_MAX
    left_out = 100_000 - admitted
    assert list(damper.ended(WINDOW_NS)) == [("x", "", left_out)]


@pytest.mark.parametrize("letter", ["x", "\0", "\N{PILE OF POO}", '"'])
def test_texts_of_others_fit_a_record(letter: str) -> None:
    for size in (0, 1, 100, 100_000):
        assert len(json.dumps(clip(letter * size))) <= TEXT_MAX
    assert clip(letter * 20) == letter * 20


def test_what_was_left_out_is_on_record_with_its_count(tmp_path: Path) -> None:
    path, clock = tmp_path / "audit.jsonl", Clock()
    identity, _ = load_or_make(auditor.key_path(path))
    log = Auditor(AuditFile(path, identity), clock=clock)
    for _ in range(20):
        log.note("policy.refuse", "uid 7", uid=7)
    log.flush()
    clock.now_ns += WINDOW_NS
    log.flush()
    for _ in range(10):
        log.note("policy.refuse", "uid 7", uid=7)
    log.close("node.stop")  # and in the end, however new it is
    told = ["policy.refuse"] * REPEATS_MAX + ["audit.repeated"]
    assert events(path) == [*told, *told, "node.stop"]
    for number, count in ((REPEATS_MAX, 20), (2 * REPEATS_MAX + 1, 10)):
        assert records(path)[number]["fields"] == {
            "about": "policy.refuse",
            "count": count - REPEATS_MAX,
            "subject": "uid 7",
        }


# ---- Where ----


def configured(audit_file: str) -> Path | None:
    text = f'[security]\naudit_file = "{audit_file}"\n[[interface]]\nname = "lo"\n'
    return auditor.log_path(parse(text))


def test_the_log_has_a_place_of_the_nodes_own_unless_it_is_named() -> None:
    assert configured("") == Path("/var/lib/valkyrie/valkyrie/audit.jsonl")
    assert configured("/srv/log.jsonl") == Path("/srv/log.jsonl")
    assert configured("off") is None
    for wrong in ("log.jsonl", "/srv/", "no"):
        with pytest.raises(ConfigError, match=r"security\.audit_file"):
            configured(wrong)


def test_a_place_that_cannot_be_made_is_said_before_anything_begins(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = f'[security]\naudit_file = "{tmp_path}/file/audit.jsonl"\n[[interface]]\nname = "lo"\n'
    with pytest.raises(ConfigError, match=r"cannot be made.*security\.audit_file"):
        auditor.prepare(parse(text))


def test_without_a_log_everything_is_done_and_nothing_kept() -> None:
    log = Auditor(None)
    log.require("admin.tune")
    log.note("peer.join")
    log.flush()
    log.close()
    assert log.describe()["state"] == "off"


def test_a_broken_log_refuses_administration_and_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = Auditor.open(path)
    log.require("admin.tune", uid=0)
    log.close()
    broken = path.read_bytes().replace(b'"uid":0', b'"uid":7')
    path.write_bytes(broken)
    log = Auditor.open(path)
    assert log.describe()["state"] == "broken"
    with pytest.raises(DataPlaneError, match=r"administration is refused.*record 0.*Move"):
        log.require("admin.tune", uid=0)
    log.note("peer.join")
    log.flush()
    log.close()
    assert path.read_bytes() == broken


# ---- A node ----


def log_of(node: NodeUnderTest) -> Path:
    return node.config.with_name(f"audit-{node.host.name}.jsonl")


def written(node: NodeUnderTest) -> list[str]:
    """Return the events that are in the file of a running node."""
    lines = log_of(node).read_bytes().splitlines()
    return [json.loads(line)["event"] for line in lines]


def test_a_node_puts_on_record_who_came_and_what_was_asked(lab: Lab, tmp_path: Path) -> None:
    nodes = make_pair(lab, tmp_path)
    with running(*nodes):
        a, b = nodes
        with valkyrie.attach_sync(a.socket, name="clock") as application:
            assert application.classes
            application.connect("b")
            wait_until(lambda: "peer.join" in written(a))
        a.ask(appsocket.Tune({"worker.spin_us": 3}))
        assert "admin.tune" in written(a)  # before the answer, not soon
        a.ask(appsocket.Listen("x"))
        psutil.Process(a.pid("worker")).kill()
        wait_until(lambda: "worker.death" in written(a))
        psutil.Process(a.pid("daemon")).kill()
        wait_until(lambda: written(a).count("daemon.start") == 2)
        b.stop()
        wait_until(lambda: "peer.leave" in written(a))
    path = log_of(a)
    found = events(path)
    wanted = ["daemon.start", "peer.join", "application.attach", "application.detach"]
    wanted += ["admin.tune", "policy.refuse", "worker.death", "peer.leave", "node.stop"]
    assert set(wanted) <= set(found)
    assert found[-1] == "node.stop"
    assert records(path)[-1]["event"] == "checkpoint"
    by_event = {record["event"]: record["fields"] for record in records(path)}
    assert by_event["application.attach"]["name"] == "clock"
    assert by_event["application.attach"]["uid"] == os.getuid()
    assert json.loads(by_event["admin.tune"]["asked"])["values"] == {"worker.spin_us": 3}
    assert by_event["policy.refuse"]["reason"] == "attach first"
    assert path.stat().st_mode & 0o777 == auditor.key_path(path).stat().st_mode & 0o777 == 0o600


def test_a_full_disk_stops_administration_and_no_data(lab: Lab, tmp_path: Path) -> None:
    a, b = make_pair(lab, tmp_path)
    disk = tmp_path / "disk"
    text = a.config.read_text().replace(str(log_of(a)), str(disk / "audit.jsonl"))
    a.config.write_text(text)
    with small_disk(disk), running(a, b):
        wait_until(lambda: a.status()["audit"]["state"] == "on")
        fill(disk)  # but for what is left of the log's last page
        wait_until(lambda: a.ask(appsocket.Tune({"worker.spin_us": 4})).code != 0)
        refused = a.ask(appsocket.Tune({"worker.spin_us": 3}))
        assert refused.code == lib.VK_CODE_FAILED
        assert "Administration is refused" in refused.message
        assert "Data flows on" in refused.message
        assert a.status()["worker"]["spin_us"] != 3
        with (
            valkyrie.attach_sync(a.socket) as sender,
            valkyrie.attach_sync(b.socket) as receiver,
            receiver.listen("x") as service,
        ):
            out = sender.connect("b").open("x", stream=100)
            out.send(b"on a full disk")
            into = service.accept(timeout=SOON_S)
            got = into.recv(timeout=SOON_S)
            assert got is not None
            assert got.payload == b"on a full disk"
        wait_until(lambda: a.status()["audit"]["waiting"] > 0)
        (disk / "ballast").unlink()
        assert a.ask(appsocket.Tune({"worker.spin_us": 3})).code == 0
        assert a.status()["audit"]["waiting"] == 0
        found = events(disk / "audit.jsonl")
        assert found[-1] == "admin.tune"
        assert "application.attach" in found


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """Have a file system of some pages on a directory."""
    directory.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs"]
    subprocess.run(["mount", *options, str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def fill(directory: Path) -> None:
    """Leave no room in a file system, but in the last blocks of files."""
    with (directory / "ballast").open("wb", buffering=0) as ballast:
        with contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))
        assert os.statvfs(ballast.fileno()).f_bavail == 0


# ---- Its files ----


def test_a_full_log_goes_on_in_the_next_file_while_the_node_runs(lab: Lab, tmp_path: Path) -> None:
    a, _ = make_pair(lab, tmp_path)
    path = log_of(a)
    limits = "audit_rotate_mib = 1\naudit_keep = 1\n"
    a.config.write_text(a.config.read_text().replace("[security]\n", f"[security]\n{limits}"))
    grown(path)
    with running(a):
        wait_until(lambda: audit_files.archived(path), what="the full file gave way")
        first = min(audit_files.archived(path))
        wait_until(lambda: path.exists() and "daemon.start" not in written(a)[:1])
        assert a.ask(appsocket.Tune({"worker.spin_us": 3})).code == 0
        psutil.Process(a.pid("daemon")).kill()
        wait_until(lambda: "daemon.start" in written(a))
        assert a.status()["audit"]["state"] == "on"
    assert first == 0
    identity, _ = load_or_make(auditor.key_path(path))
    assert audit_files.verify_all(path, identity.card).first == 0
    grown(path)
    with running(a):
        wait_until(lambda: min(audit_files.archived(path), default=0) > 0)
    assert len(audit_files.archived(path)) == 1
    reader = audit_files.verify_all(path, identity.card)
    assert reader.first == reader.removed > 0


def grown(path: Path) -> None:
    """Let a log be larger than a megabyte."""
    identity, _ = load_or_make(auditor.key_path(path))
    log = AuditFile(path, identity)
    while path.stat().st_size <= 1 << 20:
        for number in range(500):
            log.note("peer.join", number, peer="x" * 500)
        log.flush(0)
    log.close()


def test_the_command_line_takes_a_directory_and_each_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audit.jsonl"
    identity, _ = load_or_make(auditor.key_path(path))
    log = AuditFile(path, identity)
    for number in range(3):
        log.record("peer.add", number, peer=f"p{number}")
        first = log.first
        log.go_on(audit_files.make_next(path), 0, number)
        audit_files.give_way(path, first, 0)
    log.close()
    assert run(["audit", "verify", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 12
    assert run(["audit", "show", str(tmp_path), "--event", "peer"]) == 0
    assert capsys.readouterr().out.count("\n") == 3
    middle = tmp_path / "audit-000000000002.jsonl"
    assert run(["audit", "verify", str(middle), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["first"], said["records"]) == (2, 6)
    middle.unlink()
    assert run(["audit", "verify", str(tmp_path), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["record"] == 2
    assert "there is no file audit-000000000002.jsonl" in said["error"]
    (tmp_path / "empty").mkdir()
    assert run(["audit", "verify", str(tmp_path / "empty")]) == 2
    assert "no audit log: name the file" in capsys.readouterr().err


# ---- The command line ----


def test_the_command_line_shows_and_verifies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audit.jsonl"
    log = Auditor.open(path)
    log.require("admin.tune", uid=0, asked="everything")
    log.require("peer.add", peer="b\x1b[31m")
    log.close()
    assert run(["audit", "verify", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["whole"], said["records"], said["checkpoint"]) == (True, 3, 2)
    auditor.key_path(path).rename(tmp_path / "elsewhere")
    assert run(["audit", "verify", str(path), "--key", said["key"]]) == 0
    capsys.readouterr()
    assert run(["audit", "show", str(path), "--event", "peer", "--since", "1h"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("peer.add peer=b?[31m\n")
    assert out.count("\n") == 1
    assert run(["audit", "show", str(path), "--since", "2999-01-01", "--json"]) == 0
    assert capsys.readouterr().out == ""
    assert run(["audit", "show", str(path), "--since", "soon"]) == 2
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[2]]))
    assert run(["audit", "verify", str(path), "--key", said["key"]]) == 1
    assert "audit record 1: is not the next one" in capsys.readouterr().err
    assert run(["audit", "verify", str(path), "--key", said["key"], "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["record"] == 1
    path.write_bytes(b"nonsense\n")
    assert run(["audit", "show", str(path)]) == 2
    assert "line 1 is no audit record" in capsys.readouterr().err
