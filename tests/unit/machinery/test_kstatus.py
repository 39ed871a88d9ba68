"""What an object's own words say of it, kind by kind."""

from __future__ import annotations

from typing import Any

import pytest

from havre.api.meta import Obj
from havre.machinery.kstatus import Status, status


def thing(api_version: str, kind: str, status: Obj | None = None, *, generation: int = 1, **spec: Any) -> Obj:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": "x", "generation": generation},
        "spec": spec,
        **({} if status is None else {"status": status}),
    }


def condition(type: str, value: str, reason: str = "R", message: str = "said") -> Obj:
    return {"type": type, "status": value, "reason": reason, "message": message}


UP = {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "readyReplicas": 2}
AVAILABLE = condition("Available", "True")


@pytest.mark.parametrize(
    ("obj", "word", "message"),
    [
        (thing("apps/v1", "Deployment", {}, replicas=2), "InProgress", "Deployment is not observed yet"),
        (thing("apps/v1", "Deployment", {**UP, "replicas": 1}, replicas=2), "InProgress", "Replicas: 1/2"),
        (thing("apps/v1", "Deployment", {**UP, "updatedReplicas": 1}, replicas=2), "InProgress", "Updated: 1/2"),
        (thing("apps/v1", "Deployment", {**UP, "replicas": 3}, replicas=2), "InProgress", "Pending termination: 1"),
        (thing("apps/v1", "Deployment", {**UP, "availableReplicas": 1}, replicas=2), "InProgress", "Available: 1/2"),
        (
            thing("apps/v1", "Deployment", {**UP, "conditions": [AVAILABLE]}, replicas=2),
            "Current",
            "Deployment is available. Replicas: 2",
        ),
        (
            thing(
                "apps/v1",
                "Deployment",
                {**UP, "conditions": [condition("Progressing", "False", "ProgressDeadlineExceeded")]},
                replicas=3,
            ),
            "Failed",
            "Progress deadline exceeded",
        ),
        (
            thing("apps/v1", "Deployment", UP, generation=2, replicas=2),
            "InProgress",
            "Deployment generation is 2, but latest observed generation is 1",
        ),
        (
            thing("apps/v1", "StatefulSet", {"replicas": 1, "readyReplicas": 1, "currentReplicas": 1}),
            "Current",
            "All replicas scheduled as expected. Replicas: 1",
        ),
        (thing("apps/v1", "StatefulSet", {"replicas": 1}), "InProgress", "Ready: 0/1"),
        (thing("apps/v1", "DaemonSet", {}), "InProgress", "Missing .status.desiredNumberScheduled"),
        (
            thing("apps/v1", "DaemonSet", {"desiredNumberScheduled": 0}),
            "Current",
            "All replicas scheduled as expected. Replicas: 0",
        ),
        (thing("batch/v1", "Job", {}), "InProgress", "Job in progress"),
        (thing("batch/v1", "Job", {"conditions": [condition("Complete", "True")]}), "Current", "Job Completed"),
        (thing("batch/v1", "Job", {"conditions": [condition("Failed", "True")]}), "Failed", "Job Failed. said"),
        (thing("v1", "Pod", {"phase": "Pending"}), "InProgress", "Pod is in the Pending phase"),
        (thing("v1", "Pod", {"conditions": [condition("Ready", "True")]}), "Current", "Pod is Ready"),
        (
            thing(
                "v1",
                "Pod",
                {"containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
            ),
            "Failed",
            "Containers in CrashLoop state: c",
        ),
        (thing("v1", "PersistentVolumeClaim", {"phase": "Bound"}), "Current", "PVC is Bound"),
        (thing("v1", "Service", type="LoadBalancer"), "InProgress", "ClusterIP not set. Service type: LoadBalancer"),
        (thing("v1", "ConfigMap"), "Current", "Resource is current"),
        (thing("x.io/v1", "Thing", {}), "Current", "Resource is current"),
        (thing("x.io/v1", "Thing", {"conditions": [condition("Ready", "False")]}), "InProgress", "said"),
        (thing("x.io/v1", "Thing", {"conditions": [condition("Ready", "True")]}), "Current", "Resource is current"),
        (thing("x.io/v1", "Thing", {"conditions": [condition("Stalled", "True")]}), "Failed", "said"),
        (thing("x.io/v1", "Thing", {"conditions": [condition("Reconciling", "True")]}), "InProgress", "said"),
        (
            thing("apiextensions.k8s.io/v1", "CustomResourceDefinition", {}),
            "InProgress",
            "Install in progress",
        ),
        (
            thing(
                "apiextensions.k8s.io/v1",
                "CustomResourceDefinition",
                {"conditions": [condition("Established", "True")]},
            ),
            "Current",
            "CRD is established",
        ),
    ],
)
def test_an_object_is(obj: Obj, word: str, message: str) -> None:
    found = status(obj)
    assert (found.status, found.message) == (word, message)


def test_nothing_is_not_found_and_what_is_deleted_terminates() -> None:
    assert status(None).status is Status.NOT_FOUND
    going = thing("v1", "ConfigMap")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert status(going).status is Status.TERMINATING


def test_a_pod_that_nobody_schedules_fails_after_a_while() -> None:
    said = {**condition("PodScheduled", "False", "Unschedulable"), "lastTransitionTime": "1970-01-01T00:00:10Z"}
    pod = thing("v1", "Pod", {"conditions": [said]})
    assert status(pod, 20.0).status is Status.IN_PROGRESS
    assert status(pod, 26.0).status is Status.FAILED


@pytest.mark.parametrize("bad", [{"conditions": "x"}, {"conditions": ["x", None]}, [], "x", {"replicas": "many"}])
def test_a_strange_status_is_no_crash(bad: Any) -> None:
    obj = thing("apps/v1", "Deployment", {}, replicas=1)
    assert status({**obj, "status": bad}).status is Status.IN_PROGRESS
