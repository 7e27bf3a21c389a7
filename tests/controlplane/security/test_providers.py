"""Authentication providers: what they take, and everything that they do not."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from valkyrie.controlplane.security.certificates import issue, make_crl, make_root
from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.errors import SecurityError
from valkyrie.controlplane.security.handshake import Established
from valkyrie.controlplane.security.jwt import JwtProver, JwtVerifier, parse_keys
from valkyrie.controlplane.security.modes import Mode, NoisePattern
from valkyrie.controlplane.security.proof import EVIDENCE_MAX
from valkyrie.controlplane.security.providers import (
    ApiKeyProver,
    ApiKeyVerifier,
    CertificateProver,
    CertificateVerifier,
    HmacProver,
    HmacVerifier,
    Prover,
    Subject,
    Verifier,
    api_key_of,
    api_key_word,
    public_of,
    public_word,
)
from valkyrie.controlplane.security.revocation import Revocations
from valkyrie.controlplane.security.trust import Peer, Pins
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.units import NS_PER_S

from .parties import SECURE, Wire, both, code, identity, peer, wire
from .tokens import Private, key_set, make_jwt

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
NOW_NS = int(NOW.timestamp()) * NS_PER_S
BINDING = b"what both have seen"
SECRET = b"thirty-two bytes that are secret"
API_KEY = bytes(range(32))
KEY = Ed25519PrivateKey.generate()
CURVE = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ROOT = make_root("root", NOW)
CHAIN = issue(ROOT, "alice", KEY.public_key(), NOW)
CLAIMS = {
    "iss": "us",
    "aud": ["x", "valkyrie"],
    "sub": "alice",
    "exp": NOW_NS // NS_PER_S + 60,
    "nbf": NOW_NS // NS_PER_S,
}
KEYS: dict[str, Private] = {"": SECRET, "ed": KEY, "ec": CURVE, "rsa": RSA}
JWT = JwtVerifier("us", "valkyrie", parse_keys(key_set(KEYS), "keys"))


def shows(token: bytes) -> JwtProver:
    return JwtProver(token)


def public(key: bytes) -> bytes:
    found = public_of(public_word(key))
    assert found is not None
    return found


WAYS: dict[str, tuple[Prover, Verifier]] = {
    "hmac": (HmacProver("alice", SECRET), HmacVerifier({"alice": SECRET})),
    "certificate": (CertificateProver(CHAIN, KEY), CertificateVerifier([ROOT.certificate])),
    "api key": (
        ApiKeyProver(API_KEY),
        ApiKeyVerifier({public(bytes(32)): Subject("bob"), public(API_KEY): Subject("alice")}),
    ),
    "jwt": (shows(make_jwt(CLAIMS, SECRET)), JWT),
    "jwt eddsa": (shows(make_jwt(CLAIMS, KEY, "ed")), JWT),
    "jwt es256": (shows(make_jwt(CLAIMS, CURVE, "ec")), JWT),
    "jwt rs256": (shows(make_jwt(CLAIMS, RSA, "rsa")), JWT),
}
BOUND = ("hmac", "certificate", "api key")


@pytest.mark.parametrize("way", WAYS)
def test_what_is_proven_is_taken(way: str) -> None:
    prover, verifier = WAYS[way]
    assert verifier.check(prover.prove(BINDING), BINDING, NOW_NS).name == "alice"
    assert prover.bearer == way.startswith("jwt")


@pytest.mark.parametrize("way", WAYS)
def test_every_changed_or_missing_byte_is_refused(way: str) -> None:
    prover, verifier = WAYS[way]
    evidence = prover.prove(BINDING)
    # The unused bits of the certificate's signature say nothing.
    skipped = {len(evidence) - 65} if way == "certificate" else set()
    step = 7 if way == "jwt rs256" else 1
    for at in {*range(0, len(evidence), step)} - skipped:
        for wrong in (
            evidence[:at] + bytes([evidence[at] ^ 1]) + evidence[at + 1 :],
            evidence[:at],
        ):
            with pytest.raises(SecurityError):
                verifier.check(wrong, BINDING, NOW_NS)
    with pytest.raises(SecurityError):
        verifier.check(evidence + b"x", BINDING, NOW_NS)


@pytest.mark.parametrize("way", BOUND)
def test_bound_evidence_is_of_no_use_elsewhere(way: str) -> None:
    prover, verifier = WAYS[way]
    with pytest.raises(SecurityError):
        verifier.check(prover.prove(BINDING), b"elsewhere", NOW_NS)


@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None)
@given(evidence=st.binary(max_size=200))
def test_any_bytes_are_refused(way: str, evidence: bytes) -> None:
    with pytest.raises(SecurityError):
        WAYS[way][1].check(evidence, BINDING, NOW_NS)


@pytest.mark.parametrize("way", WAYS)
def test_no_repr_shows_a_secret(way: str) -> None:
    shown = repr(WAYS[way][0]) + repr(WAYS[way][1])
    assert "thirty-two" not in shown
    assert "\\x01\\x02" not in shown
    assert "eyJ" not in shown


def jwt(key: Private = SECRET, key_id: str = "", **changes: object) -> bytes:
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
    return make_jwt(claims, key, key_id)


def headed(header: object, secret: bytes = SECRET) -> bytes:
    """Return a token with a header of somebody's own, rightly signed with a secret."""
    return make_jwt(CLAIMS, secret, header=header)


