"""ConfigMaps, Secrets and facts about the pod as files: path, content, mode. Pure.

Source: k8s.io/kubernetes pkg/volume/{configmap,secret,downwardapi,projected} (MakePayload, CollectData).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from havre.api.meta import Obj
from havre.node.agent.field_values import FieldError, container_of, field_value, resource_value
from havre.node.agent.protocol import VolumeError

MODE: Final = 0o644  # what the API server defaults defaultMode to
TOKEN_MODE: Final = 0o600
BYTES: Final = 16 << 20  # of one volume; an object has at most 1.5 MB, a projected volume may name several


@dataclass(frozen=True, slots=True)
class File:
    """One file of a volume; `uid` None is root."""

    content: bytes
    mode: int = MODE
    uid: int | None = None


Payload = dict[str, File]  # by path below the volume


def config_map_files(found: Obj | None, source: Obj, default_mode: int) -> Payload:
    """Its keys, or the chosen ones."""
    data = {key: text.encode() for key, text in ((found or {}).get("data") or {}).items()}
    data |= {key: _decoded(value, key) for key, value in ((found or {}).get("binaryData") or {}).items()}
    return _chosen(data, source, default_mode, "configmap references non-existent config key")


def secret_files(found: Obj | None, source: Obj, default_mode: int) -> Payload:
    data = {key: _decoded(value, key) for key, value in ((found or {}).get("data") or {}).items()}
    return _chosen(data, source, default_mode, "references non-existent secret key")


def _decoded(value: str, key: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as e:
        raise VolumeError(f"key {key} is not base64") from e


def _chosen(data: Mapping[str, bytes], source: Obj, default_mode: int, missing: str) -> Payload:
    items = source.get("items")
    if not items:
        return {key: File(content, default_mode) for key, content in data.items()}
    payload: Payload = {}
    for item in items:
        key = item["key"]
        if key in data:
            payload[item["path"]] = File(data[key], _mode(item, default_mode))
        elif not source.get("optional"):
            raise VolumeError(f"{missing}: {key}")
    return payload


def _mode(item: Obj, default: int) -> int:
    mode = item.get("mode")
    return default if mode is None else int(mode)


def downward_files(pod: Obj, source: Obj, default_mode: int, allocatable: Mapping[str, str]) -> Payload:
    """What the pod says about itself."""
    payload: Payload = {}
    for item in source.get("items") or ():
        try:
            text = _fact(pod, item, allocatable)
        except FieldError as e:
            raise VolumeError(str(e)) from e
        payload[item["path"]] = File(text.encode(), _mode(item, default_mode))
    return payload


def _fact(pod: Obj, item: Obj, allocatable: Mapping[str, str]) -> str:
    if ref := item.get("fieldRef"):
        return field_value(pod, ref["fieldPath"])
    ref = item.get("resourceFieldRef") or {}
    return resource_value(container_of(pod, ref.get("containerName", "")), ref, allocatable)


def token_file(token: str, pod: Obj, default_mode: int) -> File:
    """A service account's token: its user's alone, if the pod has one user or a group for its files."""
    uid = only_user(pod)
    private = uid is not None or fs_group(pod) is not None
    return File(token.encode(), TOKEN_MODE if private else default_mode, uid)


def fs_group(pod: Obj) -> int | None:
    """The group that the pod's volumes are given to."""
    group = ((pod.get("spec") or {}).get("securityContext") or {}).get("fsGroup")
    return None if group is None else int(group)


def only_user(pod: Obj) -> int | None:
    """The user that every container of the pod runs as, if the spec says so."""
    spec = pod.get("spec") or {}
    common = (spec.get("securityContext") or {}).get("runAsUser")
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    users = {(container.get("securityContext") or {}).get("runAsUser", common) for container in containers}
    if len(users) != 1:
        return None
    user = users.pop()
    return None if user is None else int(user)


def check(payload: Payload) -> None:
    """Raises VolumeError for a path that leaves the volume or meets its own files, and for too much of it."""
    for path in payload:
        parts = path.split("/")
        if path.startswith("/") or ".." in parts or parts[0].startswith("..") or len(path) > 4096:
            raise VolumeError(f"invalid path: {path[:200]!r} must stay in the volume and must not start with '..'")
        if any(part == "" or len(part.encode()) > 255 for part in parts):
            raise VolumeError(f"invalid path: {path[:200]!r}")
    if sum(len(file.content) for file in payload.values()) > BYTES:
        raise VolumeError(f"the volume is larger than {BYTES} bytes")
