"""Are the objects of a Kustomization healthy, not yet, or never? Pure.

Source: fluxcd/pkg, ssa (manager_wait.go); fluxcd/kustomize-controller, checkHealth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from havre.api.meta import Obj
from havre.machinery import kstatus
from havre.machinery.api import Ref
from havre.machinery.kstatus import Status
from havre.platform.gitops.apply import shown
from havre.platform.gitops.expressions import HealthExpressions

NONE: Final = HealthExpressions()


class Health(Enum):
    """What the look has shown."""

    PASSED = "passed"
    PROGRESSING = "progressing"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Watched:
    """Since when one revision of the source and one generation of the spec are waited for."""

    revision: str
    generation: int
    began: float

    @classmethod
    def since(cls, before: Watched | None, revision: str, obj: Obj, now: float) -> Watched:
        generation = obj["metadata"].get("generation", 0)
        if before is not None and (before.revision, before.generation) == (revision, generation):
            return before
        return cls(revision, generation, now)


@dataclass(frozen=True, slots=True)
class Judgement:
    """And why."""

    state: Health
    message: str = ""


def judge(
    objects: Sequence[tuple[Ref, Obj | None]],
    waited: float,
    timeout: float,
    now: float,
    expressions: HealthExpressions = NONE,
) -> Judgement:
    """Fails early when something has failed."""
    found = [(ref, _status(obj, now, expressions)) for ref, obj in objects]
    failed = [(ref, status) for ref, status in found if status is Status.FAILED]
    if failed:
        return Judgement(Health.FAILED, f"failed early due to stalled resources: [{_listed(failed)}]")
    waiting = [(ref, status) for ref, status in found if status is not Status.CURRENT]
    if not waiting:
        return Judgement(Health.PASSED)
    if waited >= timeout:
        return Judgement(Health.FAILED, f"timeout waiting for: [{_listed(waiting)}]")
    return Judgement(Health.PROGRESSING, _listed(waiting))


def _status(obj: Obj | None, now: float, expressions: HealthExpressions) -> Status:
    said = expressions.status(obj) if obj is not None and not obj["metadata"].get("deletionTimestamp") else None
    return (said or kstatus.status(obj, now)).status


def _listed(found: Sequence[tuple[Ref, Status]]) -> str:
    return ", ".join(f"{shown(ref)} status: '{status}'" for ref, status in found)
