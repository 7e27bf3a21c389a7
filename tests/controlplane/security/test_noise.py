"""The Noise core against public vectors, against another implementation, and under mutation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from valkyrie.controlplane.security.errors import MisuseError, SecurityError
from valkyrie.controlplane.security.noise import (
    KEM_CIPHERTEXT_SIZE,
    KEM_PUBLIC_SIZE,
    PATTERNS,
    Handshake,
    protocol_name,
)

VECTORS = Path("/usr/share/gocode/src/github.com/flynn/noise/vectors.txt")
BASE = ("XK", "IK", "XX")
CIPHERS = ("ChaChaPoly", "AESGCM")
HASHES = ("SHA256", "SHA512", "BLAKE2s", "BLAKE2b")
NAMES = [protocol_name(pattern, cipher, "SHA256") for pattern in PATTERNS for cipher in CIPHERS]


def key() -> X25519PrivateKey:
    return X25519PrivateKey.generate()


def public(private: X25519PrivateKey) -> bytes:
    return private.public_key().public_bytes_raw()


def vectors() -> Iterator[dict[str, str]]:
    for block in VECTORS.read_text(encoding="ascii").split("\n\n"):
        vector = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if vector:
            yield vector


def pair(
    name: str,
    *,
    prologues: tuple[bytes, bytes] = (b"hello", b"hello"),
    expected: bytes | None = None,
    statics: tuple[X25519PrivateKey, X25519PrivateKey] | None = None,
    ephemerals: tuple[X25519PrivateKey | None, X25519PrivateKey | None] = (None, None),
) -> tuple[Handshake, Handshake]:
    """Return both sides; ``expected`` is what the initiator takes the other's static key for."""
    statics = statics or (key(), key())
    knows = PATTERNS[name.split("_")[1]].responder_known
    expected = expected or public(statics[1])
    return (
        Handshake(
            name,
            initiator=True,
            static=statics[0],
            prologue=prologues[0],
            remote_static=expected if knows else None,
            ephemeral=ephemerals[0],
        ),
        Handshake(
            name,
            initiator=False,
            static=statics[1],
            prologue=prologues[1],
            ephemeral=ephemerals[1],
        ),
    )


def flights(a: Handshake, b: Handshake) -> Iterator[bytes]:
    """Run a handshake to its end and yield its messages."""
    writer, reader = a, b
    while not a.done:
        message = writer.write(b"payload")
        assert reader.read(message) == b"payload"
        yield message
        writer, reader = reader, writer


@pytest.mark.skipif(not VECTORS.exists(), reason="golang-github-flynn-noise-dev is not installed")
@pytest.mark.parametrize("pattern", BASE)
def test_public_vectors_come_out_byte_for_byte(pattern: str) -> None:
    names = {
        protocol_name(pattern, cipher, hash_name) for cipher in CIPHERS for hash_name in HASHES
    }
    seen = 0
    for vector in vectors():
        if vector["handshake"] not in names:
            continue

        def secret(name: str, vector: dict[str, str] = vector) -> X25519PrivateKey:
            return X25519PrivateKey.from_private_bytes(bytes.fromhex(vector[name]))

        prologue = bytes.fromhex(vector.get("prologue", ""))
        # XK's responder, as all of the vectors' parties, has a static key; XX's too.
        sides = pair(
            vector["handshake"],
            prologues=(prologue, prologue),
            statics=(secret("init_static"), secret("resp_static")),
            ephemerals=(secret("gen_init_ephemeral"), secret("gen_resp_ephemeral")),
        )
        handshake_count = len(PATTERNS[pattern].messages)
        index = 0
        while f"msg_{index}_payload" in vector:
            payload = bytes.fromhex(vector[f"msg_{index}_payload"])
            expected = bytes.fromhex(vector[f"msg_{index}_ciphertext"])
            # Data begins with the initiator again, whoever had the last word.
            turn = index if index < handshake_count else index - handshake_count
            writer, reader = sides if turn % 2 == 0 else sides[::-1]
            if index < handshake_count:
                assert writer.write(payload) == expected
                assert reader.read(expected) == payload
            else:
                assert writer.split()[0].encrypt(b"", payload) == expected
                assert reader.split()[1].decrypt(b"", expected) == payload
            index += 1
        assert index == handshake_count + 2
        assert sides[0].hash == sides[1].hash
        seen += 1
    assert seen == len(names) * 4  # with and without prologue, with and without payloads


