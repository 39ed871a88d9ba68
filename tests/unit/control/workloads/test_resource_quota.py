"""What is limited and what is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from havre.api.kinds import KINDS
from havre.api.meta import GVK, Obj
from havre.control.workloads import resource_quota
from havre.control.workloads.chore import Change
from havre.control.workloads.graph import Node
from havre.control.workloads.resource_quota import Affected
from havre.kit.quantity import Quantity, parse
from havre.machinery.api import Ref

KIND = {kind.gvk: kind for kind in KINDS}
MAP = GVK("", "v1", "ConfigMap")
POD = GVK("", "v1", "Pod")
QUOTA = Ref(GVK("", "v1", "ResourceQuota"), "a", "q")


def quota(limits: dict[str, str], **status: object) -> Obj:
    meta = {"name": "q", "namespace": "a", "uid": "q"}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": limits}, "status": status}


def thing(name: str, gvk: GVK = MAP, **more: object) -> Obj:
    return {"apiVersion": "v1", "kind": gvk.kind, "metadata": {"name": name, "namespace": "a", "uid": name}, **more}


def pod(name: str, cpu: str, phase: str = "Running") -> Obj:
    spec = {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}
    return thing(name, POD, spec=spec, status={"phase": phase})


def test_status_is_what_is_counted_of_what_is_limited() -> None:
    live = quota({"pods": "3", "cpu": "1"}, used={"old": "1"})
    counted = {"pods": Quantity.of(2), "cpu": parse("300m"), "more": Quantity.of(1)}
    expected = {"hard": {"pods": "3", "cpu": "1"}, "used": {"pods": "2", "cpu": "300m"}}
    assert resource_quota.plan(live, counted) == expected


def test_status_that_is_right_is_not_written_however_it_is_spelled() -> None:
    live = quota({"cpu": "1"}, hard={"cpu": "1000m"}, used={"cpu": "0.5"})
    assert resource_quota.plan(live, {"cpu": parse("500m")}) is None


def test_what_could_not_be_counted_keeps_its_last_number() -> None:
    live = quota({"pods": "3", "secrets": "2"}, hard={"pods": "3"}, used={"secrets": "1", "pods": "1"})
    status = resource_quota.plan(live, {"pods": Quantity.of(2)})
    assert status is not None
    assert status["used"] == {"pods": "2", "secrets": "1"}


async def test_objects_of_the_namespace_are_counted_finished_pods_not(world: Callable[..., Any]) -> None:
    hard = {"pods": "9", "requests.cpu": "1", "configmaps": "9", "count/deployments.apps": "2", "example.com/x": "1"}
    elsewhere = thing("x")
    elsewhere["metadata"]["namespace"] = "b"
    here = world(quota(hard), thing("x"), elsewhere, pod("p", "100m"), pod("r", "250m"), pod("done", "1", "Succeeded"))
    for _ in range(2):
        again = await resource_quota.reconcile(QUOTA, here, kinds=lambda: KINDS, now=lambda: 0.0)
    assert again == 300.0
    assert here.writes == 1
    status = here.objects[QUOTA]["status"]
    assert status["hard"] == hard
    assert status["used"] == {"pods": "2", "requests.cpu": "350m", "configmaps": "1", "count/deployments.apps": "0"}


def change(obj: Obj, *, gone: bool = False, old: bool = False) -> Change:
    node = Node.of(obj)
    return Change(KIND[GVK.of(obj)], node, None if gone else obj, node if old else None)


def test_quota_is_woken_by_its_spec_not_by_a_charge() -> None:
    affected, hard = Affected(), {"pods": "3"}
    assert list(affected(change(quota(hard)))) == [QUOTA]
    assert list(affected(change(quota(hard, hard=hard, used={"pods": "2"}), old=True))) == []
    assert list(affected(change(quota({"pods": "4"}, hard=hard, used={"pods": "2"}), old=True))) == [QUOTA]


def test_only_what_it_counts_and_what_may_cost_less_wakes_a_quota() -> None:
    affected = Affected()
    list(affected(change(quota({"pods": "3"}))))
    assert list(affected(change(pod("p", "1"), gone=True))) == [QUOTA]
    assert list(affected(change(pod("p", "1", "Succeeded"), old=True))) == [QUOTA]
    assert list(affected(change(pod("p", "1"), old=True))) == []
    assert list(affected(change(pod("p", "1")))) == []
    assert list(affected(change(thing("x"), gone=True))) == []
    list(affected(change(quota({"pods": "3"}), gone=True)))
    assert list(affected(change(pod("p", "1"), gone=True))) == []
