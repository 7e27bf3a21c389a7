"""[[auth]]: its tables and files, and what two nodes make of them."""

from __future__ import annotations

import datetime as dt
import json
import os
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from valkyrie.controlplane.config import reader as config
from valkyrie.controlplane.config.settings_auth import Auth
from valkyrie.controlplane.daemon import auth
from valkyrie.controlplane.daemon.credentials import load
from valkyrie.controlplane.security.certificates import issue, make_root
from valkyrie.controlplane.security.codes import Failure
from valkyrie.controlplane.security.errors import SecurityError
from valkyrie.controlplane.security.handshake import Established, Failed
from valkyrie.controlplane.security.identity_file import load_or_make
from valkyrie.controlplane.security.providers import api_key_word, public_word
from valkyrie.controlplane.security.token_file import to_word
from valkyrie.dataplane.errors import ConfigError

from .security.parties import Wire
from .security.tokens import key_set, make_jwt
from .test_credentials import LEAST, PIN, node, peer

SECRET, ANOTHER = bytes(range(32)), bytes(range(1, 33))
ISSUER = Ed25519PrivateKey.generate()
HMAC = '[[auth]]\nname = "x"\nkind = "hmac"\nsecrets_file = "secrets"\nsubject = "{0}"\n'
CERTIFICATE = """[[auth]]
name = "x"
kind = "certificate"
certificate_file = "{0}.crt"
certificate_key_file = "{0}.crt.key"
roots_file = "roots.crt"
"""
API_KEY = '[[auth]]\nname = "x"\nkind = "api_key"\nkey_file = "{0}.api"\nkeys_file = "keys"\n'
JWT = """[[auth]]
name = "x"
kind = "jwt"
token_file = "{0}.jwt"
keys_file = "jwks"
issuer = "us"
audience = "valkyrie"
"""
KINDS = {"hmac": HMAC, "certificate": CERTIFICATE, "api_key": API_KEY, "jwt": JWT}
BOTH = 'show = "x"\ndemand = "x"\n'


def private(path: Path, data: str | bytes, mode: int = 0o600) -> None:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    path.chmod(mode)


def token(name: str, folder: Path | None = None, seconds: int = 600) -> bytes:
    """Return a token; bound to the node's fingerprint if it is known where that is."""
    claims: dict[str, object] = {"iss": "us", "aud": "valkyrie", "sub": name}
    claims["exp"] = int(time.time()) + seconds
    if folder is not None:
        own = load_or_make(folder / f"{name}.key")[0].card.fingerprint
        claims["cnf"] = {"vkfp": str(own)}
    return make_jwt(claims, ISSUER, "k1")


def write_files(folder: Path) -> None:
    """Write what two nodes, a and b, need of each kind."""
    private(folder / "secrets", f"# names\na {to_word(SECRET)}\nb {to_word(ANOTHER)}\n")
    private(
        folder / "keys",
        f"a {public_word(SECRET)} 2099-01-01T00:00Z\nb {public_word(ANOTHER)}\n",
    )
    private(folder / "jwks", key_set({"k1": ISSUER}))
    now = dt.datetime.now(dt.UTC)
    root = make_root("root", now)
    private(folder / "roots.crt", root.certificate.public_bytes(Encoding.PEM), 0o644)
    for name, key in (("a", SECRET), ("b", ANOTHER)):
        private(folder / f"{name}.api", api_key_word(key) + "\n")
        private(folder / f"{name}.jwt", token(name, folder))
        own = Ed25519PrivateKey.generate()
        chain = issue(root, name, own.public_key(), now)
        pem = b"".join(each.public_bytes(Encoding.PEM) for each in chain)
        private(folder / f"{name}.crt", pem, 0o644)
        data = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        private(folder / f"{name}.crt.key", data)


def meet(
    folder: Path, table: str, there: str = BOTH, back: str = BOTH
) -> tuple[Established | Failed | None, Established | Failed | None]:
    """Let two configurations shake hands; ``there`` is what a says of b."""
    sides = [
        load(
            node(folder, name, "[security]\n" + table.format(name) + peer(said, name=other)),
            make=True,
        )
        for name, other, said in (("a", "b", there), ("b", "a", back))
    ]
    asked, expected = (side.peers[0] for side in sides)
    assert asked is not None
    return Wire(sides[0].local, sides[1].local, asked, expected=expected).run()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pinned", [True, False])
