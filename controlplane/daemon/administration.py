"""What people and tools ask of a node, by the role that it takes; on record before it is done."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

from valkyrie.controlplane.broker import messages
from valkyrie.controlplane.broker.messages import Kind, Message
from valkyrie.controlplane.config import reader as configuration
from valkyrie.controlplane.security import policy
from valkyrie.controlplane.security.policy import Role
from valkyrie.controlplane.sessions import tuning
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.application.appsocket import AnyRequest, Reply
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.wire import Class

from . import status

if TYPE_CHECKING:
    from valkyrie.controlplane.sessions.link import Link

    from .appserver import Connection
    from .daemon import Daemon

_NAMES_SIZE_MAX = messages.SIZE_MAX // 2
"""Of names of peers in one message to the broker, in JSON."""
_UPGRADE_S = 30.0
"""An upgrade waits for the old worker and the new one."""
_TUNED_TRY_S = 0.02
_TUNED_TRIES = 25
"""A worker looks every 100 ms."""
_ROTATED_TRIES = 200
"""Longer than a handshake takes that had to be repeated."""

ROLES: dict[type[AnyRequest], Role] = {
    appsocket.Status: Role.READ,
    appsocket.Tune: Role.TUNE,
    appsocket.Upgrade: Role.LOAD,
}
"""What a request takes; the others take Role.ADMINISTER."""


async def answer(daemon: Daemon, connection: Connection, request: AnyRequest) -> Reply:
    """Answer a request that is not an application's; DataPlaneError, ConfigError: it failed."""
    role = ROLES.get(type(request), Role.ADMINISTER)
    who, known = connection.who, daemon.prepared
    owners = (0, os.getuid())
    if role not in policy.roles(known.operators, known.rules, who.uid, who.gids, owners):
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
    return await _do(daemon, request)


async def _do(daemon: Daemon, request: AnyRequest) -> Reply:
    match request:
        case appsocket.Kill() | appsocket.Rotate():
            return await _about_session(daemon, request)
        case appsocket.Tune() if request.session:
            return await _tune_session(daemon, request)
        case appsocket.Tune():
            return Reply(document=await tune(daemon, request.values))
        case appsocket.AddPeer() | appsocket.RemovePeer():
            return await _about_peers(daemon, request)
        case appsocket.Upgrade():
            told = await daemon.broker.ask(Message(Kind.RENEW), _UPGRADE_S)
            return Reply(document={"upgraded": told.text})
    assert isinstance(request, appsocket.Stop)
    await daemon.broker.ask(Message(Kind.STOP))
    return Reply()


async def _about_session(daemon: Daemon, request: appsocket.Kill | appsocket.Rotate) -> Reply:
    if isinstance(request, appsocket.Kill):
        return _kill_session(daemon, request.session)
    return await _rotate_session(daemon, request.session)


async def _about_peers(daemon: Daemon, request: appsocket.AddPeer | appsocket.RemovePeer) -> Reply:
    if isinstance(request, appsocket.RemovePeer):
        return await _remove_peer(daemon, request.peer)
    added = _add_peers(daemon, request.table)
    await daemon.broker.ask(Message(Kind.KNOW, text=json.dumps(added)))
    return Reply(document={"added": added})


async def tune(daemon: Daemon, values: dict[str, int | str]) -> dict[str, object]:
    """Change live keys, one request after the other: the last one has its way everywhere."""
    async with daemon.tuning:
        return await _tune(daemon, values)


async def _tune(daemon: Daemon, values: dict[str, int | str]) -> dict[str, object]:
    before = daemon.config
    now = daemon.config = configuration.tuned(before, values)
    daemon.set_parameters()
    for klass in Class:
        limits = configuration.limits(now, klass)
        if limits != configuration.limits(before, klass):
            await police(daemon, klass)
    await daemon.tokens.demand(now)
    if now.source != before.source:
        await police(daemon, messages.SOURCE)
    live = configuration.live_keys(now)
    original = configuration.live_keys(daemon.inherited.config)
    changed = {key: value for key, value in live.items() if original[key] != value}
    await daemon.broker.ask(Message(Kind.TUNED, text=json.dumps(changed)))
    return dict(live)


