"""Real nodes that demand something of each other: who has it is let in, and nobody else."""

from __future__ import annotations

import os
import pwd
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import valkyrie
from tests.lab import Lab, wait_until
from tests.nodes import NodeUnderTest, expect, joined, make_node, running, session, streams
from valkyrie.controlplane.security.identity_file import load_or_make
from valkyrie.dataplane import lib
from valkyrie.dataplane.application.refusal import UntrustedError

from .test_auth import BOTH, HMAC, JWT, KINDS, private, token, write_files
from .test_cli import valkyrie as command

QUICK = "[session]\nretry_ms = 100\nretry_max_ms = 2000\n"


def make(
    lab: Lab,
    folder: Path,
    table: str,
    *,
    said: tuple[str, str] = (BOTH, BOTH),
    pinned: bool = True,
) -> tuple[NodeUnderTest, NodeUnderTest]:
    """Return two nodes; ``said`` is what each has of the other beside its fingerprint."""
    links = lab.wire(lab.host("a"), lab.host("b"))
    files = [folder / f"{name}.key" for name in "ab"]
    prints = [load_or_make(file)[0].card.fingerprint for file in files]
    nodes = [
        make_node(
            links[i],
            folder,
            {"ba"[i]: str(links[1 - i].v4.ip)},
            security=f'identity_file = "{files[i]}"\nrevoked_file = "{"ab"[i]}.revoked.toml"',
            known=(f'fingerprint = "{prints[1 - i]}"\n' if pinned else "") + said[i],
            extra=QUICK + table.format("ab"[i]),
        )
        for i in range(2)
    ]
    return nodes[0], nodes[1]


def says(node: NodeUnderTest, reason: str) -> bool:
    """Say whether a node gives a reason why there is no session."""
    return bool(session(node)["reason"] == reason)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pinned", [True, False])
def test_nodes_that_show_what_is_demanded_talk(
    lab: Lab, tmp_path: Path, kind: str, pinned: bool
) -> None:
    write_files(tmp_path)
    a, b = make(lab, tmp_path, KINDS[kind], pinned=pinned)
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        assert (session(a)["subject"], session(b)["subject"]) == ("b", "a")
        wait_until(lambda: bool(a.on_record("peer.join")), 5.0, "it is on record")
        assert a.on_record("peer.join")[-1]["evidence"] == "b"
        with streams(a, b) as (out, into):
            out.send(b"hello")
            expect(into, b"hello")


def spoil(folder: Path, how: str) -> tuple[str, str]:
    """Take from node a what it should show; returns the table and what b says of it."""
    if how == "wrong":  # a's own file has another secret than b's
        text = (folder / "secrets").read_text()
        private(folder / "a.secrets", text.replace(text.splitlines()[1].split()[1], word_of(text)))
        return HMAC.replace('"secrets"', '"{0}.secrets"'), "name and secret do not belong together"
    seconds = {"expired": -60, "valid": 600}[how]
    private(folder / "a.jwt", token("a", folder, seconds=seconds))
    return JWT, "the token has expired"


def word_of(text: str) -> str:
    """Return the secret of the last line."""
    return text.rsplit(maxsplit=1)[-1]


@pytest.mark.parametrize("how", ["wrong", "expired", "missing"])
def test_who_cannot_show_what_is_demanded_is_refused_with_the_reason(
    lab: Lab, tmp_path: Path, how: str
) -> None:
    write_files(tmp_path)
    if how == "missing":
        table, reason = HMAC, "a has shown nothing for [[auth]] 'x', which is demanded of it"
        a, b = make(lab, tmp_path, table, said=('demand = "x"\n', BOTH))
    else:
        private(tmp_path / "b.secrets", (tmp_path / "secrets").read_text())
        table, reason = spoil(tmp_path, how)
        a, b = make(lab, tmp_path, table)
    code, word = (
        (lib.VK_CODE_UNPROVEN, "unproven")
        if how == "wrong"
        else (lib.VK_CODE_CREDENTIAL, "credential")
    )
    with running(a, b), valkyrie.attach_sync(a.socket) as one:
        for each in (a, b):
            wait_until(partial(says, each, word), 5.0, "both say why")
        with pytest.raises(UntrustedError) as caught:
            one.connect("b").open("echo", stream=1000)
        assert caught.value.code == code
        assert session(a)["state"] != "up"
        wait_until(lambda: bool(b.on_record("peer.refuse")), 5.0, "it is on record")
        rows = b.on_record("peer.refuse")
        assert any(reason in row["reason"] and row["code"] == code for row in rows), rows
    for node in (a, b):
        kept = node.said() + node.config.with_name(f"audit-{node.host.name}.jsonl").read_text()
        assert "vkts1:" not in kept
        assert "eyJ" not in kept


@pytest.mark.parametrize("by", ["subject", "fingerprint"])
def test_a_peer_that_is_known_by_what_it_shows_is_put_out_at_once(
    lab: Lab, public: Path, by: str
) -> None:
    write_files(public)
    a, b = make(lab, public, JWT, pinned=False)
    of_a = {"subject": "a", "fingerprint": str(load_or_make(public / "a.key")[0].card.fingerprint)}
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        fresh = public / "revoked.new"
        fresh.write_text(f'[[revoked]]\n{by} = "{of_a[by]}"\n')
        b_list = public / "b.revoked.toml"
        fresh.replace(b_list)
        wait_until(partial(says, b, "credential"), 5.0, "a has been put out")
        wait_until(partial(says, a, "credential"), 5.0, "a knows why")