@pytest.mark.parametrize("name", NAMES)
def test_both_sides_end_with_the_same_keys(name: str) -> None:
    statics = (key(), key())
    a, b = pair(name, statics=statics)
    assert list(flights(a, b))
    assert b.done
    assert a.hash == b.hash
    assert (a.remote_static, b.remote_static) == (public(statics[1]), public(statics[0]))
    (a_send, a_receive), (b_send, b_receive) = a.split(), b.split()
    for sender, receiver in ((a_send, b_receive), (b_send, a_receive)):
        for text in (b"one", b"two"):
            assert receiver.decrypt(b"ad", sender.encrypt(b"ad", text)) == text
    assert a_send.secret() != a_receive.secret()


def test_hybrid_patterns_are_those_of_the_draft() -> None:
    found = {
        name: [" ".join(message) for message in pattern.messages]
        for name, pattern in PATTERNS.items()
        if name.endswith("hfs")
    }
    assert found == {
        "XKhfs": ["e es e1", "e ee ekem1", "s se"],
        "IKhfs": ["e es e1 s ss", "e ee ekem1 se"],
        "XXhfs": ["e e1", "e ee ekem1 s es", "s se"],
    }


@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_hybrid_handshake_carries_an_encapsulation(cipher: str) -> None:
    plain = [len(each) for each in flights(*pair(protocol_name("XX", cipher, "SHA256")))]
    hybrid = [len(each) for each in flights(*pair(protocol_name("XXhfs", cipher, "SHA256")))]
    # The first message of XX has no key yet; the encapsulation comes after `ee`.
    assert [b - a for a, b in zip(plain, hybrid, strict=True)] == [
        KEM_PUBLIC_SIZE,
        KEM_CIPHERTEXT_SIZE + 16,
        0,
    ]


@pytest.mark.parametrize("name", NAMES)
def test_no_byte_of_any_message_can_be_changed(name: str) -> None:
    """Not even the top bit of an X25519 key, which the curve ignores: it is in the transcript."""
    statics = (key(), key())
    total = len(list(flights(*pair(name, statics=statics))))
    for target in range(total):
        size = len(list(flights(*pair(name, statics=statics)))[target])
        for at in {*range(min(size, 40)), *range(0, size, 97), size - 1, size - 16, size - 17}:
            a, b = pair(name, statics=statics)
            writer, reader = a, b
            with pytest.raises(SecurityError):  # noqa: PT012  # any of the messages may refuse
                for index in range(total):
                    message = writer.write(b"payload")
                    if index == target and at < len(message):
                        changed = bytearray(message)
                        changed[at] ^= 0x80
                        message = bytes(changed)
                    reader.read(message)
                    writer, reader = reader, writer
                sealed = a.split()[0].encrypt(b"", b"x")
                b.split()[1].decrypt(b"", sealed)


@pytest.mark.parametrize("name", NAMES)
def test_no_message_can_be_cut(name: str) -> None:
    a, b = pair(name)
    message = a.write(b"")
    for size in range(len(message)):
        _, reader = pair(name)
        with pytest.raises(SecurityError):
            reader.read(message[:size])
    b_static = pair(name)[1]
    with pytest.raises(SecurityError):
        b_static.read(bytes(70_000))
    assert not b.done


@pytest.mark.parametrize("name", NAMES)
def test_another_prologue_ends_the_handshake(name: str) -> None:
    a, b = pair(name, prologues=(b"offer", b"edited"))
    with pytest.raises(SecurityError, match="verify"):
        list(flights(a, b))