def _add_peers(daemon: Daemon, table: str) -> list[str]:
    """Know more peers; ConfigError, and nothing is changed, if the node would not start so."""
    before, credentials = daemon.config, daemon.prepared.credentials
    now = configuration.with_peers(before, table, "the new peer")
    names = [peer.name for peer in now.peers[len(before.peers) :]]
    if len(json.dumps(names)) > _NAMES_SIZE_MAX:
        raise ConfigError("the new peer: there are too many at once: add some of them first")
    credentials.know(now)
    first = len(before.peers)
    daemon.config = now
    daemon.peers.add(now.peers[first:])
    daemon.links.add(now, credentials.peers)
    return names


async def _remove_peer(daemon: Daemon, name: str) -> Reply:
    """Know a peer no more; the reply says whether the worker has let go of it in time."""
    index = next((i for i, peer in enumerate(daemon.config.peers) if peer.name == name), None)
    if index is None or not name:
        return _no_peer(daemon, name)
    # First of all: a next daemon is not to let it in again.
    await daemon.broker.ask(Message(Kind.FORGET, text=name))
    if daemon.config.peers[index].name == name:
        now = configuration.without_peer(daemon.config, index)
        daemon.prepared.credentials.know(now)
        daemon.links.remove(index, now)
        daemon.peers.remove(index, now.peers[index])
        daemon.config = now
    for _ in range(_TUNED_TRIES):
        if daemon.links.has_left(index):
            break
        await asyncio.sleep(_TUNED_TRY_S)
    return Reply(document={"removed": name, "freed": daemon.links.has_left(index)})


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
        return _no_peer(daemon, request.session)
    wanted = tuning.changed(daemon.state.tuning(index), request.values)
    version = daemon.state.set_tuning(index, wanted)
    signals = daemon.counters.signals[index]
    for _ in range(_TUNED_TRIES):
        if signals.live and signals.tuning == version:
            break
        await asyncio.sleep(_TUNED_TRY_S)
    applied = bool(signals.live and signals.tuning == version)
    return Reply(document={**tuning.document(wanted), "version": version, "applied": applied})


def _no_peer(daemon: Daemon, name: str) -> Reply:
    message = f"no session with '{name}'; peers are: {daemon.peers.names()}"
    return Reply(code=lib.VK_CODE_NO_PEER, message=message)


def _no_session(name: str) -> Reply:
    message = f"there is no session with '{name}' now: `valkyrie session list` says why"
    return Reply(code=lib.VK_CODE_UNREACHABLE, message=message)


def _link(daemon: Daemon, index: int) -> Link | None:
    """Return the session that there is with a peer."""
    sessions = daemon.links.sessions
    return sessions.link(index) if index in sessions else None


def _kill_session(daemon: Daemon, name: str) -> Reply:
    index = daemon.peers.find(name)
    if index is None:
        return _no_peer(daemon, name)
    if _link(daemon, index) is None:
        return _no_session(name)
    daemon.links.close(index, lib.VK_CODE_SESSION_CLOSED)
    return Reply(document={"peer": name, "ended": True})


async def _rotate_session(daemon: Daemon, name: str) -> Reply:
    """Make a session anew; the reply says whether the peer took part in it in time."""
    index = daemon.peers.find(name)
    if index is None:
        return _no_peer(daemon, name)
    before = _link(daemon, index)
    if before is None:
        return _no_session(name)
    daemon.links.renew(index)
    for _ in range(_ROTATED_TRIES):
        if _link(daemon, index) is not before:
            break
        await asyncio.sleep(_TUNED_TRY_S)
    link = _link(daemon, index)
    if link is None:
        return _no_session(name)
    document: dict[str, object] = {"peer": name, "rotated": link is not before}
    return Reply(document=document | {"local": f"{link.local:08x}", "remote": f"{link.remote:08x}"})
