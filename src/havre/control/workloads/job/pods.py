"""The pods of a Job: made with finalizer and index, failed or not, when they ended. Pure.

Source: k8s.io/kubernetes, pkg/controller/job (job_controller.go, indexed_job_utils.go, backoff_utils.go).
"""

from __future__ import annotations

from collections.abc import Iterable

from havre.api.meta import Obj, annotations_of, name_of, parse_time
from havre.control.workloads import dependents
from havre.control.workloads.pods import condition_of, is_leaving, phase_of, status_of

FINALIZER = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
FAILURES = "batch.kubernetes.io/job-index-failure-count"
IGNORED = "batch.kubernetes.io/job-index-ignored-failure-count"
_INDEX_ENV = "JOB_COMPLETION_INDEX"
_GENERATED_CHARS = 58  # of a name before the five random ones
SHORTEST, LONGEST = 10.0, 600.0  # seconds of back-off after a failure


def is_tracked(pod: Obj) -> bool:
    """Its end is not counted yet, or the count is not yet safe."""
    return FINALIZER in (pod["metadata"].get("finalizers") or ())


def index_of(pod: Obj) -> int | None:
    text = annotations_of(pod).get(INDEX, "")
    return int(text) if text.isdecimal() else None


def has_failed(pod: Obj, *, only_failed: bool) -> bool:
    """`only_failed`: a pod that is being deleted has not failed before it has ended."""
    if phase_of(pod) == "Failed":
        return True
    return not only_failed and is_leaving(pod) and phase_of(pod) != "Succeeded"


def failures_of_index(pod: Obj) -> int:
    return _int(annotations_of(pod).get(FAILURES))


def all_failures_of_index(pod: Obj) -> int:
    return failures_of_index(pod) + _int(annotations_of(pod).get(IGNORED))


def _int(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def new_pod(job: Obj, index: int | None, extra: dict[str, str]) -> Obj:
    """`extra` are annotations."""
    pod = dependents.pod_of(job["spec"]["template"], job)
    meta, spec = pod["metadata"], pod["spec"]
    meta["finalizers"] = [*meta.get("finalizers", ()), FINALIZER]
    if index is None:
        return pod
    suffix = f"-{index}-"
    meta["generateName"] = name_of(job)[: _GENERATED_CHARS - len(suffix)] + suffix
    meta["annotations"] = {**(meta.get("annotations") or {}), INDEX: str(index), **extra}
    meta["labels"] = {**(meta.get("labels") or {}), INDEX: str(index)}
    spec["hostname"] = f"{name_of(job)}-{index}"
    for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        _add_index(container)
    return pod


def _add_index(container: Obj) -> None:
    if any(each["name"] == _INDEX_ENV for each in container.get("env") or ()):
        return
    source = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}
    container["env"] = [*(container.get("env") or ()), {"name": _INDEX_ENV, "valueFrom": source}]


# time


def ended_at(pod: Obj) -> float:
    """As exactly as the pod tells."""
    ends = [_ended(each) for each in status_of(pod).get("containerStatuses") or ()]
    if ends and None not in ends:
        return max(end for end in ends if end is not None)
    ready = condition_of(pod, "Ready") or {}
    if ready.get("status") == "False" and ready.get("lastTransitionTime"):
        return parse_time(ready["lastTransitionTime"])
    meta = pod["metadata"]
    if meta.get("deletionTimestamp"):
        return parse_time(meta["deletionTimestamp"]) - float(meta.get("deletionGracePeriodSeconds") or 0)
    return parse_time(meta["creationTimestamp"])


def _ended(container: Obj) -> float | None:
    at = ((container.get("state") or {}).get("terminated") or {}).get("finishedAt")
    return parse_time(at) if at else None


def backoff_left(pods: Iterable[Obj], now: float, *, only_failed: bool) -> float:
    """Seconds until the next pod may be made: 10, 20, 40 … 600 after as many failures since the last success."""
    ends = [(ended_at(pod), pod) for pod in pods]
    success = max((at for at, pod in ends if phase_of(pod) == "Succeeded"), default=float("-inf"))
    failures = [at for at, pod in ends if has_failed(pod, only_failed=only_failed) and at > success]
    return left_after(len(failures), max(failures, default=0.0), now)


def left_after(failures: int, last: float, now: float) -> float:
    if not failures:
        return 0.0
    pause: float = min(SHORTEST * 2.0 ** min(failures - 1, 10), LONGEST)
    return max(0.0, last + pause - now)
