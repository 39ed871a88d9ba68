"""ResourceQuota: status.hard and status.used say what is limited and what is there.

reads   ResourceQuota; in its namespace, the kinds that it limits
writes  ResourceQuota.status
wakes   on ResourceQuota when its spec and status differ; what goes, and what may cost less than before, wakes the
        quotas of its namespace that count it; time
source  k8s.io/kubernetes, pkg/controller/resourcequota; k8s.io/apiserver, pkg/quota/v1

Admission charges what is created before it exists, so only what costs less needs a recount. The write is a
compare-and-swap: a charge made while we counted makes us count again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from havre.api import amounts, quota
from havre.api.errors import ApiError, NotFound
from havre.api.kinds import Kind
from havre.api.meta import GVK, Obj
from havre.control.workloads.chore import Change, Chore
from havre.control.workloads.served import once
from havre.kit.quantity import Quantity
from havre.machinery.api import Api, Ref

RESOURCE_QUOTA = GVK("", "v1", "ResourceQuota")
POD = GVK("", "v1", "Pod")
MANAGER = "kube-controller-manager"
RESYNC = 300.0  # seconds; upstream's: what a failed creation was charged comes back then

_UNCOUNTED = frozenset({("", "events"), ("events.k8s.io", "events")})
_SHRINK = frozenset({("", "services"), ("", "persistentvolumeclaims")})  # may cost less after any change
_FINISHED = frozenset({"Succeeded", "Failed"})
GATHER = 0.05  # seconds: a namespace that is emptied is counted 20 times a second at most, not once per object

Kinds = Callable[[], Iterable[Kind]]
"""What is served now."""


def plan(live: Obj, counted: Mapping[str, Quantity]) -> Obj | None:
    """The status to write; None when it is right. What could not be counted keeps its last number."""
    hard, status = (live.get("spec") or {}).get("hard") or {}, live.get("status") or {}
    known = {**amounts.read(status.get("used")), **counted}
    used = amounts.mask(known, hard)
    same = amounts.read(status.get("hard")) == amounts.read(hard) and amounts.read(status.get("used")) == used
    if same and "hard" in status and "used" in status:
        return None
    return {**status, "hard": dict(hard), "used": amounts.write(used)}


def limited(live: Obj, kinds: Iterable[Kind]) -> list[Kind]:
    """The kinds whose objects it counts."""
    hard = (live.get("spec") or {}).get("hard") or {}
    return [
        kind
        for kind in once(kinds, "list")
        if kind.namespaced and (kind.group, kind.plural) not in _UNCOUNTED and _matches(kind, hard)
    ]


def _matches(kind: Kind, hard: Iterable[str]) -> bool:
    return bool(quota.matching(kind.group, kind.plural, hard))


async def reconcile(ref: Ref, api: Api, *, kinds: Kinds, now: Callable[[], float]) -> float | None:
    live = await api.get(ref)
    if live is None:
        return None
    counted: dict[str, Quantity] = {}
    failure: ApiError | None = None
    for kind in limited(live, kinds()):
        try:
            objects = (await api.list(kind.gvk, ref.namespace)).items
        except ApiError as error:  # the others are right all the same
            failure = error
            continue
        counted |= quota.counted(live, kind.group, kind.plural, objects, now())
    status = plan(live, counted)
    if status is not None:
        try:
            await api.update({**live, "status": status}, manager=MANAGER, subresource="status")
        except NotFound:
            return None
    if failure is not None:
        raise failure
    return RESYNC


def _may_cost_less(kind: Kind, obj: Obj) -> bool:
    """Than before: a pod that is finished, being deleted or resized; its other changes are many and cost nothing."""
    if kind.gvk != POD:
        return (kind.group, kind.plural) in _SHRINK
    meta = obj["metadata"]
    finished = (obj.get("status") or {}).get("phase") in _FINISHED
    return finished or "deletionTimestamp" in meta or meta.get("generation", 1) > 1


class Affected:
    """Whom a change concerns; remembers which quotas there are, and what they limit."""

    def __init__(self) -> None:
        self._hard: dict[str, dict[Ref, tuple[str, ...]]] = {}  # by namespace

    def __call__(self, change: Change) -> Iterable[Ref]:
        kind, ref = change.kind, change.node.ref
        if kind.gvk == RESOURCE_QUOTA:
            yield from self._of_quota(ref, change.obj, new=change.old is None)
        if ref.namespace not in self._hard:
            return
        if change.obj is None or (change.old is not None and _may_cost_less(kind, change.obj)):
            for each, hard in self._hard[ref.namespace].items():
                if _matches(kind, hard):
                    yield each

    def _of_quota(self, ref: Ref, live: Obj | None, *, new: bool) -> Iterable[Ref]:
        if live is None:
            quotas = self._hard.get(ref.namespace, {})
            quotas.pop(ref, None)
            if not quotas:
                self._hard.pop(ref.namespace, None)
            return
        hard, status = (live.get("spec") or {}).get("hard") or {}, live.get("status") or {}
        self._hard.setdefault(ref.namespace, {})[ref] = tuple(hard)
        if new or hard != status.get("hard") or "used" not in status:
            yield ref


def chore(kinds: Kinds, now: Callable[[], float] = time.time) -> Chore:
    return Chore("resource-quota", partial(reconcile, kinds=kinds, now=now), Affected(), gather=GATHER)
