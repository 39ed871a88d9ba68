"""Read one message of a stream: `<u8 compressed><u32 length><message>`, with a limit before anything is kept.

grpclib reads whatever length the other side announces; here the length is judged first. Both ends announce no
compression, so that a compressed message is an error of the other side.

Source: grpc.io, "gRPC over HTTP2", Length-Prefixed-Message.
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from havre.wire.grpc.errors import GrpcError, Status

LIMIT = 16 << 20  # bytes of one message: what containerd's client accepts, and its server sends at most
_HEAD = struct.Struct(">BI")


class Source(Protocol):
    """The half of an HTTP/2 stream that is read; `recv_data` gives exactly `size` bytes, or b"" at the end."""

    async def recv_data(self, size: int) -> bytes: ...


async def receive(source: Source, message: Any) -> Any:
    """The next message of this class, None at the end. Raises GrpcError."""
    head = await _exactly(source, _HEAD.size)
    if not head:
        return None
    compressed, length = _HEAD.unpack(head)
    if compressed:
        raise GrpcError(Status.UNIMPLEMENTED, "read a message: it is compressed, and no compression was agreed on")
    if length > LIMIT:
        raise GrpcError(Status.RESOURCE_EXHAUSTED, f"read a message of {length} bytes: the limit is {LIMIT}")
    data = await _exactly(source, length)
    if len(data) != length:
        raise GrpcError(Status.INTERNAL, f"read a message of {length} bytes: the stream ended after {len(data)}")
    return parse(message, data)


def parse(message: Any, data: bytes) -> Any:
    """Raises GrpcError."""
    try:
        return message.FromString(data)
    except DecodeError as e:
        raise GrpcError(Status.INTERNAL, f"decode {message.DESCRIPTOR.full_name} of {len(data)} bytes: {e}") from e


async def _exactly(source: Source, size: int) -> bytes:
    try:
        return await source.recv_data(size)
    except AssertionError as e:  # how grpclib says that the stream ended inside
        raise GrpcError(Status.INTERNAL, f"read {size} bytes: the stream ended before") from e
