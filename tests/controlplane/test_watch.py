"""Intrusion rules on running nodes: each action, and that it is on record and undone."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import valkyrie
from tests.lab import SOON_S, Lab, wait_until
from tests.nodes import EVERYTHING, NodeUnderTest, make_pair, running, session
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.driver import exchange
from valkyrie.dataplane.wire import Class, Verdict
from valkyrie.shm.counters import CountersPage


def rule(name: str, **values: Any) -> str:
    lines = (f"{key} = {json.dumps(value)}" for key, value in values.items())
    return f'[[intrusion]]\nname = "{name}"\n' + "\n".join(lines) + "\n"


@contextlib.contextmanager
def nodes(
    lab: Lab, directory: Path, policy: str, path: str = "udp"
) -> Iterator[tuple[NodeUnderTest, NodeUnderTest]]:
    a, b = make_pair(lab, directory, policy=EVERYTHING + policy, path=path)
    with running(a, b):
        yield a, b


@pytest.mark.parametrize("path", ["udp", "xdp"])
def test_a_class_is_limited_while_the_alarm_lasts(lab: Lab, tmp_path: Path, path: str) -> None:
    drops = {"counter": "kernel.drop_class_rate", "by": "class", "count": 20, "window_s": 1}
    limit = rule("flood", **drops, hold_s=1, action="limit", rate_packets=7)
    with (
        nodes(lab, tmp_path, limit, path) as (a, b),
        valkyrie.attach_sync(a.socket) as sender,
        valkyrie.attach_sync(b.socket) as receiver,
        receiver.listen("x") as service,
    ):
        b.ask(appsocket.Tune({"class.logs.rate_packets": 9, "class.logs.burst_packets": 9}))
        out = sender.connect("b").open("x", stream=10_000)

        def limited() -> bool:
            out.send_many([bytes(1200)] * 20)
            return bool(b.status()["classes"]["logs"]["rate_packets"] == 7)

        wait_until(limited)
        service.accept(timeout=SOON_S)
        (alarm,) = b.status()["alarms"]
        assert alarm == {"rule": "flood", "by": "class", "subject": "logs"}
        b.ask(appsocket.Tune({"class.logs.rate_packets": 100}))
        assert b.status()["classes"]["logs"]["rate_packets"] == 7  # the lower of both
        psutil.Process(b.pid("daemon")).kill()  # the next one takes back what this one did
        wait_until(lambda: b.status()["daemon"]["restarts"] == 1)
        wait_until(lambda: b.status()["classes"]["logs"]["rate_packets"] == 100)
        assert b.status()["alarms"] == []
        wait_until(lambda: bool(b.on_record("intrusion.limit")))
        (record,) = b.on_record("intrusion.limit")
        assert record["about"] == "logs"
        assert record["seen"] >= 20


def test_an_alarm_ends_and_its_limit_with_it(lab: Lab, tmp_path: Path) -> None:
    drops = {"counter": "kernel.drop_class_rate", "by": "class", "count": 20, "window_s": 1}
    limit = rule("flood", **drops, hold_s=1, action="limit", rate_packets=7)
    with nodes(lab, tmp_path, limit) as (a, b):
        b.ask(appsocket.Tune({"class.logs.rate_packets": 9, "class.logs.burst_packets": 9}))
        with (
            valkyrie.attach_sync(b.socket) as receiver,
            receiver.listen("x"),
            valkyrie.attach_sync(a.socket) as sender,
        ):
            out = sender.connect("b").open("x", stream=10_000)

            def limited() -> bool:
                out.send_many([bytes(1200)] * 20)
                return bool(b.status()["alarms"])

            wait_until(limited)
        wait_until(lambda: b.status()["alarms"] == [], 10.0)
        assert b.status()["classes"]["logs"]["rate_packets"] == 9
        wait_until(lambda: b.on_record("intrusion.over") == [{"rule": "flood"}])


def test_an_application_that_keeps_asking_is_detached(lab: Lab, tmp_path: Path) -> None:
    asks = {"counter": "daemon.policy_refused", "by": "application", "count": 5}
    policy = rule("prying", **asks, action="detach")
    with nodes(lab, tmp_path, policy) as (a, _):
        with a.connect() as good, a.connect() as bad:
            for end in (good, bad):
                reply, descriptors = exchange(end, appsocket.Attach(name="x"))
                assert reply.code == 0
                for each in descriptors:
                    os.close(each)
            for _ in range(5):
                reply, _ = exchange(bad, appsocket.Attach())
                assert reply.code == lib.VK_CODE_POLICY
            assert bad.recv(1) == b""  # cut off
            assert exchange(good, appsocket.Connect("b"))[0].code == 0
            wait_until(lambda: a.applications() == 1)
        wait_until(lambda: bool(a.on_record("intrusion.detach")))


LOST = {"counter": "session.lost", "by": "peer", "count": 20, "window_s": 60}


@contextlib.contextmanager
def losing(a: NodeUnderTest, b: NodeUnderTest) -> Iterator[Callable[[str], None]]:
    """Yield what has the kernel of b drop most of what a sends, until something is on record."""
    with (
        valkyrie.attach_sync(a.socket) as sender,
        valkyrie.attach_sync(b.socket) as receiver,
        receiver.listen("x") as service,
    ):
        out = sender.connect("b").open("x", stream=1000)
        out.send(b"hello")
        assert service.accept(timeout=SOON_S).recv(timeout=SOON_S)
        b.ask(appsocket.Tune({"class.data.rate_packets": 20, "class.data.burst_packets": 20}))

        def lose(event: str) -> bool:
            with contextlib.suppress(valkyrie.WouldBlockError, valkyrie.StreamResetError):
                out.send_many([bytes(1200)] * 20, timeout=0)
            return bool(a.on_record(event))

        def lose_until(event: str) -> None:
            wait_until(lambda: lose(event))

        yield lose_until


def blocked(node: NodeUnderTest) -> int:
    """Return how many control frames a node's kernel has dropped for their address."""
    node.status()  # copies the kernel's counters
    with CountersPage(node.name) as page:
        return int(page.struct.verdicts[0].packets[Class.CONTROL][Verdict.DROP_BLOCKED])


