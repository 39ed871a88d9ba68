"""What a Deployment says of itself: counts, Available, Progressing, ReplicaFailure. Pure.

Source: k8s.io/kubernetes, pkg/controller/deployment/progress.go, sync.go (calculateStatus).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from havre.api.meta import Obj, parse_time, rfc3339
from havre.control.workloads.deployment.sets import Set, Spec, total
from havre.machinery import conditions

PROGRESSING, AVAILABLE, FAILURE = "Progressing", "Available", "ReplicaFailure"
DONE, TIMED_OUT = "NewReplicaSetAvailable", "ProgressDeadlineExceeded"
PAUSED, RESUMED = "DeploymentPaused", "DeploymentResumed"
CREATED, FOUND, NOT_CREATED = "NewReplicaSetCreated", "FoundNewReplicaSet", "ReplicaSetCreateError"


@dataclass(slots=True)
class Said:
    """The conditions while they are being decided: one that keeps status and reason stays as it is."""

    held: list[Obj]
    now: str

    def find(self, type: str) -> Obj | None:
        return conditions.find(self.held, type)

    def reason(self, type: str) -> str:
        return str((self.find(type) or {}).get("reason", ""))

    def say(self, type: str, status: str, reason: str, message: str) -> None:
        old = self.find(type)
        if old is not None and (old.get("status"), old.get("reason")) == (status, reason):
            return
        self.renew(type, status, reason, message)

    def renew(self, type: str, status: str, reason: str, message: str) -> None:
        """With a new time of update, whatever was there."""
        old = self.find(type)
        since = old["lastTransitionTime"] if old is not None and old.get("status") == status else self.now
        new = {"type": type, "status": status, "lastUpdateTime": self.now, "lastTransitionTime": since}
        self.held = [*conditions.remove(self.held, type), {**new, "reason": reason, "message": message}]

    def unsay(self, type: str) -> None:
        self.held = conditions.remove(self.held, type)


def said_of(deployment: Obj, now: float) -> Said:
    return Said([*((deployment.get("status") or {}).get("conditions") or ())], rfc3339(now))


def pause_or_resume(spec: Spec, said: Said) -> None:
    """So that a Deployment that was paused for long is not late the moment it goes on."""
    reason = said.reason(PROGRESSING)
    if spec.deadline is None or reason == TIMED_OUT:
        return
    if spec.paused and reason != PAUSED:
        said.say(PROGRESSING, "Unknown", PAUSED, "Deployment is paused")
    elif not spec.paused and reason == PAUSED:
        said.say(PROGRESSING, "Unknown", RESUMED, "Deployment is resumed")


def status(spec: Spec, live: Obj, new: Set | None, old: Sequence[Set], said: Said) -> dict[str, Any]:
    """The counts; says Available. Zero is absent."""
    sets = [*old, *([new] if new else [])]
    available = sum(each.available for each in sets)
    if available >= spec.fewest:
        said.say(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    else:
        said.say(AVAILABLE, "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    return {
        "observedGeneration": spec.generation or None,
        "replicas": sum(each.replicas for each in sets) or None,
        "updatedReplicas": (new.replicas if new else 0) or None,
        "readyReplicas": sum(each.ready for each in sets) or None,
        "availableReplicas": available or None,
        "unavailableReplicas": max(0, total(sets) - available) or None,
        "collisionCount": live.get("collisionCount"),
    }


def is_complete(spec: Spec, counts: Obj) -> bool:
    """Every pod is of the new template and available."""
    keys = ("updatedReplicas", "replicas", "availableReplicas")
    seen = (counts.get("observedGeneration") or 0) >= spec.generation
    return seen and all((counts.get(key) or 0) == spec.replicas for key in keys)


def estimate(spec: Spec, live: Obj, counts: Obj, new: Set | None, old: Sequence[Set], said: Said) -> None:
    """Says Progressing, while a rollout goes on, and what keeps sets from having their pods."""
    if spec.deadline is None:
        said.unsay(PROGRESSING)
    settled = (counts["replicas"] or 0) == (counts["updatedReplicas"] or 0) and said.reason(PROGRESSING) == DONE
    if spec.deadline is not None and not settled:
        _say_progress(spec, live, counts, f'ReplicaSet "{new.name}"' if new else f'Deployment "{spec.name}"', said)
    failures = [each.failure for each in ([new] if new else []) + [*old] if each.failure]
    if failures:
        said.say(FAILURE, failures[0]["status"], failures[0].get("reason", ""), failures[0].get("message", ""))
    else:
        said.unsay(FAILURE)


def _say_progress(spec: Spec, live: Obj, counts: Obj, who: str, said: Said) -> None:
    if is_complete(spec, counts):
        said.say(PROGRESSING, "True", DONE, f"{who} has successfully progressed.")
    elif _has_moved(live, counts):
        said.renew(PROGRESSING, "True", "ReplicaSetUpdated", f"{who} is progressing.")
    elif _is_late(spec, said):
        said.say(PROGRESSING, "False", TIMED_OUT, f"{who} has timed out progressing.")


def _has_moved(live: Obj, counts: Obj) -> bool:
    def of(status: Obj, key: str) -> int:
        return int(status.get(key) or 0)

    old_before = of(live, "replicas") - of(live, "updatedReplicas")
    old_now = of(counts, "replicas") - of(counts, "updatedReplicas")
    grown = any(of(counts, key) > of(live, key) for key in ("updatedReplicas", "readyReplicas", "availableReplicas"))
    return grown or old_now < old_before


def _is_late(spec: Spec, said: Said) -> bool:
    held = said.find(PROGRESSING)
    if held is None or spec.deadline is None or held.get("reason") == DONE:
        return False
    due = parse_time(held["lastUpdateTime"]) + spec.deadline
    return held.get("reason") == TIMED_OUT or due < parse_time(said.now)


def next_look(spec: Spec, counts: Obj, said: Said) -> float | None:
    """Seconds until it may be late; None: a change will tell."""
    held = said.find(PROGRESSING)
    if spec.deadline is None or held is None or is_complete(spec, counts) or held.get("reason") in (DONE, TIMED_OUT):
        return None
    left = parse_time(held["lastUpdateTime"]) + spec.deadline - parse_time(said.now)
    return max(left, 0.0) + 1.0  # times have whole seconds
