"""What a worker or a daemon that was taken over can still do, tried one by one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.census import needs
from tests.controlplane import caged
from tests.lab import Lab, wait_until
from tests.nodes import make_node, make_pair, running
from valkyrie.controlplane.confinement import landlock, sandbox
from valkyrie.controlplane.host import doctor

ONLY_MEMORY = {"map data", "write an error", "clock", "make ciphers"}
"""What of the attempts a worker may do: everything else ends it."""
LANDLOCKED = {
    # attempt: (since which version of Landlock, what comes of it)
    "open /etc/hostname": (1, "EACCES"),
    "open /etc/passwd": (1, "EACCES"),
    "read allowed": (0, "ok"),
    "write read-only": (1, "EACCES"),
    "create a file": (1, "EACCES"),
    "connect by TCP": (4, "EACCES"),
    "connect to an abstract socket": (6, "EPERM"),
    "signal a stranger": (6, "EPERM"),
}
DAEMON = {
    **{name: row for name, row in LANDLOCKED.items() if name != "signal a stranger"},
    "signal a stranger": (0, "EPERM"),
    **dict.fromkeys(
        ("execve", "bpf", "ptrace", "mount", "setns", "init_module", "kexec_load", "userfaultfd",
         "process_vm_readv", "unshare"),
        (0, "SIGSYS"),
    ),
    **dict.fromkeys(
        ("fork", "map code", "make code of data", "socket AF_PACKET", "socket AF_VSOCK"),
        (0, "EPERM"),
    ),
    "clone3": (0, "ENOSYS"),
    **dict.fromkeys(
        ("thread", "map data", "protect data", "signal itself", "socket AF_INET",
         "socket AF_NETLINK", "write an error", "clock", "make ciphers"),
        (0, "ok"),
    ),
}  # fmt: skip


@cache
def results(who: str, mode: str, directory: Path) -> dict[str, str]:
    reads = directory / "reads"
    reads.mkdir()
    reads.chmod(0o777)
    directory.chmod(0o755)
    (reads / "file").write_text("x")
    (reads / "file").chmod(0o666)
    command = [sys.executable, str(Path(caged.__file__)), who, mode, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A directory that others reach: pytest's own are closed whenever a run of it begins."""
    needs("root")
    with tempfile.TemporaryDirectory(prefix="valkyrie-caged-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def of(folder: Path, who: str, mode: str = "strict") -> dict[str, str]:
    directory = folder / f"{who}-{mode}"
    directory.mkdir(exist_ok=True)
    return results(who, mode, directory)


def expected(table: dict[str, tuple[int, str]]) -> dict[str, str]:
    """Return what comes of attempts on this kernel."""
    here = landlock.abi()
    return {name: what if here >= since else "ok" for name, (since, what) in table.items()}


def test_a_worker_has_its_memory_its_descriptors_and_nothing_else(folder: Path) -> None:
    found = of(folder, "worker")
    assert {name for name, what in found.items() if what == "ok"} == ONLY_MEMORY
    assert {what for name, what in found.items() if name not in ONLY_MEMORY} == {"SIGSYS"}


def test_a_daemon_cannot_leave_what_it_is_for(folder: Path) -> None:
    found = of(folder, "daemon")
    wanted = expected(DAEMON)
    assert {name: found[name] for name in found} == {name: wanted[name] for name in found}


def test_landlock_alone_keeps_even_root_from_what_is_not_named(folder: Path) -> None:
    found = of(folder, "landlock")
    assert {name: found[name] for name in LANDLOCKED} == expected(LANDLOCKED)


@pytest.mark.parametrize("who", ["worker", "daemon"])
def test_the_lenient_sandbox_refuses_the_same_and_ends_nobody(folder: Path, who: str) -> None:
    strict, lenient = of(folder, who), of(folder, who, "lenient")
    assert "SIGSYS" not in lenient.values()
    refused = {name for name, what in strict.items() if what == "SIGSYS"}
    assert {lenient[name] for name in refused} <= {"EPERM", "EAGAIN"}
    assert all(lenient[name] == what for name, what in strict.items() if name not in refused)


def test_what_a_kernel_lacks_is_named() -> None:
    assert landlock.refused(0) == []
    assert landlock.refused(2) == ["files", "moves between directories"]  # Linux 6.1
    assert landlock.refused(99) == [level.refuses for level in landlock.LEVELS]
    rows = {each.name: each for each in doctor.examine({}).findings if each.need == "safety"}
    assert {"seccomp", "memfd-secret"} < set(rows)
    for level in landlock.LEVELS:
        row = rows[f"landlock: {level.refuses}"]
        assert row.ok == (landlock.abi() >= level.abi)
        assert level.since in row.how
        assert row.costs


def test_status_says_what_keeps_each_process_in(lab: Lab, tmp_path: Path) -> None:
    a, b = lab.wire(lab.host("a"), lab.host("b"))
    node = make_node(a, tmp_path, {"b": str(b.v4.ip)})
    with running(node):
        document = node.status()["sandbox"]
        for child in ("worker", "daemon"):
            assert document[child] == {
                "user": 65534,
                "capabilities": 0,
                "no_new_privileges": True,
                "seccomp": "filter",
                "landlock": landlock.abi(),
                "refused": landlock.refused(landlock.abi()),
            }
        assert document["broker"]["seccomp"] == "none"
        assert 0 < document["broker"]["capabilities"] <= 10
        for process in node.children():
            limits = Path(f"/proc/{process.pid}/limits").read_text()
            (row,) = [line for line in limits.splitlines() if line.startswith("Max core file")]
            assert row.split()[4:6] == ["0", "0"]
            assert os.stat(f"/proc/{process.pid}/mem").st_uid == 0  # not dumpable


def test_a_daemon_goes_behind_the_worker(lab: Lab, tmp_path: Path) -> None:
    a, b = lab.wire(lab.host("a"), lab.host("b"))
    node = make_node(a, tmp_path, {"b": str(b.v4.ip)})
    with running(node):
        nice = {who: os.getpriority(os.PRIO_PROCESS, node.pid(who)) for who in ("worker", "daemon")}
    assert nice["daemon"] == nice["worker"] + sandbox.NICE


def test_a_process_that_has_gone_has_no_sandbox() -> None:
    assert sandbox.describe(-1) == {}


def test_nodes_meet_in_the_lenient_sandbox_too(lab: Lab, tmp_path: Path) -> None:
    first, second = make_pair(lab, tmp_path)
    for node in (first, second):
        text = node.config.read_text()
        node.config.write_text(text.replace("[node]", '[node]\nsandbox = "lenient"'))
    with running(first, second):
        wait_until(lambda: "has joined" in first.said(), 10.0, "they meet")
        assert first.status()["sandbox"]["worker"]["seccomp"] == "filter"
