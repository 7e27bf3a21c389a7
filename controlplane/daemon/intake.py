"""Takes what the worker has for the daemon: at once, and in heaps when strangers crowd it. And has
the worker ask its peers.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.wire import FrameError, Type, parse_frame

if TYPE_CHECKING:
    import socket
    from collections import Counter
    from collections.abc import Callable

_FRAMES_A_TURN = 64
_HEAD_SIZE = ffi.sizeof("struct vk_control_frame")


class Turns:
    """Says when the next turn may be. No I/O.

    A turn takes a core from workers and applications that share it. After some in a short time they
    are further apart, with more to take in each: data then meets them seldom, and not once for
    every frame that a stranger sends. A handshake that is alone is never held up.
    """

    at_once_max = 8
    window_s = 0.1
    pause_s = 0.02

    def __init__(self) -> None:
        self._count = 0
        self._since_s = 0.0

    def taken(self, now_s: float) -> float:
        """Note a turn; return how long the next one has to wait."""
        if now_s >= self._since_s + self.window_s:
            self._count, self._since_s = 0, now_s
        self._count += 1
        return self.pause_s if self._count >= self.at_once_max else 0.0


class Intake:
    """Reads control frames and news of the worker."""

    def __init__(
        self, frames: socket.socket, receive: Callable[[bytes], None], counts: Counter[str]
    ) -> None:
        """``receive`` gets each; ``counts`` are of frames, by type."""
        self._frames = frames
        self._receive = receive
        self._counts = counts
        self._turns = Turns()

    def start(self) -> None:
        """Take what comes from now on."""
        asyncio.get_running_loop().add_reader(self._frames, self._turn)

    def ask(self, index: int) -> None:
        """Have the worker ask a peer in its session whether it lives."""
        head = ffi.new("struct vk_control_frame *", {"kind": lib.VK_CONTROL_ASK, "peer": index})
        with contextlib.suppress(OSError):  # full: it stands still, and the daemon asks again
            self._frames.send(bytes(ffi.buffer(head)))

    def _turn(self) -> None:
        self._take()
        loop = asyncio.get_running_loop()
        if pause_s := self._turns.taken(loop.time()):
            loop.remove_reader(self._frames)
            loop.call_later(pause_s, self.start)

    def _take(self) -> None:
        for _ in range(_FRAMES_A_TURN):
            try:
                packet = self._frames.recv(65536)
            except OSError:
                return
            if not packet:
                return
            if len(packet) > _HEAD_SIZE:  # others are news
                self._counts[_name(packet[_HEAD_SIZE:])] += 1
            self._receive(packet)


def _name(data: bytes) -> str:
    try:
        return Type(parse_frame(data).header.type).name.lower()
    except (FrameError, ValueError):
        return "malformed"
