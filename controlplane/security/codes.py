"""Why a handshake failed: the codes that AUTH_FAILURE carries."""

from __future__ import annotations

from enum import IntEnum

from valkyrie.dataplane.wire import Code


class Failure(IntEnum):
    """Numbers of enum vk_code, where each is explained: authentication 2xx, security 7xx."""

    MALFORMED = Code.MALFORMED
    VERSION = Code.VERSION
    UNPROVEN = Code.UNPROVEN
    IDENTITY = Code.IDENTITY
    CREDENTIAL = Code.CREDENTIAL
    TIMEOUT = Code.HANDSHAKE_TIMEOUT
    COOKIE = Code.COOKIE
    OVERLOAD = Code.OVERLOAD
    DENIED = Code.POLICY
    """Policy refuses a peer that has proven who it is."""
    FLOOR = Code.SECURITY_FLOOR
