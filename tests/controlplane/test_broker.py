"""The broker on real interfaces: what it opens, refuses, gives up, and puts back."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.census import NODE_PREFIX, needs
from tests.lab import PATIENCE, Lab, wait_until
from tests.nodes import NodeUnderTest, expect, make_node, make_pair, running, streams
from valkyrie.controlplane.broker.boot import Boot
from valkyrie.controlplane.broker.slots import Slots, span
from valkyrie.controlplane.config import settings
from valkyrie.controlplane.host import interfaces
from valkyrie.controlplane.host.journal import Journal
from valkyrie.controlplane.host.netlink import Netlink
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import Class


@pytest.fixture
def node(lab: Lab, tmp_path: Path) -> NodeUnderTest:
    """A node that is not started, alone on its wire."""
    a, b = lab.wire(lab.host("a"), lab.host("b"))
    return make_node(a, tmp_path, {"b": str(b.v4.ip)})


def with_path(node: NodeUnderTest, path: str) -> NodeUnderTest:
    node.config.write_text(node.config.read_text().replace('path = "udp"', f'path = "{path}"'))
    return node


def capabilities(process: psutil.Process) -> dict[str, str]:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@pytest.mark.parametrize("path", ["xdp", "udp"])
def test_a_node_that_stops_leaves_nothing(node: NodeUnderTest, path: str) -> None:
    with running(with_path(node, path)):
        row = node.status()["interfaces"][0]
        assert row["rx"]["mode"] == ("xdp-native" if path == "xdp" else "udp")
        assert bool(node.program()) == (path == "xdp")


def test_children_have_no_rights(node: NodeUnderTest) -> None:
    with running(with_path(node, "xdp")):
        children = node.children()
        assert len(children) == 2
        for child in children:
            rights = capabilities(child)
            assert {rights[f"Cap{each}"] for each in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {
                "0000000000000000"
            }
            assert rights["NoNewPrivs"] == "1"
            assert "0" not in rights["Uid"].split()
            assert rights["Groups"].strip() == ""


def test_only_the_broker_holds_programs_and_links(node: NodeUnderTest) -> None:
    with running(with_path(node, "xdp")):
        daemon = node.pid("daemon")
        for child in node.children():
            held = [os.readlink(entry) for entry in Path(f"/proc/{child.pid}/fd").iterdir()]
            assert not any("bpf" in each for each in held), held
            maps = Path(f"/proc/{child.pid}/maps").read_text()
            if child.pid == daemon:  # neither frames nor anybody's rings
                assert not any(each in maps for each in ("memfd:valkyrie", "socket:", "bpf-map"))


def test_the_broker_keeps_few_capabilities(node: NodeUnderTest) -> None:
    with running(node):
        assert node.process is not None
        rights = capabilities(psutil.Process(node.process.pid))
        assert int(rights["CapEff"], 16).bit_count() <= 10
        assert rights["CapEff"] == rights["CapBnd"]


def test_a_second_node_of_the_name_is_refused_in_one_line(node: NodeUnderTest) -> None:
    with running(node):
        assert node.process is not None
        second = make_node(node.link, node.config.parent, {})
        second.log = node.log.with_suffix(".second")
        second.up()
        assert second.process is not None
        assert second.process.wait(timeout=10 * PATIENCE) == 1
        assert second.said().splitlines() == [
            (
                f"error: [Errno 98] node '{node.name}' runs already as process {node.process.pid}:"
                " stop it first, or change node.name"
            )
        ]
        assert node.status()["node"] == node.name


def test_an_interface_that_is_not_there_is_one_clear_error(
    node: NodeUnderTest, tmp_path: Path
) -> None:
    node.config.write_text(node.config.read_text().replace('name = "vk0"', 'name = "vk9"'))
    node.up()
    assert node.process is not None
    assert node.process.wait(timeout=10 * PATIENCE) == 1
    (line,) = node.said().splitlines()
    assert "vk9" in line
    assert node.left() == []


def test_an_interface_that_is_down_is_one_clear_error(node: NodeUnderTest) -> None:
    node.host.run(node.host.netlink.link, "set", index=node.link.index, state="down")
    node.up()
    assert node.process is not None
    assert node.process.wait(timeout=10 * PATIENCE) == 1
    (line,) = node.said().splitlines()
    assert "ip link set vk0 up" in line


@pytest.mark.parametrize("path", ["xdp", "udp"])
def test_an_interface_that_vanishes_ends_the_node_with_one_error(
    node: NodeUnderTest, path: str
) -> None:
    with_path(node, path).start()
    assert node.process is not None
    node.host.run(node.host.netlink.link, "del", index=node.link.index)
    assert node.process.wait(timeout=10 * PATIENCE) == 1
    errors = [line for line in node.said().splitlines() if line.startswith("error:")]
    assert errors == ["error: interface vk0 has vanished: bring it back and start the node again"]
    assert list(node.directory.iterdir()) == []


def test_without_rights_it_says_which(node: NodeUnderTest) -> None:
    with tempfile.TemporaryDirectory() as public:  # pytest's own are closed to others
        Path(public).chmod(0o755)
        node.config = Path(shutil.copy(node.config, public))
        node.up(user="nobody")
        assert node.process is not None
        assert node.process.wait(timeout=10 * PATIENCE) == 1
    (line,) = node.said().splitlines()
    assert "CAP_BPF" in line
    assert "CAP_NET_ADMIN" in line


def test_a_killed_broker_takes_everybody_along_and_its_successor_cleans_up(
    node: NodeUnderTest,
) -> None:
    with_path(node, "xdp").start()
    children = node.children()
    assert node.process is not None
    node.process.kill()
    node.process.wait()
    wait_until(
        lambda: not any(each.is_running() and each.status() != "zombie" for each in children)
    )
    wait_until(lambda: not node.program(), what="the program goes with its last descriptor")
    assert Path(f"/dev/shm/valkyrie.{node.name}").exists()  # readable after a crash
    assert qdisc(node) == "pfifo"
    with running(node):
        assert "put back what a crashed node had changed on vk0" in node.said()
    assert qdisc(node) == "noqueue"


def qdisc(node: NodeUnderTest) -> str:
    def look() -> str:
        with Netlink() as netlink:
            return netlink.qdisc(node.link.index)

    return node.host.run(look)


def test_a_veth_has_a_queue_while_the_node_runs(node: NodeUnderTest) -> None:
    assert qdisc(node) == "noqueue"
    with running(node):
        assert qdisc(node) == "pfifo"
        assert node.status()["interfaces"][0]["qdisc"] == "pfifo"
    assert qdisc(node) == "noqueue"


def test_a_queue_that_was_there_stays(node: NodeUnderTest) -> None:
    node.host.set_qdisc(node.link.index, "pfifo", limit=77)
    with running(node):
        assert node.status()["interfaces"][0]["qdisc"] == ""
    assert qdisc(node) == "pfifo"


def test_a_journal_line_that_a_crash_cut_is_not_a_change(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text('{"interface": "vk0", "ifindex": 1, "namespace": 2}\n{"interface": "v')
    assert [each["interface"] for each in Journal(path).changes()] == ["vk0"]


def test_auto_takes_the_kernel_path_on_a_virtual_link_and_says_why(node: NodeUnderTest) -> None:
    with running(with_path(node, "auto")):
        row = node.status()["interfaces"][0]
        assert (row["rx"]["mode"], row["tx"]["mode"]) == ("udp", "udp")
        assert "virtual link" in row["rx"]["reason"]


def test_xdp_that_cannot_be_had_becomes_udp_and_says_why(lab: Lab, tmp_path: Path) -> None:
    a, b = lab.wire(lab.host("a"), lab.host("b"), mtu=9000)
    nodes = [
        make_node(here, tmp_path, {there.host.name: str(there.v4.ip)}, path="xdp")
        for here, there in ((a, b), (b, a))
    ]
    message = bytes(range(256)) * 4096
    with running(*nodes), streams(*nodes) as (ours, theirs):
        for node in nodes:
            row = node.status()["interfaces"][0]
            assert row["rx"]["mode"] == "udp"
            assert "AF_XDP cannot be had" in row["rx"]["reason"] or "generic" in row["rx"]["reason"]
        ours.send(message)
        expect(theirs, message)


CHOICES = [
    # path, tx, virtual -> rx, tx
    ("auto", "auto", True, "udp", "udp"),
    ("auto", "auto", False, "xdp", "xdp"),
    ("xdp", "auto", True, "xdp", "udp"),
    ("xdp", "xdp", True, "xdp", "xdp"),
    ("xdp", "auto", False, "xdp", "xdp"),
    ("udp", "auto", False, "udp", "udp"),
    ("udp", "xdp", False, "udp", "xdp"),
    ("auto", "xdp", True, "udp", "xdp"),
]


@pytest.mark.parametrize(("path", "tx", "virtual", "rx_taken", "tx_taken"), CHOICES)
def test_paths_are_chosen_by_the_table(
    path: settings.Path, tx: settings.Path, virtual: bool, rx_taken: str, tx_taken: str
) -> None:
    wanted = settings.Interface(name="vk0", path=path, tx=tx)
    choice = interfaces.choose(wanted, virtual=virtual)
    assert (choice.rx, choice.tx) == (rx_taken, tx_taken)
    assert choice.rx_reason
    assert choice.tx_reason


def test_the_service_manager_hears_ready_and_stopping(node: NodeUnderTest, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(10 * PATIENCE)
        node.up(env={**os.environ, "NOTIFY_SOCKET": str(address)})
        assert node.process is not None
        assert manager.recv(1000).decode().splitlines() == [
            "READY=1",
            f"MAINPID={node.process.pid}",
        ]
        node.process.send_signal(signal.SIGINT)
        said = set()
        while "STOPPING=1" not in said:
            said |= set(manager.recv(1000).decode().splitlines())
        assert node.stop() == 0


def test_a_worker_that_always_dies_ends_the_node(node: NodeUnderTest, tmp_path: Path) -> None:
    needs("clang-19")
    library = tmp_path / "vk_worker.so"
    compile_library(library, f"uint32_t vk_worker_abi(void) {{ return {lib.VK_WORKER_ABI}; }}"
                    "int vk_worker_run(void *boot) { (void)boot; return -5; }")  # fmt: skip
    node.library = library
    node.up()
    assert node.process is not None
    assert node.process.wait(timeout=20 * PATIENCE) == 1
    assert "the worker died 11 times" in node.said()
    assert "Input/output error" in node.said()
    assert node.left() == []


LIBRARY_HEAD = "#include <stdint.h>\nint vk_worker_load(void) { return 0; }"


def compile_library(path: Path, source: str) -> None:
    source_path = path.with_suffix(".c")
    source_path.write_text(f"{LIBRARY_HEAD}\n{source}\n")
    made = path.with_suffix(".new")
    subprocess.run(
        ["clang-19", "-shared", "-fPIC", "-o", made, source_path], check=True, timeout=60
    )
    made.rename(path)


def test_a_slot_forgets_how_far_the_rings_before_were() -> None:
    boot = Boot(f"{NODE_PREFIX}slots", os.getgid())
    capacity = [lib.VK_CONTROL_RING] + [65536] * (len(Class) - 1)
    capacity += [0] * (lib.VK_RINGS_MAX - len(capacity))
    slots = Slots(boot, span(len(Class) - 1, 65536))
    ours, theirs = socket.socketpair()
    try:
        for row in (boot.work.committed, boot.work.looked):
            row[2][Class.DATA] = row[3][Class.DATA] = 280
        slots.create(3, 1, capacity, ours).close()  # no worker is there to be told
        for row in (boot.work.committed, boot.work.looked):
            assert (row[2][Class.DATA], row[3][Class.DATA]) == (280, 0)
        slots.remove(3)
    finally:
        theirs.close()
        slots.close()
        boot.close()


def test_two_nodes_on_one_host_do_not_meet(lab: Lab, tmp_path: Path) -> None:
    a, b = make_pair(lab, tmp_path)
    with running(a, b):
        assert a.status()["broker"]["pid"] != b.status()["broker"]["pid"]
