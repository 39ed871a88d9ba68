"""Claims, volumes and classes that are in use outlive their deletion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from havre.api.kinds import KINDS
from havre.api.meta import Obj
from havre.control.workloads import storage_protection
from havre.control.workloads.chore import Change
from havre.control.workloads.graph import Node
from havre.control.workloads.storage_protection import CLAIM, CLASS, POD, VOLUME, plan, reconcile, wakes
from havre.machinery.api import Ref

KIND = {kind.gvk: kind for kind in KINDS}
KEEP = "kubernetes.io/pvc-protection"
NOW = "2026-01-31T07:00:00Z"


def claim(name: str = "c", *finalizers: str, deleting: bool = True, **more: Any) -> Obj:
    meta: Obj = {"name": name, "namespace": "a", "finalizers": list(finalizers)}
    meta |= {"deletionTimestamp": NOW} if deleting else {}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, **more}


def pod(node: str, **volume: Any) -> Obj:
    spec = {"nodeName": node, "volumes": [{"name": "v", **volume}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a"}, "spec": spec}


def finalizers(obj: Obj | None) -> Any:
    return None if obj is None else obj["metadata"]["finalizers"]


def test_finalizer_goes_when_nothing_uses_what_is_being_deleted_and_others_stay() -> None:
    assert finalizers(plan(claim("c", KEEP, "mine/x"), KEEP, used=False)) == ["mine/x"]
    assert plan(claim("c", KEEP), KEEP, used=True) is None
    assert plan(claim("c", "mine/x"), KEEP, used=False) is None


def test_finalizer_comes_back_while_nothing_is_deleted() -> None:
    assert finalizers(plan(claim("c", "mine/x", deleting=False), KEEP, used=False)) == ["mine/x", KEEP]
    assert plan(claim("c", KEEP, deleting=False), KEEP, used=False) is None


@pytest.mark.parametrize(
    ("user", "used"),
    [
        (pod("n", persistentVolumeClaim={"claimName": "c"}), True),
        (pod("", persistentVolumeClaim={"claimName": "c"}), False),
        (pod("n", persistentVolumeClaim={"claimName": "other"}), False),
        (pod("n", ephemeral={}), False),
        (pod("n", emptyDir={}), False),
    ],
)
async def test_a_claim_waits_for_the_pods_that_have_a_node(world: Callable[..., Any], user: Obj, used: bool) -> None:
    here = world(claim("c", KEEP), user)
    await reconcile(Ref(CLAIM, "a", "c"), here)
    assert (Ref(CLAIM, "a", "c") in here.objects) is used


def test_the_claim_of_an_ephemeral_volume_is_named_after_pod_and_volume() -> None:
    assert storage_protection.holds(pod("n", ephemeral={}), "p-v")


@pytest.mark.parametrize(("phase", "stays"), [("Bound", True), ("Released", False), ("Pending", False)])
async def test_a_volume_waits_while_it_is_bound(world: Callable[..., Any], phase: str, stays: bool) -> None:
    meta = {"name": "v", "finalizers": ["kubernetes.io/pv-protection"], "deletionTimestamp": NOW}
    here = world({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "status": {"phase": phase}})
    await reconcile(Ref(VOLUME, "", "v"), here)
    assert (Ref(VOLUME, "", "v") in here.objects) is stays


@pytest.mark.parametrize("where", ["spec", "status", "none"])
async def test_a_class_waits_for_the_claims_that_name_it(world: Callable[..., Any], where: str) -> None:
    meta = {"name": "gold", "finalizers": ["kubernetes.io/vac-protection"], "deletionTimestamp": NOW}
    parts = {"spec": {"volumeAttributesClassName": "gold"}, "status": {"currentVolumeAttributesClassName": "gold"}}
    user = claim("c", deleting=False, **({where: parts[where]} if where in parts else {}))
    here = world({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": meta}, user)
    await reconcile(Ref(CLASS, "", "gold"), here)
    assert (Ref(CLASS, "", "gold") in here.objects) is (where != "none")


async def test_second_pass_changes_nothing(world: Callable[..., Any]) -> None:
    here = world(claim("c", deleting=False))
    for _ in range(2):
        await reconcile(Ref(CLAIM, "a", "c"), here)
    assert here.writes == 1


async def test_the_end_of_a_pod_frees_its_claim(world: Callable[..., Any]) -> None:
    gone = Node("u", Ref(POD, "a", "p"))
    (woken,) = wakes(Change(KIND[POD], gone, None))
    here = world(claim("c", KEEP), claim("d", KEEP))
    await reconcile(woken, here)
    assert not here.objects


def test_the_end_of_a_claim_wakes_the_classes_and_any_change_wakes_itself() -> None:
    node = Node("u", Ref(CLAIM, "a", "c"))
    assert list(wakes(Change(KIND[CLAIM], node, None))) == [Ref(CLASS, "", "")]
    assert list(wakes(Change(KIND[CLAIM], node, claim()))) == [Ref(CLAIM, "a", "c")]
    assert list(wakes(Change(KIND[POD], Node("u", Ref(POD, "a", "p")), pod("n")))) == []
