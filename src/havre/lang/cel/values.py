"""Objects as an expression sees them: escaped names, times and bytes by format, whole numbers and fractions by type.

Most schemas need none of it; then objects are passed as they are.

Source: k8s.io/apiserver, pkg/cel/common/values.go and schemas.go.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from havre.lang.cel.functions import encoded
from havre.lang.cel.names import escape
from havre.lang.schema import Schema

Convert = Callable[[Any], Any]

_PARTS = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def converter(schema: Schema) -> Convert | None:
    """Makes the value that expressions see; None when it is the value itself."""
    if schema.int_or_string:
        return None
    if schema.type == "array" and schema.items:
        element = converter(schema.items)
        return _each(element) if element else None
    if schema.type == "object":
        return _object(schema)
    return _BY_FORMAT.get(str(schema.raw.get("format") or "")) if schema.type == "string" else _BY_TYPE.get(schema.type)


def _each(element: Convert) -> Convert:
    return lambda values: [element(v) for v in values] if values.__class__ is list else values


def _object(schema: Schema) -> Convert | None:
    fields = {key: found for key, child in schema.properties.items() if (found := converter(child))}
    names = {key: name for key in schema.properties if (name := escape(key)) and name != key}
    extra = converter(schema.additional) if schema.additional else None
    if not (fields or names or extra):
        return None

    def convert(obj: Any) -> Any:
        if obj.__class__ is not dict:
            return obj
        made = {}
        for key, value in obj.items():
            child = fields.get(key, extra)
            made[names.get(key, key)] = child(value) if child else value
        return made

    return convert


def _timestamp(text: Any) -> Any:
    try:
        at = datetime.fromisoformat(text)
    except (ValueError, TypeError, OverflowError):
        return text
    return encoded(at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC))


def _duration(text: Any) -> Any:
    if not isinstance(text, str) or not re.fullmatch(rf"[-+]?(?:{_PARTS.pattern})+|0", text):
        return text
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PARTS.findall(text))
    try:
        return encoded(timedelta(seconds=-seconds if text[0] == "-" else seconds))
    except (OverflowError, ValueError):
        return text


def _bytes(text: Any) -> Any:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        return text


def _fraction(value: Any) -> Any:
    return float(value) if value.__class__ is int else value


def _whole(value: Any) -> Any:
    return int(value) if value.__class__ is float and value.is_integer() else value


_BY_FORMAT: dict[str, Convert] = {
    "date-time": _timestamp,
    "datetime": _timestamp,
    "date": _timestamp,
    "duration": _duration,
    "byte": _bytes,
}
_BY_TYPE: dict[str, Convert] = {"number": _fraction, "integer": _whole}
