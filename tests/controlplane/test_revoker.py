"""Revoked while the node runs: sessions end, nobody comes back; and certificates are renewed."""

from __future__ import annotations

import datetime as dt
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

import valkyrie
from tests.controlplane.security.parties import identity, only, peer
from tests.controlplane.test_tokens import counted
from tests.lab import PATIENCE, SOON_S, Lab, wait_until
from tests.nodes import make_secure_pair, running, streams
from valkyrie.controlplane.daemon.auditor import Auditor
from valkyrie.controlplane.daemon.credentials import Credentials
from valkyrie.controlplane.daemon.revoker import Revoker
from valkyrie.controlplane.security.certificates import issue, make_crl, make_root
from valkyrie.controlplane.security.crl import CrlFile
from valkyrie.controlplane.security.local import Local
from valkyrie.controlplane.security.modes import Mode
from valkyrie.controlplane.security.revocation import RevocationFile
from valkyrie.controlplane.security.tls import TlsCredentials
from valkyrie.controlplane.security.trust import Peer, Pins
from valkyrie.controlplane.sessions.protection import Protection
from valkyrie.dataplane import wire
from valkyrie.dataplane.wire import PORT, Class, Code, Seq, Type, make_frame

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


def test_a_peer_that_is_revoked_is_out_in_a_second_and_stays_out(lab: Lab, public: Path) -> None:
    a, b = make_secure_pair(lab, public, extra="[session]\nretry_ms = 100\n")
    file = public / "a-revoked.toml"
    text = a.config.read_text().replace("[security]\n", f'[security]\nrevoked_file = "{file}"\n')
    a.config.write_text(text)
    with running(a, b), streams(b, a) as (_, into):
        wait_until(lambda: bool(a.on_record("peer.join")))
        joined = a.on_record("peer.join")[-1]
        assert joined["mode"] == "post_quantum"
        local = int(a.status()["sessions"][0]["local"], 16)
        entry = f'fingerprint = "{joined["fingerprint"]}"\nreason = "laptop lost"\n'
        replace(file, f"[[revoked]]\n{entry}")
        with pytest.raises(valkyrie.StreamResetError):
            into.recv(timeout=SOON_S)
        wait_until(lambda: bool(a.on_record("peer.revoke")))
        late = make_frame(
            Type.STREAM_DATA, 100, b"late", wire.Session(local, 1 << 40), Seq(9)
        ).pack()
        with b.host.socket(socket.AF_INET) as raw:
            raw.sendto(late, (str(a.link.v4.ip), PORT))
        wait_until(lambda: counted(a, Class.JOB).get("denied", 0) >= 1, what="the kernel drops it")
        (revoked,) = a.records("peer.revoke")
        assert revoked["fields"] == {"peer": "b", "reason": "laptop lost"}
        assert revoked["time_ns"] - file.stat().st_mtime_ns < 1e9 * PATIENCE
        assert a.status()["sessions"][0]["state"] != "up"
        wait_until(lambda: "revoked" in str(a.on_record("peer.refuse")))
        assert len(a.on_record("peer.join")) == 1
        replace(file, "revoked = 5")  # takes nothing back
        wait_until(lambda: len(a.on_record("credentials.unreadable")) == 1)
        assert a.status()["sessions"][0]["state"] != "up"
        replace(file, "")
        wait_until(lambda: len(a.on_record("peer.join")) == 2, 20.0)


