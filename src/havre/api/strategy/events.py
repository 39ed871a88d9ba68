"""Events have two views of one stored object: core `v1` and `events.k8s.io/v1`; fields differ in name only.

Source: k8s.io/kubernetes, pkg/apis/events/v1/conversion.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from havre.api.meta import Obj

_NEW_NAMES: Final = {
    "count": "deprecatedCount",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "involvedObject": "regarding",
    "lastTimestamp": "deprecatedLastTimestamp",
    "message": "note",
    "reportingComponent": "reportingController",
    "source": "deprecatedSource",
}
_OLD_NAMES: Final = {new: old for old, new in _NEW_NAMES.items()}


def core_to_new(obj: Obj) -> Obj:
    """The `events.k8s.io/v1` view of a core event."""
    return _renamed(obj, _NEW_NAMES, "events.k8s.io/v1")


def new_to_core(obj: Obj) -> Obj:
    """The core event of an `events.k8s.io/v1` one."""
    return _renamed(obj, _OLD_NAMES, "v1")


def _renamed(obj: Obj, names: Mapping[str, str], api_version: str) -> Obj:
    renamed = {names.get(key, key): value for key, value in obj.items()}
    renamed["apiVersion"] = api_version
    return renamed
