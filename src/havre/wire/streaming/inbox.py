"""Received bytes on their way to one reader.

A session feeds and never waits; `held` tells it when to stop reading the connection, `taken` when to go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Inbox:
    """`await read()` until b"". One reader."""

    def __init__(self, taken: Callable[[int], None]) -> None:
        self._taken = taken
        self._buffer = bytearray()
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def held(self) -> int:
        """Bytes that wait for the reader."""
        return len(self._buffer)

    @property
    def ended(self) -> bool:
        """Nothing more will be fed; what is held can still be read."""
        return self._ended

    def feed(self, data: bytes) -> bool:
        """Whether the bytes were kept; after the end they are dropped."""
        if self._ended or not data:
            return False
        self._buffer += data
        self._wake()
        return True

    def end(self) -> None:
        self._ended = True
        self._wake()

    def discard(self) -> None:
        """Nobody will read: drop what is held and what comes."""
        self.end()
        self._take()

    async def read(self) -> bytes:
        """All that has arrived, at least one byte; b"" at the end."""
        while not self._buffer:
            if self._ended:
                return b""
            if self._waiter is not None:
                raise RuntimeError("read of a stream that another task is reading")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._take()

    def _take(self) -> bytes:
        data = bytes(self._buffer)
        self._buffer.clear()
        if data:
            self._taken(len(data))
        return data

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