PUBLIC = KEY.public_key().public_bytes_raw()
LATER = NOW_NS // NS_PER_S


@pytest.mark.parametrize(
    ("number", "evidence", "expected"),
    [
        (1, jwt(exp=LATER - 31), Failure.CREDENTIAL),
        (2, jwt(exp=None), Failure.CREDENTIAL),
        (3, jwt(exp="soon"), Failure.CREDENTIAL),
        (4, jwt(exp=True), Failure.CREDENTIAL),
        (5, jwt(nbf=LATER + 31), Failure.CREDENTIAL),
        (6, jwt(iss="them"), Failure.CREDENTIAL),
        (7, jwt(aud="other"), Failure.CREDENTIAL),
        (8, jwt(aud=None), Failure.CREDENTIAL),
        (9, jwt(sub=""), Failure.CREDENTIAL),
        (10, jwt(sub=7), Failure.CREDENTIAL),
        (11, jwt(b"x" * 32), Failure.UNPROVEN),
        (12, jwt(Ed25519PrivateKey.generate(), "ed"), Failure.UNPROVEN),
        (13, jwt(key_id="nobody"), Failure.UNPROVEN),
        (14, headed({"alg": "none"}), Failure.UNPROVEN),
        (15, headed({"alg": "EdDSA"}), Failure.UNPROVEN),
        (16, headed({"alg": "HS256", "kid": "ed"}, PUBLIC), Failure.UNPROVEN),
        (17, headed({"alg": "HS256", "crit": ["x"]}), Failure.MALFORMED),
        (18, headed({"alg": "HS256", "kid": ["x"]}), Failure.UNPROVEN),
        (19, headed([]), Failure.MALFORMED),
        (20, jwt().rpartition(b".")[0] + b".", Failure.UNPROVEN),
        (21, b"x" * 5000, Failure.MALFORMED),
        (22, jwt(exp=1e30), Failure.CREDENTIAL),
        (23, jwt(exp=float("nan")), Failure.CREDENTIAL),
        (24, jwt(cnf={"jkt": "x"}), Failure.CREDENTIAL),
        (25, jwt(cnf="x"), Failure.CREDENTIAL),
        (26, jwt(CURVE, "rsa"), Failure.UNPROVEN),
        (27, make_jwt(CLAIMS, SECRET, header={"alg": "HS256", "kid": "rsa"}), Failure.UNPROVEN),
        (28, make_jwt([], SECRET), Failure.MALFORMED),
    ],
)
def test_other_tokens_are_refused(number: int, evidence: bytes, expected: Failure) -> None:
    with pytest.raises(SecurityError) as caught:
        JWT.check(evidence, BINDING, NOW_NS)
    assert caught.value.code is expected


def test_clocks_may_be_a_little_apart() -> None:
    for evidence in (jwt(exp=LATER - 29), jwt(nbf=LATER + 29), jwt(nbf=None, aud="valkyrie")):
        assert JWT.check(evidence, BINDING, NOW_NS).name == "alice"


def test_the_only_key_of_an_issuer_needs_no_name() -> None:
    only = JwtVerifier("us", "valkyrie", parse_keys(key_set({"ed": KEY}), "keys"))
    assert only.check(jwt(KEY), BINDING, NOW_NS).name == "alice"


def test_api_keys_and_certificates_end() -> None:
    subject = Subject("alice", expires_ns=NOW_NS)
    verifier, prover = ApiKeyVerifier({public(API_KEY): subject}), ApiKeyProver(API_KEY)
    assert verifier.check(prover.prove(b""), b"", NOW_NS - 1) == subject
    with pytest.raises(SecurityError, match="expired"):
        verifier.check(prover.prove(b""), b"", NOW_NS)
    crl = make_crl(ROOT, [CHAIN[0].serial_number], NOW, dt.timedelta(days=1))
    revoking = CertificateVerifier([ROOT.certificate], [crl])
    with pytest.raises(SecurityError, match="revoked"):
        revoking.check(WAYS["certificate"][0].prove(b""), b"", NOW_NS)


