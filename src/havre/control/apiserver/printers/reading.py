"""What the cells of many kinds are made of: times, quantities, selectors, containers, shortened lists.

An absent field reads as Go's zero value of its type, as it does upstream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import orjson

from havre.api.meta import Obj
from havre.control.apiserver.table import Since
from havre.lang.selector import LabelSelector, SelectorError

EMPTY: Final[Obj] = {}  # stands for an absent structure; never written to
NONE, UNKNOWN, UNSET = "<none>", "<unknown>", "<unset>"
NIL: Final = "<nil>"  # how Go prints a quantity that is not there
SHOWN: Final = 3  # items of a list; the rest is counted

_YEAR_ONE: Final = -62135596800.0  # Go's zero time, 0001-01-01T00:00:00Z


def when(text: str | None) -> float | None:
    """Seconds since the epoch; None if there is no time, or Go's zero time."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return None if at == _YEAR_ONE else at


def created(meta: Obj) -> Since:
    """The age of an object, from its metadata."""
    return Since(when(meta.get("creationTimestamp")))


def spec_of(obj: Obj) -> Obj:
    spec: Obj = obj.get("spec") or EMPTY
    return spec


def status_of(obj: Obj) -> Obj:
    status: Obj = obj.get("status") or EMPTY
    return status


def quantity(amounts: Obj | None, name: str) -> str:
    """The amount of one resource; stored quantities are canonical already."""
    return str((amounts or EMPTY).get(name, "0"))


def condition(conditions: Iterable[Obj] | None, kind: str) -> Obj | None:
    """The first condition of this type."""
    for found in conditions or ():
        if found.get("type") == kind:
            return found
    return None


def labels(pairs: dict[str, str] | None) -> str:
    """`app=web,tier=front`."""
    if not pairs:
        return NONE
    return ",".join(sorted([f"{key}={value}" for key, value in pairs.items()]))


def selector(wanted: Obj | None, *, everything: str = NONE, invalid: str = "<error>") -> str:
    """A LabelSelector in the syntax of `kubectl get -l`."""
    return (_selector(orjson.dumps(wanted), invalid) if wanted else "") or everything


@lru_cache(4096)  # a selector is shown again with each revision of its object's status; about 1 MB
def _selector(wanted: bytes, invalid: str) -> str:
    try:
        return str(LabelSelector.of(orjson.loads(wanted)))
    except SelectorError:
        return invalid


def containers(template: Obj | None) -> tuple[str, str]:
    """Names and images of the containers of a pod template."""
    found: Sequence[Obj] = ((template or EMPTY).get("spec") or EMPTY).get("containers") or ()
    if len(found) == 1:
        return found[0].get("name", ""), found[0].get("image", "")
    return ",".join([c.get("name", "") for c in found]), ",".join([c.get("image", "") for c in found])


def shortened(items: Sequence[str], *, total: int | None = None) -> str:
    """`a,b,c + 2 more...`; `total` counts also what `items` has not."""
    count = len(items) if total is None else total
    text = ",".join(items[:SHOWN])
    return f"{text} + {count - SHOWN} more..." if count > SHOWN else text


def addresses(status: Obj) -> str:
    """The addresses of a load balancer, sorted."""
    ingress = (status.get("loadBalancer") or EMPTY).get("ingress") or ()
    return ",".join(sorted({found for point in ingress if (found := point.get("ip") or point.get("hostname"))}))


def count(items: Any) -> int:
    return len(items) if items else 0
