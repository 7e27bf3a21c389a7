"""Cookies: what proves that somebody receives at the address it sends from, at no cost to us.

A cookie is the time slot it was made in and a keyed hash over address, port, incarnation and slot.
Nothing is kept for who asks, so a forged source allocates nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import TYPE_CHECKING

from valkyrie.dataplane.control import COOKIE_SIZE

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

SLOT_NS = 10_000_000_000
"""A cookie is good for the slot it was made in and the next one."""
KEY_SIZE = 32
_SLOT = struct.Struct(">I")
_TAG_SIZE = COOKIE_SIZE - _SLOT.size
_SUBJECT = struct.Struct(">HQ")


class CookieJar:
    """Makes cookies and knows its own again. Time is an argument."""

    def __init__(self, key: bytes, incarnation: int) -> None:
        assert len(key) == KEY_SIZE
        self._key = key
        self._incarnation = incarnation

    def _bake(self, address: IPv4Address | IPv6Address, port: int, slot: int) -> bytes:
        head = _SLOT.pack(slot & 0xFFFF_FFFF)
        subject = _SUBJECT.pack(port, self._incarnation) + address.packed
        tag = hmac.digest(self._key, head + subject, hashlib.sha256)
        return head + tag[:_TAG_SIZE]

    def make(self, address: IPv4Address | IPv6Address, port: int, now_ns: int) -> bytes:
        """Return the cookie for an address at this time."""
        return self._bake(address, port, now_ns // SLOT_NS)

    def good(
        self, cookie: bytes, address: IPv4Address | IPv6Address, port: int, now_ns: int
    ) -> bool:
        """Say whether the cookie was made here, for this address and not long ago."""
        if len(cookie) != COOKIE_SIZE:
            return False
        now = now_ns // SLOT_NS
        for slot in (now, now - 1):
            if _SLOT.pack(slot & 0xFFFF_FFFF) == cookie[: _SLOT.size]:
                return hmac.compare_digest(self._bake(address, port, slot), cookie)
        return False
