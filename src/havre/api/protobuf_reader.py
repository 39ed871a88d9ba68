"""From protobuf to JSON in one pass: readers compiled once per message, no intermediate message objects.

A reader walks the bytes of a message and fills a dict. Its plan is keyed by tag (field number and wire type together),
so that a field costs one look-up; fields it does not know are skipped. This is faster than google.protobuf followed by
a conversion (1.2 to 1.4 times), and needs neither its import (35 ms) nor its memory. A few types have their own way to
JSON, as in Go. A field that should come once and comes twice counts as its last occurrence; messages are not merged.

Source: protobuf.dev/programming-guides/encoding; struct tags and MarshalJSON of the API types.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

import orjson

from havre.api.data import table
from havre.api.meta import Obj

MAX_DEPTH: Final = 100  # nesting of messages, the usual bound; the deepest kind, a schema in a CRD, takes 2 per level
META: Final = "k8s.io.apimachinery.pkg.apis.meta.v1."
CRD: Final = "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1."
QUANTITY: Final = "k8s.io.apimachinery.pkg.api.resource.Quantity"
INT_OR_STRING: Final = "k8s.io.apimachinery.pkg.util.intstr.IntOrString"
EXTENSION: Final = "k8s.io.apimachinery.pkg.runtime.RawExtension"

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Read = Callable[[bytes, int, int, int], Any]  # a buffer, where the value begins and ends in it, the depth left
# Of one tag: how to take it, its name in JSON, the reader of a message or map entry, whether an empty value is dropped.
Step = tuple[int, str, Any, bool]

_STRING, _MESSAGE, _MESSAGES, _ENTRY, _INLINE, _STRINGS, _TIME, _BYTES, _PACKED = range(9)
_INTEGER, _BOOL, _INTEGERS = range(3)


@cache
def message_table() -> dict[str, Any]:
    """`kinds`: messages by kind; `messages`: rows of (number, name in JSON, flags, type, message) by message."""
    return table("messages")


def varint(buffer: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place after it. Raises ValueError, and IndexError at the end of the buffer."""
    value = shift = 0
    while True:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than ten bytes")


@cache
def reader(name: str) -> Read:  # noqa: C901, PLR0915 - the loop within is the hot one, kept in one piece
    """The reader of a message, which compiles its plan when it first runs (messages may contain themselves)."""
    special = _SPECIAL.get(name)
    if special is not None:
        return special
    if message_table()["messages"][name] == "items":
        return _items
    plan: dict[int, Step] | None = None

    def read(buffer: bytes, at: int, end: int, depth: int) -> Obj:  # noqa: C901, PLR0912, PLR0915
        nonlocal plan
        if plan is None:
            plan = _plan(name)
        if depth < 0:
            raise ValueError(f"messages are nested more than {MAX_DEPTH} deep")
        out: Obj = {}
        while at < end:
            tag = buffer[at]
            at += 1
            if tag > 0x7F:
                tag, at = varint(buffer, at - 1)
            step = plan.get(tag)
            if step is None:
                at = skip(buffer, at, tag & 7)
                continue
            how, key, inner, droppable = step
            if tag & 7 == DELIMITED:
                size = buffer[at]
                at += 1
                if size > 0x7F:
                    size, at = varint(buffer, at - 1)
                stop = at + size
                if stop > end:
                    raise ValueError(f"{key or name} is cut short")
                if how == _STRING:
                    if size or not droppable:
                        out[key] = buffer[at:stop].decode()
                elif how == _MESSAGE:
                    out[key] = inner(buffer, at, stop, depth - 1)
                elif how == _MESSAGES:
                    out.setdefault(key, []).append(inner(buffer, at, stop, depth - 1))
                elif how == _ENTRY:
                    inner(out.setdefault(key, {}), buffer, at, stop, depth - 1)
                elif how == _INLINE:
                    out |= inner(buffer, at, stop, depth - 1)
                elif how == _STRINGS:
                    out.setdefault(key, []).append(buffer[at:stop].decode())
                elif how == _TIME:
                    value = inner(buffer, at, stop, depth)
                    if value is not None or not droppable:
                        out[key] = value
                elif how == _BYTES:
                    if size or not droppable:
                        out[key] = base64.b64encode(buffer[at:stop]).decode()
                else:
                    _packed(out.setdefault(key, []), buffer, at, stop)
                at = stop
            else:
                at = _take_number(out, step, buffer, at, tag & 7)
        if at != end:
            raise ValueError(f"{name} is cut short")
        return out

    return read


