"""Lists that authorities sign: only theirs, only new ones, and only while they are good."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security.certificates import Authority, make_crl, make_root
from valkyrie.controlplane.security.claim import Claim
from valkyrie.controlplane.security.crl import CrlFile, RollbackError, SignedLists, parse_lists
from valkyrie.controlplane.security.errors import SecurityError
from valkyrie.controlplane.security.modes import Mode
from valkyrie.controlplane.security.revocation import Revocations
from valkyrie.dataplane.errors import ConfigError

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
ROOT, OTHER = make_root("root", NOW), make_root("other", NOW)


def pem(
    *serials: int, by: Authority = ROOT, now: dt.datetime = NOW, life: dt.timedelta = 30 * DAY
) -> bytes:
    return make_crl(by, serials, now, life).public_bytes(Encoding.PEM)


def parsed(data: bytes, *roots: Authority) -> SignedLists:
    trusted = [each.certificate for each in roots or (ROOT,)]
    return parse_lists(data, "crl.pem", trusted, NOW)


def test_a_list_of_a_root_is_read_with_its_end() -> None:
    found = parsed(pem(5, 7))
    assert found.serials == {5: "on the list of CN=root", 7: "on the list of CN=root"}
    assert found.until == NOW + 30 * DAY
    assert not found.stale(NOW + 30 * DAY)
    assert found.stale(NOW + 31 * DAY)
    assert not found.due(NOW + 19 * DAY)
    assert found.due(NOW + 21 * DAY)


def test_several_roots_have_a_list_each_and_the_first_to_end_counts() -> None:
    found = parsed(pem(5) + b"\n" + pem(7, by=OTHER, life=DAY), ROOT, OTHER)
    assert set(found.serials) == {5, 7}
    assert found.until == NOW + DAY


def raw(builder: x509.CertificateRevocationListBuilder) -> bytes:
    return builder.sign(ROOT.key, None).public_bytes(Encoding.PEM)


def list_of(**changed: dt.datetime) -> x509.CertificateRevocationListBuilder:
    return (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ROOT.certificate.subject)
        .last_update(changed.get("since", NOW))
        .next_update(changed.get("until", NOW + DAY))
    )


def indirect() -> bytes:
    name = x509.CertificateIssuer([x509.DirectoryName(OTHER.certificate.subject)])
    entry = x509.RevokedCertificateBuilder().serial_number(5).revocation_date(NOW)
    entry = entry.add_extension(name, critical=True)
    return raw(list_of().add_revoked_certificate(entry.build()))


IMPOSTOR = Authority(ROOT.certificate, Ed25519PrivateKey.generate())
REFUSED = {
    "of a root that is not ours": (pem(5, by=OTHER), "CN=other is not signed by a root"),
    "by another key in the root's name": (pem(5, by=IMPOSTOR), "CN=root is not signed by a root"),
    "twice": (pem(5) + pem(7), "two lists of CN=root"),
    "nothing": (b"", "no lists"),
    "something else": (b"hello", "no lists"),
    "something beside": (pem(5) + b"hello", "no lists"),
    "a certificate": (ROOT.certificate.public_bytes(Encoding.PEM), "no lists"),
    "damaged": (pem(5).replace(b"M", b"N", 1), "cannot be read"),
    "of the future": (pem(5, now=NOW + DAY), "of the future: set the clock"),
    "only what is new": (
        raw(list_of().add_extension(x509.DeltaCRLIndicator(1), critical=True)),
        "not known here",
    ),
    "of somebody else's certificates": (indirect(), "not known here"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_list_is_refused_with_the_reason(case: str) -> None:
    data, reason = REFUSED[case]
    with pytest.raises(ConfigError, match=reason):
        parsed(data)


def test_every_changed_bit_of_a_signed_list_is_noticed() -> None:
    der = make_crl(ROOT, [5], NOW, DAY).public_bytes(Encoding.DER)
    for at in range(len(der)):
        changed = bytearray(der)
        changed[at] ^= 1
        with pytest.raises(ConfigError):
            parsed(armoured(bytes(changed)))


def armoured(der: bytes) -> bytes:
    import base64

    return b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(der) + b"-----END X509 CRL-----\n"


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(0, 400), st.booleans())
def test_any_bytes_are_read_or_refused(more: bytes, at: int, wrapped: bool) -> None:
    der = make_crl(ROOT, [5], NOW, DAY).public_bytes(Encoding.DER)
    data = der[:at] + more + der[at + len(more) :]
    try:
        found = parsed(armoured(data) if wrapped else more)
    except ConfigError:
        return
    assert found.serials == {5: "on the list of CN=root"}


def test_a_file_is_read_again_when_it_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "crl.pem"
    path.write_bytes(pem(5))
    file = CrlFile(path, [ROOT.certificate], NOW, obeyed=True)
    assert not file.poll(NOW)
    path.write_bytes(pem(5, 7, now=NOW + DAY))
    assert file.poll(NOW + DAY)
    assert set(file.lists.serials) == {5, 7}


def test_what_takes_the_place_of_a_good_file_must_be_good_and_newer(tmp_path: Path) -> None:
    path = tmp_path / "crl.pem"
    path.write_bytes(pem(5, now=NOW + DAY))
    file = CrlFile(path, [ROOT.certificate], NOW + DAY, obeyed=True)
    for worse in (pem(now=NOW), pem(by=IMPOSTOR, now=NOW + 2 * DAY), b"", b"x" * 5):
        path.write_bytes(worse)
        with pytest.raises(ConfigError):
            file.poll(NOW + 2 * DAY)
        assert not file.poll(NOW + 2 * DAY)  # said once
        assert set(file.lists.serials) == {5}
    path.unlink()
    with pytest.raises(ConfigError, match="what was revoked stays so"):
        file.poll(NOW)
    assert set(file.lists.serials) == {5}
    path.write_bytes(pem(9, now=NOW + 2 * DAY))
    assert file.poll(NOW + 2 * DAY)
    assert set(file.lists.serials) == {9}


@pytest.mark.parametrize("wrong", [b"", pem(5, by=IMPOSTOR), None])
def test_a_node_does_not_begin_with_a_list_that_is_no_good(
    tmp_path: Path, wrong: bytes | None
) -> None:
    path = tmp_path / "crl.pem"
    if wrong is not None:
        path.write_bytes(wrong)
    with pytest.raises(ConfigError, match=str(path)):
        CrlFile(path, [ROOT.certificate], NOW, obeyed=True)


@pytest.mark.parametrize("obeyed", [True, False])
def test_an_older_list_than_an_earlier_daemon_had_refuses_all_certificates(
    tmp_path: Path, obeyed: bool
) -> None:
    path = tmp_path / "crl.pem"
    path.write_bytes(pem(5, now=NOW + DAY))
    before = CrlFile(path, [ROOT.certificate], NOW + DAY, obeyed=obeyed)
    path.write_bytes(pem(now=NOW))
    again = CrlFile(
        path, [ROOT.certificate], NOW + DAY, obeyed=obeyed, known=before.known, kept="/state"
    )
    assert "this node has had the one of 2030-01-01" in again.distrust(NOW + DAY)
    assert "remove /state" in again.distrust(NOW + DAY)
    with pytest.raises(RollbackError, match="no certificate is believed till then"):
        again.poll(NOW + DAY)
    assert not again.poll(NOW + DAY)  # said once
    path.write_bytes(pem(5, now=NOW + DAY))
    assert again.poll(NOW + DAY)
    assert again.distrust(NOW + DAY) == ""
    assert again.known == before.known


def test_lists_of_roots_that_are_gone_are_not_missed(tmp_path: Path) -> None:
    path = tmp_path / "crl.pem"
    path.write_bytes(pem(5) + pem(7, by=OTHER))
    both = CrlFile(path, [ROOT.certificate, OTHER.certificate], NOW, obeyed=True)
    path.write_bytes(pem(5))
    assert CrlFile(path, [ROOT.certificate], NOW, obeyed=True, known=both.known).distrust(NOW) == ""
    missing = CrlFile(
        path, [ROOT.certificate, OTHER.certificate], NOW, obeyed=True, known=both.known
    )
    assert "the list of CN=other is missing" in missing.distrust(NOW)


def test_a_list_that_is_too_old_refuses_all_certificates_or_none(tmp_path: Path) -> None:
    path = tmp_path / "crl.pem"
    path.write_bytes(pem(5, life=DAY))
    late = NOW + 2 * DAY
    for obeyed in (True, False):
        file = CrlFile(path, [ROOT.certificate], late, obeyed=obeyed)
        assert file.distrust(NOW) == ""
        assert file.distrust(late).startswith("the list of revoked") == obeyed
        found = Revocations().with_lists(file.lists.serials, file.distrust(late))
        good = Claim(Mode.MTLS, name="a", serials=(6,))
        if obeyed:
            with pytest.raises(SecurityError, match="was good until 2030-01-02"):
                found.check(good)
            with pytest.raises(SecurityError, match="was good until"):
                found.check_certificate(ROOT.certificate)
        else:
            found.check(good)
        found.check(Claim(Mode.TOKEN, name="0a"))
        with pytest.raises(SecurityError):
            found.check(replace(good, serials=(5,)))
