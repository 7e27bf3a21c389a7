"""Signatures of a node under applications' messages: who has them, how often, and on record."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

import valkyrie
from tests.controlplane.test_auditor import log_of, records
from tests.controlplane.test_policy import GRANT
from tests.lab import Lab, wait_until
from tests.nodes import EVERYTHING, NodeUnderTest, make_secure_pair, running
from valkyrie.controlplane.cli import run
from valkyrie.controlplane.config.reader import parse, rules
from valkyrie.controlplane.daemon.appserver import Connection, Credentials
from valkyrie.controlplane.daemon.auditor import Auditor
from valkyrie.controlplane.daemon.notary import Notary
from valkyrie.controlplane.security.identity import Identity
from valkyrie.controlplane.security.identity_file import load_or_make
from valkyrie.controlplane.security.policy import Grant
from valkyrie.dataplane.application.appsocket import Reply, Sign
from valkyrie.dataplane.errors import DataPlaneError
from valkyrie.dataplane.signing import fn_dsa
from valkyrie.dataplane.signing.fn_dsa import FnDsaKey
from valkyrie.dataplane.signing.seal import SALT_SIZE, Draft
from valkyrie.dataplane.wire import Code

NODE = Identity.generate()
TIME_NS = 1_700_000_000_000_000_000
SIGNING = replace(GRANT, sign=2)


class Record:
    """An auditor that remembers, or has no room."""

    def __init__(self, *, full: bool = False) -> None:
        self.full = full
        self.events: list[tuple[str, dict[str, Any]]] = []

    def require(self, event: str, **fields: Any) -> None:
        if self.full:
            raise DataPlaneError.of(28, "the audit log cannot be written")
        self.events.append((event, fields))


def notary(record: Record | None = None, identity: Identity | None = NODE) -> Notary:
    return Notary("pump", identity, cast(Auditor, record or Record()))


def application(grant: Grant | None = SIGNING, *, slot: int = 3, uid: int = 7) -> Connection:
    who = Credentials(pid=1, uid=uid, gids=frozenset())
    made = SimpleNamespace(who=who, grant=grant, slot=slot, attached=slot >= 0)
    return cast(Connection, made)


DRAFT = Draft([b"a", b"b"], secrets.token_bytes(2 * SALT_SIZE))
REQUEST = Sign(root=DRAFT.root, count=2)


async def ask(signs: Notary, connection: Connection, now_s: float = 0.0) -> Reply:
    return await signs.sign(connection, REQUEST, now_s, TIME_NS)


@pytest.mark.parametrize("post_quantum", [False, True])
async def test_a_signature_is_on_record_with_who_asked_and_what_it_is_of(
    post_quantum: bool,
) -> None:
    record = Record()
    request = Sign(root=DRAFT.root, count=2, post_quantum=post_quantum)
    reply = await notary(record).sign(application(), request, 0.0, TIME_NS)
    said = valkyrie.verify(
        b"b", DRAFT.seals(reply.attested)[1], NODE.card.fingerprint, post_quantum=post_quantum
    )
    assert (said.node, said.rule, said.uid, said.time_ns) == ("pump", "jobs", 7, TIME_NS)
    ((event, fields),) = record.events
    assert event == "message.sign"
    assert fields == {
        "uid": 7,
        "pid": 1,
        "rule": "jobs",
        "count": 2,
        "root": DRAFT.root.hex(),
        "time_ns": TIME_NS,
    }


async def test_a_node_without_an_fn_dsa_key_or_the_package_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record, request = Record(), Sign(root=DRAFT.root, count=2, fn_dsa=True)
    reply = await notary(record).sign(application(), request, 0.0, TIME_NS)
    assert (reply.code, reply.attested) == (Code.POLICY, b"")
    assert "`valkyrie key new --fn-dsa --replace`" in reply.message
    monkeypatch.setattr(fn_dsa, "library", lambda: None)
    key = FnDsaKey(bytes(fn_dsa.PRIVATE_SIZE), bytes(fn_dsa.PUBLIC_SIZE))
    signs = notary(record, replace(NODE, fn_dsa=key))
    reply = await signs.sign(application(), request, 0.0, TIME_NS)
    assert "pip install" in reply.message
    assert not record.events


@pytest.mark.parametrize(
    ("connection", "says"),
    [
        (application(GRANT), "does not allow signing"),
        (application(None), "attach first"),
        (application(slot=-1), "attach first"),
    ],
)
async def test_who_has_not_the_right_gets_no_signature(connection: Connection, says: str) -> None:
    record = Record()
    reply = await ask(notary(record), connection)
    assert reply.code == Code.POLICY
    assert says in reply.message
    assert not reply.attested
    assert not record.events


async def test_a_rule_that_says_nothing_allows_no_signing() -> None:
    text = '[[interface]]\nname = "lo"\n' + EVERYTHING
    (rule,) = rules(parse(text))
    assert rule.grant.sign == 0


async def test_what_cannot_be_put_on_record_is_not_signed() -> None:
    with pytest.raises(DataPlaneError, match="cannot be written"):
        await ask(notary(Record(full=True)), application())


async def test_a_node_without_an_identity_that_lasts_signs_nothing() -> None:
    reply = await ask(notary(identity=None), application())
    assert reply.code == Code.POLICY
    assert "plaintext" in reply.message


@pytest.mark.parametrize(
    ("root", "count"), [(b"", 1), (bytes(31), 1), (bytes(32), 0), (bytes(32), 1 << 30)]
)
async def test_a_request_that_is_of_no_batch_is_malformed(root: bytes, count: int) -> None:
    request = Sign(root=root, count=count)
    reply = await notary().sign(application(), request, 0.0, TIME_NS)
    assert reply.code == Code.MALFORMED


async def test_an_application_has_no_more_signatures_than_its_rule_says() -> None:
    """However many connections its user has; another user's are his own."""
    signs = notary(record := Record())
    grant = replace(SIGNING, sign=10)
    asked = [ask(signs, application(grant, slot=number % 4)) for number in range(100)]
    replies = await asyncio.gather(*asked)
    refused = [reply for reply in replies if reply.code]
    assert len(record.events) == len(replies) - len(refused) == 20  # a second's, at once and soon
    for reply in refused:
        assert reply.code == Code.OVERLOAD
        assert "sign more messages at once" in reply.message
    assert not (await ask(signs, application(grant, uid=8))).code
    assert not (await ask(signs, application(grant), now_s=2.0)).code


