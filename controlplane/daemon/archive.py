"""The audit log goes on in the next file: what the broker does of it, and when the daemon asks.

The order of the steps stands in ``security/audit_files.py``.
"""

from __future__ import annotations

import errno
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from valkyrie.controlplane.broker import messages
from valkyrie.controlplane.broker.messages import Kind, Message
from valkyrie.controlplane.security import audit_files
from valkyrie.dataplane.errors import DataPlaneError

from .auditor import log_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from valkyrie.controlplane.config.reader import Config

    from .auditor import Auditor
    from .brokerlink import BrokerLink

log = logging.getLogger("valkyrie")

KINDS = (Kind.AUDIT_NEXT, Kind.AUDIT_MOVE)
RETRY_S = 60.0
"""How soon a log that could not go on is tried again."""


def handler(config: Config) -> Callable[[Message, Message], None]:
    """Return what answers the messages, in the broker."""
    return partial(_answer, config)


def _answer(config: Config, message: Message, answer: Message) -> None:
    path = log_path(config)
    if path is None:
        raise DataPlaneError.of(errno.ENOENT, "move an audit log that is off")
    first, keep = message.first, config.security.audit_keep
    try:
        if message.kind == Kind.AUDIT_NEXT:
            answer.first = audit_files.first_kept(path, first, keep)
            answer.descriptors = [audit_files.make_next(path)]
        else:
            audit_files.give_way(path, first, keep)
    except OSError as error:
        raise DataPlaneError.of(
            error.errno or 0,
            f"{path}: have the audit log go on in the next file",
            "It stays in this one until that works: see what is in its directory",
        ) from error


class Archive:
    """Has the daemon's log go on in the next file when it is due."""

    def __init__(self, config: Config, audit: Auditor, broker: BrokerLink) -> None:
        """Begin with a log that has a place of its own."""
        self._config = config
        self._audit = audit
        self._broker = broker
        self._moving: int | None = None
        self._retry_s = 0.0

    async def look(self) -> None:
        """Do what is due, if anything is."""
        due = self._moving is not None or self._audit.is_due(self._config.security)
        if not due or time.monotonic() < self._retry_s:
            return
        self._retry_s = time.monotonic() + RETRY_S
        try:
            if self._moving is None:
                await self._go_on()
            await self._move()
        except DataPlaneError as error:
            log.warning("%s", error.args[-1])
        else:
            self._retry_s = 0.0

    async def _go_on(self) -> None:
        first = self._audit.first
        answer = await self._broker.ask(Message(Kind.AUDIT_NEXT, first=first))
        try:
            self._audit.go_on(answer.descriptors[0], answer.first)
        except BaseException:
            messages.close_all(answer.descriptors)
            raise
        self._moving = first

    async def _move(self) -> None:
        assert self._moving is not None
        await self._broker.ask(Message(Kind.AUDIT_MOVE, first=self._moving))
        self._moving = None