def replace(file: Path, text: str) -> None:
    """Put a text into a file at once: nobody sees half of it."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def test_a_node_does_not_start_with_a_list_that_it_cannot_read(lab: Lab, tmp_path: Path) -> None:
    a, _ = make_secure_pair(lab, tmp_path)
    (tmp_path / "revoked.toml").write_text("[[revoked]]\nfingerprint = 'what'\n")
    a.up()
    assert a.process is not None
    assert a.process.wait(timeout=20 * PATIENCE) == 1
    assert "revoked.toml: revoked[0]: 'what' is no fingerprint" in a.said()


# ---- Without a node ----


@dataclass
class Linked:
    protection: Protection


@dataclass
class Session:
    link: Linked | None


@dataclass
class Links:
    """What a Revoker wants of the sessions."""

    sessions: list[Session]
    closed: list[tuple[int, int]] = field(default_factory=list)
    barred: set[int] = field(default_factory=set)

    def bar(self, index: int, *, barred: bool) -> None:
        self.barred = self.barred | {index} if barred else self.barred - {index}

    def close(self, index: int, code: int) -> None:
        self.closed.append((index, code))
        self.sessions[index].link = None


@dataclass
class Bench:
    """A Revoker with peers that are known by certificate."""

    folder: Path
    links: Links
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        self.file = self.folder / "revoked.toml"
        self.certificate = self.folder / "node.pem"
        self.root = make_root("root", NOW)
        self.key = Ed25519PrivateKey.generate()
        self.chain = issue(self.root, "node", self.key.public_key(), NOW)
        self.show(self.chain)
        tls = TlsCredentials(list(self.chain), self.key, [self.root.certificate])
        peers = tuple(Peer(name, certificate_name=name) for name in self.names)
        pins = Pins({each.name: each for each in peers})
        local = Local(identity("node"), pins, only(Mode.MTLS), (), tls)
        self.tls = tls
        revoked = RevocationFile(self.file)
        self.credentials = Credentials(local, pins, peers, revoked)
        links: Any = self.links
        self.revoker = Revoker(self.credentials, Auditor(None), links, self.certificate)

    def show(self, chain: list[Any]) -> None:
        self.certificate.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain))


def bench(folder: Path, *chains: int | tuple[int, ...], mode: Mode | None = Mode.MTLS) -> Bench:
    """Return a rig; ``chains``: serial numbers of what each peer has shown."""
    shown = [(chain,) if isinstance(chain, int) else chain for chain in chains]
    sessions = [Session(Linked(Protection(mode=mode, serials=chain))) for chain in shown]
    names = tuple(f"peer{i}" for i in range(len(chains)))
    return Bench(folder, Links(sessions), names)


def test_a_certificate_is_revoked_by_serial_and_by_name(tmp_path: Path) -> None:
    rig = bench(tmp_path, 0xA, 0xB, 0xC)
    rig.revoker.look(NOW)
    assert rig.links.closed == []
    rig.file.write_text('[[revoked]]\ncertificate = "0b"\n[[revoked]]\nname = "peer2"\n')
    rig.revoker.look(NOW)
    assert rig.links.closed == [(1, Code.CREDENTIAL), (2, Code.CREDENTIAL)]
    assert rig.credentials.pins.revocations.count == 2
    assert rig.links.barred == {2}  # who has a new certificate may come again
    rig.revoker.look(NOW)
    assert len(rig.links.closed) == 2


def test_who_stands_below_a_revoked_authority_is_out(tmp_path: Path) -> None:
    rig = bench(tmp_path, (0xA, 0xC1, 0xF0), (0xB, 0xC2, 0xF0))
    rig.revoker.look(NOW)
    assert rig.links.closed == []
    rig.file.write_text('[[revoked]]\ncertificate = "c1"\n')
    rig.revoker.look(NOW)
    assert rig.links.closed == [(0, Code.CREDENTIAL)]
    assert rig.links.barred == set()
    rig.file.write_text('[[revoked]]\ncertificate = "c1"\n[[revoked]]\ncertificate = "f0"\n')
    rig.revoker.look(NOW)
    assert rig.links.closed[1:] == [(1, Code.CREDENTIAL)]


def test_who_was_revoked_before_the_daemon_began_is_out_too(tmp_path: Path) -> None:
    (tmp_path / "revoked.toml").write_text('[[revoked]]\nname = "peer0"\n')
    rig = bench(tmp_path, 0xA, 0xB)
    for _ in range(2):
        rig.revoker.look(NOW)
        assert rig.links.closed == [(0, Code.CREDENTIAL)]


def test_a_session_of_an_earlier_daemon_has_to_prove_itself_anew(tmp_path: Path) -> None:
    rig = bench(tmp_path, (), mode=None)
    rig.file.write_text('[[revoked]]\nname = "somebody"\n')
    rig.revoker.look(NOW)
    assert rig.links.closed == []
    rig.file.write_text('[[revoked]]\ncertificate = "0b"\nreason = "more"\n')
    rig.revoker.look(NOW)
    assert rig.links.closed == [(0, Code.CREDENTIAL)]


def listed_by_authority(rig: Bench, now: dt.datetime, *serials: int, days: int = 30) -> Path:
    """Let the authority's signed list have these; the rig obeys it."""
    path = rig.folder / "crl.pem"
    crl = make_crl(rig.root, serials, now, dt.timedelta(days=days))
    path.write_bytes(crl.public_bytes(Encoding.PEM))
    if rig.credentials.crl is None:
        rig.credentials.crl = CrlFile(path, rig.tls.roots, now, obeyed=True)
    return path


