"""What admission asks the registry: which versions of a resource there are, and an object in another of them.

Two resources are the same when their objects are stored in the same place (both kinds of Event are, too).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from havre.api.meta import GVK, GVR, Obj
from havre.control.apiserver.resources import Registry, Resource


class ServedKinds:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._equivalents: dict[GVR, list[tuple[GVR, GVK]]] = {}
        self._seen = -1

    @property
    def generation(self) -> int:
        """Changes when kinds come and go."""
        return self._registry.generation

    def place(self, gvk: GVK) -> tuple[str, str, bool] | None:
        """Group and plural under which objects of a kind are stored, and whether they have a namespace."""
        resource = self._registry.of_kind(*gvk)
        return None if resource is None else (resource.kind.storage_group, resource.plural, resource.namespaced)

    def equivalents(self, gvr: GVR, subresource: str) -> Sequence[tuple[GVR, GVK]]:
        """All versions of a resource; nothing for subresources that have a kind of their own."""
        if subresource not in ("", "status"):
            return ()
        if self._seen != self.generation:
            self._seen = self.generation
            self._equivalents = _by_place(self._registry)
        return self._equivalents.get(gvr, ())

    def convert(self, obj: Obj, gvk: GVK) -> Obj:
        """A copy in another version of its kind; the object itself if either version is served no more."""
        source, target = self._registry.of_kind(*GVK.of(obj)), self._registry.of_kind(*gvk)
        if source is None or target is None:
            return obj
        made = copy.deepcopy(obj)
        if source.encode:
            made = source.encode(made)
        return target.decode(made) if target.decode else made

    def complete(self, obj: Obj) -> None:
        """What the schema does with an object that a webhook has changed: unknown fields go, defaults come."""
        resource = self._registry.of_kind(*GVK.of(obj))
        if resource is not None:
            resource.rules.prune(obj)
            resource.rules.default(obj)


def _by_place(registry: Registry) -> dict[GVR, list[tuple[GVR, GVK]]]:
    places: dict[str, list[Resource]] = {}
    for resource in registry:
        places.setdefault(resource.prefix, []).append(resource)
    versions = {
        prefix: [(GVR(r.group, r.kind.version, r.plural), r.gvk) for r in resources]
        for prefix, resources in places.items()
    }
    return {gvr: pairs for pairs in versions.values() if len(pairs) > 1 for gvr, _ in pairs}
