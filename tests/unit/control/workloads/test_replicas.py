"""ReplicaSets and ReplicationControllers over the real API in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from havre.api.errors import ApiError
from havre.api.meta import GVK, Obj
from havre.control.workloads import dependents, replica_set, replicas, replication_controller
from havre.control.workloads.replica_set import REPLICA_SET
from havre.control.workloads.replicas import Seen, Spec
from havre.lang.selector import LabelSelector
from havre.machinery import controller
from havre.machinery.api import Ref
from havre.testing import FakeApi, eventually

pytestmark = pytest.mark.looptime

POD, EVENT = GVK("", "v1", "Pod"), GVK("", "v1", "Event")
LABELS = {"app": "web"}
TEMPLATE = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "c", "image": "i"}]}}


def sets(replicas: int, **spec: Any) -> Obj:
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": TEMPLATE, **spec},
    }


def orphan(name: str, **labels: str) -> Obj:
    meta = {"name": name, "namespace": "default", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": TEMPLATE["spec"]}


WEB = Ref(REPLICA_SET, "default", "web")


@asynccontextmanager
async def at_work(api: FakeApi) -> AsyncIterator[None]:
    both = [replica_set.controller(), replication_controller.controller()]
    task = asyncio.create_task(controller.run(both, api))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def status(api: FakeApi, ref: Ref = WEB) -> Obj:
    return (api.now(ref) or {}).get("status") or {}


async def test_pods_are_made_owned_and_counted() -> None:
    api = FakeApi(sets(3))
    async with at_work(api):
        await eventually(lambda: status(api).get("replicas") == 3)
    (owner,) = {str(pod["metadata"]["ownerReferences"]) for pod in api.all(POD)}
    assert "'kind': 'ReplicaSet', 'name': 'web'" in owner
    assert [pod["metadata"]["generateName"] for pod in api.all(POD)] == ["web-"] * 3
    assert status(api) == {"replicas": 3, "fullyLabeledReplicas": 3, "observedGeneration": 1}
    assert {e["reason"] for e in api.all(EVENT)} == {"SuccessfulCreate"}


async def test_less_replicas_are_less_pods_and_deleted_ones_come_again() -> None:
    api = FakeApi(sets(3))
    async with at_work(api):
        await eventually(lambda: status(api).get("replicas") == 3)
        await api.delete(Ref.of(api.all(POD)[0]))
        await eventually(lambda: len(api.all(POD)) == 3)
        await api.patch(WEB, {"spec": {"replicas": 1}})
        await eventually(lambda: status(api).get("replicas") == 1)
    assert len(api.all(POD)) == 1


async def test_orphan_is_adopted_and_one_that_no_longer_matches_is_released() -> None:
    api = FakeApi(sets(1), orphan("mine", **LABELS))
    mine = Ref(POD, "default", "mine")
    async with at_work(api):
        await eventually(lambda: status(api).get("replicas") == 1)
        assert [ref["name"] for ref in (api.now(mine) or {})["metadata"]["ownerReferences"]] == ["web"]
        await api.patch(mine, {"metadata": {"labels": {"app": "other"}}})
        await eventually(lambda: len(api.all(POD)) == 2)
        await eventually(lambda: "ownerReferences" not in (api.now(mine) or {})["metadata"])


async def test_new_orphan_wakes_the_set_that_selects_it() -> None:
    api = FakeApi(sets(0))
    async with at_work(api):
        await eventually(lambda: status(api).get("observedGeneration") == 1)
        await api.create(orphan("late", **LABELS))
        await eventually(lambda: not api.all(POD))


async def test_quota_is_reported_until_there_is_room() -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "q", "namespace": "default"},
        "spec": {"hard": {"pods": "0"}},
        "status": {"hard": {"pods": "0"}, "used": {"pods": "0"}},
    }
    api = FakeApi(sets(2), quota)
    async with at_work(api):
        await eventually(lambda: status(api).get("conditions"))
        (condition,) = status(api)["conditions"]
        assert (condition["type"], condition["reason"]) == ("ReplicaFailure", "FailedCreate")
        assert "exceeded quota: q" in condition["message"]
        await api.delete(Ref(GVK("", "v1", "ResourceQuota"), "default", "q"))
        await eventually(lambda: status(api).get("replicas") == 2, within=30)
        await eventually(lambda: "conditions" not in status(api))


async def test_settled_set_writes_nothing() -> None:
    api = FakeApi(sets(2))
    async with at_work(api):
        await eventually(lambda: status(api).get("replicas") == 2)
        await asyncio.sleep(10)
        before = api.revision
        await asyncio.sleep(600)
        assert api.revision == before


async def test_replication_controller_selects_by_a_plain_map() -> None:
    rc = {**sets(2, selector=LABELS), "apiVersion": "v1", "kind": "ReplicationController"}
    api = FakeApi(rc)
    ref = Ref(GVK("", "v1", "ReplicationController"), "default", "web")
    async with at_work(api):
        await eventually(lambda: status(api, ref).get("replicas") == 2)
    assert {p["metadata"]["ownerReferences"][0]["kind"] for p in api.all(POD)} == {"ReplicationController"}


@pytest.mark.parametrize(("have", "create", "delete"), [(0, 500, 0), (1200, 0, 500), (700, 0, 0)])
def test_a_pass_makes_or_deletes_500_pods_at_most(have: int, create: int, delete: int) -> None:
    spec = Spec(have if not create and not delete else 600 if create else 0, LabelSelector.of({}), TEMPLATE, 0)
    pods = [{"metadata": {"name": str(n), "uid": str(n)}} for n in range(have)]
    steps = replicas.plan(spec, Seen(pods, (), 0.0))
    assert (steps.create, len(steps.delete)) == (create, delete)


async def test_creation_stops_after_the_first_batch_that_fails() -> None:
    asked = 0

    class Refusing(FakeApi):
        async def create(self, obj: Obj, *, manager: str = "", dry_run: bool = False) -> Obj:
            nonlocal asked
            asked += 1
            raise ApiError("no")

    done = dependents.Done()
    await dependents.create_slowly([TEMPLATE] * 100, Refusing(), done)
    assert (asked, str(done.error)) == (1, "no")
