"""A WebSocket on the server side: messages over a tunnel, pings answered, closing in order.

    socket = Socket(tunnel)
    async for piece in socket: ...          until the client leaves; a task of the caller
    await socket.send(Opcode.BINARY, data)
    await socket.leave()

`Bytes(socket)` makes a plain stream of bytes of it, each write a binary message: what carries SPDY for port-forward.

Source: RFC 6455.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from havre.wire.http.message import Tunnel
from havre.wire.streaming.errors import ProtocolError
from havre.wire.streaming.spdy import LINGER
from havre.wire.streaming.websocket_frames import Close, Control, Decoder, Opcode, Piece, close_frame, encode

log = logging.getLogger(__name__)


class Socket:
    """Messages both ways. One reader, any number of writers."""

    def __init__(self, tunnel: Tunnel) -> None:
        self.closed = asyncio.Event()  # the client left, or broke the rules
        self._tunnel = tunnel
        self._decoder = Decoder()
        self._left = False  # we sent the closing frame, after which nothing is sent

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self.pieces()

    async def pieces(self) -> AsyncIterator[Piece]:
        """Pieces of messages as they arrive; ends when the client closes. Pings are answered on the way."""
        try:
            while not self.closed.is_set() and (data := await self._tunnel.read()):
                answered = False
                for event in self._decoder.feed(data):
                    if isinstance(event, Piece):
                        yield event
                    else:
                        answered = self._control(event)
                if answered:  # a client that only pings, and never reads, is not read either
                    await self._tunnel.drain()
        except ProtocolError as e:
            self.refuse(Close(e.code), str(e))
        except ConnectionResetError:
            log.debug("a WebSocket client went away")
        finally:
            self.closed.set()

    def refuse(self, code: Close, why: str) -> None:
        """Tell the client what it did wrong, and be done with it."""
        log.info("a WebSocket client broke the rules", extra={"why": why})
        self._say_goodbye(code, why)
        self.closed.set()

    async def send(self, opcode: Opcode, data: bytes) -> None:
        """One message. Raises ConnectionResetError when the client has left."""
        if self.closed.is_set() or self._left:
            raise ConnectionResetError("write to a WebSocket: the client has left")
        self._tunnel.write(encode(opcode, data))
        await self._tunnel.drain()

    def send_nowait(self, opcode: Opcode, data: bytes) -> None:
        if not self.closed.is_set() and not self._left:
            self._tunnel.write(encode(opcode, data))

    async def drain(self) -> None:
        """Wait until the client keeps up. Raises ConnectionResetError."""
        await self._tunnel.drain()

    async def leave(self, code: Close = Close.NORMAL) -> None:
        """Say goodbye, and wait a moment for the client to do the same: it may still be reading."""
        self._say_goodbye(code)
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            async with asyncio.timeout(LINGER):
                await self._tunnel.drain()
                await self.closed.wait()

    def _control(self, event: Control) -> bool:
        """Whether something was answered."""
        if event.opcode == Opcode.CLOSE:
            self._say_goodbye(Close.NORMAL)
            self.closed.set()
        elif event.opcode == Opcode.PING:
            self.send_nowait(Opcode.PONG, event.data)
            return True
        return False

    def _say_goodbye(self, code: Close, why: str = "") -> None:
        if not self._left and not self.closed.is_set():
            self._left = True
            self._tunnel.write(close_frame(code, why))


class Bytes:
    """The `Link` of a SPDY session inside WebSocket messages; where one message ends means nothing."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._pieces = socket.pieces()

    async def read(self) -> bytes:
        async for piece in self._pieces:
            if piece.data:
                return piece.data
        return b""

    def write(self, data: bytes) -> None:
        self._socket.send_nowait(Opcode.BINARY, data)

    async def drain(self) -> None:
        await self._socket.drain()
