"""Cookies: the asking side proves that it receives where it sends from, before anything is kept.

A cookie is the time slot it was made in and a keyed hash over slot, source and what was said; it is
good in its slot and the next. Nothing is kept for who asks.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from valkyrie.dataplane import lib

SIZE: int = lib.VK_COOKIE_SIZE
SLOT_NS = 10_000_000_000
KEY_SIZE = 32
_SLOT = struct.Struct(">I")


class CookieJar:
    """Makes cookies and knows its own again."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_SIZE
        self._key = key

    def _bake(self, slot: int, source: bytes, said: bytes) -> bytes:
        head = _SLOT.pack(slot & 0xFFFF_FFFF)
        subject = head + bytes([len(source)]) + source + said
        return head + hmac.digest(self._key, subject, hashlib.sha256)[: SIZE - _SLOT.size]

    def make(self, source: bytes, said: bytes, now_ns: int) -> bytes:
        """Return the cookie for a source and what was said, at this time."""
        return self._bake(now_ns // SLOT_NS, source, said)

    def good(self, cookie: bytes, source: bytes, said: bytes, now_ns: int) -> bool:
        """Say whether the cookie was made here, for just this, and not long ago."""
        if len(cookie) != SIZE:
            return False
        now = now_ns // SLOT_NS
        for slot in (now, now - 1):
            if _SLOT.pack(slot & 0xFFFF_FFFF) == cookie[: _SLOT.size]:
                return hmac.compare_digest(self._bake(slot, source, said), cookie)
        return False
