"""JSON Patch: a list of add, remove, replace, move, copy and test operations on one document.

The document is never changed: containers on a written path are copied once, everything else is shared with the
original. Where RFC 6902 and the API server part, the server wins: `replace` of an absent member adds it, a missing
`value` is null, whatever stands before the first slash of a path is ignored, and negative indices count from the end.

Source: RFC 6902, RFC 6901; gopkg.in/evanphx/json-patch.v4 for semantics and words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from havre.lang import json

MAX_OPERATIONS: Final = 10_000
MAX_COPIED: Final = 3 * 1024 * 1024  # bytes of JSON that `copy` may add in all: the size of a request body

Json = Any
_ABSENT: Final = object()


class PatchError(ValueError):
    """A patch that is none, or that does not apply to the document; the words are upstream's."""


class TooManyOperations(PatchError):
    """More than `MAX_OPERATIONS`; the API server answers 413."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One step; a `path` or `start` that the patch lacks is None and fails when the step is taken."""

    kind: str
    path: str | None = None
    start: str | None = None  # "from" of move and copy
    value: Json = _ABSENT


def parse(raw: Json) -> tuple[Operation, ...]:
    """The operations of a decoded patch. Raises PatchError."""
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise PatchError(_cannot(raw, "value of type []handlers.jsonPatchOp"))
    if len(raw) > MAX_OPERATIONS:
        raise TooManyOperations(f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(raw)}")
    return tuple(map(_operation, raw))


def _operation(raw: Json) -> Operation:
    if raw is None:
        return Operation("unknown")
    if not isinstance(raw, dict):
        raise PatchError(_cannot(raw, "value of type handlers.jsonPatchOp"))
    for name in ("op", "from", "path"):
        if not isinstance(raw.get(name), str | None):
            raise PatchError(_cannot(raw[name], f"struct field jsonPatchOp.{name} of type string"))
    kind = raw.get("op")
    return Operation("unknown" if kind is None else kind, raw.get("path"), raw.get("from"), raw.get("value", _ABSENT))


def _cannot(raw: Json, what: str) -> str:
    return f"json: cannot unmarshal {json.kind_of(raw)} into Go {what}"


def apply(document: Json, operations: tuple[Operation, ...]) -> Json:
    """The patched document. Raises PatchError if an operation does not apply."""
    work = _Work(document)
    for operation in operations:
        step = _STEPS.get(operation.kind)
        if step is None:
            raise PatchError(f"Unexpected kind: {operation.kind}")
        step(work, operation)
    if any(map(_can_deepen, operations)) and json.deeper_than(work.root, json.MAX_DEPTH):
        raise PatchError(f"the patched document would nest more than {json.MAX_DEPTH} levels")
    return work.root


_SHALLOW = 32  # parts of a path; a value below it nests at most as a body does, far less in practice


def _can_deepen(operation: Operation) -> bool:
    """Whether it is worth the time to measure the result."""
    return operation.kind in ("copy", "move") or (operation.path or "").count("/") > _SHALLOW


class _Work:
    """The document in the making, and which of its containers are ours to change."""

    def __init__(self, document: Json) -> None:
        self.root = document
        self.copied = 0
        self._own: dict[int, Json] = {}  # keeps its values alive, so that an id cannot be used again

    def find(self, path: str) -> tuple[Json, str]:
        """The container that holds the last part of `path` and that part; (None, "") if there is no such container."""
        parts = path.split("/")[1:]
        if not parts:
            return None, ""
        node = self.root
        for part in parts[:-1]:
            node = _get(node, _unescaped(part), _ABSENT)
        return (node, _unescaped(parts[-1])) if isinstance(node, dict | list) else (None, "")

    def writable(self, path: str) -> Json:
        """The container that `find` gave for `path`, made ours together with all above it."""
        node = self.root = self._owned(self.root)
        for part in path.split("/")[1:-1]:
            key = _unescaped(part)
            at = key if isinstance(node, dict) else _index(key, len(node))
            child = self._owned(node[at])
            node[at] = child
            node = child
        return node

    def _owned(self, node: Json) -> Json:
        if id(node) in self._own:
            return node
        copy = node.copy()
        self._own[id(copy)] = copy
        return copy

    def share(self, value: Json) -> None:
        """`value` will stand in two places: nothing in it may be changed in place any more."""
        if isinstance(value, dict | list):
            self._own.pop(id(value), None)
            for child in value.values() if isinstance(value, dict) else value:
                self.share(child)


_digits = re.compile("[-+]?[0-9]{1,19}").fullmatch


