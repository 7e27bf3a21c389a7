"""A daemon that finds a file of no use costs nobody a message: it is back when the file is."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

from tests.lab import Lab, wait_until
from tests.nodes import PATIENT, NodeUnderTest, expect, make_pair, running, streams


def serves(node: NodeUnderTest, pid: int) -> bool:
    """Say whether a daemon serves that is another process than pid."""
    try:
        return node.pid("daemon") != pid
    except OSError:
        return False


def has_said(node: NodeUnderTest, what: str, count: int) -> bool:
    return node.said().count(what) >= count


def test_messages_flow_while_a_broken_or_missing_file_keeps_the_daemon_from_its_start(
    lab: Lab, public: Path
) -> None:
    a, b = make_pair(lab, public, extra=PATIENT)
    revoked = public / "revoked.toml"
    with running(a, b), streams(a, b) as (out, into):
        revoked.write_text("")
        wait_until(lambda: a.records("revocation.read") != [], 10.0, "the file has been read")
        pid = a.pid("daemon")
        revoked.write_text("[[revoked]")
        os.kill(pid, signal.SIGKILL)
        said = a.said().count("stays so")
        for number in range(3):
            wait_until(partial(has_said, a, "stays so", said + number + 1), 10.0, "another try")
            out.send(b"broken %d" % number)
            expect(into, b"broken %d" % number)
        revoked.unlink()
        wait_until(lambda: "put it back" in a.said(), 10.0, "it misses the file")
        out.send(b"missing")
        expect(into, b"missing")
        revoked.write_text("")
        wait_until(lambda: serves(a, pid), 10.0, "another daemon serves")
        out.send(b"last")
        expect(into, b"last")
