"""Would Go decode this as a built-in kind, and to what? Custom kinds are not decoded into structs.

What Go coerces is written back: null is the zero value (a field is dropped, an entry of a map or list becomes the
zero of its type), a quantity gets its canonical text, a time whole seconds in UTC. The first misfit in the order of
the document ends it, in the words of encoding/json. A float that stands for an integer is refused as there, printed
as Python prints it.

Source: sigs.k8s.io/json (a fork of encoding/json); k8s.io/apimachinery, pkg/apis/meta/v1/{time,micro_time}.go.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from havre.kit import quantity
from havre.lang.schema import Schema

Obj = dict[str, Any]
Decode = Callable[[Any], Any]

_WORDS: dict[type, str] = {
    bool: "bool",
    int: "number",
    float: "number",
    str: "string",
    dict: "object",
    list: "array",
    type(None): "null",
}
_PLAIN: dict[str, type] = {"string": str, "boolean": bool}
_SCALARS = {"string": "string", "boolean": "bool", "number": "float64"}
_ZEROS: dict[str, Any] = {"string": "", "boolean": False, "integer": 0, "number": 0, "object": {}}
_RANGES = {"int32": 2**31, "int64": 2**63}
_LAYOUT = (
    ("2006", r"\d{4}"),
    ("-", "-"),
    ("01", r"\d\d"),
    ("-", "-"),
    ("02", r"\d\d"),
    ("T", "T"),
    ("15", r"\d{1,2}"),
    (":", ":"),
    ("04", r"\d\d"),
    (":", ":"),
    ("05", r"\d\d(?:[.,]\d+)?"),
    ("Z07:00", r"Z|[+-]\d\d:\d\d"),
)
_SECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


class _Misfit(Exception):
    """Unwinds to the root; every struct on the way adds the name of its field."""

    def __init__(self, words: str, wanted: str = "") -> None:
        super().__init__(words)
        self.words = words
        self.wanted = wanted
        self.struct = ""
        self.path: list[str] = []

    def __str__(self) -> str:
        if not self.wanted:
            return self.words
        place = f"Go struct field {self.struct}.{'.'.join(reversed(self.path))}" if self.struct else "Go value"
        return f"json: cannot unmarshal {self.words} into {place} of type {self.wanted}"


def check_types(schema: Schema) -> Callable[[Obj], str]:
    """Normalizes an object in place; the reason why it cannot be decoded, "" when it can."""
    decode = _Compiler().node(schema)

    def run(obj: Obj) -> str:
        try:
            decode(obj)
        except _Misfit as misfit:
            return str(misfit)
        return ""

    return run


def go_type(schema: Schema) -> str:
    """The Go type as far as OpenAPI tells: `v1.PodSpec`, `[]string`, `map[string]string`, `int32`."""
    if _kind(schema) in ("Time", "MicroTime", "Quantity"):
        return "string"
    if schema.int_or_string:
        return "int32"
    if schema.name:
        return ".".join(schema.name.split(".")[-2:])
    if schema.type == "array" and schema.items:
        return f"[]{go_type(schema.items)}"
    if schema.type == "object" and schema.additional:
        return (
            "v1.ResourceList" if _kind(schema.additional) == "Quantity" else f"map[string]{go_type(schema.additional)}"
        )
    if schema.type == "integer":
        return str(schema.raw.get("format") or "int64")
    if schema.raw.get("format") == "byte":
        return "[]uint8"
    return _SCALARS.get(schema.type, schema.type)


def _kind(schema: Schema) -> str:
    """The last word of the definition's name; a time is known by its format even where the name is lost."""
    if schema.name:
        return schema.name.rpartition(".")[2]
    return "Time" if schema.raw.get("format") == "date-time" else ""


def _mismatch(value: Any, wanted: str) -> _Misfit:
    return _Misfit(_WORDS[value.__class__], wanted)


class _Compiler:
    def __init__(self) -> None:
        self._made: dict[int, list[Decode]] = {}

    def node(self, schema: Schema) -> Decode:
        cell = self._made.get(id(schema))
        if cell is None:
            cell = self._made[id(schema)] = []
            cell.append(self._make(schema))
        return cell[0] if cell else _later(cell)

    def _make(self, schema: Schema) -> Decode:
        leaf = _leaf(schema)
        if leaf:
            return leaf
        if schema.type == "array" and schema.items:
            return self._list(schema, schema.items)
        if schema.type == "object" and schema.properties:
            return self._struct(schema)
        if schema.type == "object" and schema.additional:
            return self._map(schema, schema.additional)
        return _anything

    def _struct(self, schema: Schema) -> Decode:
        decoders = {key: self.node(child) for key, child in schema.properties.items()}
        plain: dict[str, Any] = {key: _plain(schema.properties[key]) or decode for key, decode in decoders.items()}
        wanted = go_type(schema)
        struct = wanted.rpartition(".")[2]

        def decode(obj: Any) -> Any:
            if obj.__class__ is not dict:
                raise _mismatch(obj, wanted)
            changed: list[tuple[str, Any]] | None = None
            key = ""
            try:
                for key, value in obj.items():
                    expected = plain.get(key)
                    if expected is value.__class__ or expected is None:
                        continue
                    new = None if value is None else decoders[key](value)
                    if new is not value or new is None:
                        changed = [*(changed or ()), (key, new)]
            except _Misfit as misfit:
                misfit.struct = misfit.struct or struct
                misfit.path.append(key)
                raise
            if changed:
                for key, new in changed:
                    if new is None:
                        del obj[key]
                    else:
                        obj[key] = new
            return obj

        return decode

    def _map(self, schema: Schema, values: Schema) -> Decode:
        element = self.node(values)
        cls = _plain(values)
        wanted = go_type(schema)

        def decode(obj: Any) -> Any:
            if obj.__class__ is not dict:
                raise _mismatch(obj, wanted)
            for key, value in obj.items():
                if value.__class__ is not cls:
                    new = _zero(values) if value is None else element(value)
                    if new is not value:
                        obj[key] = new  # the set of keys stays as it is
            return obj

        return decode

    def _list(self, schema: Schema, items: Schema) -> Decode:
        element = self.node(items)
        cls = _plain(items)
        wanted = go_type(schema)

        def decode(values: Any) -> Any:
            if values.__class__ is not list:
                raise _mismatch(values, wanted)
            for index, value in enumerate(values):
                if value.__class__ is not cls:
                    new = _zero(items) if value is None else element(value)
                    if new is not value:
                        values[index] = new
            return values

        return decode


