"""Sets of field paths as `metadata.managedFields[].fieldsV1` spells them: `.spec.containers[name="web"].image`.

A set is a trie of plain dicts, the very JSON of FieldsV1, so that decoding is a check and encoding is free:

    {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}}      .metadata.labels and .metadata.labels.app

    f:name    a field or map entry             k:{"name":"web"}  an element of a list of maps, by its keys
    v:"x"     an element of a list of scalars  i:0               an element by its place

An element is in the set when its node is empty or has "."; other nodes only lead to their children. Nodes are never
changed after they are made and are shared between sets, so a set costs only what differs from the one it came from.

Source: sigs.k8s.io/structured-merge-diff v6, fieldpath/.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

import orjson

Node: TypeAlias = "dict[str, Node]"
SELF: Final = "."
MAX_DEPTH: Final = 200  # levels of a set; two Python frames a level stay far below the interpreter's 1000
_KEYS_REMEMBERED: Final = 8192  # distinct `k:` and `v:` elements whose spelling was checked; about 2 MB
_PLAIN: Final = re.compile(r"[A-Za-z0-9 _.,:;/@=+*()\[\]{}!?#$%^~|'-]*")  # strings that JSON writes as they are
_HTML: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


class BadFields(ValueError):
    """JSON that is not a FieldsV1; the message says which element."""


@dataclass(frozen=True, slots=True)
class FieldSet:
    """An immutable set of paths. `root` is its FieldsV1; treat it as read-only."""

    root: Node

    @classmethod
    def of(cls, *paths: tuple[str, ...]) -> FieldSet:
        """The set of some paths, each a tuple of elements: `("f:spec", "f:replicas")`."""
        root: Node = {}
        for path in paths:
            _insert(root, path)
        return cls(root)

    @classmethod
    def decode(cls, fields: object) -> FieldSet:
        """The set of a FieldsV1 from a client. Raises BadFields."""
        if fields is None:
            return EMPTY
        if not isinstance(fields, dict):
            raise BadFields(f"decode fieldsV1: expected an object, got {type(fields).__name__}")
        node = fields if _clean(fields, MAX_DEPTH) else _decode(fields, 0)
        return cls({key: child for key, child in node.items() if key != SELF} if SELF in node else node)

    def __bool__(self) -> bool:
        return bool(self.root)

    def __or__(self, other: FieldSet) -> FieldSet:
        if not self.root:
            return other
        if not other.root:
            return self
        return _same_or(self, union(self.root, other.root))

    def __sub__(self, other: FieldSet) -> FieldSet:
        if not self.root or not other.root:
            return self
        return _same_or(self, difference(self.root, other.root) or {})

    def __and__(self, other: FieldSet) -> FieldSet:
        if not self.root or not other.root:
            return EMPTY
        return _same_or(self, intersection(self.root, other.root) or {})

    def without(self, other: FieldSet) -> FieldSet:
        """This set less the paths of `other` and everything below them."""
        if not self.root or not other.root:
            return self
        return _same_or(self, prune(self.root, other.root) or {})

    def __contains__(self, path: tuple[str, ...]) -> bool:
        node = self.root
        for element in path:
            found = node.get(element)
            if found is None:
                return False
            node = found
        return bool(path) and (not node or SELF in node)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return _walk(self.root, ())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def ordered(self) -> FieldSet:
        """The same set with its elements in upstream's order, for output that people and diffs read."""
        return FieldSet(_ordered(self.root))


EMPTY: Final = FieldSet({})


def _same_or(old: FieldSet, root: Node) -> FieldSet:
    return old if root is old.root else FieldSet(root)


def _insert(root: Node, path: tuple[str, ...]) -> None:
    """Adds one path to a set that is still being made."""
    node = root
    for depth, element in enumerate(path):
        child = node.get(element)
        last = depth == len(path) - 1
        if child is None:
            child = node[element] = {}
        elif bool(child) == last:  # a node with children becomes a member, or a member gets children
            child[SELF] = {}
        node = child


# Nodes: `{}` is a member without children, so a difference or intersection that leaves nothing is None.


