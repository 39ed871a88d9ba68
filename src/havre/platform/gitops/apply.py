"""Server-side apply of many objects: in stages, only what differs, with what it found and did for every object.

    applier = Applier(api, owner=Ref(KUSTOMIZATION, "flux-system", "apps"), memory={})
    changes = await applier.apply(objects)          # raises ApplyError, with the changes made so far
    await applier.prune(stale)

An object is rehearsed (dry run), compared with what is there, and sent only if they differ; a whole stage is rehearsed
before anything of it is sent, and every fault is told, not only the first. What was found equal is remembered by a
fingerprint of both sides, so that the next look costs one read: the memory may be lost at any time.

Source: fluxcd/pkg, ssa (manager_apply.go, manager_delete.go, patch.go, errors); fluxcd/kustomize-controller.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from havre.api.errors import ApiError, BadRequest, Invalid, NotFound
from havre.api.kinds import by_gvk
from havre.api.meta import GVK, Obj, annotations_of, labels_of
from havre.machinery import kstatus
from havre.machinery.api import Api, Ref
from havre.platform.gitops.drift import Rule, spared
from havre.platform.gitops.order import rank, stages

MANAGER: Final = "kustomize-controller"
GROUP: Final = "kustomize.toolkit.fluxcd.io"
CONCURRENCY: Final = 4  # requests at once
STAGE_SECONDS: Final = 60.0  # for definitions to be established
FORCE_SECONDS: Final = 60.0  # for an object to be gone that is to be made anew
MANY: Final = 3  # objects of a kind in a namespace: from so many on they are listed, not read one by one
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_REMOVED: Final = (_LAST_APPLIED, f"{GROUP}/checksum", "fluxcd.io/sync-checksum")

Memory = dict[Ref, tuple[bytes, bytes]]
"""Fingerprints of what was sent and of what was there after it."""


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one object: created, configured, unchanged, skipped, deleted."""

    ref: Ref
    action: str
    live: Obj | None = None  # as it is now, if that is known

    @property
    def made(self) -> bool:
        return self.action in ("created", "configured", "deleted")

    def __str__(self) -> str:
        return f"{shown(self.ref)} {self.action}"


class ApplyError(Exception):
    """Some objects could not be applied or deleted; `changes` were made before."""

    def __init__(self, message: str, changes: Sequence[Change]) -> None:
        super().__init__(message)
        self.changes = tuple(changes)


def shown(ref: Ref) -> str:
    """`Deployment/default/web`."""
    return "/".join(part for part in (ref.gvk.kind, ref.namespace, ref.name) if part)


