"""Conditions: what an object's status says of it in words that people and `kubectl wait` read. Pure.

A controller names what is true now; `merge` puts it into the list that is there: `lastTransitionTime` moves only when
the status of a condition does, and the conditions of others stay.

Source: k8s.io/apimachinery, pkg/api/meta/conditions.go; the vocabulary: fluxcd/pkg, apis/meta/conditions.go, which
follows sigs.k8s.io/cli-utils, pkg/kstatus.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from havre.api.meta import Obj

READY: Final = "Ready"
RECONCILING: Final = "Reconciling"  # only while true: work is going on
STALLED: Final = "Stalled"  # only while true: nothing will happen until the spec changes

SUCCEEDED: Final = "Succeeded"
FAILED: Final = "Failed"
PROGRESSING: Final = "Progressing"
PROGRESSING_WITH_RETRY: Final = "ProgressingWithRetry"
DEPENDENCY_NOT_READY: Final = "DependencyNotReady"
SUSPENDED: Final = "Suspended"

TRANSIENT: Final = frozenset({RECONCILING, STALLED})
MESSAGE_BYTES = 32768  # metav1.Condition: maxLength of message
_SHOWN = {True: "True", False: "False", None: "Unknown"}


@dataclass(frozen=True, slots=True)
class Condition:
    """One statement; `ok` None is shown as Unknown."""

    type: str
    ok: bool | None
    reason: str
    message: str = ""

    @property
    def status(self) -> str:
        return _SHOWN[self.ok]


@dataclass(frozen=True, slots=True)
class Words:
    """How a group of controllers calls the outcomes; products with other words give their own table."""

    ready: str = READY
    succeeded: str = SUCCEEDED
    failed: str = FAILED
    stalled: str = STALLED
    reconciling: str = RECONCILING
    retrying: str = PROGRESSING_WITH_RETRY
    done: str = "Reconciliation finished"  # message of success


WORDS = Words()


def find(conditions: Iterable[Obj], type: str) -> Obj | None:
    return next((c for c in conditions if c.get("type") == type), None)


def merge(
    live: Sequence[Obj],
    wanted: Iterable[Condition],
    *,
    now: str,
    generation: int = 0,
    transient: Collection[str] = TRANSIENT,
) -> list[Obj]:
    """The new list: `wanted` set, the transient ones that are not wanted removed, all others kept in their order.

    `now` is a metav1.Time; `generation`, if not 0, becomes the condition's observedGeneration.
    """
    new = {condition.type: condition for condition in wanted}
    merged = [
        _set(old, new.pop(old["type"]), now, generation) if old.get("type") in new else old
        for old in live
        if old.get("type") in new or old.get("type") not in transient
    ]
    return merged + [_set(None, condition, now, generation) for condition in new.values()]


def remove(live: Iterable[Obj], *types: str) -> list[Obj]:
    return [c for c in live if c.get("type") not in types]


def _set(old: Obj | None, condition: Condition, now: str, generation: int) -> Obj:
    since = old.get("lastTransitionTime") if old and old.get("status") == condition.status else None
    rendered: Obj = {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": shortened(condition.message, MESSAGE_BYTES),
        "lastTransitionTime": since or now,
    }
    if generation:
        rendered["observedGeneration"] = generation
    return rendered


def shortened(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, an ellipsis where something is missing."""
    raw = text.encode()
    if len(raw) <= limit:
        return text
    return raw[: limit - 3].decode(errors="ignore") + "…"
