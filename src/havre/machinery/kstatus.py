"""Whether an object has become what it says: one word for every kind, those of the command line tools. Pure.

    status(deployment) == Result(Status.IN_PROGRESS, "Available: 1/2")

Rules for built-in kinds first; for all others: a generation that was not observed is progress; of the conditions
`Reconciling` true is progress, `Stalled` true is failure, `Ready` false is progress too; nothing of that is current.

Source: sigs.k8s.io/cli-utils, pkg/kstatus/status (core.go, generic.go); fluxcd/cli-utils for `Ready` and failures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from havre.api.meta import Obj, parse_time, split_api_version
from havre.machinery.conditions import find

SCHEDULE_SECONDS: Final = 15.0  # a pod that is not scheduled for so long has failed


class Status(StrEnum):
    """One word; the values are upstream's."""

    CURRENT = "Current"  # what it says is so
    IN_PROGRESS = "InProgress"  # something works on it
    FAILED = "Failed"  # nothing will come of it without help
    TERMINATING = "Terminating"  # it is being deleted
    NOT_FOUND = "NotFound"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Result:
    """A status, and why."""

    status: Status
    message: str = ""


CURRENT: Final = Result(Status.CURRENT)
NOT_FOUND: Final = Result(Status.NOT_FOUND, "Resource not found")


def status(obj: Obj | None, now: float = 0.0) -> Result:
    """Of an object as it is stored; None is one that is not there. `now` only matters for pods nobody schedules."""
    if obj is None:
        return NOT_FOUND
    meta = obj["metadata"]
    if meta.get("deletionTimestamp"):
        return Result(Status.TERMINATING, "Resource scheduled for deletion")
    generic = _generic(obj)
    if generic is not None:
        return generic
    group, _ = split_api_version(obj.get("apiVersion", ""))
    rule = _RULES.get((group, obj.get("kind", "")))
    return rule(obj, now) if rule else _ready(obj)


def _progress(message: str) -> Result:
    return Result(Status.IN_PROGRESS, message)


def _said(obj: Obj) -> Obj:
    said = obj.get("status")
    return said if isinstance(said, dict) else {}


def _conditions(obj: Obj) -> list[Obj]:
    held = _said(obj).get("conditions")
    return [each for each in held if isinstance(each, dict)] if isinstance(held, list) else []


def _is(obj: Obj, type: str, value: str) -> Obj | None:
    """The condition, if it has this status."""
    found = find(_conditions(obj), type)
    return found if found is not None and found.get("status") == value else None


def _generic(obj: Obj) -> Result | None:
    observed, generation = _said(obj).get("observedGeneration"), obj["metadata"].get("generation")
    if isinstance(observed, int) and generation is not None and observed != generation:
        return _progress(f"{obj.get('kind')} generation is {generation}, but latest observed generation is {observed}")
    if (found := _is(obj, "Reconciling", "True")) is not None:
        return _progress(found.get("message", ""))
    if (found := _is(obj, "Stalled", "True")) is not None:
        return Result(Status.FAILED, found.get("message", ""))
    return None


def _ready(obj: Obj) -> Result:
    """A custom kind with a condition Ready."""
    found = find(_conditions(obj), "Ready")
    if found is None or found.get("status") == "True":
        return Result(Status.CURRENT, "Resource is current")
    return _progress(found.get("message", ""))


def _number(values: Mapping[str, Any], name: str, default: int = 0) -> int:
    value = values.get(name)
    return value if isinstance(value, int) else default


def _deployment(obj: Obj, now: float) -> Result:
    said = _said(obj)
    late = _is(obj, "Progressing", "False")
    if late is not None and late.get("reason") == "ProgressDeadlineExceeded":
        return Result(Status.FAILED, "Progress deadline exceeded")
    wanted = _number(obj.get("spec") or {}, "replicas", 1)
    if "observedGeneration" not in said:
        return _progress("Deployment is not observed yet")
    steps = (
        ("Replicas", _number(said, "replicas"), wanted),
        ("Updated", _number(said, "updatedReplicas"), wanted),
    )
    for name, has, needs in steps:
        if has < needs:
            return _progress(f"{name}: {has}/{needs}")
    updated = _number(said, "updatedReplicas")
    if _number(said, "replicas") > updated:
        return _progress(f"Pending termination: {_number(said, 'replicas') - updated}")
    for name, field in (("Available", "availableReplicas"), ("Ready", "readyReplicas")):
        if _number(said, field) < wanted:
            return _progress(f"{name}: {_number(said, field)}/{wanted}")
    if _is(obj, "Available", "True") is None and wanted:
        return _progress("Deployment not Available")
    return Result(Status.CURRENT, f"Deployment is available. Replicas: {wanted}")


def _replica_set(obj: Obj, now: float) -> Result:
    said, wanted = _said(obj), _number(obj.get("spec") or {}, "replicas", 1)
    failure = _is(obj, "ReplicaFailure", "True")
    if failure is not None:
        return _progress(failure.get("message") or "Replica Failure condition")
    for name, field in (
        ("Labelled", "fullyLabeledReplicas"),
        ("Available", "availableReplicas"),
        ("Ready", "readyReplicas"),
    ):
        if _number(said, field) < wanted:
            return _progress(f"{name}: {_number(said, field)}/{wanted}")
    if _number(said, "replicas") > wanted:
        return _progress(f"Pending termination: {_number(said, 'replicas') - wanted}")
    return Result(Status.CURRENT, f"ReplicaSet is available. Replicas: {wanted}")


