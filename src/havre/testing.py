"""For tests of everything that speaks the API: no cluster, or a whole one in a moment.

FakeApi              the API server without listener, certificates, authorization and disk: the real verbs, defaults,
                     validation, admission, managedFields and watches on a log in memory
temporary_cluster    the whole control plane on a free port, with its HttpApi
settle, eventually   let everything happen that can happen now; wait for something that will

Waiting costs nothing on a virtual clock: mark a test `@pytest.mark.looptime` (package `looptime`) and every sleep of
the loop returns at once, in the right order.

    api = FakeApi(custom_kind(TENANT, namespaced=False), oil(), namespace("a"))
    await controller().once(OIL, api)
    assert api.now(OIL)["status"] == …
"""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

from havre.api.kinds import by_gvk
from havre.api.meta import GVK, Obj, name_of, namespace_of, rfc3339
from havre.control.apiserver import builtin
from havre.control.apiserver.addresses import Addresses
from havre.control.apiserver.admission.chain import standard
from havre.control.apiserver.authz import Authorizer
from havre.control.apiserver.cache import Cache, Event
from havre.control.apiserver.control_plane import CacheLister, Config, ControlPlane
from havre.control.apiserver.custom import CustomResources
from havre.control.apiserver.local import LocalApi
from havre.control.apiserver.objects import Objects
from havre.control.apiserver.resources import Registry, Resource, dump, prefix_of
from havre.control.store.log import DELETE, PUT, Abandon, Page, Publish, Row, Store
from havre.control.store.log import Change as LogChange
from havre.machinery import kubeconfig
from havre.machinery.api import Listing, PatchType, Propagation, Ref, WatchEvent
from havre.machinery.client import HttpApi

