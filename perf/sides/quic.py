"""QUIC through aioquic: one bidirectional stream, a length of 4 bytes before each message.

ADDRESS ends in ``#`` and the path of the certificate.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration

from . import shapes_async
from .main import Order, begin, order, ready
from .result import say, wait_for_the_end
from .shapes import BEGIN_S

LENGTH = struct.Struct("<I")
WINDOW = 64 << 20
"""Flow control that never stops a sender of a short run by itself."""
AHEAD_BYTES = 1 << 20
"""aioquic takes all it is given and keeps it: a sender has to hold itself back."""
LOOP_EVERY = 64
"""Messages after which the event loop gets its turn."""


class Quic:
    """A stream of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._count = 0
        transport: Any = writer.transport
        self._protocol: Any = transport.protocol
        self._stream: int = transport.stream_id

    async def send(self, message: bytes) -> None:
        """Write, and wait while much is unsent."""
        self._writer.write(LENGTH.pack(len(message)) + message)
        self._count += 1
        if self._count % LOOP_EVERY == 0:
            await asyncio.sleep(0)
            while self._unsent() > AHEAD_BYTES:  # noqa: ASYNC110  # aioquic tells nobody
                await asyncio.sleep(0.0005)

    def _unsent(self) -> int:
        sender = self._protocol._quic._streams[self._stream].sender  # noqa: SLF001
        return len(sender._buffer)  # noqa: SLF001

    async def receive(self, timeout_s: float) -> bytes:
        """Return the next message."""
        async with asyncio.timeout(timeout_s):
            (size,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            return await self._reader.readexactly(size)

    async def flush(self) -> None:
        """Nothing is held back: writing sends what the windows let pass."""


def _configuration(certificate: str, *, client: bool) -> QuicConfiguration:
    made = QuicConfiguration(is_client=client, alpn_protocols=["perf"])
    made.max_data = made.max_stream_data = WINDOW
    if client:
        made.load_verify_locations(certificate)
        made.server_name = "localhost"
    else:
        made.load_cert_chain(certificate)
    return made


async def receiver(asked: Order, host: str, port: int, certificate: str) -> None:
    """Serve one stream."""
    first: asyncio.Future[Quic] = asyncio.get_running_loop().create_future()
    configuration = _configuration(certificate, client=False)
    await serve(
        host,
        port,
        configuration=configuration,
        stream_handler=lambda reader, writer: first.set_result(Quic(reader, writer)),
    )
    ready()
    end = await asyncio.wait_for(first, BEGIN_S)
    say((await shapes_async.carry_out(asked, end)).dumps())
    await asyncio.to_thread(wait_for_the_end)


async def sender(asked: Order, host: str, port: int, certificate: str) -> None:
    """Connect, and use one stream."""
    configuration = _configuration(certificate, client=True)
    async with connect(host, port, configuration=configuration) as protocol:
        assert isinstance(protocol, QuicConnectionProtocol)
        end = Quic(*await protocol.create_stream())
        begin()
        say((await shapes_async.carry_out(asked, end)).dumps())
        await asyncio.to_thread(wait_for_the_end)


def main() -> None:
    """Run the side."""
    asked = order()
    address, _, certificate = asked.address.partition("#")
    host, port = address.rsplit(":", 1)
    asyncio.run((receiver if asked.listens else sender)(asked, host, int(port), certificate))


if __name__ == "__main__":
    main()
