"""Patches of a kustomization: strategic merge or JSON 6902, for the object they name or all that are selected.

Source: sigs.k8s.io/kustomize, api/internal/builtins (PatchTransformer, PatchStrategicMergeTransformer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from havre.api.meta import Obj
from havre.lang import jsonpatch
from havre.lang.json import copied
from havre.platform.gitops.kustomize.errors import BuildError
from havre.platform.gitops.kustomize.merge import merge
from havre.platform.gitops.kustomize.resource import Resource, append, documents, load, metadata
from havre.platform.gitops.kustomize.selection import Selector


@dataclass(frozen=True, slots=True)
class Patch:
    """One entry of `patches`; `text` is the patch itself, wherever it stood."""

    text: bytes
    where: str  # file and field, for errors
    target: Selector | None = None
    rename: bool = False  # it may change the name
    retype: bool = False  # it may change the kind


def apply(resources: list[Resource], patch: Patch) -> None:
    """Raises BuildError."""
    operations = _operations(patch)
    if operations is not None:
        _apply_operations(resources, patch, operations)
        return
    changes = load(patch.text, patch.where)
    if patch.target is None:
        for change in changes:
            _merge(resources, _named(resources, change, patch.where), change, patch)
        return
    if len(changes) > 1:
        raise BuildError(f"{patch.where}: several strategic merge patches in one entry cannot have a target")
    for change in changes:
        for resource in [each for each in resources if patch.target.selects(each)]:
            _merge(resources, resource, change, patch)
        append([], resources, patch.where)


def _named(resources: Sequence[Resource], change: Obj, where: str) -> Resource:
    """The one object that is called, or was called, what the patch is called."""
    id = Resource(change).id
    found = [each for each in resources if each.id == id or id in each.former_ids]
    if len(found) == 1:
        return found[0]
    how = "multiple matches" if found else "no matches"
    raise BuildError(
        f"{where}: no resource matches strategic merge patch {str(id)!r}: {how} for Id {id}; "
        f"failed to find unique target for patch {id}"
    )


def _merge(resources: list[Resource], resource: Resource, change: Obj, patch: Patch) -> None:
    obj, name, kind, space = resource.obj, resource.name, resource.gvk.kind, resource.namespace
    if patch.rename or patch.retype:
        resource.remember()
    try:
        merged = merge(obj, {**copied(change), "apiVersion": obj.get("apiVersion")})
    except BuildError as e:
        raise BuildError(f"{patch.where}: {kind} {name}: {e}") from e
    if merged is None:
        resources.remove(resource)
        return
    if not patch.retype:
        merged["kind"] = kind
    meta = merged.setdefault("metadata", {})
    if not patch.rename:
        meta["name"] = name
    meta.pop("namespace", None)
    if space:
        meta["namespace"] = space
    resource.obj = merged


# JSON 6902


def _operations(patch: Patch) -> tuple[jsonpatch.Operation, ...] | None:
    """None: it is a strategic merge patch."""
    values = [*documents(patch.text, patch.where)]
    if not values or not isinstance(values[0], list):
        return None
    try:
        return jsonpatch.parse(values[0])
    except jsonpatch.PatchError as e:
        raise BuildError(f"{patch.where}: {e}") from e


def _apply_operations(resources: Sequence[Resource], patch: Patch, operations: tuple[jsonpatch.Operation, ...]) -> None:
    if patch.target is None:
        raise BuildError(f"{patch.where}: must specify a target for JSON patch")
    for resource in [each for each in resources if patch.target.selects(each)]:
        resource.remember()
        resource.obj = _patched(resource, operations, patch.where)


def _patched(resource: Resource, operations: tuple[jsonpatch.Operation, ...], where: str) -> Obj:
    try:
        patched: Any = jsonpatch.apply(resource.obj, operations)
    except jsonpatch.PatchError as e:
        raise BuildError(f"{where}: {resource.gvk.kind} {resource.name}: {e}") from e
    if not isinstance(patched, dict) or not patched.get("kind") or not metadata(patched).get("name"):
        raise BuildError(f"{where}: {resource.gvk.kind} {resource.name}: the patch leaves no kind or no metadata.name")
    fresh: Obj = copied(patched)  # parts may be shared with the operations
    return fresh
