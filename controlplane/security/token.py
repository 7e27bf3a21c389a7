"""Tokens: what lets a peer's frames past the kernel's programs, and the keys that make them.

    mint.due(now_ns)                 there is to be a new key: enter mint.following() in the kernel,
    mint.turn(master, now_ns)        and then let it make the tokens from now on
    mint.issue(session, address, now_ns)
    issuer.owed(grant, ...)          a peer is to get another token: issuer.grant(...)

A key makes tokens until the next one comes, and is good until the one after that: so a token whose
life is no longer than the time between keys is good to its end, and no frame is lost when a key is
replaced. The keys lie in memory that outlives the daemon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.guard import KEY_SIZE, Master, tick
from valkyrie.dataplane.wire import ExtKind, Layout, Token, halves, whole

from .cookie import SLOT_NS
from .messages import NO_COOKIE

if TYPE_CHECKING:
    from collections.abc import Callable

    from valkyrie.dataplane.guard import Address

_COOKIE_NS = 2 * SLOT_NS
"""How long the kernel's half of a cookie is good: as long as the other half at most."""
_SHARE_LEFT = 0.5
"""Of a token's life, when the peer gets the next one."""
_GRANT = Layout("vk_grant")
_EVERY = (1 << lib.VK_CLASS_COUNT) - 1
_HEAD = bytes((ExtKind.TOKEN, Token.layout.size // lib.VK_EXT_WORD))


class Mint:
    """Makes tokens by the key that is in use. No I/O: ``rows`` is a ``struct vk_mint``."""

    def __init__(self, rows: Any, entropy: Callable[[int], bytes], rotate_ns: int) -> None:
        self._rows = rows
        self._entropy = entropy
        self._rotate_ns = rotate_ns

    @property
    def generation(self) -> int:
        """Of the key in use; 0 = there is none."""
        return int(self._rows.generation)

    @property
    def ready(self) -> bool:
        """Whether there is a key."""
        return bool(self._rows.generation)

    def due(self, now_ns: int) -> bool:
        """Say whether it is time for another key."""
        return not self.ready or now_ns >= self._rows.since_ns + self._rotate_ns

    def following(self) -> Master:
        """Return a new key of the next generation, which makes no tokens yet."""
        return Master(int(self._rows.generation) + 1, self._entropy(KEY_SIZE))

    def turn(self, master: Master, now_ns: int) -> None:
        """Make tokens by this key; the kernel has it."""
        assert master.generation == self._rows.generation + 1
        # Last: a daemon that dies in between leaves the one before in use.
        slot = self._rows.keys[master.generation % lib.VK_MASTERS]
        ffi.memmove(slot, master.key, KEY_SIZE)
        self._rows.since_ns = now_ns
        self._rows.generation = master.generation

    def issue(self, session: int, address: Address, now_ns: int) -> Token:
        """Return a token for frames of a session from an address; there is a key."""
        expiry = tick(now_ns + self._rotate_ns) + 1  # it lives no shorter
        return self._master().token(session, expiry, address)

    def _master(self) -> Master:
        generation = int(self._rows.generation)
        assert generation, "no key has been made"
        return Master(generation, bytes(ffi.buffer(self._rows.keys[generation % lib.VK_MASTERS])))

    def cookie(self, attempt: int, address: Address, port: int, now_ns: int) -> bytes:
        """Return the cookie for the kernel of a handshake from an address and port."""
        return self._master().cookie(attempt, tick(now_ns + _COOKIE_NS) + 1, address, port)

    def renew_ns(self, now_ns: int) -> int:
        """Return when a token that is issued now is to be replaced."""
        return now_ns + int(self._rotate_ns * _SHARE_LEFT)


@dataclass(frozen=True, slots=True)
class Told:
    """What a peer told us to put on our frames: the body of VK_OPTION_TOKEN."""

    session: int
    """Id on these frames."""
    classes: int
    """Bit enum vk_class; 0: none, the token is of no use."""
    number: int
    """Rises with each that the peer tells us."""
    token: bytes

    def pack(self) -> bytes:
        """Return the option's body."""
        values = {"session": self.session, "classes": self.classes, "token": self.token}
        return _GRANT.pack(values | halves("number", self.number))

    @classmethod
    def parse(cls, body: bytes) -> Told | None:
        """Return what an option's body says; None when there is nothing in it for us."""
        if len(body) != _GRANT.size:
            return None
        values = _GRANT.unpack(body)
        classes, token = values["classes"] & _EVERY, values["token"]
        if classes and token[: len(_HEAD)] != _HEAD:
            return None  # it would make our frames malformed, or something else
        return cls(values["session"], classes, whole(values, "number"), token)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a peer is told, and when again."""

    told: Told
    address: Address
    """What the peer's frames have to come from."""
    renew_ns: int
    """When it is to get another one."""


class Issuer:
    """Says which peer gets a token, and when the next one."""

    def __init__(self, mint: Mint, classes: int) -> None:
        self._mint = mint
        self.classes = classes
        """Whose frames need a token: bit enum vk_class."""

    @property
    def wanted(self) -> int:
        """Whose frames can have a token: bit enum vk_class."""
        return self.classes if self._mint.ready else 0

    def grant(self, session: int, address: Address, now_ns: int) -> Grant:
        """Return what the peer of a session is to be told."""
        if not self.classes or not self._mint.ready:
            return Grant(Told(session, 0, now_ns, bytes(lib.VK_TOKEN_BYTES)), address, now_ns)
        token = self._mint.issue(session, address, now_ns).pack()
        told = Told(session, self.classes, now_ns, token)
        return Grant(told, address, self._mint.renew_ns(now_ns))

    def cookie(self, attempt: int, address: Address, port: int, now_ns: int) -> bytes:
        """Return what a HELLO from an address and port is answered with, for the kernel."""
        if not self._mint.ready:
            return NO_COOKIE
        return self._mint.cookie(attempt, address, port, now_ns)

    def owed(self, had: Grant | None, address: Address, now_ns: int) -> bool:
        """Say whether the peer of a session, who has taken ``had``, is to be told something."""
        if had is None or not had.told.classes:
            return bool(self.wanted)
        return had.told.classes != self.wanted or had.address != address or now_ns >= had.renew_ns