@dataclass(slots=True)
class Applier:
    """Applies for one owner; `force` makes anew what has a field that cannot change."""

    api: Api
    owner: Ref
    memory: Memory = field(default_factory=dict)
    force: bool = False
    rules: Sequence[Rule] = ()  # fields that are left to others
    manager: str = MANAGER

    @property
    def labels(self) -> dict[str, str]:
        return {f"{GROUP}/name": self.owner.name, f"{GROUP}/namespace": self.owner.namespace}

    async def apply(self, objects: Iterable[Obj]) -> list[Change]:
        """Everything in order; the objects get the labels of the owner. Raises ApplyError."""
        changes: list[Change] = []
        divided = stages(self._owned(obj) for obj in objects)
        for number, stage in enumerate(divided):
            try:
                changes += await self._stage(stage)
                if number + 1 < len(divided):
                    await self._settled([change for change in changes if change.made])
            except ApplyError as error:
                raise ApplyError(str(error), (*changes, *error.changes)) from error
        wanted = {change.ref for change in changes}
        for ref in [ref for ref in self.memory if ref not in wanted]:
            del self.memory[ref]
        return changes

    def _owned(self, obj: Obj) -> Obj:
        meta = {**obj["metadata"], "labels": {**(obj["metadata"].get("labels") or {}), **self.labels}}
        kind = by_gvk(GVK.of(obj))
        if kind is not None and not kind.namespaced:
            meta.pop("namespace", None)  # a server drops it too
        return {**obj, "metadata": meta}

    # one stage

    async def _stage(self, objects: Sequence[Obj]) -> list[Change]:
        live = await self._live(objects)
        work = [_Work(self, obj, live.get(Ref.of(obj))) for obj in objects]
        await _all(each.rehearse() for each in work)
        faults = [each.fault for each in work if each.fault]
        if faults:
            raise ApplyError("\n".join(faults), ())
        changes: list[Change] = []
        for each in work:
            try:
                changes.append(await each.send())
            except ApiError as error:
                raise ApplyError(f"{shown(each.ref)} apply failed: {error}", changes) from error
        return changes

    async def _live(self, objects: Sequence[Obj]) -> dict[Ref, Obj]:
        """What is there of them."""
        places: dict[tuple[GVK, str], list[Ref]] = {}
        for obj in objects:
            ref = Ref.of(obj)
            places.setdefault((ref.gvk, ref.namespace), []).append(ref)
        found: dict[Ref, Obj] = {}
        selector = ",".join(f"{key}={value}" for key, value in self.labels.items())
        for (gvk, namespace), refs in places.items():
            if len(refs) >= MANY and any(ref in self.memory for ref in refs):
                try:
                    listed = (await self.api.list(gvk, namespace, labels=selector)).items
                except ApiError:  # may not list, or the kind is not there yet: the reads will tell
                    continue
                found.update({Ref(gvk, namespace, obj["metadata"]["name"]): _typed(obj, gvk) for obj in listed})

        async def read(ref: Ref) -> None:
            try:
                obj = await self.api.get(ref)
            except NotFound:  # the kind itself is not there (yet)
                return
            except BadRequest:  # no namespace: the rehearsal tells it better
                return
            if obj is not None:
                found[ref] = obj

        missing = [ref for refs in places.values() for ref in refs if ref not in found]
        await _all(read(ref) for ref in missing)
        return found

    async def _settled(self, changes: Sequence[Change]) -> None:
        """Until definitions work; what they define comes next."""
        waiting = {change.ref for change in changes}
        try:
            async with asyncio.timeout(STAGE_SECONDS):
                async for _ in _ticks():
                    for ref in [*waiting]:
                        if kstatus.status(await self.api.get(ref)).status is kstatus.Status.CURRENT:
                            waiting.discard(ref)
                    if not waiting:
                        return
        except TimeoutError as error:
            names = ", ".join(f"{shown(ref)} status: 'InProgress'" for ref in sorted(waiting))
            raise ApplyError(f"timeout waiting for: [{names}]", ()) from error

    # deleting

    async def prune(self, refs: Iterable[Ref], *, also_not_pruned: bool = False) -> list[Change]:
        """Deletes what is still the owner's and may be deleted; what is gone counts as deleted. Raises ApplyError."""
        changes: list[Change] = []
        faults: list[str] = []
        for ref in sorted(refs, key=rank, reverse=True):
            try:
                changes.append(await self._delete(ref))
            except ApiError as error:
                faults.append(f"{shown(ref)} delete failed: {error}")
        if faults:
            raise ApplyError(f"delete failed, errors: {'; '.join(faults)}", changes)
        return changes

    async def _delete(self, ref: Ref) -> Change:
        try:
            live = await self.api.get(ref)
        except NotFound:  # its kind is gone, so it is too
            live = None
        if live is None:
            return Change(ref, "deleted")
        if not self.labels.items() <= labels_of(live).items() or _says(live, "prune", "disabled"):
            return Change(ref, "skipped", live)
        if _says(live, "reconcile", "disabled"):
            return Change(ref, "skipped", live)
        with suppress(NotFound):  # somebody was faster
            await self.api.delete(ref, uid=live["metadata"].get("uid", ""), propagation="Background")
        self.memory.pop(ref, None)
        return Change(ref, "deleted", live)


@dataclass(slots=True)
class _Work:
    """One object on its way."""

    by: Applier
    obj: Obj
    live: Obj | None
    fault: str = ""
    action: str = ""

    @property
    def ref(self) -> Ref:
        return Ref.of(self.obj)

    async def rehearse(self) -> None:
        """Finds out what is to be done, or the fault."""
        if self._skipped():
            self.action = "skipped"
            return
        if self.live is not None and self.by.rules:
            self.obj = spared(self.obj, self.live, self.by.rules, self.by.manager)
        if self.live is not None and self.by.memory.get(self.ref) == (_digest(self.obj), fingerprint(self.live)):
            self.action = "unchanged"
            return
        try:
            taken = await self._take_over()
            self.action = await self._rehearsed(taken)
        except ApiError as error:
            self.fault = _fault(self.ref, error)

    def _skipped(self) -> bool:
        sides = [self.obj, *([self.live] if self.live else [])]
        if any(_says(side, "ssa", "ignore") or _says(side, "reconcile", "disabled") for side in sides):
            return True
        return self.live is not None and _says(self.obj, "ssa", "ifnotpresent")

    async def _rehearsed(self, taken: bool) -> str:
        try:
            dry = await self.by.api.apply(self.obj, manager=self.by.manager, dry_run=True)
        except (Invalid, BadRequest, ApiError) as error:
            if self.live is None or not self._may_force(error):
                raise
            return "recreated"
        if self.live is None:
            return "created"
        if taken or differs(dry, self.live):
            return "configured"
        self.by.memory[self.ref] = _digest(self.obj), fingerprint(self.live)
        return "unchanged"

    def _may_force(self, error: ApiError) -> bool:
        text = str(error)
        if not ("is immutable" in text or "immutable field" in text or "updates to statefulset spec" in text):
            return False
        return self.by.force or any(_says(side, "force", "enabled") for side in (self.obj, self.live or {}))

    async def send(self) -> Change:
        if self.action in ("skipped", "unchanged"):
            return Change(self.ref, self.action, self.live)
        action = self.action
        if action == "recreated":
            await self._remove()
            action = "created"
        stored = await self.by.api.apply(self.obj, manager=self.by.manager)
        self.by.memory[self.ref] = _digest(self.obj), fingerprint(stored)
        return Change(self.ref, action, stored)

    async def _remove(self) -> None:
        uid = (self.live or {})["metadata"]["uid"]
        await self.by.api.delete(self.ref, uid=uid, propagation="Background")
        async with asyncio.timeout(FORCE_SECONDS):
            async for _ in _ticks():
                now = await self.by.api.get(self.ref)
                if now is None or now["metadata"]["uid"] != uid:
                    return

    async def _take_over(self) -> bool:
        """What kubectl owns of the object becomes ours, so that what we no longer say goes away."""
        if self.live is None or _says(self.obj, "ssa", "merge") or _says(self.live, "ssa", "merge"):
            return False
        patch = takeover(self.live, self.by.manager)
        if not patch:
            return False
        self.live = await self.by.api.patch(self.ref, patch, kind="json", manager=self.by.manager)
        return True


