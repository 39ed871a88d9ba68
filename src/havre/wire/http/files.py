"""A file, or a part of it, as the body of an answer: read in a thread, sent no faster than the client takes it.

return Stream(200, headers, send(path, 0, size), length=size)
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from havre.wire.http.message import Writer

log = logging.getLogger(__name__)

READ = 512 * 1024  # bytes at a time: a thread costs some 50 µs, reading this much from the cache 100 µs


def send(path: Path, offset: int, length: int) -> Callable[[Writer], None]:
    """What `Stream.start` needs. The file is opened now, so that a missing one is an answer. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def start(writer: Writer) -> None:
        task = asyncio.get_running_loop().create_task(_send(descriptor, offset, length, writer))

        def stop() -> None:
            task.cancel()

        writer.on_close = stop  # this also keeps the task

    return start


async def _send(descriptor: int, offset: int, length: int, writer: Writer) -> None:
    end = offset + length
    try:
        while offset < end and not writer.closed:
            data = await _read(descriptor, min(READ, end - offset), offset)
            if not data:
                writer.abort()
                return
            offset += len(data)
            writer.write(data)
            await writer.drain()
    except OSError:
        log.exception("reading the file of an answer failed")
        writer.abort()
    finally:
        os.close(descriptor)
    writer.on_close = None
    writer.close()


async def _read(descriptor: int, count: int, offset: int) -> bytes:
    """To its end also when cancelled: the descriptor must not be closed under the read."""
    reading = asyncio.ensure_future(asyncio.to_thread(os.pread, descriptor, count, offset))
    try:
        return await asyncio.shield(reading)
    finally:
        while not reading.done():
            await asyncio.wait([reading])
