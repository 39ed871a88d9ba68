"""So many pods of a template: the engine of ReplicaSet and of ReplicationController.

reads   the set; Pods of its namespace; for a scale-down the other sets of the same owner
writes  Pods (create, delete, adopt, release); the set's status
wakes   on the set; its Pods; an orphan wakes the sets that select it
source  k8s.io/kubernetes, pkg/controller/replicaset (replica_set.go, replica_set_utils.go)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from havre.api.errors import ApiError
from havre.api.meta import GVK, Obj, controller_of, labels_of, rfc3339
from havre.control.workloads import dependents
from havre.control.workloads.dependents import BURST, MANAGER, Done
from havre.control.workloads.pods import POD, first_to_go, is_active, is_available, is_ready, next_available
from havre.lang.selector import LabelSelector
from havre.machinery import conditions
from havre.machinery.api import Api
from havre.machinery.controller import Controller, Plan
from havre.machinery.informer import look
from havre.machinery.owners import by_controller

FAILURE = "ReplicaFailure"
RETRY = 0.1  # seconds before the first retry: a default account or a quota is often there a moment later


@dataclass(frozen=True, slots=True)
class Spec:
    """The part of the set's spec that decides."""

    replicas: int
    selector: LabelSelector
    template: Obj
    min_ready: int  # seconds

    @classmethod
    def of(cls, obj: Obj) -> Spec:
        spec = obj.get("spec") or {}
        return cls(
            spec.get("replicas", 1), selector_of(obj), spec.get("template") or {}, spec.get("minReadySeconds") or 0
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """Active pods that are the set's, and those of its siblings."""

    pods: Sequence[Obj]
    related: Sequence[Obj]
    now: float  # since the epoch


@dataclass(frozen=True, slots=True)
class Steps:
    """So many pods more, or these less."""

    create: int = 0
    delete: tuple[Obj, ...] = ()


def selector_of(obj: Obj) -> LabelSelector:
    """A ReplicationController selects by a plain map."""
    selector = (obj.get("spec") or {}).get("selector")
    return LabelSelector.of_labels(selector) if obj["kind"] == "ReplicationController" else LabelSelector.of(selector)


def plan(spec: Spec, seen: Seen) -> Steps:
    missing = spec.replicas - len(seen.pods)
    if missing >= 0:
        return Steps(create=min(missing, BURST))
    count = min(-missing, BURST)
    if count == len(seen.pods):
        return Steps(delete=tuple(seen.pods))
    return Steps(delete=tuple(first_to_go(seen.pods, seen.related, seen.now)[:count]))


def status(live: Obj, spec: Spec, seen: Seen, error: ApiError | None) -> dict[str, Any]:
    """What the set says of its pods; a count of nothing is absent, as upstream writes it."""
    wanted = (spec.template.get("metadata") or {}).get("labels") or {}
    labeled = sum(wanted.items() <= labels_of(pod).items() for pod in seen.pods)
    available = sum(is_available(pod, spec.min_ready, seen.now) for pod in seen.pods)
    return {
        "replicas": len(seen.pods),
        "fullyLabeledReplicas": labeled or None,
        "readyReplicas": sum(map(is_ready, seen.pods)) or None,
        "availableReplicas": available or None,
        "observedGeneration": live["metadata"].get("generation"),
        "conditions": _conditions(live, len(seen.pods) - spec.replicas, error, rfc3339(seen.now)) or None,
    }


def _conditions(live: Obj, surplus: int, error: ApiError | None, now: str) -> list[Obj]:
    """The first failure stays until there is none."""
    held = (live.get("status") or {}).get("conditions") or []
    if error is None:
        return conditions.remove(held, FAILURE)
    if conditions.find(held, FAILURE):
        return [*held]
    failure = {"type": FAILURE, "status": "True", "lastTransitionTime": now}
    return [*held, {**failure, "reason": "FailedCreate" if surplus < 0 else "FailedDelete", "message": str(error)}]


async def reconcile(obj: Obj, api: Api, *, now: Callable[[], float] = time.time) -> Plan:
    spec, namespace = Spec.of(obj), obj["metadata"]["namespace"]
    everyone = await look(api, POD, namespace)
    active = [pod for pod in everyone if is_active(pod)]
    mine = await dependents.claim(obj, spec.selector, active, api)
    related = await _related(obj, active, api) if len(mine) > spec.replicas else mine
    seen = Seen(mine, related, now())
    done = await _carry_out(plan(spec, seen), spec, obj, api)
    again = next_available(mine, spec.min_ready, seen.now)
    return done.plan(again, status(obj, spec, seen, done.error))


async def _carry_out(steps: Steps, spec: Spec, obj: Obj, api: Api) -> Done:
    done = Done()
    await dependents.create_slowly([dependents.pod_of(spec.template, obj)] * steps.create, api, done)
    await dependents.delete_pods(steps.delete, api, done)
    return done


async def _related(obj: Obj, active: Iterable[Obj], api: Api) -> list[Obj]:
    """The pods of all sets that have the same controller as this one."""
    boss, gvk = controller_of(obj), GVK.of(obj)
    if boss is None:
        sets = [obj]
    else:
        held = await look(api, gvk, obj["metadata"]["namespace"])
        sets = [each for each in held if (controller_of(each) or {}).get("uid") == boss["uid"]]
    selectors = [selector_of(each) for each in sets]
    return [pod for pod in active if any(selector.matches(labels_of(pod)) for selector in selectors)]


def wanted_by(obj: Obj, pod: Obj) -> bool:
    """An orphan that the set selects."""
    return controller_of(pod) is None and selector_of(obj).matches(labels_of(pod))


def controller(kind: GVK, component: str) -> Controller:
    """The controller of one of the two kinds."""
    return Controller(
        kind,
        reconcile,
        wakes={POD: by_controller(kind)},
        selects={POD: wanted_by},
        manager=MANAGER,
        component=component,
        words=None,
        suspendable=False,
        cached=True,
        base=RETRY,
    )