def union(a: Node, b: Node) -> Node:
    """What is in either; `a` itself when `b` adds nothing."""
    if a is b:
        return a
    if not b:
        return a if not a or SELF in a else {SELF: {}, **a}
    if not a:
        return b if SELF in b else {SELF: {}, **b}
    out = None
    for key, theirs in b.items():
        mine = a.get(key)
        joined = theirs if mine is None else union(mine, theirs)
        if joined is not mine:
            if out is None:
                out = dict(a)
            out[key] = joined
    return a if out is None else out


def difference(a: Node, b: Node) -> Node | None:
    """What is in `a` and not in `b`; children of a removed element stay. None when nothing is left."""
    if a is b:
        return None
    if not a:
        return a if b and SELF not in b else None
    if not b:
        return _bare(a)
    out = None
    for key, theirs in b.items():
        mine = a.get(key)
        if mine is None:
            continue
        left = difference(mine, theirs) if mine or (theirs and SELF not in theirs) else None
        if left is not mine:
            if out is None:
                out = dict(a)
            if left is None:
                del out[key]
            else:
                out[key] = left
    return a if out is None else _node(out)


def prune(a: Node, b: Node) -> Node | None:
    """What is in `a` and neither in `b` nor below an element of `b`. None when nothing is left."""
    if a is b or not b or SELF in b:
        return None
    out = None
    for key, theirs in b.items():
        mine = a.get(key)
        if mine is None:
            continue
        left = prune(mine, theirs)
        if left is not mine:
            if out is None:
                out = dict(a)
            if left is None:
                del out[key]
            else:
                out[key] = left
    return a if out is None else _node(out)


def intersection(a: Node, b: Node) -> Node | None:
    """What is in both; None when nothing is."""
    if a is b:
        return a
    if not a:
        return a if not b or SELF in b else None
    if not b:
        return b if SELF in a else None
    out: Node = {}
    for key, mine in a.items():
        theirs = b.get(key)
        if theirs is not None:
            both = intersection(mine, theirs)
            if both is not None:
                out[key] = both
    return _node(out)


def _node(children: Node) -> Node | None:
    """A node of these entries in its normal form: a "." alone is the empty node, no entry is no node."""
    if not children:
        return None
    if len(children) == 1 and SELF in children:
        return {}
    return children


def _bare(node: Node) -> Node | None:
    """The node less its own membership."""
    if not node:
        return None
    if SELF not in node:
        return node
    return {key: child for key, child in node.items() if key != SELF} or None


