"""A reader's own buffer, in which the next message of a stream comes to lie.

Large messages are gathered there fragment by fragment. Memory of their own would be fresh for each
of them, and the kernel takes several times as long to give that, page by page, as copying does.
"""

from __future__ import annotations

import msgspec

from valkyrie.dataplane.errors import LocalProtocolError

from .flow import Flow
from .fragments import own
from .message import Placed
from .refusal import SmallBufferError

Buffer = bytearray | memoryview
"""What a message may be received into; also whatever else a writable memoryview can be made of."""


class Loan:
    """A buffer from the call until it returns: then nothing is written into it any more."""

    def __init__(self, flow: Flow, buffer: Buffer) -> None:
        view = memoryview(buffer)
        if view.readonly or not view.c_contiguous:
            raise LocalProtocolError("a buffer to receive into has to be writable, in one piece")
        if flow.lent:
            raise LocalProtocolError(
                f"stream {flow.stream}: recv_into waits in another task already: one at a time"
            )
        self._flow = flow
        self._view = view.cast("B") if view.nbytes else memoryview(bytearray())
        flow.lent = True
        flow.fragments.lend(self._view)

    def take(self) -> Placed | None:
        """Return the next message, now in the buffer; None if there is none yet.

        Raises SmallBufferError if it does not fit; it is the next one then as before.
        """
        flow = self._flow
        if not flow.queue:
            return None
        message = flow.queue[0]
        size = len(message.payload)
        if type(message.payload) is bytes:
            if size > len(self._view):
                raise SmallBufferError(size, len(self._view))
            self._clear()
            self._view[:size] = message.payload
        flow.lent = False  # nobody else's hands it goes to
        flow.take()
        flow.lent = True
        fields = msgspec.structs.asdict(message) | {"payload": self._view[:size].toreadonly()}
        return Placed(**fields)

    def _clear(self) -> None:
        """Move what lies in the buffer, or a part of which does, to memory of its own."""
        flow = self._flow
        flow.fragments.give_back()
        if flow.owed and any(type(message.payload) is not bytes for message in flow.queue):
            flow.queue = type(flow.queue)(own(message) for message in flow.queue)

    def end(self) -> None:
        """Have the buffer to oneself again, whether a message was taken or not."""
        self._clear()
        self._flow.lent = False
