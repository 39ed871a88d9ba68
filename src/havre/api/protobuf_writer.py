"""From JSON to protobuf: writers compiled once per message, from the same table as the readers.

A writer joins the bytes of the fields that an object has, in the order it has them, which the format allows. What an
object does not have is not written: readers in Go take the zero value for it.

Source: protobuf.dev/programming-guides/encoding; struct tags and UnmarshalJSON of the API types.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any, Final

import orjson

from havre.api.protobuf_reader import (
    CRD,
    DELIMITED,
    EPOCH,
    EXTENSION,
    FIXED64,
    INT_OR_STRING,
    META,
    QUANTITY,
    VARINT,
    message_table,
)

Encode = Callable[[Any], bytes]  # a value to the bytes of its field, tag included

_SMALL: Final = tuple(bytes([n]) for n in range(0x80))  # the varints of one byte: most tags, lengths and values


def varint(value: int) -> bytes:
    """Ten bytes for a negative number, which is written as its 64-bit complement."""
    if 0 <= value < 0x80:
        return _SMALL[value]
    if value < 0:
        value += 1 << 64
    if value >> 64:
        raise OverflowError(f"{value} has more than 64 bits")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def length(raw: bytes) -> bytes:
    size = len(raw)
    return _SMALL[size] if size < 0x80 else varint(size)


def text(value: str) -> bytes:
    raw = value.encode()
    size = len(raw)
    return (_SMALL[size] if size < 0x80 else varint(size)) + raw


@cache
def writer(name: str) -> Encode:
    """From the JSON of a message to its bytes; as a reader, compiled when it first runs."""
    special = _SPECIAL_WRITERS.get(name)
    if special is not None:
        return special
    if message_table()["messages"][name] == "items":
        return lambda value: b"".join(b"\x0a" + text(item) for item in value)
    plans: Writers | None = None

    def write(value: dict[str, Any]) -> bytes:
        nonlocal plans
        if plans is None:
            plans = _writers(name)
        plan, inlined = plans
        parts: list[bytes] = []
        inner: dict[bytes, dict[str, Any]] = {}
        for key, item in value.items():
            if item is None:
                continue
            encode_field = plan.get(key)
            if encode_field is not None:
                parts.append(encode_field(item))
            elif key in inlined:
                inner.setdefault(inlined[key][0], {})[key] = item
        for tag, fields in inner.items():
            raw = inlined[next(iter(fields))][1](fields)
            parts += (tag, length(raw), raw)
        return b"".join(parts)

    return write


# By name in JSON: the writers of a message's own fields; for fields of a message inlined in it, its tag and its writer.
Writers = tuple[dict[str, Encode], dict[str, tuple[bytes, Encode]]]


def _writers(name: str) -> Writers:
    plan: dict[str, Encode] = {}
    inlined: dict[str, tuple[bytes, Encode]] = {}
    for number, key, flags, kind, message in message_table()["messages"][name]:
        if "i" in flags:
            inlined |= dict.fromkeys(_keys(message), (_tag(number, DELIMITED), writer(message)))
        else:
            plan[key] = _field_writer(number, kind, message)
    return plan, inlined


def _keys(name: str) -> list[str]:
    """The fields in JSON of an inlined message, those of messages inlined in it too."""
    keys: list[str] = []
    for _, key, flags, _, message in message_table()["messages"][name]:
        keys += _keys(message) if "i" in flags else [key]
    return keys


def _tag(number: int, wire: int) -> bytes:
    return varint(number << 3 | wire)


def _field_writer(number: int, kind: str, message: str) -> Encode:
    if kind[0] == "M":
        return _map(number, _one(2, kind[1], message))
    if kind[0] == "r":
        one = _one(number, kind[1], message)
        return lambda values: b"".join([one(value) for value in values])
    return _one(number, kind, message)


def _map(number: int, one: Encode) -> Encode:
    tag = _tag(number, DELIMITED)

    def write(values: dict[str, Any]) -> bytes:
        parts: list[bytes] = []
        for key in sorted(values):
            entry = b"\x0a" + text(key) + one(values[key])
            parts += (tag, length(entry), entry)
        return b"".join(parts)

    return write


def _one(number: int, kind: str, message: str) -> Encode:
    """The writer of one value, tag first. JSON's types are checked by the schema before; the wire needs no more."""
    if kind == "m":
        return _delimited(number, writer(message))
    if kind == "y":
        return _delimited(number, base64.b64decode)
    if kind == "s":
        string = _tag(number, DELIMITED)
        return lambda value: string + text(value)
    if kind == "d":
        double = _tag(number, FIXED64)
        return lambda value: double + struct.pack("<d", value)
    integer = _tag(number, VARINT)
    return lambda value: integer + varint(int(value))


def _delimited(number: int, inner: Callable[[Any], bytes]) -> Encode:
    tag = _tag(number, DELIMITED)

    def write(value: Any) -> bytes:
        raw = inner(value)
        return tag + length(raw) + raw

    return write


def _write_time(value: str) -> bytes:
    at = datetime.fromisoformat(value) - EPOCH
    seconds, nanos = at.days * 86400 + at.seconds, at.microseconds * 1000
    return b"\x08" + varint(seconds) + b"\x10" + varint(nanos)


def _write_int_or_string(value: int | str) -> bytes:
    if isinstance(value, str):
        return b"\x08\x01\x10\x00\x1a" + text(value)
    return b"\x08\x00\x10" + varint(value) + b"\x1a\x00"


def _write_json(value: Any) -> bytes:
    raw = orjson.dumps(value)
    return b"\x0a" + length(raw) + raw


def _write_quantity(value: str | int | float) -> bytes:
    return b"\x0a" + text(str(value))


def _write_props(number: int, value: Any) -> bytes:
    raw = writer(f"{CRD}JSONSchemaProps")(value)
    return _tag(number, DELIMITED) + length(raw) + raw


def _write_props_or_bool(value: Any) -> bytes:
    if isinstance(value, bool):
        return b"\x08" + varint(value)
    return b"\x08\x01" + _write_props(2, value)


def _write_props_or_array(value: Any) -> bytes:
    if isinstance(value, list):
        return b"".join(_write_props(2, item) for item in value)
    return _write_props(1, value)


def _write_props_or_strings(value: Any) -> bytes:
    if isinstance(value, list):
        return b"".join(b"\x12" + text(item) for item in value)
    return _write_props(1, value)


_SPECIAL_WRITERS: Final[dict[str, Encode]] = {
    f"{META}Time": _write_time,
    f"{META}MicroTime": _write_time,
    f"{META}FieldsV1": _write_json,
    QUANTITY: _write_quantity,
    INT_OR_STRING: _write_int_or_string,
    EXTENSION: _write_json,
    f"{CRD}JSON": _write_json,
    f"{CRD}JSONSchemaPropsOrBool": _write_props_or_bool,
    f"{CRD}JSONSchemaPropsOrArray": _write_props_or_array,
    f"{CRD}JSONSchemaPropsOrStringArray": _write_props_or_strings,
}
