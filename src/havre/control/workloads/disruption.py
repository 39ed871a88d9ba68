"""PodDisruptionBudget: how many of its pods may be evicted now.

reads   PodDisruptionBudget; Pods of its namespace; the owners of these, for their scale
writes  PodDisruptionBudget.status
wakes   on PodDisruptionBudget; a Pod wakes the budgets that select it; time (an eviction that came to nothing)
source  k8s.io/kubernetes, pkg/controller/disruption

An eviction takes one from `disruptionsAllowed` and writes the pod into `disruptedPods` (the API server does); here the
count is made again, and a pod that is not being deleted two minutes later is taken from the list.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from havre.api.kinds import by_gvk
from havre.api.meta import GVK, Obj, controller_of, labels_of, name_of, namespace_of, parse_time, rfc3339
from havre.control.workloads.dependents import MANAGER
from havre.control.workloads.deployment.sets import portion
from havre.control.workloads.pods import POD, is_leaving, is_ready
from havre.control.workloads.replica_set import REPLICA_SET
from havre.lang.selector import LabelSelector
from havre.machinery import conditions
from havre.machinery.api import Api, Ref
from havre.machinery.conditions import Condition
from havre.machinery.controller import Controller, Plan
from havre.machinery.events import Note
from havre.machinery.informer import look

BUDGET = GVK("policy", "v1", "PodDisruptionBudget")
ALLOWED = "DisruptionAllowed"
GRACE = 120.0  # seconds in which an evicted pod must begin to end


class NoScale(Exception):
    """It cannot be told how many pods there should be."""


@dataclass(frozen=True, slots=True)
class Spec:
    """The part of the budget that decides: one of the two is set."""

    most_missing: int | str | None
    fewest: int | str | None
    selector: LabelSelector

    @classmethod
    def of(cls, obj: Obj) -> Spec:
        spec = obj.get("spec") or {}
        return cls(spec.get("maxUnavailable"), spec.get("minAvailable"), LabelSelector.of(spec.get("selector")))

    @property
    def needs_scale(self) -> bool:
        return self.most_missing is not None or isinstance(self.fewest, str)


@dataclass(frozen=True, slots=True)
class Seen:
    """The pods that the budget selects; how many their owners want, where the budget needs that."""

    pods: Sequence[Obj]
    scale: int
    now: float  # since the epoch


def plan(budget: Obj, spec: Spec, seen: Seen) -> Plan:
    live, generation = budget.get("status") or {}, budget["metadata"].get("generation", 0)
    disrupted, again = _disrupted(live.get("disruptedPods") or {}, seen)
    healthy = sum(is_ready(pod) for pod in seen.pods if not is_leaving(pod) and name_of(pod) not in disrupted)
    expected, wanted = _wanted(spec, seen)
    allowed = max(0, healthy - wanted) if expected > 0 else 0
    said = Condition(ALLOWED, allowed > 0, "SufficientPods" if allowed else "InsufficientPods")
    status = {
        "currentHealthy": healthy,
        "desiredHealthy": wanted,
        "expectedPods": expected,
        "disruptionsAllowed": allowed,
        "disruptedPods": disrupted or None,
        "observedGeneration": generation or None,
        "conditions": _said(live, said, seen.now, generation),
    }
    notes = () if seen.pods else (Note("NoPods", "No matching pods found"),)
    return Plan(status=status, notes=notes, again=again)


def _said(live: Obj, said: Condition, now: float, generation: int) -> list[Obj]:
    return conditions.merge(live.get("conditions") or (), (said,), now=rfc3339(now), generation=generation)


def _disrupted(listed: Mapping[str, str], seen: Seen) -> tuple[dict[str, str], float | None]:
    """Evicted pods that have not begun to end, and when the first of them is given up."""
    waiting = {name_of(pod) for pod in seen.pods if not is_leaving(pod)}
    kept = {name: at for name, at in listed.items() if name in waiting and parse_time(at) + GRACE > seen.now}
    return kept, min((parse_time(at) + GRACE - seen.now for at in kept.values()), default=None)


def _wanted(spec: Spec, seen: Seen) -> tuple[int, int]:
    """(how many pods there should be, how many healthy ones)."""
    if spec.most_missing is not None:
        return seen.scale, max(0, seen.scale - portion(spec.most_missing, seen.scale, up=True))
    if isinstance(spec.fewest, str):
        return seen.scale, portion(spec.fewest, seen.scale, up=True)
    return len(seen.pods), spec.fewest or 0


def failed(budget: Obj, error: Exception, now: float) -> Plan:
    """When nobody knows, nothing is allowed."""
    live, generation = budget.get("status") or {}, (budget.get("status") or {}).get("observedGeneration", 0)
    said = _said(live, Condition(ALLOWED, False, "SyncFailed", str(error)), now, generation)
    words = f"Failed to calculate the number of expected pods: {error}"
    note = Note("CalculateExpectedPodCountFailed", words, "Warning")
    return Plan(status={"disruptionsAllowed": 0, "conditions": said}, notes=(note,), failed=error)


async def reconcile(budget: Obj, api: Api, *, now: Callable[[], float] = time.time) -> Plan:
    spec = Spec.of(budget)
    pods = [pod for pod in await look(api, POD, namespace_of(budget)) if spec.selector.matches(labels_of(pod))]
    try:
        scale = await _scale(pods, namespace_of(budget), api) if spec.needs_scale else 0
    except NoScale as error:
        return failed(budget, error, now())
    return plan(budget, spec, Seen(pods, scale, now()))


async def _scale(pods: Sequence[Obj], namespace: str, api: Api) -> int:
    """The replicas of all owners together. Raises NoScale."""
    wanted: dict[str, int] = {}
    for pod in pods:
        owner = controller_of(pod)
        if owner is not None and owner["uid"] not in wanted:
            uid, replicas = await _replicas(owner, pod, namespace, api)
            wanted[owner["uid"]] = 0
            wanted[uid] = replicas
    return sum(wanted.values())


async def _replicas(owner: Obj, pod: Obj, namespace: str, api: Api) -> tuple[str, int]:
    """(who decides on the number, the number): of a ReplicaSet, its Deployment."""
    gvk = GVK.of(owner)
    obj = await api.get(Ref(gvk, namespace, owner["name"]))
    if obj is None or obj["metadata"]["uid"] != owner["uid"]:
        raise NoScale(f'found no controllers for pod "{name_of(pod)}"')
    boss = controller_of(obj) if gvk == REPLICA_SET else None
    if boss is not None:
        return await _replicas(boss, pod, namespace, api)
    replicas = (obj.get("spec") or {}).get("replicas")
    if not isinstance(replicas, int):
        kind = by_gvk(gvk)
        plural = kind.plural if kind else f"{gvk.kind.lower()}s"
        raise NoScale(f"{plural}.{gvk.group} does not implement the scale subresource")
    return obj["metadata"]["uid"], replicas


def selects(budget: Obj, pod: Obj) -> bool:
    return Spec.of(budget).selector.matches(labels_of(pod))


def controller() -> Controller:
    return Controller(
        BUDGET,
        reconcile,
        selects={POD: selects},
        manager=MANAGER,
        component="controllermanager",
        words=None,
        suspendable=False,
        cached=True,
    )
