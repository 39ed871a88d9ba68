"""Informers over an API that fails, forgets and goes on, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from havre.api.errors import Expired, Unavailable
from havre.api.meta import GVK, Obj
from havre.machinery.api import Listing, Ref, WatchEvent
from havre.machinery.informer import CachedReads, DryRun, Handlers, Informer, SharedInformers
from havre.testing import FakeApi, eventually, settle

pytestmark = pytest.mark.looptime

MAP = GVK("", "v1", "ConfigMap")


def config_map(name: str, namespace: str = "default", **labels: str) -> Obj:
    meta = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"k": "0"}}


def ref(name: str) -> Ref:
    return Ref(MAP, "default", name)


class Told:
    """What the handlers of an informer were told."""

    def __init__(self, informer: Informer) -> None:
        self.calls: list[str] = []

        def changed(new: Obj, old: Obj) -> None:
            self.calls.append(f"~{new['metadata']['name']}:{old['data']['k']}→{new['data']['k']}")

        informer.subscribe(
            Handlers(
                lambda o: self.calls.append(f"+{o['metadata']['name']}"),
                changed,
                lambda o: self.calls.append(f"-{o['metadata']['name']}"),
            )
        )


@asynccontextmanager
async def running(informer: Informer) -> AsyncIterator[Told]:
    told = Told(informer)
    task = asyncio.ensure_future(informer.run())
    try:
        await informer.synced.wait()
        await settle()
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Moody(FakeApi):
    """Fails as often as told."""

    def __init__(self, *objects: Obj) -> None:
        super().__init__(*objects)
        self.lists_to_fail = self.watches_to_fail = 0
        self.watches = 0
        self.expire = False

    async def list(self, gvk: GVK, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        if self.lists_to_fail:
            self.lists_to_fail -= 1
            raise Unavailable("down")
        return await super().list(gvk, namespace, labels=labels, fields=fields)

    async def watch(
        self, gvk: GVK, namespace: str = "", *, since: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        self.watches += 1
        if self.expire:
            self.expire = False
            raise Expired("too old")
        if self.watches_to_fail:
            self.watches_to_fail -= 1
            return  # ends at once, without a word
        async for event in super().watch(gvk, namespace, since=since, labels=labels, fields=fields):
            yield event
            if event.object["metadata"]["name"] == "last":
                return


async def test_it_holds_what_is_and_tells_what_changes() -> None:
    api = FakeApi(config_map("a"))
    informer = Informer(api, MAP)
    async with running(informer) as told:
        made = await api.create(config_map("b"))
        await api.patch(ref("b"), {"data": {"k": "v"}})
        await api.delete(ref("a"))
        await settle()
        assert told.calls == ["+a", "+b", "~b:0→v", "-a"]
        assert informer.get(ref("a")) is None
        assert [o["metadata"]["uid"] for o in informer.list("default")] == [made["metadata"]["uid"]]
        assert (len(informer), informer.list("elsewhere"), informer.lists) == (1, [], 1)


async def test_a_late_listener_hears_of_what_is_here() -> None:
    informer = Informer(FakeApi(config_map("a")), MAP)
    async with running(informer):
        assert Told(informer).calls == ["+a"]


async def test_an_ended_watch_goes_on_where_it_was() -> None:
    api = Moody()
    informer = Informer(api, MAP)
    async with running(informer) as told:
        for name in ("a", "last", "b"):
            await api.create(config_map(name))
        await eventually(lambda: len(told.calls) == 3)
        assert told.calls == ["+a", "+last", "+b"]
        assert (informer.lists, api.watches) == (1, 2)


async def test_after_a_gap_it_lists_again_and_tells_the_difference() -> None:
    api = Moody(config_map("gone"), config_map("stays"), config_map("changes"), config_map("reborn"))
    informer = Informer(api, MAP)
    async with running(informer) as told:
        told.calls.clear()
        api.expire = True
        await api.create(config_map("last"))
        await api.delete(ref("gone"))
        await api.patch(ref("changes"), {"data": {"k": "v"}})
        await api.delete(ref("reborn"))
        await api.create(config_map("reborn"))
        await eventually(lambda: informer.lists == 2, within=60)
        assert sorted(told.calls) == ["+last", "+reborn", "-gone", "-reborn", "~changes:0→v"]


async def test_a_failing_server_is_asked_less_and_less_often() -> None:
    api = Moody(config_map("a"))
    api.lists_to_fail, api.watches_to_fail = 3, 2
    informer = Informer(api, MAP)
    began = asyncio.get_running_loop().time()
    async with running(informer):
        lasted = asyncio.get_running_loop().time() - began
        assert 0.8 + 1.6 + 3.2 <= lasted <= 1.5 * (0.8 + 1.6 + 3.2)
        await eventually(lambda: api.watches == 3, within=60)
        assert informer.lists == 1


async def test_an_index_follows_the_objects() -> None:
    api = FakeApi(config_map("a", app="web"), config_map("b", app="dns"))
    informer = Informer(api, MAP)
    informer.index("app", lambda o: [o["metadata"].get("labels", {}).get("app", "")])
    async with running(informer):
        await api.patch(ref("b"), {"metadata": {"labels": {"app": "web"}}})
        await settle()
        assert [o["metadata"]["name"] for o in informer.by("app", "web")] == ["a", "b"]
        assert informer.by("app", "dns") == []
        await api.delete(ref("a"))
        await settle()
        assert [o["metadata"]["name"] for o in informer.by("app", "web")] == ["b"]


async def test_informers_are_shared_and_answer_reads() -> None:
    api = FakeApi(config_map("a", app="web"), config_map("b"))
    async with asyncio.TaskGroup() as group:
        informers = SharedInformers(api, group)
        informer = informers.of(MAP)
        assert informers.of(MAP) is informer
        assert informers.of(MAP, "default") is not informer
        cached = CachedReads(api, informers)
        assert informers.find(MAP) is None
        assert await cached.get(ref("a")) == api.now(ref("a"))
        await informers.synced()
        found = await cached.list(MAP, labels="app=web")
        assert found.items == [api.now(ref("a"))]
        found.items[0]["data"]["k"] = "scribbled"
        assert informer.get(ref("a")) == api.now(ref("a"))
        assert await cached.get(ref("nothing")) is None
        for task in group._tasks:
            task.cancel()


async def test_a_dry_run_writes_nothing() -> None:
    api = FakeApi(config_map("a"))
    before = api.revision
    dry = DryRun(api)
    await dry.create(config_map("b"), manager="m")
    await dry.apply(config_map("c"), manager="m")
    await dry.patch(ref("a"), {"data": {"k": "v"}}, kind="merge", manager="m")
    await dry.update(config_map("a", x="y"), manager="m")
    await dry.delete(ref("a"))
    assert api.revision == before
    assert await dry.get(ref("a")) == api.now(ref("a"))
