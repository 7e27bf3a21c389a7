"""Two hosts that nobody prepared become two nodes that talk in secret, by commands alone."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from socket import socket as Socket  # noqa: N812

import pytest

import valkyrie
from tests.lab import SOON_S, Lab, wait_until
from tests.nodes import PLAIN, NodeUnderTest, joined, make_node, running, session
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import appsocket

from .test_cli import valkyrie as command

MARKER = b"nobody on the way may read this line"


IDENTITY = 'identity_file = "{0}.key"\nrevoked_file = "{0}.revoked.toml"\n{1}'


def introduce(node: NodeUnderTest, name: str, address: str, fingerprint: str = "") -> None:
    arguments = ["peer", "add", name, address, *([fingerprint] if fingerprint else [])]
    result = command(*arguments, "--config", node.config)
    assert result.returncode == 0, result


def own(node: NodeUnderTest) -> str:
    """Make a node's identity and return its fingerprint."""
    result = command("key", "new", "--config", node.config)
    assert result.returncode == 0, result
    return result.stdout.strip()


def make(lab: Lab, folder: Path, security: str) -> tuple[NodeUnderTest, NodeUnderTest]:
    links = lab.wire(lab.host("a"), lab.host("b"))
    nodes = []
    for link, name in zip(links, "ab", strict=True):
        node = make_node(link, folder, {}, security=IDENTITY.format(name, security))
        text = node.config.read_text()
        node.config.write_text(
            text.replace("[node]\n", f'[node]\npeers_file = "{name}.peers.toml"\n')
        )
        nodes.append(node)
    return nodes[0], nodes[1]


def overheard(wire: Socket) -> bytes:
    """Return all that has come by on an interface."""
    found = b""
    wire.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            found += wire.recv(65536)
    return found


@pytest.mark.parametrize("protected", [True, False])
def test_what_two_nodes_say_is_read_on_the_way_only_if_they_chose_so(
    lab: Lab, tmp_path: Path, protected: bool
) -> None:
    a, b = make(lab, tmp_path, "" if protected else PLAIN)
    prints = (own(a), own(b)) if protected else ("", "")
    introduce(a, "b", str(b.link.v4.ip), prints[1])
    introduce(b, "a", str(a.link.v4.ip), prints[0])
    with a.host.packet_socket(a.link.name) as wire, running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        assert session(a)["mode"] == ("post_quantum" if protected else "plaintext")
        if protected:
            assert session(a)["fingerprint"] == prints[1]
        with (
            valkyrie.attach_sync(a.socket) as one,
            valkyrie.attach_sync(b.socket) as other,
            other.listen("ear") as service,
        ):
            out = one.connect("b").open("ear", stream=1000)
            into = service.accept(timeout=SOON_S)
            out.send(MARKER)
            message = into.recv(timeout=SOON_S)
            assert message is not None
            assert message.payload == MARKER
        said = overheard(wire)
    assert len(said) > 1000
    assert (MARKER in said) is not protected


def test_a_node_that_was_removed_is_not_let_in_again(lab: Lab, tmp_path: Path) -> None:
    a, b = make(lab, tmp_path, "")
    prints = own(a), own(b)
    introduce(a, "b", str(b.link.v4.ip), prints[1])
    introduce(b, "a", str(a.link.v4.ip), prints[0])
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
    assert command("peer", "remove", "a", "--config", b.config).returncode == 0
    with running(a, b):
        wait_until(lambda: b.status()["refused_control"].get("stranger", 0) > 2, 5.0, "a asks")
        assert session(a)["state"] != "up"
        assert b.status()["sessions"] == []


def introduced(lab: Lab, folder: Path) -> tuple[NodeUnderTest, NodeUnderTest]:
    """Return nodes that run and know each other only since."""
    a, b = make(lab, folder, "")
    prints = own(a), own(b)
    introduce(a, "b", str(b.link.v4.ip), prints[1])
    introduce(b, "a", str(a.link.v4.ip), prints[0])
    return a, b


def test_a_peer_that_is_removed_is_put_out_at_once(lab: Lab, tmp_path: Path) -> None:
    a, b = introduced(lab, tmp_path)
    with (
        running(a, b),
        contextlib.ExitStack() as stack,
    ):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        one, other = (stack.enter_context(valkyrie.attach_sync(each.socket)) for each in (a, b))
        service = stack.enter_context(other.listen("ear"))
        out = one.connect("b").open("ear", stream=1000)
        service.accept(timeout=5)
        result = command("peer", "remove", "b", "--config", a.config)
        assert result.returncode == 0
        assert "the node has put it out" in result.stderr
        with pytest.raises(valkyrie.StreamResetError, match="credential"):
            out.recv(timeout=10)
        assert a.status()["sessions"] == []
        with pytest.raises(valkyrie.NoPeerError):
            one.connect("b")
        wait_until(lambda: session(b)["state"] != "up", 10.0, "b has heard of it")
        refused = a.status()["refused_control"].get("stranger", 0)
        wait_until(
            lambda: a.status()["refused_control"].get("stranger", 0) > refused, 20.0, "b asks"
        )
    (record,) = a.on_record("admin.removepeer")
    assert "b" in record["asked"]


