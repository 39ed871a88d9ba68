"""The FieldSet that a value spells out: what an applier claims by sending it.

Structs are not claimed, only what is in them; entries of maps and items of lists are claimed with their contents; an
atomic list or map is claimed as one; so is a null or an empty map.

Source: structured-merge-diff v6, typed/tofieldset.go.
"""

from __future__ import annotations

from typing import Any, Final

from havre.lang.fieldset import SELF, FieldSet, Node
from havre.lang.merge.elements import NoElement, element_of
from havre.lang.merge.shape import Shape
from havre.lang.merge.validate import Mistyped, fits, too_deep, validate

_TEXT: Final = ("string", "untyped")  # scalars that a string fits


class _Misfit(Exception):
    """Something unusual; `validate` has the words for it."""


def field_set(shape: Shape, value: Any, *, duplicates: bool = False) -> FieldSet:
    """The fields of a value. Raises Mistyped when it does not fit; `duplicates` allows repeated items."""
    try:
        root: Node = {}
        _fill(shape, value, root, duplicates)
    except _Misfit:
        try:
            problems = validate(shape, value, duplicates=duplicates)
        except RecursionError:
            raise too_deep() from None
        raise Mistyped(problems or [("", "the value does not fit its schema")]) from None
    except RecursionError:
        raise too_deep() from None
    root.pop(SELF, None)
    return FieldSet(root)


def _fill(shape: Shape, value: Any, out: Node, duplicates: bool) -> bool:
    """Puts the children of `value` into `out`; True when the value itself is a field, whatever its parent says."""
    kind = type(value)
    if kind is dict and shape.is_map:
        return _fill_map(shape, value, out, duplicates)
    if kind is list and shape.is_list:
        if not shape.list_atomic:
            _fill_list(shape, value, out, duplicates)
            return False
        _check_items(shape, value, duplicates)
        return True
    if value is None:
        if shape.is_map:
            return shape.map_atomic
        return bool(shape.scalar) or shape.list_atomic
    if not shape.scalar or not fits(shape.scalar, value):
        raise _Misfit
    return True


def _fill_map(shape: Shape, value: dict[str, Any], out: Node, duplicates: bool) -> bool:
    if shape.map_atomic:
        _check_entries(shape, value, duplicates)
        return True
    fields, other = shape.fields, shape.other
    for name, item in value.items():
        below = fields.get(name)
        declared = below is not None
        if below is None:
            below = other
            if below is None:
                raise _Misfit
        if type(item) is str and below.scalar in _TEXT:
            out["f:" + name] = {}
            continue
        node: Node = {}
        member = _fill(below, item, node, duplicates) or not declared or item is None or item == {}
        if member and node:
            node[SELF] = {}
        if member or node:
            out["f:" + name] = node
    return False


def _fill_list(shape: Shape, value: list[Any], out: Node, duplicates: bool) -> None:
    item_shape = shape.item
    repeated: set[str] = set()
    for item in value:
        try:
            element = element_of(shape, item)
        except NoElement:
            raise _Misfit from None
        if element in out:
            if not duplicates:
                raise _Misfit
            repeated.add(element)
        node = out[element] = {}
        if item_shape is not None:
            _fill(item_shape, item, node, duplicates)
            if node:
                node[SELF] = {}
    for element in repeated:
        out[element] = {}


def _check_items(shape: Shape, value: list[Any], duplicates: bool) -> None:
    """Items of an atomic list are no fields of their own, but they must fit."""
    below = shape.item
    if below is None:
        return
    for item in value:
        if type(item) is not str or below.scalar not in _TEXT:
            _fill(below, item, {}, duplicates)


def _check_entries(shape: Shape, value: dict[str, Any], duplicates: bool) -> None:
    for name, item in value.items():
        below = shape.child(name)
        if below is None:
            raise _Misfit
        if type(item) is not str or below.scalar not in _TEXT:
            _fill(below, item, {}, duplicates)
