"""The wire format of WebSocket, the server's half: masked frames in, plain frames out. Pure: no I/O.

    <u1 fin><u3 0><u4 opcode><u1 masked><u7 length>[<u16 or u64 length>][<4 mask>] payload
      length 126: the next 16 bits, 127: the next 64 bits

Messages are handed on in the pieces they arrive in, so that neither a frame nor a message has to fit into memory;
control frames have at most 125 bytes by the protocol. No extension is ever agreed on, so the three bits must be 0.

Source: RFC 6455, 5.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass, field
from enum import IntEnum

from havre.wire.streaming.errors import ProtocolError

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_CONTROL_LIMIT = 125


class Opcode(IntEnum):
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class Close(IntEnum):
    """Why a connection is closed. RFC 6455, 7.4.1."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED = 1003
    INVALID = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a message: `first` begins one, `last` ends it. A message may be one piece that is both, and empty."""

    data: bytes = field(repr=False)
    first: bool
    last: bool
    text: bool


@dataclass(frozen=True, slots=True)
class Control:
    """CLOSE, PING or PONG."""

    opcode: Opcode
    data: bytes


Event = Piece | Control


def accept_key(key: str) -> str:
    """What `Sec-WebSocket-Accept` answers to `Sec-WebSocket-Key`."""
    return base64.b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()).decode()


def encode(opcode: Opcode, data: bytes) -> bytes:
    """A whole, final frame as a server sends it."""
    length = len(data)
    if length < 126:
        head = struct.pack(">BB", 0x80 | opcode, length)
    elif length < 1 << 16:
        head = struct.pack(">BBH", 0x80 | opcode, 126, length)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 127, length)
    return head + data


def close_frame(code: Close, why: str = "") -> bytes:
    return encode(Opcode.CLOSE, struct.pack(">H", code) + why.encode()[: _CONTROL_LIMIT - 2])


class Decoder:
    """Bytes to pieces of messages and control frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._open = False  # a message has begun and not ended
        self._begun = False  # its first piece was handed on
        self._text = False
        self._final = False  # this frame ends the message
        self._left = 0  # bytes of the payload of this data frame that have not come
        self._mask = b""
        self._turn = 0  # how far into the mask the next byte is

    def feed(self, data: bytes) -> list[Event]:
        """What these bytes complete. Raises ProtocolError."""
        self._buffer += data
        events: list[Event] = []
        at = 0
        while True:
            if self._left:
                piece = bytes(self._buffer[at : at + self._left])
                if not piece:
                    break
                at += len(piece)
                self._left -= len(piece)
                events.append(self._piece(self._unmask(piece)))
                continue
            taken = self._frame(at, events)
            if not taken:
                break
            at += taken
        del self._buffer[:at]
        return events

    def _frame(self, at: int, events: list[Event]) -> int:
        """Read a head, and with it a whole control frame; how many bytes that took, 0 when some are missing."""
        have = len(self._buffer) - at
        if have < 2:
            return 0
        first, second = self._buffer[at], self._buffer[at + 1]
        opcode, length = self._checked(first, second)
        size = {126: 8, 127: 14}.get(length, 6)
        if have < size:
            return 0
        if length == 126:
            (length,) = struct.unpack_from(">H", self._buffer, at + 2)
        elif length == 127:
            (length,) = struct.unpack_from(">Q", self._buffer, at + 2)
            if length >> 63:
                raise ProtocolError(Close.PROTOCOL_ERROR, "a frame of 2⁶³ bytes or more")
        if opcode in (Opcode.CLOSE, Opcode.PING, Opcode.PONG):
            if have < size + length:
                return 0
            mask = bytes(self._buffer[at + size - 4 : at + size])
            payload = bytes(self._buffer[at + size : at + size + length])
            events.append(Control(opcode, _xor(payload, mask)))
            return size + length
        self._mask, self._turn = bytes(self._buffer[at + size - 4 : at + size]), 0
        self._begin(opcode, final=bool(first & 0x80))
        self._left = length
        if not length:
            events.append(self._piece(b""))
        return size

    def _checked(self, first: int, second: int) -> tuple[Opcode, int]:
        try:
            opcode = Opcode(first & 0x0F)
        except ValueError:
            raise ProtocolError(Close.PROTOCOL_ERROR, f"a frame with the unknown opcode {first & 0x0F}") from None
        if first & 0x70:
            raise ProtocolError(Close.PROTOCOL_ERROR, "a frame of an extension that was not agreed on")
        if not second & 0x80:
            raise ProtocolError(Close.PROTOCOL_ERROR, "a frame of a client that is not masked")
        length = second & 0x7F
        if opcode >= Opcode.CLOSE and (length > _CONTROL_LIMIT or not first & 0x80):
            raise ProtocolError(Close.PROTOCOL_ERROR, "a control frame that is too long, or in fragments")
        return opcode, length

    def _begin(self, opcode: Opcode, *, final: bool) -> None:
        if (opcode == Opcode.CONTINUATION) != self._open:
            raise ProtocolError(Close.PROTOCOL_ERROR, "a fragment without a beginning, or a message inside another")
        if not self._open:
            self._open, self._begun, self._text = True, False, opcode == Opcode.TEXT
        self._final = final

    def _piece(self, data: bytes) -> Piece:
        last = self._final and not self._left
        piece = Piece(data, first=not self._begun, last=last, text=self._text)
        self._begun = True
        if last:
            self._open = False
        return piece

    def _unmask(self, data: bytes) -> bytes:
        turn = self._turn
        self._turn = (turn + len(data)) % 4
        return _xor(data, self._mask[turn:] + self._mask[:turn])


def _xor(data: bytes, mask: bytes) -> bytes:
    """As one large number: a GB/s, where a loop over bytes does some MB/s."""
    count = len(data)
    repeated = (mask * (count // 4 + 1))[:count]
    return (int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")).to_bytes(count, "little")
