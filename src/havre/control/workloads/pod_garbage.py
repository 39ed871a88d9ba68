"""Pod garbage: pods that nobody will ever end: of a node that is gone, or deleted before they had one.

reads   Node; Pods
writes  Pods (phase Failed, condition DisruptionTarget, delete without grace)
wakes   on the end of a Node; a Pod on a node that is not known; an unassigned Pod that is being deleted
source  k8s.io/kubernetes, pkg/controller/podgc
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from havre.api.errors import NotFound
from havre.api.meta import Obj, rfc3339
from havre.control.workloads.chore import Change, Chore
from havre.control.workloads.dependents import MANAGER
from havre.control.workloads.node_lifecycle import NODE
from havre.control.workloads.pods import POD, is_finished, is_leaving, node_of
from havre.machinery.api import Api, Ref

QUARANTINE = 40.0  # seconds that a node must be gone: it may be registering again


def plan(pod: Obj, *, orphaned: bool, now: str) -> Obj | None:
    """The status to write before the pod is deleted; None where it has ended by itself."""
    if is_finished(pod):
        return None
    status: Obj = {"phase": "Failed", "observedGeneration": pod["metadata"].get("generation")}
    if orphaned:
        why = {"reason": "DeletionByPodGC", "message": "PodGC: node no longer exists"}
        generation = {"observedGeneration": pod["metadata"].get("generation")}
        target = {"type": "DisruptionTarget", "status": "True", "lastTransitionTime": now, **why, **generation}
        status["conditions"] = [target]
    return status


@dataclass(slots=True)
class Reconciler:
    """Of a node that is gone, or of one pod. Remembers since when it misses a node."""

    now: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    _missed: dict[str, float] = field(default_factory=dict)

    async def __call__(self, ref: Ref, api: Api) -> float | None:
        if ref.gvk == POD:
            pod = await api.get(ref)
            if pod is not None and is_leaving(pod) and not node_of(pod):
                await self._end(pod, api, orphaned=False)
            return None
        if await api.get(ref) is not None:
            self._missed.pop(ref.name, None)
            return None
        since = self._missed.setdefault(ref.name, self.clock())
        left = since + QUARANTINE - self.clock()
        if left > 0:
            return left
        for pod in (await api.list(POD, fields=f"spec.nodeName={ref.name}")).items:
            await self._end(pod, api, orphaned=True)
        del self._missed[ref.name]
        return None

    async def _end(self, pod: Obj, api: Api, *, orphaned: bool) -> None:
        status, ref, uid = plan(pod, orphaned=orphaned, now=rfc3339(self.now())), Ref.of(pod), pod["metadata"]["uid"]
        try:
            if status is not None:
                patch = {"metadata": {"uid": uid}, "status": status}
                await api.patch(ref, patch, kind="strategic", manager=MANAGER, subresource="status")
            await api.delete(ref, uid=uid, grace=0)
        except NotFound:
            return


class Affected:
    """Whom a change concerns; remembers which nodes there are."""

    def __init__(self) -> None:
        self._nodes: set[str] = set()

    def __call__(self, change: Change) -> Iterable[Ref]:
        gvk, ref, obj = change.kind.gvk, change.node.ref, change.obj
        if gvk == NODE and obj is not None:
            self._nodes.add(ref.name)
        elif gvk == NODE:
            self._nodes.discard(ref.name)
            yield ref
        elif gvk == POD and obj is not None:
            node = node_of(obj)
            if node and node not in self._nodes:
                yield Ref(NODE, "", node)
            elif not node and is_leaving(obj):
                yield ref


def chore() -> Chore:
    return Chore("pod-garbage", Reconciler(), Affected())
