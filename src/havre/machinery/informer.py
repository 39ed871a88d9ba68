"""Informers: the objects of one kind kept in memory by LIST and WATCH, shared by everyone who wants to hear of them.

    async with asyncio.TaskGroup() as group:
        informers = SharedInformers(api, group)
        pods = informers.of(GVK("", "v1", "Pod"))
        pods.subscribe(Handlers(added=..., changed=..., removed=...))
        await pods.synced.wait()

An informer lists once, then watches from the revision it has seen last; it lists again only when the server has
forgotten that revision, and tells the difference as changes. A failing server is asked again with a growing, jittered
delay. Handlers are plain functions that must not block; each sees every object in the order of its changes, and may
miss states in between: act on what is, not on what happened.

What an informer holds is shared: copy before changing. Who writes through `CachedReads` reads its own writes: the
answer of the server is in the cache before the write returns, whatever the watch still has on its way.

Source: k8s.io/client-go, tools/cache (reflector.go, shared_informer.go, thread_safe_store.go).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from havre.api.errors import ApiError, Expired
from havre.api.meta import GVK, Obj, labels_of, rfc3339
from havre.lang.json import copied
from havre.lang.selector import LabelSelector
from havre.machinery.api import Api, Listing, PatchType, Propagation, Ref, WatchEvent
from havre.machinery.queue import backoff, jittered

log = logging.getLogger(__name__)

SHORTEST = 0.8  # seconds before a failed list or watch is tried again; client-go's numbers
LONGEST = 30.0
QUICK = 1.0  # seconds: a watch that ends sooner counts as failed, or a broken server would keep us spinning

Index = Callable[[Obj], Iterable[str]]
"""The values under which an object is found; pure."""


def _ignore(*_: Obj) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class Handlers:
    """What to call: `changed` with the new object and the old, `removed` with the last state seen."""

    added: Callable[[Obj], None] = _ignore
    changed: Callable[[Obj, Obj], None] = _ignore
    removed: Callable[[Obj], None] = _ignore


class Informer:
    """The objects of one kind, of one namespace or all, that match the selectors."""

    def __init__(
        self, api: Api, gvk: GVK, namespace: str = "", *, labels: str = "", fields: str = "", name: str = ""
    ) -> None:
        self.gvk = gvk
        self.namespace = namespace
        self.synced = asyncio.Event()
        self.lists = 0  # how often everything was read
        self._api = api
        self._labels, self._fields = labels, fields
        self._name = name or f"{gvk.kind} of {namespace or 'all namespaces'}"
        self._objects: dict[Ref, Obj] = {}
        self._by_namespace: dict[str, dict[Ref, None]] = {}
        self._indexes: dict[str, tuple[Index, dict[str, dict[Ref, None]]]] = {}
        self._handlers: list[Handlers] = []
        self._revision = ""
        self._failures = 0
        self._listed_at = float("-inf")

    # what it holds

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, ref: Ref) -> Obj | None:
        return self._objects.get(ref)

    def list(self, namespace: str = "") -> list[Obj]:
        """The objects of a namespace, or ("") all."""
        if not namespace:
            return [*self._objects.values()]
        return [self._objects[ref] for ref in self._by_namespace.get(namespace, ())]

    def index(self, name: str, index: Index) -> None:
        """Keep the objects by what `index` says of them; the same name twice is the same index."""
        if name in self._indexes:
            return
        table: dict[str, dict[Ref, None]] = {}
        self._indexes[name] = index, table
        for ref, obj in self._objects.items():
            _enter(table, index(obj), ref)

    def by(self, name: str, value: str) -> Sequence[Obj]:
        """The objects that the index `name` puts under `value`."""
        return [self._objects[ref] for ref in self._indexes[name][1].get(value, ())]

    def subscribe(self, handlers: Handlers) -> None:
        """Call from now on; what is here already comes as additions, before this returns."""
        self._handlers.append(handlers)
        for obj in [*self._objects.values()]:
            handlers.added(obj)

    # what we wrote ourselves

    def wrote(self, obj: Obj) -> None:
        """The answer of the server to a write of ours; the watch tells it too, but perhaps later."""
        if self._selects(obj) and _number(_version(obj)) > _number(self._revision) >= 0:
            self._put(Ref.of(obj), obj)

    def asked_to_go(self, ref: Ref, uid: str) -> None:
        """The server took our deletion: until the watch says more, the object is one that is being deleted."""
        held = self._objects.get(ref)
        if held is None or (uid and _uid(held) != uid) or held["metadata"].get("deletionTimestamp"):
            return
        self._replace(ref, held, {**held, "metadata": {**held["metadata"], "deletionTimestamp": rfc3339(time.time())}})

    def _selects(self, obj: Obj) -> bool:
        """Selectors by fields are the server's business: such an informer waits for its watch."""
        inside = not self.namespace or obj["metadata"].get("namespace") == self.namespace
        return inside and not self._fields and LabelSelector.parse(self._labels).matches(labels_of(obj))

    # how it follows

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            try:
                if not self._revision:
                    await self._list()
                await self._follow()
            except Expired:
                self._revision = ""
                self._failures += self._loop_time() - self._listed_at < QUICK
            except ApiError as error:
                self._failures += 1
                log.warning(
                    "list or watch failed; will try again",
                    extra={"informer": self._name, "failures": self._failures, "error": str(error)},
                )
            if self._failures:
                await asyncio.sleep(jittered(backoff(self._failures, base=SHORTEST, cap=LONGEST)))

    async def _list(self) -> None:
        """Read everything and tell what differs from what was here."""
        listing = await self._api.list(self.gvk, self.namespace, labels=self._labels, fields=self._fields)
        self.lists += 1
        self._listed_at = self._loop_time()
        present, upto = {Ref.of(obj): obj for obj in listing.items}, _number(listing.revision)
        for ref in [
            ref for ref, held in self._objects.items() if ref not in present and _number(_version(held)) <= upto
        ]:
            self._remove(ref, None)
        for ref, obj in present.items():
            self._put(ref, obj)
        self._revision = listing.revision
        self.synced.set()

    async def _follow(self) -> None:
        """Watch from the last revision until the server ends it."""
        began = self._loop_time()
        stream = self._api.watch(
            self.gvk, self.namespace, since=self._revision, labels=self._labels, fields=self._fields
        )
        seen = False
        async with _closing(stream):
            async for event in stream:
                self._take(event)
                self._failures, seen = 0, True
        if not seen and self._loop_time() - began < QUICK:
            self._failures += 1
        else:
            self._failures = 0

    @staticmethod
    def _loop_time() -> float:
        return asyncio.get_running_loop().time()

    def _take(self, event: WatchEvent) -> None:
        obj = event.object
        if event.type == "DELETED":
            self._remove(Ref.of(obj), obj)
        elif event.type != "BOOKMARK":
            self._put(Ref.of(obj), obj)
        self._revision = obj["metadata"]["resourceVersion"]

    def _put(self, ref: Ref, obj: Obj) -> None:
        old = self._objects.get(ref)
        if old is not None and (_version(old) == _version(obj) or _number(_version(obj)) < _number(_version(old))):
            return  # known, or from before a write of ours
        if old is not None and _uid(old) != _uid(obj):  # deleted and made again while we did not look
            self._remove(ref, None)
            old = None
        self._replace(ref, old, obj)

    def _replace(self, ref: Ref, old: Obj | None, obj: Obj) -> None:
        self._unindex(ref, old)
        self._objects[ref] = obj
        self._by_namespace.setdefault(ref.namespace, {})[ref] = None
        for index, table in self._indexes.values():
            _enter(table, index(obj), ref)
        for handlers in self._handlers:
            if old is None:
                handlers.added(obj)
            else:
                handlers.changed(obj, old)

    def _remove(self, ref: Ref, last: Obj | None) -> None:
        old = self._objects.get(ref)
        if old is None or (last is not None and _number(_version(last)) < _number(_version(old))):
            return  # not here, or made again by us since
        self._unindex(ref, old)
        del self._objects[ref]
        _leave(self._by_namespace, (ref.namespace,), ref)
        for handlers in self._handlers:
            handlers.removed(last or old)

    def _unindex(self, ref: Ref, old: Obj | None) -> None:
        if old is not None:
            for index, table in self._indexes.values():
                _leave(table, index(old), ref)


