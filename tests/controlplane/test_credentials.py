"""What the configuration says of peers and modes is what handshakes go by, or it is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest

from tests.controlplane.security.authority import authority, credentials
from tests.controlplane.security.parties import identity
from valkyrie.controlplane.config import reader as config
from valkyrie.controlplane.config.settings_security import CipherName, ModeName
from valkyrie.controlplane.config.trust import policy
from valkyrie.controlplane.daemon.credentials import load
from valkyrie.controlplane.security.exchange import token_id
from valkyrie.controlplane.security.handshake import Established, Failed
from valkyrie.controlplane.security.identity_file import load_or_make
from valkyrie.controlplane.security.modes import Cipher, Mode, Policy, Rhythm
from valkyrie.controlplane.security.token_file import to_word
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.units import NS_PER_S

from .security.parties import Wire

LEAST = '[[interface]]\nname = "vk0"\n'
PIN = f'fingerprint = "{identity("bob").card.fingerprint}"\n'
CARD = f'card = "{identity("bob").card.text()}"\n'
TOKEN = 'token = "0123456789abcdef"\n'
SECRET = bytes(range(32))


def peer(*lines: str, name: str = "b", address: str = "10.9.0.2") -> str:
    return f'[[peer]]\nname = "{name}"\naddress = "{address}"\n' + "".join(lines)


def security(text: str) -> str:
    return f"[security]\n{text}\n"


def test_the_names_of_settings_are_those_of_the_handshake() -> None:
    assert [name.upper() for name in get_args(ModeName)] == [mode.name for mode in Mode]
    assert {name.upper() for name in get_args(CipherName)} == {each.name for each in Cipher}


def test_without_a_word_everything_is_encrypted() -> None:
    assert policy(config.parse(LEAST).security) == Policy()


def test_zero_trust_keeps_the_rhythm_of_the_configuration_with_every_peer() -> None:
    text = security("zero_trust_session_s = 20\nzero_trust_proof_s = 5\nzero_trust_answer_s = 2")
    found = policy(config.parse(text + LEAST).security).tightened(None, require_pq=True)
    assert found.rhythm == Rhythm(20 * NS_PER_S, 5 * NS_PER_S, 2 * NS_PER_S)
    with pytest.raises(ConfigError, match="zero_trust_session_s"):
        config.parse(security("zero_trust_session_s = 301") + LEAST)


ALLOWED = {
    # number: ([security], the peer's table, modes that may be with it)
    1: ("", PIN, {Mode.NOISE, Mode.POST_QUANTUM}),
    2: ("", CARD, {Mode.NOISE, Mode.POST_QUANTUM}),
    3: ("require_pq = true", PIN, {Mode.POST_QUANTUM}),
    4: ("", PIN + "require_pq = true", {Mode.POST_QUANTUM}),
    5: ("", PIN + 'min_mode = "post_quantum"', {Mode.POST_QUANTUM}),
    6: ('modes = ["plaintext"]', "", {Mode.PLAINTEXT}),
    7: ('modes = ["plaintext", "noise"]', PIN, {Mode.NOISE}),
    8: ('modes = ["plaintext", "noise"]', "plaintext = true", {Mode.PLAINTEXT}),
    9: (
        'modes = ["token", "noise"]\nsecrets_file = "s"',
        PIN + TOKEN,
        {Mode.NOISE, Mode.TOKEN},
    ),
    10: ('modes = ["token", "noise"]\nsecrets_file = "s"', TOKEN, {Mode.TOKEN}),
    11: ('modes = ["noise", "zero_trust"]\nmin_mode = "zero_trust"', PIN, {Mode.ZERO_TRUST}),
}


@pytest.mark.parametrize("number", ALLOWED)
def test_a_peer_may_do_what_the_node_allows_and_its_table_is_good_for(number: int) -> None:
    from valkyrie.controlplane.config.trust import pins

    top, table, modes = ALLOWED[number]
    read = config.parse(security(top) + LEAST + peer(table))
    (known,) = pins(read)
    assert known is not None
    assert known.modes is not None
    assert set(known.modes) == modes
    assert known.unprotected == (known.modes == frozenset({Mode.PLAINTEXT}))


REFUSED = {
    1: (peer(), "peer[0]: nothing tells 'b' from somebody who has its address: run `valkyrie key"),
    2: (peer('fingerprint = "abc"\n'), "peer[0].fingerprint: 'abc' is no fingerprint"),
    3: (peer('card = "abc"\n'), "peer[0].card: this is no identity card"),
    4: (peer(PIN + CARD), "peer[0].card: says the fingerprint already"),
    5: (peer(PIN + "plaintext = true\n"), "peer[0].plaintext: it has a fingerprint too"),
    6: (peer("plaintext = true\n"), 'peer[0].plaintext: this node takes part in none: add "plain'),
    7: (
        security('modes = ["plaintext"]') + peer(PIN),
        "peer[0]: its fingerprint is of no use for what may be with it: plaintext",
    ),
    8: (peer('token = "xyz"\n'), "peer[0].token: expected `str` matching regex"),
    9: (peer(TOKEN), "peer[0]: its token is of no use for what may be with it: noise, post_quant"),
    10: (peer(PIN) + peer(PIN, name="c", address="10.9.0.3"), "peer: peers b and c have the same"),
    11: (
        peer(PIN + 'min_mode = "zero_trust"'),
        "peer[0]: security.modes has nothing that its min_mode and require_pq allow",
    ),
    12: (security('modes = ["token"]'), "security.secrets_file: is missing, and modes has 'token'"),
    13: (security('secrets_file = "x"'), "security.secrets_file: is of no use: add 'token' to mo"),
    14: (security('modes = ["mtls"]'), "security.certificate_file: is missing, and modes has 'mt"),
    15: (security('roots_file = "x"'), "security.roots_file: is of no use: add 'mtls' to modes"),
    16: (security("modes = []"), "security.modes: expected `array` of length >= 1"),
    17: (security('modes = ["tls"]'), "security.modes[0]: invalid enum value 'tls'"),
    18: (
        security('modes = ["noise"]\nrequire_pq = true'),
        "security.modes: no mode is left: `modes` has none that `min_mode` and `require_pq` allow",
    ),
    19: (security("ciphers = []"), "security.ciphers: expected `array` of length >= 1"),
    20: (
        security('modes = ["plaintext", "noise"]\nmin_mode = "noise"') + peer("plaintext = true\n"),
        "peer[0].plaintext: this node takes part in none",
    ),
    21: (security('crl_file = "x"'), "security.crl_file: is of no use: add 'mtls' to modes"),
}


@pytest.mark.parametrize("number", REFUSED)
def test_what_makes_no_sense_is_refused_with_the_key(number: int) -> None:
    text, message = REFUSED[number]
    with pytest.raises(ConfigError) as caught:
        config.parse(LEAST + text, "/etc/x.toml")
    assert str(caught.value).startswith(f"/etc/x.toml: {message}")
    assert "\n" not in str(caught.value)


def test_a_static_peer_needs_no_fingerprint_since_it_has_no_handshake(tmp_path: Path) -> None:
    read = node(tmp_path, "a", security("") + peer("static = true\n"))
    assert load(read, make=True).peers == (None,)


# ---- With files ----


def node(folder: Path, name: str, text: str) -> config.Config:
    return config.parse(
        text.replace("[security]\n", f'[security]\nidentity_file = "{name}.key"\n') + LEAST,
        str(folder / f"{name}.toml"),
    )


def test_the_identity_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    read = node(tmp_path / "keys", "a", security(""))
    first, second = load(read, make=True), load(read)
    assert (first.made, second.made) == (True, False)
    assert first.local.identity.card == second.local.identity.card
    file = tmp_path / "keys" / "a.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["a.key"]


def test_a_node_that_protects_nothing_needs_no_identity(tmp_path: Path) -> None:
    load(node(tmp_path, "a", security('modes = ["plaintext"]')))
    assert list(tmp_path.iterdir()) == []


def test_an_identity_that_others_could_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    read = node(tmp_path, "a", security(""))
    load(read, make=True)
    (tmp_path / "a.key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"others could read it \(mode 0640\).*chmod 600"):
        load(read)


def meet(
    folder: Path, top: str, there: str, back: str
) -> tuple[Established | Failed | None, Established | Failed | None]:
    """Let two configurations shake hands; ``there`` is what a's peer table says of b."""
    a = load(node(folder, "a", security(top) + peer(there, name="b")), make=True)
    b = load(node(folder, "b", security(top) + peer(back, name="a")), make=True)
    asked = a.peers[0]
    assert asked is not None
    return Wire(a.local, b.local, asked).run()


