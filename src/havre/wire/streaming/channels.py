"""Numbered channels in WebSocket messages: `<u8 channel><bytes>`, or `<digit><base64>` in text.

What comes on a channel goes to its inbox; what comes on others is dropped, as upstream does. From v5 on, a message on
channel 255 with the number of another ends that one, so that stdin can end while the rest goes on.

Source: k8s.io/apimachinery, pkg/util/httpstream/wsstream/conn.go; KEP-4006.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping

from havre.wire.streaming.errors import ProtocolError
from havre.wire.streaming.inbox import Inbox
from havre.wire.streaming.websocket import Socket
from havre.wire.streaming.websocket_frames import Close, Opcode, Piece

CLOSE = 255  # the channel on which v5 ends others
MESSAGE = 32 << 10  # bytes of a message we send: what Go copies at a time
HELD = 256 << 10  # received bytes that wait for readers before the connection is not read


class Channels:
    """The channels of one WebSocket. `inputs` are those the client writes; `run` fills their inboxes."""

    def __init__(self, socket: Socket, inputs: tuple[int, ...], *, text: bool, closable: bool) -> None:
        self.socket = socket
        self.inputs: Mapping[int, Inbox] = {number: Inbox(self._taken) for number in inputs}
        self._text = text
        self._closable = closable
        self._held = 0
        self._readable = asyncio.Event()
        self._readable.set()
        self._channel = -1  # of the message that is being received; -1 until its first byte
        self._rest = b""  # base64 digits that wait for their group of four

    async def run(self) -> None:
        """Read until the client leaves; then every input has ended."""
        try:
            async for piece in self.socket.pieces():
                self._receive(piece)
                await self._readable.wait()
        except ProtocolError as e:
            self.socket.refuse(Close(e.code), str(e))
        finally:
            for inbox in self.inputs.values():
                inbox.end()

    async def write(self, channel: int, data: bytes) -> None:
        """Raises ConnectionResetError when the client has left. An empty message is a message."""
        for start in range(0, max(len(data), 1), MESSAGE):
            part = data[start : start + MESSAGE]
            if self._text:
                await self.socket.send(Opcode.TEXT, b"%d" % channel + base64.b64encode(part))
            else:
                await self.socket.send(Opcode.BINARY, bytes([channel]) + part)

    async def leave(self) -> None:
        """Close in order; what still comes is dropped."""
        for inbox in self.inputs.values():
            inbox.discard()
        await self.socket.leave()

    def _receive(self, piece: Piece) -> None:
        data = piece.data
        if piece.first:
            self._channel, self._rest = -1, b""
        if self._channel < 0 and data:
            self._channel, data = (_digit(data[0]) if self._text else data[0]), data[1:]
        if self._text:
            data = self._decoded(data, last=piece.last)
        if self._channel == CLOSE and self._closable:
            self._close(data)
        elif inbox := self.inputs.get(self._channel):
            if inbox.feed(data):
                self._held += len(data)
            if self._held > HELD:
                self._readable.clear()

    def _close(self, data: bytes) -> None:
        for number in data:
            if inbox := self.inputs.get(number):
                inbox.end()

    def _decoded(self, data: bytes, *, last: bool) -> bytes:
        data = self._rest + data
        whole = len(data) - len(data) % 4
        self._rest = data[whole:]
        if last and self._rest:
            raise ProtocolError(Close.INVALID, "a message whose base64 is cut off")
        try:
            return base64.b64decode(data[:whole], validate=True)
        except binascii.Error as e:
            raise ProtocolError(Close.INVALID, f"a message that is not base64: {e}") from e

    def _taken(self, count: int) -> None:
        self._held -= count
        if self._held <= HELD:
            self._readable.set()


def _digit(byte: int) -> int:
    if not 0x30 <= byte <= 0x39:
        raise ProtocolError(Close.INVALID, "a message that does not begin with the digit of its channel")
    return byte - 0x30
