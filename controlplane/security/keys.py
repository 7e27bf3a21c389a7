"""From a handshake's secret to the keys of a session's packets, by HKDF-SHA256 and labels.

master -> traffic secret of each direction, epoch 0: the worker goes on from there (vk_aead.h)
       -> exporter -> secrets for other uses, by label
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from enum import IntEnum

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from valkyrie.dataplane import lib

SECRET_SIZE: int = lib.VK_SECRET_SIZE
KEY_SIZE: int = lib.VK_CIPHER_KEY_SIZE
NONCE_SIZE: int = lib.VK_CIPHER_NONCE_SIZE
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


class Schedule:
    """What both sides derive from a finished handshake; the transcript is the salt."""

    __slots__ = ("_exporter", "_master")

    def __init__(self, secret: bytes, transcript: bytes) -> None:
        self._master = extract(transcript, secret)
        self._exporter = expand(self._master, "exporter", b"", SECRET_SIZE)

    def __repr__(self) -> str:
        return "<Schedule>"

    def traffic(self, direction: Direction) -> bytes:
        """Return the secret that a direction's packets begin with, for the key ring."""
        return expand(self._master, "traffic", bytes([direction]), SECRET_SIZE)

    def export(self, label: str, context: bytes, size: int = SECRET_SIZE) -> bytes:
        """Return a secret for another use; it says nothing about the traffic's."""
        digest = hashlib.sha256(context).digest()
        return expand(expand(self._exporter, label, b"", SECRET_SIZE), "exported", digest, size)
