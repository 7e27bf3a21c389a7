"""Nodes that demand much: certificates (mtls), and proofs again and again (zero_trust)."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

import valkyrie
from tests.lab import PATIENCE, SOON_S, Lab, wait_until
from tests.nodes import (
    NodeUnderTest,
    expect,
    joined,
    make_node,
    make_secure_pair,
    running,
    session,
    streams,
)
from valkyrie.controlplane.security import authority
from valkyrie.controlplane.security.certificates import issue
from valkyrie.dataplane import lib
from valkyrie.dataplane.application.refusal import PolicyError, StreamResetError

from .test_cli import valkyrie as command

AGAIN = "[session]\nretry_ms = 100\nretry_max_ms = 200\n"
MARKER = b"nobody on the way may read this line"


def cert(*arguments: str | Path) -> dict[str, Any]:
    result = command("cert", *arguments, "--json")
    assert result.returncode == 0, result
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def listed(node: NodeUnderTest) -> dict[str, Any]:
    """Return what the command says of a node's only session."""
    result = command("session", "list", "--json", "--node", node.socket)
    assert result.returncode == 0, result
    (row,) = json.loads(result.stdout)
    assert isinstance(row, dict)
    return row


# ---- mtls ----


def certified(lab: Lab, folder: Path) -> tuple[NodeUnderTest, NodeUnderTest]:
    """Return two nodes with certificates of one authority."""
    cert("ca", folder / "ca")
    links = lab.wire(lab.host("a"), lab.host("b"))
    nodes = []
    for i, name in enumerate("ab"):
        cert("issue", folder / "ca", name, "--out", folder)
        security = (
            f'modes = ["mtls"]\nidentity_file = "{name}.id"\nrevoked_file = "{name}.revoked.toml"\n'
            f'certificate_file = "{name}.pem"\ncertificate_key_file = "{name}.key"\n'
            'roots_file = "ca/ca.pem"'
        )
        other = "ba"[i]
        known = f'certificate = "{other}"'
        peers = {other: str(links[1 - i].v4.ip)}
        nodes.append(
            make_node(links[i], folder, peers, security=security, known=known, extra=AGAIN)
        )
    return nodes[0], nodes[1]


@pytest.mark.parametrize("which", ["b.pem", "ca/ca.pem"])
def test_nodes_with_certificates_talk_until_one_is_revoked(
    lab: Lab, public: Path, which: str
) -> None:
    a, b = certified(lab, public)
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        for node in (a, b):
            row = listed(node)
            assert (row["mode"], row["state"], row["proven_s"]) == ("mtls", "up", None)
        with streams(a, b) as (out, _):
            cert("revoke", public / "ca", public / which, "--to", public / "a.revoked.toml")
            with pytest.raises(StreamResetError) as caught:
                out.recv(timeout=SOON_S)
        assert caught.value.code == lib.VK_CODE_CREDENTIAL
        wait_until(lambda: "revoked" in str(a.on_record("peer.refuse")), 5.0, "it is not let in")
        assert listed(a)["state"] != "up"
        assert listed(b)["state"] != "up"


def test_who_is_on_the_authoritys_list_is_out_in_a_second(lab: Lab, public: Path) -> None:
    a, b = certified(lab, public)
    cert("crl", public / "ca")
    lists = 'crl_file = "ca/revoked.pem"\n'
    a.config.write_text(a.config.read_text().replace("[security]\n", f"[security]\n{lists}"))
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        with streams(a, b) as (out, _):
            cert("revoke", public / "ca", public / "b.pem")
            with pytest.raises(StreamResetError) as caught:
                out.recv(timeout=SOON_S)
        assert caught.value.code == lib.VK_CODE_CREDENTIAL
        wait_until(lambda: bool(a.on_record("peer.revoke")), 5.0, "it is put on record")
        came_ns = (public / "ca" / "revoked.pem").stat().st_mtime_ns
        (revoked,) = a.records("peer.revoke")
        assert revoked["time_ns"] - came_ns < 1e9 * PATIENCE
        assert revoked["fields"] == {"peer": "b", "reason": "on the list of CN=valkyrie-ca"}
        wait_until(lambda: "revoked" in str(a.on_record("peer.refuse")), 5.0, "it is not let in")


