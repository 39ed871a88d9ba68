"""Bytes to a WebSocket client, one way: how a browser follows a log.

    output = negotiate_output(request)
    return output.upgrade(chunks)

Each chunk is a message, binary or base64 in text; the connection is closed in order after the last one. What the client
sends is read for its pings and its goodbye, and means nothing else.

Source: k8s.io/apimachinery, pkg/util/httpstream/wsstream/stream.go.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass

from havre.wire.http.message import Request, Tunnel, Upgrade
from havre.wire.streaming.negotiate import websocket
from havre.wire.streaming.websocket import Socket
from havre.wire.streaming.websocket_frames import Opcode

BASE64 = "base64.binary.k8s.io"
PROTOCOLS = ("", "binary.k8s.io", BASE64)


@dataclass(frozen=True, slots=True)
class Output:
    """A one-way stream whose protocol is settled."""

    protocol: str
    headers: tuple[tuple[str, str], ...]

    def upgrade(self, chunks: AsyncIterator[bytes]) -> Upgrade:
        async def talk(tunnel: Tunnel) -> None:
            socket = Socket(tunnel)
            listening = asyncio.create_task(_listen(socket))
            sending = asyncio.create_task(self._send(socket, chunks))
            try:
                await asyncio.wait({listening, sending}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    await socket.leave()
            finally:
                listening.cancel()
                sending.cancel()
                await asyncio.gather(listening, sending, return_exceptions=True)

        return Upgrade(list(self.headers), talk)

    async def _send(self, socket: Socket, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            if self.protocol == BASE64:
                await socket.send(Opcode.TEXT, base64.b64encode(chunk))
            else:
                await socket.send(Opcode.BINARY, chunk)


def negotiate_output(request: Request) -> Output:
    """Raises StreamingError."""
    return Output(*websocket(request, PROTOCOLS))


async def _listen(socket: Socket) -> None:
    async for _ in socket:
        pass
