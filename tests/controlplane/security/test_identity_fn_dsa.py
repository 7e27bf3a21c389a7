"""FN-DSA-512 as a signature of identities: where the optional package is, and where it is not."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

from tests.controlplane.test_credentials import node
from valkyrie.controlplane.config import reader as config
from valkyrie.controlplane.daemon.credentials import load
from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.errors import SecurityError
from valkyrie.controlplane.security.identity import Card, Identity
from valkyrie.controlplane.security.identity_file import load_or_make, of_pem, to_pem
from valkyrie.controlplane.security.modes import Mode, NoisePattern
from valkyrie.controlplane.security.trust import Pins
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.signing import fn_dsa
from valkyrie.dataplane.signing.signature import SIGNATURE_SIZES, Algorithm

from .parties import Wire, both, code, only, wire
from .parties import peer as known_peer

FN_DSA = Algorithm.FN_DSA_512
PAIR = (Algorithm.ED25519, FN_DSA)
WANTED = '[security]\nsignatures = ["fn_dsa_512", "ml_dsa_65"]\n'
needed = pytest.mark.skipif(fn_dsa.library() is None, reason="py-fn-dsa is not installed")


@pytest.fixture(scope="module")
def alice() -> Identity:
    return Identity.generate(with_fn_dsa=True)


@pytest.fixture(scope="module")
def bob() -> Identity:
    return Identity.generate(with_fn_dsa=True)


# Of the seeds "kat-sign-key-512" and "kat-sign-seed": what upstream's reference code makes of them.
SIGNED = "d1efbe240c24678344d3831024d10ea3c458dea96f3d74d8a54158d794977c3e"
KEYS = "c1558f8589447e89178aca7c390963d8ef291568f19cc2a186615aae9baf9280"


def seeded(seed: bytes) -> fn_dsa.FnDsaKey:
    import py_fn_dsa as package

    secret = package.ffi.new("unsigned char[]", fn_dsa.PRIVATE_SIZE)
    public = package.ffi.new("unsigned char[]", fn_dsa.PUBLIC_SIZE)
    package.lib.fndsa_keygen_seeded(9, seed, len(seed), secret, public)
    return fn_dsa.FnDsaKey(bytes(package.ffi.buffer(secret)), bytes(package.ffi.buffer(public)))


@needed
def test_keys_and_signatures_are_those_of_the_reference_vectors() -> None:
    import py_fn_dsa as package

    assert hashlib.sha256(seeded(b"kat-keygen-512").pack()).hexdigest() == KEYS
    key = seeded(b"kat-sign-key-512")
    message, context, seed = b"kat-message-512", b"kat-context", b"kat-sign-seed"
    found = package.ffi.new("unsigned char[]", fn_dsa.SIGNATURE_SIZE)
    package.lib.fndsa_sign_seeded(
        *(key.secret, len(key.secret), context, len(context), b"", message, len(message)),
        *(seed, len(seed), found, fn_dsa.SIGNATURE_SIZE),
    )
    signature = bytes(package.ffi.buffer(found))
    assert hashlib.sha256(signature).hexdigest() == SIGNED
    assert fn_dsa.holds(key.public, signature, message, context)


@needed
def test_signatures_are_of_one_identity_and_one_message(alice: Identity, bob: Identity) -> None:
    signature = alice.sign(FN_DSA, b"message")
    assert len(signature) == SIGNATURE_SIZES[FN_DSA]
    alice.card.verify(FN_DSA, signature, b"message")
    for card, sig, message in (
        (bob.card, signature, b"message"),
        (alice.card, signature, b"other"),
        (alice.card, signature[:-1], b"message"),
        (alice.card, signature + b"\0", b"message"),
        (alice.card, b"", b"message"),
    ):
        with pytest.raises(SecurityError, match="FN_DSA_512 signature does not verify"):
            card.verify(FN_DSA, sig, message)


@needed
def test_every_changed_byte_of_a_signature_is_found(alice: Identity) -> None:
    signature = alice.sign(FN_DSA, b"message")
    for at in range(len(signature)):
        changed = bytearray(signature)
        changed[at] ^= 0x10
        with pytest.raises(SecurityError):
            alice.card.verify(FN_DSA, bytes(changed), b"message")


@needed
def test_a_card_says_the_same_short_and_with_any_of_its_keys(alice: Identity) -> None:
    card = alice.card
    for each in (card, card.short(), card.having(PAIR), Card.of_text(card.text())):
        again = Card.parse(each.pack())
        assert again.fingerprint == card.fingerprint
        assert again.keys == each.keys
    assert len(card.having(PAIR).pack()) < 1100
    without = dataclasses.replace(alice, fn_dsa=None)
    assert without.card.fingerprint != card.fingerprint
    with pytest.raises(SecurityError, match="no key for FN_DSA_512"):
        card.short().verify(FN_DSA, b"", b"")


@needed
def test_every_changed_byte_of_a_card_makes_another_of_it_or_none(alice: Identity) -> None:
    data = alice.card.having(PAIR).pack()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        try:
            card = Card.parse(bytes(changed))
        except SecurityError:
            continue
        assert card.fingerprint != alice.card.fingerprint
    with pytest.raises(SecurityError, match="of no use"):
        Card.parse(data + data[96:])


def parties(alice: Identity, bob: Identity, mode: Mode, signatures: tuple[Algorithm, ...]) -> Wire:
    base = wire(mode)
    sides = []
    for side, own, other, name in (
        (base.initiator, alice, bob, "bob"),
        (base.responder, bob, alice, "alice"),
    ):
        trusted = Pins({name: known_peer(name, card=other.card.short())})
        policy = only(mode, signatures=signatures)
        sides.append(dataclasses.replace(side, identity=own, trust=trusted, policy=policy))
    asked = dataclasses.replace(base.asked, card=bob.card.short())
    return Wire(sides[0], sides[1], asked)


@needed
@pytest.mark.parametrize("mode", [Mode.POST_QUANTUM, Mode.ZERO_TRUST])
def test_two_nodes_that_have_it_sign_with_it(alice: Identity, bob: Identity, mode: Mode) -> None:
    for event in both(parties(alice, bob, mode, (FN_DSA, Algorithm.ML_DSA_65))):
        assert event.choice.signatures == PAIR
        assert event.claim.card is not None
        assert set(event.claim.card.keys) == {FN_DSA}


@needed
def test_a_node_that_has_it_takes_what_the_other_has(alice: Identity, bob: Identity) -> None:
    plain = dataclasses.replace(bob, fn_dsa=None)
    found = parties(alice, plain, Mode.POST_QUANTUM, (FN_DSA, Algorithm.ML_DSA_65))
    assert both(found)[0].choice.signatures == (Algorithm.ED25519, Algorithm.ML_DSA_65)
    there, back = parties(alice, plain, Mode.POST_QUANTUM, (FN_DSA,)).run()
    assert code(there) is Failure.FLOOR
    assert back is None


@needed
@pytest.mark.parametrize("who", ["initiator", "responder"])
@pytest.mark.parametrize("algorithm", ["ed25519", "fn_dsa"])
def test_both_signatures_must_verify(
    alice: Identity, bob: Identity, who: str, algorithm: str
) -> None:
    found = parties(alice, bob, Mode.POST_QUANTUM, (FN_DSA,))
    real = alice if who == "initiator" else bob
    other = Identity.generate(with_fn_dsa=True)

    class Half(Identity):
        @property
        def card(self) -> Card:
            return real.card

    half = Half(real.exchange, real.ed25519, real.ml_dsa, real.fn_dsa)
    object.__setattr__(half, algorithm, getattr(other, algorithm))
    sides = {"initiator": found.initiator, "responder": found.responder}
    sides[who] = dataclasses.replace(sides[who], identity=half)
    there, back = Wire(sides["initiator"], sides["responder"], found.asked).run()
    assert code(back if who == "initiator" else there) is Failure.UNPROVEN


@needed
@pytest.mark.parametrize("pattern", [NoisePattern.XK, NoisePattern.IK])
def test_a_handshake_with_it_is_smaller(
    alice: Identity, bob: Identity, pattern: NoisePattern
) -> None:
    sizes = {}
    for algorithm in (FN_DSA, Algorithm.ML_DSA_65):
        found = parties(alice, bob, Mode.POST_QUANTUM, (algorithm,))
        both(found)
        sizes[algorithm] = sum(len(message.payload) for _, message in found.seen)
    assert sizes[FN_DSA] < sizes[Algorithm.ML_DSA_65] - 2 * 3000


@needed
def test_the_key_is_kept_with_the_others(tmp_path: Path, alice: Identity) -> None:
    data = to_pem(alice)
    assert of_pem(data, "x").card.fingerprint == alice.card.fingerprint
    assert to_pem(of_pem(data, "x")) == data
    other = Identity.generate(with_fn_dsa=True)
    assert alice.fn_dsa is not None
    assert other.fn_dsa is not None
    mixed = fn_dsa.FnDsaKey(alice.fn_dsa.secret, other.fn_dsa.public)
    for wrong in (
        data + b"x",
        data.replace(b"FN-DSA-512 PRIVATE KEY-----\n", b"FN-DSA-512 PRIVATE KEY-----\nAAAA\n", 1),
        to_pem(dataclasses.replace(alice, fn_dsa=mixed)),
    ):
        with pytest.raises(ConfigError, match="is damaged"):
            of_pem(wrong, "x")


@needed
def test_the_first_start_makes_what_the_configuration_wants(tmp_path: Path) -> None:
    found = load(node(tmp_path, "a", WANTED), make=True)
    assert found.local.identity.able(FN_DSA)
    offer = found.local.offer(None, bytes)
    assert offer.signatures == (Algorithm.ED25519, FN_DSA, Algorithm.ML_DSA_65)


@needed
def test_an_identity_without_the_key_is_refused_where_it_is_wanted(tmp_path: Path) -> None:
    load_or_make(tmp_path / "a.key")
    with pytest.raises(ConfigError, match=r"has no FN-DSA-512 key.*valkyrie key new --fn-dsa"):
        load(node(tmp_path, "a", WANTED))


def test_without_the_package_a_node_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fn_dsa, "library", lambda: None)
    with pytest.raises(ConfigError, match=r"fn_dsa_512 needs the package py-fn-dsa: `pip install"):
        load(node(tmp_path, "a", WANTED), make=True)
    with pytest.raises(ConfigError, match=r"valkyrie\[fn-dsa\]"):
        Identity.generate(with_fn_dsa=True)
    assert not (tmp_path / "a.key").exists()


@needed
def test_without_the_package_an_identity_that_has_the_key_is_the_same_and_offers_it_not(
    alice: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fn_dsa, "library", lambda: None)
    again = of_pem(to_pem(alice), "x")
    assert again.card.fingerprint == alice.card.fingerprint
    assert not again.able(FN_DSA)


def test_the_names_of_settings_are_those_of_the_handshake() -> None:
    with pytest.raises(ConfigError, match=r"security.signatures\[0\]"):
        config.parse('[[interface]]\nname = "vk0"\n[security]\nsignatures = ["ed25519"]\n')
