"""DaemonSets: where they run, how they change; and whole ones over the real API in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from havre.api.meta import GVK, Obj, rfc3339
from havre.control.workloads import daemon_set
from havre.control.workloads.controller_revision import CONTROLLER_REVISION
from havre.control.workloads.daemon_set import DAEMON_SET
from havre.control.workloads.daemon_set.plan import Seen, Spec, Steps, plan, status, template_for
from havre.machinery import controller
from havre.machinery.api import Ref
from havre.testing import FakeApi, eventually

pytestmark = pytest.mark.looptime

POD = GVK("", "v1", "Pod")
NOW = 1_800_000_000.0
AGENT = Ref(DAEMON_SET, "default", "agent")


def node(name: str, *taints: Obj, **labels: str) -> Obj:
    meta = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {"taints": [*taints]}}


def agent(image: str = "a", pod: Obj | None = None, **rolling: Any) -> Obj:
    template: Obj = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": image}]}}
    template["spec"] |= pod or {}
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1, **rolling}}
    spec = {"selector": {"matchLabels": {"app": "a"}}, "template": template, "updateStrategy": strategy}
    meta = {"name": "agent", "namespace": "default"}
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": meta, "spec": spec}


def pod(name: str, where: str, *, hash: str = "new", ready: bool = True, phase: str = "Running", **meta: Any) -> Obj:
    made = {"name": name, "uid": name, "namespace": "default", "creationTimestamp": rfc3339(NOW - 100), **meta}
    made["labels"] = {"app": "a", "controller-revision-hash": hash}
    conditions = [{"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": rfc3339(NOW - 50)}]
    return {"metadata": made, "spec": {"nodeName": where}, "status": {"phase": phase, "conditions": conditions}}


def step(obj: Obj, nodes: list[Obj], *pods: Obj) -> Steps:
    return plan(Spec.of(obj), Seen(nodes, pods, "new", NOW))


def gone(steps: Steps) -> list[str]:
    return [each["metadata"]["name"] for each in steps.delete]


NO_SCHEDULE = {"key": "k", "effect": "NoSchedule"}
NO_EXECUTE = {"key": "k", "effect": "NoExecute"}
CORDON = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def test_every_suitable_node_gets_one() -> None:
    nodes = [node("a"), node("b", NO_SCHEDULE), node("c", CORDON), node("d", NO_EXECUTE)]
    assert step(agent(), nodes).create == ("a", "c")
    chosen = agent(pod={"nodeSelector": {"disk": "ssd"}})
    assert step(chosen, [node("a"), node("b", disk="ssd")]).create == ("b",)


def test_taint_keeps_new_pods_away_and_drives_old_ones_out_only_with_no_execute() -> None:
    nodes = [node("a", NO_SCHEDULE), node("b", NO_EXECUTE)]
    assert gone(step(agent(), nodes, pod("x", "a"), pod("y", "b"))) == ["y"]


def test_pod_is_made_for_its_node_and_stands_what_a_daemon_must() -> None:
    made = template_for(Spec.of(agent()), "h", "n1")
    terms = made["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    field = {"key": "metadata.name", "operator": "In", "values": ["n1"]}
    assert terms == {"nodeSelectorTerms": [{"matchFields": [field]}]}
    assert [(each["key"].split("/")[1], each["effect"]) for each in made["spec"]["tolerations"]] == [
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ]


def test_failed_pod_goes_unless_the_last_one_failed_a_moment_ago() -> None:
    failed = pod("x", "a", phase="Failed")
    steps = step(agent(), [node("a")], failed)
    assert (gone(steps), steps.failed) == (["x"], ("a",))
    waiting = plan(Spec.of(agent()), Seen([node("a")], [failed], "new", NOW, frozenset({"a"})))
    assert gone(waiting) == []


def test_second_pod_of_a_node_goes() -> None:
    assert gone(step(agent(), [node("a")], pod("x", "a"), pod("y", "a", creationTimestamp=rfc3339(NOW)))) == ["y"]


def test_update_takes_broken_pods_at_once_and_one_good_one() -> None:
    nodes = [node(name) for name in "abc"]
    old = [pod(name, name, hash="old") for name in "ab"]
    assert gone(step(agent(), nodes, *old, pod("c", "c"))) == ["a"]
    broken = pod("c", "c", hash="old", ready=False)
    assert gone(step(agent(), nodes, *old, broken)) == ["c"]


def test_update_on_delete_touches_nothing() -> None:
    obj = agent()
    obj["spec"]["updateStrategy"] = {"type": "OnDelete"}
    assert step(obj, [node("a")], pod("x", "a", hash="old")) == Steps()


def test_surge_puts_the_new_pod_beside_the_old_one_until_it_serves() -> None:
    obj = agent(maxSurge=1, maxUnavailable=0)
    nodes, old = [node("a"), node("b")], [pod("a", "a", hash="old"), pod("b", "b", hash="old")]
    assert step(obj, nodes, *old).create == ("a",)
    assert step(obj, nodes, *old, pod("n", "a", ready=False)) == Steps()
    assert gone(step(obj, nodes, *old, pod("n", "a"))) == ["a"]


def test_status_counts_by_node() -> None:
    nodes = [node("a"), node("b"), node("c", NO_SCHEDULE)]
    seen = Seen(nodes, [pod("a", "a"), pod("b", "b", ready=False, hash="old"), pod("c", "c")], "new", NOW)
    assert status(Spec.of(agent()), seen, {}, 3) == {
        "currentNumberScheduled": 2,
        "numberMisscheduled": 1,
        "desiredNumberScheduled": 2,
        "numberReady": 1,
        "observedGeneration": 3,
        "updatedNumberScheduled": 1,
        "numberAvailable": 1,
        "numberUnavailable": 1,
        "collisionCount": None,
    }


async def test_new_node_gets_a_pod_and_templates_are_remembered() -> None:
    api = FakeApi(node("a"))
    task = asyncio.create_task(controller.run([daemon_set.controller()], api))
    await api.create(agent())
    await eventually(lambda: len(api.all(POD)) == 1)
    await api.create(node("b"))  # not ready yet, so tainted
    await asyncio.sleep(1)
    assert len(api.all(POD)) == 1
    await api.patch(Ref(GVK("", "v1", "Node"), "", "b"), {"spec": {"taints": None}})
    await eventually(lambda: len(api.all(POD)) == 2)
    for image in ("b", "a"):
        await api.patch(AGENT, {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
        wanted = (api.now(AGENT) or {})["metadata"]["generation"]
        await eventually(lambda: (api.now(AGENT) or {})["status"].get("observedGeneration") == wanted)  # noqa: B023
    revisions = {
        r["data"]["spec"]["template"]["spec"]["containers"][0]["image"]: r for r in api.all(CONTROLLER_REVISION)
    }
    assert {image: each["revision"] for image, each in revisions.items()} == {"b": 2, "a": 3}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
