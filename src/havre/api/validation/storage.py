"""PersistentVolumes and claims, StorageClasses and their kin.

Source: k8s.io/kubernetes, pkg/apis/core/validation/validation.go, pkg/apis/storage/validation/validation.go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from havre.api.defaults.amounts import amount
from havre.api.meta import Obj
from havre.api.strategy.equality import semantic_equal
from havre.api.validation.checks import (
    Errors,
    checked,
    choice,
    immutable,
    label_selector,
    optional_name,
)
from havre.api.validation.volumes import host_path, nfs
from havre.kit import names
from havre.kit.field import FieldError, Problem, forbidden, invalid, required

_MODES: Final = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_VOLUME_MODES: Final = ("Block", "Filesystem")
_NOT_SOURCES: Final = frozenset(
    {"accessModes", "capacity", "claimRef", "mountOptions", "nodeAffinity", "persistentVolumeReclaimPolicy"}
    | {"storageClassName", "volumeAttributesClassName", "volumeMode"}
)
_ORDER: Final = ("hostPath", "gcePersistentDisk", "awsElasticBlockStore", "glusterfs", "flocker", "nfs", "rbd")
_SOURCE_CHECKS: Final[dict[str, Callable[[str, Obj], Errors]]] = {"hostPath": host_path, "nfs": nfs}
_CLAIM_FROZEN: Final = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
)


def volume(obj: Obj) -> Errors:
    spec = obj.get("spec") or {}
    yield from _access_modes(spec, "")
    yield from _capacity(spec)
    policy = spec.get("persistentVolumeReclaimPolicy")
    if policy:
        yield from choice("spec.persistentVolumeReclaimPolicy", policy, ("Delete", "Recycle", "Retain"))
    sources = [name for name, value in spec.items() if name not in _NOT_SOURCES and value is not None]
    sources.sort(key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    for i, name in enumerate(sources):
        if i:
            yield forbidden(f"spec.{name}", "may not specify more than 1 volume type")
        elif name in _SOURCE_CHECKS:
            yield from _SOURCE_CHECKS[name](f"spec.{name}", spec[name])
    if not sources:
        yield required("spec", "must specify a volume type")
    if (spec.get("hostPath") or {}).get("path") == "/" and policy == "Recycle":
        yield forbidden("spec.persistentVolumeReclaimPolicy", "may not be 'recycle' for a hostPath mount of '/'")
    yield from optional_name("spec.storageClassName", spec.get("storageClassName"), names.dns1123_subdomain)
    if (mode := spec.get("volumeMode")) is not None:
        yield from choice("spec.volumeMode", mode, _VOLUME_MODES)


def _access_modes(spec: Obj, words: str) -> Errors:
    modes = spec.get("accessModes") or []
    if not modes:
        yield required("spec.accessModes", words)
    for mode in modes:
        yield from choice("spec.accessModes", mode, _MODES)
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        yield forbidden("spec.accessModes", "may not use ReadWriteOncePod with other access modes")


def _capacity(spec: Obj) -> Errors:
    capacity = spec.get("capacity")
    if not capacity:
        yield required("spec.capacity")
    if not capacity or set(capacity) != {"storage"}:
        yield FieldError(Problem.NOT_SUPPORTED, "spec.capacity", capacity or None, 'supported values: "storage"')
    for name, value in (capacity or {}).items():
        if name == "storage":
            yield from _positive(f"spec.capacity[{name}]", value)


def _positive(path: str, value: Any) -> Errors:
    if amount(str(value)) <= 0:
        yield invalid(path, str(value), "must be greater than zero")


def volume_update(new: Obj, old: Obj) -> Errors:
    yield from volume(new)
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    sources = {name for name in spec.keys() | before.keys() if name not in _NOT_SOURCES}
    if any(not semantic_equal(spec.get(name), before.get(name)) for name in sources):
        yield forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation")
    yield from immutable("volumeMode", spec.get("volumeMode"), before.get("volumeMode"))
    if before.get("nodeAffinity"):
        yield from immutable("nodeAffinity", spec.get("nodeAffinity"), before.get("nodeAffinity"))


def claim(obj: Obj) -> Errors:
    spec = obj.get("spec") or {}
    yield from _access_modes(spec, "at least 1 access mode is required")
    yield from label_selector("spec.selector", spec.get("selector"))
    requests = (spec.get("resources") or {}).get("requests") or {}
    if "storage" not in requests:
        yield required("spec.resources[storage]")
    else:
        yield from _positive("spec.resources[storage]", requests["storage"])
    yield from optional_name("spec.storageClassName", spec.get("storageClassName"), names.dns1123_subdomain)
    if (mode := spec.get("volumeMode")) is not None:
        yield from choice("spec.volumeMode", mode, _VOLUME_MODES)
    yield from _data_sources(spec)
    name = spec.get("volumeAttributesClassName")
    yield from optional_name("spec.volumeAttributesClassName", name, names.dns1123_subdomain)


def _data_sources(spec: Obj) -> Errors:
    source, ref = spec.get("dataSource"), spec.get("dataSourceRef")
    for field, value in (("dataSource", source), ("dataSourceRef", ref)):
        if value is None:
            continue
        for part in ("name", "kind"):
            if not value.get(part):
                yield required(f"spec.{field}.{part}")
        if not value.get("apiGroup") and value.get("kind") != "PersistentVolumeClaim":
            yield invalid(
                f"spec.{field}",
                value.get("kind"),
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            )
    if source is not None and ref is not None:
        same = {k: v for k, v in ref.items() if k != "namespace"} == source
        if ref.get("namespace"):
            yield invalid("spec", "dataSource", "may not be specified when dataSourceRef.namespace is specified")
        elif not same:
            yield invalid("spec", "dataSource", "must match dataSourceRef")


def claim_update(new: Obj, old: Obj) -> Errors:
    """A bound claim may grow; everything else stays."""
    yield from claim(new)
    spec, before = dict(new.get("spec") or {}), dict(old.get("spec") or {})
    if not before.get("volumeName"):
        spec.pop("volumeName", None)
        before.pop("volumeName", None)
    if before.get("storageClassName") is None and not old["metadata"].get("annotations"):
        spec.pop("storageClassName", None)
    if (new.get("status") or {}).get("phase") == "Bound":
        for side in (spec, before):
            side.pop("volumeAttributesClassName", None)
            needs = dict(side.get("resources") or {})
            needs["requests"] = {k: v for k, v in (needs.get("requests") or {}).items() if k != "storage"}
            side["resources"] = needs
    if not semantic_equal(spec, before):
        yield forbidden("spec", _CLAIM_FROZEN)
    size, known = _size(new.get("spec")), _size(old.get("spec"))
    held = amount(str(((old.get("status") or {}).get("capacity") or {}).get("storage") or "0"))
    if size < known and size <= held:
        yield forbidden("spec.resources.requests.storage", "field can not be less than status.capacity")
    yield from immutable(
        "volumeMode", (new.get("spec") or {}).get("volumeMode"), (old.get("spec") or {}).get("volumeMode")
    )


def _size(spec: Obj | None) -> Any:
    return amount(str((((spec or {}).get("resources") or {}).get("requests") or {}).get("storage") or "0"))


def storage_class(obj: Obj) -> Errors:
    provisioner = obj.get("provisioner") or ""
    if not provisioner:
        yield required("provisioner")
    else:
        yield from checked("provisioner", provisioner.lower(), names.qualified_name)
    for key in obj.get("parameters") or ():
        if not key:
            yield invalid("parameters", "", "field can not be empty.")
    if policy := obj.get("reclaimPolicy"):
        yield from choice("reclaimPolicy", policy, ("Delete", "Retain"))
    mode = obj.get("volumeBindingMode")
    if mode is None:
        yield required("volumeBindingMode")
    else:
        yield from choice("volumeBindingMode", mode, ("Immediate", "WaitForFirstConsumer"))
    for i, topology in enumerate(obj.get("allowedTopologies") or ()):
        for j, expression in enumerate(topology.get("matchLabelExpressions") or ()):
            path = f"allowedTopologies[{i}].matchLabelExpressions[{j}]"
            if not expression.get("values"):
                yield required(f"{path}.values")
            yield from checked(f"{path}.key", expression.get("key") or "", names.qualified_name)


def storage_class_update(new: Obj, old: Obj) -> Errors:
    for field in ("parameters", "provisioner", "reclaimPolicy"):
        if (new.get(field) or None) != (old.get(field) or None):
            yield forbidden(field, f"updates to {field} are forbidden.")
    yield from immutable("volumeBindingMode", new.get("volumeBindingMode"), old.get("volumeBindingMode"))


def attachment(obj: Obj) -> Errors:
    spec = obj.get("spec") or {}
    for field in ("attacher", "nodeName"):
        if not spec.get(field):
            yield required(f"spec.{field}")
    if not any((spec.get("source") or {}).values()):
        yield required("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName")


def attachment_update(new: Obj, old: Obj) -> Errors:
    yield from attachment(new)
    if not semantic_equal(new.get("spec"), old.get("spec")):
        yield invalid("spec", new.get("spec"), "field is immutable")


def attributes_class(obj: Obj) -> Errors:
    yield from checked("driverName", obj.get("driverName") or "", names.dns1123_subdomain)
    if not obj.get("parameters"):
        yield required("parameters", "must contain at least one key/value pair")


def attributes_class_update(new: Obj, old: Obj) -> Errors:
    for field in ("driverName", "parameters"):
        if new.get(field) != old.get(field):
            yield forbidden(field, f"updates to {field} are forbidden.")