def _walk(node: Node, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every member below: first those directly under `path`, then deeper ones, as upstream lists conflicts."""
    keys = sorted((key for key in node if key != SELF), key=element_order)
    for key in keys:
        child = node[key]
        if not child or SELF in child:
            yield (*path, key)
    for key in keys:
        yield from _walk(node[key], (*path, key))


def _ordered(node: Node) -> Node:
    if not node:
        return node
    if len(node) == 1:
        return {key: _ordered(child) for key, child in node.items()}
    return {key: _ordered(node[key]) for key in sorted(node, key=element_order)}


# Path elements


def field(name: str) -> str:
    """The element of a field or map entry."""
    return "f:" + name


def value_element(value: Any) -> str:
    """The element of a scalar in a list that is a set."""
    return "v:" + scalar_json(value)


def key_element(keys: dict[str, Any]) -> str:
    """The element of a map in a list of maps, by the values of its keys."""
    inner = ",".join(f"{_string(name)}:{scalar_json(keys[name])}" for name in sorted(keys))
    return f"k:{{{inner}}}"


def scalar_json(value: Any) -> str:
    """A value as Go's json package writes it: no spaces, `<>&` escaped, whole floats as integers."""
    kind = type(value)
    if kind is str:
        return _string(value)
    if kind is int:
        return str(value)
    return _go_json(value)


def _string(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return f'"{text}"'
    return re.sub("[<>&\u2028\u2029]", lambda m: _HTML[m[0]], json.dumps(text, ensure_ascii=False))


def _go_json(value: Any) -> str:
    match value:
        case bool() | None:
            return {True: "true", False: "false", None: "null"}[value]
        case str():
            return _string(value)
        case float() if value.is_integer() and abs(value) < 1e21:
            return str(int(value))
        case dict():
            return "{" + ",".join(f"{_string(str(k))}:{_go_json(v)}" for k, v in sorted(value.items())) + "}"
        case list():
            return "[" + ",".join(map(_go_json, value)) + "]"
    return json.dumps(value)


def show_path(path: tuple[str, ...]) -> str:
    """A path as messages show it: `.spec.containers[name="web"].image`."""
    return "".join(map(show_element, path))


def show_element(element: str) -> str:
    kind, text = element[0], element[2:]
    if kind == "f":
        return "." + text
    if kind == "i":
        return f"[{text}]"
    if kind == "v":
        return f"[={show_value(orjson.loads(text))}]"
    keys = orjson.loads(text)
    return f"[{','.join(f'{name}={show_value(keys[name])}' for name in sorted(keys))}]"


def show_value(value: Any) -> str:
    """A scalar as Go's value.ToString: strings quoted, `true`, `null`, numbers."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return _go_json(value)


def element_order(element: str) -> tuple[Any, ...]:
    """Sort key of elements under one node: "." first, then fields, keys, values and places."""
    kind = element[0]
    if kind == "f":
        return (1, element)
    if kind == "k":
        keys = orjson.loads(element[2:])
        return (2, [(name, _value_order(keys[name])) for name in sorted(keys)])
    if kind == "v":
        return (3, _value_order(orjson.loads(element[2:])))
    return (4, int(element[2:])) if kind == "i" else (0,)


def _value_order(value: Any) -> tuple[int, Any]:
    match value:
        case bool():
            return (2, value)
        case int() | float():
            return (0, value)
        case str():
            return (1, value)
    return (3, json.dumps(value, sort_keys=True))


# Decoding


def _clean(node: dict[Any, Any], levels: int) -> bool:
    """Is the node spelled as `_decode` would leave it? It nearly always is, for this server wrote it."""
    for key, child in node.items():
        if type(child) is not dict:
            return False
        if key[:2] != "f:":
            if key == SELF:
                if child or len(node) == 1:
                    return False
                continue
            if _canonical(key) != key:
                return False
        if child and not (levels and _clean(child, levels - 1)):
            return False
    return True


def _decode(node: dict[Any, Any], depth: int) -> Node:
    """The node with every element in its one spelling; the same dict when it was so already."""
    if depth > MAX_DEPTH:
        raise BadFields(f"decode fieldsV1: more than {MAX_DEPTH} levels deep")
    out = None
    for key, child in node.items():
        if type(child) is not dict:
            raise BadFields(f"decode fieldsV1: {key!r} must hold an object, got {type(child).__name__}")
        spelled = key if key[:2] == "f:" or key == SELF else _canonical(key)
        below = (_decode(child, depth + 1) if child else child) if key != SELF else {}
        if out is None and (spelled != key or below is not child):
            out = dict(_before(node, key))
        if out is not None and spelled is not None:
            out[spelled] = union(out[spelled], below) if spelled in out else below
    if out is None:
        return node if SELF not in node or len(node) > 1 else {}
    return out if SELF not in out or len(out) > 1 else {}


def _before(node: dict[Any, Any], stop: str) -> Iterator[tuple[str, Node]]:
    for key, child in node.items():
        if key == stop:
            return
        yield key, child


@lru_cache(_KEYS_REMEMBERED)
def _canonical(element: str) -> str | None:
    """The one spelling of an element; None for a kind that a later version invented. Raises BadFields."""
    if len(element) < 2 or element[1] != ":":
        raise BadFields(f"decode fieldsV1: {element!r} is not an element; expected f:, k:, v: or i:")
    kind, text = element[0], element[2:]
    if kind == "i":
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text, re.ASCII):
            raise BadFields(f"decode fieldsV1: {element!r}: not a whole number")
        return f"i:{int(text)}"
    if kind not in "kv":
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as err:
        raise BadFields(f"decode fieldsV1: {element!r}: {err}") from err
    if kind == "k" and not isinstance(value, dict):
        raise BadFields(f"decode fieldsV1: {element!r}: expected an object of keys")
    try:
        return value_element(value) if kind == "v" else key_element(value)
    except RecursionError:
        raise BadFields(f"decode fieldsV1: an element of {len(element)} characters is nested too deep") from None