def test_two_nodes_know_each_other_by_what_they_show(
    tmp_path: Path, kind: str, pinned: bool
) -> None:
    write_files(tmp_path)
    pins = [
        f'fingerprint = "{load_or_make(tmp_path / f"{name}.key")[0].card.fingerprint}"\n'
        if pinned
        else ""
        for name in "ba"
    ]
    events = meet(tmp_path, KINDS[kind], pins[0] + BOTH, pins[1] + BOTH)
    for event, name in zip(events, "ba", strict=True):
        assert isinstance(event, Established), event
        assert (event.grant.peer, event.grant.subject) == (name, name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_that_shows_nothing_or_anothers_is_refused(tmp_path: Path, kind: str) -> None:
    write_files(tmp_path)
    _, back = meet(tmp_path, KINDS[kind], there='demand = "x"\n')
    assert isinstance(back, Failed)
    assert back.code is Failure.CREDENTIAL
    _, back = meet(tmp_path, KINDS[kind], back=BOTH + 'subject = "b"\n')
    assert isinstance(back, Failed)
    assert back.code is Failure.IDENTITY
    assert "should be 'b' and is 'a'" in back.reason


def test_what_has_expired_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path)
    private(tmp_path / "a.jwt", token("a", tmp_path, seconds=-60))
    _, back = meet(tmp_path, JWT)
    assert isinstance(back, Failed)
    assert "the token has expired" in back.reason
    keys = tmp_path / "keys"
    private(keys, keys.read_text().replace("2099-", "2019-"))
    _, back = meet(tmp_path, API_KEY)
    assert isinstance(back, Failed)
    assert "the API key of a has expired" in back.reason


def place(folder: Path, name: str, data: str | bytes) -> None:
    """Put another file in the place of one."""
    private(folder / "next", data)
    (folder / "next").replace(folder / name)


def table(kind: str, name: str) -> list[Auth]:
    return config.parse(KINDS[kind].format(name) + LEAST).auth


def test_what_is_put_in_the_place_of_a_file_counts_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_files(tmp_path)
    found = auth.read(table("jwt", "a"), tmp_path.joinpath, os.geteuid())
    prover, verifier = found.provers["x"], found.verifiers["x"]
    before = prover.prove(b"")
    for _ in range(3):
        place(tmp_path, "a.jwt", b"no token")
        assert prover.prove(b"") == before
    assert caplog.text.count("is no signed JSON web token") == 1
    place(tmp_path, "a.jwt", token("b"))
    assert prover.prove(b"") not in (before, b"no token")
    assert verifier.check(before, b"", time.time_ns()).name == "a"
    place(tmp_path, "jwks", key_set({"k1": Ed25519PrivateKey.generate()}))
    with pytest.raises(SecurityError):
        verifier.check(before, b"", time.time_ns())
    (tmp_path / "jwks").unlink()
    with pytest.raises(SecurityError, match="signature"):
        verifier.check(before, b"", time.time_ns())
    assert "ey" not in repr(found)


def test_secrets_that_are_put_in_the_place_of_others_count_at_once(tmp_path: Path) -> None:
    write_files(tmp_path)
    found = auth.read(table("hmac", "a"), tmp_path.joinpath, os.geteuid())
    prover, verifier = found.provers["x"], found.verifiers["x"]
    evidence = prover.prove(b"")
    place(tmp_path, "secrets", f"a {to_word(ANOTHER)}\n")
    with pytest.raises(SecurityError):
        verifier.check(evidence, b"", 0)
    assert verifier.check(prover.prove(b""), b"", 0).name == "a"


def auths(*lines: str) -> str:
    return "[[auth]]\n" + "\n".join(lines) + "\n"


