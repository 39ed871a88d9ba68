"""How each built-in kind is created and updated, besides being stored: pure functions on decoded objects, in place.

A write goes: `apply_defaults` → admission → `prepare_*` here → `validate_*` → store. `prepare_create` throws away a
status the client sent, starts `metadata.generation` at 1 and fills what the server decides; `prepare_update` keeps the
old status and raises the generation when the specification changed; `prepare_status_update` takes the status alone.

table.py     one row of facts per kind           equality.py  did the specification change?
metadata.py  fields that a write may not change  fields.py    field selectors
pods.py services.py storage.py workloads.py namespaces.py certificates.py   steps of single kinds
scale.py events.py autoscaling.py   other views of stored objects             advice.py  words for the Warning header

Source: k8s.io/kubernetes, pkg/registry/*/*/strategy.go.
"""

from __future__ import annotations

from havre.api.meta import GVK, Obj
from havre.api.strategy import certificates, namespaces, pods
from havre.api.strategy.advice import warnings
from havre.api.strategy.autoscaling import v1_to_v2 as hpa_v1_to_v2
from havre.api.strategy.autoscaling import v2_to_v1 as hpa_v2_to_v1
from havre.api.strategy.certificates import set_requester
from havre.api.strategy.equality import semantic_equal
from havre.api.strategy.events import core_to_new as event_core_to_new
from havre.api.strategy.events import new_to_core as event_new_to_core
from havre.api.strategy.fields import alias_of, field_values
from havre.api.strategy.metadata import keep_for_status, keep_identity, keep_whole, restore
from havre.api.strategy.names import name_validator
from havre.api.strategy.scale import apply_scale, scale_of, validate_scale
from havre.api.strategy.table import EVERYTHING, PLAIN, TABLE, StatusMeta, Strategy

__all__ = [
    "alias_of",
    "allow_create_on_update",
    "allow_unconditional_update",
    "apply_scale",
    "event_core_to_new",
    "event_new_to_core",
    "field_values",
    "has_status",
    "hpa_v1_to_v2",
    "hpa_v2_to_v1",
    "name_validator",
    "prepare_create",
    "prepare_status_update",
    "prepare_subresource_update",
    "prepare_update",
    "scale_of",
    "semantic_equal",
    "set_requester",
    "validate_scale",
    "warnings",
]


def _row(obj: Obj) -> Strategy:
    return TABLE.get((obj["apiVersion"], obj["kind"]), PLAIN)


def prepare_create(obj: Obj) -> None:
    """Make `obj` what is stored first; its metadata already has name, uid and creationTimestamp."""
    row, metadata = _row(obj), obj["metadata"]
    metadata.pop("deletionTimestamp", None)
    metadata.pop("deletionGracePeriodSeconds", None)
    if row.has_status and not row.creator_sets_status:
        obj["status"] = dict(row.empty_status or {})
    if row.generation and row.generation_on_create:
        metadata["generation"] = 1
    if row.on_create is not None:
        row.on_create(obj)


def prepare_update(new: Obj, old: Obj) -> None:
    """Make `new` what replaces `old`: identity, status and generation are the server's."""
    row, metadata, before = _row(new), new["metadata"], old["metadata"]
    restore(metadata, before, ("generation",))
    if row.has_status:
        _keep(new, old, "status")
    if row.on_update is not None:
        row.on_update(new, old)
    keep_identity(metadata, before)
    if row.generation and _spec_changed(row, new, old):
        metadata["generation"] = before.get("generation", 0) + 1


def prepare_status_update(new: Obj, old: Obj, *, now: str | None = None) -> None:
    """Make `new` the old object with a new status. `now` (RFC 3339) stamps what carries the time of its change."""
    row, metadata, before = _row(new), new["metadata"], old["metadata"]
    restore(metadata, before, ("generation",))
    for field in row.spec:
        _keep(new, old, field)
    if row.status_meta is StatusMeta.ALL:
        keep_for_status(metadata, before)
    elif row.status_meta is StatusMeta.WHOLE:
        keep_whole(metadata, before)
    elif row.status_meta is StatusMeta.LABELS:
        restore(metadata, before, ("labels",))
    if row.on_status is not None:
        row.on_status(new, old, now)
    keep_identity(metadata, before)


def prepare_subresource_update(subresource: str, new: Obj, old: Obj, *, now: str | None = None) -> None:
    """A write to `status`, `approval`, `finalize`, `ephemeralcontainers` or `resize`. Raises ValueError for others."""
    if subresource == "status":
        prepare_status_update(new, old, now=now)
        return
    metadata, before = new["metadata"], old["metadata"]
    restore(metadata, before, ("generation",))
    if subresource == "approval":
        certificates.approve(new, old, now)
    elif subresource == "finalize":
        _keep(new, old, "status")
        namespaces.label_with_name(new)
    elif subresource == "ephemeralcontainers":
        pods.update_ephemeral_containers(new, old)
    elif subresource == "resize":
        pods.resize(new, old)
    else:
        raise ValueError(f"prepare {subresource!r} of {new['kind']}: no such subresource takes updates of the object")
    keep_identity(metadata, before)
    row = _row(new)
    if row.generation and _spec_changed(row, new, old):
        metadata["generation"] = before.get("generation", 0) + 1


def _keep(new: Obj, old: Obj, field: str) -> None:
    if field in old:
        new[field] = old[field]
    else:
        new.pop(field, None)


_NOT_SPEC = frozenset({"apiVersion", "kind", "metadata", "status"})


def _spec_changed(row: Strategy, new: Obj, old: Obj) -> bool:
    if row.generation == EVERYTHING:
        fields = tuple((new.keys() | old.keys()) - _NOT_SPEC)
        changed = not semantic_equal(new["metadata"].get("labels") or {}, old["metadata"].get("labels") or {})
    else:
        fields, changed = row.generation, False
    if row.with_annotations:
        changed = (new["metadata"].get("annotations") or {}) != (old["metadata"].get("annotations") or {})
    return changed or any(not semantic_equal(new.get(field), old.get(field)) for field in fields)


def has_status(gvk: GVK) -> bool:
    """Whether the kind has a status that only the `status` subresource writes."""
    return TABLE.get((gvk.api_version, gvk.kind), PLAIN).has_status


def allow_create_on_update(gvk: GVK) -> bool:
    """Whether PUT of an object that does not exist creates it."""
    return TABLE.get((gvk.api_version, gvk.kind), PLAIN).create_on_update


def allow_unconditional_update(gvk: GVK) -> bool:
    """Whether PUT may leave out metadata.resourceVersion."""
    return TABLE.get((gvk.api_version, gvk.kind), PLAIN).unconditional_update
