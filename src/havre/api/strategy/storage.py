"""Secrets, PersistentVolumes and PersistentVolumeClaims: what a write does to them besides storing.

Source: k8s.io/kubernetes, pkg/registry/core/{secret,persistentvolume,persistentvolumeclaim}/strategy.go,
pkg/apis/core/v1/conversion.go (stringData), pkg/api/persistentvolumeclaim/util.go (data sources).
"""

from __future__ import annotations

import base64
from typing import Any

from havre.api.meta import Obj


def fold_string_data(obj: Obj) -> None:
    """`stringData` is a way to write: it becomes `data`, in base64, and wins over it."""
    texts = obj.pop("stringData", None)
    if texts:
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
        obj["data"] = {**(obj.get("data") or {}), **encoded}


def update_secret(new: Obj, old: Obj) -> None:
    fold_string_data(new)
    if not new.get("type") and old.get("type"):
        new["type"] = old["type"]


def create_volume(obj: Obj) -> None:
    """The phase began when the object did."""
    if created := obj["metadata"].get("creationTimestamp"):
        obj["status"]["lastPhaseTransitionTime"] = created


def update_volume_status(new: Obj, old: Obj, now: str | None) -> None:
    """A phase that changes carries the time of the change."""
    status, before = new.setdefault("status", {}), old.get("status") or {}
    time, known = status.get("lastPhaseTransitionTime"), before.get("lastPhaseTransitionTime")
    if status.get("phase") == before.get("phase"):
        if not time and known:
            status["lastPhaseTransitionTime"] = known
    elif now and (not time or time == known):
        status["lastPhaseTransitionTime"] = now


def create_claim(obj: Obj) -> None:
    _drop_foreign_data_source(obj["spec"] if obj.get("spec") else {})
    _mirror_data_sources(obj)


def update_claim(new: Obj, old: Obj) -> None:
    _mirror_data_sources(new)


_SOURCES = (("", "PersistentVolumeClaim"), ("snapshot.storage.k8s.io", "VolumeSnapshot"))


def _drop_foreign_data_source(spec: dict[str, Any]) -> None:
    """`dataSource` of a kind that old clients could not mean is ignored; `dataSourceRef` is the field for it."""
    source = spec.get("dataSource")
    if source and not spec.get("dataSourceRef") and (source.get("apiGroup") or "", source.get("kind")) not in _SOURCES:
        del spec["dataSource"]


def _mirror_data_sources(obj: Obj) -> None:
    """`dataSource` and `dataSourceRef` say the same unless the reference names a namespace."""
    spec = obj.get("spec") or {}
    source, ref = spec.get("dataSource"), spec.get("dataSourceRef")
    if source and not ref:
        spec["dataSourceRef"] = dict(source)
    elif ref and not source and not ref.get("namespace"):
        spec["dataSource"] = {key: value for key, value in ref.items() if key != "namespace"}
