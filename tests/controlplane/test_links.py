"""Sessions of real nodes: handshake, restart, death, another address."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from pyroute2 import IPRoute

import valkyrie
from tests.lab import PATIENCE, SOON_S, Lab, wait_until
from tests.nodes import (
    NodeUnderTest,
    expect,
    joined,
    make_node,
    make_pair,
    make_secure_pair,
    running,
    session,
    streams,
)
from valkyrie.controlplane.security.identity_file import load_or_make
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.refusal import (
    StreamResetError,
    StreamsFullError,
    UnreachableError,
    UntrustedError,
)
from valkyrie.dataplane.application.stream import SyncStream
from valkyrie.dataplane.wire import Class
from valkyrie.shm.counters import CountersPage

Pair = tuple[NodeUnderTest, NodeUnderTest]

LATE = "[session]\nkeepalive_tries = 10\n"
"""On cores that many share, a worker that was killed is back later than a peer waits by default."""


@pytest.fixture(params=["udp", "xdp", "udp sealed", "xdp sealed"])
def pair(lab: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two running nodes."""
    path, _, sealed = request.param.partition(" ")
    make = make_secure_pair if sealed else make_pair
    nodes = make(lab, tmp_path, path=path, extra=LATE)
    with running(*nodes):
        yield nodes


def test_nodes_shake_hands_and_then_exchange_messages(pair: Pair) -> None:
    wait_until(lambda: joined(*pair), 5.0, "both have joined")
    a, b = pair
    row = session(a)
    assert int(row["local"], 16) != 0
    assert row["age_s"] >= 0
    with streams(a, b) as (out, into):
        out.send(b"hello")
        expect(into, b"hello")
    for node in pair:
        kinds = node.status()["control_frames"]
        assert "malformed" not in kinds
        assert {"auth_response", "auth_success"} & kinds.keys()


def test_sessions_outlive_worker_and_daemon(pair: Pair) -> None:
    wait_until(lambda: joined(*pair), 5.0, "both have joined")
    a, b = pair
    before = session(a)
    with streams(a, b) as (out, into):
        for child in ("daemon", "worker"):
            for node in pair:
                victim = node.pid(child)
                for process in node.children():
                    if process.pid == victim:
                        process.kill()
                wait_until(partial(anew, node, child, victim), 10.0, f"another {child}")
            out.send(child.encode())
            expect(into, child.encode())
    after = session(a)
    if not before["cipher"]:  # else the new daemons had to prove themselves, and made a new one
        assert (after["local"], after["remote"]) == (before["local"], before["remote"])


def anew(node: NodeUnderTest, child: str, old: int) -> bool:
    """Say whether a node has another worker or daemon."""
    try:
        return node.pid(child) not in (0, old)
    except (OSError, KeyError):
        return False


def test_a_node_that_was_killed_and_started_anew_is_found_out_by_the_next_message(
    lab: Lab, tmp_path: Path
) -> None:
    patient = "[session]\nkeepalive_ms = 60000\neager = false\n"
    a, b = make_pair(lab, tmp_path, extra=patient)
    with running(a, b), valkyrie.attach_sync(a.socket) as one:
        with valkyrie.attach_sync(b.socket) as other, other.listen("echo") as service:
            out = one.connect("b").open("echo", stream=1000)
            out.send(b"first")
            assert service.accept(timeout=SOON_S).recv(timeout=SOON_S)
            before = session(a)
            kill(b)
        b.start()
        began = time.monotonic()
        out.send(b"second")
        with pytest.raises(StreamResetError) as caught:
            out.recv(timeout=SOON_S)
        assert caught.value.code == lib.VK_CODE_PEER_RESTARTED
        assert time.monotonic() - began < 1.0 * PATIENCE
        wait_until(lambda: joined(a, b), 5.0, "both have joined anew")
        assert session(a)["local"] != before["local"]
        with valkyrie.attach_sync(b.socket) as other, other.listen("echo") as service:
            again = one.connect("b").open("echo", stream=1000)
            again.send(b"third")
            assert service.accept(timeout=SOON_S).recv(timeout=SOON_S)


def kill(node: NodeUnderTest) -> None:
    """Kill a node with all its processes, before any of them can say that others are gone."""
    assert node.process is not None
    family = node.children()
    for process in family:
        process.suspend()
    node.process.kill()
    node.process.wait()
    for process in family:
        process.kill()
        process.wait(10 * PATIENCE)


