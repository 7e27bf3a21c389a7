"""The command line, run as users run it: as a process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import posix_ipc
import pytest

from tests.bpf.rig import ethernet, frame, ip4
from tests.census import NODE_PREFIX
from tests.lab import PATIENCE, Link, wait_until
from valkyrie.controlplane.cli.exits import Exit
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.loader import XdpMode, open_classifier
from valkyrie.dataplane.wire import Class, Code, Counter, Verdict

VALKYRIE = [str(Path(sysconfig.get_path("scripts")) / "valkyrie")]
COMMANDS = (
    "up",
    "status",
    "top",
    "stat",
    "doctor",
    "explain",
    "lab",
    "send",
    "recv",
    "cp",
    "receive-files",
    "tune",
    "upgrade",
    "stop",
)

Result = subprocess.CompletedProcess[str]


def valkyrie(*arguments: str | Path, text: str = "", user: str = "") -> Result:
    head = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--"] if user else []
    return subprocess.run(
        [*head, *VALKYRIE, *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(result: Result, code: Exit, *words: str) -> None:
    """Check that a command ended with a code, one line that has these words, and no more."""
    assert result.returncode == code, result
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("valkyrie: ")
    for word in words:
        assert word in result.stderr


class Clerk:
    """A node that only answers requests, each with a reply laid ready for its kind."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "clerk.sock"
        self.replies: dict[str, appsocket.Reply] = {}
        self.asked: list[appsocket.AnyRequest] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                while packet := connection.recv(appsocket.PACKET_SIZE_MAX):
                    request = appsocket.decode_request(packet)
                    self.asked.append(request)
                    name = type(request).__name__.lower()
                    if name not in self.replies:
                        break
                    connection.sendall(appsocket.encode(self.replies[name]))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def clerk(tmp_path: Path) -> Iterator[Clerk]:
    made = Clerk(tmp_path)
    yield made
    made.close()


# ---- Usage ----


def test_help_is_quick_and_names_commands_and_exit_codes() -> None:
    began = time.monotonic()
    result = valkyrie("--help")
    assert result.returncode == Exit.OK
    assert time.monotonic() - began < PATIENCE, "nothing heavy is imported"
    for name in COMMANDS:
        assert re.search(rf"\b{name} ", result.stdout), name
    for code in Exit:
        assert re.search(rf"^ +{code.value}  \w", result.stdout, re.MULTILINE), code


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json(name: str) -> None:
    result = valkyrie(name, "--help")
    assert result.returncode == Exit.OK
    assert "--json" in result.stdout


def test_heavy_modules_are_not_loaded_for_help() -> None:
    code = (
        "import sys; from valkyrie.controlplane.cli import run; run(['--version']);"
        "heavy = {'pyroute2', 'rich.live', 'posix_ipc', 'valkyrie.dataplane.loader'};"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


WRONG = {
    1: (["frobnicate"], "frobnicate"),
    2: (["status", "--frob"], "--frob"),
    3: (["explain"], "requires an argument"),
    4: (["top", "--interval", "soon"], "soon"),
    5: (["top", "--interval", "0.2"], "interval"),
    6: (["recv", "svc", "--count", "0"], "count"),
    7: (["tune"], "say what to change"),
    8: (["tune", "worker.spin_us"], "no KEY=VALUE"),
    9: (["up", "--config", "/nonexistent.toml"], "No such file"),
    10: (["doctor", "--config", "/nonexistent.toml"], "No such file"),
    11: (["lab", "--draw", "0:9", "--threads", "0"], "threads"),
}


@pytest.mark.parametrize("number", WRONG)
def test_wrong_usage_is_one_line_and_code_2(number: int) -> None:
    arguments, word = WRONG[number]
    refused(valkyrie(*arguments), Exit.USAGE, word)


def test_a_wrong_configuration_is_one_line_and_code_2(tmp_path: Path) -> None:
    path = tmp_path / "v.toml"
    path.write_text('[[interface]]\nname = "vk0"\nqueue = 2\n')
    result = valkyrie("up", "--config", path)
    refused(result, Exit.USAGE, f"{path}: interface[0].queue", "did you mean 'queues'?")


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["top", "--once"],
        ["stat"],
        ["send", "b", "svc"],
        ["recv", "svc"],
        ["tune", "worker.spin_us=0"],
        ["upgrade"],
        ["stop"],
        ["explain", os.devnull],
    ],
)
def test_without_a_node_it_is_one_line_and_code_3(arguments: list[str]) -> None:
    result = valkyrie(*arguments, "--node", f"{NODE_PREFIX}none")
    refused(result, Exit.NOT_RUNNING, f"{NODE_PREFIX}none")


