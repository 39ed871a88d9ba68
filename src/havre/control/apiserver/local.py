"""The API for controllers of this process: the verbs of the server without HTTP, TLS and authorization.

Same pipeline as a request: defaults, managedFields, admission, validation, store.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

import orjson

from havre.api import deletion
from havre.api.errors import Expired, NotFound
from havre.api.meta import GVK, Obj
from havre.control.apiserver import bodies, patching, reading
from havre.control.apiserver.binding import BINDING, bind_pod
from havre.control.apiserver.cache import Cache, Entry, Event, TooOld
from havre.control.apiserver.objects import Objects, Options
from havre.control.apiserver.resources import Registry, Resource
from havre.machinery.admission import SUPERUSERS, User
from havre.machinery.api import Listing, PatchType, Propagation, Ref, WatchEvent

_POD = GVK("", "v1", "Pod")
ACTOR = User("system:havre", (SUPERUSERS,))
_MEDIA = {"json": patching.JSON_PATCH, "merge": patching.MERGE, "strategic": patching.STRATEGIC}
_BACKLOG = 100_000  # events that may wait for one slow consumer; then it must list again


class LocalApi:
    """Implements `machinery.api.Api`."""

    def __init__(self, registry: Registry, cache: Cache, objects: Objects, user: User = ACTOR) -> None:
        self._registry = registry
        self._cache = cache
        self._objects = objects
        self._user = user

    def _resource(self, gvk: GVK) -> Resource:
        resource = self._registry.of_kind(*gvk)
        if resource is None:
            raise NotFound(f'no matches for kind "{gvk.kind}" in version "{gvk.api_version}"')
        return resource

    def _options(self, manager: str, *, dry_run: bool, force: bool = False) -> Options:
        return Options(self._user, manager, dry_run, force, "Ignore")

    async def get(self, ref: Ref) -> Obj | None:
        resource = self._resource(ref.gvk)
        entry = self._cache.get(resource.key(ref.namespace, ref.name))
        return None if entry is None else self._objects.served(resource, entry)

    async def list(self, gvk: GVK, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        parts = [part async for part in self.pages(gvk, namespace, labels=labels, fields=fields)]
        return Listing([obj for part in parts for obj in part.items], parts[0].revision)

    async def pages(
        self, gvk: GVK, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Listing]:
        """A list in parts, all of one revision; at least one. Others are served between them."""
        resource = self._resource(gvk)
        params = {"labelSelector": labels, "fieldSelector": fields}
        page = reading.list_page(self._cache, resource, namespace, {}, reading.select(resource, params))
        for start in range(0, len(page.entries) or 1, reading.STEP):
            if start:
                await asyncio.sleep(0)
            part = page.entries[start : start + reading.STEP]
            yield Listing([self._objects.served(resource, entry) for entry in part], str(page.revision))

    async def watch(
        self, gvk: GVK, namespace: str = "", *, since: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        resource = self._resource(gvk)
        params = {"labelSelector": labels, "fieldSelector": fields}
        backlog = _Backlog(resource, self._objects, reading.select(resource, params))
        try:
            watch = self._cache.watch(resource.scope(namespace), int(since), backlog.deliver, backlog.fail)
        except TooOld as e:
            raise Expired(f"too old resource version: {e.revision} ({e.oldest})") from e
        try:
            while True:
                yield await backlog.next()
        finally:
            watch.cancel()

    async def create(self, obj: Obj, *, manager: str, dry_run: bool = False) -> Obj:
        options = self._options(manager, dry_run=dry_run)
        if GVK.of(obj) == BINDING:  # no object: it changes its pod
            await bind_pod(self._objects, self._resource(_POD), _namespace(obj), obj["metadata"]["name"], obj, options)
            return obj
        resource = self._resource(GVK.of(obj))
        new = _copied(obj)
        bodies.refine(resource, new, options, [])
        entry = await self._objects.create(resource, _namespace(obj), new, options)
        return self._objects.served(resource, entry)

    async def update(self, obj: Obj, *, manager: str, subresource: str = "", dry_run: bool = False) -> Obj:
        ref, options = Ref.of(obj), self._options(manager, dry_run=dry_run)
        resource = self._resource(ref.gvk)

        def change(_live: Entry) -> Obj:
            new = _copied(obj)
            bodies.refine(resource, new, options, [])
            return new

        entry, _ = await self._objects.update(
            resource, ref.namespace, ref.name, change, options, subresource=subresource
        )
        return self._objects.served(resource, entry)

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
        resource, options = self._resource(ref.gvk), self._options(manager, dry_run=dry_run)
        apply = patching.compile_patch(resource, orjson.dumps(patch), _MEDIA[kind], options)
        entry, _ = await self._objects.update(
            resource,
            ref.namespace,
            ref.name,
            lambda live: apply(self._objects.served(resource, live)),
            options,
            subresource=subresource,
        )
        return self._objects.served(resource, entry)

    async def apply(
        self, obj: Obj, *, manager: str, force: bool = True, subresource: str = "", dry_run: bool = False
    ) -> Obj:
        ref, options = Ref.of(obj), self._options(manager, dry_run=dry_run, force=force)
        resource = self._resource(ref.gvk)
        apply = patching.applier(resource, _copied(obj), options, subresource)

        async def absent() -> Entry:
            return await self._objects.create(resource, ref.namespace, apply(None), options, track=False)

        entry, _ = await self._objects.update(
            resource,
            ref.namespace,
            ref.name,
            lambda live: apply(self._objects.served(resource, live)),
            options,
            subresource=subresource,
            track=False,
            absent=None if subresource else absent,
        )
        return self._objects.served(resource, entry)

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
        body: Obj = {}
        wanted = {key: value for key, value in (("uid", uid), ("resourceVersion", revision)) if value}
        if wanted:
            body["preconditions"] = wanted
        if propagation:
            body["propagationPolicy"] = propagation
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        deletion.validate_options(body)
        options = self._options("", dry_run=dry_run)
        await self._objects.delete(self._resource(ref.gvk), ref.namespace, ref.name, body, options)


class _Backlog:
    """Events that the cache has delivered and the consumer has not taken yet."""

    def __init__(self, resource: Resource, objects: Objects, selection: reading.Selection) -> None:
        self._resource = resource
        self._objects = objects
        self._selection = selection
        self._events: deque[WatchEvent] = deque()
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            seen = reading.as_seen(event, self._selection)
            if seen is not None:
                kind, entry = seen
                self._events.append(WatchEvent(kind, self._objects.served(self._resource, entry)))
        if len(self._events) > _BACKLOG:
            self.fail(Expired(f"watch {self._resource.plural}: {_BACKLOG} events wait unread; list again"))
        self._wake()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> WatchEvent:
        while True:
            if self._error is not None:
                raise self._error
            if self._events:
                return self._events.popleft()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter


def _copied(obj: Obj) -> Obj:
    """A copy that the pipeline may change; a round trip through JSON is the fastest deep copy there is."""
    copy: Obj = orjson.loads(orjson.dumps(obj))
    return copy


def _namespace(obj: Obj) -> str:
    return obj["metadata"].get("namespace") or ""