def _fault(ref: Ref, error: ApiError) -> str:
    if isinstance(error, BadRequest | Invalid) and "metadata.namespace" in str(error) and not ref.namespace:
        return f"{shown(ref)} namespace not specified: {error}"
    if isinstance(error, NotFound):
        return f"{shown(ref)} not found: {error}"
    reason = f" ({error.reason})" if error.reason else ""
    return f"{shown(ref)} dry-run failed{reason}: {error}"


# pure pieces


def _says(obj: Obj, key: str, value: str) -> bool:
    """A label or annotation of the group has this value, in whatever case."""
    if not obj:
        return False
    name = f"{GROUP}/{key}"
    return any(str(said.get(name, "")).lower() == value for said in (labels_of(obj), annotations_of(obj)))


def _typed(obj: Obj, gvk: GVK) -> Obj:
    """The objects of a list may lack their kind."""
    return {"apiVersion": gvk.api_version, "kind": gvk.kind, **obj}


def _digest(obj: Obj) -> bytes:
    return hashlib.blake2b(orjson.dumps(obj, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def fingerprint(live: Obj) -> bytes:
    """Of everything that applying again could change: not of the status, and of who owns what without the times."""
    meta = live["metadata"]
    owned = [
        {key: value for key, value in entry.items() if key != "time"}
        for entry in meta.get("managedFields") or ()
        if entry.get("subresource") != "status"
    ]
    kept = {
        **{key: value for key, value in live.items() if key not in ("status", "metadata")},
        "metadata": [meta.get("uid"), meta.get("labels"), meta.get("annotations"), owned],
    }
    return _digest(kept)


def differs(dry: Obj, live: Obj) -> bool:
    """Whether a rehearsed object would become another than the one that is there."""
    if labels_of(dry) != labels_of(live) or annotations_of(dry) != annotations_of(live):
        return True
    keys = (dry.keys() | live.keys()) - {"metadata", "status"}
    return any(dry.get(key) != live.get(key) for key in keys)


def takeover(live: Obj, manager: str) -> list[Obj]:
    """The JSON patch that gives `manager` what kubectl and our own former updates own; empty when there is none."""
    meta = live["metadata"]
    entries = meta.get("managedFields") or []
    taken = [entry for entry in entries if _is_foreign(entry, manager)]
    removed = [key for key in _REMOVED if key in annotations_of(live)]
    patch: list[Obj] = [
        {"op": "remove", "path": f"/metadata/annotations/{key.replace('~', '~0').replace('/', '~1')}"}
        for key in removed
    ]
    if taken:
        patch.append({"op": "replace", "path": "/metadata/managedFields", "value": _merged(entries, taken, manager)})
    if patch:
        patch.append({"op": "replace", "path": "/metadata/resourceVersion", "value": meta["resourceVersion"]})
    return patch


def _is_foreign(entry: Obj, manager: str) -> bool:
    name, operation = str(entry.get("manager", "")), entry.get("operation")
    if entry.get("subresource"):
        return False
    if name.startswith("kubectl"):
        return True
    return operation == "Update" and name in ("before-first-apply", manager)


def _merged(entries: Sequence[Obj], taken: Sequence[Obj], manager: str) -> list[Obj]:
    ours = next(
        (entry for entry in entries if entry.get("manager") == manager and entry.get("operation") == "Apply"),
        {**taken[0], "manager": manager, "operation": "Apply", "fieldsV1": {}},
    )
    fields: Obj = ours.get("fieldsV1") or {}
    for entry in taken:
        if entry.get("apiVersion") == ours.get("apiVersion"):
            fields = _union(fields, entry.get("fieldsV1") or {})
    rest = [entry for entry in entries if entry is not ours and entry not in taken]
    return [*rest, {**ours, "fieldsV1": fields}]


def _union(one: Obj, other: Obj) -> Obj:
    merged = dict(one)
    for key, value in other.items():
        merged[key] = _union(merged[key], value) if key in merged else value
    return merged


# concurrency


async def _all(work: Iterable[Any]) -> None:
    """A few at a time."""
    gate = asyncio.Semaphore(CONCURRENCY)

    async def one(each: Any) -> None:
        async with gate:
            await each

    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(one(each))


async def _ticks() -> AsyncIterator[None]:
    """Moments to look again at objects of any kind: soon at first, then every two seconds."""
    pause = 0.05
    while True:
        yield
        await asyncio.sleep(pause)
        pause = min(pause * 2, 2.0)
