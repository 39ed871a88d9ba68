"""The ReplicaSets of a Deployment as a rollout sees them: which one is new, their revisions, their names. Pure.

Source: k8s.io/kubernetes, pkg/controller/deployment/util/deployment_util.go; pkg/controller/controller_utils.go.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from havre.api.meta import Obj, annotations_of, parse_time
from havre.control.workloads.template_hash import HASH_LABEL, same_template
from havre.machinery import conditions

REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MOST = "deployment.kubernetes.io/max-replicas"
_OWN = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        "deprecated.deployment.rollback.to",
        REVISION,
        HISTORY,
        DESIRED,
        MOST,
    }
)  # annotations that are not handed down
_HISTORY_CHARS = 2000  # about 100 revisions
_NAME_CHARS = 253
_NEVER = 2**31 - 1  # as a deadline or a limit it means: none


@dataclass(frozen=True, slots=True)
class Spec:
    """The part of the Deployment that decides."""

    name: str
    generation: int
    replicas: int
    template: Obj
    selector: Obj
    min_ready: int  # seconds
    paused: bool
    recreate: bool
    surge: int
    unavailable: int
    history: int | None  # old ReplicaSets to keep; None keeps all
    deadline: int | None  # seconds without progress
    annotations: Mapping[str, str]

    @classmethod
    def of(cls, obj: Obj) -> Spec:
        spec, meta = obj["spec"], obj["metadata"]
        replicas, strategy = spec.get("replicas", 1), spec.get("strategy") or {}
        recreate = strategy.get("type") == "Recreate"
        surge, unavailable = (0, 0) if recreate else fenceposts(strategy.get("rollingUpdate") or {}, replicas)
        return cls(
            name=meta["name"],
            generation=meta.get("generation", 0),
            replicas=replicas,
            template=spec["template"],
            selector=spec["selector"],
            min_ready=spec.get("minReadySeconds") or 0,
            paused=bool(spec.get("paused")),
            recreate=recreate,
            surge=surge,
            unavailable=min(unavailable, replicas),
            history=_limit(spec.get("revisionHistoryLimit", 10)),
            deadline=_limit(spec.get("progressDeadlineSeconds", 600)),
            annotations=annotations_of(obj),
        )

    @property
    def most(self) -> int:
        """Pods at once."""
        return self.replicas + self.surge

    @property
    def fewest(self) -> int:
        """Available pods at any time."""
        return self.replicas - self.unavailable


def _limit(value: int | None) -> int | None:
    return None if value == _NEVER else value


def fenceposts(rolling: Mapping[str, Any], replicas: int) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) as pods: the one rounded up, the other down; if both are 0, one may be missing."""
    surge = portion(rolling.get("maxSurge") or 0, replicas, up=True)
    unavailable = portion(rolling.get("maxUnavailable") or 0, replicas, up=False)
    return surge, unavailable if surge or unavailable else 1


def portion(value: int | str, total: int, *, up: bool) -> int:
    """An int-or-percent of a total."""
    if isinstance(value, int):
        return value
    hundredths = int(value.rstrip("%")) * total
    return -(-hundredths // 100) if up else hundredths // 100


@dataclass(frozen=True, slots=True)
class Set:
    """One ReplicaSet; `size` is what it should have, `replicas` what it has."""

    name: str
    uid: str
    created: float
    size: int
    replicas: int
    ready: int
    available: int
    settled: bool  # its controller has seen its last change
    leaving: bool
    annotations: Mapping[str, str]
    template: Obj
    min_ready: int
    failure: Obj | None  # its condition ReplicaFailure

    @classmethod
    def of(cls, obj: Obj) -> Set:
        meta, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
        made = meta.get("creationTimestamp")
        return cls(
            name=meta["name"],
            uid=meta.get("uid", ""),
            created=parse_time(made) if made else math.inf,
            size=spec.get("replicas", 1),
            replicas=status.get("replicas", 0),
            ready=status.get("readyReplicas", 0),
            available=status.get("availableReplicas", 0),
            settled=status.get("observedGeneration", 0) >= meta.get("generation", 0),
            leaving=bool(meta.get("deletionTimestamp")),
            annotations=annotations_of(obj),
            template=spec.get("template") or {},
            min_ready=spec.get("minReadySeconds") or 0,
            failure=conditions.find(status.get("conditions") or (), "ReplicaFailure"),
        )

    @property
    def revision(self) -> int:
        return _int(self.annotations.get(REVISION)) or 0

    def annotated(self, key: str) -> int | None:
        """The count an annotation holds."""
        value = _int(self.annotations.get(key))
        return value if value is not None and 0 <= value <= _NEVER else None


def _int(text: str | None) -> int | None:
    return int(text) if text is not None and text.lstrip("-").isdecimal() else None


def oldest_first(sets: Iterable[Set]) -> list[Set]:
    return sorted(sets, key=lambda each: (each.created, each.name))


def by_revision(sets: Iterable[Set]) -> list[Set]:
    return sorted(oldest_first(sets), key=lambda each: each.revision)


def by_size(sets: Iterable[Set], *, newer: bool) -> list[Set]:
    """The largest first; of the same size the newer or the older."""
    aged = oldest_first(sets)
    return sorted(reversed(aged) if newer else aged, key=lambda each: -each.size)


def new_of(spec: Spec, sets: Iterable[Set]) -> Set | None:
    """The oldest that has the template of the Deployment."""
    return next((each for each in oldest_first(sets) if same_template(each.template, spec.template)), None)


def total(sets: Iterable[Set]) -> int:
    return sum(each.size for each in sets)


# annotations


def handed_down(spec: Spec, live: Mapping[str, str], revision: int) -> dict[str, str]:
    """What the new set's annotations become: the Deployment's, its revision, the revisions it has had."""
    new = {**live, **{key: value for key, value in spec.annotations.items() if key not in _OWN}}
    was = live.get(REVISION)
    held = 0 if not was else _int(was)
    if held is None or held >= revision:
        return new
    new[REVISION] = str(revision)
    if was is not None:
        new[HISTORY] = _longer(live.get(HISTORY, ""), was)
    return new


def _longer(history: str, revision: str) -> str:
    """The history with one more entry; the oldest go when it gets too long."""
    entries = [*(entry for entry in history.split(",") if entry), revision]
    while len(",".join(entries)) > _HISTORY_CHARS:
        entries.pop(0)
    return ",".join(entries)


def counted(spec: Spec) -> dict[str, str]:
    """What every scaled set remembers, for proportions later."""
    return {DESIRED: str(spec.replicas), MOST: str(spec.most)}


# a new set


def new_set(deployment: Obj, spec: Spec, hash: str, revision: int, size: int) -> Obj:
    """The ReplicaSet of the template; its name is made of the hash, so that making it twice makes one."""
    labels = {**((spec.template.get("metadata") or {}).get("labels") or {}), HASH_LABEL: hash}
    template = {**spec.template, "metadata": {**(spec.template.get("metadata") or {}), "labels": labels}}
    selector = {**spec.selector, "matchLabels": {**(spec.selector.get("matchLabels") or {}), HASH_LABEL: hash}}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{spec.name[: _NAME_CHARS - 1 - len(hash)]}-{hash}",
            "namespace": deployment["metadata"]["namespace"],
            "labels": labels,
            "annotations": {**handed_down(spec, {}, revision), **counted(spec)},
        },
        "spec": {
            "replicas": size,
            **({"minReadySeconds": spec.min_ready} if spec.min_ready else {}),
            "selector": selector,
            "template": template,
        },
    }
