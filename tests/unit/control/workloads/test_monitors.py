"""One light watch on every kind: what listeners hear, and when chores are tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from havre.api.errors import Conflict, Expired
from havre.api.kinds import Kind, by_gvk
from havre.api.meta import GVK, Obj
from havre.control.workloads import monitors as subject
from havre.control.workloads.chore import Change, Chore, Running
from havre.control.workloads.graph import Node
from havre.control.workloads.monitors import Monitors
from havre.control.workloads.served import DEFINITION, DiscoveryFailed, once
from havre.machinery.api import Api, Listing, Ref, WatchEvent
from havre.testing import FakeApi, custom_kind, eventually, namespace

MAP = GVK("", "v1", "ConfigMap")
WIDGET = GVK("example.com", "v1", "Widget")
CLAIMED = Kind(
    "example.com",
    "v1",
    "Widget",
    "widgets",
    "widget",
    True,
    ("list", "watch", "delete", "get", "create"),
    "",
    "v1",
    "example.com",
)


def builtin(*gvks: GVK) -> list[Kind]:
    return [kind for kind in map(by_gvk, gvks) if kind]


class Heard:
    """A listener that writes down."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def seen(self, kind: Kind, obj: Obj, node: Node, old: Node | None) -> None:
        self.log.append(f"{'new' if old is None else 'changed'} {node.ref.name}")

    def gone(self, kind: Kind, node: Node) -> None:
        self.log.append(f"gone {node.ref.name}")


def config_map(name: str) -> Obj:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "a"}}


@asynccontextmanager
async def following(api: FakeApi, discover: Callable[[], object], heard: Heard) -> AsyncIterator[Monitors]:
    monitors = Monitors(api, discover)  # type: ignore[arg-type]
    monitors.add(heard)
    task = asyncio.create_task(monitors.run())
    try:
        await asyncio.wait_for(monitors.synced.wait(), 5)
        yield monitors
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_listener_hears_what_is_there_then_every_change_and_the_end() -> None:
    async def discover() -> list[Kind]:
        return builtin(MAP)

    api, heard = FakeApi(namespace("a"), config_map("x")), Heard()
    async with following(api, discover, heard):
        assert heard.log == ["new x"]
        await api.create(config_map("y"))
        await api.patch(Ref(MAP, "a", "x"), {"data": {"k": "v"}})
        await api.delete(Ref(MAP, "a", "y"))
        await eventually(lambda: len(heard.log) == 4)
    assert heard.log == ["new x", "new y", "changed x", "gone y"]


async def test_new_definition_is_followed_and_events_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "SETTLE", (0.001,))
    api, heard = FakeApi(namespace("a")), Heard()

    async def discover() -> list[Kind]:
        known = builtin(DEFINITION, GVK("", "v1", "Event"))
        return [*known, CLAIMED] if api.all(DEFINITION) else known

    async with following(api, discover, heard) as monitors:
        await api.create(custom_kind(WIDGET))
        await eventually(lambda: WIDGET in monitors.kinds)
        widget = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": "a"}}
        await eventually(lambda: api.now(Ref(DEFINITION, "", "widgets.example.com"))["status"]["conditions"])  # type: ignore[index]
        await api.create(widget)
        await eventually(lambda: "new w" in heard.log)


async def test_group_that_does_not_answer_keeps_its_kinds() -> None:
    answers: list[object] = [builtin(MAP), DiscoveryFailed("1 failing", [])]

    async def discover() -> list[Kind]:
        answer = answers.pop(0)
        if isinstance(answer, DiscoveryFailed):
            raise answer
        assert isinstance(answer, list)
        return answer

    api, heard = FakeApi(namespace("a")), Heard()
    async with following(api, discover, heard) as monitors:
        monitors._changed.set()
        await eventually(lambda: not answers)
        await api.create(config_map("x"))
        await eventually(lambda: heard.log == ["new x"])
        assert MAP in monitors.kinds


def test_every_kind_is_followed_in_one_version() -> None:
    event, other = builtin(GVK("", "v1", "Event"), GVK("events.k8s.io", "v1", "Event"))
    assert once([event, other, *builtin(MAP)], "list") == [event, *builtin(MAP)]
    assert once(builtin(GVK("authentication.k8s.io", "v1", "TokenReview")), "list") == []


async def test_chore_that_fails_is_tried_again_and_others_go_on() -> None:
    tried: list[str] = []

    async def reconcile(ref: Ref, api: Api) -> None:
        tried.append(ref.name)
        if tried.count("x") == 1 and ref.name == "x":
            raise Conflict("somebody was faster")
        if tried.count("y") == 1 and ref.name == "y":
            raise KeyError("a bug")

    def wakes(change: Change) -> list[Ref]:
        return [change.node.ref]

    async def discover() -> list[Kind]:
        return []

    api = FakeApi()
    running = Running(Chore("test", reconcile, wakes), api, Monitors(api, discover))
    for name in "xyz":
        running.seen(builtin(MAP)[0], config_map(name), Node(name, Ref(MAP, "a", name)), None)
    task = asyncio.create_task(running.run())
    await eventually(lambda: sorted(tried) == ["x", "x", "y", "y", "z"])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Forgetful:
    """An API whose watch has always expired; every list is the next of `lists`."""

    def __init__(self, *lists: list[str]) -> None:
        self._lists = list(lists)

    async def list(self, gvk: GVK, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        names = self._lists.pop(0) if len(self._lists) > 1 else self._lists[0]
        return Listing([{**config_map(n), "metadata": {**config_map(n)["metadata"], "uid": n}} for n in names], "1")

    async def watch(
        self, gvk: GVK, namespace: str = "", *, since: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        for expired in (True,):
            await asyncio.sleep(0.001)
            if expired:
                raise Expired("too old")
            yield WatchEvent("ADDED", {})


async def test_what_went_unseen_is_told_as_gone_after_the_next_list() -> None:
    async def discover() -> list[Kind]:
        return builtin(MAP)

    heard = Heard()
    async with following(Forgetful(["x", "y"], ["y", "z"]), discover, heard):  # type: ignore[arg-type]
        await eventually(lambda: "gone x" in heard.log)
    assert [word for word in heard.log if word.startswith(("new", "gone"))] == ["new x", "new y", "new z", "gone x"]


async def test_kind_that_comes_back_without_an_object_tells_that_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    served = [builtin(MAP), [], builtin(MAP)]

    async def discover() -> list[Kind]:
        return served.pop(0) if len(served) > 1 else served[0]

    heard = Heard()
    async with following(Forgetful(["x"], []), discover, heard) as monitors:  # type: ignore[arg-type]
        for left in (2, 1):
            monitors._changed.set()
            await eventually(lambda left=left: len(served) == left)  # type: ignore[misc]
        await eventually(lambda: heard.log[-1] == "gone x")


async def test_listener_with_a_bug_stops_nobody_else() -> None:
    class Broken(Heard):
        def seen(self, kind: Kind, obj: Obj, node: Node, old: Node | None) -> None:
            raise KeyError("a bug")

    async def discover() -> list[Kind]:
        return builtin(MAP)

    api, heard = FakeApi(namespace("a"), config_map("x")), Heard()
    async with following(api, discover, Broken()) as monitors:
        monitors.add(heard)
        await api.create(config_map("y"))
        await eventually(lambda: heard.log == ["new y"])
