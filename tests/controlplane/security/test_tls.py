"""The mtls mode: whose certificates are taken, and what is demanded of the key exchange."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from OpenSSL import SSL

from valkyrie.controlplane.security import tls
from valkyrie.controlplane.security.certificates import NODE_URI, node_name
from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.errors import MisuseError, SecurityError
from valkyrie.controlplane.security.handshake import Established
from valkyrie.controlplane.security.modes import Mode
from valkyrie.controlplane.security.revocation import Revocations
from valkyrie.controlplane.security.tls import TlsCredentials, TlsExchange
from valkyrie.controlplane.security.trust import Peer

from .authority import authority, certificate, credentials
from .parties import Wire, both, code, only, peer, trust, wire


def issued(
    name: str,
    *,
    days: tuple[int, int] = (-1, 1),
    uri: str | None = None,
    length: int = 2,
) -> TlsCredentials:
    """Return a certificate of ours, ``length`` of them from root to node."""
    root, issuer_key = authority()
    chain: list[x509.Certificate] = []
    issuer = "root"
    for number in range(length - 2):
        key, above = Ed25519PrivateKey.generate(), issuer
        issuer = f"intermediate {number}"
        chain.insert(0, certificate(issuer, key, above, issuer_key, ca=True))
        issuer_key = key
    key = Ed25519PrivateKey.generate()
    chain.insert(0, certificate(name, key, issuer, issuer_key, days=days, uri=uri))
    return TlsCredentials(chain, key, [root])


def between(one: TlsCredentials, other: TlsCredentials, asked: Peer | None = None) -> Wire:
    base = wire(Mode.MTLS)
    return Wire(
        dataclasses.replace(base.initiator, tls=one),
        dataclasses.replace(base.responder, tls=other),
        asked or base.asked,
    )


@pytest.mark.parametrize(
    ("number", "wrong"),
    [
        (1, lambda name: credentials(name, "other root", "root")),
        (2, lambda name: issued(name, days=(-3, -1))),
        (3, lambda name: issued(name, days=(1, 3))),
        (4, lambda name: issued(name, uri="https://example/")),
        (5, lambda name: issued(name, uri=NODE_URI)),
        (6, lambda _name: issued("mallory")),
        (7, lambda name: issued(name, length=4)),
    ],
)
@pytest.mark.parametrize("who", ["initiator", "responder"])
def test_a_certificate_that_is_not_to_be_taken_is_not(number: int, wrong: object, who: str) -> None:
    assert callable(wrong)
    if who == "initiator":
        there, back = between(wrong("alice"), issued("bob")).run()
        assert code(back) in (Failure.UNPROVEN, Failure.CREDENTIAL, Failure.IDENTITY)
    else:
        there, back = between(issued("alice"), wrong("bob")).run()
        assert code(there) in (Failure.UNPROVEN, Failure.CREDENTIAL, Failure.IDENTITY)
        assert not isinstance(back, Established) or number == 6  # alice knows better than bob
    assert not isinstance(there, Established)


@pytest.mark.parametrize("length", [2, 3])
def test_chains_of_up_to_three_are_taken(length: int) -> None:
    there, back = both(between(issued("alice", length=length), issued("bob", length=length)))
    assert (there.grant.peer, back.grant.peer) == ("bob", "alice")


def test_a_claim_names_all_certificates_up_to_the_root() -> None:
    asked = issued("alice", length=3), issued("bob", length=3)
    events = both(between(*asked))
    for event, other in zip(events, reversed(asked), strict=True):
        above = [*other.chain, *other.roots]
        assert event.claim.serials == tuple(each.serial_number for each in above)


def test_a_check_of_ours_is_asked_about_the_certificate() -> None:
    def revoked(_certificate: object) -> None:
        raise SecurityError(Failure.CREDENTIAL, "revoked")

    strict = dataclasses.replace(issued("bob"), check=revoked)
    there, back = between(issued("alice"), strict).run()
    assert code(back) is Failure.CREDENTIAL
    assert code(there) is Failure.CREDENTIAL


@pytest.mark.parametrize("who", ["initiator", "responder"])
def test_a_certificate_between_root_and_node_is_asked_about_too(who: str) -> None:
    asked = issued("alice", length=3), issued("bob", length=3)
    other = asked[who == "initiator"].chain
    revoked = Revocations(serials={other[1].serial_number: ""})
    mine = dataclasses.replace(asked[who != "initiator"], check=revoked.check_certificate)
    pair = (mine, asked[1]) if who == "initiator" else (asked[0], mine)
    there, back = between(*pair).run()
    assert code(there if who == "initiator" else back) is Failure.CREDENTIAL


def test_where_post_quantum_is_demanded_keys_are_hybrid() -> None:
    found = wire(Mode.MTLS, require_pq=True)
    there, _ = both(found)
    assert there.choice.mode is Mode.MTLS


@pytest.mark.parametrize("who", ["initiator", "responder"])
def test_classical_keys_are_refused_where_post_quantum_is_demanded(
    who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tls.make_context

    def classical(given: TlsCredentials) -> SSL.Context:
        context = make(given)
        context.set_tmp_ecdh(SECP256R1())
        return context

    monkeypatch.setattr(tls, "make_context", classical)
    base = wire(Mode.MTLS)
    demanding = only(Mode.MTLS, require_pq=True)
    if who == "initiator":
        found = Wire(
            dataclasses.replace(base.initiator, policy=demanding), base.responder, base.asked
        )
    else:
        found = Wire(
            base.initiator, dataclasses.replace(base.responder, policy=demanding), base.asked
        )
    there, back = found.run()
    assert code(there) is Failure.FLOOR
    assert code(back) is Failure.FLOOR
    both(Wire(base.initiator, base.responder, base.asked))
    pinned = dataclasses.replace(base.responder, trust=trust("alice", require_pq=True))
    assert code(Wire(base.initiator, pinned, base.asked).run()[1]) is Failure.FLOOR


def test_tls_is_never_asked_out_of_turn() -> None:
    given = issued("alice")
    exchange = TlsExchange(b"p", given, initiator=True, require_pq=False)
    with pytest.raises(MisuseError):
        exchange.write(b"payload")
    with pytest.raises(SecurityError, match="come to its end"):
        exchange.outcome()
    assert exchange.write()
    with pytest.raises(MisuseError):
        exchange.write()
    with pytest.raises(SecurityError, match="nobody waits"):
        exchange.read(b"")


def test_half_a_flight_is_refused() -> None:
    a = TlsExchange(b"p", issued("alice"), initiator=True, require_pq=False)
    b = TlsExchange(b"p", issued("bob"), initiator=False, require_pq=False)
    first = a.write()
    with pytest.raises(SecurityError, match="not whole"):
        TlsExchange(b"p", issued("bob"), initiator=False, require_pq=False).read(first[:-1])
    b.read(first)
    with pytest.raises(SecurityError):
        a.read(b.write()[:-1])


def test_credentials_show_a_name_and_nothing_else() -> None:
    given = issued("alice")
    assert repr(given) == "<TlsCredentials alice>"
    assert node_name(given.chain[0]) == "alice"


def test_a_peer_without_a_certificate_name_is_not_asked_with_tls() -> None:
    base = wire(Mode.MTLS)
    nameless = peer("bob", certificate_name="")
    assert code(Wire(base.initiator, base.responder, nameless).run()[0]) is Failure.FLOOR
