"""The daemon and real applications: policy, peers, services, live parameters, the ledger."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import psutil
import pytest

import valkyrie
from tests.lab import PATIENCE, SOON_S, Lab, wait_until
from tests.nodes import (
    EVERYTHING,
    NodeUnderTest,
    joined,
    make_node,
    make_pair,
    make_secure_pair,
    running,
)
from valkyrie.controlplane.counters.readout import Page, Signals
from valkyrie.controlplane.security.identity import Identity
from valkyrie.controlplane.security.local import Local
from valkyrie.controlplane.security.messages import whole
from valkyrie.controlplane.security.modes import Mode, Policy
from valkyrie.controlplane.security.trust import Pins
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.node import SyncNode
from valkyrie.dataplane.application.peer import SyncPeer
from valkyrie.dataplane.application.refusal import NoPeerError
from valkyrie.dataplane.wire import PORT, Type

Pair = tuple[NodeUnderTest, NodeUnderTest]

STREAMS = {"critical": 0, "system": 7, "job": 100, "data": 1000, "logs": 10_000}


@pytest.fixture(params=["udp", "xdp"])
def pair(lab: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two running nodes."""
    nodes = make_pair(lab, tmp_path, path=request.param)
    with running(*nodes):
        yield nodes


def send_through(sender: SyncNode, receiver: SyncNode, count: int = 100) -> None:
    """Send messages of every class and see them arrive."""
    peer = sender.connect("b")
    for name, stream in STREAMS.items():
        with receiver.listen(name) as service:
            out = peer.open(name, stream=stream)
            into = service.accept(timeout=SOON_S)
            for number in range(count):
                out.send(b"%d" % number)
            got = [into.recv(timeout=SOON_S) for _ in range(count)]
            assert [each.payload for each in got if each] == [b"%d" % n for n in range(count)]


def test_messages_of_every_class_arrive_and_the_ledger_is_zero(pair: Pair) -> None:
    a, b = pair
    with (
        valkyrie.attach_sync(a.socket, name="sender") as sender,
        valkyrie.attach_sync(b.socket, name="receiver") as receiver,
    ):
        send_through(sender, receiver)
        applications = b.status()["applications"]
        assert [(each["name"], each["pid"]) for each in applications] == [("receiver", os.getpid())]
    for node in pair:
        wait_until(lambda node=node: node.status()["ledger"]["residual"] == 0)  # type: ignore[misc]
        document = node.status()
        assert document["applications"] == []
        for census in document["census"].values():
            assert census["twice"] == 0
            assert census["total"] == census["frames"]


def test_asyncio_applications_work_too(pair: Pair) -> None:
    a, b = pair

    async def serve(ready: asyncio.Event) -> bytes:
        async with valkyrie.attach(b.socket) as node, node.listen("echo") as service:
            ready.set()
            stream = await service.accept(timeout=SOON_S)
            async for message in stream:
                return bytes(message.payload)
        return b""

    async def both() -> bytes:
        ready = asyncio.Event()
        server = asyncio.create_task(serve(ready))
        await ready.wait()
        async with valkyrie.attach(a.socket) as node:
            stream = await (await node.connect("b")).open("echo", stream=100)
            await stream.send(b"hello")
            return await server

    assert asyncio.run(both()) == b"hello"


def test_a_slot_is_free_again_after_its_application_left(pair: Pair) -> None:
    a, _ = pair
    for _ in range(lib.VK_APPS_MAX + 3):
        with valkyrie.attach_sync(a.socket):
            pass
    with valkyrie.attach_sync(a.socket):
        wait_until(lambda: len(a.status()["applications"]) == 1)


def test_peers_go_by_name_and_by_address(pair: Pair) -> None:
    a, _ = pair
    peers = a.status()["peers"]
    assert [(each["name"], each["resolved"], each["reason"]) for each in peers] == [("b", True, "")]
    with valkyrie.attach_sync(a.socket) as node:
        node.connect("b")
        node.connect("10.9.0.2")
        with pytest.raises(NoPeerError, match="known: b"):
            node.connect("10.9.0.77")


def test_a_service_has_one_application(pair: Pair) -> None:
    a, _ = pair
    with valkyrie.attach_sync(a.socket) as one, valkyrie.attach_sync(a.socket) as two:
        refused = pytest.raises(valkyrie.StreamInUseError, match="another application listens")
        with one.listen("clock"), refused:
            two.listen("clock")
        two.listen("clock")


