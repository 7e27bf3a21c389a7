"""Keys of sessions in C: against `cryptography`, Python's schedule, and a model of two peers."""

from __future__ import annotations

import os
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.native import library
from tests.dataplane.ratchet import Ratchet
from valkyrie.controlplane.security.modes import Cipher
from valkyrie.dataplane.units import NS_PER_S

ffi, lib = library("vk_keyring.h", "vk_keyring.c", "vk_aead.c")

SECRETS = bytes(range(32)), bytes(range(32, 64))
ORACLES: dict[Cipher, Any] = {
    Cipher.AES_256_GCM: AESGCM,
    Cipher.CHACHA20_POLY1305: ChaCha20Poly1305,
}
HEAD = b"header and extensions, in the clear."
SPACES = 3


def row_of(seals: bytes, opens: bytes) -> Any:
    row = ffi.new("struct vk_keys *", {"session": 1})
    ffi.memmove(row.seal.secrets[0].bytes, seals, 32)
    ffi.memmove(row.open.secrets[0].bytes, opens, 32)
    return row


class Peer:
    """One side: a ring, its packet numbers, and what was acknowledged."""

    def __init__(self, seals: bytes, opens: bytes, cipher: Cipher = Cipher.AES_256_GCM) -> None:
        self.cipher = cipher
        self.row = row_of(seals, opens)
        self.numbers = ffi.new("uint64_t[4]")
        self.acked = [0] * SPACES
        self.ring = ffi.NULL
        self.restart()

    def restart(self) -> None:
        """Take the row up again, as the worker does that follows one which died."""
        if self.ring != ffi.NULL:
            lib.vk_keyring_free(self.ring)
        self.ring = ffi.new("struct vk_keyring *")
        assert lib.vk_keyring_init(self.ring, self.cipher, self.row, self.numbers) == 0
        self.acked = [0] * SPACES

    def ready(self, now_ns: int, *, packets: int = 1 << 26) -> int:
        rotation = ffi.new(
            "struct vk_rotation *",
            {
                "rotate_ns": 120 * NS_PER_S,
                "packets_max": packets,
                "next": self.numbers,
                "acked": self.acked,
            },
        )
        return int(lib.vk_keyring_ready(self.ring, rotation, now_ns))

    def seal(self, payload: bytes, space: int = 1) -> tuple[int, int, int, bytes]:
        """Return epoch, space, number and the frame."""
        number = self.numbers[space]
        self.numbers[space] += 1
        frame = ffi.from_buffer("uint8_t[]", bytearray(HEAD + payload + bytes(16)))
        size = len(payload)
        assert (
            lib.vk_keyring_seal(self.ring, space, number, frame, len(HEAD), frame + len(HEAD), size)
            == 0
        )
        return self.ring.sealing, space, number, bytes(frame)

    def open(self, epoch: int, space: int, number: int, frame: bytes) -> bytes | int:
        """Return the payload, or -errno."""
        size = len(frame) - len(HEAD) - 16
        into = ffi.new("uint8_t[]", max(size, 1))
        data = ffi.from_buffer("uint8_t[]", frame)
        error = lib.vk_keyring_open(self.ring, epoch, space, number, data, len(HEAD), size, into)
        return int(error) if error else bytes(ffi.buffer(into, size))


def pair(cipher: Cipher = Cipher.AES_256_GCM) -> tuple[Peer, Peer]:
    return Peer(*SECRETS, cipher), Peer(*SECRETS[::-1], cipher)


def oracle(cipher: Cipher, ratchet: Ratchet, space: int, number: int, payload: bytes) -> bytes:
    nonce = int.from_bytes(ratchet.nonce_mask, "big") ^ (space << 64 | number)
    sealed = ORACLES[cipher](ratchet.key).encrypt(nonce.to_bytes(12, "big"), payload, HEAD)
    return HEAD + bytes(sealed)


@pytest.mark.parametrize("cipher", Cipher)
@given(
    payload=st.binary(max_size=3000),
    space=st.integers(0, 2),
    number=st.integers(0, 2**62 - 1),
    epoch=st.integers(0, 5),
)
@settings(deadline=None, max_examples=100)
def test_frames_are_what_python_makes_of_the_same_secret(
    cipher: Cipher, payload: bytes, space: int, number: int, epoch: int
) -> None:
    left, right = pair(cipher)
    ratchet = Ratchet(SECRETS[0])
    for _ in range(epoch):
        left.acked = [1 << 63] * SPACES
        assert left.ready(0, packets=0) == 0
        ratchet.advance()
        assert right.open(*left.seal(b"")) == b""
    left.numbers[space] = number
    frame = left.seal(payload, space)
    assert frame == (epoch, space, number, oracle(cipher, ratchet, space, number, payload))
    assert right.open(*frame) == payload