# ---- Questions to a node ----

STATUS: dict[str, Any] = {
    "node": "a",
    "interfaces": [
        {"name": "vk0", "rx": {"mode": "udp", "reason": "virtual link"}, "mtu": 1500},
        {"name": "vk1", "rx": {"mode": "xdp-native", "reason": "asked for"}, "mtu": 9000},
    ],
    "worker": {"pid": 7, "starts": 1},
}


def test_status_prints_the_document(clerk: Clerk) -> None:
    clerk.replies["status"] = appsocket.Reply(document=STATUS)
    result = valkyrie("status", "--node", clerk.path, "--json")
    assert json.loads(result.stdout) == STATUS
    shown = valkyrie("status", "--node", clerk.path).stdout
    assert re.search(r"vk1 +mode=xdp-native reason=asked for +9000", shown)
    assert "starts  1" in shown


def test_names_from_others_cannot_drive_the_terminal(clerk: Clerk) -> None:
    clerk.replies["status"] = appsocket.Reply(document={"node": "\x1b[2Jx\r"})
    assert "\x1b" not in valkyrie("status", "--node", clerk.path).stdout


def test_tune_sends_numbers(clerk: Clerk) -> None:
    clerk.replies["tune"] = appsocket.Reply(document={"worker.spin_us": 0})
    values = ["class.logs.rate_packets=100_000", "worker.stamp=on"]
    result = valkyrie("tune", *values, "--node", clerk.path, "--json")
    assert result.returncode == Exit.OK
    assert json.loads(result.stdout) == {"worker.spin_us": 0}
    assert clerk.asked == [appsocket.Tune({"class.logs.rate_packets": 100_000, "worker.stamp": 1})]


def test_stop_and_upgrade_ask_the_node(clerk: Clerk) -> None:
    clerk.replies |= {"stop": appsocket.Reply(), "upgrade": appsocket.Reply(document={"ok": True})}
    assert valkyrie("upgrade", "--node", clerk.path, "--json").stdout == '{"ok":true}\n'
    assert valkyrie("stop", "--node", clerk.path).returncode == Exit.OK
    assert [type(each) for each in clerk.asked] == [appsocket.Upgrade, appsocket.Stop]


def test_a_refusal_by_policy_is_code_4(clerk: Clerk) -> None:
    clerk.replies["stop"] = appsocket.Reply(code=Code.POLICY, message="uid 65534 is no admin")
    refused(valkyrie("stop", "--node", clerk.path), Exit.DENIED, "uid 65534 is no admin")


def test_another_refusal_is_code_1(clerk: Clerk) -> None:
    clerk.replies["upgrade"] = appsocket.Reply(code=Code.UNREACHABLE, message="worker is stuck")
    refused(valkyrie("upgrade", "--node", clerk.path), Exit.FAILED, "worker is stuck")


def test_a_node_that_ends_while_asked_is_code_3(clerk: Clerk) -> None:
    refused(valkyrie("status", "--node", clerk.path), Exit.NOT_RUNNING, "ended while it was asked")