def test_rates_change_live(pair: Pair) -> None:
    a, b = pair
    with (
        valkyrie.attach_sync(a.socket) as sender,
        valkyrie.attach_sync(b.socket) as receiver,
        receiver.listen("system") as service,
    ):
        out = sender.connect("b").open("system", stream=7)
        into = service.accept(timeout=SOON_S)
        b.ask(
            appsocket.Tune(
                {"class.system.rate_packets": 1, "class.system.burst_packets": 1, "worker.stamp": 1}
            )
        )
        assert b.status()["classes"]["system"]["rate_packets"] == 1

        def sent_and_dropped() -> bool:
            out.send(b"x" * 1200)
            return rate_drops(b) >= 20

        wait_until(sent_and_dropped)
        b.ask(appsocket.Tune({"class.system.rate_packets": 0, "class.system.burst_packets": 1024}))
        out.send(b"free again")
        while (message := into.recv(timeout=SOON_S)) is not None:
            if message.payload == b"free again":
                break


def rate_drops(node: NodeUnderTest) -> int:
    from valkyrie.shm.counters import CountersPage

    node.status()
    with CountersPage(node.name) as page:
        return sum(int(port.packets[2][lib.VK_DROP_CLASS_RATE]) for _, port in page.ports())


def test_a_wrong_key_or_value_is_refused_and_changes_nothing(pair: Pair) -> None:
    a, _ = pair
    before = a.status()["classes"]
    wrong: list[dict[str, int | str]] = [
        {"class.logs.rate": 1},
        {"worker.spin_us": -1},
        {"node.udp_port": 5},
        {"transport.controller": "reno"},
    ]
    for values in wrong:
        reply = a.ask(appsocket.Tune(values))
        assert reply.code == lib.VK_CODE_POLICY
        assert reply.message
    assert a.status()["classes"] == before


DENIED: list[tuple[str, dict[str, Any]]] = [
    ("", {"code": lib.VK_CODE_POLICY, "message": "no [[application]] rule matches uid 0"}),
    (
        EVERYTHING.replace("attachments_max = 64", "attachments_max = 64\nmemory_bytes_max = 4096"),
        {"code": lib.VK_CODE_POLICY, "message": "memory_bytes_max"},
    ),
]


@pytest.mark.parametrize(("policy", "answer"), DENIED)
def test_who_is_not_allowed_gets_no_rings(
    lab: Lab, tmp_path: Path, policy: str, answer: dict[str, Any]
) -> None:
    link, _ = lab.wire(lab.host("a"), lab.host("b"))
    node = make_node(link, tmp_path, {}, policy=policy)
    with running(node):
        reply = node.ask(appsocket.Attach())
        assert reply.code == answer["code"]
        assert answer["message"] in reply.message
        assert node.status()["applications"] == []


def test_services_and_peers_are_the_policys_business(lab: Lab, tmp_path: Path) -> None:
    policy = EVERYTHING.replace('listen = ["*"]', 'listen = ["job-*"]').replace(
        'peers = ["*"]', 'peers = ["c"]'
    )
    a, b = lab.wire(lab.host("a"), lab.host("b"))
    node = make_node(a, tmp_path, {"b": str(b.v4.ip)}, policy=policy)
    with running(node), valkyrie.attach_sync(node.socket) as application:
        application.listen("job-1")
        with pytest.raises(valkyrie.PolicyError, match="does not allow listening"):
            application.listen("web")
        with pytest.raises(valkyrie.PolicyError, match="does not allow peer"):
            application.connect("b")


def test_a_ring_opens_streams_only_to_peers_of_its_rule(lab: Lab, tmp_path: Path) -> None:
    policy = EVERYTHING.replace('peers = ["*"]', 'peers = ["b"]')
    a, b = lab.wire(lab.host("a"), lab.host("b"))
    peers = {"not-for-it": str(b.v6.ip), "b": str(b.v4.ip)}
    left = make_node(a, tmp_path, peers, policy=policy)
    right = make_node(b, tmp_path, {"a": str(a.v4.ip)})
    with (
        running(left, right),
        valkyrie.attach_sync(right.socket) as theirs,
        valkyrie.attach_sync(left.socket) as ours,
        theirs.listen("x") as service,
    ):
        peer = ours.connect("b")

        def others() -> None:  # who writes to its rings asks the daemon for nothing
            for index in (0, 2, lib.VK_PEERS_MAX - 1):
                wanted = valkyrie.PolicyError if index == 0 else valkyrie.RefusedError
                with pytest.raises(wanted):
                    SyncPeer(ours._driver, index, "raw", 4).open("x", cls="job")

        def both() -> None:
            others()
            peer.open("x", cls="job").send(b"hello")
            message = service.accept(timeout=SOON_S).recv(timeout=SOON_S)
            assert message is not None
            assert message.payload == b"hello"

        both()
        psutil.Process(left.pid("daemon")).kill()
        wait_until(lambda: left.status()["daemon"]["restarts"] == 1)
        both()
        psutil.Process(left.pid("worker")).kill()
        wait_until(lambda: left.status()["worker"]["restarts"] == 1)
        both()