def _unescaped(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~") if "~" in part else part


def _number(key: str) -> int:
    if not _digits(key):
        raise PatchError(f'strconv.Atoi: parsing "{key}": invalid syntax')
    return int(key)


def _index(key: str, size: int) -> int:
    """The place of `key` in a list of `size` elements. Raises PatchError."""
    index = _number(key)
    if not -size <= index < size:
        raise PatchError(f"Unable to access invalid index: {index}: invalid index referenced")
    return index % size


def _get(node: Json, key: str, default: Json) -> Json:
    """What a path leads through; `default` for anything that cannot be entered."""
    if isinstance(node, dict):
        return node.get(key, default)
    if isinstance(node, list):
        try:
            return node[_index(key, len(node))]
        except PatchError:
            return default
    return default


def _read(container: Json, key: str) -> Json:
    """The value to move, copy or test; an absent member of an object reads as null."""
    return container.get(key) if isinstance(container, dict) else container[_index(key, len(container))]


def _insert(work: _Work, path: str, key: str, value: Json) -> None:
    container = work.writable(path)
    if isinstance(container, dict):
        container[key] = value
    elif key == "-":
        container.append(value)
    else:
        try:
            index = _number(key)
        except PatchError as e:
            raise PatchError(f"value was not a proper array index: '{key}': {e}") from e
        size = len(container) + 1
        if not -size <= index < size:
            raise PatchError(f"Unable to access invalid index: {index}: invalid index referenced")
        container.insert(index % size, value)


def _delete(work: _Work, path: str, key: str) -> None:
    container = work.writable(path)
    if isinstance(container, list):
        del container[_index(key, len(container))]
    elif key in container:
        del container[key]
    else:
        raise PatchError(f"Unable to remove nonexistent key: {key}: missing value")


def _add(work: _Work, operation: Operation) -> None:
    path = operation.path
    if path is None:
        raise PatchError("add operation failed to decode path: missing value")
    container, key = work.find(path)
    if container is None:
        raise PatchError(f'add operation does not apply: doc is missing path: "{path}": missing value')
    with _telling(f"error in add for path: '{path}'"):
        _insert(work, path, key, _value(operation))


def _remove(work: _Work, operation: Operation) -> None:
    path = operation.path
    if path is None:
        raise PatchError("remove operation failed to decode path: missing value")
    container, key = work.find(path)
    if container is None:
        raise PatchError(f'remove operation does not apply: doc is missing path: "{path}": missing value')
    with _telling(f"error in remove for path: '{path}'"):
        _delete(work, path, key)


def _replace(work: _Work, operation: Operation) -> None:
    path = _path(operation, "replace")
    value = _value(operation)
    if path == "":
        if isinstance(value, dict | list):  # upstream lets a scalar pass and does nothing
            work.root = value
        return
    container, key = work.find(path)
    if container is None:
        raise PatchError(f"replace operation does not apply: doc is missing path: {path}: missing value")
    if isinstance(container, list):
        try:
            _index(key, len(container))
        except PatchError as e:
            raise PatchError(f"replace operation does not apply: doc is missing key: {path}: missing value") from e
    target = work.writable(path)
    target[key if isinstance(target, dict) else _index(key, len(target))] = value


def _move(work: _Work, operation: Operation) -> None:
    start = _start(operation, "move")
    container, key = work.find(start)
    if container is None:
        raise PatchError(f"move operation does not apply: doc is missing from path: {start}: missing value")
    with _telling(f"error in move for path: '{key}'"):
        value = _read(container, key)
        _delete(work, start, key)
    path = _path(operation, "move")
    container, key = work.find(path)
    if container is None:
        raise PatchError(f"move operation does not apply: doc is missing destination path: {path}: missing value")
    with _telling(f"error in move for path: '{path}'"):
        _insert(work, path, key, value)


def _copy(work: _Work, operation: Operation) -> None:
    start = _start(operation, "copy")
    container, key = work.find(start)
    if container is None:
        raise PatchError(f"copy operation does not apply: doc is missing from path: {start}: missing value")
    with _telling(f"error in copy for from: '{start}'"):
        value = _read(container, key)
    path = operation.path
    if path is None:
        raise PatchError("copy operation failed to decode path: missing value")
    container, key = work.find(path)
    if container is None:
        raise PatchError(f"copy operation does not apply: doc is missing destination path: {path}: missing value")
    work.copied += _size(value)
    if work.copied > MAX_COPIED:
        raise PatchError(
            f"Unable to complete the copy, the accumulated size increase of copy is {work.copied}, "
            f"exceeding the limit {MAX_COPIED}"
        )
    work.share(value)
    with _telling("error while adding value during copy"):
        _insert(work, path, key, value)


def _size(value: Json) -> int:
    try:
        return len(json.dumps(value))
    except json.JSONError as e:
        raise PatchError(f"error while performing deep copy: {e}") from e


def _test(work: _Work, operation: Operation) -> None:
    path = _path(operation, "test")
    if path == "":
        present = work.root
    else:
        container, key = work.find(path)
        if container is None:
            raise PatchError(f"test operation does not apply: is missing path: {path}: missing value")
        with _telling(f"error in test for path: '{path}'"):
            present = _read(container, key)
    if not _same(present, operation.value):
        raise PatchError(f"testing value {path} failed: test failed")


_STEPS: dict[str, Callable[[_Work, Operation], None]] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "move": _move,
    "copy": _copy,
    "test": _test,
}


class _telling:  # noqa: N801 - reads as a phrase; contextlib's generator would cost 1 µs an operation
    """Puts `words` before the message of a PatchError raised inside."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PatchError):
            raise PatchError(f"{self._words}: {error}") from error


def _path(operation: Operation, name: str) -> str:
    if operation.path is None:
        raise PatchError(f"{name} operation failed to decode path: operation missing path field: missing value")
    return operation.path


def _start(operation: Operation, name: str) -> str:
    if operation.start is None:
        raise PatchError(f"{name} operation failed to decode from: operation, missing from field: missing value")
    return operation.start


def _value(operation: Operation) -> Json:
    """A copy, so that who goes on with the result never changes the patch, which may be applied again."""
    return None if operation.value is _ABSENT else json.copied(operation.value)


def _same(left: Json, right: Json) -> bool:
    """Equal as JSON texts: 1 is not true, and not 1.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(value, right[key]) for key, value in left.items())
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)
