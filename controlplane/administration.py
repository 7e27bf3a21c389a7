"""What people and tools ask of a node, by the role that it takes; on record before it is done."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

from valkyrie.dataplane import appsocket, lib
from valkyrie.dataplane.appsocket import AnyRequest, Reply
from valkyrie.dataplane.wire import Class

from . import config as configuration
from . import messages, policy, status, tuning
from .messages import Kind, Message
from .policy import Role

if TYPE_CHECKING:
    from .appserver import Connection
    from .daemon import Daemon

_UPGRADE_S = 30.0
"""An upgrade waits for the old worker and the new one."""
_TUNED_TRY_S = 0.02
_TUNED_TRIES = 25
"""A worker looks every 100 ms."""

ROLES: dict[type[AnyRequest], Role] = {
    appsocket.Status: Role.READ,
    appsocket.Tune: Role.TUNE,
    appsocket.Upgrade: Role.LOAD,
}
"""What a request takes; the others take Role.ADMINISTER."""


async def answer(daemon: Daemon, connection: Connection, request: AnyRequest) -> Reply:
    """Answer a request that is not an application's; DataPlaneError, ConfigError: it failed."""
    role = ROLES.get(type(request), Role.ADMINISTER)
    who = connection.who
    owners = (0, os.getuid())
    if role not in policy.roles(daemon.operators, daemon.rules, who.uid, who.gids, owners):
        message = (
            f"only root, '{daemon.config.node.user}' and [[operator]] rules with the role"
            f" '{role.value}' may do that"
        )
        return Reply(code=lib.VK_CODE_POLICY, message=message)
    if isinstance(request, appsocket.Status):
        return Reply(document=await status.document(daemon))
    daemon.audit.require(
        f"admin.{type(request).__name__.lower()}",
        uid=who.uid,
        pid=who.pid,
        asked=appsocket.encode(request).decode(),
    )
    match request:
        case appsocket.Tune() if request.session:
            return await _tune_session(daemon, request)
        case appsocket.Tune():
            return Reply(document=await _tune(daemon, request.values))
        case appsocket.Upgrade():
            told = await daemon.broker.ask(Message(Kind.RENEW), _UPGRADE_S)
            return Reply(document={"upgraded": told.text})
        case appsocket.Stop():
            await daemon.broker.ask(Message(Kind.STOP))
            return Reply()
    raise AssertionError(request)


async def _tune(daemon: Daemon, values: dict[str, int | str]) -> dict[str, object]:
    before = daemon.config
    now = daemon.config = configuration.tuned(before, values)
    daemon.set_parameters()
    for klass in Class:
        limits = configuration.limits(now, klass)
        if limits != configuration.limits(before, klass):
            await police(daemon, klass)
    if now.source != before.source:
        await police(daemon, messages.SOURCE)
    live = configuration.live_keys(now)
    original = configuration.live_keys(daemon.inherited.config)
    changed = {key: value for key, value in live.items() if original[key] != value}
    await daemon.broker.ask(Message(Kind.TUNED, text=json.dumps(changed)))
    return dict(live)


async def police(daemon: Daemon, which: int) -> None:
    """Set the rate that the kernel lets a class in at, or every source (messages.SOURCE).

    It is the configuration's, or what an alarm demands.
    """
    rate, burst = daemon.watch.rates(which)
    await daemon.broker.ask(Message(Kind.POLICE, slot=which, first=rate, second=burst))


async def _tune_session(daemon: Daemon, request: appsocket.Tune) -> Reply:
    """Tune the session with a peer; the reply says whether the worker has taken it."""
    index = daemon.peers.find(request.session)
    if index is None:
        known = ", ".join(peer.name for peer in daemon.config.peers[:16]) or "none"
        message = f"no session with '{request.session}'; peers are: {known}"
        return Reply(code=lib.VK_CODE_NO_PEER, message=message)
    wanted = tuning.changed(daemon.state.tuning(index), request.values)
    version = daemon.state.set_tuning(index, wanted)
    signals = daemon.counters.signals[index]
    for _ in range(_TUNED_TRIES):
        if signals.live and signals.tuning == version:
            break
        await asyncio.sleep(_TUNED_TRY_S)
    applied = bool(signals.live and signals.tuning == version)
    return Reply(document={**tuning.document(wanted), "version": version, "applied": applied})
