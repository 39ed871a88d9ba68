"""The four patches over the whole way, and what is no patch."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")
JSON, MERGE = "application/json-patch+json", "application/merge-patch+json"
STRATEGIC, APPLY = "application/strategic-merge-patch+json", "application/apply-patch+yaml"
POD = {
    "metadata": {"name": "p", "labels": {"a": "1"}},
    "spec": {
        "automountServiceAccountToken": False,
        "containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "i:1"}],
    },
}


async def pod(plane: Any, namespace: str) -> str:
    await plane.make(f"/api/v1/namespaces/{namespace}/pods", POD)
    return f"/api/v1/namespaces/{namespace}/pods/p"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, [{"op": "replace", "path": "/spec/containers/0/image", "value": "i:2"}]),
        (MERGE, {"spec": {"containers": [{"name": "c", "image": "i:2"}, {"name": "d", "image": "i:1"}]}}),
        (STRATEGIC, {"spec": {"containers": [{"name": "c", "image": "i:2"}]}}),
    ],
)
async def test_a_patch_changes_one_image(plane: Any, namespace: str, content_type: str, body: Any) -> None:
    url = await pod(plane, namespace)
    patched = (await plane.ask("PATCH", url, body, content_type=content_type)).json()
    assert [c["image"] for c in patched["spec"]["containers"]] == ["i:2", "i:1"]
    assert "test" in {o["manager"] for o in patched["metadata"]["managedFields"]}


async def test_an_empty_patch_writes_nothing(plane: Any, namespace: str) -> None:
    url = await pod(plane, namespace)
    before = plane.cache.revision
    assert (await plane.ask("PATCH", url, {}, content_type=MERGE)).status == 200
    assert plane.cache.revision == before


async def test_an_apply_creates_then_changes(plane: Any, namespace: str) -> None:
    url = f"/api/v1/namespaces/{namespace}/configmaps/c?fieldManager=me"
    body = b"kind: ConfigMap\napiVersion: v1\nmetadata: {name: c}\ndata: {a: '1'}\n"
    created = await plane.ask("PATCH", url, body, content_type=APPLY)
    before = plane.cache.revision
    again = await plane.ask("PATCH", url, body, content_type=APPLY)
    assert (created.status, again.status, plane.cache.revision) == (201, 200, before)
    changed = await plane.ask("PATCH", url, body.replace(b"a: '1'", b"b: '2'"), content_type=APPLY)
    assert changed.json()["data"] == {"b": "2"}


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        (JSON, b"{", 400),
        (JSON, b"{}", 400),
        (JSON, [{"op": "test", "path": "/metadata/name", "value": "x"}], 422),
        (JSON, [{"op": "remove", "path": "/nowhere"}], 422),
        (JSON, [{"op": "remove", "path": "/metadata"}], 400),
        (MERGE, b"[]", 400),
        (MERGE, {"spec": {"containers": "x"}}, 422),
        (MERGE, {"metadata": {"name": "other"}}, 400),
        (MERGE, {"metadata": {"resourceVersion": "1"}}, 409),
        (MERGE, {"spec": {"hostname": "new"}}, 422),
        (STRATEGIC, {"spec": {"containers": [{"image": "x"}]}}, 500),
        ("text/plain", b"x", 415),
        (APPLY, b"- 1", 400),
    ],
)
async def test_what_does_not_fit_is_refused(
    plane: Any, namespace: str, content_type: str, body: Any, status: int
) -> None:
    url = await pod(plane, namespace)
    before = plane.cache.revision
    query = "?fieldManager=me" if content_type == APPLY else ""
    reply = await plane.ask("PATCH", url + query, body, content_type=content_type)
    assert reply.status in (status, 400 if status == 422 else status), reply.body
    assert plane.cache.revision == before


@pytest.mark.parametrize(("query", "status"), [("", 422), ("?fieldManager=me&force=true", 201)])
async def test_an_apply_names_its_manager(plane: Any, namespace: str, query: str, status: int) -> None:
    body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c"}}
    reply = await plane.ask("PATCH", f"/api/v1/namespaces/{namespace}/configmaps/c{query}", body, content_type=APPLY)
    assert reply.status == status


async def test_only_an_apply_can_be_forced(plane: Any, namespace: str) -> None:
    url = await pod(plane, namespace)
    reply = await plane.ask("PATCH", f"{url}?force=true", {}, content_type=MERGE)
    assert (reply.status, "may not be specified for non-apply patch" in reply.message) == (422, True)
