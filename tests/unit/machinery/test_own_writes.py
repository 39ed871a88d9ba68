"""Who writes through CachedReads reads its own writes, whatever the watch still has on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from havre.api.meta import GVK, Obj
from havre.machinery.api import Ref, WatchEvent
from havre.machinery.informer import CachedReads, Handlers, Informer, SharedInformers, look
from havre.testing import FakeApi, settle

pytestmark = pytest.mark.looptime

MAP = GVK("", "v1", "ConfigMap")


def config_map(name: str, **data: str) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "finalizers": ["test.example/kept"]},
        "data": data,
    }


def ref(name: str) -> Ref:
    return Ref(MAP, "default", name)


class Lagging(FakeApi):
    """Its watches tell nothing before they are let go."""

    def __init__(self, *objects: Obj) -> None:
        super().__init__(*objects)
        self.open = asyncio.Event()

    def watch(
        self, gvk: GVK, namespace: str = "", *, since: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        events = super().watch(gvk, namespace, since=since, labels=labels, fields=fields)

        async def late() -> AsyncIterator[WatchEvent]:
            async for event in events:
                await self.open.wait()
                yield event

        return late()


@asynccontextmanager
async def cached(api: FakeApi) -> AsyncIterator[tuple[CachedReads, Informer]]:
    async with asyncio.TaskGroup() as group:
        informers = SharedInformers(api, group)
        informer = informers.of(MAP)
        await informers.synced()
        await settle()
        yield CachedReads(api, informers), informer
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if task.get_name().startswith("informer"):
                task.cancel()


async def test_created_object_is_listed_before_the_watch_tells_it() -> None:
    api = Lagging()
    async with cached(api) as (reads, informer):
        await reads.create(config_map("a", k="1"), manager="test")
        assert [o["metadata"]["name"] for o in (await reads.list(MAP)).items] == ["a"]
        api.open.set()
        await settle()
        assert len(informer) == 1


async def test_older_events_do_not_undo_a_write_of_ours() -> None:
    api = Lagging(config_map("a", k="0"))
    async with cached(api) as (reads, informer):
        seen: list[str] = []
        informer.subscribe(Handlers(changed=lambda new, _: seen.append(new["data"]["k"])))
        await api.patch(ref("a"), {"data": {"k": "theirs"}})
        await reads.patch(ref("a"), {"data": {"k": "ours"}}, kind="merge", manager="test")
        api.open.set()
        await settle()
        assert seen == ["ours"]


async def test_deleted_object_counts_as_leaving_at_once() -> None:
    api = Lagging(config_map("a"))
    async with cached(api) as (reads, _):
        await reads.delete(ref("a"), uid=(api.now(ref("a")) or {})["metadata"]["uid"])
        assert ((await reads.get(ref("a"))) or {})["metadata"]["deletionTimestamp"]


async def test_end_of_a_predecessor_does_not_remove_its_successor() -> None:
    api = Lagging(config_map("a", k="old"))
    async with cached(api) as (reads, informer):
        await api.delete(ref("a"))
        await api.patch(ref("a"), {"metadata": {"finalizers": None}})
        await reads.create(config_map("a", k="new"), manager="test")
        api.open.set()
        await settle()
        assert (informer.get(ref("a")) or {})["data"] == {"k": "new"}


async def test_rehearsal_leaves_the_cache_alone() -> None:
    api = Lagging()
    async with cached(api) as (reads, informer):
        await reads.create(config_map("a"), manager="test", dry_run=True)
        assert len(informer) == 0


async def test_a_look_copies_nothing() -> None:
    async with cached(FakeApi(config_map("a"))) as (reads, informer):
        (seen,) = await look(reads, MAP, "default")
        assert seen is informer.get(ref("a"))