def _stateful_set(obj: Obj, now: float) -> Result:
    spec, said = obj.get("spec") or {}, _said(obj)
    strategy = spec.get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return Result(Status.CURRENT, "StatefulSet is using the ondelete update strategy")
    wanted = _number(spec, "replicas", 1)
    for name, field in (("Replicas", "replicas"), ("Ready", "readyReplicas")):
        if _number(said, field) < wanted:
            return _progress(f"{name}: {_number(said, field)}/{wanted}")
    if _number(said, "replicas") > wanted:
        return _progress(f"Pending termination: {_number(said, 'replicas') - wanted}")
    partition = _number(strategy.get("rollingUpdate") or {}, "partition")
    if partition:
        needed = wanted - partition
        if _number(said, "updatedReplicas") < needed:
            return _progress(f"updated: {_number(said, 'updatedReplicas')}/{needed}")
        return Result(Status.CURRENT, f"Partition rollout complete. updated: {_number(said, 'updatedReplicas')}")
    if _number(said, "currentReplicas") < wanted:
        return _progress(f"current: {_number(said, 'currentReplicas')}/{wanted}")
    if said.get("currentRevision") != said.get("updateRevision"):
        return _progress("Waiting for updated revision to match current")
    return Result(Status.CURRENT, f"All replicas scheduled as expected. Replicas: {wanted}")


def _daemon_set(obj: Obj, now: float) -> Result:
    said = _said(obj)
    if "desiredNumberScheduled" not in said:
        return _progress("Missing .status.desiredNumberScheduled")
    wanted = _number(said, "desiredNumberScheduled")
    for name, field in (
        ("Current", "currentNumberScheduled"),
        ("Updated", "updatedNumberScheduled"),
        ("Available", "numberAvailable"),
        ("Ready", "numberReady"),
    ):
        if _number(said, field) < wanted:
            return _progress(f"{name}: {_number(said, field)}/{wanted}")
    return Result(Status.CURRENT, f"All replicas scheduled as expected. Replicas: {wanted}")


def _job(obj: Obj, now: float) -> Result:
    """Done, failed; upstream also calls one that runs current: Flux waits for it to be done."""
    if (failed := _is(obj, "Failed", "True")) is not None:
        return Result(Status.FAILED, f"Job Failed. {failed.get('message', '')}".strip())
    if _is(obj, "Complete", "True") is not None:
        return Result(Status.CURRENT, "Job Completed")
    return _progress("Job in progress")


def _pod(obj: Obj, now: float) -> Result:
    said = _said(obj)
    phase = said.get("phase")
    if phase == "Succeeded":
        return Result(Status.CURRENT, "Pod has completed successfully")
    if phase == "Failed":
        return Result(Status.FAILED, "Pod has completed, but not successfully")
    if _is(obj, "Ready", "True") is not None:
        return Result(Status.CURRENT, "Pod is Ready")
    crashing = [
        str(each.get("name"))
        for each in said.get("containerStatuses") or ()
        if isinstance(each, dict)
        and ((each.get("state") or {}).get("waiting") or {}).get("reason") == "CrashLoopBackOff"
    ]
    if crashing:
        return Result(Status.FAILED, f"Containers in CrashLoop state: {','.join(crashing)}")
    unscheduled = _is(obj, "PodScheduled", "False")
    if unscheduled is not None and unscheduled.get("reason") == "Unschedulable":
        since = parse_time(unscheduled["lastTransitionTime"]) if unscheduled.get("lastTransitionTime") else now
        if now and now - since > SCHEDULE_SECONDS:
            return Result(Status.FAILED, "Pod could not be scheduled")
        return _progress("Pod has not been scheduled")
    return _progress("Pod is running but is not Ready" if phase == "Running" else "Pod is in the Pending phase")


def _claim(obj: Obj, now: float) -> Result:
    phase = _said(obj).get("phase")
    return (
        Result(Status.CURRENT, "PVC is Bound")
        if phase == "Bound"
        else _progress("PVC is not Bound. phase: " + str(phase))
    )


def _service(obj: Obj, now: float) -> Result:
    if (obj.get("spec") or {}).get("type") == "LoadBalancer" and not (obj.get("spec") or {}).get("clusterIP"):
        return _progress("ClusterIP not set. Service type: LoadBalancer")
    return Result(Status.CURRENT, "Service is ready")


def _definition(obj: Obj, now: float) -> Result:
    for condition in _conditions(obj):
        if condition.get("type") == "NamesAccepted" and condition.get("status") == "False":
            return Result(Status.FAILED, condition.get("message", ""))
        if condition.get("type") == "Established":
            if condition.get("status") == "True":
                return Result(Status.CURRENT, "CRD is established")
            if condition.get("reason") != "Installing":
                return Result(Status.FAILED, condition.get("message", ""))
    return _progress("Install in progress")


def _budget(obj: Obj, now: float) -> Result:
    return Result(Status.CURRENT, "AllowedDisruptions has been computed.")


def _namespace(obj: Obj, now: float) -> Result:
    return Result(Status.CURRENT, "Resource is current")


_RULES: Final[Mapping[tuple[str, str], Callable[[Obj, float], Result]]] = {
    ("", "Service"): _service,
    ("", "Pod"): _pod,
    ("", "PersistentVolumeClaim"): _claim,
    ("", "Namespace"): _namespace,
    ("apps", "Deployment"): _deployment,
    ("apps", "ReplicaSet"): _replica_set,
    ("apps", "StatefulSet"): _stateful_set,
    ("apps", "DaemonSet"): _daemon_set,
    ("batch", "Job"): _job,
    ("policy", "PodDisruptionBudget"): _budget,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _definition,
}
