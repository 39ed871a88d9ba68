"""The body of a request while it arrives, for handlers that do not want to wait for its end: uploads of any size.

    def wanted(request: Request) -> bool: ...            # serve(..., uploads=wanted): called when the head is there
    async def handler(request: Request) -> Answer:
        assert request.upload is not None
        while data := await request.upload.read(): ...

The client is slowed down when the handler does not keep up. An answer before the end of the body is fine: what is left
of it is thrown away.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

HIGH = 512 * 1024  # bytes kept for a slow handler; one more read of 256 KiB may come on top


class UploadBroken(ConnectionError):
    """The client went away, fell silent or broke the protocol before the end of its body."""


class Upload:
    """One reader. `advance(n)` is called when `n` bytes were taken, so that as many may come."""

    __slots__ = ("_advance", "_chunks", "_failure", "_waiter", "closed", "complete", "held")

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._chunks: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._failure = ""
        self.held = 0  # bytes that arrived and were not read
        self.complete = False  # the last byte has arrived
        self.closed = False  # nobody reads any more

    async def read(self) -> bytes:
        """What has arrived, at least one byte; b"" at the end. Raises UploadBroken."""
        while not self._chunks:
            if self._failure:
                raise UploadBroken(self._failure)
            if self.complete:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._taken()
        return data

    @property
    def full(self) -> bool:
        """No more should come for now."""
        return self.held > HIGH

    def feed(self, data: bytes) -> None:
        self.held += len(data)
        if self.closed:
            self._taken()
            return
        self._chunks.append(data)
        self._wake()

    def finish(self) -> None:
        self.complete = True
        self._wake()

    def fail(self, why: str) -> None:
        if not (self.complete or self._failure):
            self._failure = why
            self._wake()

    def close(self) -> None:
        """The answer is out: what still comes is thrown away."""
        self.closed = True
        self._chunks.clear()
        self._taken()

    def _taken(self) -> None:
        taken, self.held = self.held, 0
        if taken:
            self._advance(taken)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
