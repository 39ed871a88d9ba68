"""Defaults: fields that the schema gives a value when a client left them out, and null where null is not allowed.

One pass does what upstream does in two: a null that is neither allowed nor replaced by a default is dropped (kept in a
list, where positions count), then defaults go into objects that are there, also into objects that came from a default.
Doing it twice changes nothing.

Source: k8s.io/apiextensions-apiserver, pkg/apiserver/schema/defaulting/{algorithm,prunenulls}.go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from havre.lang.schema import MISSING, Schema

Obj = dict[str, Any]
Walk = Callable[[Any], None]


def defaults(schema: Schema) -> Callable[[Obj], None]:
    """Fills in the defaults of an object in place."""
    return _node(schema, {}) or _nothing


def copied(value: Any) -> Any:
    """A copy of a JSON value that shares nothing that can change."""
    if value.__class__ is dict:
        return {key: copied(child) for key, child in value.items()}
    if value.__class__ is list:
        return [copied(child) for child in value]
    return value


def _nothing(obj: Any) -> None:
    """The walk of a schema that has no defaults."""


def _node(schema: Schema, made: dict[int, list[Walk | None]]) -> Walk | None:
    """The walk of one node, None for a leaf."""
    cell = made.get(id(schema))
    if cell is None:
        cell = made[id(schema)] = []
        cell.append(_make(schema, made))
    return cell[0] if cell else lambda value: (walk := cell[0]) and walk(value)


def _make(schema: Schema, made: dict[int, list[Walk | None]]) -> Walk | None:
    in_object = _object_walk(schema, made) if schema.properties or schema.additional else None
    in_list = _list_walk(schema.items, made) if schema.items else None
    if in_object and in_list:
        return lambda value: in_object(value) if value.__class__ is dict else in_list(value)
    return in_object or in_list


def _object_walk(schema: Schema, made: dict[int, list[Walk | None]]) -> Walk:
    children = {key: _node(child, made) for key, child in schema.properties.items()}
    given = {key: child.default for key, child in schema.properties.items() if _has_default(child)}
    no_null = {key for key, child in schema.properties.items() if not child.nullable}
    extra = schema.additional
    extra_walk = _node(extra, made) if extra else None
    extra_null = extra is None or extra.nullable or _anything(extra)

    def fix_null(obj: Obj, key: str) -> None:
        default = given.get(key, MISSING) if key in children else extra.default if extra else MISSING
        if key not in no_null and (key in children or extra_null):
            return
        if default is MISSING or default is None:
            del obj[key]
        else:
            obj[key] = copied(default)

    def walk(obj: Any) -> None:
        if obj.__class__ is not dict:
            return
        if None in obj.values():
            for key in [key for key, value in obj.items() if value is None]:
                fix_null(obj, key)
        for key, default in given.items():
            if key not in obj:
                obj[key] = copied(default)
        for key, value in obj.items():
            cls = value.__class__
            if cls is dict or cls is list:
                child = children.get(key, extra_walk)
                if child is not None:
                    child(value)

    return walk


def _list_walk(items: Schema, made: dict[int, list[Walk | None]]) -> Walk | None:
    child = _node(items, made)
    default = items.default if _has_default(items) and not items.nullable else None
    if child is None and default is None:
        return None

    def walk(values: Any) -> None:
        if values.__class__ is not list:
            return
        for index, value in enumerate(values):
            if value is None and default is not None:
                values[index] = copied(default)
            if child is not None and values[index] is not None:
                child(values[index])

    return walk


def _has_default(schema: Schema) -> bool:
    """A null default is no default, upstream cannot tell them apart."""
    return schema.default is not MISSING and schema.default is not None


def _anything(schema: Schema) -> bool:
    """`additionalProperties: true`, which has no schema upstream."""
    return not schema.raw
