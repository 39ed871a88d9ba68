"""A Schema compiled to what merging asks of it: scalar, list or map; atomic or not; keys; what is always there.

Source: k8s.io/kube-openapi, pkg/schemaconv (OpenAPI to merge schema); structured-merge-diff v6, schema/.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

from havre.lang.schema import MISSING, Schema

_MERGE: Final = ("merge", "merge,retainKeys")
_ZERO: Final[dict[str, Any]] = {"string": "", "integer": 0, "number": 0, "boolean": False}


@dataclass(slots=True, eq=False)
class Shape:
    """One node. A shape of unknown type is scalar, list and map at once: each value picks what it is."""

    scalar: str = ""  # string, numeric, boolean, untyped; "" when it cannot be a scalar
    is_list: bool = False
    list_atomic: bool = True
    keys: tuple[str, ...] = ()  # of a list of maps, sorted by name; none for a set
    key_order: tuple[str, ...] = ()  # the same in the order of the schema, for messages
    key_defaults: dict[str, Any] = field(default_factory=dict)
    item: Shape | None = None
    known: dict[str, str] = field(default_factory=dict)  # elements by name, a bounded memo of `elements`
    is_map: bool = False
    map_atomic: bool = False
    fields: dict[str, Shape] = field(default_factory=dict)
    other: Shape | None = None  # of entries that are not in `fields`; None refuses them
    zeros: dict[str, Any] = field(default_factory=dict)  # fields that exist even when the JSON leaves them out
    exact: bool = False  # something below may change from `1` to `true`, which Python calls equal

    def child(self, name: str) -> Shape | None:
        return self.fields.get(name) or self.other

    def kind_of(self, value: Any) -> str:
        """Which of its kinds a value takes: "map", "list" or "scalar"; a misfit gets the first there is."""
        kind = type(value)
        if kind is dict and self.is_map:
            return "map"
        if kind is list and self.is_list:
            return "list"
        if value is not None and kind is not dict and kind is not list and self.scalar:
            return "scalar"
        return "map" if self.is_map else "scalar" if self.scalar else "list"


ATOMIC: Final = Shape(scalar="untyped", is_list=True, is_map=True, map_atomic=True, exact=True)
DEDUCED: Final = Shape(scalar="untyped", is_list=True, is_map=True, exact=True)
ATOMIC.item = ATOMIC.other = DEDUCED.item = ATOMIC
DEDUCED.other = DEDUCED
# The owners themselves are taken out of an object before it is compared, and must not make every object `exact`.
_OWNERS: Final = Shape(scalar="untyped", is_list=True, is_map=True, map_atomic=True)


_PLAIN: Final[WeakKeyDictionary[Schema, Shape]] = WeakKeyDictionary()
_STRUCTURED: Final[WeakKeyDictionary[Schema, Shape]] = WeakKeyDictionary()


def shape_of(schema: Schema, structured: bool = False) -> Shape:
    """The shape of a schema. `structured` is for built-in kinds: structs, whose non-pointer fields always exist.

    It is kept for as long as the schema is: that of a custom kind may have thousands of nodes, and goes with its kind.
    """
    known = _STRUCTURED if structured else _PLAIN
    shape = known.get(schema)
    if shape is None:
        shape = known[schema] = _made(schema, structured)
    return shape


def _made(schema: Schema, structured: bool) -> Shape:
    done: dict[tuple[int, bool], Shape] = {}
    shape = _shape(schema, False, structured, done)
    _spread_exact(list(done.values()))
    return shape


def _shape(schema: Schema, preserve: bool, structured: bool, done: dict[tuple[int, bool], Shape]) -> Shape:
    preserve = preserve or schema.preserve_unknown
    known = done.get((id(schema), preserve))
    if known is not None:
        return known
    shape = done[id(schema), preserve] = Shape()
    shape.scalar = _scalar(schema)
    if schema.type == "" and _never_boolean(schema):
        return shape
    if schema.type in ("", "object"):
        _fill_map(shape, schema, preserve, structured, done)
    if schema.type in ("", "array"):
        _fill_list(shape, schema, preserve, structured, done)
    shape.exact = schema.type == ""
    return shape


def _fill_map(
    shape: Shape, schema: Schema, preserve: bool, structured: bool, done: dict[tuple[int, bool], Shape]
) -> None:
    shape.is_map = True
    shape.map_atomic = schema.map_type == "atomic"
    shape.fields = {
        name: _OWNERS if name == "managedFields" else _shape(child, preserve, structured, done)
        for name, child in schema.properties.items()
    }
    if schema.additional is not None:
        shape.other = _shape(schema.additional, preserve, structured, done)
    elif schema.raw.get("additionalProperties") is not False and (preserve or not schema.properties):
        shape.other = DEDUCED
    if structured:
        shape.zeros = _zeros(schema)


def _fill_list(
    shape: Shape, schema: Schema, preserve: bool, structured: bool, done: dict[tuple[int, bool], Shape]
) -> None:
    shape.is_list = True
    shape.item = ATOMIC if schema.items is None else _shape(schema.items, preserve, structured, done)
    keys: tuple[str, ...] = ()
    if schema.list_type in ("set", "map"):
        shape.list_atomic = False
        keys = schema.list_map_keys if schema.list_type == "map" else ()
    elif "x-kubernetes-list-type" not in schema.raw and schema.merge_strategy in _MERGE:
        shape.list_atomic = False
        keys = (schema.merge_key,) if schema.merge_key else ()
    shape.key_order, shape.keys = keys, tuple(sorted(keys))
    if schema.items is not None:
        of_item = schema.items.properties
        defaults = {key: of_item[key].default for key in keys if key in of_item}
        shape.key_defaults = {key: value for key, value in defaults.items() if value not in (MISSING, None)}


def _scalar(schema: Schema) -> str:
    match schema.type:
        case "integer" | "number":
            return "numeric"
        case "boolean":
            return "boolean"
        case "string":
            return "string" if schema.raw.get("format", "") in ("", "byte") else "untyped"
        case "":
            return "untyped"
    return ""


def _never_boolean(schema: Schema) -> bool:
    """Is this one of the untyped scalars that take no boolean: IntOrString, Quantity?"""
    choices = schema.raw.get("oneOf") or schema.raw.get("anyOf") or ()
    types = {choice.get("type") for choice in choices}
    return schema.int_or_string or (bool(types) and types <= {"string", "integer", "number"})


def _zeros(schema: Schema) -> dict[str, Any]:
    """Fields of a struct that its encoder never leaves out, with their zero values.

    OpenAPI tells both sorts: a struct held by value has `default: {}`, and a field that is not `omitempty` is required.
    """
    zeros: dict[str, Any] = {}
    for name, child in schema.properties.items():
        if child.default == {}:
            zeros[name] = {}
        elif name in schema.required:
            zeros[name] = _ZERO.get(child.type)
    return zeros


def _spread_exact(shapes: list[Shape]) -> None:
    """Marks every shape from which an untyped one can be reached; shapes form cycles, so until nothing changes."""
    changed = True
    while changed:
        changed = False
        for shape in shapes:
            if shape.exact:
                continue
            below = [*shape.fields.values(), shape.other, shape.item]
            if any(child is not None and child.exact for child in below):
                shape.exact = changed = True
