"""The codec of netlink: a 16 byte header, a fixed part that depends on the kind, then attributes (type, length, value).

Numbers are of the machine's byte order, attributes begin at multiples of four. What comes in is checked against its
own length before it is read; a message that contradicts itself raises `Malformed`.

NetlinkError
├── Refused     the kernel said no: errno and, where it gives one, its reason
└── Malformed   bytes that are not netlink

Source: linux/netlink.h.
"""

from __future__ import annotations

import errno as numbers
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

HEADER = struct.Struct("=IHHII")  # length, kind, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")  # length, type
MOST_ATTRIBUTES = 4096  # of one message; the kernel's largest (a link with all its statistics) has under 100

# kinds of message that every netlink family has
NOOP, ERROR, DONE, OVERRUN = 1, 2, 3, 4

# flags
REQUEST, MULTI, ACK, DUMP_INTERRUPTED = 0x1, 0x2, 0x4, 0x10
REPLACE, EXCLUSIVE, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
DUMP = 0x300
CAPPED, ACK_ATTRIBUTES = 0x100, 0x200  # of an ERROR message

NESTED = 0x8000
TYPE_MASK = 0x3FFF
REASON = 1  # NLMSGERR_ATTR_MSG

Attributes = dict[int, bytes]


class NetlinkError(Exception):
    """A request to the kernel that did not do what it should."""


class Malformed(NetlinkError):
    """The bytes are not netlink messages."""


class Refused(NetlinkError):
    """The kernel refused a request; `errno` says why, the message what was attempted."""

    def __init__(self, what: str, errno: int, reason: str = "") -> None:
        name = numbers.errorcode.get(errno, str(errno))
        super().__init__(f"{what}: {name} {os.strerror(errno)}" + (f" ({reason})" if reason else ""))
        self.errno = errno


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to ask: `what` is for people, `accept` are errors that mean it is already as it should be."""

    what: str
    kind: int
    flags: int
    body: bytes
    accept: tuple[int, ...] = ()

    def encode(self, sequence: int, flags: int = 0) -> bytes:
        length = HEADER.size + len(self.body)
        head = HEADER.pack(length, self.kind, self.flags | flags | REQUEST, sequence, 0)
        return head + self.body + bytes(-length % 4)


@dataclass(frozen=True, slots=True)
class Message:
    """One message from the kernel."""

    kind: int
    flags: int
    sequence: int
    body: bytes

    def attributes(self, skip: int) -> Attributes:
        """The attributes after the fixed part of `skip` bytes."""
        return attributes(self.body, skip)


def attribute(kind: int, value: bytes) -> bytes:
    length = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *values: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NESTED, b"".join(values))


def text(kind: int, value: str) -> bytes:
    """A string attribute, ended by a zero byte as the kernel wants it."""
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def attributes(data: bytes, start: int = 0) -> Attributes:
    """Attributes by type; of one that comes twice, the last. Raises Malformed."""
    found: Attributes = {}
    position, end = start, len(data)
    for _ in range(MOST_ATTRIBUTES):
        if end - position < ATTRIBUTE.size:
            return found
        length, kind = ATTRIBUTE.unpack_from(data, position)
        if length < ATTRIBUTE.size or position + length > end:
            raise Malformed(f"attribute {kind & TYPE_MASK} claims {length} bytes, {end - position} are left")
        found[kind & TYPE_MASK] = data[position + ATTRIBUTE.size : position + length]
        position += length + (-length % 4)
    raise Malformed(f"more than {MOST_ATTRIBUTES} attributes")


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram, in order. Raises Malformed."""
    position, end = 0, len(data)
    while end - position >= HEADER.size:
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, position)
        if length < HEADER.size or position + length > end:
            raise Malformed(f"message of kind {kind} claims {length} bytes, {end - position} are left")
        yield Message(kind, flags, sequence, data[position + HEADER.size : position + length])
        position += length + (-length % 4)


def outcome(message: Message) -> tuple[int, str]:
    """The errno of an ERROR message (0: done) and the kernel's own words. Raises Malformed."""
    if len(message.body) < 4:
        raise Malformed("an error message without an error")
    number = -int.from_bytes(message.body[:4], sys.byteorder, signed=True)
    return number, _reason(message)


def _reason(message: Message) -> str:
    """The text of the extended acknowledgement, which follows the (possibly left out) copy of the request."""
    if not message.flags & ACK_ATTRIBUTES or len(message.body) < 4 + HEADER.size:
        return ""
    (copied,) = struct.unpack_from("=I", message.body, 4)
    start = 4 + (HEADER.size if message.flags & CAPPED else copied + (-copied % 4))
    if start > len(message.body):
        raise Malformed(f"an error message claims a request of {copied} bytes")
    return attributes(message.body, start).get(REASON, b"").rstrip(b"\0").decode("utf-8", "replace")
