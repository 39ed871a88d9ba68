"""Time to live of a finished Job: deleted so many seconds after its end.

reads   Job
writes  Job (delete, with its pods)
wakes   on Job; time
source  k8s.io/kubernetes, pkg/controller/ttlafterfinished
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from havre.api.errors import NotFound
from havre.api.meta import GVK, Obj, parse_time
from havre.control.workloads.chore import Change, Chore
from havre.machinery.api import Api, Ref

JOB = GVK("batch", "v1", "Job")


def plan(job: Obj) -> float | None:
    """When it is to be deleted, since the epoch; None: it stays."""
    ttl = (job.get("spec") or {}).get("ttlSecondsAfterFinished")
    if ttl is None or job["metadata"].get("deletionTimestamp"):
        return None
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return parse_time(condition["lastTransitionTime"]) + float(ttl)
    return None


@dataclass(frozen=True, slots=True)
class Reconciler:
    now: Callable[[], float] = time.time

    async def __call__(self, ref: Ref, api: Api) -> float | None:
        job = await api.get(ref)
        at = None if job is None else plan(job)
        if job is None or at is None:
            return None
        if at > self.now():
            return at - self.now()
        meta = job["metadata"]
        try:
            await api.delete(ref, uid=meta["uid"], revision=meta["resourceVersion"], propagation="Foreground")
        except NotFound:
            return None
        return None


def wakes(change: Change) -> Iterable[Ref]:
    if change.kind.gvk == JOB and change.obj is not None and plan(change.obj) is not None:
        yield change.node.ref


def chore() -> Chore:
    return Chore("ttl-after-finished", Reconciler(), wakes)
