"""What the kernel refuses, and what the node itself does wrong, ends no node and no application."""

from __future__ import annotations

import errno
import os
import selectors
import signal
import socket
from pathlib import Path

import pytest

import valkyrie
from tests.lab import PATIENCE, SOON_S, Lab, wait_until
from tests.nodes import NodeUnderTest, make_node, running
from valkyrie.controlplane.broker.broker import turn
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.driver import exchange

NO_DESCRIPTOR = """
import errno, os
from valkyrie.controlplane.broker.slots import Regions
def once(*_, usual={of}.{what}):
    {of}.{what} = usual
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
{of}.{what} = once
"""

IMPATIENT = f"""
from valkyrie.controlplane.daemon.brokerlink import BrokerLink
BrokerLink.ask.__defaults__ = ({2.0 * PATIENCE},)
"""
"""A daemon that waits less for its broker than a test would like to."""

FULL = """
import errno, os, types
from valkyrie.controlplane.broker import messages
from valkyrie.controlplane.daemon import brokerlink
def send(link, message):
    if message.kind == messages.Kind.DETACH:
        brokerlink.messages = messages
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    messages.send(link, message)
brokerlink.messages = types.SimpleNamespace(**{**vars(messages), "send": send})
"""
"""A daemon that finds its broker's link full when it first gives a slot back."""

MISTAKEN = """
import os
from valkyrie.controlplane.daemon.watch import Watch
def look(watch, now_ns, *, usual=Watch.look):
    if os.path.exists({mark!r}) and not watch._daemon.inherited.restarts:
        raise KeyError("a mistake")
    return usual(watch, now_ns)
Watch.look = look
"""


REFUSED = """
import os
from valkyrie.dataplane.errors import DataPlaneError
from valkyrie.dataplane.loader import Program
def once(of, what):
    usual = getattr(of, what)
    def call(*arguments):
        if os.path.exists({mark!r} + what):
            os.unlink({mark!r} + what)
            raise DataPlaneError.of({number}, what)
        return usual(*arguments)
    setattr(of, what, call)
for of, what in ((os, "fork"), (os, "pidfd_open"), (Program, "counts")):
    once(of, what)
"""
"""A kernel that refuses the broker what a file of that name says, once."""


@pytest.fixture
def node(lab: Lab, tmp_path: Path) -> NodeUnderTest:
    """A node that is not started, alone on its wire."""
    a, b = lab.wire(lab.host("a"), lab.host("b"))
    return make_node(a, tmp_path, {"b": str(b.v4.ip)})


def attach(node: NodeUnderTest, name: str = "") -> tuple[socket.socket, appsocket.Reply]:
    """Ask for rings; returns what is to be closed, and the answer."""
    connection = node.connect()
    reply, descriptors = exchange(connection, appsocket.Attach(name=name))
    for fd in descriptors:
        os.close(fd)
    return connection, reply


def slot_of_the_next(node: NodeUnderTest) -> int:
    """Attach an application, which must not be refused, and close it; returns its slot."""
    connection, reply = attach(node)
    connection.close()
    assert reply.code == 0
    return int(reply.slot)


@pytest.mark.parametrize(("of", "what"), [("os", "eventfd"), ("Regions", "for_application")])
def test_an_attachment_that_the_kernel_refuses_is_refused_and_the_node_goes_on(
    node: NodeUnderTest, of: str, what: str
) -> None:
    node.prelude = NO_DESCRIPTOR.format(of=of, what=what)
    with running(node):
        connection, reply = attach(node)
        connection.close()
        assert reply.code == lib.VK_CODE_FAILED
        assert os.strerror(errno.EMFILE) in reply.message
        connection, reply = attach(node)
        connection.close()
        assert reply.code == 0


