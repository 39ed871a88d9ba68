"""Cells of volumes: PersistentVolume and its claim, classes, attachments, CSI drivers; devices and their claims.

Source: k8s.io/kubernetes, pkg/printers/internalversion (printers.go).
"""

from __future__ import annotations

from havre.api.meta import Obj, annotations_of
from havre.control.apiserver.printers.reading import EMPTY, NONE, UNSET, count, created, quantity, spec_of, status_of

_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
_CLASS = "volume.beta.kubernetes.io/storage-class"  # older than the field, and stronger
_DEFAULT = ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")


def volume(obj: Obj) -> list[object]:
    """PersistentVolume."""
    meta, spec, status = obj["metadata"], spec_of(obj), status_of(obj)
    claim = spec.get("claimRef")
    return [
        meta["name"],
        quantity(spec.get("capacity"), "storage"),
        _access_modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy", ""),
        _phase(meta, status),
        "" if claim is None else f"{claim.get('namespace', '')}/{claim.get('name', '')}",
        _class(obj, spec),
        _or_unset(spec.get("volumeAttributesClassName")),
        status.get("reason", ""),
        created(meta),
        _or_unset(spec.get("volumeMode")),
    ]


def volume_claim(obj: Obj) -> list[object]:
    """PersistentVolumeClaim: what it got, not what it asked for."""
    meta, spec, status = obj["metadata"], spec_of(obj), status_of(obj)
    bound = spec.get("volumeName", "")
    return [
        meta["name"],
        _phase(meta, status),
        bound,
        quantity(status.get("capacity"), "storage") if bound else "",
        _access_modes(status.get("accessModes")) if bound else "",
        _class(obj, spec),
        _or_unset(spec.get("volumeAttributesClassName")),
        created(meta),
        _or_unset(spec.get("volumeMode")),
    ]


def _phase(meta: Obj, status: Obj) -> object:
    return status.get("phase", "") if meta.get("deletionTimestamp") is None else "Terminating"


def _access_modes(modes: list[str] | None) -> str:
    return ",".join([short for mode, short in _MODES.items() if mode in (modes or ())])


def _class(obj: Obj, spec: Obj) -> str:
    return annotations_of(obj).get(_CLASS, spec.get("storageClassName") or "")


def _or_unset(value: str | None) -> str:
    return UNSET if value is None else value


def storage_class(obj: Obj) -> list[object]:
    meta, notes = obj["metadata"], annotations_of(obj)
    default = any(notes.get(key) == "true" for key in _DEFAULT)
    return [
        f"{meta['name']} (default)" if default else meta["name"],
        obj.get("provisioner", ""),
        obj.get("reclaimPolicy", "Delete"),
        obj.get("volumeBindingMode", "Immediate"),
        obj.get("allowVolumeExpansion") or False,
        created(meta),
    ]


def attributes_class(obj: Obj) -> list[object]:
    """VolumeAttributesClass."""
    meta = obj["metadata"]
    return [meta["name"], obj.get("driverName", ""), created(meta)]


def attachment(obj: Obj) -> list[object]:
    """VolumeAttachment."""
    meta, spec = obj["metadata"], spec_of(obj)
    return [
        meta["name"],
        spec.get("attacher", ""),
        (spec.get("source") or EMPTY).get("persistentVolumeName") or "",
        spec.get("nodeName", ""),
        status_of(obj).get("attached") or False,
        created(meta),
    ]


def csi_node(obj: Obj) -> list[object]:
    meta = obj["metadata"]
    return [meta["name"], count(spec_of(obj).get("drivers")), created(meta)]


def csi_driver(obj: Obj) -> list[object]:
    meta, spec = obj["metadata"], spec_of(obj)
    attach, tokens = spec.get("attachRequired"), spec.get("tokenRequests")
    return [
        meta["name"],
        True if attach is None else attach,
        spec.get("podInfoOnMount") or False,
        spec.get("storageCapacity") or False,
        UNSET if not tokens else ",".join([token.get("audience", "") for token in tokens]),
        spec.get("requiresRepublish") or False,
        ",".join(spec.get("volumeLifecycleModes") or ()) or NONE,
        created(meta),
    ]


# --- devices --------------------------------------------------------------------------------------------------------


def resource_claim(obj: Obj) -> list[object]:
    meta = obj["metadata"]
    return [meta["name"], _claim_state(meta, status_of(obj)), created(meta)]


def _claim_state(meta: Obj, status: Obj) -> str:
    deleted = meta.get("deletionTimestamp") is not None
    if status.get("allocation") is None:
        return "deleted" if deleted else "pending"
    states = ["deleted"] if deleted else []
    states.append("allocated")
    if status.get("reservedFor"):
        states.append("reserved")
    return ",".join(states)


def resource_slice(obj: Obj) -> list[object]:
    meta, spec = obj["metadata"], spec_of(obj)
    pool = (spec.get("pool") or EMPTY).get("name", "")
    return [meta["name"], spec.get("nodeName") or "", spec.get("driver", ""), pool, created(meta)]
