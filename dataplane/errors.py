"""What can go wrong, by who has to act."""

from __future__ import annotations

import os


class ValkyrieError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(ValkyrieError):
    """The configuration or policy is wrong; the message names the place and what to write."""


class DataPlaneError(ValkyrieError, OSError):
    """The kernel refused an operation; ``errno`` says why, the message what to do next."""

    @classmethod
    def of(cls, errno: int, what: str, hint: str = "") -> DataPlaneError:
        """Return the error of a failed operation from an errno (either sign)."""
        number = abs(errno)
        message = f"{what}: {os.strerror(number)}"
        return cls(number, f"{message}. {hint}" if hint else message)


class ProtocolError(ValkyrieError):
    """A frame, record or request broke the protocol."""


class LocalProtocolError(ProtocolError):
    """This side broke it: the caller asked for something the protocol forbids."""


class RemoteProtocolError(ProtocolError):
    """The other side broke it."""