def test_who_is_on_an_authoritys_list_is_out_and_a_forged_list_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = bench(tmp_path, 0xA, 0xB)
    path = listed_by_authority(rig, NOW)
    rig.revoker.look(NOW)
    assert rig.links.closed == []
    path.write_bytes(path.read_bytes()[:-40])
    for _ in range(3):
        rig.revoker.look(NOW)
    assert caplog.text.count("crl.pem") == 1
    listed_by_authority(rig, NOW + dt.timedelta(minutes=1), 0xB)
    rig.revoker.look(NOW)
    assert rig.links.closed == [(1, Code.CREDENTIAL)]
    rig.file.write_text('[[revoked]]\ncertificate = "0a"\n')
    rig.revoker.look(NOW)
    assert rig.links.closed == [(1, Code.CREDENTIAL), (0, Code.CREDENTIAL)]
    assert set(rig.credentials.pins.revocations.serials) == {0xA, 0xB}


def test_a_list_that_grows_too_old_ends_sessions_by_certificate_until_there_is_a_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = bench(tmp_path, 0xA)
    listed_by_authority(rig, NOW, days=9)
    rig.revoker.look(NOW + dt.timedelta(days=1))
    assert "`valkyrie cert crl`" not in caplog.text
    rig.revoker.look(NOW + dt.timedelta(days=7))
    assert caplog.text.count("`valkyrie cert crl`") == 1
    assert rig.links.closed == []
    late = NOW + dt.timedelta(days=10)
    for _ in range(3):
        rig.revoker.look(late)
    assert rig.links.closed == [(0, Code.CREDENTIAL)]
    assert caplog.text.count("nobody is let in by certificate") == 1
    assert rig.credentials.pins.revocations.distrust
    listed_by_authority(rig, late)
    rig.revoker.look(late)
    assert rig.credentials.pins.revocations.distrust == ""
    assert rig.links.barred == set()


def test_a_list_that_is_too_old_concerns_no_session_without_certificates(tmp_path: Path) -> None:
    rig = bench(tmp_path, (), mode=Mode.NOISE)
    listed_by_authority(rig, NOW, 0xA, days=1)
    rig.revoker.look(NOW + dt.timedelta(days=2))
    assert rig.links.closed == []


def test_a_renewed_certificate_is_taken_without_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = bench(tmp_path)
    later = NOW + dt.timedelta(days=19)
    rig.revoker.look(later)
    assert "two thirds" not in caplog.text
    later += dt.timedelta(days=2)
    for _ in range(3):
        rig.revoker.look(later)
    assert caplog.text.count("past two thirds of its life") == 1
    renewed = issue(rig.root, "node", rig.key.public_key(), later)
    rig.show(renewed)
    rig.revoker.look(later)
    assert rig.tls.chain == renewed
    other = issue(rig.root, "node", Ed25519PrivateKey.generate().public_key(), later)
    for wrong in (other, issue(rig.root, "nodes", rig.key.public_key(), later), []):
        rig.show(wrong)
        rig.revoker.look(later)
        assert rig.tls.chain == renewed
    assert "has the name and the key of the old one" in caplog.text


def test_peers_are_revoked_by_what_they_are_known_by(tmp_path: Path) -> None:
    file = tmp_path / "revoked.toml"
    alice, bob = peer("alice"), Peer("bob", fingerprint=identity("bob").card.fingerprint)
    assert alice.token_id is not None
    file.write_text(
        f'[[revoked]]\nfingerprint = "{identity("bob").card.fingerprint}"\nreason = "one"\n'
        f'[[revoked]]\ntoken = "{alice.token_id.hex()}"\nreason = "two"\n'
    )
    found = RevocationFile(file).revocations
    assert found.reason_for(bob) == "one"
    assert found.reason_for(alice) == "two"
    assert found.reason_for(Peer("carol", certificate_name="carol")) is None
    assert found.reason_for(Peer("dave")) is None
