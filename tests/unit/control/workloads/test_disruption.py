"""How many pods of a budget may be evicted now."""

from __future__ import annotations

from typing import Any

import pytest

from havre.api.meta import Obj, rfc3339
from havre.control.workloads import disruption
from havre.control.workloads.disruption import Seen, Spec, plan
from havre.machinery.controller import Plan
from havre.testing import FakeApi

NOW = 1_800_000_000.0


def budget(status: Obj | None = None, **spec: Any) -> Obj:
    meta = {"name": "b", "namespace": "default", "generation": 2}
    body = {"selector": {"matchLabels": {"app": "web"}}, **spec}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": meta,
        "spec": body,
        "status": status or {},
    }


def pod(name: str, *, ready: bool = True, owner: Obj | None = None, **meta: Any) -> Obj:
    owners = [{**owner, "controller": True}] if owner else []
    made = {"name": name, "namespace": "default", "labels": {"app": "web"}, "ownerReferences": owners, **meta}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    spec = {"containers": [{"name": "c", "image": "i"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": made, "spec": spec, "status": {"conditions": conditions}}


def step(obj: Obj, *pods: Obj, scale: int = 0) -> Plan:
    return plan(obj, Spec.of(obj), Seen(pods, scale, NOW))


PODS = [pod("a"), pod("b"), pod("c", ready=False)]


@pytest.mark.parametrize(
    ("spec", "scale", "expected"),
    [
        ({"minAvailable": 1}, 0, (2, 1, 3, 1)),
        ({"minAvailable": 2}, 0, (2, 2, 3, 0)),
        ({"minAvailable": "50%"}, 3, (2, 2, 3, 0)),
        ({"maxUnavailable": 2}, 3, (2, 1, 3, 1)),
        ({"maxUnavailable": "100%"}, 3, (2, 0, 3, 2)),
        ({"maxUnavailable": 5}, 3, (2, 0, 3, 2)),
    ],
)
def test_budget_allows(spec: Obj, scale: int, expected: tuple[int, int, int, int]) -> None:
    status = step(budget(**spec), *PODS, scale=scale).status
    keys = ("currentHealthy", "desiredHealthy", "expectedPods", "disruptionsAllowed")
    assert tuple(status[key] for key in keys) == expected
    (condition,) = status["conditions"]
    assert condition["reason"] == ("SufficientPods" if expected[3] else "InsufficientPods")
    assert condition["observedGeneration"] == 2


def test_evicted_pod_does_not_count_until_it_ends_or_two_minutes_have_passed() -> None:
    listed = {"disruptedPods": {"a": rfc3339(NOW - 100), "b": rfc3339(NOW - 121), "x": rfc3339(NOW)}}
    found = step(budget(listed, minAvailable=0), *PODS)
    assert (found.status["currentHealthy"], found.again) == (1, 20.0)
    assert found.status["disruptedPods"] == {"a": rfc3339(NOW - 100)}


def test_leaving_pod_is_not_healthy() -> None:
    status = step(budget(minAvailable=0), pod("a", deletionTimestamp=rfc3339(NOW))).status
    assert status["currentHealthy"] == 0


async def test_replicas_are_those_of_the_deployment_behind_the_set() -> None:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    common = {"selector": {"matchLabels": {"app": "web"}}, "template": template}
    boss = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "d"}
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r"}
    deployment = {
        **boss,
        "metadata": {"name": "d", "namespace": "default", "uid": "d"},
        "spec": {**common, "replicas": 10},
    }
    meta = {"name": "r", "namespace": "default", "uid": "r", "ownerReferences": [{**boss, "controller": True}]}
    replica_set = {**owner, "metadata": meta, "spec": {**common, "replicas": 3}}
    pods = [pod("a", owner=owner), pod("b", owner=owner)]
    objects = [{k: v for k, v in each.items() if k not in ("name", "uid")} for each in (deployment, replica_set)]
    found = await disruption.reconcile(budget(maxUnavailable="10%"), FakeApi(*objects, *pods), now=lambda: NOW)
    assert (found.status["expectedPods"], found.status["desiredHealthy"]) == (10, 9)


async def test_when_nobody_knows_nothing_is_allowed() -> None:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "gone", "uid": "g"}
    api = FakeApi(pod("a", owner=owner))
    found = await disruption.reconcile(budget(maxUnavailable=1), api, now=lambda: NOW)
    assert found.failed is not None
    assert found.status["disruptionsAllowed"] == 0
    assert found.status["conditions"][0]["reason"] == "SyncFailed"