def test_an_attachment_that_comes_too_late_leaves_its_slot(node: NodeUnderTest) -> None:
    node.prelude = IMPATIENT
    with running(node):
        assert node.process is not None
        os.kill(node.process.pid, signal.SIGSTOP)
        try:
            connection, reply = attach(node)
        finally:
            os.kill(node.process.pid, signal.SIGCONT)
        connection.close()
        assert reply.code == lib.VK_CODE_FAILED
        wait_until(lambda: slot_of_the_next(node) == 0)


def test_a_slot_is_nobodys_until_the_broker_has_taken_it_back(node: NodeUnderTest) -> None:
    node.prelude = FULL
    with running(node):
        assert slot_of_the_next(node) == 0
        wait_until(lambda: "could not be taken back" in node.said())
        wait_until(lambda: slot_of_the_next(node) == 0)
        assert node.said().count("could not be taken back") == 1


def test_a_daemons_mistake_cuts_nobody_off(node: NodeUnderTest, public: Path) -> None:
    mark = public / "now"
    node.prelude = MISTAKEN.format(mark=str(mark))
    with running(node), valkyrie.attach_sync(node.socket, name="stays") as application:
        mark.touch()
        wait_until(lambda: "a mistake" in node.said())
        wait_until(lambda: node.applications() >= 0)
        (row,) = node.status()["applications"]
        assert row["name"] == "stays"
        assert node.status()["daemon"]["restarts"] == 1
        with application.listen("still"):
            assert not application.lost


@pytest.mark.parametrize("child", ["worker", "daemon"])
@pytest.mark.parametrize("what", ["fork", "pidfd_open"])
def test_a_child_that_the_kernel_refuses_is_started_later(
    node: NodeUnderTest, public: Path, child: str, what: str
) -> None:
    node.prelude = REFUSED.format(mark=f"{public}/", number=errno.ENOMEM)
    with running(node), valkyrie.attach_sync(node.socket, name="stays") as application:
        pid, before = node.pid(child), len(node.children())
        (public / what).touch()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: f"the {child} could not be started" in node.said())
        wait_until(lambda: node.pid(child) not in (0, pid))
        assert node.status()[child]["restarts"] == 2  # one death, and one that was none
        assert len(node.children()) == before
        with application.listen("still"):
            assert not application.lost


def test_a_look_at_the_kernels_counters_that_fails_is_left_out(
    node: NodeUnderTest, public: Path
) -> None:
    node.prelude = REFUSED.format(mark=f"{public}/", number=errno.ENOMEM)
    with running(node):
        pids = node.pid("worker"), node.pid("daemon")
        (public / "counts").touch()
        wait_until(lambda: not (public / "counts").exists())
        assert (node.pid("worker"), node.pid("daemon")) == pids


def test_a_name_is_nothing_but_a_name_for_logs_and_terminals(node: NodeUnderTest) -> None:
    with running(node):
        connection, reply = attach(node, "a\nvalkyrie: ERROR: b\x1b[2J\xe4\x7f" + "c" * 40)
        assert reply.code == 0
        (row,) = node.status()["applications"]
        assert row["name"] == "a?valkyrie: ERROR: b?[2J??ccccc"
        connection.close()


def test_what_has_ended_meanwhile_is_not_called() -> None:
    selector, called = selectors.DefaultSelector(), []
    first, wakes_first = socket.socketpair()
    second, wakes_second = socket.socketpair()
    third, _ = pair = socket.socketpair()

    def end_second() -> None:
        called.append("first")
        number = second.fileno()
        selector.unregister(second)
        second.close()
        assert os.dup2(third.fileno(), number) == number
        selector.register(number, selectors.EVENT_READ, never)

    def never() -> None:
        called.append("never")

    selector.register(first, selectors.EVENT_READ, end_second)
    selector.register(second, selectors.EVENT_READ, never)
    number = second.fileno()
    wakes_first.send(b"x")
    wakes_second.send(b"x")
    turn(selector, SOON_S)
    assert called == ["first"]
    os.close(number)
    selector.close()
    for each in (first, wakes_first, wakes_second, *pair):
        each.close()