@pytest.mark.parametrize("name", [name for name in NAMES if "XX" not in name])
def test_the_wrong_responder_ends_the_handshake(name: str) -> None:
    a, b = pair(name, expected=public(key()))
    with pytest.raises(SecurityError, match="verify"):
        list(flights(a, b))


@pytest.mark.parametrize("name", NAMES)
def test_a_reflected_message_ends_the_handshake(name: str) -> None:
    a, b = pair(name)
    first = a.write()
    with pytest.raises(SecurityError):
        a.read(first)
    if "XX" in name:
        b.read(pair(name)[0].write())
        second = b.write()
        with pytest.raises(MisuseError):
            b.write()
        with pytest.raises(SecurityError):
            b.read(second)


def test_keys_of_low_order_are_refused() -> None:
    a, b = pair(protocol_name("XX", "ChaChaPoly", "SHA256"))
    a.write()
    b.read(bytes(32))
    with pytest.raises(SecurityError, match="low order"):
        b.write()


def test_a_failed_handshake_cannot_go_on() -> None:
    a, b = pair(protocol_name("IK", "AESGCM", "SHA256"))
    with pytest.raises(SecurityError):
        b.read(bytes(200))
    with pytest.raises(MisuseError, match="begin a new one"):
        b.write()
    assert not b.done
    with pytest.raises(MisuseError, match="not finished"):
        a.split()


def test_misuse_is_told_apart_from_attacks() -> None:
    name = protocol_name("XK", "AESGCM", "SHA256")
    for wrong in ("Noise_NN_25519_AESGCM_SHA256", "Noise_XKhfs_25519_AESGCM_SHA256"):
        with pytest.raises(MisuseError, match="no protocol"):
            Handshake(wrong, initiator=True, static=key())
    with pytest.raises(MisuseError, match="needs"):
        Handshake(name, initiator=True, static=key())
    with pytest.raises(MisuseError, match="must not"):
        Handshake(name, initiator=False, static=key(), remote_static=bytes(32))
    with pytest.raises(MisuseError, match="turn"):
        pair(name)[1].write()


def test_nothing_secret_is_in_a_repr() -> None:
    static = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    a, b = pair(protocol_name("XX", "AESGCM", "SHA256"), statics=(static, key()))
    list(flights(a, b))
    send, _ = a.split()
    for text in (repr(a), repr(send)):
        assert send.secret().hex() not in text
        assert bytes(range(32)).hex() not in text


@pytest.mark.parametrize("pattern", BASE)
@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("ours_first", [True, False])
def test_another_implementation_agrees(pattern: str, cipher: str, ours_first: bool) -> None:
    from noise.connection import Keypair, NoiseConnection

    name = protocol_name(pattern, cipher, "SHA256")
    ours_static, theirs_static = key(), key()
    theirs = NoiseConnection.from_name(name.encode())
    theirs.set_prologue(b"p")
    theirs.set_keypair_from_private_bytes(Keypair.STATIC, theirs_static.private_bytes_raw())
    knows = PATTERNS[pattern].responder_known
    if ours_first:
        theirs.set_as_responder()
    else:
        theirs.set_as_initiator()
        if knows:
            theirs.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, public(ours_static))
    theirs.start_handshake()
    ours = Handshake(
        name,
        initiator=ours_first,
        static=ours_static,
        prologue=b"p",
        remote_static=public(theirs_static) if ours_first and knows else None,
    )
    turn = ours_first
    while not ours.done:
        if turn:
            assert theirs.read_message(ours.write(b"to them")) == b"to them"
        else:
            assert ours.read(bytes(theirs.write_message(b"to us"))) == b"to us"
        turn = not turn
    send, receive = ours.split()
    assert theirs.decrypt(send.encrypt(b"", b"data")) == b"data"
    assert receive.decrypt(b"", bytes(theirs.encrypt(b"back"))) == b"back"
    assert ours.hash == theirs.get_handshake_hash()
