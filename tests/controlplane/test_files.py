"""Files from host to host: the commands as users run them, against nodes that run."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perf.relay import Conditions, Relay
from tests.controlplane.test_cli import VALKYRIE, Result, refused, valkyrie
from tests.controlplane.test_cli_node import Pair
from tests.lab import PATIENCE, Lab, wait_until
from tests.nodes import NodeUnderTest, make_node, make_pair, running
from valkyrie.controlplane.cli.exits import Exit
from valkyrie.controlplane.cli.files import destination, size_of
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.files.transfer import CHUNK_SIZE

NOBODY = "65534"
LARGE = 48 << 20
"""Bytes: enough of a transfer to be interrupted."""


@pytest.fixture
def pair(lab: Lab, tmp_path: Path) -> Iterator[Pair]:
    nodes = make_pair(lab, tmp_path)
    with running(*nodes):
        yield nodes


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """A directory that only an unprivileged user may write, and where files come to."""
    path = tmp_path / "in"
    path.mkdir()
    path.chmod(0o755)
    os.chown(path, int(NOBODY), int(NOBODY))
    for parent in tmp_path.parents[:2]:
        parent.chmod(parent.stat().st_mode | 0o055)
    return path


@contextlib.contextmanager
def receiver(node: NodeUnderTest, inbox: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``valkyrie receive-files`` as a user without rights."""
    drop = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]
    command = [*drop, *VALKYRIE, "receive-files", str(inbox), "--json", "--node", node.socket]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            wait_until(
                lambda: any("files" in each["services"] for each in node.status()["applications"]),
                10.0,
                "files are received",
            )
            yield process
        finally:
            process.kill()


def copy(node: NodeUnderTest, *arguments: str | Path) -> Result:
    return valkyrie("cp", *arguments, "--node", node.socket)


