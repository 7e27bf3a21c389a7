"""The command line against nodes that run: what users see of a living node."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import valkyrie as api
from tests.controlplane.test_cli import (
    PACKETS,
    VALKYRIE,
    Result,
    capture,
    refused,
    valkyrie,
)
from tests.lab import PATIENCE, SOON_S, Lab, wait_until
from tests.nodes import NodeUnderTest, make_node, make_pair, running
from valkyrie.controlplane.cli.exits import Exit
from valkyrie.dataplane.wire import Class

Pair = tuple[NodeUnderTest, NodeUnderTest]


@pytest.fixture(params=["udp", "xdp"])
def pair(lab: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    nodes = make_pair(lab, tmp_path, path=request.param)
    with running(*nodes):
        yield nodes


def ask(node: NodeUnderTest, *arguments: str | Path) -> Result:
    return valkyrie(*arguments, "--node", node.socket)


def test_status_names_interfaces_peers_and_modes(pair: Pair) -> None:
    a, _ = pair
    document = json.loads(ask(a, "status", "--json").stdout)
    assert document["node"] == a.name
    assert [row["name"] for row in document["interfaces"]] == [a.link.name]
    shown = ask(a, "status").stdout
    assert re.search(r"^interfaces:$", shown, re.MULTILINE)
    assert document["interfaces"][0]["mode"] in shown


def test_lines_cross_from_host_to_host(pair: Pair) -> None:
    a, b = pair
    with subprocess.Popen(
        [*VALKYRIE, "recv", "svc", "--once", "--node", b.socket], stdout=subprocess.PIPE
    ) as receiver:
        wait_until(lambda: [each["services"] for each in b.status()["applications"]] == [["svc"]])
        sent = valkyrie("send", "b", "svc", "--node", a.socket, text="one\ntwo\n")
        assert sent.returncode == Exit.OK, sent.stderr
        printed, _ = receiver.communicate(timeout=10 * PATIENCE)
    assert printed == b"one\ntwo\n"
    lines = ask(b, "stat", "--nonzero").stdout
    assert 'rx_delivered{class="job"} 2' in lines
    assert f'node_up{{node="{b.name}"}} 1' in lines


def test_top_shows_the_fill_of_a_ring_that_nobody_empties(pair: Pair) -> None:
    a, b = pair
    with (
        api.attach_sync(a.socket) as sender,
        api.attach_sync(b.socket, name="sleeper", ring_size=8192) as sleeper,
        sleeper.listen("svc") as service,
    ):
        stream = sender.connect("b").open("svc", stream=100)
        service.accept(timeout=SOON_S)
        for _ in range(100):
            stream.send(bytes(1000))

        def fill() -> float:
            (row,) = b.status()["applications"]
            return float(row["fill"]["job"]["rx"])

        wait_until(lambda: fill() > 0.8)
        view = json.loads(ask(b, "top", "--once", "--json", "--interval", "0.25").stdout)
        (application,) = view["applications"]
        assert application["name"] == "sleeper"
        assert application["fill"]["job"]["rx"] > 0.8
        assert application["fill"]["logs"] == {"rx": 0.0, "tx": 0.0}
        shown = ask(b, "top", "--once", "--interval", "0.25").stdout
        assert re.search(r"sleeper .* job .*rx \d+% tx 0%", shown)
        assert re.search(r"^worker +job +drop_app_ring", shown, re.MULTILINE)


def test_tune_changes_a_rate_and_refuses_nonsense(pair: Pair) -> None:
    a, _ = pair
    assert ask(a, "tune", "class.logs.rate_packets=1234").returncode == Exit.OK
    assert a.status()["classes"]["logs"]["rate_packets"] == 1234
    result = ask(a, "tune", "class.log.rate_packets=1")
    assert result.returncode == Exit.USAGE
    assert "did you mean 'class.logs.rate_packets'?" in result.stderr
    result = ask(a, "tune", "worker.spin_us=30")
    assert result.stdout.split() == ["worker.spin_us", "30"]


def test_a_stream_that_just_ended_can_be_opened_by_another_application(pair: Pair) -> None:
    a, b = pair
    seconds = []
    with api.attach_sync(b.socket) as theirs, theirs.listen("svc") as service:
        for _ in range(6):
            with api.attach_sync(a.socket) as mine:
                peer = mine.connect("b")
                begin = time.monotonic()
                with peer.open("svc", stream=1000), service.accept(timeout=5 * PATIENCE):
                    seconds.append(time.monotonic() - begin)
    assert min(seconds[1:]) < 0.05, "an OPEN was taken for an old one's copy, and sent again"


def test_only_root_may_tune_upgrade_and_stop(pair: Pair) -> None:
    a, _ = pair
    for command in (["tune", "worker.spin_us=0"], ["upgrade"], ["stop"]):
        result = valkyrie(*command, "--node", a.socket, user="1000")
        refused(result, Exit.DENIED)


def test_upgrade_starts_another_worker(pair: Pair) -> None:
    a, _ = pair
    before = a.pid("worker")
    assert ask(a, "upgrade").returncode == Exit.OK
    wait_until(lambda: a.pid("worker") != before)


def test_explain_meets_the_limits_of_a_node_that_is_up(lab: Lab, tmp_path: Path) -> None:
    here, _ = lab.wire(lab.host("a"), lab.host("b"))
    node = make_node(here, tmp_path, {}, path="xdp")
    path = capture(tmp_path / "x.pcap", *[PACKETS[0]] * 3)
    with running(node):
        values = ["class.data.rate_packets=1", "class.data.burst_packets=1"]
        assert ask(node, "tune", *values).returncode == Exit.OK
        process = here.host.popen(
            [*VALKYRIE, "explain", str(path), "--node", node.socket, "--json"],
            stdout=subprocess.PIPE,
        )
        printed, _ = process.communicate(timeout=10 * PATIENCE)
        rows = [json.loads(line) for line in printed.splitlines()]
        offline = valkyrie("explain", path, "--offline", "--json").stdout
    assert [row["class"] for row in rows] == [Class.DATA.name.lower()] * 3
    assert (rows[-1]["verdict"], rows[-1]["reason"]) == ("drop", "class_rate")
    assert [json.loads(line)["verdict"] for line in offline.splitlines()] == ["steer"] * 3


def test_up_runs_a_node_until_it_is_stopped(lab: Lab, tmp_path: Path) -> None:
    here, _ = lab.wire(lab.host("a"), lab.host("b"))
    node = make_node(here, tmp_path, {})
    with node.log.open("ab") as log:
        node.process = here.host.popen(
            [*VALKYRIE, "up", "--config", str(node.config)], stdout=log, stderr=log
        )
    wait_until(node._serves, 10.0)
    second = here.host.popen(
        [*VALKYRIE, "up", "--config", str(node.config)], stderr=subprocess.PIPE
    )
    _, complaint = second.communicate(timeout=10 * PATIENCE)
    assert second.returncode == Exit.FAILED
    assert complaint.startswith(b"valkyrie: ")
    assert len(complaint.splitlines()) == 1
    assert ask(node, "stop").returncode == Exit.OK
    assert node.process.wait(10 * PATIENCE) == Exit.OK
    assert node.left() == []


def test_up_without_privileges_is_one_line_and_code_4(lab: Lab, public: Path) -> None:
    here, _ = lab.wire(lab.host("a"), lab.host("b"))
    node = make_node(here, public, {})
    refused(valkyrie("up", "--config", node.config, user="65534"), Exit.DENIED, "CAP_")


def test_session_list_shows_the_peer_its_ids_and_the_round_trip(pair: Pair) -> None:
    a, b = pair

    def row(node: NodeUnderTest) -> dict[str, object]:
        (found,) = json.loads(ask(node, "session", "list", "--json").stdout)
        assert isinstance(found, dict)
        return found

    wait_until(lambda: row(a)["state"] == row(b)["state"] == "up", 10)
    ours, theirs = row(a), row(b)
    assert (ours["local"], ours["remote"]) == (theirs["remote"], theirs["local"])
    shown = ask(a, "session", "list").stdout.splitlines()
    assert shown[0].split()[:4] == ["peer", "state", "address", "mode"]
    assert shown[1].split()[:4] == ["b", "up", str(b.link.v4.ip), ours["mode"]]


def test_session_rotate_and_kill_do_it_or_say_why_not(pair: Pair) -> None:
    a, b = pair

    def row(node: NodeUnderTest) -> dict[str, object]:
        (found,) = json.loads(ask(node, "session", "list", "--json").stdout)
        assert isinstance(found, dict)
        return found

    wait_until(lambda: row(a)["state"] == row(b)["state"] == "up", 10)
    before = row(a)["local"]
    done = json.loads(ask(a, "session", "rotate", "b", "--json").stdout)
    assert done["rotated"]
    assert done["local"] != before
    refused(ask(a, "session", "rotate", "nobody"), Exit.FAILED, "peers are: b")
    refused(ask(a, "session", "kill", "nobody"), Exit.FAILED, "peers are: b")
    assert ask(a, "session", "kill", "b").returncode == Exit.OK
