"""CertificateSigningRequest: who asks is written by the server, nobody is born approved, a decision is made once.

Source: k8s.io/kubernetes, pkg/registry/certificates/certificates/strategy.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from havre.api.meta import Obj

_REQUESTER: Final = ("username", "uid", "groups", "extra")
_DECISIONS: Final = ("Approved", "Denied")


def create(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    for field in _REQUESTER:
        spec.pop(field, None)


def set_requester(
    obj: Obj, *, username: str, uid: str, groups: Sequence[str], extra: Mapping[str, Sequence[str]]
) -> None:
    """Record the authenticated user; the server calls it after `prepare_create`."""
    spec = obj["spec"]
    spec["username"] = username
    for field, value in (("uid", uid), ("groups", list(groups)), ("extra", {k: list(v) for k, v in extra.items()})):
        if value:
            spec[field] = value


def update(new: Obj, old: Obj) -> None:
    new["spec"] = old.get("spec") or {}


def update_status(new: Obj, old: Obj, now: str | None) -> None:
    """Decisions stay as they were; other conditions and the certificate follow the request."""
    keep_decision(new, old)
    stamp_conditions(new, old, now)


def approve(new: Obj, old: Obj, now: str | None) -> None:
    """The `approval` subresource: only conditions change."""
    stamp_conditions(new, old, now)
    conditions = (new.get("status") or {}).get("conditions")
    new["spec"] = old.get("spec") or {}
    status = {key: value for key, value in (old.get("status") or {}).items() if key != "conditions"}
    new["status"] = {**status, "conditions": conditions} if conditions else status


def keep_decision(new: Obj, old: Obj) -> None:
    """Replace each Approved or Denied condition of `new` by the one of `old`, in order."""
    kept = [c for c in _conditions(old) if c.get("type") in _DECISIONS]
    conditions = _conditions(new)
    for index, condition in enumerate(conditions):
        same = next((c for c in kept if c["type"] == condition.get("type")), None)
        if same is not None:
            kept.remove(same)
            conditions[index] = {**same}


def stamp_conditions(new: Obj, old: Obj, now: str | None) -> None:
    """Times of conditions that came without: `now`, or when the status was the same, the time it had."""
    before: dict[str, Any] = {c["type"]: c for c in _conditions(old)}
    for condition in _conditions(new):
        if now and not condition.get("lastUpdateTime"):
            condition["lastUpdateTime"] = now
        if condition.get("lastTransitionTime"):
            continue
        same = before.get(condition.get("type", ""))
        unchanged = same is not None and same.get("status") == condition.get("status")
        time = same.get("lastTransitionTime") if unchanged and same is not None else now
        if time:
            condition["lastTransitionTime"] = time


def _conditions(obj: Obj) -> list[Obj]:
    conditions: list[Obj] = (obj.get("status") or {}).get("conditions") or []
    return conditions