def _uid(obj: Obj) -> str:
    uid: str = obj["metadata"].get("uid", "")
    return uid


def _version(obj: Obj) -> str:
    version: str = obj["metadata"].get("resourceVersion", "")
    return version


def _number(version: str) -> int:
    """Revisions of kube-apiserver and ours grow; of what another server calls so, nothing is known: -1."""
    return int(version) if version.isdecimal() else -1


def _enter(table: dict[str, dict[Ref, None]], values: Iterable[str], ref: Ref) -> None:
    for value in values:
        table.setdefault(value, {})[ref] = None


def _leave(table: dict[str, dict[Ref, None]], values: Iterable[str], ref: Ref) -> None:
    for value in values:
        refs = table.get(value)
        if refs is not None:
            refs.pop(ref, None)
            if not refs:
                del table[value]


@asynccontextmanager
async def _closing(stream: AsyncIterator[WatchEvent]) -> AsyncIterator[None]:
    """Whoever stops listening closes the watch at once, not when the garbage collector finds it."""
    try:
        yield
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


@dataclass(slots=True)
class SharedInformers:
    """One informer per kind, namespace and selectors; they run in the task group of the owner."""

    api: Api
    group: asyncio.TaskGroup
    _informers: dict[tuple[GVK, str, str, str], Informer] = field(default_factory=dict)

    def of(self, gvk: GVK, namespace: str = "", *, labels: str = "", fields: str = "") -> Informer:
        """The informer, started when it is first asked for."""
        key = gvk, namespace, labels, fields
        informer = self._informers.get(key)
        if informer is None:
            informer = self._informers[key] = Informer(self.api, gvk, namespace, labels=labels, fields=fields)
            self.group.create_task(informer.run(), name=f"informer {gvk.kind}")
        return informer

    def find(self, gvk: GVK) -> Informer | None:
        """The running, synced informer of all objects of a kind, if there is one."""
        informer = self._informers.get((gvk, "", "", ""))
        return informer if informer is not None and informer.synced.is_set() else None

    async def synced(self) -> None:
        """Wait until every informer has read its objects once."""
        for informer in [*self._informers.values()]:
            await informer.synced.wait()


