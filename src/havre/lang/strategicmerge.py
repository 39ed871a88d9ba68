"""Strategic merge patch: a merge patch that knows which lists are maps in disguise.

A list whose schema says `x-kubernetes-patch-strategy: merge` is merged by its merge key (containers by name), a list of
scalars with that strategy is a set, any other list is replaced. Directives steer the rest:

    {"$patch": "replace"}                  in an object: it replaces; in a list: the list is replaced
    {"name": "b", "$patch": "delete"}      in a merged list: the element goes; in an object: it becomes empty
    "$deleteFromPrimitiveList/x": [...]    elements leave the set x
    "$setElementOrder/x": [...]            the order of the elements of x that the patch knows
    "$retainKeys": [...]                   the members that survive (unions: strategy, volumes)

Neither argument is changed: the result shares with the original what the patch leaves alone, and copies what it brings.

Source: k8s.io/apimachinery, pkg/util/strategicpatch/patch.go; its words, and its corner cases, are kept.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Final

from havre.lang.schema import Schema

Obj = dict[str, Any]
_Element = tuple[Hashable, Any]  # what makes it itself, and the element

_PATCH: Final = "$patch"
_RETAIN_KEYS: Final = "$retainKeys"
_DELETE_LIST: Final = "$deleteFromPrimitiveList"
_ELEMENT_ORDER: Final = "$setElementOrder"


class PatchError(ValueError):
    """A patch that cannot be merged; `code` is the HTTP status that the API server gives."""

    def __init__(self, message: str, code: int = 500) -> None:
        super().__init__(message)
        self.code = code


def apply(original: Obj, patch: Obj, schema: Schema | None) -> Obj:
    """`original` with `patch` merged into it by the rules of `schema`; without schema, lists are replaced.

    Raises PatchError.
    """
    directive = patch.get(_PATCH)
    if directive is not None:
        return _directed(directive, patch)
    merged = original.copy()
    done: set[str] = set()
    if any(key[:1] == "$" for key in patch):
        _retain_keys(merged, patch)
        done = _set_orders(merged, patch, schema)
    for key, value in patch.items():
        if key in done:
            continue
        if key.startswith(_DELETE_LIST):
            _delete_from_list(merged, _plain(key, _DELETE_LIST), value)
        elif value is None:
            merged.pop(key, None)
        elif key in merged:
            _merge_member(merged, key, value, schema)
        else:
            _put(merged, key, value)
    return merged


def _directed(directive: Any, patch: Obj) -> Obj:
    if directive == "replace":
        return {key: _brought(value) for key, value in patch.items() if key != _PATCH and value is not None}
    if directive == "delete":
        return {}
    raise PatchError(f"unknown patch type: {_shown(directive)} in map: {_shown(patch)}")


def _merge_member(merged: Obj, key: str, value: Any, schema: Schema | None) -> None:
    present = merged[key]
    node = schema.child(key) if schema else None
    if isinstance(present, dict) and isinstance(value, dict):
        merged[key] = _brought(value) if _strategy(node) == "replace" else apply(present, value, node)
    elif isinstance(present, list) and isinstance(value, list):
        merged[key] = _merge_list(present, value, node) if _strategy(node) == "merge" else _brought(value)
    else:
        _put(merged, key, value)


def _strategy(node: Schema | None) -> str:
    """The strategy of a field, `retainKeys` aside, which only matters to who makes a patch."""
    if node is None or not node.merge_strategy:
        return ""
    return next((word for word in node.merge_strategy.split(",") if word != "retainKeys"), "")


def _put(merged: Obj, key: str, value: Any) -> None:
    """The value of the patch as it stands; an object that is only a directive leaves nothing."""
    if isinstance(value, dict) and _PATCH in value:
        merged.pop(key, None)
    else:
        merged[key] = _brought(value)


def _brought(value: Any) -> Any:
    """A copy of what the patch brings, without nulls in objects and without directives."""
    if isinstance(value, dict):
        return {
            key: _brought(item)
            for key, item in value.items()
            if item is not None and key[:1] != "$" and not (isinstance(item, dict) and _PATCH in item)
        }
    if isinstance(value, list):
        return [_brought(item) for item in value if not (isinstance(item, dict) and _PATCH in item)]
    return value


# --- directives of an object ----------------------------------------------------------------------------------------


def _plain(key: str, prefix: str) -> str:
    """`x` of `$deleteFromPrimitiveList/x`."""
    start, slash, rest = key.partition("/")
    if not slash or start != prefix:
        kind = "primitive list" if prefix == _DELETE_LIST else "setElementOrder list"
        raise PatchError(f"invalid patch format of {kind}", 400)
    return rest


def _retain_keys(merged: Obj, patch: Obj) -> None:
    """Clears `merged` of members that `$retainKeys` does not name."""
    if _RETAIN_KEYS not in patch:
        return
    wanted = patch[_RETAIN_KEYS]
    if not isinstance(wanted, list) or not all(isinstance(key, str) for key in wanted):
        raise PatchError("invalid patch format of retainKeys", 400)
    kept = set(wanted)
    for key, value in patch.items():
        if value is not None and key not in kept and key[:1] != "$":
            raise PatchError("invalid patch format of retainKeys", 400)
    for key in merged.keys() - kept:
        del merged[key]


def _delete_from_list(merged: Obj, key: str, gone: Any) -> None:
    present = merged.get(key)
    if gone is None:
        merged.pop(key, None)
    elif isinstance(present, list) and isinstance(gone, list) and (present or gone):
        _check_elements(present, gone)
        out = {_scalar(value) for value in gone}
        merged[key] = [value for value in present if _scalar(value) not in out]


def _set_orders(merged: Obj, patch: Obj, schema: Schema | None) -> set[str]:
    """Merges and orders the lists that have a `$setElementOrder`; the members of the patch that this deals with."""
    done = {_RETAIN_KEYS}
    for directive, order in patch.items():
        if not directive.startswith(_ELEMENT_ORDER):
            continue
        done.add(directive)
        if not isinstance(order, list):
            raise PatchError(f"expected a []interface {{}}, but received a {_go_type(order)}")
        key = _plain(directive, _ELEMENT_ORDER)
        present, changes = merged.get(key), patch.get(key)
        for value in (merged.get(key, []), patch.get(key, [])):
            if not isinstance(value, list):
                raise PatchError(f"expected a []interface {{}}, but received a {_go_type(value)}")
        node = schema.child(key) if schema else None
        if node is None:
            raise PatchError(f'unable to find api field for the json field "{key}"')
        _check_order(changes or [], order, node.merge_key)
        done.add(key)
        if present is None and changes is None:
            continue
        merged[key] = _in_order(_reordered(present, changes, node), order, present or [], node.merge_key)
    return done


def _reordered(present: list[Any] | None, changes: list[Any] | None, node: Schema) -> list[Any]:
    if present is None:
        return list(_brought(changes))
    if changes is None:
        return present
    return _merge_list(present, changes, node) if _strategy(node) == "merge" else list(_brought(changes))


def _check_order(changes: list[Any], order: list[Any], merge_key: str) -> None:
    """The elements of the patch must occur in `$setElementOrder`, in the same order."""
    if not order or not changes:
        return
    places = iter(order)
    for change in changes:
        if merge_key:
            if not isinstance(change, dict):
                raise PatchError(f"expected a map[string]interface {{}}, but received a {_go_type(change)}")
            if _PATCH in change:
                continue
        wanted = _identity(change, merge_key)
        if not any(_identity(place, merge_key) == wanted for place in places):
            raise PatchError(
                f"The order in patch list:\n{_shown(changes)}\n doesn't match $setElementOrder list:\n{_shown(order)}\n"
            )


# --- lists ----------------------------------------------------------------------------------------------------------


def _merge_list(present: list[Any], changes: list[Any], node: Schema | None) -> list[Any]:
    """Two lists of one field as one, the elements of the patch in the order of the patch."""
    if not present and not changes:
        return present
    merge_key = node.merge_key if node else ""
    if not _check_elements(present, changes):
        both = dict.fromkeys(map(_scalar, (*present, *changes)))
        return _in_order([value for _, value in both], changes, present, "")
    if not merge_key:
        raise PatchError("cannot merge lists without merge key")
    live, changes = _special_elements(present, changes, merge_key)
    merged = _merge_elements(live, changes, merge_key, node.items if node else None)
    return _in_order(merged, changes, live, merge_key)


def _check_elements(*lists: list[Any]) -> bool:
    """Whether the elements are objects. Raises PatchError for a mixture or for lists of lists."""
    kinds = {_go_type(value) for values in lists for value in values}
    if "[]interface {}" in kinds:
        raise PatchError("lists of lists are not supported", 422)
    if len(kinds) > 1:
        raise PatchError(f"list element types are not identical: {_shown(lists)}")
    return kinds == {"map[string]interface {}"}


def _special_elements(present: list[Any], changes: list[Any], merge_key: str) -> tuple[list[Any], list[Any]]:
    """Carries out `$patch` in elements: (what of the live list stays, the changes to merge into it)."""
    usual: list[Any] = []
    gone: set[Hashable] = set()
    replaced = False
    for change in changes:
        if _PATCH not in change:
            usual.append(change)
            continue
        directive = change[_PATCH]
        if directive == "delete":
            gone.add(_identity(change, merge_key))
        elif directive == "replace":
            replaced = True
        elif directive == "merge":
            raise PatchError("merging lists cannot yet be specified in the patch")
        else:
            raise PatchError(f"unknown patch type: {_shown(directive)} in map: {_shown(change)}")
    if replaced:
        return list(_brought(usual)), []
    if gone:
        present = [item for item in present if merge_key not in item or _identity(item, merge_key) not in gone]
    return present, usual


def _merge_elements(live: list[Any], changes: list[Any], merge_key: str, schema: Schema | None) -> list[Any]:
    merged = live.copy()
    places: dict[Hashable, int] = {}
    for index, item in enumerate(live):
        if merge_key in item:
            places.setdefault(_identity(item, merge_key), index)
    for change in changes:
        identity = _identity(change, merge_key)
        place = places.get(identity)
        if place is None:
            places[identity] = len(merged)
            merged.append(_brought(change))
        else:
            merged[place] = apply(merged[place], change, schema)
    return merged


def _in_order(merged: list[Any], order: Sequence[Any], live: Sequence[Any], merge_key: str) -> list[Any]:
    """Elements named in `order` stand in that order; the others are woven in where the live list had them."""
    wanted = _places(order, merge_key)
    lived = _places(live, merge_key)
    named: list[_Element] = []
    others: list[_Element] = []
    for item in merged:
        identity = _identity(item, merge_key)
        (named if identity in wanted else others).append((identity, item))
    named.sort(key=lambda entry: wanted[entry[0]])
    others.sort(key=lambda entry: lived.get(entry[0], len(lived)))
    return _woven(others, named, lived)


def _woven(left: list[_Element], right: list[_Element], lived: dict[Hashable, int]) -> list[Any]:
    """Each of `left` goes before the first of `right` that the live list had after it."""
    out: list[Any] = []
    waiting = 0
    for identity, item in right:
        at = lived.get(identity)
        while at is not None and waiting < len(left):
            other = lived.get(left[waiting][0])
            if other is None or other >= at:
                break
            out.append(left[waiting][1])
            waiting += 1
        out.append(item)
    out.extend(item for _, item in left[waiting:])
    return out


def _places(items: Iterable[Any], merge_key: str) -> dict[Hashable, int]:
    """The first place of each element."""
    places: dict[Hashable, int] = {}
    for index, item in enumerate(items):
        places.setdefault(_identity(item, merge_key), index)
    return places


def _identity(item: Any, merge_key: str) -> Hashable:
    """What makes an element itself: the value of its merge key, or the scalar; 1, 1.0 and true are three things."""
    if not merge_key:
        return _scalar(item)
    if not isinstance(item, dict):
        raise PatchError(f"expected a map[string]interface {{}}, but received a {_go_type(item)}")
    if merge_key not in item:
        raise PatchError(f"map: {_shown(item)} does not contain declared merge key: {merge_key}")
    return _scalar(item[merge_key])


def _scalar(value: Any) -> tuple[type, Any]:
    if isinstance(value, dict | list):
        raise PatchError(f"merge by {_shown(value)}: only strings, numbers and booleans can be compared")
    return type(value), value


# --- words ----------------------------------------------------------------------------------------------------------

_GO_TYPES = {dict: "map[string]interface {}", list: "[]interface {}", int: "int64", float: "float64", str: "string"}


def _go_type(value: Any) -> str:
    return "%!s(<nil>)" if value is None else _GO_TYPES.get(type(value), "bool")


def _shown(value: Any) -> str:
    """As Go's `%v` prints it."""
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_shown(value[key])}' for key in sorted(value))}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(_shown, value))}]"
    if value is None:
        return "<nil>"
    return str(value).lower() if isinstance(value, bool) else str(value)
