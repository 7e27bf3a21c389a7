"""SipHash-2-4 a third time, from the paper: it must not share a mistake with the header."""

from __future__ import annotations

_WORD = 1 << 64


def _rotate(x: int, bits: int) -> int:
    return (x << bits | x >> (64 - bits)) % _WORD


def _rounds(count: int, v: list[int]) -> None:
    for _ in range(count):
        v[0], v[2] = (v[0] + v[1]) % _WORD, (v[2] + v[3]) % _WORD
        v[1], v[3] = _rotate(v[1], 13) ^ v[0], _rotate(v[3], 16) ^ v[2]
        v[0] = _rotate(v[0], 32)
        v[2], v[0] = (v[2] + v[1]) % _WORD, (v[0] + v[3]) % _WORD
        v[1], v[3] = _rotate(v[1], 17) ^ v[2], _rotate(v[3], 21) ^ v[0]
        v[2] = _rotate(v[2], 32)


def siphash(key: bytes, message: bytes) -> int:
    """Return the SipHash-2-4 of a message (section 2.1 of the paper)."""
    k = [int.from_bytes(key[at : at + 8], "little") for at in (0, 8)]
    text = b"somepseudorandomlygeneratedbytes"
    v = [int.from_bytes(text[at : at + 8], "big") ^ k[at // 8 % 2] for at in range(0, 32, 8)]
    padded = message + bytes(7 - len(message) % 8) + bytes((len(message) % 256,))
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        _rounds(2, v)
        v[0] ^= word
    v[2] ^= 0xFF
    _rounds(4, v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]
