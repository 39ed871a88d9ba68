"""What a pod is to those who count pods: active, ready, available, and which of many goes first. Pure.

Source: k8s.io/kubernetes, pkg/api/v1/pod/util.go; pkg/controller/controller_utils.go (ActivePodsWithRanks).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cmp_to_key

from havre.api.meta import GVK, Obj, annotations_of, controller_of, parse_time
from havre.machinery import conditions

POD = GVK("", "v1", "Pod")
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
FINISHED = frozenset({"Succeeded", "Failed"})
_PHASES = {"Pending": 0, "Unknown": 1, "Running": 2, "Succeeded": 4, "Failed": 4}


def status_of(pod: Obj) -> Obj:
    return pod.get("status") or {}


def phase_of(pod: Obj) -> str:
    return str(status_of(pod).get("phase") or "")


def node_of(pod: Obj) -> str:
    return str((pod.get("spec") or {}).get("nodeName") or "")


def is_finished(pod: Obj) -> bool:
    return phase_of(pod) in FINISHED


def is_leaving(pod: Obj) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_active(pod: Obj) -> bool:
    """It runs, or will."""
    return not is_finished(pod) and not is_leaving(pod)


def condition_of(pod: Obj, type: str) -> Obj | None:
    return conditions.find(status_of(pod).get("conditions") or (), type)


def is_ready(pod: Obj) -> bool:
    return (condition_of(pod, "Ready") or {}).get("status") == "True"


def available_at(pod: Obj, min_ready: int) -> float | None:
    """When it has been ready for so many seconds, since the epoch; None while it is not ready."""
    ready = condition_of(pod, "Ready") or {}
    if ready.get("status") != "True":
        return None
    since = ready.get("lastTransitionTime")
    if not min_ready:
        return 0.0
    return parse_time(since) + min_ready if since else None


def is_available(pod: Obj, min_ready: int, now: float) -> bool:
    at = available_at(pod, min_ready)
    return at is not None and at <= now


def next_available(pods: Iterable[Obj], min_ready: int, now: float) -> float | None:
    """Seconds until the next ready pod becomes available; None: a change will tell."""
    waits = [at - now for pod in pods if (at := available_at(pod, min_ready)) is not None and at > now]
    return min(waits, default=None)


def is_controlled_by(obj: Obj, owner: Obj) -> bool:
    controller = controller_of(obj)
    return controller is not None and controller["uid"] == owner["metadata"]["uid"]


def first_to_go(pods: Iterable[Obj], related: Iterable[Obj], now: float) -> list[Obj]:
    """The pods in the order in which a scale-down takes them.

    `related` are the active pods of the same owner's other sets: where many stand on one node, that node gives first.
    """
    crowd = Counter(node_of(pod) for pod in related if is_active(pod))

    def compare(a: Obj, b: Obj) -> int:
        return _compare(a, b, crowd, now)

    return sorted(pods, key=cmp_to_key(compare))


def _compare(a: Obj, b: Obj, crowd: Counter[str], now: float) -> int:
    for first, second in zip(_plain_ranks(a, crowd), _plain_ranks(b, crowd), strict=True):
        if first != second:
            return -1 if first < second else 1
    if is_ready(a) and is_ready(b):
        order = _younger_first(_ready_since(a), _ready_since(b), a, b, now)
        if order:
            return order
    if _restarts(a) != _restarts(b):
        return -1 if _restarts(a) > _restarts(b) else 1
    return _younger_first(_created(a), _created(b), a, b, now)


def _plain_ranks(pod: Obj, crowd: Counter[str]) -> Sequence[float]:
    """Smaller goes first: unassigned, pending, not ready, cheap, crowded."""
    node = node_of(pod)
    return bool(node), _PHASES.get(phase_of(pod), 0), is_ready(pod), deletion_cost(pod), -crowd[node] if node else 0


def _younger_first(one: float, other: float, a: Obj, b: Obj, now: float) -> int:
    """By orders of magnitude of the age, so that it is not always the newest: ties go by uid, which is random."""
    if one == other:
        return 0
    difference = _magnitude(now - one) - _magnitude(now - other)
    if difference:
        return difference
    return -1 if a["metadata"]["uid"] < b["metadata"]["uid"] else 1


def _magnitude(age: float) -> int:
    return int(math.log2(age * 1e9)) if age > 0 else -1


def deletion_cost(pod: Obj) -> int:
    try:
        return int(annotations_of(pod).get(DELETION_COST, "0"))
    except ValueError:
        return 0


def _ready_since(pod: Obj) -> float:
    since = (condition_of(pod, "Ready") or {}).get("lastTransitionTime")
    return parse_time(since) if since else 0.0


def _created(pod: Obj) -> float:
    made = pod["metadata"].get("creationTimestamp")
    return parse_time(made) if made else 0.0


def _restarts(pod: Obj) -> tuple[int, int]:
    """The most restarts of a container, and of a sidecar."""
    status, sidecars = status_of(pod), set()
    for container in (pod.get("spec") or {}).get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            sidecars.add(container["name"])
    regular = [s.get("restartCount", 0) for s in status.get("containerStatuses") or ()]
    beside = [s.get("restartCount", 0) for s in status.get("initContainerStatuses") or () if s["name"] in sidecars]
    return max(regular, default=0), max(beside, default=0)
