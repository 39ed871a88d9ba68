"""Which nodes miss a pod of a DaemonSet, which pods go, what it says. Pure.

Source: k8s.io/kubernetes, pkg/controller/daemon (daemon_controller.go, update.go, util/daemonset_util.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from havre.api.meta import Obj, labels_of, name_of
from havre.api.placement import REQUIRED, suits, tolerated
from havre.control.workloads.controller_revision import POD_LABEL
from havre.control.workloads.deployment.sets import portion
from havre.control.workloads.pods import is_available, is_leaving, is_ready, node_of, phase_of
from havre.lang.json import copied
from havre.machinery.events import Note

_GENERATION = "deprecated.daemonset.template.generation"
_TEMPLATE_LABEL = "pod-template-generation"
_PRESSURES = ("disk-pressure", "memory-pressure", "pid-pressure", "unschedulable")


@dataclass(frozen=True, slots=True)
class Spec:
    """The part of the DaemonSet that decides."""

    template: Obj
    min_ready: int  # seconds
    rolling: bool  # else old pods stay until somebody deletes them
    surge: int | str
    unavailable: int | str
    history: int
    generation: str  # of the template, as old manifests count it; "" where they do not

    @classmethod
    def of(cls, obj: Obj) -> Spec:
        spec = obj["spec"]
        strategy = spec.get("updateStrategy") or {}
        rolling = strategy.get("rollingUpdate") or {}
        return cls(
            template=spec["template"],
            min_ready=spec.get("minReadySeconds") or 0,
            rolling=strategy.get("type") == "RollingUpdate",
            surge=rolling.get("maxSurge") or 0,
            unavailable=rolling.get("maxUnavailable", 1),
            history=spec.get("revisionHistoryLimit", 10),
            generation=(obj["metadata"].get("annotations") or {}).get(_GENERATION, ""),
        )

    @property
    def surges(self) -> bool:
        return self.rolling and portion(self.surge, 1, up=True) > 0


@dataclass(frozen=True, slots=True)
class Seen:
    """Nodes, the pods of the DaemonSet, the hash of its template now, nodes whose last pod failed a moment ago."""

    nodes: Sequence[Obj]
    pods: Sequence[Obj]
    hash: str
    now: float  # since the epoch
    backing_off: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Steps:
    """Make a pod for each of these nodes, delete these pods."""

    create: tuple[str, ...] = ()
    delete: tuple[Obj, ...] = ()
    notes: tuple[Note, ...] = ()
    failed: tuple[str, ...] = ()  # nodes whose failed pod goes now


def plan(spec: Spec, seen: Seen) -> Steps:
    """First what is missing or too much; only when all is in place, the update."""
    by_node = _by_node(seen)
    steps = _placed(spec, seen, by_node)
    if steps.create or steps.delete or not spec.rolling:
        return steps
    return _updated_with_surge(spec, seen, by_node) if spec.surges else _updated(spec, seen, by_node)


def target_of(pod: Obj) -> str:
    """The node the pod is made for; it may not be there yet."""
    if node_of(pod):
        return node_of(pod)
    required = ((((pod.get("spec") or {}).get("affinity") or {}).get("nodeAffinity") or {}).get(REQUIRED)) or {}
    for term in required.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field["key"] == "metadata.name" and field["operator"] == "In" and len(field["values"]) == 1:
                return str(field["values"][0])
    return ""


def _by_node(seen: Seen) -> dict[str, list[Obj]]:
    """Sorted as they count: those with a node first, then running, then the oldest."""
    found: dict[str, list[Obj]] = {}
    for pod in sorted(seen.pods, key=_rank):
        found.setdefault(target_of(pod), []).append(pod)
    return found


def _rank(pod: Obj) -> tuple[bool, bool, str]:
    return not node_of(pod), phase_of(pod) == "Pending", pod["metadata"].get("creationTimestamp", "")


def runs_on(spec: Spec, node: Obj) -> tuple[bool, bool]:
    """(should have a pod, may keep one): a NoSchedule taint keeps only new pods away."""
    pod = template_for(spec, "", name_of(node))["spec"]
    named = (spec.template.get("spec") or {}).get("nodeName")
    if named not in (None, "", name_of(node)) or not suits(pod, node):
        return False, False
    taints = (node.get("spec") or {}).get("taints") or ()
    hostile = [each["effect"] for each in taints if not tolerated(each, pod.get("tolerations") or ())]
    return not {"NoSchedule", "NoExecute"} & set(hostile), "NoExecute" not in hostile


def _placed(spec: Spec, seen: Seen, by_node: Mapping[str, list[Obj]]) -> Steps:
    create: list[str] = []
    delete: list[Obj] = []
    notes: list[Note] = []
    failed: list[str] = []
    for node in seen.nodes:
        name, pods = name_of(node), by_node.get(name_of(node), [])
        should, may = runs_on(spec, node)
        if not may:
            delete += [pod for pod in pods if not is_leaving(pod)]
            continue
        running = [pod for pod in pods if not is_leaving(pod) and phase_of(pod) not in ("Failed", "Succeeded")]
        ended = [pod for pod in pods if not is_leaving(pod) and pod not in running]
        gone = [pod for pod in ended if phase_of(pod) == "Succeeded" or name not in seen.backing_off]
        delete += gone
        notes += [_ended(pod, name) for pod in gone]
        failed += [name for pod in gone if phase_of(pod) == "Failed"]
        delete += _too_many(spec, seen, running)
        if should and not (running if spec.surges else pods):
            create.append(name)
    known = {name_of(node) for node in seen.nodes}
    for name, pods in by_node.items():
        delete += [pod for pod in pods if name and name not in known and not node_of(pod) and not is_leaving(pod)]
    return Steps(tuple(create), tuple(delete), tuple(notes), tuple(failed))


def _too_many(spec: Spec, seen: Seen, running: Sequence[Obj]) -> list[Obj]:
    """More than one on a node; with surge, more than one of each template, and the old one when the new one serves."""
    if not spec.surges:
        return [*running[1:]]
    new, old = _split(spec, seen, running)
    surplus = [*new[1:], *old[1:]]
    if new and old and (not is_ready(old[0]) or is_available(new[0], spec.min_ready, seen.now)):
        surplus.append(old[0])
    return surplus


def _ended(pod: Obj, node: str) -> Note:
    where = f"{pod['metadata']['namespace']}/{name_of(pod)} on node {node}"
    if phase_of(pod) == "Failed":
        return Note("FailedDaemonPod", f"Found failed daemon pod {where}, will try to kill it", "Warning")
    return Note("SucceededDaemonPod", f"Found succeeded daemon pod {where}, will try to delete it")


# updates


def is_updated(spec: Spec, seen: Seen, pod: Obj) -> bool:
    labels = labels_of(pod)
    counted = bool(spec.generation) and labels.get(_TEMPLATE_LABEL) == spec.generation
    return counted or labels.get(POD_LABEL) == seen.hash


def _split(spec: Spec, seen: Seen, pods: Iterable[Obj]) -> tuple[list[Obj], list[Obj]]:
    new: list[Obj] = []
    old: list[Obj] = []
    for pod in pods:
        if not is_leaving(pod):
            (new if is_updated(spec, seen, pod) else old).append(pod)
    return new, old


def limits(spec: Spec, wanted: int) -> tuple[int, int]:
    """(surge, unavailable) as pods."""
    surge, unavailable = portion(spec.surge, wanted, up=True), portion(spec.unavailable, wanted, up=True)
    return surge, 1 if wanted and not surge and not unavailable else unavailable


def _updated(spec: Spec, seen: Seen, by_node: Mapping[str, list[Obj]]) -> Steps:
    """Old pods that do not serve go at once, others as far as that many may be missing."""
    nodes = [name_of(node) for node in seen.nodes if runs_on(spec, node)[0]]
    _, most = limits(spec, len(nodes))
    missing, broken, candidates = 0, list[Obj](), list[Obj]()
    for name in dict.fromkeys([*nodes, *by_node]):
        new, old = _split(spec, seen, by_node.get(name, ()))
        if len(new) == 1 and not old:
            missing += not is_available(new[0], spec.min_ready, seen.now)
        elif len(old) == 1 and not new:
            available = is_available(old[0], spec.min_ready, seen.now)
            (candidates if available else broken).append(old[0])
            missing += not available
        else:
            missing += 1
    return Steps(delete=(*broken, *candidates[: max(0, most - missing)]))


def _updated_with_surge(spec: Spec, seen: Seen, by_node: Mapping[str, list[Obj]]) -> Steps:
    """A new pod beside the old one on as many nodes at once as the surge allows."""
    nodes = [name_of(node) for node in seen.nodes if runs_on(spec, node)[0]]
    most, _ = limits(spec, len(nodes))
    surging, broken, candidates = 0, list[str](), list[str]()
    for name in nodes:
        new, old = _split(spec, seen, by_node.get(name, ()))
        if len(old) == 1 and not new:
            (candidates if is_available(old[0], spec.min_ready, seen.now) else broken).append(name)
        elif old and new:
            surging += not is_available(new[0], spec.min_ready, seen.now)
    return Steps(create=(*broken, *candidates[: max(0, most - surging)]))


# its pods, its status


def template_for(spec: Spec, hash: str, node: str) -> Obj:
    """The template for one node: it names the node, and tolerates what a daemon has to stand."""
    template: Obj = copied(spec.template)
    meta, pod = template.setdefault("metadata", {}), template.setdefault("spec", {})
    labels = {**(meta.get("labels") or {}), POD_LABEL: hash}
    meta["labels"] = {**labels, _TEMPLATE_LABEL: spec.generation} if spec.generation else labels
    pod["tolerations"] = _tolerations(pod)
    affinity = pod.setdefault("affinity", {}) or {}
    pod["affinity"] = affinity
    beside = affinity.get("nodeAffinity") or {}
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    if hash:
        affinity["nodeAffinity"] = {**beside, REQUIRED: {"nodeSelectorTerms": [{"matchFields": [field]}]}}
    return template


def _tolerations(pod: Obj) -> list[Obj]:
    own = [
        {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute"}
        for what in ("not-ready", "unreachable")
    ]
    pressures = (*_PRESSURES, "network-unavailable") if pod.get("hostNetwork") else _PRESSURES
    own += [{"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoSchedule"} for what in pressures]
    kept = [*(pod.get("tolerations") or ())]
    for each in own:
        same = next((n for n, held in enumerate(kept) if _same(held, each)), None)
        if same is None:
            kept.append(each)
        else:
            kept[same] = each
    return kept


def _same(held: Obj, new: Obj) -> bool:
    keys = ("key", "effect", "operator", "value")
    return all((held.get(key) or "") == (new.get(key) or "") for key in keys)


def status(spec: Spec, seen: Seen, live: Obj, generation: int) -> dict[str, Any]:
    by_node, counts = _by_node(seen), dict.fromkeys(("desired", "current", "wrong", "ready", "updated", "available"), 0)
    for node in seen.nodes:
        pods = by_node.get(name_of(node), [])
        if not runs_on(spec, node)[0]:
            counts["wrong"] += bool(pods)
            continue
        counts["desired"] += 1
        if pods:
            counts["current"] += 1
            counts["ready"] += is_ready(pods[0])
            counts["available"] += is_available(pods[0], spec.min_ready, seen.now)
            counts["updated"] += is_updated(spec, seen, pods[0])
    return {
        "currentNumberScheduled": counts["current"],
        "numberMisscheduled": counts["wrong"],
        "desiredNumberScheduled": counts["desired"],
        "numberReady": counts["ready"],
        "observedGeneration": generation or None,
        "updatedNumberScheduled": counts["updated"] or None,
        "numberAvailable": counts["available"] or None,
        "numberUnavailable": counts["desired"] - counts["available"] or None,
        "collisionCount": live.get("collisionCount"),
    }
