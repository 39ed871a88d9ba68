"""JSON as the API server reads and writes it: bounded, exact about integers, able to name repeated keys.

- A whole number that fits 64 signed bits is an `int`, any other number a `float`.
- A lone surrogate (`"\\ud800"`) and bytes that are not UTF-8 are errors; Go would put U+FFFD there.
- A document nests at most `MAX_DEPTH` levels; Go allows 10,000, the parser below this module 1,024.

Source: sigs.k8s.io/json, and Go's encoding/json for the words of the errors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

import orjson

# orjson writes at most 254 levels; walkers of objects recurse with up to three frames a level, and Python allows 1,000.
MAX_DEPTH: Final = 250
MAX_DUPLICATES: Final = 100  # strict decoding stops counting there, as upstream

_INT64_MIN = -(2**63)
_INT64_MAX = 2**63 - 1
_CONTAINERS = (dict, list)


class JSONError(ValueError):
    """A text that is not the JSON we take; `position` counts characters from 0."""

    def __init__(self, message: str, position: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


def loads(data: bytes | str, *, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON text. Raises JSONError."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        raise JSONError(_in_go_words(raw, e), e.pos) from e
    # only what holds something can hold a level more; managedFields is full of {}
    holders = raw.count(b"{") + raw.count(b"[") - raw.count(b"{}") - raw.count(b"[]")
    if holders >= max_depth and deeper_than(value, max_depth):
        raise JSONError(f"exceeded max depth: the document nests more than {max_depth} levels")
    return _without_big_ints(value) if _NINETEEN in raw.translate(_DIGITS) else value


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8, keys in their order. Raises JSONError for what JSON cannot say."""
    try:
        return orjson.dumps(value)
    except TypeError as e:
        raise JSONError(f"write JSON: {e}") from e


def dumps_sorted(value: Any) -> bytes:
    """Compact JSON with sorted keys: one text for equal values."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError as e:
        raise JSONError(f"write JSON: {e}") from e


def duplicate_keys(data: bytes | str, parsed: Any = None) -> list[str]:
    """Paths of keys that occur twice in one object (`metadata.labels.a`, `spec.containers[0].name`), in reading order.

    With `parsed`, the value that `loads` gave for `data`, a text without repetition costs one serialisation: a
    dropped key takes its quotes with it, so equal numbers of quotes mean that nothing was dropped.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if parsed is not None and rb"\u0022" not in raw and raw.count(b'"') == orjson.dumps(parsed).count(b'"'):
        return []
    try:
        root = json.loads(raw, object_pairs_hook=_Pairs, parse_int=_ignored, parse_float=_ignored)
    except RecursionError as e:
        raise JSONError("exceeded max depth: the document nests too many levels") from e
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise JSONError(f"invalid JSON: {e}", getattr(e, "pos", 0)) from e
    found: dict[str, None] = {}
    for path in _repeated(root, ""):
        found[path] = None
        if len(found) == MAX_DUPLICATES:
            break
    return list(found)


class _Pairs(list[tuple[str, Any]]):
    """An object with all its members, repeated ones included."""


def _ignored(_: str) -> int:
    return 0  # only keys matter here, and Python refuses to parse integers of 4,300 digits


def _repeated(node: Any, path: str) -> Iterator[str]:
    if type(node) is _Pairs:
        seen: set[str] = set()
        for key, value in node:
            here = f"{path}.{key}" if path else key
            if key in seen:
                yield here
            seen.add(key)
            if isinstance(value, list):
                yield from _repeated(value, here)
    elif type(node) is list:
        for index, value in enumerate(node):
            if isinstance(value, list):
                yield from _repeated(value, f"{path}[{index}]")


def deeper_than(value: Any, limit: int) -> bool:
    """Level by level, so that the question itself cannot overflow the stack."""
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(limit):
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) in _CONTAINERS
        ]
        if not level:
            return False
    return bool(level)


# 2**63 has 19 digits: every digit becomes 0, anything else x, then one search for nineteen zeros (3 µs for 4 kB,
# a regular expression takes 33 µs)
_DIGITS = bytes(ord("0") if 48 <= byte < 58 else ord("x") for byte in range(256))
_NINETEEN = b"0" * 19


