"""Is a schema structural: does it say of every field what it is, outside of `allOf`, `anyOf`, `oneOf` and `not`?

Works on the JSON of a schema, before anything is compiled.

Source: k8s.io/apiextensions-apiserver, pkg/apiserver/schema/{validation,complete}.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from havre.kit.field import FieldError, forbidden, invalid, required
from havre.lang.structural.regex import PatternError, matcher

Raw = Mapping[str, Any]

_ANY_INT_OR_STRING = [{"type": "integer"}, {"type": "string"}]
_LEVELS = {
    "root": "must not be empty at the root",
    "item": "must not be empty for specified array items",
    "field": "must not be empty for specified object fields",
}
_NESTED = {  # not allowed inside of allOf, anyOf, oneOf and not
    "type": "must be empty to be structural",
    "additionalProperties": "must be undefined to be structural",
    "default": "must be undefined to be structural",
    "title": "must be empty to be structural",
    "description": "must be empty to be structural",
    "nullable": "must be false to be structural",
    "x-kubernetes-preserve-unknown-fields": "must be false to be structural",
    "x-kubernetes-embedded-resource": "must be false to be structural",
    "x-kubernetes-int-or-string": "must be false to be structural",
    "x-kubernetes-list-map-keys": "must be empty to be structural",
    "x-kubernetes-list-type": "must be undefined to be structural",
    "x-kubernetes-map-type": "must be undefined to be structural",
    "x-kubernetes-validations": "must be empty to be structural",
}
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_EMBEDDED = "x-kubernetes-embedded-resource"
_INT_OR_STRING = "x-kubernetes-int-or-string"


def structural_errors(raw: Raw, path: str) -> list[FieldError]:
    """Why a schema is not structural, sorted by text; empty when it is."""
    return sorted([*_invariants(raw, "root", path), *_completeness(raw, raw, path, path)], key=str)


def is_schema(value: Any) -> TypeGuard[Raw]:
    return isinstance(value, Mapping)


def _invariants(raw: Raw, level: str, path: str) -> Iterator[FieldError]:
    items, extra = raw.get("items"), raw.get("additionalProperties")
    if raw.get("type") == "array" and items is None:
        yield required(f"{path}.items", "must be specified")
    if is_schema(items):
        yield from _invariants(items, "item", f"{path}.items")
    for key, child in _properties(raw).items():
        yield from _invariants(child, "field", f"{path}.properties[{key}]")
    if extra is not None and level == "root":
        yield forbidden(f"{path}.additionalProperties", "must not be used at the root")
    if is_schema(extra):
        yield from _invariants(extra, "field", f"{path}.additionalProperties")
    yield from _extensions(raw, path)
    all_of = raw.get("allOf") or []
    yield from _values(
        raw, path, skip_any=raw.get("anyOf") == _ANY_INT_OR_STRING, skip_first=_int_or_string_first(all_of)
    )
    yield from _types(raw, level, path)
    if level == "root" or raw.get(_EMBEDDED):
        yield from _identity(raw, level, path)


def _extensions(raw: Raw, path: str) -> Iterator[FieldError]:
    if raw.get(_INT_OR_STRING):
        for key in (_PRESERVE, _EMBEDDED):
            if raw.get(key):
                yield invalid(f"{path}.{key}", True, f"must be false if {_INT_OR_STRING} is true")


def _types(raw: Raw, level: str, path: str) -> Iterator[FieldError]:
    kind, embedded = raw.get("type") or "", raw.get(_EMBEDDED)
    if embedded and kind != "object":
        words = f"must be object if {_EMBEDDED} is true"
        yield invalid(f"{path}.type", kind, words) if kind else required(f"{path}.type", words)
    elif not kind and not raw.get(_INT_OR_STRING) and not raw.get(_PRESERVE):
        yield required(f"{path}.type", _LEVELS[level])
    if embedded and raw.get("additionalProperties") is not None:
        yield forbidden(f"{path}.additionalProperties", f"must not be used if {_EMBEDDED} is set")
    if level == "root" and kind not in ("", "object"):
        yield invalid(f"{path}.type", kind, "must be object at the root")
    if embedded and not raw.get(_PRESERVE) and not _properties(raw):
        yield required(f"{path}.properties", f"must not be empty if {_EMBEDDED} is true without {_PRESERVE}")


def _identity(raw: Raw, level: str, path: str) -> Iterator[FieldError]:
    """apiVersion, kind and metadata of a whole object."""
    properties = _properties(raw)
    for key in ("kind", "apiVersion"):
        if key in properties and properties[key].get("type") != "string":
            yield invalid(f"{path}.properties[{key}].type", properties[key].get("type") or "", "must be string")
    metadata = properties.get("metadata")
    if metadata is None:
        return
    place = f"{path}.properties[metadata]"
    if metadata.get("type") != "object":
        yield invalid(f"{place}.type", metadata.get("type") or "", "must be object")
    rest = {key for key, value in metadata.items() if value and key not in ("type", "default")}
    if _properties(metadata).keys() <= {"name", "generateName"}:
        rest.discard("properties")
    if level == "root" and rest:
        words = "must not specify anything other than name and generateName, but metadata is implicitly specified"
        yield forbidden(place, words)


def _values(raw: Raw, path: str, *, skip_any: bool = False, skip_first: bool = False) -> Iterator[FieldError]:
    for key in ("anyOf", "allOf", "oneOf"):
        if key == "anyOf" and skip_any:
            continue
        for index, child in enumerate(raw.get(key) or ()):
            skip = key == "allOf" and skip_first and index == 0
            yield from _nested(child, f"{path}.{key}[{index}]", skip_any=skip)
    if is_schema(raw.get("not")):
        yield from _nested(raw["not"], f"{path}.not")
    pattern = raw.get("pattern")
    if pattern:
        try:
            matcher(pattern)
        except PatternError as e:
            yield invalid(f"{path}.pattern", pattern, f"must be a valid regular expression, but isn't: {e}")


def _nested(raw: Raw, path: str, *, skip_any: bool = False) -> Iterator[FieldError]:
    yield from _values(raw, path, skip_any=skip_any)
    if is_schema(raw.get("items")):
        yield from _nested(raw["items"], f"{path}.items")
    for key, child in _properties(raw).items():
        yield from _nested(child, f"{path}.properties[{key}]")
    for key, words in _NESTED.items():
        if raw.get(key) or (key == "default" and raw.get(key) is not None):
            yield forbidden(f"{path}.{key}", words)
    if "metadata" in _properties(raw):
        yield forbidden(f"{path}.properties[metadata]", "must not be specified in a nested context")


def _completeness(values: Raw, shape: Raw, shape_path: str, path: str) -> Iterator[FieldError]:
    """What a nested schema speaks about must be known outside of it."""
    for key in ("allOf", "anyOf", "oneOf"):
        for index, child in enumerate(values.get(key) or ()):
            yield from _complete(child, shape, shape_path, f"{path}.{key}[{index}]")
    if is_schema(values.get("not")):
        yield from _complete(values["not"], shape, shape_path, f"{path}.not")


def _complete(values: Raw, shape: Raw, shape_path: str, path: str) -> Iterator[FieldError]:
    yield from _completeness(values, shape, shape_path, path)
    if is_schema(values.get("items")):
        if is_schema(shape.get("items")):
            yield from _complete(values["items"], shape["items"], f"{shape_path}.items", f"{path}.items")
        else:
            yield required(f"{shape_path}.items", f"because it is defined in {path}.items")
    known = _properties(shape)
    for key, child in _properties(values).items():
        place, here = f"{shape_path}.properties[{key}]", f"{path}.properties[{key}]"
        if key in known:
            yield from _complete(child, known[key], place, here)
        else:
            yield required(place, f"because it is defined in {here}")


def _properties(raw: Raw) -> Mapping[str, Raw]:
    found = raw.get("properties")
    return found if isinstance(found, Mapping) else {}


def _int_or_string_first(all_of: list[Raw]) -> bool:
    return bool(all_of) and all_of[0].get("anyOf") == _ANY_INT_OR_STRING