def test_the_daemon_that_follows_does_not_let_a_removed_peer_in(lab: Lab, tmp_path: Path) -> None:
    a, b = introduced(lab, tmp_path)
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        introduce(a, "c", "10.77.0.1", "-".join(["aaaaa"] * 8))
        introduce(a, "d", "10.77.0.2", "-".join(["bbbbb"] * 8))
        assert command("peer", "remove", "c", "--config", a.config).returncode == 0
        assert a.status()["sessions"][0]["state"] == "up"
        assert a.ask(appsocket.Tune({"worker.spin_us": 0})).code == 0
        pid = a.pid("daemon")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: another_daemon(a, pid), 10.0, "another daemon serves")
        assert [row["peer"] for row in a.status()["sessions"]] == ["b", "d"]
        assert command("peer", "remove", "b", "--config", a.config).returncode == 0
        pid = a.pid("daemon")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: another_daemon(a, pid), 10.0, "another daemon serves")
        assert [row["peer"] for row in a.status()["sessions"]] == ["d"]
        assert a.status()["worker"]["spin_us"] == 0


def test_a_removed_peer_stays_out_though_others_were_written_into_the_file(
    lab: Lab, tmp_path: Path
) -> None:
    a, b = introduced(lab, tmp_path)
    with running(a, b):
        file = tmp_path / "a.peers.toml"
        by_hand = '[[peer]]\nname = "c"\naddress = "10.77.0.1"\nfingerprint = "{}"\n'
        file.write_text(file.read_text() + by_hand.format("-".join(["aaaaa"] * 8)))
        introduce(a, "d", "10.77.0.2", "-".join(["bbbbb"] * 8))
        introduce(a, "e", "10.77.0.3", "-".join(["ccccc"] * 8))
        assert command("peer", "remove", "d", "--config", a.config).returncode == 0
        pid = a.pid("daemon")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: another_daemon(a, pid), 10.0, "another daemon serves")
        assert [row["peer"] for row in a.status()["sessions"]] == ["b", "e", "c"]


def test_a_peer_that_was_removed_can_be_added_again(lab: Lab, tmp_path: Path) -> None:
    a, b = introduced(lab, tmp_path)
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        known = session(a)["fingerprint"]
        assert command("peer", "remove", "b", "--config", a.config).returncode == 0
        introduce(a, "b", str(b.link.v4.ip), known)
        wait_until(lambda: joined(a, b), 20.0, "they have joined again")
        with (
            valkyrie.attach_sync(a.socket) as one,
            valkyrie.attach_sync(b.socket) as other,
            other.listen("ear") as service,
        ):
            out = one.connect("b").open("ear", stream=1000)
            into = service.accept(timeout=5)
            out.send(MARKER)
            assert into.recv(timeout=5) is not None


def test_nodes_that_run_know_a_new_peer_at_once_and_so_do_their_next_daemons(
    lab: Lab, tmp_path: Path
) -> None:
    a, b = make(lab, tmp_path, "")
    prints = own(a), own(b)
    with running(a, b):
        introduce(a, "b", str(b.link.v4.ip), prints[1])
        introduce(b, "a", str(a.link.v4.ip), prints[0])
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        introduce(a, "c", "10.77.0.1", "-".join(["aaaaa"] * 8))
        assert [row["peer"] for row in a.status()["sessions"]] == ["b", "c"]
        assert a.status()["sessions"][0]["state"] == "up"
        assert a.ask(appsocket.Tune({"worker.spin_us": 0})).code == 0
        pid = a.pid("daemon")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: another_daemon(a, pid), 10.0, "another daemon serves")
        assert [row["peer"] for row in a.status()["sessions"]] == ["b", "c"]
        wait_until(lambda: a.status()["sessions"][0]["state"] == "up", 5.0, "it has joined again")
        with (
            valkyrie.attach_sync(a.socket) as one,
            valkyrie.attach_sync(b.socket) as other,
            other.listen("ear") as service,
        ):
            out = one.connect("b").open("ear", stream=1000)
            into = service.accept(timeout=SOON_S)
            out.send(MARKER)
            message = into.recv(timeout=SOON_S)
            assert message is not None


def test_a_peer_that_came_while_the_node_ran_can_be_revoked(lab: Lab, public: Path) -> None:
    a, b = make(lab, public, "")
    prints = own(a), own(b)
    with running(a, b):
        introduce(a, "b", str(b.link.v4.ip), prints[1])
        introduce(b, "a", str(a.link.v4.ip), prints[0])
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        fresh = public / "revoked.new"
        fresh.write_text(f'[[revoked]]\nfingerprint = "{prints[1]}"\n')
        fresh.replace(public / "a.revoked.toml")
        wait_until(lambda: session(a)["state"] != "up", 5.0, "b has been put out")


def another_daemon(node: NodeUnderTest, pid: int) -> bool:
    try:
        return node.pid("daemon") != pid
    except OSError:
        return False


def test_a_node_takes_no_peer_that_it_would_not_start_with(lab: Lab, tmp_path: Path) -> None:
    a, _ = make(lab, tmp_path, "")
    own(a)
    with running(a):
        reply = a.ask(appsocket.AddPeer('[[peer]]\nname = "x"\naddress = "10.77.0.1"\n'))
        assert reply.code == lib.VK_CODE_POLICY
        assert "nothing tells 'x' from somebody who has its address" in reply.message
        reply = a.ask(appsocket.AddPeer("[node]\n"))
        assert "node: unknown key" in reply.message
        assert a.status()["sessions"] == []
