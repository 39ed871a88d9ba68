"""Status, scale, binding, eviction, token, finalize."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")
MERGE = "application/merge-patch+json"
CONTAINERS = {"containers": [{"name": "c", "image": "i"}]}


async def pod(plane: Any, namespace: str, name: str = "p", **spec: Any) -> str:
    body = {"metadata": {"name": name, "labels": {"app": "x"}}, "spec": {**CONTAINERS, **spec}}
    await plane.make(f"/api/v1/namespaces/{namespace}/pods", body)
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


async def deployment(plane: Any, namespace: str) -> str:
    labels = {"app": "d"}
    spec = {
        "replicas": 2,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": CONTAINERS},
    }
    url = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    await plane.make(url, {"metadata": {"name": "d"}, "spec": spec})
    return f"{url}/d"


async def test_status_changes_only_the_status(plane: Any, namespace: str) -> None:
    url = await deployment(plane, namespace)
    body = {"spec": {"replicas": 9}, "status": {"replicas": 1}}
    changed = (await plane.ask("PATCH", f"{url}/status", body, content_type=MERGE)).json()
    assert (changed["spec"]["replicas"], changed["status"]["replicas"]) == (2, 1)


# scale


async def test_a_scale_is_read_and_changed(plane: Any, namespace: str) -> None:
    url = await deployment(plane, namespace)
    scale = (await plane.ask("GET", f"{url}/scale")).json()
    assert (scale["kind"], scale["spec"], scale["status"]["selector"]) == ("Scale", {"replicas": 2}, "app=d")
    scale["spec"]["replicas"] = 3
    assert (await plane.ask("PUT", f"{url}/scale", scale)).json()["spec"] == {"replicas": 3}
    assert (await plane.ask("PUT", f"{url}/scale", scale)).status == 409  # of the revision before
    patched = await plane.ask("PATCH", f"{url}/scale", {"spec": {"replicas": 0}}, content_type=MERGE)
    assert patched.json()["spec"].get("replicas", 0) == 0
    operations = [{"op": "add", "path": "/spec/replicas", "value": 4}]
    assert (
        await plane.ask("PATCH", f"{url}/scale", operations, content_type="application/json-patch+json")
    ).status == 200
    assert (await plane.ask("GET", url)).json()["spec"]["replicas"] == 4


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        ({"spec": {"replicas": -1}}, MERGE, 422),
        ({"spec": {"replicas": "x"}}, MERGE, 400),
        ({"metadata": {"name": "other"}}, MERGE, 400),
        (b"{", MERGE, 400),
        ([{"op": "test", "path": "/spec/replicas", "value": 99}], "application/json-patch+json", 422),
        ([{"op": "replace", "path": "", "value": []}], "application/json-patch+json", 400),
        ({}, "text/plain", 415),
    ],
)
async def test_a_scale_that_does_not_fit_is_refused(
    plane: Any, namespace: str, body: Any, content_type: str, status: int
) -> None:
    url = await deployment(plane, namespace)
    reply = await plane.ask("PATCH", f"{url}/scale", body, content_type=content_type)
    assert reply.status in ((status, 400) if status == 415 else (status,)), reply.body


# pods


async def test_a_pod_is_bound_once(plane: Any, namespace: str) -> None:
    url = await pod(plane, namespace)
    body = {"metadata": {"name": "p", "annotations": {"by": "me"}}, "target": {"kind": "Node", "name": "n1"}}
    replies = await asyncio.gather(*(plane.ask("POST", f"{url}/binding", body) for _ in range(2)))
    assert sorted(r.status for r in replies) == [201, 409]
    bound = (await plane.ask("GET", url)).json()
    assert (bound["spec"]["nodeName"], bound["metadata"]["annotations"]) == ("n1", {"by": "me"})
    assert [(c["type"], c["status"]) for c in bound["status"]["conditions"]] == [("PodScheduled", "True")]


async def test_a_pod_can_be_bound_by_the_collection_of_bindings(plane: Any, namespace: str) -> None:
    url = await pod(plane, namespace)
    body = {"metadata": {"name": "p"}, "target": {"name": "n1"}}
    assert (await plane.ask("POST", f"/api/v1/namespaces/{namespace}/bindings", body)).status == 201
    assert (await plane.ask("GET", url)).json()["spec"]["nodeName"] == "n1"


async def test_a_pod_of_another_uid_or_with_gates_is_not_bound(plane: Any, namespace: str) -> None:
    url = await pod(plane, namespace)
    assert (
        await plane.ask("POST", f"{url}/binding", {"metadata": {"uid": "x"}, "target": {"name": "n1"}})
    ).status == 409
    gated = await pod(plane, namespace, "gated", schedulingGates=[{"name": "x.example.com/y"}])
    assert (await plane.ask("POST", f"{gated}/binding", {"target": {"name": "n1"}})).status == 409
    assert (await plane.ask("POST", f"{url}/binding", {})).status == 400


async def budget(plane: Any, namespace: str, name: str, allowed: int) -> str:
    url = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}
    await plane.make(url, {"metadata": {"name": name}, "spec": spec})
    status = {
        "observedGeneration": 1,
        "disruptionsAllowed": allowed,
        "currentHealthy": 2,
        "desiredHealthy": 1,
        "expectedPods": 2,
    }
    assert (await plane.ask("PATCH", f"{url}/{name}/status", {"status": status}, content_type=MERGE)).status == 200
    return f"{url}/{name}"


async def running(plane: Any, namespace: str, name: str, *, ready: bool = True) -> str:
    url = await pod(plane, namespace, name, nodeName="n1")
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    assert (await plane.ask("PATCH", f"{url}/status", {"status": status}, content_type=MERGE)).status == 200
    return url


async def test_two_evictions_share_a_budget_of_one(plane: Any, namespace: str) -> None:
    pods = [await running(plane, namespace, name) for name in "ab"]
    one = await budget(plane, namespace, "b", 1)
    dry = await plane.ask("POST", f"{pods[0]}/eviction?dryRun=All", {"metadata": {"name": "a"}})
    assert (dry.status, (await plane.ask("GET", one)).json()["status"]["disruptionsAllowed"]) == (201, 1)
    replies = await asyncio.gather(*(plane.ask("POST", f"{p}/eviction", {"metadata": {"name": p[-1]}}) for p in pods))
    assert sorted(r.status for r in replies) == [201, 429]
    refused = next(r for r in replies if r.status == 429).json()
    assert refused["message"] == "Cannot evict pod as it would violate the pod's disruption budget."
    assert refused["details"]["causes"][0]["reason"] == "DisruptionBudget"
    assert (await plane.ask("GET", one)).json()["status"]["disruptionsAllowed"] == 0
    marked = ["deletionTimestamp" in (await plane.ask("GET", p)).json()["metadata"] for p in pods]
    assert sorted(marked) == [False, True]


async def test_an_evicted_pod_says_why_it_ends(plane: Any, namespace: str) -> None:
    url = await running(plane, namespace, "a")
    seen = (await plane.ask("GET", url)).json()["metadata"]
    body = {"metadata": {"name": "a"}, "deleteOptions": {"preconditions": {"resourceVersion": seen["resourceVersion"]}}}
    assert (await plane.ask("POST", f"{url}/eviction", body)).status == 201
    now = (await plane.ask("GET", url)).json()
    assert "deletionTimestamp" in now["metadata"]
    mark = {one["type"]: one for one in now["status"]["conditions"]}["DisruptionTarget"]
    assert (mark["status"], mark["reason"]) == ("True", "EvictionByEvictionAPI")
    assert (await plane.ask("POST", f"{url}/eviction", body)).status == 409


async def test_a_pod_that_is_not_ready_costs_no_disruption(plane: Any, namespace: str) -> None:
    url = await running(plane, namespace, "a", ready=False)
    one = await budget(plane, namespace, "b", 0)
    assert (await plane.ask("POST", f"{url}/eviction", {"metadata": {"name": "a"}})).status == 201
    assert (await plane.ask("GET", one)).json()["status"].get("disruptedPods") is None


async def test_two_budgets_for_one_pod_are_an_error(plane: Any, namespace: str) -> None:
    url = await running(plane, namespace, "a")
    await budget(plane, namespace, "b1", 1)
    await budget(plane, namespace, "b2", 1)
    reply = await plane.ask("POST", f"{url}/eviction", {"metadata": {"name": "a"}})
    assert (reply.status, "more than one PodDisruptionBudget" in reply.message) == (500, True)


# others


async def test_a_token_names_its_account(plane: Any, namespace: str) -> None:
    url = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    token = (await plane.ask("POST", url, {"spec": {"expirationSeconds": 600}})).json()["status"]["token"]
    review = await plane.ask("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": token}})
    assert review.json()["status"]["user"]["username"] == f"system:serviceaccount:{namespace}:default"


async def test_a_namespace_goes_when_its_last_finalizer_goes(plane: Any, namespace: str) -> None:
    url = f"/api/v1/namespaces/{namespace}"
    await plane.ask("DELETE", url)
    terminating = (await plane.ask("GET", url)).json()
    assert (terminating["status"]["phase"], terminating["spec"]["finalizers"]) == ("Terminating", ["kubernetes"])
    terminating["spec"]["finalizers"] = []
    assert (await plane.ask("PUT", f"{url}/finalize", terminating)).status == 200
    assert (await plane.ask("GET", url)).status == 404


@pytest.mark.parametrize("rest", ["binding", "eviction"])
async def test_what_is_only_posted_is_not_read(plane: Any, namespace: str, rest: str) -> None:
    url = await pod(plane, namespace)
    assert (await plane.ask("GET", f"{url}/{rest}")).status == 405
