"""Rendered files → the objects of a release in Helm's order, and its hooks. Pure.

A file is a stream of documents. A document with the annotation `helm.sh/hook` is a hook and no part of the manifest;
the others are sorted by kind so that what others need comes first, otherwise by file name and place.

Source: helm.sh/helm v4, pkg/release/v1/util (manifest_sorter.go, kind_sorter.go, manifest.go), pkg/action/action.go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from posixpath import basename
from typing import Any, Final

from havre.api.meta import Obj
from havre.lang import yaml
from havre.lang.yaml import YAMLError

HOOK: Final = "helm.sh/hook"
WEIGHT: Final = "helm.sh/hook-weight"
DELETE_POLICY: Final = "helm.sh/hook-delete-policy"
OUTPUT_POLICY: Final = "helm.sh/hook-output-log-policy"
RESOURCE_POLICY: Final = "helm.sh/resource-policy"
EVENTS: Final = {
    **{
        f"{when}-{what}": f"{when}-{what}"
        for when in ("pre", "post")
        for what in ("install", "delete", "upgrade", "rollback")
    },
    "test": "test",
    "test-success": "test",  # Helm 2's name
}
NOTES: Final = "NOTES.txt"
_SEPARATOR = re.compile(r"(?:^|\s*\n)---\s*")
_ORDER = """
PriorityClass Namespace NetworkPolicy ResourceQuota LimitRange PodSecurityPolicy PodDisruptionBudget ServiceAccount
Secret SecretList ConfigMap StorageClass PersistentVolume PersistentVolumeClaim CustomResourceDefinition ClusterRole
ClusterRoleList ClusterRoleBinding ClusterRoleBindingList Role RoleList RoleBinding RoleBindingList Service DaemonSet
Pod ReplicationController ReplicaSet Deployment HorizontalPodAutoscaler StatefulSet Job CronJob IngressClass Ingress
APIService MutatingWebhookConfiguration ValidatingWebhookConfiguration
"""
_INSTALL: Final = {kind: place for place, kind in enumerate(_ORDER.split())}
_UNINSTALL_FIRST = (
    *("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "APIService"),
    *("Ingress", "IngressClass", "Service"),
)
_UNINSTALL: Final = {
    kind: place
    for place, kind in enumerate(
        dict.fromkeys((*_UNINSTALL_FIRST, *sorted(_INSTALL, key=lambda kind: -_INSTALL[kind])))
    )
}


class ManifestError(ValueError):
    """A rendered file that is no YAML of objects."""


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook as the record of a release has it."""

    name: str
    kind: str
    path: str
    manifest: str
    events: tuple[str, ...]
    weight: int = 0
    delete_policies: tuple[str, ...] = ()
    output_log_policies: tuple[str, ...] = ()
    last_run: Mapping[str, Any] = field(default_factory=dict)  # started_at, completed_at, phase

    def of_record(self) -> Obj:
        record: Obj = {
            "name": self.name,
            "kind": self.kind,
            "path": self.path,
            "manifest": self.manifest,
            "events": list(self.events),
            "last_run": {"phase": "", **self.last_run},
        }
        if self.weight:
            record["weight"] = self.weight
        if self.delete_policies:
            record["delete_policies"] = list(self.delete_policies)
        if self.output_log_policies:
            record["output_log_policies"] = list(self.output_log_policies)
        return record

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Hook:
        return cls(
            record.get("name", ""),
            record.get("kind", ""),
            record.get("path", ""),
            record.get("manifest", ""),
            tuple(record.get("events") or ()),
            record.get("weight", 0),
            tuple(record.get("delete_policies") or ()),
            tuple(record.get("output_log_policies") or ()),
            {key: value for key, value in (record.get("last_run") or {}).items() if value},
        )


@dataclass(frozen=True, slots=True)
class Document:
    """One object of the manifest and the file it is from."""

    path: str
    text: str
    obj: Obj


@dataclass(frozen=True, slots=True)
class Sorted:
    """What the files of a chart come to."""

    documents: tuple[Document, ...]
    hooks: tuple[Hook, ...]
    notes: str

    @property
    def manifest(self) -> str:
        return "".join(f"---\n# Source: {each.path}\n{each.text}\n" for each in self.documents)


