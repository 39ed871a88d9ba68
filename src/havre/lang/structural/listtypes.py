"""Elements that are there twice in a list that is a set, or twice under one key in a list that is a map.

Source: k8s.io/apiextensions-apiserver, pkg/apiserver/schema/listtype/validation.go.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from havre.kit.field import FieldError, duplicate, invalid
from havre.lang.schema import Schema

Walk = Callable[[Any, str], "list[FieldError]"]


def duplicates(schema: Schema) -> Callable[[Any], list[FieldError]]:
    """Every repeated element of an object, once each."""
    walk = _node(schema)
    return (lambda obj: walk(obj, "")) if walk else (lambda obj: [])


def _node(schema: Schema) -> Walk | None:
    fields = {key: inner for key, child in schema.properties.items() if (inner := _node(child))}
    extra = _node(schema.additional) if schema.additional else None
    element = _node(schema.items) if schema.items else None
    own = schema if schema.list_type in ("set", "map") else None
    if not (fields or extra or element or own):
        return None

    def walk(value: Any, path: str) -> list[FieldError]:
        if value.__class__ is dict:
            return [
                e for key, child in value.items() if (w := fields.get(key, extra)) for e in w(child, _join(path, key))
            ]
        if value.__class__ is not list:
            return []
        found = list(_repeated(value, own, path)) if own else []
        for index, child in enumerate(value):
            found += element(child, f"{path}[{index}]") if element else ()
        return found

    return walk


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _repeated(values: list[Any], schema: Schema, path: str) -> Iterator[FieldError]:
    if len(values) < 2 and schema.list_type == "set":
        return
    keys: list[Any] = values
    if schema.list_type == "map":
        for index, value in enumerate(values):
            if value is not None and value.__class__ is not dict:
                yield invalid(f"{path}[{index}]", value, "must be an object for an array of list-type map")
                return
        if len(values) < 2:
            return
        keys = [{k: v[k] for k in schema.list_map_keys if k in v} if v else {} for v in values]
    seen: dict[Any, int] = {}
    for index, key in enumerate(keys):
        text = key if key.__class__ is str else (json.dumps(key, sort_keys=True),)  # "1" is not 1
        seen[text] = seen.get(text, 0) + 1
        if seen[text] == 2:
            yield duplicate(f"{path}[{index}]", key)