def test_the_streams_of_a_dead_peer_end_and_it_is_found_again(lab: Lab, tmp_path: Path) -> None:
    a, b = make_pair(lab, tmp_path, extra="[session]\nretry_ms = 100\nretry_max_ms = 200\n")
    with running(a, b), streams(a, b) as (out, _):
        began = time.monotonic()
        freeze(b, signal.SIGSTOP)
        try:
            with pytest.raises(StreamResetError) as caught:
                out.recv(timeout=SOON_S)
        finally:
            freeze(b, signal.SIGCONT)
        assert caught.value.code == lib.VK_CODE_UNREACHABLE
        assert 0.2 < time.monotonic() - began < 1.0 * PATIENCE
        wait_until(lambda: joined(a, b), 10.0, "both have joined again")


def test_a_peers_limit_of_streams_and_its_keepalive_hold_here_too(lab: Lab, tmp_path: Path) -> None:
    a, b = make_pair(lab, tmp_path, extra="[session]\nkeepalive_ms = 60000\n")
    terms = "[session]\nkeepalive_ms = 700\n[transport]\nstreams_max = 2\n"
    b.config.write_text(b.config.read_text().replace("[session]\nkeepalive_ms = 60000\n", terms))
    with (
        running(a, b),
        valkyrie.attach_sync(a.socket) as one,
        valkyrie.attach_sync(b.socket) as other,
        other.listen("echo") as service,
    ):
        peer = one.connect("b")
        opened = [peer.open("echo", stream=1000 + each) for each in range(2)]
        accepted = [service.accept(timeout=SOON_S) for _ in range(2)]
        assert [session(node)["keepalive_ms"] for node in (a, b)] == [700, 700]
        for limited in (peer, other.connect("a")):
            with pytest.raises(StreamsFullError):
                limited.open("echo", stream=1002)
        assert session(b)["streams"] == 2
        opened[0].close()
        accepted[0].close()

        def has_room() -> bool:
            try:
                peer.open("echo", stream=1003).send(b"again")
            except StreamsFullError:
                return False
            return True

        wait_until(has_room, 5.0, "the stream that ended makes room")
        message = service.accept(timeout=SOON_S).recv(timeout=SOON_S)
        assert message is not None
        assert message.payload == b"again"


def freeze(node: NodeUnderTest, number: signal.Signals) -> None:
    """Stop a node's processes, or let them go on."""
    assert node.process is not None
    for process in node.children():
        process.send_signal(number)
    node.process.send_signal(number)


def test_a_node_stops_in_order_while_somebody_waits_for_a_silent_peer(
    lab: Lab, tmp_path: Path
) -> None:
    a, b = make_secure_pair(lab, tmp_path)
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        freeze(b, signal.SIGSTOP)
        try:
            with a.connect() as connection:
                connection.sendall(appsocket.encode_request(appsocket.Rotate("b")))
                a.status()  # it has begun
                assert a.stop() == 0
        finally:
            freeze(b, signal.SIGCONT)
        assert a.on_record("node.stop")


def test_a_peer_that_does_not_answer_is_refused_after_the_handshake_time(
    lab: Lab, tmp_path: Path
) -> None:
    a, b = make_pair(lab, tmp_path, extra="[session]\nhandshake_ms = 300\n")
    with running(a), valkyrie.attach_sync(a.socket) as one:
        began = time.monotonic()
        with pytest.raises(UnreachableError):
            one.connect("b").open("echo", stream=1000)
        assert time.monotonic() - began < 0.8 * PATIENCE
        with running(b), valkyrie.attach_sync(b.socket) as other, other.listen("echo"):
            wait_until(lambda: joined(a, b), 10.0, "the peer that came later has joined")
            one.connect("b").open("echo", stream=1000).close()


def test_a_peer_whose_address_changes_keeps_its_session_and_its_streams(pair: Pair) -> None:
    a, b = pair
    with (
        valkyrie.attach_sync(a.socket) as one,
        valkyrie.attach_sync(b.socket) as other,
        one.listen("echo") as service,
    ):
        out = other.connect("a").open("echo", stream=1000)
        out.send(b"first")
        into = service.accept(timeout=SOON_S)
        assert into.recv(timeout=SOON_S)
        before = session(a)
        old = b.link.v4
        new = IPv4Interface(f"{old.ip + 100}/{old.network.prefixlen}")
        b.host.run(remove_address, b.link.index, old)
        b.host.add_address(b.link.index, new)
        out.send(b"second")
        expect(into, b"second")
        wait_until(lambda: session(a)["address"] == str(new.ip), 5.0, "the peer is elsewhere")
        into.send(b"third")
        assert out.recv(timeout=SOON_S)
        after = session(a)
        assert (after["local"], after["remote"]) == (before["local"], before["remote"])


def remove_address(index: int, address: IPv4Interface) -> None:
    """Take an address off an interface."""
    with IPRoute() as routes:
        routes.addr(
            "del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen
        )


