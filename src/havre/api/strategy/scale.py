"""The `scale` subresource: how many replicas a workload should have and has, in one shape for all kinds.

Source: k8s.io/kubernetes, pkg/registry/apps/deployment/storage/storage.go; k8s.io/api, autoscaling/v1 Scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from havre.api.meta import Obj
from havre.kit.field import FieldError, invalid

_COPIED: Final = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
_OPERATORS: Final = {"In": "in", "NotIn": "notin"}


def scale_of(obj: Obj) -> Obj:
    """The Scale of a Deployment, ReplicaSet, StatefulSet or ReplicationController."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    replicas = spec.get("replicas") or 0
    seen: Obj = {"replicas": status.get("replicas") or 0}
    if text := selector_text(spec.get("selector"), plain=obj.get("kind") == "ReplicationController"):
        seen["selector"] = text
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {field: metadata[field] for field in _COPIED if field in metadata},
        "spec": {"replicas": replicas} if replicas else {},
        "status": seen,
    }


def apply_scale(obj: Obj, scale: Obj) -> None:
    """Take the wanted replicas, and the resourceVersion as a precondition, from `scale` into `obj`."""
    obj["spec"] = {**(obj.get("spec") or {}), "replicas": (scale.get("spec") or {}).get("replicas") or 0}
    if version := (scale.get("metadata") or {}).get("resourceVersion"):
        obj["metadata"] = {**obj["metadata"], "resourceVersion": version}


def validate_scale(scale: Obj) -> list[FieldError]:
    replicas = (scale.get("spec") or {}).get("replicas") or 0
    if replicas < 0:
        return [invalid("spec.replicas", replicas, "must be greater than or equal to 0")]
    return []


def selector_text(selector: Mapping[str, Any] | None, *, plain: bool = False) -> str:
    """A label selector in the query form, sorted by key: `app=web,tier in (a,b),!old`; `plain` is a map of labels."""
    if not selector:
        return ""
    labels = selector if plain else selector.get("matchLabels") or {}
    parts = [(key, f"{key}={value}") for key, value in labels.items()]
    expressions = () if plain else selector.get("matchExpressions") or ()
    parts += [(str(e.get("key", "")), _expression(e)) for e in expressions]
    return ",".join(text for _, text in sorted(parts, key=lambda part: part[0]))


def _expression(expression: Mapping[str, Any]) -> str:
    key, operator = expression.get("key", ""), expression.get("operator", "")
    if operator == "Exists":
        return str(key)
    if operator == "DoesNotExist":
        return f"!{key}"
    return f"{key} {_OPERATORS.get(operator, operator)} ({','.join(sorted(expression.get('values') or ()))})"
