"""What the Kubernetes conformance suite found, each once, with its input made small."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from havre.api.meta import Obj

pytestmark = pytest.mark.asyncio(loop_scope="module")
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_groups = (f"found{i}.example.com" for i in itertools.count(1))


def definition(group: str, **properties: Obj) -> Obj:
    schema = {"type": "object", "properties": properties}
    return {
        "metadata": {"name": f"foos.{group}"},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


async def until(plane: Any, url: str, status: int) -> None:
    async with asyncio.timeout(5):
        while (await plane.ask("GET", url)).status != status:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.001)


async def serve(plane: Any, **properties: Obj) -> str:
    """The address of the objects of a new custom kind."""
    group = next(_groups)
    await plane.make(CRDS, definition(group, **properties))
    await until(plane, f"/apis/{group}/v1/foos", 200)
    return f"/apis/{group}/v1/foos"


async def test_a_finalizer_of_a_definition_may_have_any_name(plane: Any) -> None:
    group = next(_groups)
    made = definition(group)
    made["metadata"]["finalizers"] = ["customresourcecleanup.apiextensions.k8s.io"]
    assert (await plane.ask("POST", CRDS, made)).status == 201


async def test_a_finalizer_of_a_custom_object_may_have_any_name(plane: Any) -> None:
    url = await serve(plane)
    kind = {"kind": "Foo", "apiVersion": url.removeprefix("/apis/").removesuffix("/foos")}
    assert (await plane.ask("POST", url, {**kind, "metadata": {"name": "a", "finalizers": ["mine"]}})).status == 201


async def test_a_finalizer_of_a_config_map_must_be_qualified(plane: Any, namespace: str) -> None:
    body = {"metadata": {"name": "a", "finalizers": ["mine"]}}
    reply = await plane.ask("POST", f"/api/v1/namespaces/{namespace}/configmaps", body)
    assert "name is neither a standard finalizer name nor is it fully qualified" in reply.message


async def test_times_of_the_first_year_keep_their_zeros(plane: Any, namespace: str) -> None:
    spec = {"acquireTime": "0001-01-01T00:00:02.000000Z", "renewTime": "0001-01-01T02:00:05+02:00"}
    url = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    made = await plane.make(url, {"metadata": {"name": "a"}, "spec": spec})
    assert made["spec"] == {"acquireTime": "0001-01-01T00:00:02.000000Z", "renewTime": "0001-01-01T00:00:05.000000Z"}


async def test_every_page_of_a_list_tells_how_many_remain_as_of_its_revision(plane: Any, namespace: str) -> None:
    url = f"/api/v1/namespaces/{namespace}/configmaps"
    for name in "abcde":
        await plane.make(url, {"metadata": {"name": name}})
    first = (await plane.ask("GET", f"{url}?limit=2")).json()["metadata"]
    assert first["remainingItemCount"] == 3
    await plane.ask("DELETE", f"{url}/d")
    await plane.make(url, {"metadata": {"name": "f"}})
    await plane.make(url, {"metadata": {"name": "g"}})
    second = (await plane.ask("GET", f"{url}?limit=2&continue={first['continue']}")).json()["metadata"]
    assert second["remainingItemCount"] == 1
    third = (await plane.ask("GET", f"{url}?limit=2&continue={second['continue']}")).json()
    assert [item["metadata"]["name"] for item in third["items"]] == ["e"]
    assert "remainingItemCount" not in third["metadata"]


async def test_a_page_of_a_selection_does_not_tell_how_many_remain(plane: Any, namespace: str) -> None:
    url = f"/api/v1/namespaces/{namespace}/configmaps"
    for name in "abc":
        await plane.make(url, {"metadata": {"name": name, "labels": {"a": "b"}}})
    page = (await plane.ask("GET", f"{url}?limit=1&labelSelector=a%3Db")).json()["metadata"]
    assert page["continue"]
    assert "remainingItemCount" not in page


async def test_a_condition_without_a_type_stops_no_definition(plane: Any) -> None:
    url = await serve(plane)
    name = f"foos.{url.split('/')[2]}"
    patch = [{"op": "add", "path": "/status/conditions", "value": [{"message": "patched"}]}]
    reply = await plane.ask("PATCH", f"{CRDS}/{name}/status", patch, content_type="application/json-patch+json")
    assert reply.json()["status"]["conditions"] == [
        {"message": "patched", "type": "", "status": "", "lastTransitionTime": None}
    ]
    await plane.ask("DELETE", f"{CRDS}/{name}")
    await until(plane, f"{CRDS}/{name}", 404)
    await serve(plane)  # the next one is established all the same


async def test_objects_stored_before_a_default_are_read_with_it(plane: Any) -> None:
    url = await serve(plane, a={"type": "string"})
    group = url.split("/")[2]
    await plane.make(url, {"kind": "Foo", "apiVersion": f"{group}/v1", "metadata": {"name": "old"}})
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/a/default"
    patch = [{"op": "add", "path": path, "value": "A"}]
    await plane.ask("PATCH", f"{CRDS}/foos.{group}", patch, content_type="application/json-patch+json")
    assert (await plane.ask("GET", f"{url}/old")).json()["a"] == "A"
    assert [item["a"] for item in (await plane.ask("GET", url)).json()["items"]] == ["A"]


@pytest.mark.parametrize(("validation", "status"), [("Strict", 400), ("Warn", 201), ("Ignore", 201)])
async def test_an_apply_tells_about_keys_that_come_twice(plane: Any, validation: str, status: int) -> None:
    url = await serve(plane, a={"type": "string"})
    body = f"kind: Foo\napiVersion: {url.split('/')[2]}/v1\nmetadata:\n  name: x\na: b\na: c\n"
    reply = await plane.ask(
        "PATCH",
        f"{url}/x?fieldManager=m&fieldValidation={validation}",
        body.encode(),
        content_type="application/apply-patch+yaml",
    )
    words = 'line 6: key \\"a\\" already set in map'
    assert reply.status == status
    assert (words in reply.body.decode()) == (validation == "Strict")
    assert reply.headers.get("warning", "") == (f'299 - "{words}"' if validation == "Warn" else "")


async def test_a_create_in_yaml_tells_about_keys_that_come_twice(plane: Any, namespace: str) -> None:
    body = b"metadata:\n  name: x\ndata: {a: b, a: c}\n"
    url = f"/api/v1/namespaces/{namespace}/configmaps?fieldValidation=Strict"
    reply = await plane.ask("POST", url, body, content_type="application/yaml")
    assert reply.status == 400
    assert 'strict decoding error: yaml: unmarshal errors:\n  line 3: key "a" already set in map' in reply.message


async def test_a_review_has_no_table(plane: Any) -> None:
    body = {"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}
    url = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    assert (await plane.ask("POST", url, body, headers={"accept": table})).status == 406
    either = await plane.ask("POST", url, body, headers={"accept": f"{table},application/json"})
    assert either.json()["status"]["allowed"] is True


async def test_events_are_selected_by_the_fields_of_the_group_that_is_asked(plane: Any, namespace: str) -> None:
    about = {"kind": "Pod", "namespace": namespace, "name": "p"}
    body = {"metadata": {"name": "a"}, "involvedObject": about, "reason": "R", "source": {"component": "c"}}
    await plane.make(f"/api/v1/namespaces/{namespace}/events", body)
    for url, selector in (
        (f"/api/v1/namespaces/{namespace}/events", "source=c"),
        (f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", "regarding.name=p"),
        (f"/api/v1/namespaces/{namespace}/events", "involvedObject.name=p"),
    ):
        found = (await plane.ask("GET", f"{url}?fieldSelector={selector}")).json()
        assert [item["metadata"]["name"] for item in found["items"]] == ["a"]