@pytest.mark.parametrize("cipher", Cipher)
@given(bit=st.integers(0, (len(HEAD) + 100 + 16) * 8 - 1))
@settings(deadline=None, max_examples=100)
def test_a_bit_that_changed_is_noticed(cipher: Cipher, bit: int) -> None:
    left, right = pair(cipher)
    epoch, space, number, frame = left.seal(bytes(100))
    changed = bytearray(frame)
    changed[bit // 8] ^= 1 << bit % 8
    assert right.open(epoch, space, number, bytes(changed)) == -74  # EBADMSG
    assert right.open(epoch, space, number + 1, frame) == -74
    assert right.open(epoch, (space + 1) % 3, number, frame) == -74
    assert right.open(epoch + 1, space, number, frame) == -74
    assert right.open(epoch + 2, space, number, frame) == -126  # ENOKEY
    assert left.open(epoch, space, number, frame) == -74, "reflected"
    assert right.open(epoch, space, number, frame) == bytes(100)


def test_an_epoch_ends_by_time_or_packets_once_the_peer_has_seen_it() -> None:
    left, _ = pair()
    assert left.ready(1) == 0
    left.seal(b"")
    assert left.ready(120 * NS_PER_S + 1) == 0
    assert left.ring.sealing == 0, "nothing of it was acknowledged"
    left.acked = [0, 1, 0]
    assert left.ready(120 * NS_PER_S + 1) == 0
    assert left.ring.sealing == 1
    left.seal(b"")
    assert left.ready(121 * NS_PER_S, packets=1) == 0
    assert left.ring.sealing == 1, "what was acknowledged was of the epoch before"
    left.acked = [0, 2, 0]
    assert left.ready(121 * NS_PER_S, packets=1) == 0
    assert left.ring.sealing == 2


def test_a_key_that_is_too_old_seals_nothing() -> None:
    left, _ = pair()
    assert left.ready(1) == 0
    left.seal(b"")
    assert left.ready(180 * NS_PER_S) == 0
    assert left.ready(180 * NS_PER_S + 1) == -127  # EKEYEXPIRED
    left.acked = [0, 1, 0]
    assert left.ready(180 * NS_PER_S + 1) == 0, "an answer came after all"


def test_time_without_a_frame_does_not_count() -> None:
    left, _ = pair()
    assert left.ready(1_000 * NS_PER_S) == 0
    assert left.ring.sealing == 0


def test_the_last_epoch_seals_until_it_is_too_old() -> None:
    left, right = pair()
    for _ in range(255):
        left.acked = [1 << 63] * SPACES
        assert left.ready(5, packets=0) == 0
        assert right.open(*left.seal(b"x")) == b"x"
    assert left.ring.sealing == right.ring.opening == 255
    assert left.ready(5, packets=0) == -127


def test_a_secret_that_has_passed_is_nowhere() -> None:
    left, right = pair()
    left.acked = [1 << 63] * SPACES
    left.ready(1, packets=0)
    assert right.open(*left.seal(b"x")) == b"x"
    for row in (left.row, right.row):
        assert SECRETS[0] not in bytes(ffi.buffer(row))


def test_without_a_session_nothing_is_sealed() -> None:
    ring = ffi.new("struct vk_keyring *")
    numbers = ffi.new("uint64_t[4]")
    assert lib.vk_keyring_init(ring, 7, row_of(*SECRETS), numbers) < 0, "no such cipher"
    rotation = ffi.new("struct vk_rotation *", {"next": numbers})
    assert lib.vk_keyring_ready(ring, rotation, 1) == -127
    assert ring.cipher == 7, "and nothing goes in the clear instead"


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=40)
def test_rotations_lose_nothing_whatever_comes_late_or_dies(seed: int) -> None:
    import random

    dice = random.Random(seed)
    peers = pair(dice.choice(list(Cipher)))
    wire: list[tuple[int, tuple[int, int, int, bytes], bytes]] = []
    now_ns, rotations = 1, 0
    for _ in range(500):
        now_ns += dice.randrange(NS_PER_S)
        side = dice.randrange(2)
        sender = peers[side]
        before = sender.ring.sealing
        if sender.ready(now_ns, packets=dice.randrange(1, 10)) != 0:
            assert sender.ring.sealing == 255
            break
        rotations += sender.ring.sealing - before
        if sender.ring.sealing != before:
            # Frames of two epochs ago are what a network has no time for.
            wire = [each for each in wire if each[0] != side or each[1][0] + 1 >= before + 1]
        payload = os.urandom(dice.randrange(50))
        wire.append((side, sender.seal(payload, dice.randrange(3)), payload))
        while wire and dice.random() < 0.6:
            origin, frame, payload = wire.pop(dice.randrange(len(wire)))
            receiver = peers[1 - origin]
            if (
                frame[0] + 1 == receiver.ring.opening
                and not receiver.ring.there >> frame[0] % 3 & 1
            ):
                continue  # died since: the key of the epoch before is gone
            assert receiver.open(*frame) == payload
            space, number = frame[1:3]
            acked = peers[origin].acked
            acked[space] = max(acked[space], number + 1)
        if dice.random() < 0.05:
            peers[dice.randrange(2)].restart()
    assert rotations > 5


def test_ten_thousand_rotations_lose_nothing() -> None:
    rotations = 0
    while rotations < 10_000:
        left, right = pair()
        while left.ring.sealing < 255:
            for sender, receiver in ((left, right), (right, left)):
                frame = sender.seal(b"payload")
                sender.ready(1, packets=1)
                late = sender.seal(b"behind")
                assert receiver.open(*late) == b"behind"
                assert receiver.open(*frame) == b"payload"
                sender.acked[1] = late[2] + 1
            rotations += 2
    assert rotations >= 10_000
