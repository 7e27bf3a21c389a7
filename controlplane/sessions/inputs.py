"""What comes to a session beside messages of its peer: keys of its table of transitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from valkyrie.controlplane.security.errors import SecurityError


class Want:
    """Input: there is something to send, or it is time to try again."""


class Silent:
    """Input: the peer does not answer questions any more."""


@dataclass(frozen=True, slots=True)
class Unproven:
    """Input: the peer has not proven itself anew in time, or not well."""

    failure: SecurityError


class Renew:
    """Input: the session is to be made anew, and goes on until it is."""