class CachedReads:
    """An `Api` that answers get and list from informers where they hold the kind, and passes on everything else.

    What it answers may be a moment old, but never older than the last write through it: right for deciding what should
    be, since a change wakes the decider again; wrong for counting what others must not exceed.
    """

    def __init__(self, api: Api, informers: SharedInformers) -> None:
        self.live = api  # not cached
        self._informers = informers
        self.watch = api.watch

    async def get(self, ref: Ref) -> Obj | None:
        informer = self._informers.find(ref.gvk)
        if informer is None:
            return await self.live.get(ref)
        return cast("Obj | None", copied(informer.get(ref)))

    async def list(self, gvk: GVK, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        informer = self._informers.find(gvk)
        if informer is None or fields:
            return await self.live.list(gvk, namespace, labels=labels, fields=fields)
        selector = LabelSelector.parse(labels)
        return Listing([copied(o) for o in informer.list(namespace) if selector.matches(labels_of(o))], "")

    def shared(self, gvk: GVK, namespace: str) -> Sequence[Obj] | None:
        informer = self._informers.find(gvk)
        return None if informer is None else informer.list(namespace)

    async def create(self, obj: Obj, *, manager: str, dry_run: bool = False) -> Obj:
        return self._wrote(await self.live.create(obj, manager=manager, dry_run=dry_run), dry_run)

    async def update(self, obj: Obj, *, manager: str, subresource: str = "", dry_run: bool = False) -> Obj:
        stored = await self.live.update(obj, manager=manager, subresource=subresource, dry_run=dry_run)
        return self._wrote(stored, dry_run)

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
        stored = await self.live.patch(ref, patch, kind=kind, manager=manager, subresource=subresource, dry_run=dry_run)
        return self._wrote(stored, dry_run)

    async def apply(
        self, obj: Obj, *, manager: str, force: bool = True, subresource: str = "", dry_run: bool = False
    ) -> Obj:
        stored = await self.live.apply(obj, manager=manager, force=force, subresource=subresource, dry_run=dry_run)
        return self._wrote(stored, dry_run)

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
        await self.live.delete(ref, uid=uid, revision=revision, propagation=propagation, grace=grace, dry_run=dry_run)
        informer = self._informers.find(ref.gvk)
        if informer is not None and not dry_run:
            informer.asked_to_go(ref, uid)

    def _wrote(self, stored: Obj, rehearsed: bool) -> Obj:
        informer = None if rehearsed else self._informers.find(GVK.of(stored))
        if informer is not None:
            informer.wrote(copied(stored))
        return stored


async def look(api: Api, gvk: GVK, namespace: str = "") -> Sequence[Obj]:
    """The objects of a kind to look at and not to change: without a copy where an informer holds them."""
    held = api.shared(gvk, namespace) if isinstance(api, CachedReads) else None
    return (await api.list(gvk, namespace)).items if held is None else held


@dataclass(frozen=True, slots=True)
class DryRun:
    """An `Api` whose writes are all rehearsals: admitted, validated, answered, and not stored."""

    api: Api

    async def get(self, ref: Ref) -> Obj | None:
        return await self.api.get(ref)

    async def list(self, gvk: GVK, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        return await self.api.list(gvk, namespace, labels=labels, fields=fields)

    def watch(
        self, gvk: GVK, namespace: str = "", *, since: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        return self.api.watch(gvk, namespace, since=since, labels=labels, fields=fields)

    async def create(self, obj: Obj, *, manager: str, dry_run: bool = True) -> Obj:
        return await self.api.create(obj, manager=manager, dry_run=True)

    async def update(self, obj: Obj, *, manager: str, subresource: str = "", dry_run: bool = True) -> Obj:
        return await self.api.update(obj, manager=manager, subresource=subresource, dry_run=True)

    async def patch(
        self,
        ref: Ref,
        patch: Obj | Sequence[Obj],
        *,
        kind: PatchType,
        manager: str,
        subresource: str = "",
        dry_run: bool = True,
    ) -> Obj:
        return await self.api.patch(ref, patch, kind=kind, manager=manager, subresource=subresource, dry_run=True)

    async def apply(
        self, obj: Obj, *, manager: str, force: bool = True, subresource: str = "", dry_run: bool = True
    ) -> Obj:
        return await self.api.apply(obj, manager=manager, force=force, subresource=subresource, dry_run=True)

    async def delete(
        self,
        ref: Ref,
        *,
        uid: str = "",
        revision: str = "",
        propagation: Propagation = "",
        grace: int | None = None,
        dry_run: bool = True,
    ) -> None:
        await self.api.delete(ref, uid=uid, revision=revision, propagation=propagation, grace=grace, dry_run=True)