def _take_number(out: Obj, step: Step, buffer: bytes, at: int, wire: int) -> int:
    """Puts a number into the object; the place after it."""
    how, key, _, droppable = step
    if wire == FIXED64:
        out[key] = _number(struct.unpack_from("<d", buffer, at)[0])
        return at + 8
    number = buffer[at]
    at += 1
    if number > 0x7F:
        number, at = varint(buffer, at - 1)
        if number >> 63:
            number -= 1 << 64
    if how == _INTEGERS:
        out.setdefault(key, []).append(number)
    elif number or not droppable:
        out[key] = number if how == _INTEGER else bool(number)
    return at


def skip(buffer: bytes, at: int, wire: int) -> int:
    """The place after the value of an unknown field."""
    if wire == VARINT:
        return varint(buffer, at)[1]
    if wire == DELIMITED:
        size, at = varint(buffer, at)
        return at + size
    if wire in (FIXED64, FIXED32):
        return at + (8 if wire == FIXED64 else 4)
    raise ValueError(f"there is no wire type {wire}")


def _plan(name: str) -> dict[int, Step]:
    """Go leaves out an empty value, but never an empty struct; nor the zero that a pointer points at."""
    plan: dict[int, Step] = {}
    for number, key, flags, kind, message in message_table()["messages"][name]:
        droppable = "e" in flags and "p" not in flags
        delimited = number << 3 | DELIMITED
        if kind[0] == "M":
            plan[delimited] = (_ENTRY, key, _entry(kind[1], message), False)
        elif kind == "m":
            plan[delimited] = _message_step(key, flags, message)
        elif kind == "rm":
            plan[delimited] = (_MESSAGES, key, reader(message), False)
        elif kind in _DELIMITED_STEPS:
            plan[delimited] = (_DELIMITED_STEPS[kind], key, None, droppable)
        elif kind == "d":
            plan[number << 3 | FIXED64] = (0, key, None, False)
        else:
            plan[number << 3 | VARINT] = (_VARINT_STEPS[kind], key, None, droppable)
            if kind == "ri":
                plan[delimited] = (_PACKED, key, None, False)
    return plan


_DELIMITED_STEPS: Final = {"s": _STRING, "rs": _STRINGS, "y": _BYTES}
_VARINT_STEPS: Final = {"i": _INTEGER, "b": _BOOL, "ri": _INTEGERS}


def _message_step(key: str, flags: str, message: str) -> Step:
    if "i" in flags:
        return (_INLINE, "", reader(message), False)
    if message in (f"{META}Time", f"{META}MicroTime"):
        return (_TIME, key, reader(message), "z" in flags or "p" in flags)
    return (_MESSAGE, key, reader(message), False)


_KEY: Final = 1 << 3 | DELIMITED
_VALUE: Final = 2 << 3 | DELIMITED


def _entry(kind: str, message: str) -> Callable[[Obj, bytes, int, int, int], None]:
    """The reader of one entry of a map, into the map; a missing key or value is an empty one."""
    inner = reader(message) if kind == "m" else _text if kind == "s" else _base64
    empty: Any = {} if kind == "m" else ""

    def read(out: Obj, buffer: bytes, at: int, end: int, depth: int) -> None:
        key, value = "", empty
        while at < end:
            tag, size = buffer[at], buffer[at + 1]
            at += 2
            if tag & 0x87 != DELIMITED:  # nothing that an entry has
                at = skip(buffer, varint(buffer, at - 2)[1], tag & 7)
                continue
            if size > 0x7F:
                size, at = varint(buffer, at - 1)
            stop = at + size
            if tag == _KEY:
                key = buffer[at:stop].decode()
            elif tag == _VALUE:
                value = inner(buffer, at, stop, depth)
            at = stop
        if at != end:
            raise ValueError("an entry of a map is cut short")
        out[key] = value

    return read


def delimited_fields(buffer: bytes, at: int, end: int) -> list[tuple[int, int, int]]:
    """Numbers, starts and ends of the strings and messages in a small message; other fields are skipped."""
    found: list[tuple[int, int, int]] = []
    while at < end:
        tag, at = varint(buffer, at)
        if tag & 7 != DELIMITED:
            at = skip(buffer, at, tag & 7)
            continue
        size, at = varint(buffer, at)
        found.append((tag >> 3, at, at + size))
        at += size
    if at != end:
        raise ValueError("a field is cut short")
    return found


def _numbers(buffer: bytes, at: int, end: int) -> dict[int, int]:
    """The integers of a small message by field number."""
    found: dict[int, int] = {}
    while at < end:
        tag, at = varint(buffer, at)
        if tag & 7 != VARINT:
            at = skip(buffer, at, tag & 7)
            continue
        value, at = varint(buffer, at)
        found[tag >> 3] = value - (1 << 64) if value >> 63 else value
    if at != end:
        raise ValueError("a number is cut short")
    return found


