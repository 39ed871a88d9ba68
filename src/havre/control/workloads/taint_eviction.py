"""Taint eviction: a pod that does not tolerate a NoExecute taint of its node goes, at once or when its time is over.

reads   Node; its Pods
writes  Pods (condition DisruptionTarget, delete)
wakes   on Node; a Pod wakes its Node; time
source  k8s.io/kubernetes, pkg/controller/tainteviction

The time counts from when the taint was set, at the earliest from when we began to look: after a pause of this program
a pod has all of its seconds again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from havre.api.errors import NotFound
from havre.api.meta import Obj, name_of, namespace_of, parse_time, rfc3339
from havre.api.placement import tolerates
from havre.control.workloads.dependents import MANAGER
from havre.control.workloads.node_lifecycle import NODE
from havre.control.workloads.pods import POD, is_finished, is_leaving, node_of
from havre.machinery.api import Api, Ref
from havre.machinery.controller import Controller, Plan
from havre.machinery.events import Note
from havre.machinery.informer import look


@dataclass(frozen=True, slots=True)
class Steps:
    """Who goes now; when the next one is due."""

    evict: tuple[Obj, ...] = ()
    again: float | None = None


def plan(node: Obj, pods: Iterable[Obj], since: float, now: float) -> Steps:
    """`since`: when we began to look, since the epoch."""
    taints = [taint for taint in (node.get("spec") or {}).get("taints") or () if taint["effect"] == "NoExecute"]
    evict, waits = [], []
    for pod in pods if taints else ():
        at = due(pod, taints, since)
        if at is not None and at <= now:
            evict.append(pod)
        elif at is not None:
            waits.append(at - now)
    return Steps(tuple(evict), min(waits, default=None))


def due(pod: Obj, taints: Sequence[Obj], since: float) -> float | None:
    """When the pod has to go; None: never."""
    times = []
    for taint in taints:
        tolerations = [t for t in (pod.get("spec") or {}).get("tolerations") or () if tolerates(t, taint)]
        if not tolerations:
            return 0.0
        limits = [t["tolerationSeconds"] for t in tolerations if t.get("tolerationSeconds") is not None]
        if limits:
            added = parse_time(taint["timeAdded"]) if taint.get("timeAdded") else since
            times.append(max(added, since) + max(0, min(limits)))
    return min(times, default=None)


@dataclass(frozen=True, slots=True)
class Reconciler:
    """`since` is when this program began to look."""

    now: Callable[[], float] = time.time
    since: float = field(default_factory=time.time)

    async def __call__(self, node: Obj, api: Api) -> Plan:
        if not any(taint["effect"] == "NoExecute" for taint in (node.get("spec") or {}).get("taints") or ()):
            return Plan()
        pods = [pod for pod in await look(api, POD) if node_of(pod) == name_of(node)]
        steps = plan(
            node, [pod for pod in pods if not is_leaving(pod) and not is_finished(pod)], self.since, self.now()
        )
        for pod in steps.evict:
            await _evict(pod, rfc3339(self.now()), api)
        told = [f"Marking for deletion Pod {namespace_of(pod)}/{name_of(pod)}" for pod in steps.evict]
        return Plan(again=steps.again, notes=tuple(Note("TaintManagerEviction", words) for words in told))


async def _evict(pod: Obj, now: str, api: Api) -> None:
    target = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": now,
        "observedGeneration": pod["metadata"].get("generation"),
    }
    patch = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": {"conditions": [target]}}
    try:
        await api.patch(Ref.of(pod), patch, kind="strategic", manager=MANAGER, subresource="status")
        await api.delete(Ref.of(pod), uid=pod["metadata"]["uid"])
    except NotFound:
        return


def node_of_pod(pod: Obj) -> Iterable[Ref]:
    if node_of(pod):
        yield Ref(NODE, "", node_of(pod))


def controller() -> Controller:
    return Controller(
        NODE,
        Reconciler(),
        wakes={POD: node_of_pod},
        manager=MANAGER,
        component="taint-eviction-controller",
        words=None,
        suspendable=False,
        cached=True,
    )
