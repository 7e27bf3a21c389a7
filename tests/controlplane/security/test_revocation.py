"""revoked.toml: who it keeps out, and what a broken one does not undo."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security.claim import Claim
from valkyrie.controlplane.security.errors import SecurityError
from valkyrie.controlplane.security.modes import Mode
from valkyrie.controlplane.security.revocation import (
    RevocationFile,
    Revocations,
    parse_revocations,
)
from valkyrie.dataplane.errors import ConfigError

from .authority import credentials
from .parties import both, identity, wire

ALICE = identity("alice").card
FILE = f"""
[[revoked]]
fingerprint = "{ALICE.fingerprint}"
reason = "lost"
[[revoked]]
certificate = "0F:3a"
[[revoked]]
name = "build-7"
[[revoked]]
token = "00FF"
"""
FOUND = parse_revocations(FILE.encode(), "revoked.toml")


@pytest.mark.parametrize(
    ("number", "claim", "reason"),
    [
        (1, Claim(Mode.NOISE, card=ALICE), "lost"),
        (2, Claim(Mode.NOISE, card=ALICE.short()), "lost"),
        (3, Claim(Mode.NOISE, card=identity("bob").card), None),
        (4, Claim(Mode.MTLS, name="x", serials=(0xF3A,)), ""),
        (5, Claim(Mode.MTLS, name="build-7", serials=(1,)), ""),
        (6, Claim(Mode.MTLS, name="00ff", serials=(1,)), None),
        (7, Claim(Mode.TOKEN, name="00ff"), ""),
        (10, Claim(Mode.MTLS, name="x", serials=(1, 0xF3A, 2)), ""),
        (8, Claim(Mode.TOKEN, name="build-7"), None),
        (9, Claim(Mode.PLAINTEXT), None),
    ],
)
def test_what_is_revoked_is_found(number: int, claim: Claim, reason: str | None) -> None:
    assert FOUND.reason(claim) == reason
    if reason is not None:
        with pytest.raises(SecurityError, match="revoked"):
            FOUND.check(claim)
    else:
        FOUND.check(claim)


def test_live_sessions_are_found_by_what_they_proved() -> None:
    for mode in (Mode.NOISE, Mode.POST_QUANTUM, Mode.MTLS, Mode.TOKEN):
        _, back = both(wire(mode))
        claim = back.claim
        everything = Revocations(
            {ALICE.fingerprint: ""},
            dict.fromkeys(claim.serials, ""),
            {},
            {claim.name: ""},
        )
        assert everything.reason(claim) is not None
        assert Revocations().reason(claim) is None


def test_certificates_are_found_by_serial() -> None:
    certificate = credentials("alice").chain[0]
    Revocations().check_certificate(certificate)
    with pytest.raises(SecurityError, match="revoked"):
        Revocations(serials={certificate.serial_number: ""}).check_certificate(certificate)


@pytest.mark.parametrize(
    ("number", "text", "what"),
    [
        (1, "[[revoked]]", "give one of"),
        (2, '[[revoked]]\nname = "a"\ntoken = "00"', "only one"),
        (11, '[[revoked]]\nsubject = "a"\nname = "a"', "only one"),
        (3, '[[revoked]]\nname = "a"\n[[revoked]]\nfingerprint = "x"', r"revoked\[1\].*no finger"),
        (4, '[[revoked]]\ncertificate = "xyz"', "hexadecimal"),
        (5, '[[revoked]]\ntoken = "0"', "hexadecimal"),
        (6, '[[revoked]]\nfinger = "x"', "unknown field"),
        (7, "[[revoked]]\nname = 7", "Expected `str`"),
        (8, "revoked = 7", "Expected `array`"),
        (9, "not toml", "stays so"),
        (10, "other = 1", "unknown field"),
    ],
)
def test_a_wrong_file_says_where(number: int, text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        parse_revocations(text.encode(), "revoked.toml")
    assert str(caught.value).startswith("revoked.toml: ")


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_file_or_are_refused(data: bytes) -> None:
    try:
        parse_revocations(data, "revoked.toml")
    except ConfigError:
        return


def test_a_file_is_read_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "revoked.toml"
    file = RevocationFile(path)
    assert not file.poll()
    path.write_text(FILE, encoding="utf-8")
    assert file.poll()
    assert file.revocations == FOUND
    assert not file.poll()
    path.write_text(FILE.replace("build-7", "build-8"), encoding="utf-8")
    os.utime(path, ns=(1, 1))
    assert file.poll()
    assert "build-8" in file.revocations.names


def test_a_file_that_breaks_or_goes_takes_nothing_back(tmp_path: Path) -> None:
    path = tmp_path / "revoked.toml"
    path.write_text(FILE, encoding="utf-8")
    file = RevocationFile(path)
    path.write_text("[[revoked]", encoding="utf-8")
    with pytest.raises(ConfigError, match="stays so"):
        file.poll()
    assert file.revocations == FOUND
    assert not file.poll()  # said once
    path.unlink()
    with pytest.raises(ConfigError, match="is gone"):
        file.poll()
    assert file.revocations == FOUND
    path.write_text("", encoding="utf-8")
    assert file.poll()
    assert file.revocations == Revocations()


def test_a_file_that_was_there_before_is_not_done_without(tmp_path: Path) -> None:
    path = tmp_path / "revoked.toml"
    with pytest.raises(ConfigError, match="put it back"):
        RevocationFile(path, expected=True)
    path.write_text(FILE, encoding="utf-8")
    assert RevocationFile(path, expected=True).revocations == FOUND
