"""Reading and writing a descriptor of any kind (terminal, packet socket) in the loop, one caller for each direction."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from functools import partial

__all__ = ["Descriptor"]

CHUNK = 32 * 1024  # bytes; conmon sends 8 KiB and takes 32 KiB a packet


class Descriptor:
    """Owns `fd`, which becomes non-blocking; `close` it."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        """What there is, at least one byte or one packet; b"" at the end (for a terminal: nobody has it open)."""
        while self._fd >= 0:
            try:
                return os.read(self._fd, CHUNK + 1)  # a packet has a byte more in front
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
            except OSError as error:
                if error.errno in {errno.EIO, errno.ECONNRESET}:
                    return b""
                raise
        return b""

    async def write(self, data: bytes) -> None:
        """All of it. Raises ConnectionResetError when the other side is gone."""
        view = memoryview(data)
        while view and self._fd >= 0:
            try:
                view = view[os.write(self._fd, view[:CHUNK]) :]
            except BlockingIOError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
            except OSError as error:
                raise ConnectionResetError(f"write: {error.strerror}") from error

    async def _ready(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        add(self._fd, partial(_settle, ready))
        try:
            await ready
        finally:
            if self._fd >= 0:
                remove(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
