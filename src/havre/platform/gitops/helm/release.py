"""What Helm stores about a release: one Secret for each revision, that Helm 3 and 4 read and carry on.

    sh.helm.release.v1.<name>.v<revision>, type helm.sh/release.v1
    labels  name, owner=helm, status, version, modifiedAt
    data.release = base64(base64(gzip(JSON)))

A record also is our journal: how far an action has come is written into an annotation of the Secret, which Helm leaves
alone, so that an action that was interrupted goes on where it stood.

Source: helm.sh/helm v4, pkg/storage/driver (secrets.go, util.go), pkg/release/v1 (release.go, info.go).
"""

from __future__ import annotations

import base64
import binascii
import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from havre.api.errors import NotFound
from havre.api.meta import GVK, Obj
from havre.lang import json
from havre.machinery.api import Api, Ref
from havre.platform.gitops.helm.manifest import Hook

SECRET: Final = GVK("", "v1", "Secret")
TYPE: Final = "helm.sh/release.v1"
PREFIX: Final = "sh.helm.release.v1"
STEP: Final = "havre.dev/step"
JSON_BYTES = 64 << 20  # of one record, unpacked; a Secret holds 1 MB packed
PENDING: Final = frozenset({"pending-install", "pending-upgrade", "pending-rollback"})
ZERO_TIME: Final = "0001-01-01T00:00:00Z"
_SYSTEM = ("name", "owner", "status", "version", "createdAt", "modifiedAt")


class RecordError(ValueError):
    """A Secret that is no record of a release."""


@dataclass(frozen=True, slots=True)
class Release:
    """One revision of a release."""

    name: str
    namespace: str
    version: int
    status: str  # deployed, superseded, failed, pending-…, uninstalling, uninstalled
    chart: Mapping[str, Any]  # metadata, lock, templates, values, schema, files
    config: Mapping[str, Any]  # the values given by the user
    manifest: str
    hooks: tuple[Hook, ...] = ()
    notes: str = ""
    description: str = ""
    first_deployed: str = ""
    last_deployed: str = ""
    deleted: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)  # the user's own
    apply_method: str = "ssa"
    step: str = ""  # how far the pending action has come
    rest: Mapping[str, Any] = field(default_factory=dict)  # fields of newer Helms, kept as they are

    @property
    def metadata(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.chart.get("metadata") or {}
        return found

    @property
    def chart_name(self) -> str:
        return str(self.metadata.get("name", ""))

    @property
    def chart_version(self) -> str:
        return str(self.metadata.get("version", ""))

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}.v{self.version}"

    @property
    def versioned_chart(self) -> str:
        return f"{self.chart_name}@{self.chart_version}"

    def record(self) -> Obj:
        """The JSON that Helm knows."""
        info: Obj = {
            "first_deployed": self.first_deployed,
            "last_deployed": self.last_deployed,
            "deleted": self.deleted,
            "description": self.description,
            "status": self.status,
        }
        if self.notes:
            info["notes"] = self.notes
        record: Obj = {"name": self.name, "info": info, "chart": dict(self.chart)}
        if self.config:
            record["config"] = dict(self.config)
        record |= {"manifest": self.manifest, "hooks": [hook.of_record() for hook in self.hooks]}
        record |= {"version": self.version, "namespace": self.namespace, "apply_method": self.apply_method}
        return {**self.rest, **record}

    @classmethod
    def read(cls, record: Mapping[str, Any], labels: Mapping[str, str], step: str) -> Release:
        """Raises KeyError, TypeError, AttributeError for another shape."""
        info = record["info"]
        known = {"name", "info", "chart", "config", "manifest", "hooks", "version", "namespace", "apply_method"}
        return cls(
            name=record["name"],
            namespace=record.get("namespace", ""),
            version=int(record["version"]),
            status=str(info["status"]),
            chart=record.get("chart") or {},
            config=record.get("config") or {},
            manifest=record.get("manifest", ""),
            hooks=tuple(map(Hook.read, record.get("hooks") or ())),
            notes=info.get("notes", ""),
            description=info.get("description", ""),
            first_deployed=info.get("first_deployed", ""),
            last_deployed=info.get("last_deployed", ""),
            deleted=info.get("deleted", ""),
            labels={key: value for key, value in labels.items() if key not in _SYSTEM},
            apply_method=record.get("apply_method", "csa"),  # Helm 3 does not say it
            step=step,
            rest={key: value for key, value in record.items() if key not in known},
        )


def moment(at: float) -> str:
    """A time as Go writes it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def secret_name(name: str, version: int) -> str:
    return f"{PREFIX}.{name}.v{version}"


def encode(release: Release, at: float) -> Obj:
    """The Secret of a record."""
    packed = gzip.compress(json.dumps(release.record()), 9, mtime=0)
    inner = base64.b64encode(packed)
    system = {
        "name": release.name,
        "owner": "helm",
        "status": release.status,
        "version": str(release.version),
        "modifiedAt": str(int(at)),
    }
    metadata: Obj = {
        "name": secret_name(release.name, release.version),
        "labels": {**release.labels, **system},
        "annotations": {STEP: release.step},
    }
    data = {"release": base64.b64encode(inner).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": TYPE, "data": data}


def decode(secret: Obj) -> Release:
    """The record of a Secret. Raises RecordError."""
    name = secret["metadata"]["name"]
    try:
        inner = base64.b64decode(secret["data"]["release"], validate=True)
        packed = base64.b64decode(inner, validate=True)
        raw = _unzip(packed) if packed[:3] == b"\x1f\x8b\x08" else packed  # Helm 2.0's first records were plain
        annotations = secret["metadata"].get("annotations") or {}
        labels = secret["metadata"].get("labels") or {}
        return Release.read(json.loads(raw), labels, annotations.get(STEP, ""))
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error, zlib.error) as error:
        raise RecordError(f"read the release in Secret {name}: {type(error).__name__}: {error}") from error


def _unzip(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    raw = unpacker.decompress(packed, JSON_BYTES)
    if unpacker.unconsumed_tail:
        raise ValueError(f"the record is larger than {JSON_BYTES} bytes")
    return raw


@dataclass(frozen=True, slots=True)
class Records:
    """The records of the releases in one namespace."""

    api: Api
    namespace: str
    manager: str = "helm-controller"

    async def history(self, name: str) -> list[Release]:
        """All revisions that are stored, the newest first. What cannot be read is left out, as Helm does."""
        listed = await self.api.list(SECRET, self.namespace, labels=f"owner=helm,name={name}")
        found = []
        for secret in listed.items:
            try:
                found.append(decode(secret))
            except RecordError:
                continue
        return sorted(found, key=lambda each: -each.version)

    async def create(self, release: Release, at: float) -> Release:
        """Raises AlreadyExists: somebody else began the same revision."""
        await self.api.create(self._secret(release, at), manager=self.manager)
        return release

    async def update(self, release: Release, at: float) -> Release:
        await self.api.update(self._secret(release, at), manager=self.manager)
        return release

    async def delete(self, release: Release) -> None:
        try:
            await self.api.delete(Ref(SECRET, self.namespace, secret_name(release.name, release.version)))
        except NotFound:
            return

    def _secret(self, release: Release, at: float) -> Obj:
        secret = encode(release, at)
        secret["metadata"]["namespace"] = self.namespace
        return secret


def with_status(release: Release, status: str, description: str) -> Release:
    return replace(release, status=status, description=description, step="" if status not in PENDING else release.step)