def test_a_peer_is_found_when_its_route_appears(lab: Lab, tmp_path: Path) -> None:
    a, b = lab.wire(lab.host("a"), lab.host("b"))
    node = make_node(a, tmp_path, {"far": "10.99.0.1"})
    with running(node):
        assert node.status()["peers"][0]["resolved"] is False
        assert "route" in node.status()["peers"][0]["reason"]
        a.host.run(a.host.netlink.route, "add", dst="10.99.0.0/24", gateway=str(b.v4.ip))
        wait_until(lambda: node.status()["peers"][0]["resolved"])
        assert node.status()["peers"][0]["mac"] == b.mac
        a.host.run(a.host.netlink.link, "set", index=a.index, state="down")
        wait_until(lambda: not node.status()["peers"][0]["resolved"])


_AS_NOBODY = """
import sys
import valkyrie
from valkyrie.controlplane.cli.client import ask
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.refusal import RefusedError
try:
    with valkyrie.attach_sync(sys.argv[1]) as node:
        print(*node.classes)
except RefusedError as error:
    print("no rule" if "no [[application]] rule" in str(error) else error)
asked = (appsocket.Status(), appsocket.Tune({"worker.spin_us": 1}), appsocket.Upgrade())
for request in (*asked, appsocket.Stop()):
    try:
        ask(sys.argv[1], request, 60)
        print("yes")
    except RefusedError as error:
        print(str(error).partition("the role ")[2] or error)
"""

_ONE_GROUP = EVERYTHING.replace("anybody = true", 'user = "{}"').replace(
    '["critical", "system", "job", "data", "logs"]', '["system", "logs"]'
)
_NOBODY_IS = '[[operator]]\nname = "x"\nuser = "nobody"\nroles = ["{}"]\n'
_NO = {role: f"'{role}' may do that" for role in ("read", "tune", "load", "administer")}
WHAT_NOBODY_MAY = {
    # number: (who may attach, nobody's role; answers to attach, status, tune, upgrade, stop)
    1: ("nobody", "", ["system logs", "yes", _NO["tune"], _NO["load"], _NO["administer"]]),
    2: ("root", "", ["no rule", _NO["read"], _NO["tune"], _NO["load"], _NO["administer"]]),
    3: ("root", "tune", ["no rule", "yes", "yes", _NO["load"], _NO["administer"]]),
    4: ("root", "load", ["no rule", "yes", _NO["tune"], "yes", _NO["administer"]]),
    5: ("root", "administer", ["no rule", "yes", "yes", "yes", "yes"]),
}


@pytest.mark.parametrize("number", WHAT_NOBODY_MAY)
def test_the_policy_knows_users_and_their_roles(lab: Lab, number: int) -> None:
    application, role, expected = WHAT_NOBODY_MAY[number]
    policy = _ONE_GROUP.format(application) + (_NOBODY_IS.format(role) if role else "")
    link, _ = lab.wire(lab.host("a"), lab.host("b"))
    with tempfile.TemporaryDirectory() as public:  # pytest's own are closed to others
        # The daemon's user may administer, so it has to be another one than the application's.
        node = make_node(link, Path(public), {}, policy=policy, user="daemon")
        with running(node):
            process = node.host.popen(
                [sys.executable, "-c", _AS_NOBODY, node.socket],
                user="nobody",
                stdout=subprocess.PIPE,
            )
            said = process.communicate(timeout=60 * PATIENCE)[0].decode().splitlines()
            assert said == expected
            if role == "administer":  # it was stopped
                assert node.process is not None
                node.process.wait(timeout=10 * PATIENCE)
            else:
                assert node.status()["applications"] == []


