"""Which pod of a StatefulSet is made or deleted next, and what it says. Pure.

In order (OrderedReady): from the lowest number up, each pod has to be there, running and available before the next one
is looked at; then those beyond the replicas go, the highest first; then, one at a time from the highest down to the
partition, pods of an old revision are deleted, to be made again. Parallel: nobody waits for another, but an update is
still one at a time.

Source: k8s.io/kubernetes, pkg/controller/statefulset/stateful_set_control.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from havre.api.meta import Obj, name_of
from havre.control.workloads.controller_revision import Revisions, template_of
from havre.control.workloads.pods import is_available, is_finished, is_leaving, is_ready, phase_of
from havre.control.workloads.stateful_set import claims
from havre.control.workloads.stateful_set.pods import claims_of, has_identity, new_pod, ordinal_of, revision_of


@dataclass(frozen=True, slots=True)
class Spec:
    """The part of the StatefulSet that decides."""

    replicas: int
    first: int  # number of the first pod
    min_ready: int  # seconds
    parallel: bool
    rolling: bool  # else old pods stay until somebody deletes them
    partition: int | None  # lower pods stay old; None: no rollingUpdate is written
    history: int

    @classmethod
    def of(cls, obj: Obj) -> Spec:
        spec = obj["spec"]
        strategy = spec.get("updateStrategy") or {}
        rolling = strategy.get("rollingUpdate")
        return cls(
            replicas=spec.get("replicas", 1),
            first=(spec.get("ordinals") or {}).get("start") or 0,
            min_ready=spec.get("minReadySeconds") or 0,
            parallel=spec.get("podManagementPolicy") == "Parallel",
            rolling=strategy.get("type") != "OnDelete",
            partition=None if rolling is None else rolling.get("partition") or 0,
            history=spec.get("revisionHistoryLimit", 10),
        )

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.replicas)


@dataclass(frozen=True, slots=True)
class Seen:
    """The pods of the set, the claims of its namespace by name, its revisions."""

    pods: Sequence[Obj]
    claims: Mapping[str, Obj]
    revisions: Revisions
    now: float  # since the epoch


@dataclass(frozen=True, slots=True)
class Create:
    """A pod, and before it the claims that are missing."""

    pod: Obj
    claims: tuple[Obj, ...] = ()


@dataclass(frozen=True, slots=True)
class Delete:
    pod: Obj


@dataclass(frozen=True, slots=True)
class Label:
    """Give a pod its identity back."""

    pod: Obj


@dataclass(frozen=True, slots=True)
class Own:
    """Write the owners of a claim."""

    claim: Obj
    owners: tuple[Obj, ...]


@dataclass(frozen=True, slots=True)
class Fill:
    """Make the claims that a pending pod waits for."""

    pod: Obj
    claims: tuple[Obj, ...]


Step = Create | Delete | Label | Own | Fill


@dataclass(frozen=True, slots=True)
class Steps:
    do: tuple[Step, ...]
    status: Mapping[str, Any] = field(default_factory=dict)


def plan(set: Obj, spec: Spec, seen: Seen) -> Steps:
    draft = _Draft(set, spec, seen)
    if draft.complete() and draft.shrink() and spec.rolling:
        draft.update()
    return Steps(tuple(draft.steps), draft.status())


class _Draft:
    """The plan while it is made."""

    def __init__(self, set: Obj, spec: Spec, seen: Seen) -> None:
        self._set, self._spec, self._seen = set, spec, seen
        self._live: Obj = set.get("status") or {}
        self._update = seen.revisions.update
        self._current = seen.revisions.named(self._live.get("currentRevision") or "") or self._update
        numbered = {ordinal_of(set, pod): pod for pod in seen.pods}
        self._pods = {number: pod for number, pod in numbered.items() if number is not None}
        self.steps: list[Step] = []
        self._deleted_for_update = 0

    def complete(self) -> bool:
        """Every number has its pod; False: wait before going on."""
        for number in self._spec.numbers:
            if not self._settled(number) and not self._spec.parallel:
                return False
        return not (self._spec.parallel and any(isinstance(step, (Create, Delete)) for step in self.steps))

    def _settled(self, number: int) -> bool:
        """Is this pod as it should be? Otherwise something is done for it, or waited for."""
        pod = self._pods.get(number)
        if pod is None:
            self._create(number)
            return False
        if is_finished(pod):
            if not is_leaving(pod):
                self.steps.append(Delete(pod))
            return False
        missing = self._missing(number)
        if phase_of(pod) == "Pending" and missing:
            self.steps.append(Fill(pod, missing))
        waits = is_leaving(pod) or not is_available(pod, self._spec.min_ready, self._seen.now)
        if not self._spec.parallel and (waits or phase_of(pod) != "Running"):
            return False
        if not has_identity(pod):
            self.steps.append(Label(pod))
        self._own(number, pod, condemned=False)
        return True

    def _create(self, number: int) -> None:
        name, wanted = f"{name_of(self._set)}-{number}", claims_of(self._set, number).values()
        held = [self._seen.claims[name_of(each)] for each in wanted if name_of(each) in self._seen.claims]
        if any(claims.of_a_former_pod(each, name) or is_leaving(each) for each in held):
            return  # its end brings us back
        revision = self._current if self._stays_old(number) else self._update
        pod = new_pod(self._set, template_of(revision), number, name_of(revision))
        self.steps.append(Create(pod, self._missing(number)))

    def _stays_old(self, number: int) -> bool:
        spec = self._spec
        if not spec.rolling:
            return False
        old = self._live.get("currentReplicas") or 0 if spec.partition is None else spec.partition
        return number < spec.first + old

    def _missing(self, number: int) -> tuple[Obj, ...]:
        wanted = claims_of(self._set, number).values()
        return tuple(claim for claim in wanted if name_of(claim) not in self._seen.claims)

    def _own(self, number: int, pod: Obj, *, condemned: bool) -> None:
        for wanted in claims_of(self._set, number).values():
            claim = self._seen.claims.get(name_of(wanted))
            if claim is None:
                continue
            owners = claims.owners(self._set, pod, claim, condemned=condemned)
            if owners is not None:
                self.steps.append(Own(claim, tuple(owners)))

    # beyond the replicas

    def _condemned(self) -> list[tuple[int, Obj]]:
        """The highest number first."""
        return sorted(((n, p) for n, p in self._pods.items() if n not in self._spec.numbers), key=lambda each: -each[0])

    def shrink(self) -> bool:
        """True when there is nothing to take away."""
        condemned = self._condemned()
        for number, pod in condemned:
            self._own(number, pod, condemned=True)
        first = self._first_unavailable(condemned)
        for _, pod in condemned:
            if is_leaving(pod):
                if not self._spec.parallel:
                    return False
                continue
            healthy = phase_of(pod) == "Running" and is_available(pod, self._spec.min_ready, self._seen.now)
            if not self._spec.parallel and not healthy and pod is not first:
                return False
            self.steps.append(Delete(pod))
            if not self._spec.parallel:
                return False
        return not condemned

    def _first_unavailable(self, condemned: Sequence[tuple[int, Obj]]) -> Obj | None:
        kept = [self._pods[number] for number in self._spec.numbers if number in self._pods]
        return next((pod for pod in [*kept, *(p for _, p in reversed(condemned))] if self._is_unavailable(pod)), None)

    def _is_unavailable(self, pod: Obj) -> bool:
        return is_leaving(pod) or not is_available(pod, self._spec.min_ready, self._seen.now)

    # old revisions

    def update(self) -> None:
        for number in reversed(self._spec.numbers):
            if number < (self._spec.partition or 0):
                return
            pod = self._pods.get(number)
            if pod is None:
                return
            if revision_of(pod) != name_of(self._update) and not is_leaving(pod):
                self.steps.append(Delete(pod))
                self._deleted_for_update = 1
                return
            if self._is_unavailable(pod):
                return

    # what it says

    def status(self) -> dict[str, Any]:
        pods, now, spec = [*self._pods.values()], self._seen.now, self._spec
        staying = [pod for pod in pods if not is_leaving(pod)]
        ready = [pod for pod in pods if phase_of(pod) == "Running" and is_ready(pod)]
        updated = sum(revision_of(pod) == name_of(self._update) for pod in staying)
        current = sum(revision_of(pod) == name_of(self._current) for pod in staying) - self._deleted_for_update
        revision = name_of(self._current)
        if spec.rolling and updated == len(ready) == len(pods) == spec.replicas:
            current, revision = updated, name_of(self._update)
        return {
            "observedGeneration": self._set["metadata"].get("generation"),
            "replicas": len(pods),
            "readyReplicas": len(ready) or None,
            "availableReplicas": sum(is_available(pod, spec.min_ready, now) for pod in ready),
            "currentReplicas": max(0, current) or None,
            "updatedReplicas": updated or None,
            "currentRevision": revision,
            "updateRevision": name_of(self._update),
            "collisionCount": self._live.get("collisionCount") or 0,
        }
