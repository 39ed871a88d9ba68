"""`spec.ignore`: fields that others may change, an autoscaler's replicas for instance, are left as they are. Pure.

A field that another applier owns is not sent at all; one that nobody else applies is sent with the value it has.

Source: fluxcd/pkg, ssa (manager_apply.go) and ssa/jsondiff.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from havre.api.meta import Obj
from havre.lang.json import copied
from havre.platform.gitops.kustomize.errors import BuildError
from havre.platform.gitops.kustomize.resource import Resource
from havre.platform.gitops.kustomize.selection import Selector

_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Rule:
    """Paths as JSON pointers, of the objects that a selector means."""

    paths: tuple[tuple[str, ...], ...]
    target: Selector | None = None

    @classmethod
    def of(cls, raw: Mapping[str, Any], where: str) -> Rule:
        """Raises BuildError."""
        paths = raw.get("paths") or ()
        if not all(isinstance(path, str) and path.startswith("/") for path in paths):
            raise BuildError(f"{where}.paths: expected JSON pointers such as /spec/replicas")
        target = raw.get("target")
        selector = Selector.of(target, f"{where}.target") if target else None
        return cls(tuple(_parts(path) for path in paths), selector)


def _parts(pointer: str) -> tuple[str, ...]:
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/"))


def spared(obj: Obj, live: Obj, rules: Iterable[Rule], manager: str) -> Obj:
    """What is to be applied instead of `obj`; the same object if nothing differs."""
    changed = obj
    for rule in rules:
        if rule.target is not None and not rule.target.selects(Resource(obj)):
            continue
        for path in rule.paths:
            wanted, has = _get(changed, path), _get(live, path)
            if wanted is _ABSENT or wanted == has:
                continue
            if changed is obj:
                changed = copied(obj)
            if has is _ABSENT or _applied_by_another(live, path, manager):
                _remove(changed, path)
            else:
                _put(changed, path, copied(has))
    return changed


def _get(node: Any, path: Sequence[str]) -> Any:
    for part in path:
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return _ABSENT
    return node


def _put(obj: Any, path: Sequence[str], value: Any) -> None:
    container = _get(obj, path[:-1])
    container[int(path[-1]) if isinstance(container, list) else path[-1]] = value


def _remove(obj: Any, path: Sequence[str]) -> None:
    container = _get(obj, path[:-1])
    del container[int(path[-1]) if isinstance(container, list) else path[-1]]


def _applied_by_another(live: Obj, path: Sequence[str], manager: str) -> bool:
    """By the names of fields alone: what lies in a list counts as owned with the list."""
    names = []
    for part in path:
        if part.isdigit():
            break
        names.append(f"f:{part}")
    return any(
        entry.get("operation") == "Apply"
        and entry.get("manager") != manager
        and _get(entry.get("fieldsV1") or {}, names) is not _ABSENT
        for entry in live["metadata"].get("managedFields") or ()
    )