def test_an_older_list_is_refused_by_a_node_and_a_daemon_that_start_anew(
    lab: Lab, public: Path
) -> None:
    a, b = certified(lab, public)
    cert("crl", public / "ca")
    file = public / "ca" / "revoked.pem"
    old = file.read_bytes()
    cert("revoke", public / "ca", public / "b.pem")
    new = file.read_bytes()
    lists = 'crl_file = "ca/revoked.pem"\n'
    a.config.write_text(a.config.read_text().replace("[security]\n", f"[security]\n{lists}"))
    kept = public / "audit-a-lists.json"
    with running(a, b):
        wait_until(kept.exists, 5.0, "the list is remembered")
        assert kept.stat().st_mode & 0o777 == 0o600
        wait_until(lambda: "revoked" in str(a.on_record("peer.refuse")), 5.0, "b is not let in")
        put(file, old)
        wait_until(lambda: len(a.on_record("crl.rollback")) == 1, 5.0, "the daemon notices")
        os.kill(a.pid("daemon"), signal.SIGKILL)
        wait_until(lambda: len(a.on_record("crl.rollback")) == 2, 10.0, "and the next one")
    with running(a, b):
        wait_until(lambda: len(a.on_record("crl.rollback")) == 3, 10.0, "and the next node")
        wait_until(lambda: "this node has had" in str(a.on_record("peer.refuse")), 10.0)
        assert str(kept) in a.said()
        assert not a.on_record("peer.join")
        put(file, new)
        wait_until(lambda: bool(a.on_record("crl.read")), 5.0, "the newest is taken")


def put(file: Path, data: bytes) -> None:
    """Put bytes into a file at once."""
    fresh = file.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.replace(file)


def test_a_certificate_that_is_due_is_renewed_under_a_running_node(lab: Lab, public: Path) -> None:
    a, b = certified(lab, public)
    above = authority.load(public / "ca")
    old = x509.load_pem_x509_certificate((public / "a.pem").read_bytes())
    key = old.public_key()
    assert isinstance(key, Ed25519PublicKey)
    begin = dt.datetime.now(dt.UTC) - dt.timedelta(days=25)
    due = authority.pem_of(issue(above, "a", key, begin))
    authority.write_public(public / "a.pem", due)
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        wait_until(lambda: bool(a.on_record("certificate.due")), 5.0, "it asks for a new one")
        with streams(a, b) as (out, into):
            new = cert("renew", public / "ca", public / "a.pem", "--if-due")
            wait_until(lambda: bool(a.on_record("certificate.renew")), 5.0, "it takes that")
            (taken,) = a.on_record("certificate.renew")
            assert taken["serial"] == new["serial"]
            session_before = listed(a)["local"]
            assert command("session", "rotate", "b", "--node", a.socket).returncode == 0
            wait_until(lambda: listed(a)["local"] != session_before, 5.0, "a new session")
            out.send(MARKER)
            message = into.recv(timeout=SOON_S)
            assert message is not None
        assert a.on_record("peer.leave") == b.on_record("peer.leave") == []


def test_a_node_does_not_start_with_a_list_of_somebody_else(lab: Lab, public: Path) -> None:
    a, _ = certified(lab, public)
    cert("ca", public / "other")
    cert("crl", public / "other")
    lists = 'crl_file = "other/revoked.pem"\n'
    a.config.write_text(a.config.read_text().replace("[security]\n", f"[security]\n{lists}"))
    a.up()
    assert a.process is not None
    assert a.process.wait(timeout=20 * PATIENCE) == 1
    assert "is not signed by a root in security.roots_file" in a.said()


def test_a_node_whose_certificate_has_another_name_is_not_let_in(lab: Lab, public: Path) -> None:
    a, b = certified(lab, public)
    text = a.config.read_text().replace('certificate = "b"', 'certificate = "c"')
    a.config.write_text(text)
    with running(a, b):
        wait_until(
            lambda: "should be c and is b" in str(a.on_record("peer.refuse")), 5.0, "refused"
        )
        wait_until(lambda: bool(b.on_record("peer.refuse")), 5.0, "b hears of it")
        assert a.on_record("peer.join") == b.on_record("peer.join") == []


# ---- zero_trust ----


def distrustful(
    lab: Lab,
    folder: Path,
    *,
    path: str = "udp",
    every_s: int = 1,
    answer_s: int = 2,
    session_s: int = 10,
) -> tuple[NodeUnderTest, NodeUnderTest]:
    """Return two nodes that have each other prove themselves all the time."""
    a, b = make_secure_pair(lab, folder, path=path, modes='["zero_trust"]', extra=AGAIN)
    for node in (a, b):
        keys = (
            f"zero_trust_proof_s = {every_s}\nzero_trust_answer_s = {answer_s}\n"
            f"zero_trust_session_s = {session_s}\n"
            f'revoked_file = "{node.host.name}.revoked.toml"\n'
        )
        text = node.config.read_text().replace("[security]\n", f"[security]\n{keys}")
        node.config.write_text(text)
    return a, b


