"""Which fields changed, appeared or vanished between two values of one shape.

Objects that are read, changed in one place and written back are equal almost everywhere, so equality decides first and
the walk only follows what differs.

Source: structured-merge-diff v6, typed/compare.go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from havre.lang.fieldset import EMPTY, SELF, FieldSet, Node, union
from havre.lang.merge.elements import NoElement, element_of, indexed
from havre.lang.merge.shape import Shape
from havre.lang.merge.validate import Mistyped, too_deep

_ABSENT: Final[Any] = object()
_Pair = tuple["Node | None", "Node | None"]  # what was set (new or different), what was removed
_SAME: Final[_Pair] = (None, None)


@dataclass(frozen=True, slots=True)
class Comparison:
    """`changed` holds the fields that are new or different, `removed` those that are gone."""

    changed: FieldSet
    removed: FieldSet

    def __bool__(self) -> bool:
        return bool(self.changed.root or self.removed.root)

    def without(self, ignored: FieldSet) -> Comparison:
        return Comparison(self.changed.without(ignored), self.removed.without(ignored))


UNCHANGED: Final = Comparison(EMPTY, EMPTY)


def compare(shape: Shape, old: Any, new: Any) -> Comparison:
    """The difference from `old` to `new`. Raises Mistyped where items of a list cannot be told apart."""
    try:
        changed, removed = _both(shape, old, new)
    except NoElement as err:
        raise Mistyped([("", str(err))]) from None
    except RecursionError:
        raise too_deep() from None
    if changed is None and removed is None:
        return UNCHANGED
    return Comparison(_root(changed), _root(removed))


def equal(old: Any, new: Any) -> bool:
    """Equality of JSON values, in which `1` is not `true`."""
    if old is new:
        return True
    kind = type(new)
    if kind is dict:
        if type(old) is not dict or len(old) != len(new):
            return False
        return all(key in old and equal(old[key], item) for key, item in new.items())
    if kind is list:
        if type(old) is not list or len(old) != len(new):
            return False
        return all(map(equal, old, new))
    return bool(old == new) and (kind is bool) == (type(old) is bool)


def _root(node: Node | None) -> FieldSet:
    if not node:
        return EMPTY
    return FieldSet({key: child for key, child in node.items() if key != SELF} if SELF in node else node)


def _both(shape: Shape, old: Any, new: Any) -> _Pair:
    """Both sides are there. A value that changes its kind is looked at as either."""
    if old is new:
        return _SAME
    if type(old) is type(new):
        if not shape.exact and old == new:
            return _SAME
        return _as(shape, shape.kind_of(new), old, new)
    was, now = shape.kind_of(old), shape.kind_of(new)
    pair = _as(shape, now, old, new)
    return pair if was == now else _merged(_as(shape, was, old, new), pair)


def _as(shape: Shape, kind: str, old: Any, new: Any) -> _Pair:
    if kind == "map":
        lhs, rhs = _dict(old), _dict(new)
        if shape.map_atomic or not (lhs or rhs):
            return _leaf(old, new)
        return _maps(shape, lhs, rhs)
    if kind == "list":
        if shape.list_atomic or not (old or new):
            return _leaf(old, new)
        return _lists(shape, old if type(old) is list else [], new if type(new) is list else [])
    return _leaf(old, new)


def _dict(value: Any) -> dict[str, Any]:
    return value if type(value) is dict else {}


def _leaf(old: Any, new: Any) -> _Pair:
    return _SAME if equal(old, new) else ({}, None)


def _maps(shape: Shape, old: dict[str, Any], new: dict[str, Any]) -> _Pair:
    changed: Node = {}
    removed: Node = {}
    fields, other, zeros = shape.fields, shape.other, shape.zeros
    for name, now in new.items():
        was = old.get(name, _ABSENT)
        if was is now:
            continue
        below = fields.get(name) or other
        if below is None:
            continue
        if was is _ABSENT and zeros:
            was = zeros.get(name, _ABSENT)
        if was is _ABSENT:
            changed["f:" + name] = whole(below, now)
        else:
            _put("f:" + name, _both(below, was, now), changed, removed)
    for name, was in old.items():
        if name in new:
            continue
        below = fields.get(name) or other
        if below is None:
            continue
        zero = zeros.get(name, _ABSENT)
        if zero is _ABSENT:
            removed["f:" + name] = whole(below, was)
        else:
            _put("f:" + name, _both(below, was, zero), changed, removed)
    return changed or None, removed or None


def _put(key: str, pair: _Pair, changed: Node, removed: Node) -> None:
    more, less = pair
    if more is not None:
        changed[key] = more
    if less is not None:
        removed[key] = less


def _lists(shape: Shape, old: list[Any], new: list[Any]) -> _Pair:
    lhs, rhs = indexed(shape, old), indexed(shape, new)
    changed: Node = {}
    removed: Node = {}
    item = shape.item
    if item is None:
        return _SAME
    for key, was in lhs.items():
        now = rhs.get(key)
        if now is None:
            removed[key] = whole(item, was[0]) if len(was) == 1 else {}
        elif len(was) == 1 and len(now) == 1:
            _put(key, _both(item, was[0], now[0]), changed, removed)
        elif len(was) > 1 and len(now) > 1:
            if not equal(was, now):
                changed[key] = {}
        elif len(was) > 1:  # a repeated item became one: the items go, what the one holds comes
            changed[key] = whole(item, now[0])
            removed[key] = {}
        else:
            removed[key] = whole(item, was[0])
            changed[key] = {}
    for key, now in rhs.items():
        if key not in lhs:
            changed[key] = whole(item, now[0]) if len(now) == 1 else {}
    return changed or None, removed or None


def whole(shape: Shape, value: Any) -> Node:
    """The node of a value that only one side has: itself and everything in it."""
    kind = type(value)
    if kind is dict and shape.is_map:
        if shape.map_atomic or not (value or shape.zeros):
            return {}
        return _whole_map(shape, value)
    if kind is list and shape.is_list:
        if shape.list_atomic or not value or shape.item is None:
            return {}
        return _whole_list(shape, shape.item, value)
    return {}


def _whole_map(shape: Shape, value: dict[str, Any]) -> Node:
    out: Node = {SELF: {}}
    fields, other = shape.fields, shape.other
    for name, item in value.items():
        below = fields.get(name) or other
        if below is not None:
            kind = type(item)
            out["f:" + name] = whole(below, item) if kind is dict or kind is list else {}
    for name, zero in shape.zeros.items():
        if name not in value:
            out["f:" + name] = whole(fields[name], zero)
    return out if len(out) > 1 else {}


def _whole_list(shape: Shape, item: Shape, value: list[Any]) -> Node:
    out: Node = {SELF: {}}
    seen: set[str] = set()
    for entry in value:
        element = element_of(shape, entry)
        out[element] = {} if element in seen else whole(item, entry)
        seen.add(element)
    return out


def _merged(one: _Pair, two: _Pair) -> _Pair:
    return _either(one[0], two[0]), _either(one[1], two[1])


def _either(one: Node | None, two: Node | None) -> Node | None:
    if one is None or two is None:
        return two if one is None else one
    return union(one, two)
