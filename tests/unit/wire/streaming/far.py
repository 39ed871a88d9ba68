"""The far end of an upgraded connection, in memory: what a client sends, what it got."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from havre.wire.http.message import Request, Tunnel, Upgrade
from havre.wire.streaming import spdy_frames as wire
from havre.wire.streaming.websocket_frames import Opcode


class Far:
    """A tunnel whose other end is the test: `say` is what the client sends, `heard` what it received."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.closed = False
        self.unread = 0  # chunks that nobody has read
        self.slow = asyncio.Event()  # cleared: the client reads nothing
        self.slow.set()
        self._incoming: asyncio.Queue[bytes] = asyncio.Queue()

    def say(self, *parts: bytes) -> None:
        for part in parts:
            self.unread += 1
            self._incoming.put_nowait(part)

    def leave(self) -> None:
        self.say(b"")

    @property
    def tunnel(self) -> Tunnel:
        return cast("Tunnel", self)

    # as a tunnel

    async def read(self) -> bytes:
        data = await self._incoming.get()
        self.unread -= 1
        return data

    def write(self, data: bytes) -> None:
        self.heard += data

    async def drain(self) -> None:
        await self.slow.wait()
        if self.closed:
            raise ConnectionResetError("gone")

    def close(self) -> None:
        self.closed = True


class SpdyClient:
    """Opens streams as kubectl does, and takes apart what is answered."""

    def __init__(self, far: Far) -> None:
        self.far = far
        self._encoder = wire.Encoder()
        self._decoder = wire.Decoder()
        self._next = 1
        self._taken = 0
        self.frames: list[wire.Frame] = []

    def open(self, headers: Mapping[str, str], *, fin: bool = False) -> int:
        number = self._next
        self._next += 2
        self.far.say(self._encoder.syn_stream(number, headers, fin=fin))
        return number

    def send(self, stream: int, data: bytes, *, fin: bool = False) -> None:
        self.far.say(wire.data_head(stream, len(data), fin=fin) + data)

    def got(self) -> list[wire.Frame]:
        """All frames so far; window updates for what was read are left out."""
        new = bytes(self.far.heard[self._taken :])
        self._taken += len(new)
        self.frames += [f for f in self._decoder.feed(new) if not isinstance(f, wire.WindowUpdate)]
        return self.frames

    def data(self, stream: int) -> bytes:
        return b"".join(f.data for f in self.got() if isinstance(f, wire.Data) and f.stream == stream)

    def ended(self, stream: int) -> bool:
        return any(isinstance(f, wire.Data) and f.stream == stream and f.fin for f in self.got())


def masked(opcode: Opcode, data: bytes, *, final: bool = True) -> bytes:
    """A frame as a client sends it."""
    mask = os.urandom(4)
    length = len(data)
    head = bytes([0x80 * final | opcode])
    if length < 126:
        head += bytes([0x80 | length])
    elif length < 1 << 16:
        head += struct.pack(">BH", 0xFE, length)
    else:
        head += struct.pack(">BQ", 0xFF, length)
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))


def messages(heard: bytes | bytearray) -> list[tuple[int, bytes]]:
    """(opcode, payload) of the frames of a server, none of which is fragmented."""
    found, at = [], 0
    while at < len(heard):
        opcode, length = heard[at] & 15, heard[at + 1]
        at += 2
        if length == 126:
            (length,) = struct.unpack_from(">H", heard, at)
            at += 2
        elif length == 127:
            (length,) = struct.unpack_from(">Q", heard, at)
            at += 8
        found.append((opcode, bytes(heard[at : at + length])))
        at += length
    return found


def request(headers: Mapping[str, str], *, method: str = "GET", query: str = "") -> Request:
    lower = {name.lower(): value for name, value in headers.items()}
    return Request(method, "/exec/default/p/c", query, lower, b"", None, "127.0.0.1", "HTTP/1.1")


def closed(heard: bytes | bytearray) -> bool:
    """The server has said goodbye."""
    return any(opcode == Opcode.CLOSE for opcode, _ in messages(heard))


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop turn until this holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is awaited are turns of the loop, not time
            await asyncio.sleep(0)


@asynccontextmanager
async def talking(upgrade: Upgrade) -> AsyncGenerator[tuple[Far, asyncio.Task[None]]]:
    """Run an upgraded connection beside the test; at the end the client leaves."""
    far = Far()

    async def talk() -> None:
        await upgrade.run(far.tunnel)

    task = asyncio.create_task(talk())
    try:
        yield far, task
        far.leave()
        await asyncio.wait_for(task, 5)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