def test_a_token_that_was_put_in_the_place_of_an_old_one_is_shown_without_a_restart(
    lab: Lab, public: Path
) -> None:
    write_files(public)
    uid = pwd.getpwnam("nobody").pw_uid
    private(public / "a.jwt", token("a", public, seconds=-60))
    os.chown(public / "a.jwt", uid, -1)
    a, b = make(lab, public, JWT)
    with running(a, b):
        wait_until(partial(says, b, "credential"), 5.0, "it has expired")
        fresh = public / "next"
        private(fresh, token("a", public))
        os.chown(fresh, uid, -1)
        fresh.replace(public / "a.jwt")
        wait_until(lambda: joined(a, b), 10.0, "both have joined")


def test_a_file_of_roots_that_changes_is_told_of_at_once_and_read_after_a_restart(
    lab: Lab, public: Path
) -> None:
    write_files(public)
    a, b = make(lab, public, HMAC)
    assert (public / "secrets").stat().st_uid == 0
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        assert a.status()["security"]["unread"] == ""
        fresh = public / "next"
        private(fresh, (public / "secrets").read_text() + "# more\n")
        fresh.replace(public / "secrets")
        wait_until(lambda: bool(a.on_record("credentials.unreadable")), 5.0, "it is on record")
        (row,) = a.on_record("credentials.unreadable")
        assert "start it again" in row["reason"]
        assert str(public / "secrets") in a.status()["security"]["unread"]
        uid = pwd.getpwnam("nobody").pw_uid
        os.chown(public / "secrets", uid, -1)
        wait_until(lambda: a.status()["security"]["unread"] == "", 5.0, "it can be read now")
        assert joined(a, b)
        os.chown(public / "secrets", 0, -1)
        wait_until(lambda: a.status()["security"]["unread"] != "", 5.0, "and not any more")
    with running(a, b):
        wait_until(lambda: joined(a, b), 5.0, "both have joined")
        assert a.status()["security"]["unread"] == ""


def on_both(nodes: tuple[NodeUnderTest, NodeUnderTest], event: str) -> list[list[dict[str, Any]]]:
    """Return the fields of an event in both logs."""
    return [node.on_record(event) for node in nodes]


LAZY = "eager = false\n"
"""Of [session]: nobody asks but who has something to send."""


def test_one_who_demands_and_asks_has_it_on_record_once(lab: Lab, tmp_path: Path) -> None:
    write_files(tmp_path)
    nodes = make(lab, tmp_path, LAZY + HMAC, said=('demand = "x"\n', 'show = "x"\n'))
    a, b = nodes
    with running(a, b):
        with streams(a, b) as (out, into):
            out.send(b"hello")
            expect(into, b"hello")
        assert command("session", "kill", "b", "--node", a.socket).returncode == 0
        wait_until(lambda: all(on_both(nodes, "peer.leave")), 5.0, "both have left")
        ours, theirs = on_both(nodes, "peer.join")
        assert [row["evidence"] for row in ours] == ["b"]
        assert [row.get("evidence") for row in theirs] == [None]
        assert [len(rows) for rows in on_both(nodes, "peer.leave")] == [1, 1]
        assert on_both(nodes, "peer.refuse") == [[], []]


def test_who_shows_nothing_to_one_who_asks_joins_and_is_turned_away_once(
    lab: Lab, tmp_path: Path
) -> None:
    write_files(tmp_path)
    nodes = make(lab, tmp_path, LAZY + HMAC, said=('demand = "x"\n', ""))
    a, b = nodes
    with running(a, b), valkyrie.attach_sync(a.socket) as one:
        with pytest.raises(UntrustedError):
            one.connect("b").open("echo", stream=1000)
        wait_until(lambda: bool(b.on_record("peer.leave")), 5.0, "it was turned away")
        wait_until(lambda: bool(a.on_record("peer.refuse")), 5.0, "it is on record")
        assert [len(rows) for rows in on_both(nodes, "peer.join")] == [0, 1]
        ours, theirs = on_both(nodes, "peer.leave")
        assert ours == []
        assert [row["code"] for row in theirs] == [lib.VK_CODE_CREDENTIAL]
        ours, theirs = on_both(nodes, "peer.refuse")
        assert ["has shown nothing" in row["reason"] for row in ours] == [True]
        assert theirs == []
        assert b.said().count("peer 'a' has joined") == 1
        assert b.said().count("peer 'a' has left") == 1


def test_a_session_is_over_when_what_was_shown_for_it_has_expired(lab: Lab, tmp_path: Path) -> None:
    write_files(tmp_path)
    private(tmp_path / "a.jwt", token("a", tmp_path, seconds=-20))  # 30 s are for clocks
    a, b = make(lab, tmp_path, JWT)
    with running(a, b):
        wait_until(lambda: bool(b.on_record("peer.join")), 5.0, "they have joined")
        wait_until(partial(says, b, "credential"), 20.0, "it has expired")
        assert session(b)["state"] != "up"
