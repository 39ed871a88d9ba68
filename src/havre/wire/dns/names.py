"""Names in wire form: from text, to text, out of a message.

Source: RFC 1035 §3.1, §4.1.4, §5.1; RFC 4343 (letters are compared without case).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

LONGEST = 255
LONGEST_LABEL = 63
MOST_POINTERS = 32  # servers use one or two; a chain of thousands only costs time

ROOT = b"\0"


class Malformed(ValueError):
    """The bytes, or the text, are not what DNS allows."""


def name(text: str) -> bytes:
    """The wire form of a name; a final dot changes nothing. Raises Malformed."""
    if text in {"", "."}:
        return ROOT
    labels = _split(text)
    if not labels[-1]:
        labels.pop()
    return join(*labels)


def join(*labels: bytes, under: bytes = ROOT) -> bytes:
    """Labels in front of a name. Raises Malformed."""
    for label in labels:
        if not 0 < len(label) <= LONGEST_LABEL:
            raise Malformed(f"a label has 1 to {LONGEST_LABEL} bytes, not {len(label)}: {label[:80]!r}")
    whole = b"".join([bytes([len(label)]) + label for label in labels]) + under
    if len(whole) > LONGEST:
        raise Malformed(f"a name has at most {LONGEST} bytes, not {len(whole)}")
    return whole


def text(wire: bytes) -> str:
    """For people and for the API: without the final dot; what is not printable is written \\DDD."""
    return ".".join("".join(map(_shown, label)) for label in labels(wire)) or "."


def labels(wire: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(wire) and (size := wire[position]):
        yield wire[position + 1 : position + 1 + size]
        position += 1 + size


def parent(wire: bytes) -> bytes:
    """The name without its first label; the root is its own."""
    return wire[1 + wire[0] :] or ROOT


def above(wire: bytes, top: bytes) -> Iterator[bytes]:
    """The names between one and its ancestor `top`, nearest first; without both."""
    found = parent(wire)
    while len(found) > len(top):
        yield found
        found = parent(found)


def is_under(wire: bytes, top: bytes) -> bool:
    """It is `top`, or below it; both folded."""
    while len(wire) > len(top):
        wire = parent(wire)
    return wire == top


def read(message: bytes, offset: int) -> tuple[bytes, int]:
    """The name at an offset of a message, in one piece, and where what follows it begins. Raises Malformed."""
    parts: list[bytes] = []
    length, after, pointers = 1, -1, 0
    position = lowest = offset
    while True:
        if position >= len(message):
            raise Malformed("a name ends outside the message")
        size = message[position]
        if size == 0:
            parts.append(ROOT)
            return b"".join(parts), after if after >= 0 else position + 1
        if size <= LONGEST_LABEL:
            following = position + 1 + size
            length += 1 + size
            if following > len(message) or length > LONGEST:
                raise Malformed("a name is longer than the message, or than a name can be")
            parts.append(message[position:following])
            position = following
            continue
        if size < 0xC0 or position + 1 >= len(message):
            raise Malformed("a label of a kind that does not exist")
        if after < 0:
            after = position + 2
        position = (size & 0x3F) << 8 | message[position + 1]
        pointers += 1
        if position >= lowest or pointers > MOST_POINTERS:  # each must lead further back, so that this ends
            raise Malformed("a name points forward, to itself, or on and on")
        lowest = position


def reversed_ip(packed: bytes) -> bytes:
    """The name under in-addr.arpa or ip6.arpa that stands for an address."""
    if len(packed) == 4:
        return join(*(str(byte).encode() for byte in reversed(packed)), under=IN_ADDR)
    return join(*(b"%x" % digit for byte in reversed(packed) for digit in (byte & 15, byte >> 4)), under=IP6)


def ip_of(wire: bytes) -> bytes | None:
    """The four bytes of the IPv4 address that a whole name under in-addr.arpa stands for."""
    parts = [*labels(wire)]
    if len(parts) != 6 or not wire.endswith(IN_ADDR):
        return None
    digits = [part.decode("latin-1") for part in reversed(parts[:4])]
    try:
        return ipaddress.IPv4Address(".".join(digits)).packed
    except ValueError:
        return None


def _split(text: str) -> list[bytes]:
    """Labels of the presentation form, in which a backslash protects a byte or gives it as three digits."""
    labels, current, position = [], bytearray(), 0
    if len(text) > 4 * LONGEST:
        raise Malformed(f"a name of {len(text)} characters")
    while position < len(text):
        character = text[position]
        if character == ".":
            labels.append(bytes(current))
            current.clear()
            position += 1
        elif character == "\\":
            byte, position = _escaped(text, position + 1)
            current.append(byte)
        elif character.isascii():
            current.append(ord(character))
            position += 1
        else:
            raise Malformed(f"{text!r} is not ASCII; write international names in their xn-- form")
    labels.append(bytes(current))
    return labels


def _escaped(text: str, position: int) -> tuple[int, int]:
    digits = text[position : position + 3]
    if len(digits) == 3 and digits.isascii() and digits.isdigit():
        if int(digits) > 255:
            raise Malformed(f"\\{digits} is not a byte")
        return int(digits), position + 3
    if not digits or not digits[0].isascii() or digits[0].isdigit():
        raise Malformed(f"{text!r}: a backslash without a character or three digits")
    return ord(digits[0]), position + 1


def _shown(byte: int) -> str:
    if byte in b'."\\;()@$':
        return f"\\{byte:c}"
    return f"{byte:c}" if 0x21 <= byte <= 0x7E else f"\\{byte:03d}"


IN_ADDR = join(b"in-addr", b"arpa")
IP6 = join(b"ip6", b"arpa")
