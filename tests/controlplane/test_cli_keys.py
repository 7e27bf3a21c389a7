"""``valkyrie key`` and ``valkyrie peer``: from two hosts to two nodes that know each other."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from tests.census import NODE_PREFIX
from valkyrie.controlplane.cli.exits import Exit
from valkyrie.controlplane.config import reader as config
from valkyrie.controlplane.daemon.credentials import load
from valkyrie.controlplane.security.exchange import token_id
from valkyrie.controlplane.security.handshake import Established
from valkyrie.controlplane.security.identity import Card
from valkyrie.controlplane.security.policy import Rights
from valkyrie.controlplane.security.token_file import parse_secrets
from valkyrie.dataplane import lib
from valkyrie.dataplane.signing.fingerprint import parse_fingerprint
from valkyrie.dataplane.wire import Class

from .security.parties import Wire
from .test_cli import refused, valkyrie


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The configuration of a host that has no identity yet, and a peer that is not pinned."""
    return make_host(tmp_path, "a")


def make_host(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    path = folder / name / "valkyrie.toml"
    path.write_text(
        '[[interface]]\nname = "vk0"\n[security]\nidentity_file = "keys/identity.key"\n'
        "# a comment\n"
    )
    return path


def test_an_identity_is_made_shown_and_not_given_up_by_mistake(host: Path) -> None:
    refused(valkyrie("key", "show", "--config", host), Exit.USAGE, "no identity yet", "key new")
    made = valkyrie("key", "new", "--config", host)
    assert made.returncode == 0, made
    fingerprint = parse_fingerprint(made.stdout)
    assert (host.parent / "keys" / "identity.key").stat().st_mode & 0o777 == 0o600
    assert valkyrie("key", "fingerprint", "--config", host).stdout == made.stdout
    shown = json.loads(valkyrie("key", "show", "--json", "--config", host).stdout)
    assert shown["fingerprint"] == str(fingerprint)
    assert Card.of_text(shown["card"]).fingerprint == fingerprint
    refused(valkyrie("key", "new", "--config", host), Exit.USAGE, "there is an identity")
    again = json.loads(valkyrie("key", "new", "--replace", "--json", "--config", host).stdout)
    assert again["fingerprint"] != str(fingerprint)


def test_the_fingerprint_is_said_before_the_configuration_is_finished(host: Path) -> None:
    host.write_text(host.read_text() + '[[peer]]\nname = "b"\naddress = "10.9.0.2"\n')
    refused(valkyrie("peer", "list", "--config", host), Exit.USAGE, "key fingerprint")
    assert valkyrie("key", "new", "--config", host).returncode == 0
    assert valkyrie("key", "fingerprint", "--config", host).returncode == 0


def test_keys_of_a_configuration_that_is_not_there_are_not_made(tmp_path: Path) -> None:
    missing = tmp_path / "x.toml"
    refused(valkyrie("key", "new", "--config", missing), Exit.USAGE, "No such file")
    missing.write_text("security = 7")
    refused(valkyrie("key", "new", "--config", missing), Exit.USAGE, "cannot be read")


def test_nobody_else_can_show_the_keys() -> None:
    with tempfile.TemporaryDirectory(prefix=NODE_PREFIX) as name:
        Path(name).chmod(0o755)
        host = make_host(Path(name), "a")
        assert valkyrie("key", "new", "--config", host).returncode == 0
        result = valkyrie("key", "show", "--config", host, user="65534")
        refused(result, Exit.USAGE, "Permission denied")


def test_a_shared_secret_is_a_line_of_its_own(tmp_path: Path) -> None:
    made = valkyrie("key", "token")
    (secret,) = parse_secrets(made.stdout.encode(), "stdout")
    assert f'token = "{token_id(secret).hex()}"' in made.stderr
    document = json.loads(valkyrie("key", "token", "--json").stdout)
    (secret,) = parse_secrets(document["secret"].encode(), "json")
    assert document["id"] == token_id(secret).hex()


@pytest.mark.parametrize("what", ["fingerprint", "card"])
def test_two_hosts_that_add_each_other_can_shake_hands(tmp_path: Path, what: str) -> None:
    hosts = {name: make_host(tmp_path, name) for name in ("a", "b")}
    shown = {}
    for name, path in hosts.items():
        valkyrie("key", "new", "--config", path)
        shown[name] = json.loads(valkyrie("key", "show", "--json", "--config", path).stdout)[what]
    for name, other in (("a", "b"), ("b", "a")):
        result = valkyrie("peer", "add", other, "10.9.0.9", shown[other], "--config", hosts[name])
        assert result.returncode == 0, result
        assert "the node takes it when it starts" in result.stderr
        assert "# a comment" in hosts[name].read_text()
    a, b = (load(config.load(path)) for path in hosts.values())
    assert a.peers[0] is not None
    events = Wire(a.local, b.local, a.peers[0]).run()
    assert all(isinstance(event, Established) for event in events), events


def test_peers_are_listed_with_what_they_are_known_by_and_removed(host: Path) -> None:
    pin = "-".join(["aaaaa"] * 8)
    assert valkyrie("peer", "add", "b", "10.9.0.2", pin.upper(), "--config", host).returncode == 0
    result = valkyrie(
        "peer", "add", "c", "fe80::2", pin.replace("aaaaa", "bbbbb", 1), "--port", "9000",
        "--require-pq", "--json", "--config", host,
    )  # fmt: skip
    assert json.loads(result.stdout)["added"] == "c"
    rows = json.loads(valkyrie("peer", "list", "--json", "--config", host).stdout)
    assert rows[0] == {
        "name": "b",
        "address": "10.9.0.2",
        "port": lib.VK_PORT,
        "known by": "fingerprint",
        "fingerprint": pin,
        "services": ["*"],
        "classes": ["critical", "data", "job", "logs", "system"],
        "modes": ["noise", "post_quantum"],
    }
    assert (rows[1]["port"], rows[1]["modes"]) == (9000, ["post_quantum"])
    assert pin in valkyrie("peer", "list", "--config", host).stdout
    assert valkyrie("peer", "remove", "b", "--config", host).returncode == 0
    rows = json.loads(valkyrie("peer", "list", "--json", "--config", host).stdout)
    assert [row["name"] for row in rows] == ["c"]
    refused(valkyrie("peer", "remove", "b", "--config", host), Exit.USAGE, "has no peer 'b'")


def test_a_peer_is_added_with_what_it_may_open_here(host: Path) -> None:
    pin = "-".join(["aaaaa"] * 8)
    result = valkyrie(
        "peer", "add", "b", "10.9.0.2", pin, "--service", "ear", "--service", "jobs-*",
        "--class", "job", "--class", "data", "--config", host,
    )  # fmt: skip
    assert result.returncode == 0, result
    (peer,) = config.load(host).peers
    assert peer.rights == Rights(("ear", "jobs-*"), frozenset({Class.JOB, Class.DATA}))
    (row,) = json.loads(valkyrie("peer", "list", "--json", "--config", host).stdout)
    assert (row["services"], row["classes"]) == (["ear", "jobs-*"], ["data", "job"])
    assert "ear, jobs-*" in valkyrie("peer", "list", "--config", host).stdout
    assert valkyrie("peer", "remove", "b", "--config", host).returncode == 0


BAD = {
    1: (("b", "10.9.0.2"), "nothing tells 'b' from somebody who has its address"),
    2: (("b", "10.9.0.2", "xyz"), "'xyz' is no fingerprint"),
    3: (("b", "example.org", "-".join(["aaaaa"] * 8)), "names are not looked up"),
    4: (("b b", "10.9.0.2", "-".join(["aaaaa"] * 8)), "peer[0].name: expected `str` matching"),
    5: (("b", "10.9.0.2", "vkid1:aaaa"), "this is no identity card"),
    6: (('b"\nx = "', "10.9.0.2", "-".join(["aaaaa"] * 8)), "is no"),
    7: (("b", '"', "-".join(["aaaaa"] * 8)), "is no"),
    8: (("b\\", "10.9.0.2", "-".join(["aaaaa"] * 8)), "is no"),
    9: (("b", "::1", "-".join(["aaaaa"] * 8), "--class", "control"), "peer[0].classes[0]"),
    10: (("b", "::1", "-".join(["aaaaa"] * 8), "--service", 'x"'), "is no services of a peer"),
}


@pytest.mark.parametrize("number", BAD)
def test_a_peer_that_makes_no_sense_is_not_written(host: Path, number: int) -> None:
    arguments, message = BAD[number]
    refused(valkyrie("peer", "add", *arguments, "--config", host), Exit.USAGE, message)
    assert not (host.parent / "peers.toml").exists()


def test_a_peer_of_the_configuration_itself_is_for_people_to_remove(host: Path) -> None:
    text = host.read_text() + '[[peer]]\nname = "b"\naddress = "10.9.0.2"\nstatic = true\n'
    host.write_text(text)
    result = valkyrie("peer", "remove", "b", "--config", host)
    refused(result, Exit.USAGE, f"stands in {host}")
    assert host.read_text() == text
