"""The addresses that intrusion rules block: in the kernel, while the alarm lasts, and no longer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import DataPlaneError
from valkyrie.dataplane.guard import tick
from valkyrie.dataplane.units import NS_PER_S
from valkyrie.dataplane.wire import Code

from . import guarding

if TYPE_CHECKING:
    from valkyrie.controlplane.config.settings_intrusion import Intrusion
    from valkyrie.dataplane.guard import Address

    from .daemon import Daemon

log = logging.getLogger("valkyrie")

_SPARE_S = 3
"""The kernel ends a block so long after it should have been renewed: more than two ticks."""


@dataclass(slots=True)
class _Block:
    address: Address
    due_ns: int
    """When the kernel has to be told again."""


class Blocks:
    """What is blocked now, by rule and peer. Only an address that its peer has proven: who forges
    one could have somebody else shut out.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._rows: dict[tuple[str, str], _Block] = {}

    def __contains__(self, peer: str) -> bool:
        return any(name == peer for _, name in self._rows)

    async def begin(self, rule: Intrusion, peer: str, now_ns: int) -> None:
        """End the session with a peer, and have its address dropped."""
        index = self._daemon.peers.find(peer)
        sessions = self._daemon.links.sessions
        place = sessions.proven(index) if index is not None and index in sessions else None
        if index is None or place is None:
            why = "it has not proven that it is where the configuration has it"
            log.warning("peer '%s' is not blocked: %s", peer, why)
            return
        self._rows[rule.name, peer] = row = _Block(place.address, 0)
        self._daemon.links.close(index, Code.POLICY)  # it is told, while it can be
        await self._renew(rule, row, now_ns)

    async def renew(self, rules: list[Intrusion], now_ns: int) -> None:
        """Tell the kernel again what still is to be blocked."""
        by_name = {rule.name: rule for rule in rules}
        for (name, _), row in list(self._rows.items()):
            if now_ns >= row.due_ns:
                await self._renew(by_name[name], row, now_ns)

    async def end(self, rule: Intrusion, peer: str) -> None:
        """Let a peer's address in again, unless another rule blocks it too."""
        row = self._rows.pop((rule.name, peer), None)
        if row is None or any(each.address == row.address for each in self._rows.values()):
            return
        try:
            await self._daemon.broker.ask(guarding.unblock(row.address))
        except DataPlaneError as error:
            log.warning("%s stays blocked for a while: %s", row.address, error.args[-1])

    async def _renew(self, rule: Intrusion, row: _Block, now_ns: int) -> None:
        row.due_ns = now_ns + rule.hold_s * NS_PER_S
        until = tick(row.due_ns + _SPARE_S * NS_PER_S)
        try:
            await self._daemon.broker.ask(guarding.block(row.address, until))
        except DataPlaneError as error:
            row.due_ns = now_ns
            log.warning("%s could not be blocked: %s", row.address, error.args[-1])