def made(folder: Path, name: str) -> str:
    return f'fingerprint = "{load_or_make(folder / f"{name}.key")[0].card.fingerprint}"\n'


@pytest.mark.parametrize("mode", ["noise", "post_quantum", "zero_trust"])
def test_two_configurations_with_each_others_fingerprints_agree(tmp_path: Path, mode: str) -> None:
    events = meet(tmp_path, f'modes = ["{mode}"]', made(tmp_path, "b"), made(tmp_path, "a"))
    for event, name in zip(events, ("b", "a"), strict=True):
        assert isinstance(event, Established), event
        assert (event.choice.mode.name.lower(), event.grant.peer) == (mode, name)


def test_a_peer_with_another_key_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    there, _ = meet(tmp_path, "", PIN, made(tmp_path, "a"))
    assert isinstance(there, Failed)


def test_plaintext_needs_the_leave_of_both(tmp_path: Path) -> None:
    open_, closed = 'modes = ["plaintext"]', ""
    events = meet(tmp_path, open_, "", "")
    assert all(isinstance(event, Established) for event in events)
    a = load(node(tmp_path, "a", security(open_) + peer(name="b")), make=True)
    b = load(node(tmp_path, "b", security(closed) + peer(made(tmp_path, "a"), name="a")), make=True)
    assert a.peers[0] is not None
    there, back = Wire(a.local, b.local, a.peers[0]).run()
    assert isinstance(there, Failed)
    assert back is None


