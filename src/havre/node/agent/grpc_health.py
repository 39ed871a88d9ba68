"""The gRPC health check of a probe: one call of `grpc.health.v1.Health/Check` on a plain connection.

Only as much of HTTP/2 as one small call needs: our frames are written by hand, header blocks of the answer are not
decoded (the message says everything). Frames: `<u24 length><u8 type><u8 flags><u32 stream><payload>`.

    HealthCheckRequest  { string service = 1; }
    HealthCheckResponse { ServingStatus status = 1; }   UNKNOWN 0, SERVING 1, NOT_SERVING 2, SERVICE_UNKNOWN 3

Source: RFC 9113, RFC 7541 6.2.2; grpc/health/v1/health.proto.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Final

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _END_HEADERS, _ACK, _PADDED = 0x1, 0x4, 0x1, 0x8
_FRAMES: Final = 64  # read of an answer: a healthy server needs seven
_FRAME: Final = 1 << 14  # bytes of one frame; we never allow more
_NAMES: Final = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_UNIMPLEMENTED: Final = "does it implement the gRPC health protocol (grpc.health.v1.Health)?"


async def serving(host: str, port: int, service: str) -> tuple[bool, str]:
    """Whether the service says that it serves, and the words for it. Raises OSError; the caller limits the time."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(_call(f"{host}:{port}", service))
        return await _answer(reader, writer)
    except asyncio.IncompleteReadError:
        return False, "error: health rpc probe failed: the server closed the connection"
    finally:
        writer.transport.abort()


def _frame(type: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", type, flags, stream) + payload


def _call(authority: str, service: str) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/grpc.health.v1.Health/Check",
        ":authority": authority,
        "content-type": "application/grpc",
        "te": "trailers",
        "user-agent": "kube-probe/1.34",
    }
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
    name = service.encode()
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    data = b"\0" + struct.pack(">I", len(message)) + message
    return (
        _PREFACE
        + _frame(_SETTINGS, 0, 0)
        + _frame(_HEADERS, _END_HEADERS, 1, block)
        + _frame(_DATA, _END_STREAM, 1, data)
    )


def _text(text: str) -> bytes:
    """A string of HPACK, not Huffman-coded: its length with a prefix of 7 bits."""
    raw = text.encode()
    return (bytes([len(raw)]) if len(raw) < 127 else b"\x7f" + _varint(len(raw) - 127)) + raw


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[bool, str]:
    body = b""
    for _ in range(_FRAMES):
        head = await reader.readexactly(9)
        length, type, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        if length > _FRAME:
            return False, "error: health rpc probe failed: the answer is not HTTP/2"
        payload = await reader.readexactly(length)
        stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
        if type == _SETTINGS and not flags & _ACK:
            writer.write(_frame(_SETTINGS, _ACK, 0))
        elif type == _PING and not flags & _ACK:
            writer.write(_frame(_PING, _ACK, 0, payload))
        elif type in (_RESET, _GOAWAY):
            return False, f"error: health rpc probe failed: the server gave up; {_UNIMPLEMENTED}"
        elif stream == 1 and type == _DATA:
            body += _unpadded(payload) if flags & _PADDED else payload
        if stream == 1 and (flags & _END_STREAM or _complete(body)):
            return _judged(body)
    return False, "error: health rpc probe failed: no answer"


def _unpadded(payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if payload else b""


def _complete(body: bytes) -> bool:
    return len(body) >= 5 and len(body) >= 5 + int.from_bytes(body[1:5], "big")


def _judged(body: bytes) -> tuple[bool, str]:
    if not _complete(body):
        return False, f"error: health rpc probe failed: the server answered without a message; {_UNIMPLEMENTED}"
    message = body[5 : 5 + int.from_bytes(body[1:5], "big")]
    status = message[1] if len(message) >= 2 and message[0] == 0x08 else 0
    name = _NAMES[status] if status < len(_NAMES) else str(status)
    return (True, "service healthy") if status == 1 else (False, f'service unhealthy (responded with "{name}")')
