"""Daemons import nothing from the disk once they are confined, whatever they are asked to do."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
from pathlib import Path

import pytest

import valkyrie
from tests.lab import Lab, wait_until
from tests.nodes import EVERYTHING, NodeUnderTest, joined, make_secure_pair, running, streams
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.refusal import PolicyError

from .test_auth import JWT, write_files
from .test_auth_nodes import make
from .test_cli import valkyrie as command
from .test_session_nodes import cert, certified

PRELUDE = """
import sys
from valkyrie.controlplane.confinement import sandbox

class Late:
    def find_spec(self, name, path=None, target=None):
        print("late import", name, file=sys.stderr, flush=True)

enter = sandbox.enter_daemon

def entered(*arguments, **options):
    enter(*arguments, **options)
    sys.meta_path.insert(0, Late())
    try:
        import valkyrie_proof_of_the_test
    except ImportError:
        pass

sandbox.enter_daemon = entered
"""
"""Says of every import in a confined daemon what it is; of one that proves that it does, too."""


def on_disk(module: str) -> bool:
    """Say whether a module has a file."""
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        return False
    return spec is not None and spec.has_location


def late(node: NodeUnderTest) -> list[str]:
    """Return what a node's daemons have imported from the disk too late."""
    found = re.findall(r"^late import (\S+)$", node.said(), re.MULTILINE)
    assert "valkyrie_proof_of_the_test" in found
    return sorted({each for each in found if on_disk(each)})


def watched(*nodes: NodeUnderTest) -> None:
    for node in nodes:
        node.prelude = PRELUDE


def test_a_daemon_imports_nothing_from_the_disk_once_it_is_confined(lab: Lab, public: Path) -> None:
    a, b = make_secure_pair(lab, public, policy=EVERYTHING + "sign = 10\n")
    watched(a, b)
    with running(a, b), valkyrie.attach_sync(a.socket) as application:
        with streams(a, b) as (out, _):
            out.send(b"x" * 100_000)
            assert command("session", "rotate", "b", "--node", a.socket).returncode == 0
        application.sign([b"message"])
        application.sign([b"message"], post_quantum=True)
        with pytest.raises(PolicyError):
            application.sign([b"message"], fn_dsa=True)
        assert a.ask(appsocket.Tune({"class.logs.rate_packets": 1000})).code == 0
        assert a.ask(appsocket.Tune({"nonsense": 1})).code != 0
        assert command("session", "kill", "b", "--node", a.socket).returncode == 0
        os.kill(a.pid("worker"), signal.SIGKILL)
        wait_until(lambda: bool(a.on_record("worker.death")), 5.0, "the worker's death is noted")
        assert command("status", "--node", b.socket).returncode == 0
    assert (late(a), late(b)) == ([], [])


def test_nor_with_certificates_and_lists_of_those_that_are_revoked(lab: Lab, public: Path) -> None:
    a, b = certified(lab, public)
    cert("crl", public / "ca")
    lists = 'crl_file = "ca/revoked.pem"\n'
    a.config.write_text(a.config.read_text().replace("[security]\n", f"[security]\n{lists}"))
    watched(a, b)
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        cert("renew", public / "ca", public / "a.pem")
        wait_until(lambda: bool(a.on_record("certificate.renew")), 5.0, "it takes that")
        cert("revoke", public / "ca", public / "b.pem")
        wait_until(lambda: bool(a.on_record("peer.revoke")), 5.0, "it is put out")
    assert (late(a), late(b)) == ([], [])


def test_nor_with_proofs_and_tokens_of_an_issuer(lab: Lab, public: Path) -> None:
    write_files(public)
    a, b = make(lab, public, JWT)
    for node in (a, b):
        text = node.config.read_text()
        node.config.write_text(text.replace("[security]\n", '[security]\nmodes = ["zero_trust"]\n'))
    watched(a, b)
    with running(a, b), streams(a, b):
        os.kill(a.pid("daemon"), signal.SIGKILL)
        wait_until(lambda: len(a.on_record("daemon.start")) == 2, 10.0, "there is another daemon")
        wait_until(lambda: joined(a, b), 10.0, "both have joined")
    assert (late(a), late(b)) == ([], [])
