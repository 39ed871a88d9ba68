"""An applied value merged into a live one, and fields taken out of a value.

Results share with their inputs whatever did not change; a merge that changes nothing returns the live value itself.

Source: structured-merge-diff v6, typed/merge.go and typed/remove.go.
"""

from __future__ import annotations

from typing import Any, Final

from havre.lang.fieldset import SELF, FieldSet, Node
from havre.lang.merge.compare import equal
from havre.lang.merge.elements import NoElement, element_of, indexed
from havre.lang.merge.shape import DEDUCED, Shape
from havre.lang.merge.validate import Mistyped, too_deep

_ABSENT: Final[Any] = object()
_HOLLOW: Final[Any] = object()  # a struct that lost its last field to an emptied struct, and is none itself any more


def combine(shape: Shape, live: Any, applied: Any) -> Any:
    """`applied` laid over `live`. Raises Mistyped where items of a list cannot be told apart."""
    try:
        return _over(shape, live, applied)
    except NoElement as err:
        raise Mistyped([("", str(err))]) from None
    except RecursionError:
        raise too_deep() from None


def _over(shape: Shape, live: Any, applied: Any) -> Any:
    if live is applied or (not shape.exact and live == applied):
        return live
    match shape.kind_of(applied):
        case "map" if not shape.map_atomic:
            return _maps(shape, live, applied)
        case "list" if not shape.list_atomic:
            return _lists(shape, live, applied)
    return live if equal(live, applied) else applied


def _maps(shape: Shape, live: Any, applied: Any) -> Any:
    lhs = live if type(live) is dict else {}
    rhs = applied if type(applied) is dict else {}
    if not rhs:  # a null or empty map takes nothing away from a live one
        return live if lhs or equal(live, applied) else applied
    if not lhs:
        return applied
    out = None
    for name, theirs in rhs.items():
        mine = lhs.get(name, _ABSENT)
        if mine is _ABSENT:
            merged = theirs
        else:
            if type(theirs) is str and mine == theirs:
                continue
            below = shape.child(name)
            merged = theirs if below is None else _over(below, mine, theirs)
            if merged is mine:
                continue
        if out is None:
            out = dict(lhs)
        out[name] = merged
    return live if out is None else out


def _lists(shape: Shape, live: Any, applied: Any) -> Any:
    lhs = live if type(live) is list else []
    rhs = applied if type(applied) is list else []
    if not rhs:
        return live if lhs or equal(live, applied) else applied
    if not lhs:
        return applied
    item = shape.item
    if item is None:
        return applied
    names = [element_of(shape, entry) for entry in lhs]
    mine = dict(zip(names, lhs, strict=True))
    theirs = {key: entries[0] for key, entries in indexed(shape, rhs).items()}
    if list(mine) == list(theirs) and len(mine) == len(lhs):  # nobody adds, drops or reorders
        same = [_over(item, a, b) for a, b in zip(lhs, rhs, strict=True)]
        return live if all(a is b for a, b in zip(same, lhs, strict=True)) else same
    repeated = {key for key in mine if names.count(key) > 1} if len(mine) != len(names) else set()

    def merged(key: str) -> Any:
        if key in repeated or key not in mine:
            return theirs[key]
        return _over(item, mine[key], theirs[key])

    out: list[Any] = []
    for key, entry in _ordered(list(zip(names, lhs, strict=True)), list(theirs), set(mine)):
        out.append(merged(key) if key in theirs else entry)
    unchanged = len(out) == len(lhs) and all(a is b for a, b in zip(out, lhs, strict=True))
    return live if unchanged else out


def _ordered(lhs: list[tuple[str, Any]], rhs: list[str], known: set[str]) -> list[tuple[str, Any]]:
    """The items of both sides: the applied order rules shared items, live ones keep their place between them."""
    out: list[tuple[str, Any]] = []
    wanted = set(rhs)
    shared = [key for key in rhs if key in known]
    done: set[str] = set()
    left = right = next_shared = 0
    while left < len(lhs) or right < len(rhs):
        if left < len(lhs):
            key, entry = lhs[left]
            if right < len(rhs):
                if key == rhs[right]:
                    out.append((key, entry))
                    done.add(key)
                    left, right, next_shared = left + 1, right + 1, next_shared + 1
                    continue
                if key in wanted and next_shared < len(shared) and shared[next_shared] != key:
                    left += 1  # its turn comes later, in the applied order
                    continue
            if key not in wanted:
                out.append((key, entry))
                left += 1
                continue
            if key in done:
                left += 1
        if right < len(rhs):
            key = rhs[right]
            out.append((key, None))
            done.add(key)
            right += 1
            if next_shared < len(shared) and shared[next_shared] == key:
                next_shared += 1
    return out


# Taking fields out


def remove(shape: Shape, value: Any, fields: FieldSet) -> Any:
    """`value` without `fields`; a list or map that loses all it had becomes null."""
    if not fields:
        return value
    try:
        return _less(shape, value, fields.root)
    except NoElement as err:
        raise Mistyped([("", str(err))]) from None
    except RecursionError:
        raise too_deep() from None


def _less(shape: Shape, value: Any, gone: Node) -> Any:
    match shape.kind_of(value):
        case "map":
            return _less_map(shape, value, gone)
        case "list":
            return _less_list(shape, value, gone)
    return value