def test_a_node_sends_no_more_in_a_datagram_than_the_other_takes(lab: Lab, tmp_path: Path) -> None:
    a, b = lab.wire(lab.host("a"), lab.host("b"), mtu=3000)
    first = make_node(a, tmp_path, {"b": str(b.v4.ip)}, path="udp")
    second = make_node(b, tmp_path, {"a": str(a.v4.ip)}, path="xdp")

    def payload_max() -> object:
        return first.status()["peers"][0].get("payload_max")

    with running(first, second):
        wait_until(lambda: joined(first, second), 5.0, "both have joined")
        assert second.status()["interfaces"][0]["rx"]["mode"].startswith("xdp")
        wait_until(lambda: payload_max() == lib.VK_XDP_PAYLOAD_MAX)
        pid = first.pid("daemon")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: anew(first, "daemon", pid), 10.0)
        wait_until(lambda: payload_max() == lib.VK_XDP_PAYLOAD_MAX)


# ---- Sessions with keys ----


@pytest.mark.parametrize(
    ("modes", "mode", "safe"),
    [('["noise"]', "noise", False), ('["noise", "post_quantum"]', "post_quantum", True)],
)
def test_a_node_says_how_a_session_is_protected_and_who_the_peer_is(
    lab: Lab, tmp_path: Path, modes: str, mode: str, safe: bool
) -> None:
    a, b = make_secure_pair(lab, tmp_path, modes=modes)
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        row = session(a)
        assert (row["mode"], row["pattern"], row["cipher"]) == (mode, "XX", "aes_256_gcm")
        assert row["post_quantum"] is safe
        assert row["epoch"] == 0
        text = a.config.read_text()
        assert f'fingerprint = "{row["fingerprint"]}"' in text


def test_a_peer_with_another_identity_is_refused_with_the_reason(lab: Lab, tmp_path: Path) -> None:
    quick = "[session]\nretry_ms = 100\nretry_max_ms = 200\n"
    a, b = make_secure_pair(lab, tmp_path, extra=quick)
    (tmp_path / "b.key").unlink()
    load_or_make(tmp_path / "b.key")
    with running(a, b), valkyrie.attach_sync(a.socket) as one:
        wait_until(lambda: session(a)["reason"] == "identity", 5.0, "a says why")
        with pytest.raises(UntrustedError) as caught:
            one.connect("b").open("echo", stream=1000)
        assert caught.value.code == lib.VK_CODE_IDENTITY
        assert "did not prove" in str(caught.value)
        assert session(a)["state"] != "up"

        def refused() -> str:  # when b asks, it is only somebody whom a does not know
            why: str = session(a)["why"]
            return why if " should be " in why else ""

        why = wait_until(refused, 5.0, "a says whom it wanted")
        assert a.said().count(f"no session with peer 'b': {why}") == 1


def test_two_nodes_that_demand_different_things_say_that_it_is_the_floor(
    lab: Lab, tmp_path: Path
) -> None:
    demands = ('modes = ["noise"]', 'modes = ["post_quantum"]')
    nodes = make_secure_pair(lab, tmp_path)
    for node, only in zip(nodes, demands, strict=True):
        text = node.config.read_text()
        node.config.write_text(text.replace('modes = ["noise", "post_quantum"]', only))
    with running(*nodes):
        for node in nodes:
            wait_until(partial(refused_by_floor, node), 5.0, "both say why")


def refused_by_floor(node: NodeUnderTest) -> bool:
    """Say whether a node's only session has failed for what one side demands."""
    return bool(session(node)["reason"] == "security floor")


def test_a_daemon_that_was_killed_takes_a_sealed_session_over_and_makes_it_anew(
    lab: Lab, tmp_path: Path
) -> None:
    a, b = make_secure_pair(lab, tmp_path)
    with running(a, b), streams(a, b) as (out, into):
        before = session(a)
        pid = a.pid("daemon")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: anew(a, "daemon", pid), 10.0)
        wait_until(lambda: joined(a, b) and bool(session(a)["mode"]), 5.0, "it is made anew")
        assert session(a)["local"] != before["local"]
        out.send(b"second")
        expect(into, b"second")


