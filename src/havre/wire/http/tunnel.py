"""The raw bytes of a connection after `101 Switching Protocols`, with back-pressure in both directions.

The tunnel replaces the HTTP protocol on the transport. What arrived together with the head is read first. On TLS the
end of one direction ends both; on plain TCP the other side may half-close and still read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from havre.wire.http.receive import Receiver, inbox

log = logging.getLogger(__name__)

HIGH = 256 * 1024  # bytes kept for a slow reader: 8 frames of 32 KiB, the largest that kubectl exec sends


class Tunnel(Receiver):
    """`await read()` until b"", `write`, `await drain()`, `close()`. One reader and any number of writers."""

    def __init__(self, transport: asyncio.Transport, early: bytes = b"", buffer: memoryview | None = None) -> None:
        super().__init__(inbox() if buffer is None else buffer)
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[bytes] = deque([early] if early else [])
        self._held = len(early)
        self._ended = False
        self._lost = False
        self._reading = True
        self._writable = asyncio.Event()
        self._writable.set()
        self._reader: asyncio.Future[None] | None = None
        self.headers: dict[str, str] = {}  # of the 101, for the side that asked for it

    @property
    def closed(self) -> bool:
        """The connection is gone: nothing written from now on arrives."""
        return self._lost or self._transport.is_closing()

    async def read(self) -> bytes:
        """What has arrived, at least one byte; b"" at the end."""
        while not self._chunks:
            if self._ended:
                return b""
            if self._reader is not None:
                raise RuntimeError("read of a tunnel that another task is reading")
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._held = 0
        if not self._reading and not self._lost:
            self._reading = True
            self._transport.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        if data and not self.closed:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the other side keeps up. Raises ConnectionResetError when it is gone."""
        await self._writable.wait()
        if self.closed:  # also when it is only closing: whoever pumps would go on for ever, into nothing
            raise ConnectionResetError("write to a tunnel: the other side closed the connection")

    def close(self) -> None:
        """Send what is buffered, then end both directions."""
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._held += len(data)
        if self._held > HIGH and self._reading:
            self._reading = False
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._ended = True
        self._wake()
        return self._transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = self._lost = True
        self._writable.set()
        self._wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


async def splice(one: Tunnel, other: Tunnel) -> None:
    """Carry bytes both ways until one side ends; then both are closed."""

    async def carry(source: Tunnel, sink: Tunnel) -> None:
        while data := await source.read():
            sink.write(data)
            await sink.drain()

    ways = {asyncio.create_task(carry(one, other)), asyncio.create_task(carry(other, one))}
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in done:
            if error := way.exception():
                log.debug("a tunnel ended", extra={"error": str(error)})
    finally:
        one.close()  # before anything is awaited: a second cancellation must not leave them open
        other.close()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