def split(text: str) -> list[str]:
    """The documents of a file as text, empty ones left out."""
    parts = (part.strip() for part in _SEPARATOR.split(text.strip()))
    return [part for part in parts if part]


def sort(files: Mapping[str, str], chart: str, changed: Callable[[Obj], Obj] | None = None) -> Sorted:
    """The release of rendered files; `changed` is what is done to each object after rendering. Raises ManifestError."""
    notes = files.get(f"{chart}/templates/{NOTES}", "")
    documents: list[Document] = []
    hooks: list[Hook] = []
    for path in sorted(files):
        if path.endswith(NOTES) or basename(path).startswith("_"):
            continue
        for text in split(files[path]):
            obj = _object(path, text)
            if obj is None:
                continue
            document = Document(path, text, obj)
            if changed is not None:
                new = changed(obj)
                document = Document(path, yaml.dump(new).rstrip("\n"), new)
            if HOOK in _annotations(document.obj):
                hooks += _hook(document)
            else:
                documents.append(document)
    return Sorted(
        tuple(sorted(documents, key=lambda each: _place(_INSTALL, each.obj.get("kind", "")))),
        tuple(sorted(hooks, key=lambda each: _place(_INSTALL, each.kind))),
        notes,
    )


def objects(manifest: str) -> list[Obj]:
    """The objects of a stored manifest, lists opened, in its order. Raises ManifestError."""
    found: list[Obj] = []
    for text in split(manifest):
        obj = _object("manifest", text)
        if obj is None:
            continue
        if obj.get("kind", "").endswith("List") and isinstance(obj.get("items"), list):
            found += [item for item in obj["items"] if isinstance(item, dict)]
        else:
            found.append(obj)
    return found


def for_removal(found: Iterable[Obj]) -> list[Obj]:
    """In the order in which a release is taken away, without what asks to be kept."""
    leaving = [obj for obj in found if _annotations(obj).get(RESOURCE_POLICY, "").strip().lower() != "keep"]
    return sorted(leaving, key=lambda obj: _place(_UNINSTALL, obj.get("kind", "")))


def of_event(hooks: Iterable[Hook], event: str) -> list[Hook]:
    """In the order in which they run."""
    return sorted((hook for hook in hooks if event in hook.events), key=lambda hook: (hook.weight, hook.name))


def _object(path: str, text: str) -> Obj | None:
    try:
        obj = yaml.load(text)
    except YAMLError as error:
        raise ManifestError(f"YAML parse error on {path}: error converting YAML to JSON: {error}") from error
    if obj is None:
        return None
    if not isinstance(obj, dict) or not isinstance(obj.get("kind", ""), str):
        raise ManifestError(f"YAML parse error on {path}: a document is not an object of Kubernetes")
    if not isinstance(obj.get("metadata") or {}, dict):
        raise ManifestError(f"YAML parse error on {path}: metadata is not a mapping")
    return obj


def _annotations(obj: Obj) -> dict[str, str]:
    found = (obj.get("metadata") or {}).get("annotations")
    return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _hook(document: Document) -> list[Hook]:
    """None when no event of it is known: Helm drops such a document."""
    obj = document.obj
    said = _annotations(obj)
    events = [EVENTS[event] for event in _listed(said[HOOK]) if event in EVENTS]
    if not events or len(events) != len(_listed(said[HOOK])):
        return []
    try:
        weight = int(said.get(WEIGHT, "0"))
    except ValueError:
        weight = 0
    name = str((obj.get("metadata") or {}).get("name", ""))
    policies, logs = (tuple(_listed(said.get(key, ""))) for key in (DELETE_POLICY, OUTPUT_POLICY))
    return [Hook(name, obj.get("kind", ""), document.path, document.text, tuple(events), weight, policies, logs)]


def _listed(text: str) -> list[str]:
    return [part.strip().lower() for part in text.split(",") if part.strip()]


def _place(order: Mapping[str, int], kind: str) -> tuple[int, str]:
    """Unknown kinds come last, by name."""
    return (order[kind], "") if kind in order else (len(order), kind)