def test_a_session_is_killed_for_what_its_peer_does(lab: Lab, tmp_path: Path) -> None:
    with nodes(lab, tmp_path, rule("lossy", **LOST, action="kill")) as (a, b):
        with losing(a, b) as lose:
            lose("intrusion.kill")
        assert a.on_record("intrusion.kill")[0]["about"] == "b"
        wait_until(lambda: lib.VK_CODE_POLICY in [r["code"] for r in a.on_record("peer.leave")])
        wait_until(lambda: len(a.on_record("peer.join")) >= 2)  # it may come again


def test_a_session_is_made_anew_for_what_its_peer_does(lab: Lab, tmp_path: Path) -> None:
    with nodes(lab, tmp_path, rule("lossy", **LOST, action="rotate")) as (a, b):
        wait_until(lambda: session(a)["state"] == "up")
        first = session(a)["local"]
        with losing(a, b) as lose:
            lose("intrusion.rotate")
            wait_until(lambda: session(a)["local"] not in ("", first))
        assert a.on_record("peer.leave") == []  # its streams went on
        wait_until(lambda: [r["anew"] for r in a.on_record("peer.join")][1:] == [False])


@pytest.mark.parametrize("path", ["udp", "xdp"])
def test_a_peer_is_blocked_in_the_kernel_while_the_alarm_lasts(
    lab: Lab, tmp_path: Path, path: str
) -> None:
    policy = rule("lossy", **LOST | {"window_s": 2}, hold_s=1, action="block")
    retry = "[session]\nretry_ms = 100\nretry_max_ms = 100\n"
    with nodes(lab, tmp_path, policy + retry, path) as (a, b):
        with losing(a, b) as lose:
            lose("intrusion.block")
        wait_until(lambda: blocked(a) > 0)  # b asks again
        assert session(a)["local"] == ""
        wait_until(lambda: a.status()["alarms"] == [], 10.0)
        wait_until(lambda: session(a)["state"] == "up", 10.0)  # and is let in
        over = blocked(a)
        wait_until(lambda: a.on_record("intrusion.over") == [{"rule": "lossy"}])
        assert session(a)["state"] == "up"
        assert blocked(a) == over


def test_a_block_ends_though_the_daemon_that_asked_for_it_is_dead(lab: Lab, tmp_path: Path) -> None:
    policy = rule("lossy", **LOST, hold_s=3, action="block")
    retry = "[session]\nretry_ms = 100\nretry_max_ms = 100\n"
    with nodes(lab, tmp_path, policy + retry) as (a, b):
        with losing(a, b) as lose:
            lose("intrusion.block")
        wait_until(lambda: blocked(a) > 0)
        psutil.Process(a.pid("daemon")).kill()
        wait_until(lambda: a.status()["daemon"]["restarts"] == 1)
        before = blocked(a)
        wait_until(lambda: blocked(a) > before)  # its death ends nothing
        wait_until(lambda: session(a)["state"] == "up", 15.0)