def test_a_session_is_rotated_and_killed_on_demand(lab: Lab, tmp_path: Path) -> None:
    a, b = make_secure_pair(lab, tmp_path)
    with running(a, b), streams(a, b) as (out, into):
        before = session(a)
        for node, peer in ((a, "b"), (b, "a"), (a, "b")):
            reply = node.ask(appsocket.Rotate(peer))
            assert (reply.code, reply.document["rotated"]) == (0, True), reply.message
            out.send(peer.encode())
            expect(into, peer.encode())
        wait_until(lambda: joined(a, b), 5.0, "both have the last one")
        assert session(a)["local"] != before["local"]
        assert a.ask(appsocket.Rotate("c")).code == lib.VK_CODE_NO_PEER
        assert a.ask(appsocket.Kill("c")).code == lib.VK_CODE_NO_PEER
        assert a.ask(appsocket.Kill("b")).code == 0
        for stream in (out, into):
            with pytest.raises(StreamResetError) as caught:
                stream.recv(timeout=SOON_S)
            assert caught.value.code == lib.VK_CODE_SESSION_CLOSED


class Logger(threading.Thread):
    """Sends numbered logs from one node to another, and reads them there, until it is stopped."""

    def __init__(self, source: NodeUnderTest, target: NodeUnderTest, peer: str) -> None:
        super().__init__()
        self._ends = source.socket, target.socket, peer
        self.sent = 0
        self.numbers: list[int] = []
        self.stop = threading.Event()
        self.start()

    def run(self) -> None:
        source, target, peer = self._ends
        with (
            valkyrie.attach_sync(source) as one,
            valkyrie.attach_sync(target) as other,
            other.listen("log") as service,
        ):
            out = one.connect(peer).open("log", cls="logs")
            into = service.accept(timeout=SOON_S)
            while not self.stop.wait(0.0005):
                out.send(self.sent.to_bytes(8, "big"))
                self.sent += 1
                self._read(into, 0)
            self._read(into, 1)

    def _read(self, into: SyncStream, patience_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            while len(self.numbers) < self.sent:
                message = into.recv(timeout=patience_s)
                assert message is not None
                self.numbers.append(int.from_bytes(message.payload, "big"))


@pytest.mark.parametrize("path", ["udp", "xdp", "xdp/xdp"])
def test_a_hundred_sessions_in_a_row_lose_no_log(lab: Lab, tmp_path: Path, path: str) -> None:
    a, b = make_secure_pair(lab, tmp_path, path=path)
    with running(a, b):
        loggers = [Logger(a, b, "b"), Logger(b, a, "a")]
        try:
            wait_until(lambda: all(each.numbers for each in loggers), 10.0, "logs come")
            for turn in range(100):
                node, peer = ((a, "b"), (b, "a"))[turn % 2]
                reply = node.ask(appsocket.Rotate(peer))
                assert (reply.code, reply.document["rotated"]) == (0, True), reply.message
        finally:
            for each in loggers:
                each.stop.set()
                each.join()
        for each in loggers:
            assert each.sent > 100
            assert sorted(each.numbers) == list(range(each.sent))


def heard_in_session(node: NodeUnderTest) -> int:
    """Return how many frames of the system class a node has taken in."""
    node.status()  # it is there
    with CountersPage(node.name) as page:
        return page.class_row(Class.SYSTEM)["rx_frames"]


@pytest.mark.parametrize("path", ["udp", "xdp"])
def test_streams_that_are_idle_outlive_a_flood_of_the_control_class(
    lab: Lab, tmp_path: Path, path: str
) -> None:
    a, b = make_secure_pair(lab, tmp_path, path=path)
    with running(a, b), streams(a, b) as (out, into):
        before, heard = session(a)["local"], [heard_in_session(node) for node in (a, b)]
        for node in (a, b):  # a flood's effect: next to nothing is let in
            tune = appsocket.Tune(
                {"class.control.rate_packets": 1, "class.control.burst_packets": 1}
            )
            assert node.ask(tune).code == 0
        wait_until(
            lambda: all(
                heard_in_session(node) >= count + 50
                for node, count in zip((a, b), heard, strict=True)
            ),
            30.0,
            "both have asked and were answered",
        )
        assert session(a)["local"] == before
        out.send(b"second")
        expect(into, b"second")


@pytest.mark.parametrize("path", ["udp", "xdp"])
def test_a_node_whose_daemon_stands_still_is_not_taken_for_dead(
    lab: Lab, tmp_path: Path, path: str
) -> None:
    a, b = make_secure_pair(lab, tmp_path, path=path)
    with running(a, b), streams(a, b) as (out, into):
        before = session(a)["local"]
        pid = b.pid("daemon")
        heard = heard_in_session(a)
        os.kill(pid, signal.SIGSTOP)
        try:  # a question every 100 ms, and four without an answer would be the end
            wait_until(lambda: heard_in_session(a) >= heard + 8, 5.0, "b's worker answers")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert session(a)["local"] == before
        out.send(b"second")
        assert into.recv(timeout=SOON_S)
