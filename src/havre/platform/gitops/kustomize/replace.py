"""Replacements: the value of one field of one object is copied to fields of others.

Source: sigs.k8s.io/kustomize, api/filters/replacement and kyaml/yaml/match.go.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from havre.lang.json import copied
from havre.lang.structural.regex import PatternError, matcher
from havre.platform.gitops.kustomize.errors import BuildError
from havre.platform.gitops.kustomize.resource import CLUSTER, Gvk, Id, Resource, value_of
from havre.platform.gitops.kustomize.selection import Selector

DEFAULT_PATH: Final = "metadata.name"
_Node = tuple[Any, Any]  # a container and the key or index in it


@dataclass(frozen=True, slots=True)
class Options:
    """How a part of a text is read or written."""

    delimiter: str = ""
    index: int = 0
    create: bool = False

    @classmethod
    def of(cls, raw: Any, where: str) -> Options:
        if raw is None:
            return cls()
        if not isinstance(raw, dict) or not isinstance(raw.get("index", 0), int):
            raise BuildError(f"{where}: options: expected delimiter, index and create")
        return cls(str(raw.get("delimiter") or ""), raw.get("index", 0), raw.get("create") is True)


def apply(resources: Sequence[Resource], raw: Mapping[str, Any], where: str) -> None:
    """One replacement. Raises BuildError."""
    source, targets = raw.get("source"), raw.get("targets")
    if (source is None and raw.get("sourceValue") is None) or not isinstance(targets, list):
        raise BuildError(f"{where}: replacements must specify a source and at least one target")
    if source is not None and raw.get("sourceValue") is not None:
        raise BuildError(f"{where}: value and resource selectors are mutually exclusive")
    value = str(raw["sourceValue"]) if source is None else _source(resources, source, f"{where}.source")
    for number, target in enumerate(targets):
        _write(resources, target, value, f"{where}.targets[{number}]")


# from where


def _source(resources: Sequence[Resource], raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise BuildError(f"{where}: expected an object with kind, name and fieldPath")
    found = [each for each in resources if any(_is_source(raw, id) for id in (*each.former_ids, each.id))]
    shown = ", ".join(f"{key}: {raw[key]}" for key in ("group", "version", "kind", "name", "namespace") if raw.get(key))
    if len(found) != 1:
        raise BuildError(f"{where}: {'multiple matches for' if found else 'nothing selected by'} {shown}")
    path, options = raw.get("fieldPath") or DEFAULT_PATH, Options.of(raw.get("options"), where)
    node: Any = found[0].obj
    for part in split(path):
        node = _lookup(node, part)
    if node is None or node in ("", {}, []):
        raise BuildError(f"{where}: fieldPath `{path}` is missing for replacement source {shown}")
    if not options.delimiter:
        return copied(node)
    if isinstance(node, dict | list):
        raise BuildError(f"{where}: delimiter option can only be used with scalar nodes")
    pieces = _text(node).split(options.delimiter)
    if not 0 <= options.index < len(pieces):
        raise BuildError(f"{where}: options.index {options.index} is out of bounds for value {_text(node)}")
    return pieces[options.index]


def _is_source(raw: Mapping[str, Any], id: Id) -> bool:
    gvk = Gvk(*(str(raw.get(part) or "") for part in ("group", "version", "kind")))
    space = "" if id.namespace == CLUSTER else id.namespace
    return gvk.selects(id.gvk) and raw.get("name") in (None, "", id.name) and raw.get("namespace") in (None, "", space)


def _lookup(node: Any, part: str) -> Any:
    if isinstance(node, dict):
        return node.get(part)
    if isinstance(node, list):
        if part.lstrip("-").isdigit():
            index = int(part)
            return node[index] if -len(node) <= index < len(node) else None
        if part.startswith("[") and "=" in part:
            field, _, wanted = part.strip("[]").partition("=")
            return next((item for item in node if _text(item.get(field) if field else item) == wanted), None)
    return None


# to where


def _write(resources: Sequence[Resource], raw: Any, value: Any, where: str) -> None:
    if not isinstance(raw, dict) or not isinstance(raw.get("select"), dict):
        raise BuildError(f"{where}: target must specify resources to select")
    select = Selector.of(raw["select"], f"{where}.select")
    reject = [Selector.of(each, f"{where}.reject") for each in raw.get("reject") or ()]
    options = Options.of(raw.get("options"), where)
    paths = raw.get("fieldPaths") or [DEFAULT_PATH]
    for resource in resources:
        if not select.words(resource) or any(_rejects(each, resource) for each in reject):
            continue
        if any(select.identifies(id, space) for id, space in _identities(resource)):
            for path in paths:
                _copy(resource.obj, str(path), value, options, f"{where}: {resource.gvk.kind} {resource.name}")


def _identities(resource: Resource) -> Iterator[tuple[Id, str]]:
    """Of each: the id and the namespace as a selector sees it, "" where there is none written."""
    for id in resource.former_ids:
        yield id, id.namespace
    yield resource.id, resource.namespace


def _rejects(selector: Selector, resource: Resource) -> bool:
    if selector.names_something and any(selector.identifies(id, space) for id, space in _identities(resource)):
        return True
    by_words = not (selector.labels.everything and selector.annotations.everything)
    return by_words and selector.words(resource)


def _copy(obj: Any, path: str, value: Any, options: Options, where: str) -> None:
    places = [*_places(obj, split(path), value, options, where)]
    if not places:
        how = "find or create" if options.create else "find"
        raise BuildError(f'{where}: unable to {how} field "{path}" in replacement target')
    for container, key in places:
        container[key] = _set(container[key], value, options, where)


def _places(node: Any, path: Sequence[str], value: Any, options: Options, where: str) -> Iterator[_Node]:
    """Every (container, key) that the path leads to, made on the way if that is wanted."""
    part, rest = path[0], path[1:]
    for container, key in _steps(node, part, rest, value, options, where):
        child = container[key]
        if not rest:
            yield container, key
        elif isinstance(child, dict | list):
            yield from _places(child, rest, value, options, where)
        elif isinstance(child, str):
            container[key] = _within(child, rest, value, options, where)
            yield _DONE


_DONE: Final[_Node] = ({"": None}, "")  # written already, inside a text


def _steps(node: Any, part: str, rest: Sequence[str], value: Any, options: Options, where: str) -> Iterator[_Node]:
    if isinstance(node, dict):
        if part == "*":
            raise BuildError(f"{where}: '*' stands for the elements of a list, found an object")
        if part not in node and options.create:
            node[part] = _blank(rest, value)
        if part in node:
            yield node, part
        return
    if not isinstance(node, list):
        return
    if part == "*":
        yield from ((node, index) for index in range(len(node)))
    elif part.isdigit() or part == "-":
        yield from _by_index(node, part, rest, value, options, where)
    elif part.startswith("["):
        yield from _by_value(node, part, options, where)


def _by_index(
    node: list[Any], part: str, rest: Sequence[str], value: Any, options: Options, where: str
) -> Iterator[_Node]:
    index = len(node) - 1 if part == "-" else int(part)
    if index == len(node) and options.create:
        node.append(_blank(rest, value))
    if not 0 <= index < len(node):
        raise BuildError(f"{where}: index {part} specified but only {len(node)} elements found")
    yield node, index


def _by_value(node: list[Any], part: str, options: Options, where: str) -> Iterator[_Node]:
    field, _, wanted = part[1:].removesuffix("]").partition("=")
    matches = _pattern(wanted, where)

    def found() -> list[_Node]:
        values = [item if not field else item.get(field) if isinstance(item, dict) else None for item in node]
        return [(node, index) for index, each in enumerate(values) if each is not None and matches(_text(each))]

    places = found()
    if not places and options.create:
        node.append({field: wanted} if field else wanted)
        places = found()
    yield from places


def _pattern(text: str, where: str) -> Callable[[str], bool]:
    try:
        return matcher(text)
    except PatternError as e:
        raise BuildError(f"{where}: {e}") from e


def _blank(rest: Sequence[str], value: Any) -> Any:
    """What a missing part of a path becomes."""
    if not rest:
        return {} if isinstance(value, dict) else [] if isinstance(value, list) else None
    return [] if rest[0].isdigit() or rest[0] in ("*", "-") or rest[0].startswith("[") else {}


def _set(old: Any, value: Any, options: Options, where: str) -> Any:
    if not options.delimiter:
        return copied(value) if isinstance(old, dict | list) or isinstance(value, dict | list) else _typed(old, value)
    if isinstance(old, dict | list) or isinstance(value, dict | list):
        raise BuildError(f"{where}: delimiter option can only be used with scalar nodes")
    pieces, text = _text(old).split(options.delimiter), _text(value)
    if options.index < 0:
        pieces.insert(0, text)
    elif options.index >= len(pieces):
        pieces.append(text)
    else:
        pieces[options.index] = text
    return _typed(old, options.delimiter.join(pieces))


def _typed(old: Any, value: Any) -> Any:
    """A scalar keeps the type that it has in the target: a port stays a number."""
    if isinstance(old, str):
        return _text(value)
    return value if type(old) is type(value) else value_of(_text(value).encode(), "replacement")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _within(text: str, rest: Sequence[str], value: Any, options: Options, where: str) -> str:
    """A field within a text that is JSON itself."""
    if text.lstrip()[:1] not in ("{", "["):
        raise BuildError(f"{where}: {'.'.join(rest)} would lie within a text that is not JSON; use a patch")
    inner = value_of(text.encode(), where)
    for container, key in [*_places(inner, rest, value, options, where)]:
        container[key] = _set(container[key], value, options, where)
    if "\n" in text and "  " in text:
        return json.dumps(inner, indent=2, sort_keys=True, ensure_ascii=False)
    return json.dumps(inner, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def split(path: str) -> list[str]:
    r"""The parts of a path with dots: `\.` is a dot within a part, and so is any within brackets."""
    parts: list[str] = []
    open = False
    for piece in path.split("."):
        if parts and (open or parts[-1].endswith("\\")):
            parts[-1] = f"{parts[-1] if open else parts[-1][:-1]}.{piece}"
        else:
            parts.append(piece)
        open = parts[-1].startswith("[") and not parts[-1].endswith("]")
    return [part if "=" in part else part.strip("[]") if part.startswith("[") else part for part in parts]