CRD = GVK("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
NAMESPACE = GVK("", "v1", "Namespace")
SERVICE_ACCOUNT = GVK("", "v1", "ServiceAccount")
MANAGER = "test"
SERVICE_CIDR = "10.96.0.0/16"
EPOCH = 1_700_000_000.0  # when the objects that a test begins with were made


def namespace(name: str, **labels: str) -> Obj:
    """A Namespace as the API server stores it."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, **labels}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def custom_kind(gvk: GVK, *, namespaced: bool = True, status: bool = True, schema: Obj | None = None) -> Obj:
    """A CustomResourceDefinition of one version; without a schema it takes everything."""
    plural = f"{gvk.kind.lower()}s"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": gvk.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema or anything},
        **({"subresources": {"status": {}}} if status else {}),
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{gvk.group}"},
        "spec": {
            "group": gvk.group,
            "names": {"plural": plural, "singular": gvk.kind.lower(), "kind": gvk.kind, "listKind": f"{gvk.kind}List"},
            "scope": "Namespaced" if namespaced else "Cluster",
            "versions": [version],
            "conversion": {"strategy": "None"},
        },
    }


# the API in memory


class FakeApi:
    """Implements `machinery.api.Api`; make one per test.

    The objects given are there as they are, with their status, as if they had been written long ago; their namespaces
    exist. A kind that is neither built in nor defined by one of them gets a definition that takes everything.
    """

    def __init__(self, *objects: Obj) -> None:
        self._seeds = objects
        self._up: _Up | None = None

    @property
    def _local(self) -> LocalApi:
        return self._started.local

    @property
    def _started(self) -> _Up:
        if self._up is None:
            self._up = _start(self._seeds)
        return self._up

    # looking at it, without awaiting

    def now(self, ref: Ref) -> Obj | None:
        """The object as it is stored."""
        up = self._started
        resource = up.registry.of_kind(*ref.gvk)
        entry = up.cache.get(resource.key(ref.namespace, ref.name)) if resource else None
        return None if resource is None or entry is None else up.objects.served(resource, entry)

    def all(self, gvk: GVK) -> list[Obj]:
        """Every object of a kind, in the order of namespaces and names."""
        up = self._started
        resource = up.registry.of_kind(*gvk)
        entries = up.cache.range(resource.prefix)[0] if resource else ()
        return [up.objects.served(cast(Resource, resource), entry) for entry in entries]

    @property
    def revision(self) -> int:
        """Of the last write: unchanged means that nothing was written."""
        return self._started.cache.revision

    async def compact(self) -> None:
        """Forget the past: a watch from before now raises Expired."""
        cache = self._started.cache
        await cache.compact(cache.revision)
        cache.forget_history()

    # the protocol

    async def get(self, ref: Ref) -> Obj | None:
        return await self._local.get(ref)

    async def list(self, gvk: GVK, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        return await self._local.list(gvk, namespace, labels=labels, fields=fields)

    def watch(
        self, gvk: GVK, namespace: str = "", *, since: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        return self._local.watch(gvk, namespace, since=since, labels=labels, fields=fields)

    async def create(self, obj: Obj, *, manager: str = MANAGER, dry_run: bool = False) -> Obj:
        return await self._local.create(obj, manager=manager, dry_run=dry_run)

    async def update(self, obj: Obj, *, manager: str = MANAGER, subresource: str = "", dry_run: bool = False) -> Obj:
        return await self._local.update(obj, manager=manager, subresource=subresource, dry_run=dry_run)

    async def patch(
        self,
        ref: Ref,
        patch: Obj | Sequence[Obj],
        *,
        kind: PatchType = "merge",
        manager: str = MANAGER,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Obj:
        return await self._local.patch(ref, patch, kind=kind, manager=manager, subresource=subresource, dry_run=dry_run)

    async def apply(
        self, obj: Obj, *, manager: str = MANAGER, force: bool = True, subresource: str = "", dry_run: bool = False
    ) -> Obj:
        return await self._local.apply(obj, manager=manager, force=force, subresource=subresource, dry_run=dry_run)

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
        await self._local.delete(ref, uid=uid, revision=revision, propagation=propagation, grace=grace, dry_run=dry_run)


@dataclass(slots=True)
class _Up:
    registry: Registry
    cache: _MemoryCache
    objects: Objects
    local: LocalApi


class _Memory:
    """What the cache needs of a store: the rows in a list, each on the "disk" in the next turn of the loop."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = [*rows]
        self.revision = len(self._rows)
        self.compacted = 0
        self._assigned = self.revision
        self._publish: Publish = lambda _rows: None

    def start(self, publish: Publish, abandon: Abandon = lambda _rows, _error: None) -> None:
        self._publish = publish

    def append(self, key: str, op: int, created: int, prev: int, encode: Callable[[int], bytes]) -> asyncio.Future[Row]:
        revision = self._assigned + 1
        row = Row(revision, key, op, created or revision, prev, encode(revision))
        self._assigned = revision
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Row] = loop.create_future()
        loop.call_soon(self._commit, row, future)
        return future

    def _commit(self, row: Row, future: asyncio.Future[Row]) -> None:
        self._rows.append(row)
        self.revision = row.revision
        self._publish([row])
        if not future.done():
            future.set_result(row)

    def compact(self, revision: int) -> asyncio.Future[int]:
        self.compacted = max(self.compacted, min(revision, self.revision))
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.set_result(self.compacted)
        return future

    def live(self, at: int | None = None) -> Iterator[Row]:
        newest = {row.key: row for row in self._rows[:at]}
        return (row for row in newest.values() if row.op != DELETE)

    def after(self, revision: int, *, until: int | None = None, prefix: str = "", limit: int = 0) -> Page:
        upto = self.revision if until is None else until
        changes = [
            LogChange(row, self._rows[row.prev - 1] if row.prev else None)
            for row in self._rows[revision:upto]
            if row.key.startswith(prefix)
        ]
        return Page(changes, upto)

    def horizon(self, limit: int) -> int:
        return self.revision

    async def close(self) -> None:
        """There is nothing to let go of."""


class _MemoryCache(Cache):
    """Started at once, without a thread, and never forgetting by itself: right under a virtual clock too."""

    def __init__(self, store: _Memory) -> None:
        super().__init__(cast(Store, store))
        self._load()
        store.start(self._committed, self._abandoned)

    def forget_history(self) -> None:
        self._history.forget(self.revision)


class _Definitions(CustomResources):
    """Works when a definition changes, instead of waiting in a task: so a FakeApi need not be closed."""

    def start(self) -> None:
        for entry in self._all():
            self._serve(entry.decode())
        self._cache.watch(self._definitions.prefix, None, self._deliver)

    def _deliver(self, events: Sequence[Event]) -> None:
        super()._deliver(events)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._settle())

    async def _settle(self) -> None:
        while not self._work.empty():
            await self._reconcile(self._work.get_nowait())


@lru_cache(maxsize=1)
def _builtin() -> tuple[Resource, ...]:
    """Shared by all FakeApis of a process: compiled schemas are the expensive part."""
    return tuple(builtin.resources())


def _start(seeds: Sequence[Obj]) -> _Up:
    registry = Registry()
    for resource in _builtin():
        registry.add(resource)
    cache = _MemoryCache(_Memory(_rows(registry, _completed(seeds))))
    lister = CacheLister(cache)
    addresses = Addresses(SERVICE_CIDR)
    services = prefix_of("", "services")
    addresses.load(cache.range(services)[0])
    cache.watch(services, None, addresses.deliver)
    objects = Objects(cache, standard(lister, Authorizer(), _charge), addresses)
    custom = _Definitions(registry, cache, objects)
    custom.start()
    return _Up(registry, cache, objects, LocalApi(registry, cache, objects))


