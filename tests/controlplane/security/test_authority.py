"""``valkyrie cert`` and its directory: nodes take what it makes, and nothing is overwritten."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

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
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(capsys, "crl", folder)["revoked"] == 0
    one = asked(capsys, "issue", folder, "one", "--out", folder.parent)
    asked(capsys, "revoke", folder, one["file"], "--days", "2")
    said = asked(capsys, "crl", folder, "--days", "9")
    assert said["revoked"] == 1
    roots, now = authority.load(folder), dt.datetime.now(dt.UTC)
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
