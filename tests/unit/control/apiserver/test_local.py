"""The API without HTTP: the same pipeline, the same protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from havre.api.errors import ApiError, Conflict, Expired, NotFound
from havre.api.meta import GVK, Obj
from havre.control.apiserver import local as module
from havre.control.apiserver import reading
from havre.machinery.api import Ref

pytestmark = pytest.mark.asyncio(loop_scope="module")
MAP = GVK("", "v1", "ConfigMap")


def config_map(namespace: str, name: str = "c", /, **data: str) -> Obj:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "namespace": namespace}, "data": data}


async def test_the_life_of_an_object(plane: Any, namespace: str) -> None:
    ref, api = Ref(MAP, namespace, "c"), plane.local
    given = config_map(namespace, a="1")
    made = await api.create(given, manager="m")
    assert (made["data"], given) == ({"a": "1"}, config_map(namespace, a="1"))  # what was given is the caller's
    assert await api.get(ref) == made
    made["data"]["a"] = "2"
    updated = await api.update(made, manager="m")
    with pytest.raises(Conflict):
        await api.update(made | {"data": {}}, manager="m")
    patched = await api.patch(ref, {"data": {"b": "3"}}, kind="merge", manager="m")
    assert patched["data"] == {"a": "2", "b": "3"}
    assert int(patched["metadata"]["resourceVersion"]) > int(updated["metadata"]["resourceVersion"])
    assert [i["metadata"]["name"] for i in (await api.list(MAP, namespace)).items] == ["c"]
    with pytest.raises(Conflict):
        await api.delete(ref, uid="other")
    await api.delete(ref, uid=made["metadata"]["uid"])
    assert await api.get(ref) is None
    with pytest.raises(NotFound):
        await api.delete(ref)


async def test_an_apply_owns_its_fields_and_conflicts_unless_forced(plane: Any, namespace: str) -> None:
    first = await plane.local.apply(config_map(namespace, a="1"), manager="one")
    assert first["metadata"]["managedFields"][0]["operation"] == "Apply"
    again = await plane.local.apply(config_map(namespace, a="1"), manager="one")
    assert again == first  # nothing changed, nothing was written
    with pytest.raises(Conflict, match='conflict with "one"'):
        await plane.local.apply(config_map(namespace, a="2"), manager="two", force=False)
    assert (await plane.local.apply(config_map(namespace, a="2"), manager="two"))["data"] == {"a": "2"}


async def test_a_dry_run_stores_nothing(plane: Any, namespace: str) -> None:
    await plane.local.create(config_map(namespace), manager="m", dry_run=True)
    await plane.local.apply(config_map(namespace, "d"), manager="m", dry_run=True)
    assert (await plane.local.list(MAP, namespace)).items == []


async def test_selectors_choose(plane: Any, namespace: str) -> None:
    await plane.local.create(config_map(namespace, "a"), manager="m")
    await plane.local.create(config_map(namespace, "b"), manager="m")
    found = await plane.local.list(MAP, namespace, fields="metadata.name=b")
    assert [i["metadata"]["name"] for i in found.items] == ["b"]


async def test_an_unknown_kind_is_not_found(plane: Any) -> None:
    with pytest.raises(NotFound, match='no matches for kind "Nonsense" in version "x/v1"'):
        await plane.local.list(GVK("x", "v1", "Nonsense"))


@pytest.mark.parametrize(("kind", "namespace"), [("ClusterRole", "default"), ("Role", "")])
async def test_an_object_in_a_place_that_its_kind_has_not_is_refused(plane: Any, kind: str, namespace: str) -> None:
    body = {
        "kind": kind,
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "metadata": {"name": "r", "namespace": namespace},
    }
    before = plane.cache.revision
    with pytest.raises(ApiError):
        await plane.local.create(body, manager="m")
    assert plane.cache.revision == before


async def test_a_watch_goes_on_from_a_list(plane: Any, namespace: str) -> None:
    listed = await plane.local.list(MAP, namespace)
    watch = plane.local.watch(MAP, namespace, since=listed.revision)
    await plane.local.create(config_map(namespace), manager="m")
    async with asyncio.timeout(5):
        event = await anext(watch)
        assert (event.type, event.object["metadata"]["name"]) == ("ADDED", "c")
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        await plane.local.delete(Ref(MAP, namespace, "c"))
        assert (await waiting).type == "DELETED"
    await watch.aclose()
    assert f"core/configmaps/{namespace}/" not in plane.cache._watches


async def test_a_consumer_that_falls_behind_must_list_again(
    plane: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BACKLOG", 2)
    watch = plane.local.watch(MAP, namespace, since=str(plane.cache.revision))
    await plane.local.create(config_map(namespace, "a"), manager="m")
    assert (await anext(watch)).type == "ADDED"
    for name in "bcde":
        await plane.local.create(config_map(namespace, name), manager="m")
    with pytest.raises(Expired, match="events wait unread; list again"):
        await anext(watch)


async def test_a_watch_from_the_distant_past_is_expired(
    plane: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.cache._history.forget(plane.cache.revision)
    monkeypatch.setattr(plane.cache._store, "compacted", plane.cache.revision)
    with pytest.raises(Expired, match="too old resource version: 1 "):
        await anext(plane.local.watch(MAP, namespace, since="1"))


async def test_a_list_comes_in_parts_of_one_revision(
    plane: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        await plane.local.create(config_map(namespace, name), manager="m")
    monkeypatch.setattr(reading, "STEP", 2)
    parts = [part async for part in plane.local.pages(MAP, namespace)]
    names = [[obj["metadata"]["name"] for obj in part.items] for part in parts]
    assert (names, len({part.revision for part in parts})) == ([["a", "b"], ["c"]], 1)
