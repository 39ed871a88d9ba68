"""The body of a streamed answer on HTTP/1.1: written in pieces, sent once per turn of the loop.

Source: RFC 9112, 7.1 (chunks); on HTTP/1.0, and when the length was announced, the bytes go out bare.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from havre.wire.http.service import Service, log, notify


class Outlet(Protocol):
    """What a writer needs of its connection."""

    service: Service
    paused: bool  # the kernel does not take what is written

    def emit(self, data: bytes) -> None: ...

    def unsent(self) -> int: ...

    def stream_ended(self) -> None: ...

    def abort(self) -> None: ...


class ChunkWriter:
    """The `Writer` of a stream: chunks on HTTP/1.1, bare bytes when its end is known or is that of the connection."""

    __slots__ = ("_connection", "_left", "_parts", "_pending", "_raw", "_waiter", "closed", "on_close")

    def __init__(self, connection: Outlet, *, raw: bool, length: int | None = None) -> None:
        self._connection = connection
        self._left = length  # bytes that were announced and not written
        self._parts: list[bytes] = []
        self._pending = 0
        self._raw = raw
        self._waiter: asyncio.Future[None] | None = None
        self.closed = False
        self.on_close: Callable[[], None] | None = None

    @property
    def buffered(self) -> int:
        return 0 if self.closed else self._pending + self._connection.unsent()

    def write(self, data: bytes) -> None:
        if self.closed or not data:
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                log.error("a stream is longer than it announced")
                self.abort()
                return
        if not self._parts:
            self._connection.service.mark(self)
        self._parts.append(data)
        self._pending += len(data)

    def flush(self) -> None:
        if not self._parts:
            return
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._pending = 0
        self._connection.emit(data if self._raw else b"%x\r\n%b\r\n" % (len(data), data))

    async def drain(self) -> None:
        self.flush()
        if self._connection.paused and not self.closed:
            self._waiter = self._connection.service.loop.create_future()
            await self._waiter

    def resumed(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        if self.closed:
            return
        if self._left:
            self.abort()  # the client must not take a part for the whole
            return
        self.flush()
        if not self._raw:
            self._connection.emit(b"0\r\n\r\n")
        self.ended()
        self._connection.stream_ended()

    def abort(self) -> None:
        if not self.closed:
            self.ended()
            self._connection.abort()

    def ended(self) -> None:
        """The peer or the body is gone: tell the owner, once."""
        if self.closed:
            return
        self.closed = True
        self._parts.clear()
        self.resumed()
        notify(self.on_close)