# ---- With a node ----


def test_a_third_party_verifies_what_an_application_of_a_node_said(
    lab: Lab, tmp_path: Path
) -> None:
    """Nobody else's word is needed, and the node's log says who had it signed."""
    a, b = make_secure_pair(lab, tmp_path, policy=EVERYTHING + "sign = 10\n")
    b.config.write_text(b.config.read_text().replace("sign = 10", ""))
    known = load_or_make(tmp_path / "a.key")[0].card.fingerprint
    messages = [b"%d litres" % litres for litres in range(100)]
    with running(a, b):
        with valkyrie.attach_sync(a.socket, name="pump") as node:
            seals = node.sign(messages)
            killed = a.pid("daemon")
            psutil.Process(killed).kill()
            wait_until(lambda: answers(a) not in (0, killed))
        with valkyrie.attach_sync(a.socket) as node:
            quantum = node.sign(messages[:1], post_quantum=True)
        with (
            valkyrie.attach_sync(b.socket) as node,
            pytest.raises(valkyrie.PolicyError, match="does not allow signing"),
        ):
            node.sign(messages)
    for message, seal in zip(messages, seals, strict=True):
        said = valkyrie.verify(message, seal.pack(), str(known))
        assert (said.node, said.rule, said.uid) == (a.name, "all", os.getuid())
    valkyrie.verify(messages[0], quantum[0].pack(), known, post_quantum=True)
    with pytest.raises(valkyrie.SealError, match="something else"):
        valkyrie.verify(b"1000 litres", seals[0], known)
    with pytest.raises(valkyrie.SealError, match="another node"):
        valkyrie.verify(messages[0], seals[0], load_or_make(tmp_path / "b.key")[0].card.fingerprint)
    signed = [each["fields"] for each in records(log_of(a)) if each["event"] == "message.sign"]
    assert [fields["root"] for fields in signed] == [
        seal.statement.root.hex() for seal in (seals[0], quantum[0])
    ]


async def test_seals_are_made_from_asyncio_as_well(lab: Lab, tmp_path: Path) -> None:
    a, b = make_secure_pair(lab, tmp_path, policy=EVERYTHING + "sign = 10\n")
    known = load_or_make(tmp_path / "a.key")[0].card.fingerprint
    with running(a, b):
        async with valkyrie.attach(a.socket) as node:
            batches = await asyncio.gather(*(node.sign([b"x", b"%d" % i]) for i in range(5)))
    for i, seals in enumerate(batches):
        assert valkyrie.verify(b"%d" % i, seals[1], known).count == 2


def test_files_are_signed_and_verified_from_the_command_line(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = make_secure_pair(lab, tmp_path, policy=EVERYTHING + "sign = 10\n")
    known = [str(load_or_make(tmp_path / f"{name}.key")[0].card.fingerprint) for name in "ab"]
    report, empty = tmp_path / "report", tmp_path / "empty"
    report.write_bytes(b"all is well")
    empty.write_bytes(b"")
    with running(a, b):
        assert run(["sign", str(report), str(empty), "--node", a.socket, "--post-quantum"]) == 0
        assert run(["sign", str(tmp_path / "none"), "--node", a.socket]) == 1
        assert run(["sign", str(report), "--node", a.socket, "--fn-dsa"]) != 0
        assert "key new --fn-dsa" in capsys.readouterr().err
    assert sorted(each.name for each in tmp_path.glob("*report*")) == ["report", "report.seal"]
    capsys.readouterr()
    for path in (report, empty):
        assert run(["verify", str(path), known[0], "--post-quantum", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["node"] == a.name
        assert found["signatures"] == "ed25519 ml_dsa_65"
    assert run(["verify", str(report), known[1]]) == 1
    assert "another node" in capsys.readouterr().err
    assert run(["verify", str(report), known[0], "--seal", f"{empty}.seal"]) == 1
    assert "something else" in capsys.readouterr().err
    assert run(["verify", str(report), "nobody"]) == 2


def answers(node: NodeUnderTest) -> int:
    try:
        return node.pid("daemon")
    except OSError:
        return 0