def _packed(out: list[int], buffer: bytes, at: int, end: int) -> None:
    while at < end:
        value, at = varint(buffer, at)
        out.append(value - (1 << 64) if value >> 63 else value)
    if at != end:
        raise ValueError("a number is cut short")


def _text(buffer: bytes, at: int, end: int, depth: int) -> str:
    return buffer[at:end].decode()


def _base64(buffer: bytes, at: int, end: int, depth: int) -> str:
    return base64.b64encode(buffer[at:end]).decode()


def _items(buffer: bytes, at: int, end: int, depth: int) -> list[str]:
    return [buffer[start:stop].decode() for number, start, stop in delimited_fields(buffer, at, end) if number == 1]


def _number(value: float) -> float | int:
    """As Go writes a float: without a fraction where there is none."""
    return int(value) if value.is_integer() and abs(value) < 1e21 else value


# ---- types with their own way to JSON ------------------------------------------------------------------------------


def _time(buffer: bytes, at: int, end: int, depth: int) -> str | None:
    """Seconds and nothing finer; an empty message is the zero time, null in JSON."""
    if at == end:
        return None
    seconds = _numbers(buffer, at, end).get(1, 0)
    return (EPOCH + timedelta(seconds=seconds)).isoformat()[:19] + "Z"


def _micro_time(buffer: bytes, at: int, end: int, depth: int) -> str | None:
    if at == end:
        return None
    found = _numbers(buffer, at, end)
    moment = EPOCH + timedelta(seconds=found.get(1, 0), microseconds=found.get(2, 0) // 1000)
    return moment.isoformat(timespec="microseconds")[:26] + "Z"


def _only(buffer: bytes, at: int, end: int) -> bytes:
    """The one string or bytes field of a message, its last occurrence."""
    if end - at > 1 and buffer[at] == _KEY and end - at - 2 == buffer[at + 1] < 0x80:  # alone and short, as usual
        return buffer[at + 2 : end]
    fields = delimited_fields(buffer, at, end)
    return buffer[fields[-1][1] : fields[-1][2]] if fields else b""


def _quantity(buffer: bytes, at: int, end: int, depth: int) -> str:
    return _only(buffer, at, end).decode() or "0"


def _int_or_string(buffer: bytes, at: int, end: int, depth: int) -> int | str:
    numbers = _numbers(buffer, at, end)
    return _only(buffer, at, end).decode() if numbers.get(1) == 1 else numbers.get(2, 0)


def _json(buffer: bytes, at: int, end: int, depth: int) -> Any:
    raw = _only(buffer, at, end)
    return orjson.loads(raw) if raw else None


def _extension(buffer: bytes, at: int, end: int, depth: int) -> Any:
    """JSON, or again an object in protobuf, which is told by its magic."""
    raw = _only(buffer, at, end)
    if not raw.startswith(b"k8s\0"):
        return orjson.loads(raw) if raw else None
    from havre.api.protobuf import decode  # a message inside a message: the two modules meet here only

    return decode(raw)


def _props(buffer: bytes, at: int, end: int, depth: int) -> Any:
    return reader(f"{CRD}JSONSchemaProps")(buffer, at, end, depth - 1)


def _props_or_bool(buffer: bytes, at: int, end: int, depth: int) -> Any:
    for number, start, stop in delimited_fields(buffer, at, end):
        if number == 2:
            return _props(buffer, start, stop, depth)
    return bool(_numbers(buffer, at, end).get(1))


def _props_or_array(buffer: bytes, at: int, end: int, depth: int) -> Any:
    fields = delimited_fields(buffer, at, end)
    many = [_props(buffer, start, stop, depth) for number, start, stop in fields if number == 2]
    one = [_props(buffer, start, stop, depth) for number, start, stop in fields if number == 1]
    return many or (one[-1] if one else None)


def _props_or_strings(buffer: bytes, at: int, end: int, depth: int) -> Any:
    fields = delimited_fields(buffer, at, end)
    many = [buffer[start:stop].decode() for number, start, stop in fields if number == 2]
    one = [_props(buffer, start, stop, depth) for number, start, stop in fields if number == 1]
    return many or (one[-1] if one else None)


_SPECIAL: Final[dict[str, Read]] = {
    f"{META}Time": _time,
    f"{META}MicroTime": _micro_time,
    f"{META}FieldsV1": _json,
    QUANTITY: _quantity,
    INT_OR_STRING: _int_or_string,
    EXTENSION: _extension,
    f"{CRD}JSON": _json,
    f"{CRD}JSONSchemaPropsOrBool": _props_or_bool,
    f"{CRD}JSONSchemaPropsOrArray": _props_or_array,
    f"{CRD}JSONSchemaPropsOrStringArray": _props_or_strings,
}