def make(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


def test_files_arrive_as_they_are(pair: Pair, inbox: Path, tmp_path: Path) -> None:
    a, b = pair
    sizes = [0, 1, CHUNK_SIZE, 1_000_000, 3, 70_000]
    paths = [make(tmp_path / f"file {size}", size) for size in sizes]
    with receiver(b, inbox, "--count", str(len(sizes))) as receiving:
        result = copy(a, *paths, "b:files", "--json")
        assert result.returncode == Exit.OK, result.stderr
        printed, _ = receiving.communicate(timeout=30 * PATIENCE)
    assert receiving.returncode == Exit.OK
    assert result.stderr == ""
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(line["bytes"] for line in lines) == sorted(sizes)
    assert sorted(json.loads(line)["bytes"] for line in printed.splitlines()) == sorted(sizes)
    assert sorted(os.listdir(inbox)) == sorted(path.name for path in paths)
    for path in paths:
        stored = inbox / path.name
        assert stored.read_bytes() == path.read_bytes()
        assert stored.stat().st_mtime_ns == path.stat().st_mtime_ns
        assert stored.stat().st_uid == int(NOBODY)


def test_a_receiver_that_is_killed_gets_the_rest_when_it_is_back(
    pair: Pair, inbox: Path, tmp_path: Path
) -> None:
    a, b = pair
    path = make(tmp_path / "large", LARGE)
    command = [*VALKYRIE, "cp", str(path), "b:files/other", "--retry", "60", "--json"]
    part = inbox / "other.part"
    with receiver(b, inbox) as first:
        sending = subprocess.Popen(
            [*command, "--node", a.socket], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        wait_until(lambda: part.exists() and part.stat().st_size >= LARGE // 8, 20.0)
        first.kill()
        first.wait()
    kept = part.stat().st_size
    assert LARGE // 8 <= kept < LARGE
    with receiver(b, inbox):
        printed, complaint = sending.communicate(timeout=60 * PATIENCE)
    assert sending.returncode == Exit.OK, complaint
    report = json.loads(printed)
    assert report["resumed"] == kept
    assert (inbox / "other").read_bytes() == path.read_bytes()
    assert os.listdir(inbox) == ["other"]


def test_a_sender_that_is_interrupted_goes_on_the_next_time(
    pair: Pair, inbox: Path, tmp_path: Path
) -> None:
    a, b = pair
    path = make(tmp_path / "large", LARGE)
    part = inbox / "large.part"
    with receiver(b, inbox):
        sending = subprocess.Popen([*VALKYRIE, "cp", str(path), "b:files", "--node", a.socket])
        wait_until(lambda: part.exists() and part.stat().st_size >= LARGE // 8, 20.0)
        sending.kill()
        sending.wait()
        result = copy(a, path, "b:files", "--json", "--retry", "20")
    assert result.returncode == Exit.OK, result.stderr
    assert json.loads(result.stdout)["resumed"] >= LARGE // 8
    assert (inbox / "large").read_bytes() == path.read_bytes()


def test_a_file_crosses_a_network_that_loses_delays_and_breaks(
    lab: Lab, inbox: Path, tmp_path: Path
) -> None:
    relay = Relay(lab, [(lab.host("a"), lab.host("b"))], Conditions())
    (first, second), *_ = relay.wires
    a = make_node(first, tmp_path, {"b": str(second.v4.ip)})
    b = make_node(second, tmp_path, {"a": str(first.v4.ip)})
    path = make(tmp_path / "x", 8 << 20)
    part = inbox / "x.part"
    command = [*VALKYRIE, "cp", str(path), "b:files", "--json", "--node", a.socket]

    def passed(size: int) -> bool:
        return part.exists() and part.stat().st_size >= size

    with running(a, b), receiver(b, inbox):
        relay.change(Conditions(loss=0.02, delay_s=0.005, duplicate=0.01, rate_bps=200e6))
        sending = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_until(lambda: passed(1 << 20), 20.0)
        with relay.worse(down=True):
            before = relay.counts()[0].lost
            wait_until(lambda: relay.counts()[0].lost > before, 20.0)
        printed, complaint = sending.communicate(timeout=60 * PATIENCE)
        lost = relay.counts()[0].lost
        relay.close()
    assert sending.returncode == Exit.OK, complaint
    assert json.loads(printed)["resumed"] == 0
    assert lost > 50
    assert (inbox / "x").read_bytes() == path.read_bytes()


def test_a_part_that_was_corrupted_is_not_used(pair: Pair, inbox: Path, tmp_path: Path) -> None:
    a, b = pair
    path = make(tmp_path / "x", 1_000_000)
    (inbox / "x.part").write_bytes(bytes(500_000))
    os.chown(inbox / "x.part", int(NOBODY), int(NOBODY))
    with receiver(b, inbox):
        result = copy(a, path, "b:files", "--json")
    assert json.loads(result.stdout)["resumed"] == 0, result.stderr
    assert (inbox / "x").read_bytes() == path.read_bytes()


def test_what_is_refused_says_why_and_the_others_arrive(
    pair: Pair, inbox: Path, tmp_path: Path
) -> None:
    a, b = pair
    good, large, there = (
        make(tmp_path / name, size) for name, size in (("g", 2000), ("large", 5000), ("th", 10))
    )
    (inbox / there.name).write_bytes(b"old")
    with receiver(b, inbox, "--max-size", "4K", "--no-replace"):
        result = copy(a, good, large, there, "b:files")
        assert result.returncode == Exit.FAILED
        assert "5000 bytes; the receiver takes 4096" in result.stderr
        assert re.search(r"th: 'th' is there at the receiver, and stays", result.stderr)
        assert len(result.stderr.splitlines()) == 2
        refused(copy(a, good, "b:files/x/../g"), Exit.FAILED, "a slash or control characters")
        refused(copy(a, good, "b:nothing"), Exit.FAILED, "nobody listens under that name")
    assert sorted(os.listdir(inbox)) == ["g", "th"]
    assert (inbox / "th").read_bytes() == b"old"


def test_a_directory_that_cannot_be_written_is_told_to_the_sender(
    pair: Pair, inbox: Path, tmp_path: Path
) -> None:
    a, b = pair
    inbox.chmod(0o555)
    with receiver(b, inbox):
        refused(
            copy(a, make(tmp_path / "x", 10), "b:files"),
            Exit.FAILED,
            "receiver cannot open 'x.part'",
        )


def test_a_terminal_is_shown_how_far_it_is(pair: Pair, inbox: Path, tmp_path: Path) -> None:
    a, b = pair
    path = make(tmp_path / "large", LARGE)
    master, slave = pty.openpty()
    with receiver(b, inbox):
        process = subprocess.Popen(
            [*VALKYRIE, "cp", str(path), "b:files", "--node", a.socket], stderr=slave
        )
        os.close(slave)
        shown = b""
        deadline_s = time.monotonic() + 30 * PATIENCE
        while time.monotonic() < deadline_s and select.select([master], [], [], 30 * PATIENCE)[0]:
            try:
                shown += os.read(master, 65536)
            except OSError:  # the other end is closed
                break
        assert process.wait(timeout=30 * PATIENCE) == Exit.OK
    os.close(master)
    assert b"large" in shown
    assert re.search(rb"50\.3/50\.3.{0,20}MB", shown)


def test_a_megabyte_takes_less_than_a_tenth_of_a_second(
    pair: Pair, inbox: Path, tmp_path: Path
) -> None:
    a, b = pair
    path = make(tmp_path / "x", 1_000_000)
    seconds = []
    with receiver(b, inbox, "--no-sync"):
        for _ in range(5):
            result = copy(a, path, "b:files", "--json")
            seconds.append(json.loads(result.stdout)["seconds"])
    assert min(seconds) < 0.1 * PATIENCE


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("b:files", ("b", "files", "")),
        ("10.0.0.2:files/x y", ("10.0.0.2", "files", "x y")),
        ("fd09::2:files", ("fd09::2", "files", "")),
        ("[fd09::2]:files/x", ("fd09::2", "files", "x")),
    ],
)
def test_a_destination_is_a_peer_a_service_and_perhaps_a_name(
    text: str, parts: tuple[str, str, str]
) -> None:
    assert destination(text) == parts


@pytest.mark.parametrize("text", ["", "b", "b:", ":files", "b:/x"])
def test_half_a_destination_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="PEER:SERVICE"):
        destination(text)


def test_sizes_have_units() -> None:
    assert [size_of(text) for text in ("1", "4k", "10G")] == [1, 4096, 10 << 30]
    for text in ("", "0", "-1", "1.5G", "1P"):
        with pytest.raises(ConfigError, match="no size"):
            size_of(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "PEER:SERVICE"),
        (["only"], "PEER:SERVICE"),
        (["x", "nowhere"], "no destination"),
        (["x", "y", "b:files/z"], "cannot all be"),
        (["x", "a/x", "b:files"], "more than once"),
    ],
)
def test_a_wrong_command_line_says_what_to_write(arguments: list[str], words: str) -> None:
    refused(valkyrie("cp", *arguments), Exit.USAGE, words)


def test_without_a_node_it_says_so(tmp_path: Path) -> None:
    where = ("--node", tmp_path / "none.sock")
    refused(valkyrie("cp", make(tmp_path / "x", 1), "b:files", *where), Exit.NOT_RUNNING)
    refused(valkyrie("receive-files", tmp_path, *where), Exit.NOT_RUNNING)


def test_a_directory_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    refused(valkyrie("receive-files", tmp_path / "none"), Exit.FAILED, "none: No such file")
