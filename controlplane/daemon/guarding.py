"""What the daemon has the broker ask of frames in the kernel: rates, tokens, and silence."""

from __future__ import annotations

import errno
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING

from valkyrie.controlplane.broker.messages import SOURCE, Kind, Message
from valkyrie.dataplane.errors import ConfigError, DataPlaneError
from valkyrie.dataplane.guard import Master, tick
from valkyrie.dataplane.units import NS_PER_S
from valkyrie.dataplane.wire import Class

if TYPE_CHECKING:
    from valkyrie.controlplane.host.interfaces import Opened
    from valkyrie.dataplane.guard import Address

KINDS = (Kind.POLICE, Kind.DEMAND, Kind.MASTER, Kind.DENY, Kind.BLOCK)
_SESSION_MAX = 0xFFFFFFFF
BLOCK_S_MAX = 86_400
"""No address is blocked for longer, whatever a daemon asks."""


def demand(classes: int) -> Message:
    """Return the message that lets frames of these classes (a bit each) in by token only."""
    return Message(Kind.DEMAND, first=classes)


def enter(master: Master) -> Message:
    """Return the message that enters a key of tokens."""
    first, second = (int.from_bytes(master.key[at : at + 8], "little") for at in (0, 8))
    return Message(Kind.MASTER, generation=master.generation, first=first, second=second)


def deny(session: int, *, denied: bool = True) -> Message:
    """Return the message that has a session's frames dropped, or taken again."""
    return Message(Kind.DENY, slot=denied, first=session)


def block(address: Address, until: int) -> Message:
    """Return the message that has all frames from an address dropped until a tick."""
    return Message(Kind.BLOCK, slot=1, first=until, text=str(address))


def unblock(address: Address) -> Message:
    """Return the message that takes a block back."""
    return Message(Kind.BLOCK, text=str(address))


def apply(message: Message, interface: Opened) -> None:
    """Do what a message says on one interface."""
    guard = interface.guard
    if message.kind == Kind.POLICE:
        _police(message, interface)
    elif message.kind == Kind.DEMAND:
        guard.demand([klass for klass in Class if message.first >> klass & 1])
    elif message.kind == Kind.MASTER:
        halves = (message.first, message.second)
        key = b"".join(half.to_bytes(8, "little") for half in halves)
        guard.enter(Master(message.generation, key))
    elif message.kind == Kind.BLOCK:
        _block(message, interface)
    elif message.slot:
        guard.deny(message.first & _SESSION_MAX)
    else:
        guard.allow(message.first & _SESSION_MAX)


def _block(message: Message, interface: Opened) -> None:
    try:
        address = ip_address(message.text)
    except ValueError as error:
        raise DataPlaneError.of(errno.EINVAL, f"block a source: {error}") from error
    if message.slot:
        now_ns = time.monotonic_ns()
        until = min(message.first, tick(now_ns + BLOCK_S_MAX * NS_PER_S))
        interface.guard.block(address, until, tick(now_ns))
    else:
        interface.guard.unblock(address)


def _police(message: Message, interface: Opened) -> None:
    try:
        if message.slot == SOURCE:
            interface.program.set_source_police(message.first, message.second)
        else:
            interface.police(Class(message.slot), message.first, message.second)
    except (ConfigError, ValueError) as error:
        raise DataPlaneError.of(errno.EINVAL, f"set a rate: {error}") from error
