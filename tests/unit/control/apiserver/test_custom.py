"""CustomResourceDefinitions at work: served, versioned, withdrawn, never in the way of a built-in kind."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from havre.api.meta import Obj
from havre.control.apiserver import custom
from havre.control.apiserver.admission.served import ServedKinds

pytestmark = pytest.mark.asyncio(loop_scope="module")
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MERGE = {"content_type": "application/merge-patch+json"}
_groups = (f"g{i}.example.com" for i in itertools.count(1))


def version(name: str, *, storage: bool = True, served: bool = True, status: bool = False) -> Obj:
    spec = {"type": "object", "properties": {"size": {"type": "integer", "default": 1, "maximum": 9}}}
    schema = {
        "type": "object",
        "properties": {"spec": spec, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    }
    extra: Obj = {"subresources": {"status": {}}} if status else {}
    return {"name": name, "served": served, "storage": storage, "schema": {"openAPIV3Schema": schema}, **extra}


def definition(group: str, *versions: Obj, plural: str = "things", kind: str = "Thing", **spec: Any) -> Obj:
    names = {"plural": plural, "kind": kind}
    return {
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": names,
            "versions": list(versions) or [version("v1")],
            **spec,
        },
    }


def thing(group: str, name: str = "a", /, *, version: str = "v1", meta: Obj | None = None, **more: Any) -> Obj:
    return {"kind": "Thing", "apiVersion": f"{group}/{version}", "metadata": {"name": name, **(meta or {})}, **more}


async def until(plane: Any, name: str, condition: str = "Established") -> Obj:
    async with asyncio.timeout(5):
        while True:
            crd: Obj = (await plane.ask("GET", f"{CRDS}/{name}")).json()
            found = {c["type"]: c["status"] for c in (crd.get("status") or {}).get("conditions") or ()}
            if found.get(condition) == "True":
                return crd
            await asyncio.sleep(0.001)


async def gone(plane: Any, name: str) -> None:
    async with asyncio.timeout(5):
        while (await plane.ask("GET", f"{CRDS}/{name}")).status != 404:  # noqa: ASYNC110 - what happens inside the server has no event of its own
            await asyncio.sleep(0.001)


@pytest.fixture
def group() -> str:
    return next(_groups)


async def install(plane: Any, crd: Obj) -> Obj:
    await plane.make(CRDS, crd)
    return await until(plane, crd["metadata"]["name"])


async def test_an_established_kind_is_served_with_its_schema(plane: Any, namespace: str, group: str) -> None:
    things = f"/apis/{group}/v1/namespaces/{namespace}/things"
    assert (await plane.ask("GET", things)).status == 404
    await install(plane, definition(group))
    made = await plane.make(things, thing(group, spec={"unknown": 1}))
    assert made["spec"] == {"size": 1}
    assert made["metadata"]["generation"] == 1
    refused = await plane.ask("POST", things, thing(group, "b", spec={"size": 10}))
    assert (refused.status, "spec.size: Invalid value: 10" in refused.message) == (422, True)
    assert group in str((await plane.ask("GET", "/apis")).json())


async def test_status_is_a_part_of_its_own(plane: Any, namespace: str, group: str) -> None:
    await install(plane, definition(group, version("v1", status=True)))
    url = f"/apis/{group}/v1/namespaces/{namespace}/things"
    made = await plane.make(url, thing(group, spec={"size": 1}, status={"x": 1}))
    assert "status" not in made
    put = (await plane.ask("PATCH", f"{url}/a/status", {"spec": {"size": 2}, "status": {"x": 2}}, **MERGE)).json()
    assert (put["spec"], put["status"], put["metadata"]["generation"]) == ({"size": 1}, {"x": 2}, 1)
    main = (await plane.ask("PATCH", f"{url}/a", {"spec": {"size": 2}, "status": {"x": 3}}, **MERGE)).json()
    assert (main["spec"], main["status"], main["metadata"]["generation"]) == ({"size": 2}, {"x": 2}, 2)


async def test_an_object_is_served_in_every_version(plane: Any, namespace: str, group: str) -> None:
    await install(plane, definition(group, version("v1"), version("v2", storage=False)))
    await plane.make(f"/apis/{group}/v2/namespaces/{namespace}/things", thing(group, version="v2"))
    for name in ("v1", "v2"):
        url = f"/apis/{group}/{name}/namespaces/{namespace}/things"
        assert (await plane.ask("GET", f"{url}/a")).json()["apiVersion"] == f"{group}/{name}"
        assert [i["apiVersion"] for i in (await plane.ask("GET", url)).json()["items"]] == [f"{group}/{name}"]
        sink = await plane.watch(f"{url}?watch=1")
        assert [obj["apiVersion"] for _, obj in sink.events] == [f"{group}/{name}"]
        sink.close()


async def test_what_was_stored_in_an_older_version_is_served_in_the_new_one(
    plane: Any, namespace: str, group: str
) -> None:
    crd = await install(plane, definition(group, version("v1"), version("v2", storage=False)))
    await plane.make(f"/apis/{group}/v1/namespaces/{namespace}/things", thing(group))
    crd["spec"]["versions"] = [version("v1", storage=False), version("v2")]
    assert (await plane.ask("PUT", f"{CRDS}/things.{group}", crd)).status == 200
    for name in ("v1", "v2"):
        url = f"/apis/{group}/{name}/namespaces/{namespace}/things"
        assert [i["apiVersion"] for i in (await plane.ask("GET", url)).json()["items"]] == [f"{group}/{name}"]
    stored = (await until(plane, f"things.{group}"))["status"]["storedVersions"]
    assert stored == ["v1", "v2"]


async def test_a_version_that_is_no_longer_served_is_gone(plane: Any, namespace: str, group: str) -> None:
    crd = await install(plane, definition(group, version("v1"), version("v2", storage=False)))
    crd["spec"]["versions"][1]["served"] = False
    await plane.ask("PUT", f"{CRDS}/things.{group}", crd)
    assert (await plane.ask("GET", f"/apis/{group}/v2/things")).status == 404
    assert (await plane.ask("GET", f"/apis/{group}/v1/things")).status == 200


async def test_with_a_conversion_webhook_the_stored_version_is_served_and_others_say_why_not(
    plane: Any, namespace: str, group: str
) -> None:
    hook = {"clientConfig": {"url": "https://hook.example/convert"}, "conversionReviewVersions": ["v1"]}
    conversion = {"strategy": "Webhook", "webhook": hook}
    await install(plane, definition(group, version("v1"), version("v2", storage=False), conversion=conversion))
    await plane.make(f"/apis/{group}/v1/namespaces/{namespace}/things", thing(group))
    reply = await plane.ask("GET", f"/apis/{group}/v2/namespaces/{namespace}/things/a")
    assert (reply.status, f"use {group}/v1, the stored version" in reply.message) == (500, True)


async def test_what_a_webhook_has_made_of_an_object_is_pruned_and_defaulted(
    plane: Any, namespace: str, group: str
) -> None:
    await install(plane, definition(group))
    made = thing(group, spec={"unknown": 1})
    ServedKinds(plane.registry).complete(made)
    assert made["spec"] == {"size": 1}


async def test_a_deleted_definition_takes_its_objects_along(plane: Any, namespace: str, group: str) -> None:
    await install(plane, definition(group))
    things = f"/apis/{group}/v1/namespaces/{namespace}/things"
    await plane.make(things, thing(group))
    await plane.ask("DELETE", f"{CRDS}/things.{group}")
    await gone(plane, f"things.{group}")
    assert (await plane.ask("GET", things)).status == 404
    assert plane.cache.count(f"{group}/things/") == 0


async def test_a_definition_waits_for_the_finalizers_of_its_objects(
    plane: Any, namespace: str, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custom, "_AGAIN", 0.01)
    await install(plane, definition(group))
    url = f"/apis/{group}/v1/namespaces/{namespace}/things"
    await plane.make(url, thing(group, meta={"finalizers": ["x.example.com/y"]}))
    await plane.ask("DELETE", f"{CRDS}/things.{group}")
    await until(plane, f"things.{group}", "Terminating")
    async with asyncio.timeout(5):
        while "deletionTimestamp" not in (await plane.ask("GET", f"{url}/a")).json()["metadata"]:  # noqa: ASYNC110 - what happens inside the server has no event of its own
            await asyncio.sleep(0.001)
    assert (await plane.ask("PATCH", f"{url}/a", {"metadata": {"finalizers": None}}, **MERGE)).status == 200
    await gone(plane, f"things.{group}")


@pytest.mark.parametrize(
    ("plural", "kind"), [("deployments", "Deployment"), ("deploys", "Deployment"), ("deployments", "Deploy")]
)
async def test_a_definition_never_takes_the_place_of_a_built_in_kind(
    plane: Any, namespace: str, plural: str, kind: str
) -> None:
    labels = {"app": "d"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    url = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    await plane.make(
        url, {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": labels}, "template": template}}
    )
    made = await plane.ask("POST", CRDS, definition("apps", version("v1"), plural=plural, kind=kind))
    name = f"{plural}.apps"
    if made.status == 201:
        await until(plane, name, "NamesAccepted")
        assert (await plane.ask("GET", f"{url}/d")).json()["spec"]["replicas"] == 1
        assert plane.registry.of_kind("apps", "v1", "Deployment").builtin
        await plane.ask("DELETE", f"{CRDS}/{name}")
        await gone(plane, name)
    assert (await plane.ask("GET", f"{url}/d")).status == 200


async def test_of_two_definitions_with_one_kind_the_second_waits(plane: Any, group: str) -> None:
    await install(plane, definition(group))
    await plane.make(CRDS, definition(group, plural="others"))
    assert (await plane.ask("GET", f"/apis/{group}/v1/others")).status == 404
    await plane.ask("DELETE", f"{CRDS}/things.{group}")
    await until(plane, f"others.{group}")
    assert (await plane.ask("GET", f"/apis/{group}/v1/others")).status == 200
