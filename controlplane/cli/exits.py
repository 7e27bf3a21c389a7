"""How ``valkyrie`` ends: exit codes, and which error has which."""

from __future__ import annotations

import contextlib
import errno
from enum import IntEnum
from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import ConfigError, DataPlaneError, ValkyrieError
from valkyrie.shm.errors import CountersError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Exit(IntEnum):
    """Exit codes of every command. They are an interface: scripts rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    DENIED = 4
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "the operation failed",
    Exit.USAGE: "the command line or the configuration is wrong",
    Exit.NOT_RUNNING: "no such node is running",
    Exit.DENIED: "a permission, a capability or the policy's leave is missing",
    Exit.INTERRUPTED: "ended by Ctrl-C",
}


class NotRunningError(ValkyrieError):
    """No node answers."""


@contextlib.contextmanager
def reaching_node() -> Iterator[None]:
    """Turn what the kernel says of a socket or page that is not there into NotRunningError."""
    try:
        yield
    except (DataPlaneError, CountersError) as error:
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            raise NotRunningError(message(error)) from None
        raise


def exit_code(error: BaseException) -> Exit:
    """Return the exit code that an error ends the command with."""
    from valkyrie.dataplane.application.refusal import PolicyError

    if isinstance(error, OSError) and error.errno in (errno.EPERM, errno.EACCES):
        return Exit.DENIED
    by_kind: tuple[tuple[type[BaseException], Exit], ...] = (
        (ConfigError, Exit.USAGE),
        (NotRunningError, Exit.NOT_RUNNING),
        (PolicyError, Exit.DENIED),
        (KeyboardInterrupt, Exit.INTERRUPTED),
    )
    return next((code for kind, code in by_kind if isinstance(error, kind)), Exit.FAILED)


def message(error: BaseException) -> str:
    """Return an error as one line, without Python's ``[Errno n]``."""
    text = str(error)
    if isinstance(error, DataPlaneError):
        text = str(error.args[1]) if len(error.args) > 1 else text
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(text.split()) or type(error).__name__
