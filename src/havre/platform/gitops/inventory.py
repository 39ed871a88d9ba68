"""What a Kustomization has applied: `status.inventory`, and so what is to go. Pure.

    entries(refs) == {"entries": [{"id": "default_web_apps_Deployment", "v": "v1"}]}

Source: fluxcd/kustomize-controller, internal/inventory; sigs.k8s.io/cli-utils, pkg/object (objmetadata.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from havre.api.meta import GVK, Obj
from havre.machinery.api import Ref
from havre.platform.gitops.order import rank

_COLONS: Final = "__"  # in the place of colons, which RBAC has in names and an id must not have


def id_of(ref: Ref) -> str:
    """Namespace, name, group and kind; the version is no part of what an object is."""
    return f"{ref.namespace}_{ref.name.replace(':', _COLONS)}_{ref.gvk.group}_{ref.gvk.kind}"


def parse(id: str, version: str) -> Ref | None:
    """None for a text that is no id: somebody else wrote it."""
    head, _, kind = id.rpartition("_")
    head, _, group = head.rpartition("_")
    namespace, divided, name = head.partition("_")
    if not divided or not name or not kind:
        return None
    return Ref(GVK(group, version, kind), namespace, name.replace(_COLONS, ":"))


def entries(refs: Iterable[Ref]) -> dict[str, list[Obj]]:
    return {"entries": [{"id": id_of(ref), "v": ref.gvk.version} for ref in refs]}


def refs(inventory: Mapping[str, Any] | None) -> list[Ref]:
    """In the order of their application."""
    found = (parse(str(each.get("id")), str(each.get("v"))) for each in (inventory or {}).get("entries") or ())
    return [ref for ref in found if ref is not None]


def stale(old: Iterable[Ref], new: Iterable[Ref]) -> list[Ref]:
    """What was applied and is no longer wanted, in the order of deletion: what others need goes last."""
    kept = {id_of(ref) for ref in new}
    gone = {id_of(ref): ref for ref in old}
    return sorted((ref for id, ref in gone.items() if id not in kept), key=rank, reverse=True)


def merged(first: Iterable[Ref], *more: Iterable[Ref]) -> list[Ref]:
    """All of them, each once."""
    found: dict[str, Ref] = {}
    for refs in (first, *more):
        for ref in refs:
            found.setdefault(id_of(ref), ref)
    return [*found.values()]
