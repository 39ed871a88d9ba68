"""Deletion as a state of the object: asked for, held by finalizers or a grace period, then gone.

An object that something holds is only marked (`deletionTimestamp`); the write that takes the last hold away removes it.

Source: k8s.io/apiserver, pkg/registry/rest/delete.go (BeforeDelete) and pkg/registry/generic/registry/store.go
(deletionFinalizersForGarbageCollection); pods: k8s.io/kubernetes, pkg/registry/core/pod/strategy.go
(CheckGracefulDelete).
"""

from __future__ import annotations

from havre.api.errors import BadRequest, Conflict, Invalid
from havre.api.meta import Obj, parse_time, rfc3339
from havre.kit.field import FieldError, forbidden, invalid, not_supported

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
POLICIES = ("Foreground", "Background", "Orphan", "nil")
POD_GRACE = 30  # seconds, when neither the request nor the pod says
_ENDED = frozenset({"Succeeded", "Failed"})


def validate_options(body: Obj) -> None:
    """Raises BadRequest for a field of a wrong type, Invalid when options contradict themselves or are unknown."""
    _check_types(body)
    errors: list[FieldError] = []
    policy, orphan = body.get("propagationPolicy"), body.get("orphanDependents")
    if policy is not None and orphan is not None:
        why = "orphanDependents and deletionPropagation cannot be both set"
        errors.append(invalid("propagationPolicy", policy, why))
    if policy is not None and policy not in POLICIES[:3]:
        names = ", ".join(f'"{p}"' for p in POLICIES)
        error = not_supported("propagationPolicy", policy, ())
        errors.append(FieldError(error.problem, error.path, policy, f"supported values: {names}"))
    if any(value != "All" for value in body.get("dryRun") or ()):
        errors.append(not_supported("dryRun", body["dryRun"], ("All",)))
    if errors:
        raise Invalid.of("meta.k8s.io", "DeleteOptions", "", errors)


_TYPES: dict[str, tuple[type, str]] = {
    "dryRun": (list, "[]string"),
    "gracePeriodSeconds": (int, "int64"),
    "orphanDependents": (bool, "bool"),
    "preconditions": (dict, "v1.Preconditions"),
    "propagationPolicy": (str, "v1.DeletionPropagation"),
}


def _check_types(body: Obj) -> None:
    for key, (kind, name) in _TYPES.items():
        value = body.get(key)
        if value is not None and type(value) is not kind:  # a bool is no int
            raise BadRequest(f"DeleteOptions.{key}: {value!r} is not of type {name}")


def check_preconditions(obj: Obj, body: Obj) -> None:
    """Raises Conflict when the object is not the one that the client means to delete."""
    wanted, meta = body.get("preconditions") or {}, obj["metadata"]
    pairs = (
        ("uid", "UID", "The object might have been deleted and then recreated"),
        ("resourceVersion", "ResourceVersion", "The object might have been modified"),
    )
    for key, word, hint in pairs:
        mine = wanted.get(key)
        if mine is not None and mine != meta[key]:
            why = f"the {word} in the precondition ({mine}) does not match the {word} in record ({meta[key]}). {hint}"
            raise Conflict.of(obj["kind"], "", meta["name"], why)


def marked(obj: Obj) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def held(obj: Obj) -> bool:
    """Does a finalizer or a grace period keep this marked object alive?"""
    meta = obj["metadata"]
    if meta.get("finalizers") or (meta.get("deletionGracePeriodSeconds") or 0) > 0:
        return True
    return is_namespace(obj) and bool((obj.get("spec") or {}).get("finalizers"))


def is_namespace(obj: Obj) -> bool:
    return (obj["kind"], obj["apiVersion"]) == ("Namespace", "v1")


def _is_pod(obj: Obj) -> bool:
    return (obj["kind"], obj["apiVersion"]) == ("Pod", "v1")


def mark(obj: Obj, body: Obj, now: str, at: float) -> Obj:
    """`obj` (changed in place) as a deletion with these options leaves it; ask `held` whether it is gone.

    `now` is the RFC 3339 form of `at` (seconds since the epoch). A second deletion may only shorten the grace period.
    """
    meta = obj["metadata"]
    _set_finalizers(meta, body)
    if marked(obj):
        _shorten(meta, body.get("gracePeriodSeconds"), at)
        return obj
    grace = _grace(obj, body)
    if not (grace or held(obj) or _is_pod(obj)):
        return obj  # removed at once: the last state is the one before
    meta["deletionTimestamp"] = rfc3339(at + grace) if grace else now
    meta["deletionGracePeriodSeconds"] = grace
    if meta.get("generation"):
        meta["generation"] += 1
    if is_namespace(obj):
        obj.setdefault("status", {})["phase"] = "Terminating"
    return obj


def _shorten(meta: Obj, asked: int | None, at: float) -> None:
    """A later deletion that says nothing changes nothing, neither does one that grants more time."""
    present = meta.get("deletionGracePeriodSeconds") or 0
    grace = 1 if asked is not None and asked < 0 else asked
    if grace is None or grace >= present:
        return
    until = parse_time(meta["deletionTimestamp"]) - present + grace
    if until < at:  # that time is over
        until, grace = at, min(grace, 1)
    meta["deletionTimestamp"] = rfc3339(until)
    meta["deletionGracePeriodSeconds"] = grace


def _grace(obj: Obj, body: Obj) -> int:
    """Seconds that the node gets to stop a pod; nothing else waits."""
    if not _is_pod(obj):
        return 0
    spec, asked = obj.get("spec") or {}, body.get("gracePeriodSeconds")
    grace = asked if asked is not None else spec.get("terminationGracePeriodSeconds", POD_GRACE)
    if not spec.get("nodeName") or (obj.get("status") or {}).get("phase") in _ENDED:
        return 0
    return max(int(grace), 1) if grace else 0


def _set_finalizers(meta: Obj, body: Obj) -> None:
    """The finalizers that the garbage collector works by, as the propagation policy asks."""
    policy = body.get("propagationPolicy")
    if policy is None and body.get("orphanDependents") is not None:
        policy = "Orphan" if body["orphanDependents"] else "Background"
    if policy is None:
        return
    wanted = {"Orphan": ORPHAN, "Foreground": FOREGROUND}.get(policy)
    others = [f for f in meta.get("finalizers") or () if f not in (ORPHAN, FOREGROUND)]
    finalizers = [*others, wanted] if wanted else others
    if finalizers:
        meta["finalizers"] = finalizers
    else:
        meta.pop("finalizers", None)


def remove_finalizer(obj: Obj, finalizer: str) -> Obj:
    """`obj` (changed in place) without the hold of that name."""
    left = [f for f in obj["metadata"].get("finalizers") or () if f != finalizer]
    if left:
        obj["metadata"]["finalizers"] = left
    else:
        obj["metadata"].pop("finalizers", None)
    return obj


def keep_marked_rules(new: Obj, old: Obj) -> list[FieldError]:
    """A marked object takes no new finalizers."""
    if not marked(old):
        return []
    added = sorted(set(new["metadata"].get("finalizers") or ()) - set(old["metadata"].get("finalizers") or ()))
    if not added:
        return []
    names = ", ".join(f'"{name}"' for name in added)
    why = f"no new finalizers can be added if the object is being deleted, found new finalizers []string{{{names}}}"
    return [forbidden("metadata.finalizers", why)]