def test_a_pinned_peer_is_never_asked_in_plaintext(tmp_path: Path) -> None:
    top = security('modes = ["plaintext", "noise"]')
    a = load(node(tmp_path, "a", top + peer(made(tmp_path, "b"), name="b")), make=True)
    offer = a.local.offer(a.peers[0], os.urandom)
    assert offer.modes == (Mode.NOISE,)


TOKENS = 'modes = ["token"]\nsecrets_file = "secrets"'


def test_a_shared_secret_proves_both(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.write_text(f"# with everybody\n\n{to_word(SECRET)}\n")
    secrets.chmod(0o600)
    table = f'token = "{token_id(SECRET).hex()}"\n'
    events = meet(tmp_path, TOKENS, table, table)
    assert all(isinstance(event, Established) for event in events)
    assert [event.grant.peer for event in events if isinstance(event, Established)] == ["b", "a"]


BAD_SECRETS = {
    # number: (content, mode, what is said)
    1: (None, 0o600, "there is no such file"),
    2: ("", 0o600, "has no secret"),
    3: ("hunter2\n", 0o600, "line 1 is no secret as `valkyrie key token` prints them"),
    4: (to_word(SECRET) + "\nvkts1:77777\n", 0o600, "line 2 is no secret"),
    5: (to_word(SECRET), 0o644, "others could read it"),
    6: (to_word(SECRET), 0o600, "has no secret with the id 0123456789abcdef, which is shared with"),
    7: (to_word(SECRET)[:-3], 0o600, "line 1 is no secret"),
}


@pytest.mark.parametrize("number", BAD_SECRETS)
def test_a_file_of_secrets_that_is_no_good_is_refused_and_not_shown(
    tmp_path: Path, number: int
) -> None:
    content, mode, message = BAD_SECRETS[number]
    if content is not None:
        (tmp_path / "secrets").write_text(content)
        (tmp_path / "secrets").chmod(mode)
    with pytest.raises(ConfigError) as caught:
        load(node(tmp_path, "a", security(TOKENS) + peer(TOKEN)), make=True)
    assert str(caught.value).startswith(f"{tmp_path / 'secrets'}: {message}")
    assert "hunter2" not in str(caught.value)
    assert to_word(SECRET)[6:40] not in str(caught.value)


MTLS = """modes = ["mtls"]
certificate_file = "{0}.pem"
certificate_key_file = "{0}.pem.key"
roots_file = "roots.pem"
"""


def write_tls(folder: Path, name: str) -> None:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    shown = credentials(name)
    pem = b"".join(each.public_bytes(Encoding.PEM) for each in shown.chain)
    (folder / f"{name}.pem").write_bytes(pem)
    key = folder / f"{name}.pem.key"
    key.write_bytes(shown.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    (folder / "roots.pem").write_bytes(authority("root")[0].public_bytes(Encoding.PEM))


def test_certificates_prove_both(tmp_path: Path) -> None:
    loaded = []
    for name, other in (("a", "b"), ("b", "a")):
        write_tls(tmp_path, name)
        text = security(MTLS.format(name)) + peer(f'certificate = "{other}"\n', name=other)
        loaded.append(load(node(tmp_path, name, text), make=True))
    a, b = loaded
    assert a.peers[0] is not None
    events = Wire(a.local, b.local, a.peers[0]).run()
    assert all(isinstance(event, Established) for event in events), events


BAD_TLS = {
    1: ("a.pem", b"", "has no certificates in PEM"),
    2: ("a.pem.key", b"", "has no private key in PEM without a password"),
    3: ("a.pem.key", None, "there is no such file"),
    4: ("roots.pem", None, "there is no such file"),
    5: ("a.pem", "b.pem", "is not the key of the first certificate in"),
    6: ("a.pem", "roots.pem", "is not the key of the first certificate in"),
}


@pytest.mark.parametrize("number", BAD_TLS)
def test_a_file_of_certificates_that_is_no_good_is_named(tmp_path: Path, number: int) -> None:
    for name in ("a", "b"):
        write_tls(tmp_path, name)
    file, content, message = BAD_TLS[number]
    if content is None:
        (tmp_path / file).unlink()
    else:
        new = content if isinstance(content, bytes) else (tmp_path / content).read_bytes()
        (tmp_path / file).write_bytes(new)
    with pytest.raises(ConfigError, match=message):
        load(
            node(tmp_path, "a", security(MTLS.format("a")) + peer('certificate = "b"\n')),
            make=True,
        )
