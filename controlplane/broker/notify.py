"""Tells the service manager how the node is: the protocol of sd_notify(3)."""

from __future__ import annotations

import contextlib
import socket


def notify(address: str, *assignments: str) -> None:
    """Send ``READY=1`` and the like to NOTIFY_SOCKET's address; an empty address is nobody."""
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.sendto("\n".join(assignments).encode(), name)