def _less_map(shape: Shape, value: Any, gone: Node) -> Any:
    if type(value) is not dict or not value or shape.map_atomic:
        return value  # what the fields were below is no more: another kind of value stands there now
    out: dict[str, Any] = {}
    for name, item in value.items():
        node = gone.get("f:" + name)
        if node is None:
            out[name] = item
        elif node and SELF not in node:
            below = shape.child(name)
            out[name] = item if below is None else _less(below, item, node)
    return out or None


def _less_list(shape: Shape, value: Any, gone: Node) -> Any:
    if type(value) is not list or not value or shape.list_atomic or shape.item is None:
        return value
    out: list[Any] = []
    for item in value:
        node = gone.get(element_of(shape, item))
        if node is None:
            out.append(item)
        elif node and SELF not in node:
            out.append(_less(shape.item, item, node))
    return out or None


def shed(shape: Shape, value: Any, last: FieldSet, kept: FieldSet) -> Any:
    """`value` less what is in `last` and not in `kept`; a struct of `last` goes too when nothing is left in it."""
    try:
        left = _shed(shape, value, last.root, kept.root)
        return None if left is _HOLLOW else left
    except NoElement as err:
        raise Mistyped([("", str(err))]) from None
    except RecursionError:
        raise too_deep() from None


def _shed(shape: Shape, value: Any, last: Node, kept: Node) -> Any:
    if type(value) is dict and shape.is_map and not shape.map_atomic:
        return _shed_map(shape, value, last, kept)
    if type(value) is list and shape.is_list and not shape.list_atomic and shape.item is not None:
        return _shed_list(shape, shape.item, value, last, kept)
    return value


def _shed_map(shape: Shape, value: dict[str, Any], last: Node, kept: Node) -> Any:
    out: dict[str, Any] | None = None
    hollow = False
    for key, mine in last.items():
        item = value.get(key[2:], _ABSENT)
        if item is _ABSENT or key == SELF:
            continue
        name, theirs = key[2:], kept.get(key)
        declared, below = name in shape.fields, shape.child(name)
        if below is None:
            continue
        member = declared or not mine or SELF in mine
        if member and (theirs is None or not (declared or not theirs or SELF in theirs)):
            left = _ABSENT if not declared or _is_field(below, item) else item
        elif not mine or mine is theirs:
            continue
        else:
            left = _shed(below, item, mine, theirs or {})
            if declared and left is not item and (left is _HOLLOW or not _is_field(below, left)):
                left, hollow = _ABSENT, True
            elif left is _HOLLOW:
                left = None
        if left is not item:
            out = dict(value) if out is None else out
            if left is _ABSENT:
                del out[name]
            else:
                out[name] = left
    if out:
        return out
    return value if out is None else _HOLLOW if hollow else None


def _shed_list(shape: Shape, item_shape: Shape, value: list[Any], last: Node, kept: Node) -> Any:
    out: list[Any] = []
    changed = False
    for item in value:
        element = element_of(shape, item)
        mine, theirs = last.get(element), kept.get(element)
        if mine is None or mine is theirs:
            out.append(item)
            continue
        member = not mine or SELF in mine
        if member and (theirs is None or (theirs and SELF not in theirs)):
            changed = True
            continue
        left = _shed(item_shape, item, mine, theirs or {}) if mine else item
        changed = changed or left is not item
        out.append(None if left is _HOLLOW else left)
    return (out or None) if changed else value


def _is_field(shape: Shape, value: Any) -> bool:
    """Does a struct field of this value own anything? Only lists that merge can be there and yet be nothing."""
    if type(value) is list and shape.is_list:
        return shape.list_atomic or bool(value)
    if type(value) is dict and shape.is_map and not shape.map_atomic and value:
        return any(name not in shape.fields or _is_field(shape.fields[name], item) for name, item in value.items())
    return True


def named(shape: Shape, fields: FieldSet) -> FieldSet:
    """`fields` with every struct field on the way to a member as a member too, so that emptied structs go with it."""
    return FieldSet(_named(shape, fields.root)) if fields else fields


def _named(shape: Shape | None, node: Node) -> Node:
    out: Node = {}
    for key, child in node.items():
        if not child:
            out[key] = child
            continue
        below = None
        declared = False
        if shape is not None:
            if key[0] == "f" and shape.is_map:
                below = shape.child(key[2:])
                declared = key[2:] in shape.fields
            elif key[0] == "k" and shape.is_list:
                below = shape.item
        node_below = _named(below, child)
        out[key] = {SELF: {}, **node_below} if declared and SELF not in node_below else node_below
    return out


def reshaped(shape: Shape, fields: FieldSet) -> FieldSet:
    """`fields` after a schema change: what is below a list or map that became atomic is now that list or map.

    Source: typed/reconcile_schema.go.
    """
    root = _reshaped(shape, fields.root)
    return fields if root is fields.root else FieldSet(root)


def _reshaped(shape: Shape, node: Node) -> Node:
    if (shape.is_map and shape.map_atomic) or (not shape.is_map and shape.is_list and shape.list_atomic):
        return {}
    out = None
    for key, child in node.items():
        if not child:
            continue
        below = shape.item if key[0] != "f" else shape.child(key[2:])
        if below is None or (below.other is DEDUCED and not below.fields):  # nothing is known about what is below
            continue
        fixed = _reshaped(below, child)
        if fixed is not child:
            if out is None:
                out = dict(node)
            out[key] = fixed
    return node if out is None else out