def test_a_session_is_tuned_under_traffic_and_says_how_it_fares(pair: Pair) -> None:
    a, b = pair
    with (
        valkyrie.attach_sync(a.socket, name="sender") as sender,
        valkyrie.attach_sync(b.socket, name="receiver") as receiver,
        receiver.listen("numbers") as service,
        sender.connect("b").open("numbers", stream=100) as out,
        service.accept(timeout=SOON_S) as into,
    ):
        out.send(b"before")
        assert into.recv(timeout=SOON_S)
        tuned = a.ask(appsocket.Tune({"controller": "delay", "ack_delay_us": 50}, "b"))
        assert tuned.document["applied"] is True
        out.send(b"after")
        assert into.recv(timeout=SOON_S)
        wait_until(lambda: session_of(a).values["acked"] >= 2)
        now = session_of(a)
        assert now.controller == "delay"
        assert 0 < now.values["rtt_min_ns"] <= now.values["rtt_ns"] < 10**9
        assert now.values["sent"] >= now.values["acked"] > 0
        assert now.values["window"] >= 2 * 1200
        assert session_of(b).controller == "cubic"
        back = a.ask(appsocket.Tune({"controller": "node"}, "b"))
        assert back.document == {"ack_delay_us": 50, "version": 2, "applied": True}
        wait_until(lambda: session_of(a).controller == "cubic")
    unknown = a.ask(appsocket.Tune({"controller": "delay"}, "nobody"))
    assert unknown.code == lib.VK_CODE_NO_PEER
    assert "peers are: b" in unknown.message


def session_of(node: NodeUnderTest) -> Signals:
    with Page(node.name) as page:
        wait_until(lambda: page.read().sessions != [])  # the worker writes them once a tick
        (session,) = page.read().sessions
    return session


def hellos(a: NodeUnderTest, count: int) -> list[bytes]:
    """Return packets with a HELLO each, of as many addresses and attempts; some are the peer's."""
    sender, receiver = a.link, a.link.v4.ip + 1
    hello = Local(
        Identity.generate(), Pins({}), Policy(modes=frozenset({Mode.NOISE}), min_mode=Mode.NOISE)
    ).offer(None, os.urandom, bytes(8))
    found = []
    for number in range(count):
        attempt = int.from_bytes(os.urandom(8), "big")
        data = whole(Type.HELLO, attempt, hello.pack()).pack()
        source = sender.v4.ip if number % 4 == 0 else IPv4Address(0x0A090003 + number)
        ports = (1024 + number).to_bytes(2, "big") + PORT.to_bytes(2, "big")
        udp = ports + (8 + len(data)).to_bytes(2, "big") + bytes(2) + data
        ip = b"\x45\0" + (20 + len(udp)).to_bytes(2, "big") + bytes(4) + b"\x40\x11\0\0"
        ip += source.packed + receiver.packed
        total = sum(int.from_bytes(ip[at : at + 2], "big") for at in range(0, 20, 2))
        checksum = 0xFFFF - (total % 0xFFFF)
        found.append(ip[:10] + checksum.to_bytes(2, "big") + ip[12:] + udp)
    return found


@pytest.mark.parametrize("path", ["udp", "xdp"])
def test_a_flood_of_forged_hellos_grows_nothing_and_an_honest_peer_joins_meanwhile(
    lab: Lab, tmp_path: Path, path: str
) -> None:
    a, b = make_secure_pair(lab, tmp_path, path=path)
    with running(b):
        raw = a.host.packet_socket(a.link.name)
        mac = [each.link.mac.replace(":", "") for each in (b, a)]
        ethernet = bytes.fromhex(mac[0] + mac[1] + "0800")
        daemon = psutil.Process(b.pid("daemon"))

        def flood(count: int) -> None:
            before = b.status()["control_frames"].get("hello", 0)
            for packet in hellos(a, count):
                raw.send(ethernet + packet)
            wait_until(
                lambda: b.status()["control_frames"].get("hello", 0) > before, what="some came"
            )

        with raw:
            flood(3_000)
            grown, kept = daemon.memory_info().rss, b.status()["handshakes"]
            flood(3_000)
            wait_until(lambda: daemon.memory_info().rss <= grown + (1 << 20), what="no growth")
            assert b.status()["handshakes"] == kept == {"kept": 0, "under_way": 0}
            with running(a):
                began_s = time.monotonic()
                while not joined(a, b):
                    for packet in hellos(a, 200):
                        raw.send(ethernet + packet)
                    assert time.monotonic() - began_s < 10 * PATIENCE
