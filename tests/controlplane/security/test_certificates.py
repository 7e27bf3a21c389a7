"""Certificates: what is issued is taken, and every other chain is not."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from valkyrie.controlplane.security.certificates import (
    NODE_LIFE,
    SKEW,
    Authority,
    check_chain,
    issue,
    issue_authority,
    load_chain,
    make_crl,
    make_root,
    node_name,
    renewal_time,
)
from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.errors import MisuseError, SecurityError
from valkyrie.controlplane.security.modes import Mode
from valkyrie.controlplane.security.tls import TlsCredentials

from .authority import certificate
from .parties import Wire, both, wire

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
ROOT = make_root("root", NOW)
MIDDLE = issue_authority(ROOT, "middle", NOW)
KEY = Ed25519PrivateKey.generate()
CHAIN = issue(MIDDLE, "alice", KEY.public_key(), NOW)
SHORT = issue(ROOT, "bob", KEY.public_key(), NOW)


def refused(
    chain: list[x509.Certificate],
    roots: list[x509.Certificate] | None = None,
    crls: tuple[x509.CertificateRevocationList, ...] = (),
    now: dt.datetime = NOW,
) -> Failure:
    with pytest.raises(SecurityError) as caught:
        check_chain(chain, roots or [ROOT.certificate], crls, now)
    return caught.value.code


def test_what_is_issued_is_taken() -> None:
    assert check_chain(CHAIN, [ROOT.certificate], [], NOW) == "alice"
    assert check_chain(SHORT, [ROOT.certificate], [], NOW) == "bob"
    assert (len(CHAIN), len(SHORT)) == (2, 1)
    assert (MIDDLE.root, ROOT.root) == (ROOT.certificate, ROOT.certificate)
    assert node_name(CHAIN[0]) == "alice"


def test_of_two_roots_with_one_name_the_right_one_is_found() -> None:
    other = make_root("root", NOW).certificate
    for roots in ([other, ROOT.certificate], [ROOT.certificate, other]):
        assert check_chain(CHAIN, roots, [], NOW) == "alice"


def test_a_chain_lasts_as_long_as_its_shortest_certificate() -> None:
    assert check_chain(CHAIN, [ROOT.certificate], [], NOW - SKEW) == "alice"
    assert check_chain(CHAIN, [ROOT.certificate], [], NOW + NODE_LIFE) == "alice"
    assert refused(CHAIN, now=NOW + NODE_LIFE + HOUR) is Failure.CREDENTIAL
    assert refused(CHAIN, now=NOW - HOUR) is Failure.CREDENTIAL
    late = ROOT.certificate.not_valid_after_utc - HOUR
    assert issue(ROOT, "x", KEY.public_key(), late)[0].not_valid_after_utc == late + HOUR
    with pytest.raises(MisuseError, match="expired"):
        issue(ROOT, "x", KEY.public_key(), late + 2 * HOUR)


def below(authority: Authority, **more: bool) -> x509.Certificate:
    return certificate("x", KEY, authority.certificate.subject.rfc4514_string()[3:], authority.key)


STRANGER = make_root("root", NOW)
CASES: list[tuple[int, Callable[[], list[x509.Certificate]], Failure]] = [
    (1, list, Failure.CREDENTIAL),
    (2, lambda: issue(STRANGER, "alice", KEY.public_key(), NOW), Failure.UNPROVEN),
    (3, lambda: CHAIN[:1], Failure.CREDENTIAL),
    (4, lambda: [*CHAIN, ROOT.certificate], Failure.CREDENTIAL),
    (5, lambda: [MIDDLE.certificate], Failure.CREDENTIAL),
    (6, lambda: [CHAIN[0], SHORT[0]], Failure.UNPROVEN),
    (7, lambda: [SHORT[0], MIDDLE.certificate], Failure.UNPROVEN),
    (8, lambda: [ROOT.certificate], Failure.CREDENTIAL),
    (9, lambda: [below(ROOT)], Failure.CREDENTIAL),  # says nothing of its use
]


@pytest.mark.parametrize(("number", "chain", "expected"), CASES)
def test_other_chains_are_refused(
    number: int, chain: Callable[[], list[x509.Certificate]], expected: Failure
) -> None:
    assert refused(chain()) is expected


def test_a_node_cannot_issue() -> None:
    fake = Authority(SHORT[0], KEY, (ROOT.certificate,))
    chain = issue(fake, "mallory", Ed25519PrivateKey.generate().public_key(), NOW)
    assert refused(chain) is Failure.CREDENTIAL


def test_every_changed_byte_of_a_certificate_is_found() -> None:
    """But for one that says nothing: how many bits the signature's last byte does not use."""
    data = SHORT[0].public_bytes(Encoding.DER)
    unused_bits = len(data) - 65
    for at in {*range(len(data))} - {unused_bits}:
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(SecurityError):
            check_chain(load_chain([bytes(changed)]), [ROOT.certificate], [], NOW)


def test_chains_have_at_most_three() -> None:
    with pytest.raises(MisuseError, match="at most 3"):
        issue_authority(MIDDLE, "deeper", NOW)


def test_renewal_is_at_two_thirds() -> None:
    begin, end = SHORT[0].not_valid_before_utc, SHORT[0].not_valid_after_utc
    at = renewal_time(SHORT[0])
    assert abs((at - begin) - 2 * (end - at)) < dt.timedelta(seconds=1)


def test_what_is_revoked_is_refused() -> None:
    life = dt.timedelta(days=1)
    empty = make_crl(MIDDLE, [], NOW, life)
    assert check_chain(CHAIN, [ROOT.certificate], [empty], NOW) == "alice"
    node = make_crl(MIDDLE, [CHAIN[0].serial_number], NOW, life)
    middle = make_crl(ROOT, [CHAIN[1].serial_number], NOW, life)
    for crl in (node, middle):
        assert refused(CHAIN, crls=(crl,)) is Failure.CREDENTIAL
        assert refused(CHAIN, crls=(empty, crl)) is Failure.CREDENTIAL
    assert refused(CHAIN, crls=(empty,), now=NOW + 2 * life) is Failure.CREDENTIAL
    # Somebody else's list says nothing.
    forged = make_crl(STRANGER, [SHORT[0].serial_number], NOW, life)
    assert check_chain(SHORT, [ROOT.certificate], [forged], NOW) == "bob"


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 64, "-x", "a\n", "a/b"])
def test_odd_names_are_not_issued(name: str) -> None:
    with pytest.raises(MisuseError, match="is no name"):
        issue(ROOT, name, KEY.public_key(), NOW)


def test_a_repr_has_no_key() -> None:
    assert repr(ROOT) == "<Authority CN=root>"


def test_tls_takes_what_is_issued() -> None:
    now = dt.datetime.now(dt.UTC)
    root = make_root("root", now)
    middle = issue_authority(root, "middle", now)
    keys = {name: Ed25519PrivateKey.generate() for name in ("alice", "bob")}
    found = {
        name: TlsCredentials(issue(middle, name, key.public_key(), now), key, [root.certificate])
        for name, key in keys.items()
    }
    import dataclasses

    base = wire(Mode.MTLS)
    there, back = both(
        Wire(
            dataclasses.replace(base.initiator, tls=found["alice"]),
            dataclasses.replace(base.responder, tls=found["bob"]),
            base.asked,
        )
    )
    assert (there.grant.peer, back.grant.peer) == ("bob", "alice")