X = auths('name = "x"', 'kind = "api_key"', 'key_file = "k"')
WRONG = {
    # number: (the configuration, what is said)
    1: (auths('name = "x"', 'kind = "password"'), "auth[0].kind: invalid enum value 'password'"),
    2: (auths('name = "x"', 'kind = "hmac"'), "auth[0]: can neither show a thing, for want of se"),
    3: (
        auths('name = "x"', 'kind = "hmac"', 'roots_file = "r"', 'secrets_file = "s"'),
        "auth[0].roots_file: is of no use for 'hmac'",
    ),
    4: (X + X, "auth[1].name: 'x' is another one's already"),
    5: (peer(PIN + 'show = "x"\n'), "peer[0].show: there is no [[auth]] with the name 'x'"),
    6: (X + peer(PIN + 'demand = "x"\n'), "peer[0].demand: [[auth]] 'x' has no keys_file to dema"),
    7: (X + peer('show = "x"\n'), "peer[0]: nothing tells 'b' from somebody who has its address"),
    8: (X + peer('show = "x"\nstatic = true\n'), "peer[0].show: needs keys to be sealed with"),
    9: (peer(PIN + 'subject = "x"\n'), "peer[0].subject: is of no use without a `demand`"),
    10: (
        '[security]\nmodes = ["plaintext"]\n' + X + peer('show = "x"\n'),
        "peer[0].show: needs keys to be sealed with",
    ),
    11: (
        X.replace("key_file", "keys_file")
        + peer('demand = "x"\nsubject = "s"\n')
        + peer('demand = "x"\nsubject = "s"\n', name="c", address="10.9.0.3"),
        "peer: peers b and c have the same by_evidence",
    ),
    12: (
        '[security]\nmodes = ["plaintext"]\n'
        + X.replace("key_file", "keys_file")
        + peer('demand = "x"\n'),
        "peer[0].demand: needs keys to be sealed with",
    ),
}


@pytest.mark.parametrize("number", WRONG)
def test_a_table_that_makes_no_sense_is_refused_with_the_key(number: int) -> None:
    text, message = WRONG[number]
    with pytest.raises(ConfigError) as caught:
        config.parse(LEAST + text, "/etc/x.toml")
    assert str(caught.value).startswith(f"/etc/x.toml: {message}")


BAD_FILES: dict[int, tuple[str, str, str | bytes | None, int, str]] = {
    # number: (table, file, what it has, its mode, what is said)
    1: (HMAC, "secrets", to_word(SECRET), 0o600, "line 1 should be a name, once, and a secret"),
    2: (HMAC, "secrets", f"a {to_word(SECRET)}", 0o644, "others could read it"),
    3: (HMAC, "secrets", f"b {to_word(SECRET)}", 0o600, "has no secret of 'a', who this node is"),
    4: (HMAC, "secrets", f"a {to_word(SECRET)}", 0o600, "has nothing of 'b', which is demanded"),
    5: (API_KEY, "a.api", to_word(SECRET), 0o600, "has no key as `valkyrie key api` prints it"),
    6: (API_KEY, "keys", f"b {api_key_word(SECRET)}", 0o600, "line 1 should be a name, the half"),
    7: (API_KEY, "keys", f"b {public_word(SECRET)} soon", 0o600, "write a time as 2027-01-31T12"),
    8: (API_KEY, "keys", f"b {public_word(SECRET)} 2099-01-01", 0o600, "whose time is it?"),
    9: (API_KEY, "keys", "", 0o600, "has no keys"),
    10: (API_KEY, "keys", b"\xff", 0o600, "is no text"),
    11: (JWT, "a.jwt", "hunter2", 0o600, "is no signed JSON web token"),
    12: (JWT, "jwks", "{}", 0o600, "no set of JSON web keys"),
    13: (CERTIFICATE, "a.crt.key", "hunter2", 0o600, "has no private key in PEM"),
    14: (CERTIFICATE, "roots.crt", "hunter2", 0o644, "has no certificates in PEM"),
    15: (CERTIFICATE, "a.crt", "hunter2", 0o644, "has no certificates in PEM"),
    16: (JWT, "a.jwt", None, 0o600, "there is no such file"),
}


@pytest.mark.parametrize("number", BAD_FILES)
def test_a_file_that_is_no_good_is_named_and_not_shown(tmp_path: Path, number: int) -> None:
    table, name, data, mode, message = BAD_FILES[number]
    write_files(tmp_path)
    if data is None:
        (tmp_path / name).unlink()
    else:
        private(tmp_path / name, data, mode)
    with pytest.raises(ConfigError) as caught:
        load(node(tmp_path, "a", "[security]\n" + table.format("a") + peer(BOTH)), make=True)
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "vkts1:" not in str(caught.value).replace("that begins with vkts1:", "")


def test_keys_that_are_made_by_command_fit_the_files() -> None:
    from .test_cli import valkyrie

    found = json.loads(valkyrie("key", "api", "a", "--json").stdout)
    name, half = found["line"].split()
    assert name == "a"
    from valkyrie.controlplane.security.providers import api_key_of

    key = api_key_of(found["key"])
    assert key is not None
    assert half == public_word(key)
