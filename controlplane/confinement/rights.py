"""Descriptors that an application puts beside its requests (SCM_RIGHTS): nobody here wants them.

To close the last descriptor of a file takes as long as its owner likes (a TCP socket that lingers:
until its peer has read everything). The kernel closes what was sent in the context of whoever drops
it: who receives it, with or without room for it, and who closes the socket in whose queue it lies.
A process that exits does not linger. Since Linux 6.16 a socket can refuse descriptors, and then
their sender gets EPERM; on older kernels requests are looked at before they are received, and
connections closed by threads that may be held up.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

_SO_PASSRIGHTS = 83  # Linux 6.16, asm-generic/socket.h
CLOSER = "closing"
"""Name of the threads that close."""


def refuse(listener: socket.socket) -> None:
    """Let no descriptors be sent to the connections of a listener, where the kernel can."""
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


def refused(end: socket.socket) -> bool:
    """Say whether nothing with descriptors can lie in a socket's queue."""
    try:
        return end.getsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS) == 0
    except OSError:
        return False


def waiting(end: socket.socket) -> bool:
    """Say whether the next packet has descriptors; BlockingIOError when none is there."""
    _, _, flags, _ = end.recvmsg(1, 0, socket.MSG_PEEK)
    return bool(flags & socket.MSG_CTRUNC)


def close(end: socket.socket, closed: Callable[[], object]) -> None:
    """Close a socket whatever lies in its queue, holding nobody up; then call ``closed``, in a
    thread if it may take long.

    Without memory for a thread the socket stays open.
    """
    if refused(end):
        end.close()
        closed()
        return

    def work() -> None:
        end.close()
        closed()

    try:
        threading.Thread(target=work, name=CLOSER, daemon=True).start()
    except RuntimeError:
        end.detach()


def leave(end: socket.socket) -> None:
    """Close a socket, or leave that to the end of the process where it could hold us up."""
    if refused(end):
        end.close()
    else:
        end.detach()
