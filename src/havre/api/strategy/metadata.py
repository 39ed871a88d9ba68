"""Fields of `metadata` that a write may not change, put back as they were.

Source: k8s.io/apiserver, pkg/registry/rest/update.go (BeforeUpdate); apimachinery, pkg/apis/meta/v1/helpers.go
(ResetObjectMetaForStatus).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from havre.api.meta import Obj

_STATUS_KEEPS: Final = (
    "annotations",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "labels",
    "ownerReferences",
    "selfLink",
)


def restore(metadata: Obj, before: Obj, fields: Iterable[str]) -> None:
    """Make `fields` of `metadata` what they are in `before`, absent ones too."""
    for field in fields:
        if field in before:
            metadata[field] = before[field]
        else:
            metadata.pop(field, None)


def keep_for_status(metadata: Obj, before: Obj) -> None:
    """A status write of a strict kind changes nothing of metadata but managedFields."""
    restore(metadata, before, _STATUS_KEEPS)


def keep_whole(metadata: Obj, before: Obj) -> None:
    """All of metadata but managedFields and resourceVersion stays."""
    own: Obj = {key: metadata[key] for key in ("managedFields", "resourceVersion") if key in metadata}
    metadata.clear()
    metadata.update(before)
    metadata.pop("managedFields", None)
    metadata.update(own)


def keep_identity(metadata: Obj, before: Obj) -> None:
    """Identity, age and the beginning of deletion outlive every update; a wrong uid is left for validation."""
    if not metadata.get("uid") and before.get("uid"):
        metadata["uid"] = before["uid"]
    for field in ("creationTimestamp", "deletionTimestamp"):
        if before.get(field):
            metadata[field] = before[field]
    if "deletionGracePeriodSeconds" in before and metadata.get("deletionGracePeriodSeconds") is None:
        metadata["deletionGracePeriodSeconds"] = before["deletionGracePeriodSeconds"]
