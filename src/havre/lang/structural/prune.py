"""Unknown fields: the paths of what a schema does not know, with or without dropping it.

A custom kind keeps `apiVersion`, `kind` and `metadata` wherever a whole object is expected. In a built-in kind an
object without any described field (RawExtension, FieldsV1, JSON) may hold anything.

Source: k8s.io/apiextensions-apiserver, pkg/apiserver/schema/pruning/algorithm.go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from havre.lang.schema import Schema

Obj = dict[str, Any]
Walk = Callable[[Any], "list[str] | None"]

META = frozenset({"apiVersion", "kind", "metadata"})


def unknown_fields(schema: Schema, *, builtin: bool = False) -> Callable[[Obj], list[str]]:
    """Sorted paths of unknown fields: `spec.containers[0].foo`. The object stays as it is."""
    return _root(_Compiler(drop=False, builtin=builtin), schema)


def prune(schema: Schema, *, builtin: bool = False) -> Callable[[Obj], list[str]]:
    """Drops unknown fields in place and returns their sorted paths."""
    return _root(_Compiler(drop=True, builtin=builtin), schema)


def _root(compiler: _Compiler, schema: Schema) -> Callable[[Obj], list[str]]:
    walk = compiler.node(schema, root=not compiler.builtin)

    def run(obj: Obj) -> list[str]:
        found = walk(obj) if walk else None
        return sorted(found) if found else []

    return run


@dataclass(slots=True)
class _Compiler:
    drop: bool
    builtin: bool
    made: dict[tuple[int, bool], list[Walk | None]] = field(default_factory=dict)

    def node(self, schema: Schema, *, root: bool = False, skip: bool = False) -> Walk | None:
        """The walk of one node, None when it never finds anything. `skip`: element of a list that keeps all."""
        place = (id(schema), skip)
        cell = self.made.get(place)
        if cell is None:
            cell = self.made[place] = []
            cell.append(self._make(schema, root or schema.embedded, skip or schema.preserve_unknown))
        return cell[0] if cell else lambda value: (walk := cell[0]) and walk(value)

    def _make(self, schema: Schema, embedded: bool, keep: bool) -> Walk | None:
        known = {key: self.node(child) for key, child in schema.properties.items()}
        extra = self.node(schema.additional) if schema.additional else None
        open_map = schema.additional is not None
        element = self.node(schema.items, skip=keep) if schema.items else (None if keep else self._strip)
        if self.builtin and not (known or open_map or schema.items):
            return None
        if keep and not any(known.values()) and not extra and not element:
            return None
        if open_map and not known and extra is None:
            return None  # a map of anything
        if embedded:
            known |= dict.fromkeys(META)
        if schema.type == "array" and schema.items and element is None:
            return None if self.builtin else self._only_list
        in_object = _object_walk(known, extra, keep or open_map, self.drop)
        in_list = _list_walk(element)
        return lambda value: in_object(value) if value.__class__ is dict else in_list(value)

    def _only_list(self, value: Any) -> list[str] | None:
        return None if value.__class__ is list else self._strip(value)

    def _strip(self, value: Any) -> list[str] | None:
        """Where the schema expects no structure, every field is unknown."""
        if value.__class__ is dict:
            found = list(value)
            if self.drop:
                value.clear()
            return found
        return _list_walk(self._strip)(value) if value.__class__ is list else None


def _object_walk(known: dict[str, Walk | None], extra: Walk | None, keep: bool, drop: bool) -> Walk:
    closed = not keep

    def walk(obj: Obj) -> list[str] | None:
        found: list[str] | None = None
        dead: list[str] | None = None
        for key, value in obj.items():
            if closed and key not in known:
                if dead is None:
                    dead = []
                dead.append(key)
                continue
            cls = value.__class__
            if cls is not dict and cls is not list:
                continue
            child = known.get(key, extra)
            if child is not None and (inner := child(value)):
                if found is None:
                    found = []
                found += [f"{key}{path}" if path[:1] == "[" else f"{key}.{path}" for path in inner]
        if dead:
            found = found + dead if found else dead
            if drop:
                for key in dead:
                    del obj[key]
        return found

    return walk


def _list_walk(element: Walk | None) -> Walk:
    def walk(values: Any) -> list[str] | None:
        found: list[str] | None = None
        if element is None or values.__class__ is not list:
            return None
        for index, value in enumerate(values):
            if (value.__class__ is dict or value.__class__ is list) and (inner := element(value)):
                if found is None:
                    found = []
                found += [f"[{index}]{path}" if path[:1] == "[" else f"[{index}].{path}" for path in inner]
        return found

    return walk
