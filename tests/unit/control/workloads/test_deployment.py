"""Deployments: rounding, proportions, revisions, conditions; and whole rollouts over the real API in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from havre.api.meta import GVK, Obj, rfc3339
from havre.control.workloads import deployment, replica_set
from havre.control.workloads.deployment import DEPLOYMENT
from havre.control.workloads.deployment.plan import Seen, Steps, plan
from havre.control.workloads.deployment.sets import Set, Spec, fenceposts, handed_down
from havre.control.workloads.replica_set import REPLICA_SET
from havre.control.workloads.template_hash import same_template, template_hash
from havre.machinery import controller
from havre.machinery.api import Ref
from havre.testing import FakeApi, eventually

pytestmark = pytest.mark.looptime

POD, EVENT = GVK("", "v1", "Pod"), GVK("", "v1", "Event")
WEB = Ref(DEPLOYMENT, "default", "web")
NOW = 1_800_000_000.0


def template(image: str) -> Obj:
    return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}


def web(replicas: int = 3, image: str = "a", **spec: Any) -> Obj:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    body = {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template(image)}
    meta = {"name": "web", "namespace": "default", "uid": "d", "generation": 1}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {**body, "strategy": strategy, **spec},
    }


def rs(name: str, image: str, size: int, *, available: int | None = None, most: int = 0, revision: int = 1) -> Set:
    annotations = {"deployment.kubernetes.io/revision": str(revision)}
    if most:
        annotations |= {
            "deployment.kubernetes.io/max-replicas": str(most),
            "deployment.kubernetes.io/desired-replicas": str(most - 1),
        }
    up = size if available is None else available
    return Set(name, name, revision, size, size, up, up, True, False, annotations, template(image), 0, None)


def step(obj: Obj, *sets: Set, old_pods_run: bool = False) -> Steps:
    return plan(obj, Spec.of(obj), Seen(sets, old_pods_run, NOW))


def sizes(steps: Steps) -> dict[str, int]:
    return {change.name: change.patch["spec"]["replicas"] for change in steps.change if "spec" in change.patch}


@pytest.mark.parametrize(
    ("surge", "unavailable", "replicas", "expected"),
    [
        ("25%", "25%", 4, (1, 1)),
        ("25%", "25%", 5, (2, 1)),
        ("25%", "25%", 1, (1, 0)),
        (0, "10%", 5, (0, 1)),
        (0, 0, 3, (0, 1)),
    ],
)
def test_surge_rounds_up_and_unavailable_down(
    surge: int | str, unavailable: int | str, replicas: int, expected: tuple[int, int]
) -> None:
    assert fenceposts({"maxSurge": surge, "maxUnavailable": unavailable}, replicas) == expected


def test_new_template_starts_with_what_the_surge_allows() -> None:
    steps = step(web(image="b"), rs("old", "a", 3))
    assert steps.create is not None
    assert steps.create["spec"]["replicas"] == 1
    assert steps.create["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"
    assert steps.annotations == {"deployment.kubernetes.io/revision": "2"}
    assert [note.message.rpartition(" ")[0] for note in steps.notes] == [
        f"Scaled up replica set {steps.create['metadata']['name']} from 0 to"
    ]


def test_old_pods_go_only_when_as_many_new_ones_serve() -> None:
    waiting = step(web(image="b"), rs("old", "a", 3), rs("new", "b", 1, available=0, revision=2))
    assert sizes(waiting) == {}
    serving = step(web(image="b"), rs("old", "a", 3), rs("new", "b", 1, revision=2))
    assert sizes(serving) == {"old": 2}


def test_broken_old_pods_go_first() -> None:
    found = step(web(image="c"), rs("x", "a", 2), rs("y", "b", 2, available=0, revision=2), rs("z", "c", 0, revision=3))
    assert sizes(found) == {"y": 1}


def test_scaling_in_a_rollout_keeps_its_proportions() -> None:
    obj = web(replicas=30, image="b")
    steps = step(obj, rs("old", "a", 8, most=11), rs("new", "b", 3, most=11, revision=2))
    assert sizes(steps) == {"old": 23, "new": 8}


def test_scaling_to_nothing_empties_every_set() -> None:
    steps = step(web(replicas=0, image="b"), rs("old", "a", 2, most=4), rs("new", "b", 2, most=4, revision=2))
    assert sizes(steps) == {"old": 0, "new": 0}


def test_paused_deployment_scales_but_makes_no_new_set() -> None:
    steps = step(web(replicas=5, image="b", paused=True), rs("old", "a", 3, most=4))
    assert (steps.create, sizes(steps)) == (None, {"old": 5})
    assert steps.status["conditions"][0]["reason"] == "DeploymentPaused"


def test_recreate_makes_nothing_before_every_old_pod_is_gone() -> None:
    obj = web(image="b", strategy={"type": "Recreate"})
    assert sizes(step(obj, rs("old", "a", 3))) == {"old": 0}
    gone = replace(rs("old", "a", 0))
    assert step(obj, gone, old_pods_run=True).create is None
    created = step(obj, gone).create
    assert created is not None
    assert created["spec"]["replicas"] == 3


def test_history_keeps_the_newest_empty_sets() -> None:
    obj = web(image="d", revisionHistoryLimit=1)
    obj["status"] = {"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}
    old = [rs(name, name, 0, revision=n) for n, name in enumerate("abc", 1)]
    steps = step(obj, *old, rs("new", "d", 3, revision=4))
    assert [each.name for each in steps.delete] == ["a", "b"]


def test_late_rollout_says_so_once_and_stays_so() -> None:
    obj = web(image="b", progressDeadlineSeconds=60)
    long_ago = rfc3339(NOW - 61)
    progressing = {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"}
    times = {"lastUpdateTime": long_ago, "lastTransitionTime": long_ago}
    obj["status"] = {"replicas": 4, "updatedReplicas": 1, "readyReplicas": 3, "availableReplicas": 3}
    obj["status"]["conditions"] = [{**progressing, **times, "message": ""}]
    steps = step(obj, rs("old", "a", 3), rs("new", "b", 1, available=0, revision=2))
    late = steps.status["conditions"][-1]
    assert (late["status"], late["reason"]) == ("False", "ProgressDeadlineExceeded")
    assert late["message"] == 'ReplicaSet "new" has timed out progressing.'
    assert steps.again is None


def test_rollout_in_progress_is_looked_at_when_it_may_be_late() -> None:
    steps = step(
        web(image="b", progressDeadlineSeconds=60), rs("old", "a", 3), rs("new", "b", 1, available=0, revision=2)
    )
    assert steps.again == 61.0


def test_revision_that_comes_back_remembers_what_it_was() -> None:
    spec = Spec.of(web())
    live = {"deployment.kubernetes.io/revision": "1", "deployment.kubernetes.io/revision-history": "0"}
    new = handed_down(spec, live, 4)
    assert new["deployment.kubernetes.io/revision"] == "4"
    assert new["deployment.kubernetes.io/revision-history"] == "0,1"


def test_template_hash_is_stable_and_tells_templates_and_collisions_apart() -> None:
    one = template_hash(template("a"), None)
    assert one == template_hash({**template("a"), "metadata": {"labels": {"app": "web"}, "annotations": {}}}, None)
    assert len({one, template_hash(template("b"), None), template_hash(template("a"), 1)}) == 3
    assert set(one) <= set("bcdfghjklmnpqrstvwxz2456789")


def test_hash_label_makes_no_difference_between_templates() -> None:
    labelled = template("a")
    labelled["metadata"] = {"labels": {"app": "web", "pod-template-hash": "x"}, "creationTimestamp": None}
    assert same_template(labelled, template("a"))
    assert not same_template(labelled, template("b"))


# rollouts


@asynccontextmanager
async def at_work(api: FakeApi) -> AsyncIterator[None]:
    """The two controllers, and somebody who runs the pods."""

    async def kubelet() -> None:
        while True:
            for pod in api.all(POD):
                if pod["metadata"].get("deletionTimestamp"):
                    await api.delete(Ref.of(pod), grace=0)
                elif not pod["status"].get("conditions"):
                    ready = {"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(NOW)}
                    up = {"status": {"phase": "Running", "conditions": [ready]}}
                    await api.patch(Ref.of(pod), up, subresource="status")
            await asyncio.sleep(1)

    running = controller.run([deployment.controller(), replica_set.controller()], api)
    tasks = [asyncio.create_task(running), asyncio.create_task(kubelet())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def is_done(api: FakeApi) -> bool:
    obj = api.now(WEB) or {}
    status, wanted = obj.get("status") or {}, obj["spec"]["replicas"]
    counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas")]
    return status.get("observedGeneration") == obj["metadata"]["generation"] and counts == [wanted] * 3


async def test_rollout_never_has_too_many_nor_too_few_pods_and_can_be_undone() -> None:
    api = FakeApi(web(replicas=4))
    seen: list[tuple[int, int]] = []

    async def observe() -> None:
        while True:
            alive = [p for p in api.all(POD) if not p["metadata"].get("deletionTimestamp")]
            seen.append((len(alive), sum(bool(p["status"].get("conditions")) for p in alive)))
            await asyncio.sleep(0.25)

    async with at_work(api):
        await eventually(lambda: is_done(api), within=60)
        watching = asyncio.create_task(observe())
        await api.patch(WEB, {"spec": {"template": template("b")}})
        await eventually(lambda: is_done(api), within=60)
        watching.cancel()
        await api.patch(WEB, {"spec": {"template": template("a")}})
        await eventually(lambda: is_done(api), within=60)
    assert max(count for count, _ in seen) == 5
    assert min(ready for _, ready in seen) == 4
    assert {p["spec"]["containers"][0]["image"] for p in api.all(POD)} == {"a"}
    annotations = [each["metadata"]["annotations"] for each in api.all(REPLICA_SET)]
    assert sorted(each["deployment.kubernetes.io/revision"] for each in annotations) == ["2", "3"]
    assert (api.now(WEB) or {})["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"


async def test_set_of_another_owner_with_our_name_is_a_collision() -> None:
    api, other = FakeApi(), {"labels": {"app": "other"}}
    rehearsed = await api.create(web(), dry_run=True)
    squatter: Obj = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": f"web-{template_hash(rehearsed['spec']['template'], None)}", "namespace": "default"},
        "spec": {"replicas": 0, "selector": {"matchLabels": other["labels"]}, "template": template("x")},
    }
    squatter["spec"]["template"]["metadata"] = other
    await api.create(squatter)
    async with at_work(api):
        await api.create(web())
        await eventually(lambda: is_done(api), within=60)
    assert (api.now(WEB) or {})["status"]["collisionCount"] == 1
