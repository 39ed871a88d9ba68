"""The scheduler over the real API in memory, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from havre.api.errors import ApiError
from havre.api.meta import GVK, Obj
from havre.control import scheduler
from havre.control.scheduler.cluster import Pod
from havre.control.scheduler.queue import PodQueue
from havre.machinery.api import Ref
from havre.testing import FakeApi, eventually, settle

pytestmark = pytest.mark.looptime

POD, NODE, EVENT = GVK("", "v1", "Pod"), GVK("", "v1", "Node"), GVK("", "v1", "Event")
CLAIM = GVK("", "v1", "PersistentVolumeClaim")


def node(name: str, cpu: str = "2", **spec: Any) -> Obj:
    room = {"cpu": cpu, "memory": "4Gi", "pods": "10"}
    meta = {"name": name, "labels": {"kubernetes.io/hostname": name}}
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": spec, "status": {"allocatable": room}}


def pod(name: str, cpu: str = "0", **spec: Any) -> Obj:
    containers = [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": containers, **spec}}


def ref(name: str) -> Ref:
    return Ref(POD, "default", name)


def where(api: FakeApi, name: str) -> str:
    return str((api.now(ref(name)) or {}).get("spec", {}).get("nodeName", ""))


def scheduled(api: FakeApi, name: str) -> Obj:
    held = ((api.now(ref(name)) or {}).get("status") or {}).get("conditions") or ()
    return next((dict(each) for each in held if each["type"] == "PodScheduled"), {})


@asynccontextmanager
async def at_work(api: FakeApi) -> AsyncIterator[None]:
    task = asyncio.create_task(scheduler.run(api))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_pod_is_bound_and_told() -> None:
    api = FakeApi(node("n"))
    async with at_work(api):
        await api.create(pod("a", "1"))
        await eventually(lambda: where(api, "a") == "n")
        await eventually(lambda: api.all(EVENT))
    assert scheduled(api, "a")["status"] == "True"
    (event,) = api.all(EVENT)
    assert (event["reason"], event["message"]) == ("Scheduled", "Successfully assigned default/a to n")
    assert event["source"] == {"component": "default-scheduler"}


async def test_pods_of_one_moment_do_not_overcommit_a_node() -> None:
    api = FakeApi(node("n", "2"))
    async with at_work(api):
        await asyncio.gather(*(api.create(pod(f"p{n}", "1")) for n in range(5)))
        await eventually(lambda: sum(bool(where(api, f"p{n}")) for n in range(5)) == 2)
        await asyncio.sleep(30)
    assert sum(bool(where(api, f"p{n}")) for n in range(5)) == 2


async def test_pod_that_does_not_fit_says_why_and_is_placed_when_there_is_room() -> None:
    api = FakeApi(node("n", "1"), {**pod("old", "1"), "spec": {**pod("old", "1")["spec"], "nodeName": "n"}})
    async with at_work(api):
        await api.create(pod("new", "1"))
        await eventually(lambda: scheduled(api, "new"))
        condition = scheduled(api, "new")
        assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
        assert condition["message"].startswith("0/1 nodes are available: 1 Insufficient cpu. ")
        before = api.revision
        await asyncio.sleep(200)
        assert api.revision == before
        await api.delete(ref("old"), grace=0)
        await eventually(lambda: where(api, "new") == "n", within=15)


async def test_new_node_and_untainted_node_wake_who_waits() -> None:
    api = FakeApi(node("n", taints=[{"key": "k", "effect": "NoSchedule"}]))
    async with at_work(api):
        await api.create(pod("a"))
        await eventually(lambda: scheduled(api, "a"))
        await api.patch(Ref(NODE, "", "n"), {"spec": {"taints": None}})
        await eventually(lambda: where(api, "a") == "n", within=15)


async def test_gated_pods_and_pods_of_other_schedulers_are_left_alone() -> None:
    api = FakeApi(node("n"))
    async with at_work(api):
        await api.create(pod("gated", schedulingGates=[{"name": "test.example/wait"}]))
        await api.create(pod("foreign", schedulerName="other"))
        await asyncio.sleep(10)
        assert (where(api, "gated"), where(api, "foreign")) == ("", "")
        assert scheduled(api, "gated")["reason"] == "SchedulingGated"
        await api.patch(ref("gated"), {"spec": {"schedulingGates": []}})
        await eventually(lambda: where(api, "gated") == "n")


async def test_important_pod_makes_room() -> None:
    low = pod("low", "1", priority=0)
    low["spec"] |= {"nodeName": "n", "terminationGracePeriodSeconds": 30}
    low["metadata"]["finalizers"] = ["test.example/kept"]
    high = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": "high"},
        "value": 1000,
        "preemptionPolicy": "PreemptLowerPriority",
    }
    api = FakeApi(node("n", "1"), low, high)
    async with at_work(api):
        await api.create(pod("vip", "1", priorityClassName="high"))
        await eventually(lambda: (api.now(ref("low")) or {})["metadata"].get("deletionTimestamp"))
        await eventually(lambda: ((api.now(ref("vip")) or {})["status"]).get("nominatedNodeName") == "n")
        target = (api.now(ref("low")) or {})["status"]["conditions"][-1]
        assert (target["type"], target["reason"]) == ("DisruptionTarget", "PreemptionByScheduler")
        await api.patch(ref("low"), {"metadata": {"finalizers": None}})
        await api.delete(ref("low"), grace=0) if api.now(ref("low")) else None
        await eventually(lambda: where(api, "vip") == "n", within=15)
    assert "Preempted" in {event["reason"] for event in api.all(EVENT)}


async def test_place_made_for_one_is_not_taken_by_a_lesser() -> None:
    vip = {**pod("vip", "1", priority=1000), "status": {"nominatedNodeName": "n", "phase": "Pending"}}
    low = pod("low", "1", nodeName="n", priority=0)
    low["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    api = FakeApi(node("n", "2"), vip, low)
    async with at_work(api):
        await eventually(lambda: where(api, "vip") == "n")
        await api.create(pod("late", "1"))
        await asyncio.sleep(5)
        assert where(api, "late") == ""


async def test_claim_of_a_waiting_class_learns_the_node_before_the_pod_is_bound() -> None:
    late = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "late"},
        "provisioner": "test.example/disk",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    spec = {"storageClassName": "late", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    meta = {"name": "c", "namespace": "default"}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "v"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/v"}},
    }
    api, ours = FakeApi(node("n"), late, claim, volume), Ref(CLAIM, "default", "c")
    async with at_work(api):
        await api.create(pod("a", volumes=[{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]))
        await eventually(lambda: (api.now(ours) or {})["metadata"].get("annotations"))
        assert (api.now(ours) or {})["metadata"]["annotations"] == {"volume.kubernetes.io/selected-node": "n"}
        assert where(api, "a") == ""
        await api.patch(ours, {"spec": {"volumeName": "v"}})
        await eventually(lambda: where(api, "a") == "n", within=15)


async def test_refused_binding_is_tried_again_and_its_room_is_given_back() -> None:
    class Refusing(FakeApi):
        left = 1

        async def create(self, obj: Obj, *, manager: str = "test", dry_run: bool = False) -> Obj:
            if obj["kind"] == "Binding" and self.left:
                self.left -= 1
                raise ApiError("not now")
            return await super().create(obj, manager=manager, dry_run=dry_run)

    api = Refusing(node("n", "1"))
    async with at_work(api):
        await api.create(pod("a", "1"))
        await eventually(lambda: where(api, "a") == "n", within=15)


# the queue


def queued(name: str, priority: int = 0) -> Pod:
    obj = pod(name, priority=priority)
    obj["metadata"]["uid"] = name
    return Pod.of(obj)


async def test_priority_comes_first_then_age() -> None:
    queue = PodQueue()
    for name, priority in (("a", 0), ("b", 5), ("c", 0)):
        queue.put(queued(name, priority))
    assert [(await queue.next()).pod.ref.name for _ in range(3)] == ["b", "a", "c"]


@pytest.mark.parametrize(("attempts", "pause"), [(1, 1.0), (2, 2.0), (4, 8.0), (9, 10.0)])
async def test_change_that_may_help_is_tried_after_the_back_off(attempts: int, pause: float) -> None:
    queue, loop = PodQueue(), asyncio.get_running_loop()
    queue.put(queued("a"))
    entry = await queue.next()
    entry.attempts = attempts
    queue.refuse(entry)
    began = loop.time()
    queue.stir_all()
    await queue.next()
    assert loop.time() - began == pytest.approx(pause)


async def test_change_during_the_decision_is_not_lost() -> None:
    queue = PodQueue()
    queue.put(queued("a"))
    entry = await queue.next()
    queue.stir_all()
    queue.refuse(entry)
    async with asyncio.timeout(2):
        await queue.next()


async def test_pod_that_is_gone_does_not_come_back() -> None:
    queue = PodQueue()
    queue.put(queued("a"))
    entry = await queue.next()
    queue.drop("a")
    queue.refuse(entry, retry=True)
    await settle()
    assert len(queue) == 0