def ended(node: NodeUnderTest) -> list[dict[str, Any]]:
    return node.on_record("peer.leave")


def test_zero_trust_is_proven_again_and_again_and_made_anew_and_data_goes_on(
    lab: Lab, public: Path
) -> None:
    a, b = distrustful(lab, public)
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        row = listed(a)
        assert row["mode"] == "zero_trust"
        assert row["ends_s"] <= 10
        first = row["local"]
        with streams(a, b) as (out, into):
            wait_until(lambda: row_of(a)["age_s"] > 3, 10.0, "time passes")
            row = listed(a)
            assert row["local"] == first
            assert row["proven_s"] < 2.5 < row["age_s"]
            wait_until(lambda: row_of(a)["local"] != first, 15.0, "the session is made anew")
            wait_until(lambda: joined(a, b), 5.0, "both have the new one")
            out.send(b"still there")
            expect(into, b"still there")
        assert ended(a) == ended(b) == []


def row_of(node: NodeUnderTest) -> dict[str, Any]:
    row = session(node)
    return row if row["age_s"] is not None else row | {"age_s": 0.0}


def test_zero_trust_ends_with_a_peer_whose_worker_lives_and_daemon_is_mute(
    lab: Lab, public: Path
) -> None:
    a, b = distrustful(lab, public, session_s=300)
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        with streams(a, b) as (out, _):
            daemon = b.pid("daemon")
            os.kill(daemon, signal.SIGSTOP)  # whoever holds it, the worker would go on
            try:
                with pytest.raises(StreamResetError) as caught:
                    out.recv(timeout=SOON_S)
            finally:
                os.kill(daemon, signal.SIGCONT)
            assert caught.value.code == lib.VK_CODE_HANDSHAKE_TIMEOUT
        wait_until(lambda: bool(ended(a)), 5.0, "it is on record")
        (record,) = ended(a)
        assert record["peer"] == "b"
        assert record["code"] == lib.VK_CODE_HANDSHAKE_TIMEOUT
        assert "did not prove itself anew in time" in record["reason"]
        wait_until(lambda: joined(a, b), 10.0, "who proves itself is let in again")


def test_zero_trust_ends_when_a_peer_is_revoked(lab: Lab, public: Path) -> None:
    a, b = distrustful(lab, public)
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        fingerprint = listed(a)["fingerprint"]
        with streams(a, b) as (out, _):
            fresh = public / "revoked.new"
            fresh.write_text(f'[[revoked]]\nfingerprint = "{fingerprint}"\nreason = "lost"\n')
            fresh.replace(public / "a.revoked.toml")
            with pytest.raises(StreamResetError) as caught:
                out.recv(timeout=SOON_S)
        assert caught.value.code == lib.VK_CODE_CREDENTIAL
        wait_until(lambda: "revoked" in str(a.on_record("peer.refuse")), 5.0, "it is not let in")
        assert listed(a)["state"] != "up"


@pytest.mark.parametrize("path", ["udp", "xdp"])
def test_zero_trust_lets_a_peer_do_only_what_its_table_names(
    lab: Lab, public: Path, path: str
) -> None:
    a, b = distrustful(lab, public, path=path)
    rights = 'services = ["ear", "jobs-*"]\nclasses = ["data"]\n'
    b.config.write_text(b.config.read_text() + rights)  # its last table is peer a's
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        for node in (a, b):
            (port,) = node.status()["interfaces"]
            assert port["rx"]["mode"].startswith(path)
        with (
            valkyrie.attach_sync(a.socket) as one,
            valkyrie.attach_sync(b.socket) as other,
            other.listen("ear") as service,
            other.listen("jobs-7"),
            other.listen("secret"),
            one.listen("mouth") as ours,
        ):
            to = one.connect("b")
            to.open("ear", stream=1000).send(MARKER)
            assert service.accept(timeout=SOON_S).recv(timeout=SOON_S)
            to.open("jobs-7", stream=1001)
            for name, stream in (("secret", 1002), ("ear", 100)):
                with pytest.raises(PolicyError):
                    to.open(name, stream=stream)
            other.connect("a").open("mouth", stream=100).send(MARKER)  # the other way nothing is
            assert ours.accept(timeout=SOON_S).recv(timeout=SOON_S)
        wait_until(lambda: len(b.on_record("open.refuse")) == 2, 5.0, "both are put on record")
        told = b.on_record("open.refuse")
        assert {each["class"] for each in told} == {"data", "job"}
        assert all(each["count"] >= 1 for each in told)
        assert a.on_record("open.refuse") == []