def test_a_socket_one_may_not_use_is_code_4(tmp_path: Path) -> None:
    clerk = Clerk(tmp_path)
    try:
        tmp_path.chmod(0o700)
        refused(valkyrie("status", "--node", clerk.path, user="65534"), Exit.DENIED)
    finally:
        clerk.close()


# ---- Counters ----


@contextlib.contextmanager
def counters(node: str) -> Iterator[Any]:
    """Yield the counters page of a node that nobody runs."""
    import mmap

    name = f"/valkyrie.{node}"
    size = ffi.sizeof("struct vk_counters")
    memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o640, size=size)
    mapped = mmap.mmap(memory.fd, size)
    memory.close_fd()
    buffer = ffi.from_buffer(mapped)
    page = ffi.cast("struct vk_counters *", buffer)
    page.magic, page.abi = lib.VK_SHM_MAGIC, lib.VK_COUNTERS_ABI
    page.node = node.encode()
    try:
        yield page
    finally:
        ffi.release(buffer)
        mapped.close()
        with contextlib.suppress(posix_ipc.ExistentialError):
            posix_ipc.unlink_shared_memory(name)


@pytest.fixture
def page() -> Iterator[Any]:
    with counters(f"{NODE_PREFIX}page") as made:
        made.classes[Class.JOB][Counter.RX_FRAMES] = 12
        made.classes[Class.LOGS][Counter.DROP_APP_RING] = 3
        made.app_pid[5], made.app_uid[5] = 100, 65534
        made.app_name[5] = b'say "hi"\n'
        made.apps[5][Class.JOB].delivered = 11
        made.port_count = 1
        row = made.verdicts[0]
        row.interface, row.rx_mode, row.tx_mode = b"vk0", b"xdp-native", b"udp"
        row.packets[Class.JOB][Verdict.STEER] = 15
        row.packets[Class.CONTROL][Verdict.DROP_MAGIC] = 2
        row.xsk_ring_full = 1
        yield made


NODE = f"{NODE_PREFIX}page"


def test_stat_prints_one_line_a_counter_of_a_node_that_is_gone(page: Any) -> None:
    result = valkyrie("stat", "--node", NODE)
    lines = result.stdout.splitlines()
    assert f'node_up{{node="{NODE}"}} 0' in lines
    assert 'rx_frames{class="job"} 12' in lines
    assert 'rx_frames{class="data"} 0' in lines
    assert 'drop_app_ring{class="logs"} 3' in lines
    assert 'app_delivered{slot="5",app="say \\"hi\\"?",uid="65534",class="job"} 11' in lines
    assert 'port_info{interface="vk0",port="0",rx="xdp-native",tx="udp"} 1' in lines
    job = 'interface="vk0",port="0",class="job"'
    assert f'kernel_packets{{{job},verdict="steer"}} 15' in lines
    assert 'xsk_ring_full{interface="vk0",port="0"} 1' in lines
    assert all(re.fullmatch(r'\w+(\{\w+=".*"\})? \d+', line) for line in lines)
    assert len(lines) == len({line.rpartition(" ")[0] for line in lines}), "each stands once"


def test_stat_names_every_counter_of_the_abi(page: Any) -> None:
    names = {line.partition("{")[0] for line in valkyrie("stat", "--node", NODE).stdout.split("\n")}
    assert {counter.name.lower() for counter in Counter} <= names


def test_stat_leaves_zeros_out_on_request_and_speaks_json(page: Any) -> None:
    lines = valkyrie("stat", "--node", NODE, "--nonzero").stdout.splitlines()
    assert lines
    assert not [line for line in lines if line.endswith(" 0")]
    document = json.loads(valkyrie("stat", "--node", NODE, "--json").stdout)
    assert document["up"] is False
    row = {"name": "rx_frames", "labels": {"class": "job"}, "value": 12}
    assert row in document["counters"]


def test_stat_takes_the_path_of_a_socket_for_the_node(page: Any) -> None:
    assert valkyrie("stat", "--node", f"/run/valkyrie/{NODE}.sock").returncode == Exit.OK


