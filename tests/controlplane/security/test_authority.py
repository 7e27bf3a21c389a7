"""``valkyrie cert`` and its directory: nodes take what it makes, and nothing is overwritten."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from valkyrie.controlplane.cli import certificates as cli
from valkyrie.controlplane.cli import run
from valkyrie.controlplane.security import authority
from valkyrie.controlplane.security.certificates import check_chain
from valkyrie.controlplane.security.crl import parse_lists
from valkyrie.controlplane.security.errors import SecurityError
from valkyrie.controlplane.security.revocation import parse_revocations
from valkyrie.controlplane.security.tls_files import parse_credentials


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run(["cert", "ca", str(tmp_path / "ca")]) == 0
    capsys.readouterr()
    return tmp_path / "ca"


def asked(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert run(["cert", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def files(folder: Path, name: str) -> list[tuple[Path, bytes]]:
    paths = [folder.parent / f"{name}.pem", folder.parent / f"{name}.key", folder / "ca.pem"]
    return [(path, path.read_bytes()) for path in paths]


def test_what_is_issued_is_what_a_node_takes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = asked(capsys, "issue", folder, "node", "--out", folder.parent, "--days", "3")
    credentials = parse_credentials(*files(folder, "node"))
    now = dt.datetime.now(dt.UTC)
    assert check_chain(credentials.chain, credentials.roots, [], now) == "node"
    assert Path(made["key"]).stat().st_mode & 0o777 == 0o600
    assert (folder / "ca.key").stat().st_mode & 0o777 == 0o600
    shown = asked(capsys, "show", made["file"])
    assert shown["serial"] == made["serial"]
    assert shown["subject"] == "CN=node"
    assert shown["from"] < shown["renew_at"] < shown["until"]


def test_nothing_is_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cert", "ca", str(folder)]) == 2
    assert "has an authority already" in capsys.readouterr().err
    asked(capsys, "issue", folder, "node", "--out", folder.parent)
    before = files(folder, "node")
    assert run(["cert", "issue", str(folder), "node", "--out", str(folder.parent)]) == 2
    assert "cert renew" in capsys.readouterr().err
    assert files(folder, "node") == before


def test_renewing_keeps_name_and_key(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = asked(capsys, "issue", folder, "node", "--out", folder.parent, "--days", "1")
    old = parse_credentials(*files(folder, "node"))
    renewed = asked(capsys, "renew", folder, made["file"], "--days", "9")
    new = parse_credentials(*files(folder, "node"))
    assert renewed["until"] > made["until"]
    assert new.chain[0].serial_number != old.chain[0].serial_number
    old.renew(new.chain)
    other = folder.parent / "other"
    asked(capsys, "ca", other)
    assert run(["cert", "renew", str(other), made["file"]]) == 2
    assert "was not issued by" in capsys.readouterr().err


# ---- In time ----


class Later:
    """The clock of commands."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = dt.datetime.now(dt.UTC)
        patch.setattr(cli, "_now", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Later:
    return Later(monkeypatch)


def test_a_certificate_is_renewed_by_a_timer_when_it_is_due_and_not_before(
    folder: Path, capsys: pytest.CaptureFixture[str], clock: Later
) -> None:
    made = asked(capsys, "issue", folder, "node", "--out", folder.parent, "--days", "30")
    (folder / "ca.key").rename(folder / "away")  # nobody asks for it before
    for days in (0, 19):
        clock.now += dt.timedelta(days=days)
        said = asked(capsys, "renew", folder, made["file"], "--if-due")
        assert said["serial"] == made["serial"]
        assert run(["cert", "due", made["file"]]) == 1
        capsys.readouterr()
    (folder / "away").rename(folder / "ca.key")
    clock.now += dt.timedelta(days=2)
    assert asked(capsys, "due", made["file"])["due"]
    renewed = asked(capsys, "renew", folder, made["file"], "--if-due")
    assert renewed["serial"] != made["serial"]
    assert asked(capsys, "renew", folder, made["file"], "--if-due")["serial"] == renewed["serial"]
    asked(capsys, "revoke", folder, made["file"])
    clock.now += dt.timedelta(days=29)
    assert run(["cert", "renew", str(folder), made["file"], "--if-due"]) == 2
    assert "is revoked" in capsys.readouterr().err


def test_only_a_renewed_certificate_takes_the_place_of_the_old_one(
    folder: Path, capsys: pytest.CaptureFixture[str], clock: Later
) -> None:
    made = asked(capsys, "issue", folder, "node", "--out", folder.parent)
    other, file = folder.parent / "other", Path(made["file"])
    old = file.read_bytes()
    same = folder.parent / "same.pem"
    same.write_bytes(old)
    asked(capsys, "ca", other)
    asked(capsys, "issue", other, "node", "--out", other)
    asked(capsys, "issue", folder, "node", "--out", folder)
    asked(capsys, "issue", folder, "nodes", "--out", folder)
    wrong = [
        (same, "good no longer"),
        (other / "node.pem", "has not issued what it should have"),
        (folder / "node.pem", "another name or key"),
        (folder / "nodes.pem", "another name or key"),
        (folder / "ca.pem", "used for what it is not for"),
    ]
    for new, said in wrong:
        arguments = ["cert", "take", str(new), str(file), "--roots", str(folder / "ca.pem")]
        assert run(arguments) == 2, new
        assert said in capsys.readouterr().err
        assert file.read_bytes() == old
    clock.now += dt.timedelta(days=21)
    asked(capsys, "renew", folder, same)
    asked(capsys, "take", same, file, "--roots", folder / "ca.pem")
    assert file.read_bytes() == same.read_bytes() != old
    assert run(["cert", "due", str(folder / "nothing.pem")]) == 2
    assert run(["cert", "due", str(folder / "ca.key")]) == 2


def test_what_the_page_has_timers_run_can_be_run(
    folder: Path, capsys: pytest.CaptureFixture[str], clock: Later
) -> None:
    page = (Path(__file__).parents[3] / "docs/SECURITY.md").read_text()
    lines = re.findall(r"valkyrie (cert \w+ [^\n`]*/etc/[^\n`]*)", page)
    assert [line.split()[1] for line in lines] == ["renew", "due", "take"]
    made = asked(capsys, "issue", folder, "node", "--out", folder.parent)
    clock.now += dt.timedelta(days=21)
    new = folder.parent / "new.pem"
    new.write_bytes(Path(made["file"]).read_bytes())
    asked(capsys, "renew", folder, new, "--days", "90")
    places = {
        "/var/lib/valkyrie-ca": str(folder),
        "/etc/valkyrie/tls/node.pem": made["file"],
        "/etc/valkyrie/tls/ca.pem": str(folder / "ca.pem"),
        "/run/valkyrie-renew/new.pem": str(new),
    }
    for line in (lines[1], lines[0], lines[2]):
        assert run([places.get(word, word) for word in line.split()]) == 0, line


def test_what_is_revoked_is_in_both_lists_and_not_renewed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = folder.parent / "revoked.toml"
    to.write_text('# by hand\n[[revoked]]\nname = "old"\n')
    one = asked(capsys, "issue", folder, "one", "--out", folder.parent)
    two = asked(capsys, "issue", folder, "two", "--out", folder.parent)
    reason = 'the "disk" was\nstolen\\'
    asked(capsys, "revoke", folder, one["file"], "--to", to, "--reason", reason)
    for _ in range(2):  # the same again changes nothing
        said = asked(capsys, "revoke", folder, two["serial"], "--to", to)
        assert said["revoked"] == 2
    assert to.read_text().startswith("# by hand\n")
    found = parse_revocations(to.read_bytes(), "x")
    assert found.names == {"old": ""}
    assert found.serials == {
        int(one["serial"], 16): "the disk wasstolen",
        int(two["serial"], 16): "",
    }
    crl = x509.load_pem_x509_crl((folder / "revoked.pem").read_bytes())
    now = dt.datetime.now(dt.UTC)
    credentials = parse_credentials(*files(folder, "one"))
    with pytest.raises(SecurityError, match="is revoked"):
        check_chain(credentials.chain, credentials.roots, [crl], now)
    assert run(["cert", "renew", str(folder), one["file"]]) == 2
    assert "is revoked: issue" in capsys.readouterr().err


def test_the_signed_list_is_signed_anew_with_what_is_on_it(
    folder: Path, capsys: pytest.CaptureFixture[str], clock: Later
) -> None:
    assert asked(capsys, "crl", folder)["revoked"] == 0
    one = asked(capsys, "issue", folder, "one", "--out", folder.parent)
    asked(capsys, "revoke", folder, one["file"], "--days", "2")
    since = authority.revoked(folder)
    clock.now += dt.timedelta(days=1)
    said = asked(capsys, "crl", folder, "--days", "9")
    assert said["revoked"] == 1
    assert authority.revoked(folder) == since
    roots, now = authority.load(folder), clock.now
    found = parse_lists((folder / "revoked.pem").read_bytes(), "x", [roots.certificate], now)
    assert set(found.serials) == {int(one["serial"], 16)}
    assert found.until is not None
    assert dt.timedelta(days=8) < found.until - now <= dt.timedelta(days=9)


def test_what_makes_no_sense_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = folder.parent / "nothing"
    wrong: list[tuple[list[str], str]] = [
        (["issue", str(nothing), "node"], "has no authority"),
        (["revoke", str(folder), "what"], "neither a file nor a serial number"),
        (["show", str(folder / "ca.key")], "has no certificate"),
        (["issue", str(folder), "no name", "--out", str(folder.parent)], "is no name"),
    ]
    for arguments, said in wrong:
        assert run(["cert", *arguments]) != 0
        assert said in capsys.readouterr().err
    (folder / "ca.key").chmod(0o644)
    assert run(["cert", "issue", str(folder), "node", "--out", str(folder.parent)]) == 2
    assert "others could read it" in capsys.readouterr().err


def test_a_node_whose_key_was_swapped_is_no_authority(folder: Path) -> None:
    other = authority.create(folder.parent / "other", "other", dt.datetime.now(dt.UTC))
    (folder / "ca.pem").write_bytes(authority.pem_of([other.certificate]))
    from valkyrie.dataplane.errors import ConfigError

    with pytest.raises(ConfigError, match="is not the key of"):
        authority.load(folder)
