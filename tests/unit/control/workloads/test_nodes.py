"""Silent nodes, pods that must leave a node, pods of nodes that are gone."""

from __future__ import annotations

from typing import Any

import pytest

from havre.api.kinds import KINDS
from havre.api.meta import GVK, Obj, rfc3339
from havre.control.workloads import pod_garbage, taint_eviction
from havre.control.workloads.chore import Change
from havre.control.workloads.graph import Node as Seen_
from havre.control.workloads.node_lifecycle import LEASE, NODE, Heard, Reconciler, Seen, plan, unknown
from havre.machinery.api import Ref
from havre.testing import FakeApi

NOW = 1_800_000_000.0
POD = GVK("", "v1", "Pod")
KIND = {kind.gvk: kind for kind in KINDS}


def node(ready: str | None = "True", *taints: Obj, name: str = "n", **spec: Any) -> Obj:
    conditions = [] if ready is None else [{"type": "Ready", "status": ready, "lastHeartbeatTime": rfc3339(NOW)}]
    meta = {"name": name, "uid": name, "creationTimestamp": rfc3339(NOW)}
    body = {"taints": [*taints], **spec}
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": body, "status": {"conditions": conditions}}


def lease(at: str) -> Obj:
    meta = {"name": "n", "namespace": "kube-node-lease"}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": {"renewTime": at}}


def pod(name: str = "p", *tolerations: Obj, **more: Any) -> Obj:
    meta = {"name": name, "namespace": "default", **more.pop("metadata", {})}
    spec = {"nodeName": "n", "tolerations": [*tolerations], "containers": [{"name": "c", "image": "i"}], **more}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(NOW)}
    status = {"phase": "Running", "conditions": [ready]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": status}


# silence


def test_node_is_unknown_after_forty_silent_seconds_and_not_before() -> None:
    assert unknown(node(), Seen(39.9, False, NOW)) is None
    conditions = unknown(node(), Seen(40.0, False, NOW)) or []
    assert [(each["type"], each["status"]) for each in conditions] == [
        ("Ready", "Unknown"),
        ("MemoryPressure", "Unknown"),
        ("DiskPressure", "Unknown"),
        ("PIDPressure", "Unknown"),
    ]
    assert conditions[0]["reason"] == "NodeStatusUnknown"


def test_node_that_never_spoke_has_a_minute() -> None:
    assert unknown(node(None), Seen(59.0, False, NOW)) is None
    assert unknown(node(None), Seen(60.0, False, NOW)) is not None


def test_silence_begins_when_we_began_to_look_and_ends_with_every_word() -> None:
    clock = 1000.0
    heard = Heard(clock=lambda: clock)
    assert heard.silence(node(), lease("years ago")) == 0.0
    clock += 30
    assert heard.silence(node(), lease("years ago")) == 30.0
    assert heard.silence(node(), lease("now")) == 0.0


@pytest.mark.parametrize(
    ("ready", "all_down", "expected"),
    [
        ("True", False, []),
        ("False", False, [("not-ready", "NoSchedule"), ("not-ready", "NoExecute")]),
        ("Unknown", False, [("unreachable", "NoSchedule"), ("unreachable", "NoExecute")]),
        ("Unknown", True, [("unreachable", "NoSchedule")]),
    ],
)
def test_taints_say_what_the_conditions_say(ready: str, all_down: bool, expected: list[tuple[str, str]]) -> None:
    taints = plan(node(ready), Seen(0.0, all_down, NOW)) or []
    assert [(each["key"].split("/")[1], each["effect"]) for each in taints] == expected


def test_taints_of_others_stay_and_ours_go_when_the_node_is_well() -> None:
    own, other = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}, {"key": "gpu", "effect": "NoSchedule"}
    assert plan(node("True", own, other), Seen(0.0, False, NOW)) == [other]
    assert plan(node("True", other), Seen(0.0, False, NOW)) is None


