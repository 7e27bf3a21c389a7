"""What ends a handshake, by who broke it; the codes are enum vk_code and cross the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from valkyrie.dataplane.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from .codes import Failure


class SecurityError(RemoteProtocolError):
    """The other side failed; ``code`` says at what, the message what to do about it."""

    def __init__(self, code: Failure, what: str) -> None:
        super().__init__(f"{what} ({code.name.lower()}, code {int(code)})")
        self.code = code


class MisuseError(LocalProtocolError):
    """This side asked the security code for something that it cannot do."""
