"""StatefulSets: order, revisions, storage; and whole ones over the real API in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from havre.api.meta import GVK, Obj, rfc3339
from havre.control.workloads import stateful_set
from havre.control.workloads.controller_revision import Revisions
from havre.control.workloads.stateful_set import STATEFUL_SET, claims
from havre.control.workloads.stateful_set.plan import Create, Delete, Own, Seen, Spec, Steps, plan
from havre.control.workloads.stateful_set.reconcile import CLAIM
from havre.machinery import controller
from havre.machinery.api import Ref
from havre.testing import FakeApi, eventually

pytestmark = pytest.mark.looptime

POD, EVENT = GVK("", "v1", "Pod"), GVK("", "v1", "Event")
NOW = 1_800_000_000.0
DB = Ref(STATEFUL_SET, "default", "db")


def template(image: str) -> Obj:
    return {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": image}]}}


def db(replicas: int = 3, status: Obj | None = None, **spec: Any) -> Obj:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
    body = {"replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}}
    meta = {"name": "db", "namespace": "default", "uid": "s"}
    spec = {**body, "template": template("b"), "updateStrategy": strategy, **spec}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta, "spec": spec, "status": status or {}}


def revision(name: str, image: str) -> Obj:
    return {"metadata": {"name": name}, "data": {"spec": {"template": template(image)}}, "revision": 1}


def pod(n: int, *, old: bool = False, ready: bool = True, phase: str = "Running", **meta: Any) -> Obj:
    labels = {"controller-revision-hash": "db-a" if old else "db-b", "statefulset.kubernetes.io/pod-name": f"db-{n}"}
    made = {"name": f"db-{n}", "uid": f"u{n}", "namespace": "default", "labels": labels, **meta}
    conditions = [{"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": rfc3339(NOW - 9)}]
    return {"metadata": made, "spec": {}, "status": {"phase": phase, "conditions": conditions}}


def step(obj: Obj, *pods: Obj, held: dict[str, Obj] | None = None) -> Steps:
    revisions = Revisions(revision("db-b", "b"), (revision("db-a", "a"),))
    return plan(obj, Spec.of(obj), Seen(pods, held or {}, revisions, NOW))


def done(steps: Steps) -> list[str]:
    """`+db-0` made, `-db-1` deleted."""
    signs = {Create: "+", Delete: "-"}
    return [f"{signs[type(s)]}{s.pod['metadata']['name']}" for s in steps.do if isinstance(s, (Create, Delete))]


def test_pods_come_one_after_the_other() -> None:
    assert done(step(db())) == ["+db-0"]
    assert done(step(db(), pod(0, ready=False))) == []
    assert done(step(db(), pod(0))) == ["+db-1"]


def test_parallel_pods_come_at_once() -> None:
    assert done(step(db(podManagementPolicy="Parallel"), pod(1, ready=False))) == ["+db-0", "+db-2"]


def test_numbers_begin_where_the_spec_says() -> None:
    assert done(step(db(replicas=1, ordinals={"start": 5}))) == ["+db-5"]


def test_pods_beyond_the_replicas_go_from_the_highest_down_when_the_others_are_well() -> None:
    assert done(step(db(1), pod(0), pod(1), pod(2))) == ["-db-2"]
    assert done(step(db(1), pod(0), pod(1), pod(2, deletionTimestamp="x"))) == []
    assert done(step(db(1), pod(0, ready=False), pod(1), pod(2))) == []


def test_finished_pod_is_made_again() -> None:
    assert done(step(db(1), pod(0, phase="Failed"))) == ["-db-0"]


def test_update_goes_from_the_highest_down_one_at_a_time_to_the_partition() -> None:
    old = [pod(n, old=True) for n in range(3)]
    assert done(step(db(), *old)) == ["-db-2"]
    assert done(step(db(), *old[:2], pod(2, ready=False))) == []
    assert done(step(db(), *old[:2], pod(2))) == ["-db-1"]
    two = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
    assert done(step(db(updateStrategy=two), *old[:2], pod(2))) == []
    assert done(step(db(updateStrategy={"type": "OnDelete"}), *old)) == []


def test_lost_pod_below_the_partition_comes_back_as_it_was() -> None:
    two = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
    (made,) = step(db(status={"currentRevision": "db-a"}, updateStrategy=two), pod(1, old=True), pod(2)).do
    assert isinstance(made, Create)
    assert made.pod["spec"]["containers"][0]["image"] == "a"
    assert made.pod["metadata"]["labels"]["controller-revision-hash"] == "db-a"


def test_pod_has_its_name_everywhere() -> None:
    (made,) = step(db(1)).do
    assert isinstance(made, Create)
    meta, spec = made.pod["metadata"], made.pod["spec"]
    assert meta["labels"]["apps.kubernetes.io/pod-index"] == "0"
    assert (meta["name"], spec["hostname"], spec["subdomain"]) == ("db-0", "db-0", "db")


VOLUMES: list[Obj] = [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]


def test_claims_of_a_pod_come_before_it() -> None:
    (made,) = step(db(1, volumeClaimTemplates=VOLUMES)).do
    assert isinstance(made, Create)
    assert [claim["metadata"]["name"] for claim in made.claims] == ["data-db-0"]
    assert made.pod["spec"]["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}]


def test_claim_that_goes_with_the_last_pod_of_this_name_is_waited_for() -> None:
    owner = {"kind": "Pod", "name": "db-0", "uid": "old"}
    going = {"metadata": {"name": "data-db-0", "ownerReferences": [owner]}}
    assert done(step(db(1, volumeClaimTemplates=VOLUMES), held={"data-db-0": going})) == []


@pytest.mark.parametrize(
    ("scaled", "deleted", "condemned", "owner"),
    [
        ("Retain", "Retain", False, []),
        ("Retain", "Delete", True, ["StatefulSet"]),
        ("Delete", "Retain", False, []),
        ("Delete", "Retain", True, ["Pod"]),
        ("Delete", "Delete", False, ["StatefulSet"]),
        ("Delete", "Delete", True, ["Pod"]),
    ],
)
def test_retention_policy_decides_who_owns_a_claim(
    scaled: str, deleted: str, condemned: bool, owner: list[str]
) -> None:
    obj = db(persistentVolumeClaimRetentionPolicy={"whenScaled": scaled, "whenDeleted": deleted})
    claim: Obj = {"metadata": {"name": "data-db-0"}}
    found = claims.owners(obj, pod(0), claim, condemned=condemned)
    assert [each["kind"] for each in found or []] == owner
    claim["metadata"]["ownerReferences"] = found or []
    assert claims.owners(obj, pod(0), claim, condemned=condemned) is None


def test_condemned_pod_takes_its_claim_along() -> None:
    obj = db(1, volumeClaimTemplates=VOLUMES, persistentVolumeClaimRetentionPolicy={"whenScaled": "Delete"})
    held = {f"data-db-{n}": {"metadata": {"name": f"data-db-{n}"}} for n in range(2)}
    steps = step(obj, pod(0), pod(1), held=held)
    assert [type(each) for each in steps.do] == [Own, Delete]


def test_status_follows_the_revisions() -> None:
    half = step(db(2, status={"currentRevision": "db-a"}), pod(0, old=True), pod(1)).status
    assert (half["currentRevision"], half["updateRevision"]) == ("db-a", "db-b")
    assert (half["updatedReplicas"], half["currentReplicas"], half["readyReplicas"]) == (1, None, 2)
    whole = step(db(2, status={"currentRevision": "db-a"}), pod(0), pod(1)).status
    assert (whole["currentRevision"], whole["currentReplicas"]) == ("db-b", 2)


async def test_whole_set_comes_up_in_order_with_its_claims() -> None:
    obj = db(
        2,
        volumeClaimTemplates=[
            {**VOLUMES[0], "spec": {**VOLUMES[0]["spec"], "resources": {"requests": {"storage": "1Gi"}}}}
        ],
    )
    del obj["metadata"]["uid"]
    obj["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/d"}]
    api = FakeApi()
    task = asyncio.create_task(controller.run([stateful_set.controller()], api))
    await api.create(obj)
    for n in range(2):
        await eventually(lambda n=n: len(api.all(POD)) == n + 1)  # type: ignore[misc]
        up = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(NOW)}],
        }
        await api.patch(Ref(POD, "default", f"db-{n}"), {"status": up}, subresource="status")
    await eventually(lambda: (api.now(DB) or {})["status"].get("readyReplicas") == 2)
    assert [each["metadata"]["name"] for each in api.all(CLAIM)] == ["data-db-0", "data-db-1"]
    assert "create Pod db-1 in StatefulSet db successful" in [each["message"] for each in api.all(EVENT)]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
