"""What the kernel's programs ask of frames before anything is spent on them.

Tokens where a class wants them, cookies in what follows a HELLO, and no frame of a session that was
ended or of an address that is blocked. ``Guard`` writes the maps of a program and needs the right
to; ``Master`` makes the tags and needs none.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import ffi, lib
from .wire import Layout, Token, halves

if TYPE_CHECKING:
    from collections.abc import Collection

    from .loader import Program
    from .wire import Class

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

KEY_SIZE = 16
_MAC = Layout("vk_mac")
_COOKIE, _COOKIE_MAC = Layout("vk_cookie"), Layout("vk_cookie_mac")
_DENIED_KEY_SIZE = 4


def tick(now_ns: int) -> int:
    """Return the tick of CLOCK_MONOTONIC that expiries count in."""
    return now_ns >> int(lib.VK_TICK_SHIFT)


def mapped(address: Address) -> bytes:
    """Return an address as tags and source policers have it: IPv4 mapped into IPv6."""
    prefix = bytes(10) + b"\xff\xff" if address.version == 4 else b""
    return prefix + address.packed


@dataclass(frozen=True, slots=True, repr=False)
class Master:
    """A key of tokens and cookies, and its generation."""

    generation: int
    key: bytes

    def _row(self) -> Any:
        assert len(self.key) == KEY_SIZE
        halves = [int.from_bytes(self.key[at : at + 8], "little") for at in (0, 8)]
        values = {"key": halves, "generation": self.generation, "valid": 1}
        return ffi.new("struct vk_master *", values)

    def token(self, session: int, expiry: int, address: Address) -> Token:
        """Return the token that lets frames of a session in from an address until a tick."""
        generation = self.generation & 0xFFFF
        values = {
            "address": mapped(address),
            "subject": session,
            "expiry": expiry,
            "generation": generation,
            "purpose": lib.VK_MAC_TOKEN,
        }
        mac = ffi.from_buffer("struct vk_mac *", _MAC.pack(values))
        return Token(generation, expiry, lib.vk_mac_of(self._row(), mac))

    def cookie(self, attempt: int, expiry: int, address: Address, port: int) -> bytes:
        """Return the cookie of a handshake from an address and port until a tick."""
        generation = self.generation & 0xFFFF
        values = {
            "address": mapped(address),
            **halves("attempt", attempt),
            "expiry": expiry,
            "generation": generation,
            "port": port,
            "purpose": lib.VK_MAC_COOKIE,
            "pad": 0,
        }
        mac = ffi.from_buffer("struct vk_cookie_mac *", _COOKIE_MAC.pack(values))
        tag = halves("tag", lib.vk_cookie_of(self._row(), mac))
        return _COOKIE.pack({"expiry": expiry, "generation": generation, "pad": 0, **tag})

    def write(self, guard: Any) -> None:
        """Enter the key into a ``struct vk_guard``, in place of the one two generations older.

        That one's tokens are refused from here on; nobody has one of this generation yet.
        """
        target = guard.masters[self.generation % lib.VK_MASTERS]
        row = self._row()
        target.valid = 0
        target.generation, target.key = row.generation, row.key
        target.valid = 1


class Guard:
    """The checks of one program; its only writer."""

    def __init__(self, program: Program) -> None:
        self._denied: OrderedDict[int, None] = OrderedDict()
        self._blocked: OrderedDict[bytes, int] = OrderedDict()
        """Until which tick, by the address as the map has it."""
        self.renew(program)

    def renew(self, program: Program) -> None:
        """Go on with a program that was loaded on the same maps."""
        self._guard, self._map = program.maps["vk_guard"], program.maps["vk_denied"]
        self._sources = program.maps["vk_blocked"]

    def _check(self, mask: int, wanted: int) -> None:
        with self._guard.map_memory() as memory:
            row = ffi.from_buffer("struct vk_guard *", memory)
            row.checks = row.checks & ~mask | wanted
            ffi.release(row)

    def demand(self, classes: Collection[Class]) -> None:
        """Take frames of these classes only with a token, and of all others without one.

        Of control: frames of handshakes only with the cookie that a HELLO was answered with.
        """
        self._check(lib.VK_GUARD_TOKENS, sum(1 << klass for klass in classes))

    def enter(self, master: Master) -> None:
        """Enter a new generation's key."""
        with self._guard.map_memory() as memory:
            row = ffi.from_buffer("struct vk_guard *", memory)
            master.write(row)
            ffi.release(row)

    def deny(self, session: int) -> None:
        """Drop all frames of a session from now on; the oldest denial makes room for a new one."""
        self._denied.pop(session, None)
        if len(self._denied) == lib.VK_DENIED_MAX:
            oldest, _ = self._denied.popitem(last=False)
            self._map.delete(oldest.to_bytes(_DENIED_KEY_SIZE, "big"))
        self._denied[session] = None
        self._map.update(session.to_bytes(_DENIED_KEY_SIZE, "big"), 0)
        self._check(lib.VK_GUARD_DENIED, lib.VK_GUARD_DENIED)

    def allow(self, session: int) -> None:
        """Take a denial back: the id is another session's now."""
        if session not in self._denied:
            return
        del self._denied[session]
        self._map.delete(session.to_bytes(_DENIED_KEY_SIZE, "big"))
        if not self._denied:
            self._check(lib.VK_GUARD_DENIED, 0)

    def block(self, address: Address, until: int, now: int) -> None:
        """Drop all frames from an address until a tick; the oldest block makes room for a new one.

        ``now``: the tick it is. What is over is forgotten.
        """
        for each in [each for each, end in self._blocked.items() if end <= now]:
            self._unblock(each)
        key = mapped(address)
        self._blocked.pop(key, None)
        if len(self._blocked) == lib.VK_BLOCKED_MAX:
            self._unblock(next(iter(self._blocked)))
        self._blocked[key] = until
        self._sources.update(key, until)
        self._check(lib.VK_GUARD_BLOCKED, lib.VK_GUARD_BLOCKED)

    def unblock(self, address: Address) -> None:
        """Let an address in again before its time."""
        if mapped(address) in self._blocked:
            self._unblock(mapped(address))

    def _unblock(self, key: bytes) -> None:
        del self._blocked[key]
        self._sources.delete(key)
        if not self._blocked:
            self._check(lib.VK_GUARD_BLOCKED, 0)
