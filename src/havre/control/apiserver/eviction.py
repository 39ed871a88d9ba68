"""An Eviction: the deletion of a pod, asked for politely.

A pod that runs and is ready costs one disruption of its PodDisruptionBudget, and is refused when none is left. A pod
that is not ready costs nothing where the budget lets it go; then it is deleted only as it was seen, since it may become
ready meanwhile. Who watches the pod learns why it ends from its condition DisruptionTarget, written before.

Source: k8s.io/kubernetes, pkg/registry/core/pod/storage/eviction.go.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from havre.api import deletion
from havre.api.errors import ApiError, TooManyRequests
from havre.api.meta import GVK, Obj, labels_of, rfc3339
from havre.control.apiserver.cache import Cache, Entry
from havre.control.apiserver.objects import Objects, Options
from havre.control.apiserver.resources import Resource
from havre.lang.selector import LabelSelector

EVICTION = GVK("policy", "v1", "Eviction")
_REFUSED = "Cannot evict pod as it would violate the pod's disruption budget."


@dataclass(frozen=True, slots=True)
class Eviction:
    """What one request works with."""

    objects: Objects
    cache: Cache
    pods: Resource
    budgets: Resource
    options: Options

    async def evict(self, pod: Obj, delete: Obj) -> None:
        """Delete `pod` with the DeleteOptions `delete`. Raises TooManyRequests, NotFound, Conflict, ApiError."""
        phase = (pod.get("status") or {}).get("phase")
        over = phase in ("Succeeded", "Failed") or deletion.marked(pod)
        as_seen = phase == "Pending" if over or phase == "Pending" else await self._charge(pod)
        wanted = delete.get("preconditions") or {}
        if as_seen and not over and not wanted.get("resourceVersion"):
            wanted = {**wanted, "resourceVersion": pod["metadata"]["resourceVersion"]}
        if not self.options.dry_run:
            wanted = await self._mark(pod, wanted)
        await self.objects.delete(
            self.pods,
            pod["metadata"]["namespace"],
            pod["metadata"]["name"],
            {**delete, "preconditions": wanted},
            self.options,
        )

    async def _mark(self, pod: Obj, preconditions: Obj) -> Obj:
        """Say why the pod ends; the preconditions of its deletion, which our own write must not break."""
        now = rfc3339(time.time())

        def change(live: Entry) -> Obj:
            new = self.objects.served(self.pods, live)
            deletion.check_preconditions(new, {"preconditions": preconditions})
            held = new.setdefault("status", {}).get("conditions") or []
            mark = {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting",
                "lastProbeTime": None,
                "lastTransitionTime": now,
            }
            new["status"]["conditions"] = [one for one in held if one["type"] != "DisruptionTarget"] + [mark]
            return new

        meta = pod["metadata"]
        entry, _ = await self.objects.update(
            self.pods, meta["namespace"], meta["name"], change, self.options, subresource="status"
        )
        if not preconditions.get("resourceVersion"):
            return preconditions
        return {**preconditions, "resourceVersion": entry.decode()["metadata"]["resourceVersion"]}

    async def _charge(self, pod: Obj) -> bool:
        """Take one disruption from the pod's budget. Whether it was free, as long as the pod is as it was seen.

        Raises TooManyRequests, ApiError."""
        namespace, labels = pod["metadata"]["namespace"], labels_of(pod)
        entries, _ = self.cache.range(self.budgets.scope(namespace))
        matching = [budget for budget in (entry.decode() for entry in entries) if _selects(budget, labels)]
        if not matching:
            return False
        if len(matching) > 1:
            names = ", ".join(budget["metadata"]["name"] for budget in matching)
            name = pod["metadata"]["name"]
            raise ApiError(f"evict {name}: more than one PodDisruptionBudget selects it ({names}); keep one")
        if not _is_ready(pod) and _lets_go(matching[0]):
            return True

        def change(live: Entry) -> Obj:
            return _charged(live.decode(), pod["metadata"]["name"])

        name = matching[0]["metadata"]["name"]
        await self.objects.update(self.budgets, namespace, name, change, self.options, subresource="status")
        return False


def _charged(budget: Obj, pod: str) -> Obj:
    """Raises TooManyRequests."""
    status, name = budget.setdefault("status", {}), budget["metadata"]["name"]
    if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 0):
        raise TooManyRequests(_REFUSED, details=_budget(name, "is still being processed by the server."))
    if status.get("disruptionsAllowed", 0) <= 0:
        needed, healthy = status.get("desiredHealthy", 0), status.get("currentHealthy", 0)
        why = f"needs {needed} healthy pods and has {healthy} currently"
        raise TooManyRequests(_REFUSED, details=_budget(name, why))
    status["disruptionsAllowed"] -= 1
    status.setdefault("disruptedPods", {})[pod] = rfc3339(time.time())
    return budget


def _budget(name: str, why: str) -> Obj:
    return {"causes": [{"reason": "DisruptionBudget", "message": f"The disruption budget {name} {why}"}]}


def _selects(budget: Obj, labels: dict[str, str]) -> bool:
    selector = (budget.get("spec") or {}).get("selector")
    return selector is not None and LabelSelector.of(selector).matches(labels)


def _is_ready(pod: Obj) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _lets_go(budget: Obj) -> bool:
    """Whether a pod that is not ready may leave for nothing: it does not count among the healthy ones."""
    if (budget.get("spec") or {}).get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    status = budget.get("status") or {}
    return bool(0 < status.get("desiredHealthy", 0) <= status.get("currentHealthy", 0))
