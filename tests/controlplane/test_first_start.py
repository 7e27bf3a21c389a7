"""A node has an identity from its first start on, and only its daemon ever has the keys."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.lab import PATIENCE, Lab, wait_until
from tests.nodes import NodeUnderTest, make_node, running
from valkyrie.controlplane.security.identity_file import load_or_make


@pytest.fixture
def node(lab: Lab, tmp_path: Path) -> NodeUnderTest:
    """A node with an identity and no peers, not started."""
    a, _ = lab.wire(lab.host("a"), lab.host("b"))
    return make_node(a, tmp_path, {}, security='identity_file = "keys/identity.key"')


def key_file(node: NodeUnderTest) -> Path:
    return node.config.parent / "keys" / "identity.key"


def refusal(node: NodeUnderTest) -> str:
    """Start a node that does not start; return the only thing that it said."""
    node.up()
    assert node.process is not None
    assert node.process.wait(timeout=10 * PATIENCE) == 1
    (said,) = node.said().splitlines()
    assert node.left() == []
    return said


def test_the_first_start_makes_an_identity_and_says_its_fingerprint(node: NodeUnderTest) -> None:
    with running(node):
        fingerprint = str(load_or_make(key_file(node))[0].card.fingerprint)
        assert f"tell its peers the fingerprint: {fingerprint}" in node.said()
        assert node.status()["security"] == {
            "fingerprint": fingerprint,
            "modes": ["post_quantum", "noise"],
            "require_pq": False,
            "unread": "",
        }
    assert key_file(node).stat().st_mode & 0o777 == 0o600
    with running(node):
        assert f"this node's fingerprint is {fingerprint}" in node.said()


def test_a_node_in_the_clear_says_so_and_makes_no_identity(lab: Lab, tmp_path: Path) -> None:
    a, _ = lab.wire(lab.host("a"), lab.host("b"))
    node = make_node(a, tmp_path, {})
    with running(node):
        assert 'sessions are not protected: security.modes is ["plaintext"]' in node.said()
        assert node.status()["security"]["modes"] == ["plaintext"]
        assert node.status()["security"]["fingerprint"] == ""


def test_an_identity_that_others_could_read_is_refused_once(node: NodeUnderTest) -> None:
    key_file(node).parent.mkdir()
    load_or_make(key_file(node))
    key_file(node).chmod(0o644)
    said = refusal(node)
    assert said.startswith(f"error: {key_file(node)}: others could read it (mode 0644)")


def test_a_damaged_identity_is_refused_and_left_as_it_is(node: NodeUnderTest) -> None:
    key_file(node).parent.mkdir()
    key_file(node).write_text("not a key")
    key_file(node).chmod(0o600)
    assert "is damaged" in refusal(node)
    assert key_file(node).read_text() == "not a key"


def test_a_directory_that_cannot_be_made_is_named(node: NodeUnderTest) -> None:
    key_file(node).parent.write_text("in the way")
    assert str(key_file(node).parent) in refusal(node)


def private_memory(pid: int) -> Iterator[bytes]:
    """Yield what a process has in memory of its own: heap, stack, anonymous mappings."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for low, high in re.findall(r"^(\w+)-(\w+) rw-p \w+ 00:00 0 ", maps, re.MULTILINE):
            memory.seek(int(low, 16))
            try:
                yield memory.read(int(high, 16) - int(low, 16))
            except OSError:  # reserved, and never touched
                continue


def test_neither_broker_nor_worker_ever_has_a_key_in_memory(node: NodeUnderTest) -> None:
    with running(node):
        assert node.process is not None
        pem = key_file(node).read_bytes()
        key = load_pem_private_key(pem[: pem.index(b"-----END") + 25], None)
        raw = key.private_bytes_raw()  # type: ignore[union-attr]
        text = pem.splitlines()[1]

        def holders() -> set[str]:
            pids = {"broker": node.pid("broker"), "worker": node.pid("worker")}
            pids["daemon"] = node.pid("daemon")
            return {
                name
                for name, pid in pids.items()
                if any(raw in each or text in each for each in private_memory(pid))
            }

        assert holders() == {"daemon"}


def test_the_next_daemon_has_the_identity_too(node: NodeUnderTest) -> None:
    with running(node):
        before, pid = node.status()["security"], node.pid("daemon")
        os.kill(pid, signal.SIGKILL)

        def restarted() -> bool:
            try:
                return node.pid("daemon") != pid
            except OSError:
                return False

        wait_until(restarted, 10.0, "another daemon serves")
        assert node.status()["security"] == before
