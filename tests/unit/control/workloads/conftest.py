"""A world of objects with the deletion rules of the API server, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from havre.api import deletion
from havre.api.errors import AlreadyExists, Conflict, NotFound
from havre.api.meta import GVK, Obj
from havre.machinery.api import Listing, PatchType, Propagation, Ref, WatchEvent

NOW = 1_800_000_000.0


class World:
    """Implements `Api`; every change is appended to `events`, every deletion asked for to `deleted`."""

    def __init__(self, *objects: Obj) -> None:
        self.objects: dict[Ref, Obj] = {}
        self.events: list[tuple[str, Obj]] = []
        self.deleted: list[tuple[Ref, str]] = []
        self.writes = 0
        self.before_delete: Callable[[Obj], None] = lambda _obj: None
        self._count = 0
        for obj in objects:
            self.add(obj)

    def add(self, obj: Obj) -> Obj:
        obj = copy.deepcopy(obj)
        self._count += 1
        obj["metadata"].setdefault("uid", f"uid-{self._count}")
        self._put("ADDED", obj)
        return copy.deepcopy(obj)

    def _put(self, event: str, obj: Obj) -> None:
        self._count += 1
        obj["metadata"]["resourceVersion"] = str(self._count)
        self.objects[Ref.of(obj)] = obj
        self.events.append((event, copy.deepcopy(obj)))

    def _settle(self, obj: Obj) -> None:
        """What deletion leaves of a changed object."""
        if deletion.marked(obj) and not deletion.held(obj):
            del self.objects[Ref.of(obj)]
            self.events.append(("DELETED", copy.deepcopy(obj)))
        else:
            self._put("MODIFIED", obj)

    def _live(self, ref: Ref) -> Obj:
        if ref not in self.objects:
            raise NotFound(f"{ref} not found")
        return copy.deepcopy(self.objects[ref])

    async def get(self, ref: Ref) -> Obj | None:
        return copy.deepcopy(self.objects.get(ref))

    async def list(self, gvk: GVK, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        found = [o for r, o in self.objects.items() if r.gvk == gvk and namespace in ("", r.namespace)]
        return Listing(copy.deepcopy(found), str(self._count))

    async def watch(
        self, gvk: GVK, namespace: str = "", *, since: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        for kind, obj in self.events:
            if GVK.of(obj) == gvk:
                yield WatchEvent(kind, copy.deepcopy(obj))

    async def create(self, obj: Obj, *, manager: str, dry_run: bool = False) -> Obj:
        if Ref.of(obj) in self.objects:
            raise AlreadyExists(f"{Ref.of(obj)} exists")
        self.writes += 1
        return self.add(obj)

    async def update(self, obj: Obj, *, manager: str, subresource: str = "", dry_run: bool = False) -> Obj:
        live = self._live(Ref.of(obj))
        if obj["metadata"].get("resourceVersion", "") not in ("", live["metadata"]["resourceVersion"]):
            raise Conflict(f"{Ref.of(obj)} has been modified")
        self.writes += 1
        part = {"status": "status", "finalize": "spec"}.get(subresource)
        new = {**live, part: obj[part]} if part else copy.deepcopy(obj)
        self._settle(copy.deepcopy(new))
        return new

    async def patch(
        self,
        ref: Ref,
        patch: Obj | Sequence[Obj],
        *,
        kind: PatchType,
        manager: str,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Obj:
        live = self._live(ref)
        assert isinstance(patch, dict)
        changes = patch["metadata"]
        for key in ("uid", "resourceVersion"):
            if key in changes and changes[key] != live["metadata"][key]:
                raise Conflict(f"{ref} has been modified")
        self.writes += 1
        meta = {**live["metadata"], **changes}
        live["metadata"] = {key: value for key, value in meta.items() if value is not None}
        self._settle(live)
        return live

    async def apply(self, obj: Obj, **_: Any) -> Obj:
        raise AssertionError("nothing here applies")

    async def delete(
        self,
        ref: Ref,
        *,
        uid: str = "",
        revision: str = "",
        propagation: Propagation = "",
        grace: int | None = None,
        dry_run: bool = False,
    ) -> None:
        live = self._live(ref)
        if (uid and live["metadata"]["uid"] != uid) or (revision and live["metadata"]["resourceVersion"] != revision):
            raise Conflict(f"{ref} is another")
        self.before_delete(live)
        self.deleted.append((ref, propagation))
        self.writes += 1
        body = {"propagationPolicy": propagation} if propagation else {}
        marked = deletion.mark(live, body, "2027-01-15T08:00:00Z", NOW)
        if not deletion.marked(marked):
            marked["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
        self._settle(marked)


@pytest.fixture(scope="session")
def world() -> type[World]:
    return World
