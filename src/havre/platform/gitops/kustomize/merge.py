"""Strategic merge as kustomize does it, which is not as the API server does it.

A patched element moves to the front of its list, in the order of the patch; a kind without a known schema has lists
that are replaced; a list keyed by several fields (ports) takes as key those that are there; `$patch` in a list's
element deletes or merges it, alone in an element it speaks of the whole list.

Source: sigs.k8s.io/kustomize, kyaml/yaml/merge2 and kyaml/yaml/walk.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from havre.api import schemas
from havre.api.meta import GVK, Obj, split_api_version
from havre.lang.json import copied
from havre.lang.schema import Compiler, Schema
from havre.platform.gitops.kustomize.errors import BuildError

_PATCH: Final = "$patch"
_GONE: Final = object()  # the field, the element, or the object is to go
_ABSENT: Final = object()
_DELETE, _REPLACE, _MERGE = "delete", "replace", "merge"


@cache
def _compiler() -> Compiler:
    return Compiler(schemas.definitions())


def schema_of(obj: Obj) -> Schema | None:
    """Of a built-in kind."""
    kind, version = obj.get("kind"), obj.get("apiVersion")
    if not isinstance(kind, str) or not isinstance(version, str):
        return None
    try:
        return _compiler().named(schemas.schema_name(GVK(*split_api_version(version), kind)))
    except KeyError:
        return None


def merge(obj: Obj, patch: Obj) -> Obj | None:
    """`obj` with `patch` merged into it, both may be changed by it; None when the patch deletes it."""
    merged = _walk(obj, patch, schema_of(obj), "")
    return None if merged is _GONE or merged is None else merged


def _walk(old: Any, new: Any, schema: Schema | None, path: str) -> Any:
    if new is _ABSENT:
        return old
    if new is None:
        return _GONE
    _same_kind(old, new, path)
    if isinstance(new, dict):
        return _map(old, new, schema, path)
    if isinstance(new, list):
        return _list(old, new, schema, path)
    return new


def _same_kind(old: Any, new: Any, path: str) -> None:
    kinds = [type(value) if isinstance(value, dict | list) else str for value in (old, new)]
    if old is None or old is _ABSENT or kinds[0] is kinds[1]:
        return
    names = [{dict: "MappingNode", list: "SequenceNode"}.get(kind, "ScalarNode") for kind in kinds]
    raise BuildError(f"{path or 'the object'}: wrong node kind: expected {names[0]} but was {names[1]}")


def _map(old: Any, new: Obj, schema: Schema | None, path: str) -> Any:
    directive = _directive(new.pop(_PATCH, None), path)
    if directive == _DELETE:
        return _GONE
    if old is None or old is _ABSENT or directive == _REPLACE:
        old = {}
    for key in sorted(new):
        value = _walk(old.get(key, _ABSENT), new[key], schema.child(key) if schema else None, f"{path}.{key}")
        if value is _GONE:
            old.pop(key, None)
        else:
            old[key] = value
    return old


def _directive(value: Any, path: str) -> str:
    if value in (None, _DELETE, _REPLACE, _MERGE):
        return value or _MERGE
    raise BuildError(f"{path or 'the object'}: unknown patch strategy '{value}'")


def _list(old: Any, new: list[Any], schema: Schema | None, path: str) -> Any:
    if schema is None or _MERGE not in schema.merge_strategy.split(","):
        return copied(new)
    directive, new = _list_directive(new, path)
    if directive == _DELETE:
        return _GONE
    present = [] if old is None or old is _ABSENT or directive == _REPLACE else old
    keys = schema.list_map_keys or ((schema.merge_key,) if schema.merge_key else ())
    if not keys:
        return _set(present, new)
    return _elements(present, new, keys, schema.items, path)


def _list_directive(new: list[Any], path: str) -> tuple[str, list[Any]]:
    """An element that is `$patch: …` and nothing else speaks of the list."""
    for index, item in enumerate(new):
        if isinstance(item, dict) and len(item) == 1 and _PATCH in item:
            return _directive(item[_PATCH], path), new[:index] + new[index + 1 :]
    return _MERGE, new


def _set(old: list[Any], new: list[Any]) -> list[Any]:
    merged: list[Any] = []
    for item in (*new, *old):
        if item not in merged:
            merged.append(item)
    return merged


Key = tuple[str | None, ...]


def _elements(old: list[Any], new: list[Any], keys: tuple[str, ...], schema: Schema | None, path: str) -> list[Any]:
    keyed = _used(keys, (*new, *old))
    places: dict[Key, int] = {}
    for index, item in enumerate(old):
        places.setdefault(_key(item, keyed, path), index)
    merged: dict[Key, Any] = {}
    nameless: list[Any] = []
    gone: set[Key] = set()
    for item in new:
        key = _key(item, keyed, path)
        if not any(part is not None for part in key):
            nameless.append(item)
            continue
        match = _match(key, places)
        before = merged.get(match, _ABSENT) if match in merged else old[places[match]] if match in places else _ABSENT
        if item.get(_PATCH) == _REPLACE and before is not _ABSENT:
            merged[match] = before  # upstream's fault: such an element stays what it was
            continue
        value = _walk(before, item, schema, f"{path}[{_shown(keyed, key)}]")
        if value is _GONE or value == {}:
            gone.add(match)
            merged.pop(match, None)
        else:
            merged[match] = value
    rest = [item for item in old if (key := _key(item, keyed, path)) not in merged and key not in gone]
    return [*merged.values(), *nameless, *rest]


def _used(keys: tuple[str, ...], items: tuple[Any, ...]) -> tuple[str, ...]:
    """The keys that any element has; a port list may do without protocols."""
    return tuple(key for key in keys if any(isinstance(item, dict) and item.get(key) for item in items)) or keys


def _key(item: Any, keys: tuple[str, ...], path: str) -> Key:
    if not isinstance(item, dict):
        raise BuildError(f"{path}: wrong node kind: expected MappingNode but was {item!r}")
    return tuple(_text(item.get(key), f"{path}: {key}") for key in keys)


def _text(value: Any, path: str) -> str | None:
    """8080 and "8080" are one key."""
    if isinstance(value, dict | list):
        raise BuildError(f"{path}: wrong node kind: expected ScalarNode but was {value!r}")
    return None if value is None or value == "" else str(value)


def _match(key: Key, places: dict[Key, int]) -> Key:
    """The key of the element that is meant: equal, or differing only where one of both has nothing."""
    if key in places or (None not in key and not any(None in other for other in places)):
        return key
    for other in places:
        pairs = [*zip(key, other, strict=True)]
        if any(a == b for a, b in pairs) and all(a == b or a is None or b is None for a, b in pairs):
            return other
    return key


def _shown(keys: tuple[str, ...], values: Key) -> str:
    return ",".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
