"""ResourceQuota: an object is charged to every quota it falls under before it exists, or refused.

The charge is a compare-and-swap on the quota's status, so two writers never spend the same rest; requests of one
namespace take turns, so they rarely lose a race with each other. What a failed write was charged comes back when the
quota controller recounts, as upstream.

Source: k8s.io/apiserver pkg/admission/plugin/resourcequota/controller.go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from havre.api import amounts
from havre.api import quota as counting
from havre.api.errors import Conflict
from havre.api.meta import Obj, name_of
from havre.control.apiserver.admission.refusal import forbidden
from havre.kit.quantity import ZERO, Quantity
from havre.machinery.admission import AdmissionRequest, Lister, Operation

Charge = Callable[[Obj, Mapping[str, str]], Awaitable[bool]]
"""Write `status.used` of a quota if it is still the given version; False when someone was faster."""

RETRIES = 5  # of a lost race, each time reading the quota again

_IGNORED = frozenset(
    {
        ("", "bindings"),
        ("", "componentstatuses"),
        ("", "events"),
        ("events.k8s.io", "events"),
        ("authentication.k8s.io", "tokenreviews"),
        ("authentication.k8s.io", "selfsubjectreviews"),
        ("authorization.k8s.io", "subjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectaccessreviews"),
        ("authorization.k8s.io", "localsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectrulesreviews"),
    }
)


@dataclass(slots=True)
class ResourceQuota:
    lister: Lister
    charge: Charge
    now: Callable[[], float] = time.time
    _turns: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def validate(self, req: AdmissionRequest) -> None:
        namespace = req.attributes.namespace
        if not _concerned(req) or not self.lister.list("", "resourcequotas", namespace):
            return
        turn = self._turns.get(namespace)
        if turn is None:
            turn = self._turns[namespace] = asyncio.Lock()
        async with turn:
            for _ in range(RETRIES):
                if await self._charged(req):
                    return
        why = "the object has been modified; please apply your changes to the latest version and try again"
        raise Conflict.of("resourcequotas", "", namespace, why)

    async def _charged(self, req: AdmissionRequest) -> bool:
        """Check all quotas first, then charge them; False when one changed meanwhile."""
        quotas = sorted(self.lister.list("", "resourcequotas", req.attributes.namespace), key=name_of)
        bills = [(quota, used) for quota in quotas if (used := bill(req, quota, self.now()))]
        if req.dry_run:
            return True
        for quota, used in bills:
            if not await self.charge(quota, {**quota["status"].get("used", {}), **amounts.write(used)}):
                return False
        return True


def _concerned(req: AdmissionRequest) -> bool:
    a = req.attributes
    if not a.namespace or req.obj is None or (a.group, a.resource) in _IGNORED or (a.group, a.resource) == _NAMESPACES:
        return False
    match a.group, a.resource, a.subresource, req.operation:
        case _, _, "", Operation.CREATE:
            return True
        case "", "pods", "resize", Operation.UPDATE:
            return True
        case "", "pods", "", Operation.UPDATE:
            return counting.is_terminating(req.obj) != counting.is_terminating(req.old or {})
        case "", "services" | "persistentvolumeclaims", "", Operation.UPDATE:
            return True
        case "", "persistentvolumeclaims", "status", Operation.UPDATE:
            return _allocated(req.obj) != _allocated(req.old or {})
        case _:
            return False


_NAMESPACES = ("", "namespaces")


def _allocated(claim: Obj) -> object:
    return ((claim.get("status") or {}).get("allocatedResources") or {}).get("storage")


def bill(req: AdmissionRequest, quota: Obj, now: float) -> dict[str, Quantity]:
    """The usage of a quota after this request: only what changes. Raises Forbidden when it would exceed the quota."""
    a, obj, status = req.attributes, req.obj or {}, quota.get("status") or {}
    hard, used = amounts.read(status.get("hard")), amounts.read(status.get("used"))
    names = counting.matching(a.group, a.resource, hard)
    if not names or not counting.in_scope(quota, a.resource, obj):
        return {}
    if (a.group, a.resource) == ("", "pods") and (missing := counting.lacking(names, obj)):
        raise forbidden(req, f"failed quota: {name_of(quota)}: {missing}")
    unknown = [name for name in names if name not in used]
    if unknown:
        text = ",".join(sorted(names))
        raise forbidden(req, f"status unknown for quota: {name_of(quota)}, resources: {text}")
    requested = amounts.mask(_delta(req, quota, now), names)
    total = {name: used[name] + amount for name, amount in requested.items()}
    over = sorted(name for name, amount in total.items() if amount > hard[name])
    if over and a.subresource != "status":
        parts = (amounts.shown(amounts.mask(some, over)) for some in (requested, used, hard))
        raise forbidden(req, "exceeded quota: {}, requested: {}, used: {}, limited: {}".format(name_of(quota), *parts))
    return total


def _delta(req: AdmissionRequest, quota: Obj, now: float) -> dict[str, Quantity]:
    """What the object costs more than before; nothing is given back here, the controller recounts."""
    a = req.attributes
    wanted = counting.usage(a.group, a.resource, req.obj or {}, now)
    negative = sorted(name for name, amount in wanted.items() if amount < ZERO)
    if negative:
        raise forbidden(req, f"quota usage is negative for resource(s): {','.join(negative)}")
    if req.operation == Operation.UPDATE and req.old is not None and counting.in_scope(quota, a.resource, req.old):
        before = counting.usage(a.group, a.resource, req.old, now)
        wanted = {name: amount - before[name] if name in before else amount for name, amount in wanted.items()}
    return {name: amount for name, amount in wanted.items() if amount > ZERO}
