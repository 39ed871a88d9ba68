"""Identities of the API and small readers of `metadata`; objects travel as plain dicts, so unknown fields survive.

Source: k8s.io/apimachinery, pkg/runtime/schema and pkg/apis/meta/v1.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

Obj = dict[str, Any]


class GVK(NamedTuple):
    """Group, version and kind: what an object says it is; the core group is ""."""

    group: str
    version: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @classmethod
    def of(cls, obj: Obj) -> GVK:
        group, version = split_api_version(obj.get("apiVersion", ""))
        return cls(group, version, obj.get("kind", ""))


class GVR(NamedTuple):
    """Group, version and resource: the place of a kind in URLs (`apps`, `v1`, `deployments`)."""

    group: str
    version: str
    resource: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


def split_api_version(api_version: str) -> tuple[str, str]:
    """("apps", "v1") of "apps/v1"; ("", "v1") of "v1"."""
    group, _, version = api_version.rpartition("/")
    return group, version


def rfc3339(at: float) -> str:
    """Seconds since the epoch as metav1.Time: whole seconds, UTC, `2026-01-31T07:00:00Z`."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(at: float) -> str:
    """Seconds since the epoch as metav1.MicroTime: `2026-01-31T07:00:00.123456Z`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time. Raises ValueError."""
    return datetime.fromisoformat(text).timestamp()


def namespace_of(obj: Obj) -> str:
    return str(obj["metadata"].get("namespace") or "")


def name_of(obj: Obj) -> str:
    return str(obj["metadata"]["name"])


def labels_of(obj: Obj) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def annotations_of(obj: Obj) -> dict[str, str]:
    return obj["metadata"].get("annotations") or {}


def controller_of(obj: Obj) -> Obj | None:
    """The owner reference that says `controller: true`."""
    for ref in obj["metadata"].get("ownerReferences") or ():
        if ref.get("controller"):
            return dict(ref)
    return None