def test_a_heart_that_beats_means_up(page: Any) -> None:
    page.daemon_heartbeat_ns, page.daemon_pid = time.monotonic_ns(), os.getpid()
    assert f'node_up{{node="{NODE}"}} 1' in valkyrie("stat", "--node", NODE).stdout


def test_counters_of_another_version_are_refused(page: Any) -> None:
    page.abi = lib.VK_COUNTERS_ABI + 1
    refused(valkyrie("stat", "--node", NODE), Exit.FAILED, "another version")


def test_counters_one_may_not_read_are_code_4(page: Any) -> None:
    refused(valkyrie("stat", "--node", NODE, user="65534"), Exit.DENIED, "group")


def test_a_reader_that_goes_away_is_no_error(page: Any) -> None:
    process = subprocess.Popen(
        [*VALKYRIE, "stat", "--node", NODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(10 * PATIENCE) == Exit.OK


def test_top_shows_classes_applications_and_drops_once(page: Any) -> None:
    shown = valkyrie("top", "--node", NODE, "--once", "--interval", "0.25").stdout
    assert "DOWN" in shown
    assert "vk0 xdp-native/udp" in shown
    assert re.search(r"^job ", shown, re.MULTILINE)
    assert re.search(r'say "hi"\?? +65534 +job', shown)
    assert re.search(r"^worker +logs +drop_app_ring +0 +3$", shown, re.MULTILINE)
    assert re.search(r"^vk0 +control +drop_magic +0 +2$", shown, re.MULTILINE)


def test_top_tells_rates_as_json(page: Any) -> None:
    process = subprocess.Popen(
        [*VALKYRIE, "top", "--node", NODE, "--json", "--interval", "0.25"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout as lines:
        first = json.loads(lines.readline())
        assert first["classes"]["job"]["rx_frames"] == 0
        page.classes[Class.JOB][Counter.RX_FRAMES] += 1000
        rates = [json.loads(lines.readline())["classes"]["job"]["rx_frames"] for _ in range(3)]
        process.send_signal(signal.SIGINT)
    assert process.wait(10 * PATIENCE) == Exit.OK
    assert sum(rate > 0 for rate in rates) == 1, rates
    assert 500 < max(rates) < 20_000


def test_top_goes_on_with_the_node_that_starts_anew() -> None:
    with counters(NODE) as old:
        old.daemon_heartbeat_ns, old.daemon_pid = 1, 0
        process = subprocess.Popen(
            [*VALKYRIE, "top", "--node", NODE, "--json", "--interval", "0.25"],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        with process.stdout as lines:
            assert not json.loads(lines.readline())["up"]
            posix_ipc.unlink_shared_memory(f"/valkyrie.{NODE}")
            with counters(NODE) as new:
                new.started_ns, new.daemon_pid = 1, os.getpid()

                def up() -> bool:
                    new.daemon_heartbeat_ns = time.monotonic_ns()
                    return bool(json.loads(lines.readline())["up"])

                wait_until(up, 20)
            process.send_signal(signal.SIGINT)
        assert process.wait(10 * PATIENCE) == Exit.OK


# ---- The doctor ----


def test_the_doctor_speaks_json_and_ends_by_what_it_found() -> None:
    result = valkyrie("doctor", "lo", "--json")
    document = json.loads(result.stdout)
    assert result.returncode == (Exit.OK if document["ok"] else Exit.DENIED)
    assert {"name", "ok", "gives", "costs", "how", "found", "need"} == set(document["findings"][0])


def test_the_doctor_tells_nobody_what_root_would_have() -> None:
    result = valkyrie("doctor", "lo", user="65534")
    assert result.returncode == Exit.DENIED
    assert "MISSING  CAP_BPF: no" in result.stdout
    assert re.search(r"how +run it as root", result.stdout)
    assert result.stderr == ""


# ---- Captures ----


def capture(path: Path, *packets: bytes) -> Path:
    rows = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)]
    for packet in packets:
        rows += [struct.pack("<IIII", 7, 0, len(packet), len(packet)), packet]
    path.write_bytes(b"".join(rows))
    return path


PACKETS = (
    ethernet(ip4(frame(stream=2000, payload=b"x"))),
    ethernet(ip4(frame(stream=0, magic=1))),
    ethernet(b"\x00" * 46, ethertype=0x0806),
)


def test_explain_prints_a_line_a_packet(tmp_path: Path) -> None:
    path = capture(tmp_path / "x.pcap", *PACKETS)
    result = valkyrie("explain", path, "--offline")
    assert result.stdout.splitlines() == [
        "0 steer data - 2000",
        "1 drop - magic -",
        "2 pass - not_ip -",
    ]
    assert result.stderr == ""


def test_explain_speaks_json_lines(tmp_path: Path) -> None:
    path = capture(tmp_path / "x.pcap", *PACKETS)
    result = valkyrie("explain", path, "--offline", "--json")
    first, *_ = map(json.loads, result.stdout.splitlines())
    assert first == {
        "index": 0,
        "verdict": "steer",
        "class": "data",
        "reason": "",
        "stream": 2000,
    }


def test_explain_refuses_what_is_no_capture(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(b"no capture at all, but long enough")
    refused(valkyrie("explain", path, "--offline"), Exit.FAILED, "no pcap file")


def test_explain_needs_privileges(public: Path) -> None:
    path = capture(public / "x.pcap", *PACKETS)
    path.chmod(0o644)
    refused(valkyrie("explain", path, "--offline", user="65534"), Exit.DENIED, "CAP_BPF")


def test_explain_uses_the_limits_of_the_node(
    pair: tuple[Link, Link], clerk: Clerk, tmp_path: Path
) -> None:
    here, _ = pair
    path = capture(tmp_path / "x.pcap", *[PACKETS[0]] * 3)
    row = {"name": here.name, "rx": {"mode": "xdp-native", "reason": ""}}
    clerk.replies["status"] = appsocket.Reply(document={"interfaces": [row]})
    with open_classifier() as program:
        program.set_police(Class.DATA, 0.001, 2)
        link = here.host.run(program.attach, here.index, [XdpMode.NATIVE])
        try:
            process = here.host.popen(
                [*VALKYRIE, "explain", str(path), "--node", str(clerk.path)],
                stdout=subprocess.PIPE,
            )
            printed, _ = process.communicate(timeout=10 * PATIENCE)
            before = program.counts()
        finally:
            link.close()
    verdicts = [line.split()[1:4] for line in printed.decode().splitlines()]
    assert len(verdicts) == 3
    assert ["drop", "data", "class_rate"] in verdicts or ["drop", "data", "credit"] in verdicts
    assert not [key for key in before if key[0] == Class.DATA], "the node's counters do not move"


# ---- The lab ----


def test_lab_runs_a_drawn_scenario_the_same_way_twice() -> None:
    first, second = (valkyrie("lab", "--draw", "5", "--json") for _ in range(2))
    assert json.loads(first.stdout)["packets"] > 0
    assert first.stdout == second.stdout


def test_lab_says_what_a_scenario_lacks(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("colour = 1", encoding="utf-8")
    said = valkyrie("lab", file)
    assert said.returncode == Exit.USAGE
    assert "colour" in said.stderr
    for wrong in ([], ["--draw", "5:5"], ["--draw", f"{1 << 64}"]):
        assert valkyrie("lab", *wrong).returncode == Exit.USAGE


def test_lab_without_memory_for_its_nodes_says_so() -> None:
    short = ["prlimit", "--as=3000000000", "--", *VALKYRIE, "lab", "--draw", "0:20"]
    said = subprocess.run(short, capture_output=True, text=True, timeout=60, check=False)
    refused(said, Exit.FAILED, "the lab cannot begin: Cannot allocate memory")
