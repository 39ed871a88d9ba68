"""Metadata of every object, custom ones too: names, labels, annotations, owners, finalizers; and what never changes.

Source: k8s.io/apimachinery, pkg/api/validation/objectmeta.go; k8s.io/kubernetes, pkg/apis/core/validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from havre.api.meta import Obj, split_api_version
from havre.api.strategy.equality import semantic_equal
from havre.api.validation.checks import (
    IMMUTABLE,
    Errors,
    checked,
    labels,
)
from havre.kit import names
from havre.kit.field import FieldError, Structure, forbidden, invalid, required, too_long
from havre.kit.names import Check

ANNOTATIONS_MAX: Final = 256 * 1024  # bytes of all keys and values
_STANDARD_FINALIZERS: Final = frozenset({"kubernetes", "orphan", "foregroundDeletion"})
_IMMUTABLE: Final = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
_OWNER_FIELDS: Final = ("apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion")


def validate_metadata(
    obj: Obj, *, namespaced: bool, name_check: Check, prefix_check: Check | None = None, standard: bool = True
) -> list[FieldError]:
    """Problems of `metadata` at creation; `standard` also wants finalizers to be known or qualified."""
    metadata = obj.get("metadata") or {}
    return [*_metadata(metadata, namespaced, name_check, prefix_check), *_finalizer_names(metadata, standard)]


def _metadata(metadata: Mapping[str, Any], namespaced: bool, name_check: Check, prefix_check: Check | None) -> Errors:
    if prefix := metadata.get("generateName"):
        yield from checked("metadata.generateName", prefix, prefix_check or name_check)
    name, namespace = metadata.get("name"), metadata.get("namespace")
    if not name:
        yield required("metadata.name", "name or generateName is required")
    else:
        yield from checked("metadata.name", name, name_check)
    if not namespaced:
        if namespace:
            yield forbidden("metadata.namespace", "not allowed on this type")
    elif not namespace:
        yield required("metadata.namespace")
    else:
        yield from checked("metadata.namespace", namespace, names.dns1123_label)
    if (metadata.get("generation") or 0) < 0:
        yield invalid("metadata.generation", metadata["generation"], "must be greater than or equal to 0")
    yield from _maps(metadata)
    yield from _owners(metadata.get("ownerReferences"))
    yield from _finalizers(metadata.get("finalizers") or [])


def _maps(metadata: Mapping[str, Any]) -> Errors:
    if pairs := metadata.get("labels"):
        yield from labels("metadata.labels", pairs)
    annotations = metadata.get("annotations")
    if not annotations:
        return
    size = 0
    for key, value in annotations.items():
        lower = key.lower()
        for message in names.qualified_name(lower):
            yield invalid("metadata.annotations", key, message)
        size += len(key.encode()) + len(value.encode())
    if size > ANNOTATIONS_MAX:
        yield too_long("metadata.annotations", ANNOTATIONS_MAX)


def _owners(owners: list[Obj] | None) -> Errors:
    path = "metadata.ownerReferences"
    controller = ""
    for owner in owners or ():
        group, version = split_api_version(owner.get("apiVersion") or "")
        if not version:
            yield invalid(f"{path}.apiVersion", owner.get("apiVersion") or "", "version must not be empty")
        for field in ("kind", "name", "uid"):
            if not owner.get(field):
                yield invalid(f"{path}.{field}", owner.get(field) or "", "must not be empty")
        if (group, version, owner.get("kind")) == ("", "v1", "Event"):
            words = f"/{version}, Kind=Event is disallowed from being an owner"
            yield invalid(path, _ordered(owner), words)
        if owner.get("controller"):
            this = f"{owner.get('kind')}/{owner.get('name')}"
            if controller:
                words = 'Only one reference can have Controller set to true. Found "true" in references for'
                yield invalid(path, [_ordered(o) for o in owners or ()], f"{words} {controller} and {this}")
            controller = controller or this


def _ordered(owner: Obj) -> Obj:
    return Structure({field: owner[field] for field in _OWNER_FIELDS if field in owner})


def _finalizers(finalizers: list[str]) -> Errors:
    for finalizer in finalizers:
        yield from checked("metadata.finalizers", finalizer, names.qualified_name)
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        words = "finalizer orphan and foregroundDeletion cannot be both set"
        yield invalid("metadata.finalizers", finalizers, words)


def _finalizer_names(metadata: Mapping[str, Any], standard: bool) -> Errors:
    if standard:
        for i, finalizer in enumerate(metadata.get("finalizers") or ()):
            if "/" not in finalizer and finalizer not in _STANDARD_FINALIZERS:
                words = "name is neither a standard finalizer name nor is it fully qualified"
                yield invalid(f"metadata.finalizers[{i}]", finalizer, words)


def validate_metadata_update(new: Obj, old: Obj, *, standard: bool = True) -> list[FieldError]:
    """Problems of a change of `metadata`; new finalizers of an object being deleted are checked where it is deleted."""
    return list(_metadata_update(new.get("metadata") or {}, old.get("metadata") or {}, standard))


def _metadata_update(metadata: Mapping[str, Any], before: Mapping[str, Any], standard: bool) -> Errors:
    if (metadata.get("generation") or 0) < (before.get("generation") or 0):
        yield invalid("metadata.generation", metadata.get("generation") or 0, "must not be decremented")
    for field in _IMMUTABLE:
        value = metadata.get(field)
        if value != before.get(field):
            yield invalid(f"metadata.{field}", _empty_text(field, value), IMMUTABLE)
    if not semantic_equal(metadata.get("finalizers"), before.get("finalizers")):
        yield from _finalizers(metadata.get("finalizers") or [])
        yield from _finalizer_names(metadata, standard)
    yield from _maps(metadata)
    yield from _owners(metadata.get("ownerReferences"))


def _empty_text(field: str, value: Any) -> Any:
    return "" if value is None and field in ("name", "namespace", "uid") else value