async def _charge(_quota: Obj, _used: Mapping[str, str]) -> bool:
    """Quotas refuse by the usage that their status shows; nobody counts here."""
    return True


def _completed(seeds: Sequence[Obj]) -> list[Obj]:
    """The seeds, and what they need: namespaces with their default service account, definitions of their kinds."""
    given = {Ref.of(obj) for obj in seeds}
    wanted = ["default", "kube-system", *[namespace_of(o) or "default" for o in seeds]]
    wanted += [name_of(o) for o in seeds if GVK.of(o) == NAMESPACE]
    extra: dict[Ref, Obj] = {}
    for name in dict.fromkeys(wanted):
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
        extra[Ref(NAMESPACE, "", name)] = namespace(name)
        extra[Ref(SERVICE_ACCOUNT, name, "default")] = account
    defined = {(o["spec"]["group"], o["spec"]["names"]["kind"]) for o in seeds if GVK.of(o) == CRD}
    for obj in seeds:
        gvk = GVK.of(obj)
        if by_gvk(gvk) is None and (gvk.group, gvk.kind) not in defined:
            definition = custom_kind(gvk, namespaced=bool(namespace_of(obj)))
            extra[Ref.of(definition)] = definition
    return [*[obj for ref, obj in extra.items() if ref not in given], *seeds]


def _rows(registry: Registry, objects: Sequence[Obj]) -> Iterator[Row]:
    """The objects as the first rows of the log, with what the server would have set."""
    custom: dict[tuple[str, str], str] = {
        (o["spec"]["group"], o["spec"]["names"]["kind"]): prefix_of(o["spec"]["group"], o["spec"]["names"]["plural"])
        for o in objects
        if GVK.of(o) == CRD
    }
    for revision, obj in enumerate(objects, start=1):
        gvk, meta = GVK.of(obj), obj["metadata"]
        resource = registry.of_kind(*gvk)
        made = {
            "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, str(Ref.of(obj)))),
            "creationTimestamp": rfc3339(EPOCH),
            "resourceVersion": str(revision),
        }
        counted = {"generation": 1} if "spec" in obj and gvk not in (NAMESPACE,) else {}
        stored = {**obj, "metadata": {**counted, **made, **meta, "resourceVersion": str(revision)}}
        if gvk == CRD:
            stored = {**_established(obj), **stored}
        if resource is not None:
            resource.rules.default(stored)
            stored = resource.encode(stored) if resource.encode else stored
        prefix = resource.prefix if resource else custom[gvk.group, gvk.kind]
        yield Row(revision, f"{prefix}{namespace_of(obj)}/{name_of(obj)}", PUT, revision, 0, dump(stored))


def _established(crd: Obj) -> Obj:
    now = rfc3339(EPOCH)
    conditions = [
        {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now}
        for kind, reason, message in (
            ("NamesAccepted", "NoConflicts", "no conflicts found"),
            ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        )
    ]
    stored = [version["name"] for version in crd["spec"]["versions"] if version["storage"]]
    return {"status": {"conditions": conditions, "acceptedNames": crd["spec"]["names"], "storedVersions": stored}}


# a whole cluster


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running control plane and a client of its administrator."""

    plane: ControlPlane
    api: HttpApi
    kubeconfig: Path


@asynccontextmanager
async def temporary_cluster() -> AsyncIterator[Cluster]:
    """A control plane on a free port, its data in a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="havre-test-") as directory:
        plane = ControlPlane(Config(Path(directory), port=0))
        await plane.start()
        try:
            path = Path(directory) / "admin.kubeconfig"
            connection = kubeconfig.load(path)
            async with HttpApi(connection, user_agent="havre-testing") as api:
                yield Cluster(plane, api, path)
        finally:
            await plane.close(grace=0.5)


# waiting


async def settle(turns: int = 50) -> None:
    """Let everything happen that waits for no time and no wire."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def eventually(check: Callable[[], object | Awaitable[object]], *, within: float = 5.0) -> None:
    """Wait until `check` is true. Raises AssertionError after `within` seconds of the loop's clock."""
    loop = asyncio.get_running_loop()
    end, pause = loop.time() + within, 0.001
    while True:
        result = check()
        if await result if isinstance(result, Awaitable) else result:
            return
        if loop.time() >= end:
            raise AssertionError(f"{check} was not true within {within:g} s")
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.1)