async def test_silent_node_is_said_unknown_then_tainted_and_its_pods_are_not_ready() -> None:
    clock = 0.0
    api = FakeApi(node(), node(name="m"), lease("x"), pod())
    reconcile = Reconciler(Heard(clock=lambda: clock), now=lambda: NOW)
    ref = Ref(NODE, "", "n")
    assert (await reconcile(api.now(ref) or {}, api)).again == 40.0
    clock = 41.0
    first = await reconcile(api.now(ref) or {}, api)
    assert [note.reason for note in first.notes] == ["NodeNotReady"]
    await api.patch(ref, {"status": dict(first.status)}, subresource="status")
    await reconcile(api.now(ref) or {}, api)
    assert {each["effect"] for each in (api.now(ref) or {})["spec"]["taints"]} == {"NoSchedule", "NoExecute"}
    (ready,) = (api.now(Ref(POD, "default", "p")) or {})["status"]["conditions"]
    assert ready["status"] == "False"


# leaving


UNREACHABLE = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": rfc3339(NOW - 100)}


def tolerating(seconds: int | None) -> Obj:
    limit = {} if seconds is None else {"tolerationSeconds": seconds}
    return {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", **limit}


@pytest.mark.parametrize(
    ("tolerations", "since", "evicted", "again"),
    [
        ([], 0.0, 1, None),
        ([tolerating(None)], 0.0, 0, None),
        ([tolerating(300)], 0.0, 0, 200.0),
        ([tolerating(60)], 0.0, 1, None),
        ([tolerating(60)], NOW - 10, 0, 50.0),
    ],
    ids=["intolerant", "for ever", "for a while", "time is over", "time begins with us"],
)
def test_pod_leaves_when_its_time_is_over(
    tolerations: list[Obj], since: float, evicted: int, again: float | None
) -> None:
    steps = taint_eviction.plan(node("Unknown", UNREACHABLE), [pod("p", *tolerations)], since, NOW)
    assert (len(steps.evict), steps.again) == (evicted, again)


async def test_evicted_pod_says_why() -> None:
    api = FakeApi(pod(metadata={"finalizers": ["test.example/kept"]}))
    steps = await taint_eviction.Reconciler(now=lambda: NOW)(node("Unknown", UNREACHABLE), api)
    left = api.now(Ref(POD, "default", "p")) or {}
    assert left["metadata"]["deletionTimestamp"]
    assert "DeletionByTaintManager" in [each.get("reason") for each in left["status"]["conditions"]]
    assert [note.reason for note in steps.notes] == ["TaintManagerEviction"]


# garbage


async def test_pods_of_a_node_that_stays_away_are_ended_without_grace() -> None:
    clock = 0.0
    api = FakeApi(pod())
    reconcile = pod_garbage.Reconciler(now=lambda: NOW, clock=lambda: clock)
    assert await reconcile(Ref(NODE, "", "n"), api) == 40.0
    clock = 41.0
    assert await reconcile(Ref(NODE, "", "n"), api) is None
    assert api.all(POD) == []


async def test_node_that_comes_back_keeps_its_pods() -> None:
    clock = 0.0
    api = FakeApi(pod())
    reconcile = pod_garbage.Reconciler(now=lambda: NOW, clock=lambda: clock)
    await reconcile(Ref(NODE, "", "n"), api)
    await api.create(node())
    clock = 41.0
    await reconcile(Ref(NODE, "", "n"), api)
    assert len(api.all(POD)) == 1


def test_orphaned_pod_is_failed_before_it_goes_and_a_finished_one_is_not() -> None:
    status = pod_garbage.plan(pod(), orphaned=True, now=rfc3339(NOW)) or {}
    assert (status["phase"], status["conditions"][0]["message"]) == ("Failed", "PodGC: node no longer exists")
    done = pod()
    done["status"]["phase"] = "Succeeded"
    assert pod_garbage.plan(done, orphaned=True, now=rfc3339(NOW)) is None


def test_only_pods_of_unknown_nodes_wake_anybody() -> None:
    wakes = pod_garbage.Affected()

    def change(obj: Obj, *, gone: bool = False) -> list[Ref]:
        ref = Ref.of(obj)
        seen = Seen_("u", ref)
        return [*wakes(Change(KIND[ref.gvk], seen, None if gone else obj))]

    assert change(pod()) == [Ref(NODE, "", "n")]
    assert change(node()) == []
    assert change(pod()) == []
    assert change(node(), gone=True) == [Ref(NODE, "", "n")]


def test_lease_kinds_are_those_of_the_api() -> None:
    assert {NODE, LEASE} <= KIND.keys()