def test_words_of_keys_are_those_of_keys_only() -> None:
    word = api_key_word(API_KEY)
    assert api_key_of(word) == API_KEY
    for wrong in (
        "",
        word[:-1],
        word + "a",
        public_word(API_KEY),
        word.replace("vkak1:", "vkak1:é"),
    ):
        assert api_key_of(wrong) is None
    assert public_of(word) is None


KEY_SETS = {
    # number: (a set of keys, what is said)
    1: (b"", "no set of JSON web keys"),
    2: (b"[]", "no set of JSON web keys"),
    3: (b'{"keys": [7]}', "no set of JSON web keys"),
    4: (b'{"keys": []}', "has no key for"),
    5: (b'{"keys": [{"kty": "RSA", "alg": "RS512", "n": "", "e": ""}]}', "has no key for"),
    6: (b'{"keys": [{"kty": "oct", "use": "enc", "k": "AAAA"}]}', "has no key for"),
    7: (key_set({"": b"short"}), "at least 32 bytes"),
    8: (b'{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA"}]}', "no set of JSON web keys"),
    9: (b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}', "no set of JSON web"),
    10: (
        json.dumps({"keys": json.loads(key_set({"a": SECRET}))["keys"] * 2}).encode(),
        "two keys with one id",
    ),
}


@pytest.mark.parametrize("number", KEY_SETS)
def test_a_set_of_keys_that_is_no_good_is_refused(number: int) -> None:
    data, message = KEY_SETS[number]
    with pytest.raises(ConfigError, match=message):
        parse_keys(data, "/etc/keys")


def test_weak_secrets_are_refused_when_they_are_configured() -> None:
    with pytest.raises(ConfigError, match="at least 16"):
        HmacVerifier({"alice": b"short"})


def test_certificates_that_no_message_has_room_for_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=str(EVIDENCE_MAX)):
        CertificateProver(CHAIN * 20, KEY)


# ---- Within the handshake ----

UNPINNED = {"card": None, "fingerprint": None, "token_id": None, "certificate_name": ""}


def met(
    mode: Mode,
    prover: Prover | None,
    verifier: Verifier,
    *,
    pattern: NoisePattern = NoisePattern.XK,
    back: bool = False,
    pinned: bool = True,
) -> Wire:
    """Return two nodes of which one demands; ``back``: it is the one that asks."""
    base = wire(mode, pattern=pattern)
    demands = {"demand": "x", "subject": "alice", **({} if pinned else UNPINNED)}
    shows_ = {"show": "x" if prover else ""}
    asked = dataclasses.replace(base.asked, **(demands if back else shows_))
    known = peer("alice", **(shows_ if back else demands))
    sides = [
        dataclasses.replace(
            side,
            trust=Pins({other.name: other}, verifiers={"x": verifier}, clock=at_now),
            provers={"x": prover} if prover else {},
        )
        for side, other in ((base.initiator, asked), (base.responder, known))
    ]
    return Wire(sides[0], sides[1], asked, expected=known)


def at_now() -> int:
    return NOW_NS


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("mode", [Mode.TOKEN, Mode.NOISE])
def test_each_side_can_demand_something_of_the_other(way: str, mode: Mode, back: bool) -> None:
    events = both(met(mode, *WAYS[way], back=back))
    found = events[not back]
    assert found.grant.subject == "alice"
    assert found.claim.evidence == b""
    if way.startswith("jwt"):
        assert found.grant.lifetime_ns == found.lifetime_ns == 90 * NS_PER_S
    if way == "certificate":
        assert found.claim.serials == tuple(each.serial_number for each in CHAIN)
    assert events[back].grant.subject == ""


@pytest.mark.parametrize(("mode", "pattern"), SECURE)
def test_every_mode_with_keys_carries_evidence(mode: Mode, pattern: NoisePattern) -> None:
    for back in (False, True):
        both(met(mode, *WAYS["hmac"], pattern=pattern, back=back))
        there, here = met(mode, None, WAYS["hmac"][1], pattern=pattern, back=back).run()
        failed = there if back else here
        assert code(failed) is Failure.CREDENTIAL
        assert "has shown nothing for [[auth]] 'x'" in failed.reason  # type: ignore[union-attr]


@pytest.mark.parametrize("back", [False, True])
def test_evidence_of_somebody_else_is_not_enough(back: bool) -> None:
    verifier = HmacVerifier({"alice": SECRET, "mallory": SECRET[::-1]})
    there, here = met(Mode.NOISE, HmacProver("mallory", SECRET[::-1]), verifier, back=back).run()
    assert code(there if back else here) is Failure.IDENTITY
    there, here = met(Mode.NOISE, HmacProver("alice", SECRET[::-1]), verifier, back=back).run()
    assert code(there if back else here) is Failure.UNPROVEN


