"""The tokens of a running node: keys into the kernel when it is time, and classes that change."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING, Any

from valkyrie.controlplane.config.reader import token_classes
from valkyrie.controlplane.rest import rest
from valkyrie.controlplane.security.token import Issuer, Mint
from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import DataPlaneError
from valkyrie.dataplane.units import NS_PER_S
from valkyrie.dataplane.wire import Class

from . import guarding

if TYPE_CHECKING:
    from valkyrie.controlplane.config.reader import Config
    from valkyrie.controlplane.sessions.table import Sessions

    from .brokerlink import BrokerLink

log = logging.getLogger("valkyrie")

_COOKIES: int = lib.VK_GUARD_COOKIES
_LOOK_S = 0.5
_TOLD_TRY_S, _TOLD_TRIES = 0.02, 50
"""How long peers have to take a token before frames without one are refused."""


def _bits(config: Config) -> int:
    return sum(1 << klass for klass in token_classes(config))


class Tokens:
    """Lets keys and classes be known to the kernel and to the sessions, in an order that loses
    nothing: a key is in the kernel before a token is made by it, and peers have tokens before the
    kernel asks for them.
    """

    def __init__(self, config: Config, rows: Any, broker: BrokerLink, sessions: Sessions) -> None:
        self._broker = broker
        self._sessions = sessions
        self._mint = Mint(rows, os.urandom, config.token.rotate_s * NS_PER_S)
        self.issuer = Issuer(self._mint, _bits(config))
        sessions.issuer = self.issuer

    def describe(self) -> dict[str, object]:
        """Return what status says of tokens."""
        classes = [klass.name.lower() for klass in Class if self.issuer.classes >> klass & 1]
        return {
            "classes": classes,
            "generation": self._mint.generation,
            "cookies": bool(self._cookies),
        }

    async def begin(self) -> None:
        """Have a key, and the kernel ask for cookies: before anybody is given one."""
        await self._turn()
        if not self._mint.ready:
            return  # nobody can have a cookie: the daemon alone asks for its half
        try:
            await self._broker.ask(guarding.demand(self.issuer.classes | self._cookies))
        except DataPlaneError as error:
            log.warning("the kernel does not ask for cookies: %s", error)

    async def run(self) -> None:
        """Replace keys for ever."""
        while True:
            await self._turn()
            await rest(_LOOK_S)

    async def _turn(self) -> None:
        if not self._mint.due(time.monotonic_ns()):
            return
        master = self._mint.following()
        try:
            await self._broker.ask(guarding.enter(master))
        except DataPlaneError as error:
            log.warning("the kernel did not take a new key of tokens: %s", error)
            return
        self._mint.turn(master, time.monotonic_ns())

    async def demand(self, config: Config) -> None:
        """Ask for tokens in the classes that the configuration says now."""
        before, after = self.issuer.classes, _bits(config)
        if before == after:
            return
        if before & after != before:
            await self._broker.ask(guarding.demand(before & after | self._cookies))
        self.issuer.classes = after
        for _ in range(_TOLD_TRIES):
            if not self._sessions.owing(time.monotonic_ns()):
                break
            await asyncio.sleep(_TOLD_TRY_S)
        await self._broker.ask(guarding.demand(after | self._cookies))

    @property
    def _cookies(self) -> int:
        return _COOKIES if self._mint.ready else 0

    async def deny(self, session: int, *, denied: bool = True) -> None:
        """Have the kernel drop all frames of a session that was ended for good, or take it back."""
        try:
            await self._broker.ask(guarding.deny(session, denied=denied))
        except DataPlaneError as error:
            goes_on = "taking" if denied else "dropping"
            log.warning("the kernel goes on %s frames of session %08x: %s", goes_on, session, error)
