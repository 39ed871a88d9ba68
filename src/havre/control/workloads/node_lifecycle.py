"""Node lifecycle: a node that is silent for 40 s is Unknown, and taints say of each node what keeps pods away.

reads   Node; its Lease in kube-node-lease
writes  Node.status.conditions (Unknown), Node.spec.taints, the Ready condition of the pods of a silent node
wakes   on Node; its Lease; time
source  k8s.io/kubernetes, pkg/controller/nodelifecycle

Silence is counted by our own clock from when we last saw a change, at the earliest from when we began to look: a node
is not given up because this program, or the whole machine, was down. When every node is silent, the cause is more
likely here than there: nothing is evicted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from havre.api.errors import NotFound
from havre.api.meta import GVK, Obj, name_of, rfc3339
from havre.control.workloads.dependents import MANAGER
from havre.control.workloads.pods import POD, is_ready, node_of
from havre.machinery import conditions
from havre.machinery.api import Api, Ref
from havre.machinery.controller import Controller, Plan
from havre.machinery.events import Note
from havre.machinery.informer import look

NODE = GVK("", "v1", "Node")
LEASE = GVK("coordination.k8s.io", "v1", "Lease")
LEASES = "kube-node-lease"
SILENT = 40.0  # seconds; the agent renews its lease every 10
NEW = 60.0  # seconds for a node that has never said anything
NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
_CORDONED = "node.kubernetes.io/unschedulable"
_TAINTS = {
    ("Ready", "False"): NOT_READY,
    ("Ready", "Unknown"): UNREACHABLE,
    ("MemoryPressure", "True"): "node.kubernetes.io/memory-pressure",
    ("DiskPressure", "True"): "node.kubernetes.io/disk-pressure",
    ("PIDPressure", "True"): "node.kubernetes.io/pid-pressure",
    ("NetworkUnavailable", "True"): "node.kubernetes.io/network-unavailable",
}
_OURS = frozenset({*_TAINTS.values(), _CORDONED})
_WATCHED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


@dataclass(frozen=True, slots=True)
class Seen:
    """How long the node has been silent, and whether every node is not ready."""

    silence: float  # seconds
    all_down: bool
    now: float  # since the epoch


def grace(node: Obj) -> float:
    return SILENT if _condition(node, "Ready") else NEW


def unknown(node: Obj, seen: Seen) -> list[Obj] | None:
    """Its conditions, if it has been silent for too long and they do not say so yet."""
    if seen.silence < grace(node):
        return None
    held, now = [*((node.get("status") or {}).get("conditions") or ())], rfc3339(seen.now)
    new = [_silenced(each, now) if each["type"] in _WATCHED else each for each in held]
    born = node["metadata"].get("creationTimestamp")
    for type in _WATCHED:
        if conditions.find(held, type) is None:
            why = {"reason": "NodeStatusNeverUpdated", "message": "Kubelet never posted node status."}
            new.append({"type": type, "status": "Unknown", "lastHeartbeatTime": born, "lastTransitionTime": now, **why})
    return None if new == held else new


def _silenced(condition: Obj, now: str) -> Obj:
    if condition["status"] == "Unknown":
        return condition
    why = {"reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status."}
    return {**condition, "status": "Unknown", "lastTransitionTime": now, **why}


def plan(node: Obj, seen: Seen) -> list[Obj] | None:
    """The taints of the node; None when they are right. Those of others stay."""
    held = (node.get("spec") or {}).get("taints") or []
    wanted = _wanted(node, seen)
    kept = [each for each in held if not _is_ours(each) or (each["key"], each["effect"]) in wanted]
    there = {(each["key"], each["effect"]) for each in kept}
    added = [{"key": k, "effect": e, "timeAdded": rfc3339(seen.now)} for k, e in wanted if (k, e) not in there]
    return None if len(kept) == len(held) and not added else [*kept, *added]


def _wanted(node: Obj, seen: Seen) -> dict[tuple[str, str], None]:
    wanted: dict[tuple[str, str], None] = {}
    for each in (node.get("status") or {}).get("conditions") or ():
        key = _TAINTS.get((each["type"], each["status"]))
        if key is not None:
            wanted[key, "NoSchedule"] = None
            if key in (NOT_READY, UNREACHABLE) and not seen.all_down:
                wanted[key, "NoExecute"] = None
    if (node.get("spec") or {}).get("unschedulable"):
        wanted[_CORDONED, "NoSchedule"] = None
    return wanted


def _is_ours(taint: Obj) -> bool:
    if taint["effect"] == "NoExecute":
        return taint["key"] in (NOT_READY, UNREACHABLE)
    return taint["effect"] == "NoSchedule" and taint["key"] in _OURS


def _condition(node: Obj, type: str) -> Obj | None:
    return conditions.find((node.get("status") or {}).get("conditions") or (), type)


def is_up(node: Obj) -> bool:
    return (_condition(node, "Ready") or {}).get("status") == "True"


@dataclass(slots=True)
class Heard:
    """When each node was last seen to say something, by our own clock."""

    clock: Callable[[], float] = time.monotonic
    _last: dict[str, tuple[object, float]] = field(default_factory=dict)

    def silence(self, node: Obj, lease: Obj | None) -> float:
        uid, now = node["metadata"]["uid"], self.clock()
        ready = _condition(node, "Ready") or {}
        said = ((lease or {}).get("spec") or {}).get("renewTime"), ready.get("lastHeartbeatTime"), bool(ready)
        if uid not in self._last or self._last[uid][0] != said:
            self._last[uid] = said, now
        return now - self._last[uid][1]


@dataclass(frozen=True, slots=True)
class Reconciler:
    """`heard` is the one thing kept in memory, because it must begin anew with every start."""

    heard: Heard = field(default_factory=Heard)
    now: Callable[[], float] = time.time

    async def __call__(self, node: Obj, api: Api) -> Plan:
        lease = await api.get(Ref(LEASE, LEASES, name_of(node)))
        nodes = await look(api, NODE)
        seen = Seen(self.heard.silence(node, lease), not any(map(is_up, nodes)), self.now())
        silenced = unknown(node, seen)
        if silenced is not None:  # the change brings us back, for the taints
            return Plan(status={"conditions": silenced}, notes=_notes(node))
        await _taint(node, plan(node, seen), api)
        if (_condition(node, "Ready") or {}).get("status") == "Unknown":
            await _mark(await look(api, POD), name_of(node), seen, api)
        left = grace(node) - seen.silence
        return Plan(again=left if left > 0 else None)


def _notes(node: Obj) -> tuple[Note, ...]:
    return (Note("NodeNotReady", f"Node {name_of(node)} status is now: NodeNotReady"),) if is_up(node) else ()


async def _taint(node: Obj, taints: list[Obj] | None, api: Api) -> None:
    if taints is not None:
        meta = {"resourceVersion": node["metadata"]["resourceVersion"]}
        await api.patch(Ref.of(node), {"metadata": meta, "spec": {"taints": taints}}, kind="merge", manager=MANAGER)


async def _mark(pods: Sequence[Obj], node: str, seen: Seen, api: Api) -> None:
    """Nobody knows whether they still serve: no Service shall count on them."""
    ready = {"type": "Ready", "status": "False", "lastTransitionTime": rfc3339(seen.now)}
    for pod in [each for each in pods if node_of(each) == node and is_ready(each)]:
        patch = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": {"conditions": [ready]}}
        try:
            await api.patch(Ref.of(pod), patch, kind="strategic", manager=MANAGER, subresource="status")
        except NotFound:
            continue


def node_of_lease(lease: Obj) -> Iterable[Ref]:
    if lease["metadata"].get("namespace") == LEASES:
        yield Ref(NODE, "", name_of(lease))


def nobody(_: Obj) -> Iterable[Ref]:
    """Pods are read, but their changes say nothing about their node."""
    return ()


def controller() -> Controller:
    return Controller(
        NODE,
        Reconciler(),
        wakes={LEASE: node_of_lease, POD: nobody},
        manager=MANAGER,
        component="node-controller",
        words=None,
        suspendable=False,
        cached=True,
    )
