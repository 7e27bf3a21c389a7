"""A configuration is read whole, or refused with the key and what to write."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from valkyrie.controlplane.config import config_doc
from valkyrie.controlplane.config import reader as config
from valkyrie.controlplane.security.policy import StreamRange
from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.ports import Rings
from valkyrie.dataplane.wire import Class

ROOT = Path(__file__).parents[2]

LEAST = '[[interface]]\nname = "vk0"\n'
RULE = '[[application]]\nname = "all"\nanybody = true\nclasses = ["job"]\n'


def test_the_least_configuration_has_every_default() -> None:
    read = config.parse(LEAST)
    assert read.node.name == "valkyrie"
    assert read.node.udp_port == lib.VK_PORT
    assert (read.interfaces[0].name, read.interfaces[0].queues) == ("vk0", 0)
    assert (read.interfaces[0].path, read.interfaces[0].tx) == ("auto", "auto")
    assert config.ring_sizes(read, read.interfaces[0]) == Rings()
    assert config.rules(read) == ()


def test_control_and_critical_are_policed_unless_told_otherwise() -> None:
    read = config.parse(LEAST)
    assert [config.limits(read, klass).rate_packets > 0 for klass in Class] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


def test_a_class_keeps_the_defaults_that_its_section_does_not_name() -> None:
    read = config.parse(LEAST + "[class.critical]\nburst_packets = 7\n")
    default = config.parse(LEAST)
    assert read.classes.critical.burst_packets == 7
    assert read.classes.critical.rate_packets == default.classes.critical.rate_packets
    assert read.classes.system == default.classes.system


REFUSED = {
    1: ("x =", "not TOML"),
    2: ("", "interface: name one at least"),
    3: ("[node]\nnam = 'x'\n" + LEAST, "node.nam: unknown key: did you mean 'name'?"),
    4: ("[nodes]\n" + LEAST, "nodes: unknown key: did you mean 'node'?"),
    5: (LEAST + "queue = 1", "interface[0].queue: unknown key: did you mean 'queues'?"),
    6: (LEAST + "frobnicate = 1", "interface[0].frobnicate: unknown key: known are name, queues"),
    7: ('[interface]\nname = "vk0"', "interface: write [[interface]], with two brackets"),
    8: ("[[interface]]\nqueues = 1", "interface[0]: object missing required field `name`"),
    9: (LEAST + "queues = -1", "interface[0].queues: expected `int` >= 0, found -1"),
    10: (LEAST + "queues = 9", "interface[0].queues: expected `int` <= 8, found 9"),
    11: (LEAST + 'queues = "2"', "interface[0].queues: expected `int`, got `str`, found '2'"),
    12: (LEAST + 'path = "ebpf"', "interface[0].path: invalid enum value 'ebpf'"),
    13: (LEAST + "tx_frames = 100", "interface[0].tx_frames: 100 is no power of two: take 64 or"),
    14: (LEAST + LEAST, "interface[1].name: 'vk0' is interface[0]'s already"),
    15: (
        LEAST + 'queues = 5\n[[interface]]\nname = "vk1"\nqueues = 4',
        "interface: 9 queues in all, 8 can be served",
    ),
    16: ('[node]\nuser = "nobody-such"\n' + LEAST, "node.user: this host has no user"),
    17: ('[node]\nuser = "root"\n' + LEAST, "node.user: daemon and workers need no rights"),
    18: ('[node]\nname = "a b"\n' + LEAST, "node.name: expected `str` matching regex"),
    19: ("[node]\nudp_port = 70000\n" + LEAST, "node.udp_port: expected `int` <= 65535"),
    20: (LEAST + "[class.crit]\n", "class.crit: unknown key: did you mean 'critical'?"),
    21: (LEAST + "[class.job]\nring_frames = 65", "class.job.ring_frames: 65 is no power of two"),
    22: (LEAST + "[class.job]\nrate_packets = -1", "class.job.rate_packets: expected `int` >= 0"),
    23: (LEAST + '[[peer]]\nname = "b"\naddress = "b.example"', "names are not looked up"),
    24: (LEAST + '[[peer]]\nname = "b"\naddress = "224.0.0.1"', "not the address of one node"),
    25: (
        LEAST
        + '[[peer]]\nname = "b"\naddress = "fe80::1"\n[[peer]]\nname = "c"\naddress = "fe80:0::1"',
        "peer[1].address: 'fe80::1' is peer[0]'s already",
    ),
    26: (LEAST + RULE + 'user = "nobody"', "application[0]: names somebody and anybody"),
    27: (LEAST + RULE.replace("true", "false"), "application[0]: matches nobody"),
    28: (LEAST + RULE + 'group = "no-such"', "application[0].group: this host has no group"),
    29: (LEAST + RULE.replace("job", "jobs"), "application[0].classes[0]: invalid enum value"),
    30: (LEAST + RULE.replace('"job"', ""), "grants nothing: write classes, or streams"),
    31: (LEAST + RULE + "streams = [5]", "some lie in system, which classes does not grant"),
    32: (LEAST + RULE + 'streams = ["9-3"]', "application[0].streams[0]: '9-3': streams ascend"),
    33: (LEAST + RULE + 'streams = ["x"]', "application[0].streams[0]: 'x' is no stream"),
    34: (
        LEAST + RULE + f"streams = {list(range(100, 118, 2))}",
        "9 ranges that do not touch, 8 can be kept",
    ),
    35: (LEAST + RULE + "ring_bytes = 5000", "ring_bytes: 5000 is no power of two: take 4096 or"),
    36: (LEAST + 'file = "x"', "interface[0].file: unknown key"),
    37: ('file = "x"\n' + LEAST, "file: unknown key"),
}


@pytest.mark.parametrize("number", REFUSED)
def test_a_wrong_configuration_is_refused_with_key_and_remedy(number: int) -> None:
    text, message = REFUSED[number]
    with pytest.raises(ConfigError) as caught:
        config.parse(text, "/etc/x.toml")
    assert str(caught.value).startswith("/etc/x.toml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


STREAMS = {
    # number: (classes, streams, classes granted, ranges granted)
    1: ('["job"]', "[]", {"JOB"}, ["100-999"]),
    2: ('["critical", "system"]', "[]", {"CRITICAL", "SYSTEM"}, ["0-99"]),
    3: ('["logs"]', "[]", {"LOGS"}, ["10000-4294967295"]),
    4: ("[]", "[0]", {"CRITICAL"}, ["0"]),
    5: ("[]", '["99-100"]', {"SYSTEM", "JOB"}, ["99-100"]),
    6: ('["job"]', '["100-150", "140-160", 161, 200]', {"JOB"}, ["100-161", "200"]),
    7: ('["job", "data"]', '["100-2000"]', {"JOB", "DATA"}, ["100-2000"]),
}


@pytest.mark.parametrize("number", STREAMS)
def test_classes_and_streams_of_a_rule_complete_each_other(number: int) -> None:
    classes, streams, granted, ranges = STREAMS[number]
    text = RULE.replace('["job"]', classes) + f"streams = {streams}\n"
    (rule,) = config.rules(config.parse(LEAST + text))
    assert {klass.name for klass in rule.grant.classes} == granted
    assert [str(each) for each in rule.grant.streams] == ranges
    assert all(isinstance(each, StreamRange) for each in rule.grant.streams)


def test_users_and_groups_become_numbers() -> None:
    nobody = pwd.getpwnam("nobody")
    text = '[[application]]\nname = "n"\nuser = "nobody"\nuid = 7\ngroup = "nogroup"\nstreams = [0]'
    (rule,) = config.rules(config.parse(LEAST + text))
    assert rule.whom.uids == {nobody.pw_uid, 7}
    assert rule.whom.gids == {nobody.pw_gid}
    assert not rule.whom.anybody


def test_a_file_is_read_from_its_path(tmp_path: Path) -> None:
    path = tmp_path / "valkyrie.toml"
    path.write_text(LEAST)
    assert config.load(path).file == str(path)


def test_a_missing_file_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file.*--config"):
        config.load(tmp_path / "none.toml")


def test_a_file_that_anybody_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "valkyrie.toml"
    path.write_text(LEAST)
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="anybody may write it"):
        config.load(path)


def test_live_keys_are_changed_and_checked() -> None:
    read = config.parse(LEAST)
    keys = config.live_keys(read)
    assert keys["class.critical.rate_packets"] == read.classes.critical.rate_packets
    changed = config.tuned(read, {"class.logs.rate_packets": 5, "worker.stamp": 1})
    assert changed.classes.logs.rate_packets == 5
    assert changed.worker.stamp is True
    assert config.live_keys(read) == keys, "the old tree stays as it was"


def test_a_node_is_tuned_after_a_peer_was_removed() -> None:
    fingerprint = "-".join(["aaaaa"] * 8)
    peer = f'[[peer]]\nname = "b"\naddress = "10.0.0.2"\nfingerprint = "{fingerprint}"\n'
    read = config.without_peer(config.parse(LEAST + peer), 0)
    changed = config.tuned(read, {"worker.spin_us": 0})
    assert changed.worker.spin_us == 0
    assert changed.peers == read.peers, "rows of memory go by their order"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("class.log.rate_packets", 1, "did you mean 'class.logs.rate_packets'?"),
        ("node.udp_port", 1, "cannot change while the node runs"),
        ("worker.spin_us", 1001, "worker.spin_us: expected `int` <= 1000, found 1001"),
        ("worker.stamp", 2, "worker.stamp: expected `bool`"),
        ("worker.spin_us", "few", "worker.spin_us: expected `int`"),
        ("transport.controller", "bbr", "transport.controller: invalid enum value 'bbr'"),
    ],
)
def test_what_cannot_be_tuned_is_refused(key: str, value: int | str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.tuned(config.parse(LEAST), {key: value})
    assert message in str(caught.value)


def test_the_environment_is_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setitem(os.environ, "WATCHDOG_USEC", "2000000")
    found = config.environment()
    assert (found.notify_socket, found.watchdog_us) == ("/run/notify", 2_000_000)


def test_the_documentation_is_what_the_settings_say() -> None:
    written = (ROOT / "docs/CONFIGURATION.md").read_text()
    assert written == config_doc.document(), (
        "python -m valkyrie.controlplane.config.config_doc > docs/CONFIGURATION.md"
    )


def test_the_documented_example_is_accepted() -> None:
    assert config.rules(config.parse(config_doc.EXAMPLE))


def test_operators_have_roles_and_are_somebody() -> None:
    text = LEAST + '[[operator]]\nname = "o"\nroles = ["read", "load"]\n'
    (operator,) = config.operators(config.parse(text + "uid = 7\n"))
    assert {role.value for role in operator.roles} == {"read", "load"}
    assert operator.whom.uids == {7}
    for wrong, said in (
        ("", r"operator\[0\]: matches nobody"),
        ('user = "root"\nanybody = true\n', "names somebody and anybody"),
        ('user = "no-such-user"\n', r"operator\[0\]\.user"),
    ):
        with pytest.raises(ConfigError, match=said):
            config.parse(text + wrong)
    with pytest.raises(ConfigError, match=r"operator\.roles|operator\[0\]\.roles"):
        config.parse(text.replace('"load"', '"attach"') + "uid = 7\n")
