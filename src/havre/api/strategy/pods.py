"""Pod: quality-of-service class, scheduling gates, label keys of affinity terms; and its special subresources.

Source: k8s.io/kubernetes, pkg/registry/core/pod/strategy.go, pkg/apis/core/v1/helper/qos/qos.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from havre.api.meta import Obj
from havre.api.strategy.metadata import keep_for_status, restore
from havre.kit.quantity import parse

GATED_MESSAGE: Final = "Scheduling is blocked due to non-empty scheduling gates"
_COMPUTE: Final = ("cpu", "memory")


def create(obj: Obj) -> None:
    """Status of a new pod; affinity terms learn the labels that their label keys name."""
    spec, status = obj.setdefault("spec", {}), obj["status"]
    status["qosClass"] = qos_class(spec)
    if spec.get("schedulingGates"):
        status["conditions"] = [_gated(obj["metadata"].get("creationTimestamp"))]
    labels = obj["metadata"].get("labels") or {}
    for term in _affinity_terms(spec.get("affinity") or {}):
        _select_label_keys(term, "matchLabelKeys", "In", labels)
        _select_label_keys(term, "mismatchLabelKeys", "NotIn", labels)
    for constraint in spec.get("topologySpreadConstraints") or ():
        _select_label_keys(constraint, "matchLabelKeys", "In", labels)


def _gated(since: str | None) -> Obj:
    return {
        "type": "PodScheduled",
        "status": "False",
        "lastProbeTime": None,
        "lastTransitionTime": since,
        "reason": "SchedulingGated",
        "message": GATED_MESSAGE,
    }


def _affinity_terms(affinity: Mapping[str, Any]) -> Iterator[Obj]:
    for side in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(side) or {}
        for weighted in rules.get("preferredDuringSchedulingIgnoredDuringExecution") or ():
            yield weighted.get("podAffinityTerm") or {}
        yield from rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ()


def _select_label_keys(term: Obj, field: str, operator: str, labels: Mapping[str, str]) -> None:
    """Turn each named key that the pod has into a requirement of the term's selector."""
    keys, selector = term.get(field), term.get("labelSelector")
    if not keys or selector is None:
        return
    found = [{"key": key, "operator": operator, "values": [labels[key]]} for key in keys if key in labels]
    if found:
        selector["matchExpressions"] = [*(selector.get("matchExpressions") or ()), *found]


def qos_class(spec: Mapping[str, Any]) -> str:
    """Guaranteed, Burstable or BestEffort, from requests and limits of cpu and memory."""
    if spec.get("resources") is not None:
        parts: list[Mapping[str, Any]] = [spec["resources"]]
        strict = [part for part in parts if part.get("limits")]
    else:
        containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
        parts = strict = [container.get("resources") or {} for container in containers]
    if not any(parts):
        return "BestEffort"
    requests = _total(part.get("requests") for part in parts)
    limits = _total(part.get("limits") for part in parts)
    if not requests and not limits:
        return "BestEffort"
    limited = all(len(_total([part.get("limits")])) == len(_COMPUTE) for part in strict)
    covered = requests.keys() == limits.keys() and all(limits[name] == requests[name] for name in requests)
    return "Guaranteed" if limited and covered else "Burstable"


def _total(lists: Iterable[Mapping[str, Any] | None]) -> dict[str, int]:
    """Sum of the positive amounts of cpu and memory, in billionths."""
    total: dict[str, int] = {}
    for amounts in lists:
        for name in _COMPUTE:
            if amounts and name in amounts and (nano := parse(amounts[name]).nano) > 0:
                total[name] = total.get(name, 0) + nano
    return total


def update_status(new: Obj, old: Obj, now: str | None) -> None:
    """The kubelet may not take the pod back from deletion, give it away, or forget what was already reported."""
    metadata, before = new["metadata"], old["metadata"]
    metadata.pop("deletionTimestamp", None)
    restore(metadata, before, ("ownerReferences",))
    status, known = new.setdefault("status", {}), old.get("status") or {}
    for field in ("qosClass", "observedGeneration"):
        if not status.get(field) and known.get(field):
            status[field] = known[field]
    generations: dict[str, list[int]] = {}
    for condition in known.get("conditions") or ():
        generations.setdefault(condition["type"], []).append(condition.get("observedGeneration") or 0)
    for condition in status.get("conditions") or ():
        seen = generations.get(condition.get("type", ""))
        generation = seen.pop(0) if seen else 0
        if generation and not condition.get("observedGeneration"):
            condition["observedGeneration"] = generation


def update_ephemeral_containers(new: Obj, old: Obj) -> None:
    """The `ephemeralcontainers` subresource: everything else stays."""
    wanted = (new.get("spec") or {}).get("ephemeralContainers")
    spec = {key: value for key, value in old["spec"].items() if key != "ephemeralContainers"}
    new["spec"] = {**spec, "ephemeralContainers": wanted} if wanted else spec
    _keep_rest(new, old)


def resize(new: Obj, old: Obj) -> None:
    """The `resize` subresource: resources and resize policies of the same containers; validation refuses the rest."""
    spec = dict(old["spec"])
    for field in ("containers", "initContainers"):
        wanted, have = new["spec"].get(field) or [], old["spec"].get(field) or []
        if len(wanted) != len(have):
            return
        if have:
            spec[field] = _resized(wanted, have)
    new["spec"] = spec
    _keep_rest(new, old)


def _resized(wanted: list[Obj], have: list[Obj]) -> list[Obj]:
    merged = []
    for new, old in zip(wanted, have, strict=True):
        if new.get("name") != old.get("name"):
            return wanted
        container = {key: value for key, value in old.items() if key not in ("resources", "resizePolicy")}
        container |= {key: new[key] for key in ("resources", "resizePolicy") if key in new}
        merged.append(container)
    return merged


def _keep_rest(new: Obj, old: Obj) -> None:
    if "status" in old:
        new["status"] = old["status"]
    keep_for_status(new["metadata"], old["metadata"])