def test_a_node_cannot_show_what_it_was_shown() -> None:
    """Both demand the same of each other, and one of them has nothing but the other's."""
    seen: list[bytes] = []

    class Mirror:
        bearer = False

        def prove(self, _binding: bytes) -> bytes:
            return seen[-1]

    class Watching(HmacVerifier):
        def check(self, evidence: bytes, binding: bytes, unix_ns: int) -> Subject:
            seen.append(evidence)
            return super().check(evidence, binding, unix_ns)

    verifier = Watching({"alice": SECRET})
    demands = {"show": "x", "demand": "x", "subject": "alice"}
    base = wire(Mode.NOISE)
    alice, bob = peer("alice", **demands), peer("bob", **demands)
    sides = [
        dataclasses.replace(
            side,
            trust=Pins({other.name: other}, verifiers={"x": verifier}, clock=at_now),
            provers={"x": prover},
        )
        for side, other, prover in (
            (base.initiator, bob, HmacProver("alice", SECRET)),
            (base.responder, alice, Mirror()),
        )
    ]
    there, _ = Wire(sides[0], sides[1], bob, expected=alice).run()
    assert len(seen) == 2
    assert code(there) is Failure.UNPROVEN


@pytest.mark.parametrize("way", BOUND)
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("mode", [Mode.NOISE, Mode.POST_QUANTUM])
def test_evidence_can_take_the_place_of_a_fingerprint(way: str, mode: Mode, back: bool) -> None:
    both(met(mode, *WAYS[way], pattern=NoisePattern.XX, back=back, pinned=False))
    _, here = met(mode, None, WAYS[way][1], pattern=NoisePattern.XX, pinned=False).run()
    assert code(here) is Failure.CREDENTIAL


def test_a_bearers_token_takes_the_place_of_no_fingerprint_unless_it_is_bound_to_one() -> None:
    own = str(identity("alice").card.fingerprint)
    for bound, expected in (
        (None, "nothing but a bearer's token"),
        ({"vkfp": str(identity("bob").card.fingerprint)}, "the token is bound to"),
        ({"vkfp": own}, ""),
    ):
        prover = shows(jwt(cnf=bound))
        found = met(Mode.NOISE, prover, JWT, pattern=NoisePattern.XX, pinned=False)
        _, here = found.run()
        if expected:
            assert code(here) is Failure.CREDENTIAL
            assert expected in here.reason  # type: ignore[union-attr]
        else:
            assert isinstance(here, Established)
            assert prover.bearer is False


def test_a_bearers_token_is_shown_to_nobody_who_could_be_anybody() -> None:
    base = wire(Mode.NOISE, pattern=NoisePattern.XX)
    asked = Peer("bob", demand="y", show="x")
    showing = dataclasses.replace(
        base.initiator,
        provers={"x": shows(jwt())},
        trust=Pins({"bob": asked}, verifiers={"y": WAYS["hmac"][1]}),
    )
    there, _ = Wire(showing, base.responder, asked).run()
    assert code(there) is Failure.CREDENTIAL
    assert "pin its fingerprint" in there.reason  # type: ignore[union-attr]


def test_a_certificate_that_was_revoked_is_shown_in_vain() -> None:
    found = met(Mode.NOISE, *WAYS["certificate"])
    pins = found.responder.trust
    assert isinstance(pins, Pins)
    pins.revocations = Revocations(serials={CHAIN[0].serial_number: "lost"})
    _, here = found.run()
    assert code(here) is Failure.CREDENTIAL


@pytest.mark.parametrize("way", ["jwt", "hmac"])
def test_a_subject_that_was_revoked_shows_its_evidence_in_vain(way: str) -> None:
    found = met(Mode.NOISE, *WAYS[way])
    pins = found.responder.trust
    assert isinstance(pins, Pins)
    pins.revocations = Revocations(subjects={"alice": "stolen"})
    _, here = found.run()
    assert code(here) is Failure.CREDENTIAL
    assert "what 'alice' shows is revoked: stolen" in here.reason  # type: ignore[union-attr]
    assert pins.revocations.reason_for(pins.peers["alice"]) == "stolen"
    assert pins.revocations.reason_for(peer("alice")) is None


def test_evidence_is_not_shown_in_the_clear() -> None:
    base = wire(Mode.PLAINTEXT)
    token = jwt()
    showing = dataclasses.replace(base.initiator, provers={"x": shows(token)})
    found = Wire(showing, base.responder, dataclasses.replace(base.asked, show="x"))
    both(found)
    assert not any(token[:16] in message.payload for _, message in found.seen)