def _later(cell: list[Decode]) -> Decode:
    """The decoder of a definition that is still being compiled, because it contains itself."""
    return lambda value: cell[0](value)  # noqa: PLW0108 — the cell is empty now


def _plain(schema: Schema) -> type | None:
    """The class of a value that needs no further look."""
    return (
        None
        if schema.raw.get("format") or schema.int_or_string or _kind(schema) == "Quantity"
        else _PLAIN.get(schema.type)
    )


def _zero(schema: Schema) -> Any:
    if _kind(schema) == "Quantity":
        return "0"
    return {} if schema.type == "object" else _ZEROS.get(schema.type)


def _anything(value: Any) -> Any:
    return value


def _leaf(schema: Schema) -> Decode | None:
    kind, name = _kind(schema), schema.raw.get("format")
    if kind == "Quantity":
        return _quantity
    if kind in ("Time", "MicroTime"):
        return _micro_time if kind == "MicroTime" else _time
    if schema.int_or_string:
        return lambda value: value if value.__class__ is str else _integer(value, "int32")
    if schema.type == "integer":
        width = str(name or "int64")
        return lambda value: _integer(value, width)
    if schema.type == "number":
        return _number
    if schema.type == "string" and name == "byte":
        return _bytes
    cls = _PLAIN.get(schema.type)
    return (lambda value: _exactly(value, cls, go_type(schema))) if cls else None


def _exactly(value: Any, cls: type, wanted: str) -> Any:
    if value.__class__ is not cls:
        raise _mismatch(value, wanted)
    return value


def _integer(value: Any, width: str) -> Any:
    limit = _RANGES.get(width, 2**63)
    if value.__class__ is int and -limit <= value < limit:
        return value
    if value.__class__ in (int, float):
        raise _Misfit(f"number {value!r}", width)
    raise _mismatch(value, width)


def _number(value: Any) -> Any:
    if value.__class__ not in (int, float):
        raise _mismatch(value, "float64")
    return value


def _quantity(value: Any) -> Any:
    if value.__class__ not in (str, int, float):
        raise _Misfit(quantity.FORM_ERROR)
    text = value if value.__class__ is str else json.dumps(value)
    try:
        new = str(quantity.parse(text))
    except quantity.QuantityError as e:
        raise _Misfit(str(e)) from e
    return value if new == value else new


def _bytes(value: Any) -> Any:
    if value.__class__ is not str:
        raise _mismatch(value, "[]uint8")
    text = value.replace("\r", "").replace("\n", "")
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise _Misfit(f"illegal base64 data at input byte {_bad_byte(text)}") from e
    return value if len(text) == len(value) else text


def _bad_byte(text: str) -> int:
    """Where Go's decoder stops: at a foreign character, otherwise at the group that is not whole."""
    foreign = re.search(r"[^A-Za-z0-9+/=]", text)
    if foreign:
        return foreign.start()
    padding = text.find("=")
    if padding >= 0 and padding % 4 > 1 and len(text) > padding - padding % 4 + 4:
        return padding - padding % 4 + 4
    return padding if padding >= 0 and padding % 4 < 2 else len(text) - len(text) % 4


def _time(value: Any) -> Any:
    if value.__class__ is str and _SECONDS.fullmatch(value) and _in_range(value):
        return value
    return _parsed_time(value, "2006-01-02T15:04:05Z07:00").isoformat(timespec="seconds")[:19] + "Z"


def _micro_time(value: Any) -> Any:
    new = _parsed_time(value, "2006-01-02T15:04:05.000000Z07:00").isoformat(timespec="microseconds")[:26] + "Z"
    return value if new == value else new


def _in_range(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _parsed_time(value: Any, layout: str) -> datetime:
    """A time in UTC, or the words of Go's time.Parse about the first part that does not fit."""
    if value.__class__ is not str:
        raise _mismatch(value, "string")
    rest = value
    for part, pattern in _LAYOUT:
        found = re.match(pattern, rest, re.ASCII)
        if not found:
            raise _Misfit(f'parsing time {_quoted(value)} as "{layout}": cannot parse {_quoted(rest)} as "{part}"')
        rest = rest[found.end() :]
    if rest:
        raise _Misfit(f"parsing time {_quoted(value)}: extra text: {_quoted(rest)}")
    try:
        seconds = re.sub(r"[.,](\d{1,6})\d*", r".\1", value)
        return datetime.fromisoformat(re.sub(r"T(\d):", r"T0\1:", seconds)).astimezone(UTC)
    except (ValueError, OverflowError) as e:
        raise _Misfit(f"parsing time {_quoted(value)}: {_out_of_range(value)} out of range") from e


def _out_of_range(text: str) -> str:
    if not "01" <= text[5:7] <= "12":
        return "month"
    return "day" if not "01" <= text[8:10] <= "28" else "hour"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