def _without_big_ints(value: Any) -> Any:
    """Integers beyond 64 signed bits as floats, in place: the value is fresh from the parser."""
    if type(value) is int:
        return value if _INT64_MIN <= value <= _INT64_MAX else float(value)
    if type(value) is dict:
        for key, item in value.items():
            value[key] = _without_big_ints(item)
    elif type(value) is list:
        value[:] = map(_without_big_ints, value)
    return value


_PHRASES = {  # what orjson says: what Go says about the character there
    "unexpected character, expected a JSON value": "looking for beginning of value",
    "unexpected content after document": "after top-level value",
    "unexpected character, expected a string key": "looking for beginning of object key string",
    "unexpected character, expected ':' after key": "after object key",
    "unexpected character, expected ',' or '}'": "after object key:value pair",
    "unexpected character, expected ',' or ']'": "after array element",
    "unexpected control character in string": "in string literal",
    "invalid escaped sequence in string": "in string escape code",
    "no digit after sign": "looking for beginning of value",
}
_ENDS = frozenset({"unexpected end of data", "Input is a zero-length, empty document", "input data is empty"})
_number = re.compile(rb"[-+0-9.eE]+").match


def _in_go_words(raw: bytes, error: orjson.JSONDecodeError) -> str:
    if error.msg in _ENDS:
        return "unexpected end of JSON input"
    if error.msg.startswith("depth limit exceeded"):
        return f"exceeded max depth: the document nests more than {MAX_DEPTH} levels"
    text = raw.decode("utf-8", "replace")
    if error.msg.startswith("number is infinity"):
        digits = _number(text[error.pos :].encode())
        return (
            f"json: cannot unmarshal number {digits.group().decode() if digits else ''} into Go value of type float64"
        )
    if error.msg.startswith("trailing comma"):
        closing = text[error.pos + 1 :].lstrip()[:1]
        after = "value" if closing == "]" else "object key string"
        return f"invalid character {_quoted(closing)} looking for beginning of {after}"
    phrase = _PHRASES.get(error.msg)
    if phrase is None:
        return f"invalid JSON at character {error.pos}: {error.msg}"
    return f"invalid character {_quoted(text[error.pos : error.pos + 1])} {phrase}"


def _quoted(char: str) -> str:
    """A character as Go's decoder shows it."""
    if char == "'":
        return r"'\''"
    if char.isprintable():
        return f"'{char}'"
    return "'" + json.dumps(char)[1:-1].replace(r"\u00", r"\x") + "'"


def kind_of(value: Any) -> str:
    """The word of Go's decoder for a JSON value: object, array, string, number, bool or null."""
    return "number" if type(value) in (int, float) else _KINDS.get(type(value), type(value).__name__)


_KINDS = {dict: "object", list: "array", str: "string", bool: "bool", type(None): "null"}


def copied(value: Any) -> Any:
    """A deep copy of a JSON value, several times faster than `copy.deepcopy`, which also keeps track of identities."""
    if type(value) is dict:
        return {key: copied(item) if type(item) in _CONTAINERS else item for key, item in value.items()}
    if type(value) is list:
        return [copied(item) if type(item) in _CONTAINERS else item for item in value]
    return value


_EXPONENT_FROM = 6  # of ten, from which Go's shortest form has an exponent


def go_float(value: float) -> str:
    """Go's FormatFloat(value, 'g', -1, 64), also what its `%v` prints: 0.5, 123456.5, 1e+06, 1e-05."""
    if not math.isfinite(value):
        return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    exact = Decimal(repr(value)).normalize()
    exponent = exact.adjusted()
    if -5 < exponent < _EXPONENT_FROM:
        return f"{exact:f}"
    sign, digits, _ = exact.as_tuple()
    mantissa = f"{digits[0]}.{''.join(map(str, digits[1:]))}".rstrip(".")
    return f"{'-' if sign else ''}{mantissa}e{exponent:+03d}"
