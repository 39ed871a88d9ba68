"""What a pod asks for: containers add up, init containers count when one of them is larger, sidecars count with both.

Source: k8s.io/component-helpers resource/helpers.go.
"""

from __future__ import annotations

from typing import Literal

from havre.api import amounts
from havre.api.meta import Obj
from havre.kit.quantity import ZERO, Quantity

_POD_LEVEL = ("cpu", "memory")  # what spec.resources may override; hugepages- too


def pod_total(pod: Obj, which: Literal["requests", "limits"], *, overhead: bool = False) -> dict[str, Quantity]:
    """The requests or limits of a whole pod; `overhead` adds what its RuntimeClass costs."""
    spec = pod.get("spec") or {}
    total = amounts.add(*(_of(container, which) for container in spec.get("containers") or ()))
    sidecars: dict[str, Quantity] = {}
    start: dict[str, Quantity] = {}
    for container in spec.get("initContainers") or ():
        own = _of(container, which)
        if container.get("restartPolicy") == "Always":
            total, sidecars = amounts.add(total, own), amounts.add(sidecars, own)
            start = amounts.largest(start, sidecars)
        else:
            start = amounts.largest(start, amounts.add(own, sidecars))
    total = amounts.largest(total, start)
    for name, amount in _of(spec, which).items():
        if name in _POD_LEVEL or name.startswith("hugepages-"):
            total[name] = amount
    if overhead:
        extra = amounts.read(spec.get("overhead"))
        total = amounts.add(total, extra if which == "requests" else amounts.mask(extra, total))
    return total


def _of(holder: Obj, which: str) -> dict[str, Quantity]:
    return amounts.read((holder.get("resources") or {}).get(which))


def is_best_effort(pod: Obj) -> bool:
    """No container says a positive cpu or memory, in requests or limits."""
    spec = pod.get("spec") or {}
    holders = [spec, *(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    return not any(
        amount > ZERO
        for holder in holders
        for which in ("requests", "limits")
        for name, amount in _of(holder, which).items()
        if name in _POD_LEVEL
    )
