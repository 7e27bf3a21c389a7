"""The daemon's end of what it and the broker say to each other."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
from typing import TYPE_CHECKING

from valkyrie.controlplane.broker import messages
from valkyrie.controlplane.broker.messages import Kind, Message
from valkyrie.dataplane.errors import DataPlaneError

if TYPE_CHECKING:
    import socket

_BROKER_S = 10.0
"""How long the broker may take to answer."""


class BrokerLink:
    """Asks the broker, and hears its news."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._tokens = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self.news: asyncio.Queue[Message | None] = asyncio.Queue()
        """None: the broker is gone."""
        self._loop.add_reader(link, self._read)

    def _read(self) -> None:
        try:
            message = messages.receive(self._link)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            message = None
        if message is None:
            self._loop.remove_reader(self._link)
            self.news.put_nowait(None)
            return
        if message.kind >= Kind.VIOLATION:
            self.news.put_nowait(message)
            return
        waiting = self._waiting.pop(message.token, None)
        if waiting is None or waiting.done():
            messages.close_all(message.descriptors)
        else:
            waiting.set_result(message)

    async def ask(self, message: Message, timeout_s: float = _BROKER_S) -> Message:
        """Return the broker's answer; DataPlaneError when it could not."""
        message.token = next(self._tokens) & 0xFFFFFFFF
        answer: asyncio.Future[Message] = self._loop.create_future()
        self._waiting[message.token] = answer
        try:
            messages.send(self._link, message)
            found = await asyncio.wait_for(answer, timeout_s)
        except TimeoutError as error:
            raise DataPlaneError.of(errno.ETIMEDOUT, "ask the broker") from error
        except OSError as error:  # its link is full, or gone with it
            raise DataPlaneError.of(error.errno or errno.EIO, "ask the broker") from error
        finally:
            self._waiting.pop(message.token, None)
        if found.result < 0:
            raise DataPlaneError(-found.result, found.text or os.strerror(-found.result))
        return found
