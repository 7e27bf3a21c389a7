"""Why a handshake failed: numbers of the 2xx (authentication) and 7xx (security) families."""

from __future__ import annotations

from enum import IntEnum

from valkyrie.dataplane.wire import Code


class Failure(IntEnum):
    """Carried by AUTH_FAILURE; what the 1xx family has is from there."""

    MALFORMED = Code.MALFORMED
    VERSION = Code.VERSION
    UNPROVEN = 201
    """A proof, a tag or a signature does not verify: other keys, or somebody in between."""
    IDENTITY = 202
    """The identity is proven, but it is not the one that is expected, or nobody knows it."""
    CREDENTIAL = 203
    """A credential is missing, expired, revoked or not for this use."""
    TIMEOUT = 204
    """The other side did not finish in time."""
    COOKIE = 205
    """The cookie is too old, or from before a restart: begin anew."""
    OVERLOAD = Code.OVERLOAD
    FLOOR = 702
    """What both sides could agree on is below what one side's policy demands."""
    DENIED = Code.POLICY
    """Policy refuses a peer that has proven who it is."""
