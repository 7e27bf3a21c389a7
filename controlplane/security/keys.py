"""From a handshake's secret to the keys of a session's packets, by HKDF-SHA256 and labels.

    master -> traffic secret of each direction, epoch 0 -> epoch 1 -> ...   (one way only)
                  each -> key and nonce mask
           -> exporter -> secrets for other uses, by label

Who finds an epoch's secret out can compute later epochs, never earlier ones; a new handshake heals.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from valkyrie.dataplane import lib

SECRET_SIZE: int = lib.VK_SECRET_SIZE
KEY_SIZE: int = lib.VK_CIPHER_KEY_SIZE
NONCE_SIZE: int = lib.VK_CIPHER_NONCE_SIZE
EPOCHS: int = lib.VK_EPOCHS
"""The epoch is 8 bits on the wire and never wraps: a session ends before."""
_LABEL = struct.Struct(">HBB")


class Direction(IntEnum):
    """Which way a packet goes."""

    THERE = 0
    """From the initiator to the responder."""
    BACK = 1


def extract(salt: bytes, material: bytes) -> bytes:
    """HKDF-Extract (RFC 5869, section 2.2)."""
    return hmac.digest(salt, material, "sha256")


def expand(secret: bytes, label: str, context: bytes, size: int) -> bytes:
    """HKDF-Expand with size, label and context as its information, none mistaken for another."""
    name = b"valkyrie 1 " + label.encode()
    assert len(name) < 256
    assert len(context) < 256
    info = _LABEL.pack(size, len(name), len(context)) + name + context
    return HKDFExpand(SHA256(), size, info).derive(secret)


@dataclass(frozen=True, slots=True, repr=False)
class PacketKeys:
    """What the worker seals or opens one epoch of one direction with."""

    epoch: int
    key: bytes
    nonce_mask: bytes
    """XORed with the packet number, as in TLS 1.3 (RFC 8446, section 5.3)."""

    def __repr__(self) -> str:
        return f"<PacketKeys epoch={self.epoch}>"


class Ratchet:
    """The secrets of one direction, epoch by epoch; what has passed cannot be had again."""

    __slots__ = ("_secret", "epoch")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.epoch = 0

    def __repr__(self) -> str:
        return f"<Ratchet epoch={self.epoch}>"

    def keys(self) -> PacketKeys:
        """Return the keys of this epoch."""
        return PacketKeys(
            self.epoch,
            expand(self._secret, "key", b"", KEY_SIZE),
            expand(self._secret, "nonce", b"", NONCE_SIZE),
        )

    @property
    def spent(self) -> bool:
        """Whether this is the last epoch: make a new session."""
        return self.epoch == EPOCHS - 1

    def advance(self) -> PacketKeys:
        """Go to the next epoch, forget this one, and return the new keys."""
        assert not self.spent
        self._secret = expand(self._secret, "epoch", b"", SECRET_SIZE)
        self.epoch += 1
        return self.keys()


class Schedule:
    """What both sides derive from a finished handshake; the transcript is the salt."""

    __slots__ = ("_exporter", "_master")

    def __init__(self, secret: bytes, transcript: bytes) -> None:
        self._master = extract(transcript, secret)
        self._exporter = expand(self._master, "exporter", b"", SECRET_SIZE)

    def __repr__(self) -> str:
        return "<Schedule>"

    def ratchet(self, direction: Direction) -> Ratchet:
        """Return a direction's secrets, at epoch 0."""
        return Ratchet(self.traffic(direction))

    def traffic(self, direction: Direction) -> bytes:
        """Return the secret that a direction's packets begin with, for the key ring."""
        return expand(self._master, "traffic", bytes([direction]), SECRET_SIZE)

    def export(self, label: str, context: bytes, size: int = SECRET_SIZE) -> bytes:
        """Return a secret for another use; it says nothing about the traffic's."""
        digest = hashlib.sha256(context).digest()
        return expand(expand(self._exporter, label, b"", SECRET_SIZE), "exported", digest, size)
