"""Namespace: active when made, held by the `kubernetes` finalizer, labelled with its own name.

Source: k8s.io/kubernetes, pkg/registry/core/namespace/strategy.go.
"""

from __future__ import annotations

from typing import Final

from havre.api.meta import Obj

FINALIZER: Final = "kubernetes"
NAME_LABEL: Final = "kubernetes.io/metadata.name"


def create(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    finalizers = list(spec.get("finalizers") or ())
    if FINALIZER not in finalizers:
        finalizers.append(FINALIZER)
    spec["finalizers"] = finalizers
    label_with_name(obj)


def update(new: Obj, old: Obj) -> None:
    """Finalizers of the spec change through the `finalize` subresource only."""
    finalizers = (old.get("spec") or {}).get("finalizers")
    spec = new.get("spec") or {}
    spec.pop("finalizers", None)
    new["spec"] = {**spec, "finalizers": finalizers} if finalizers else spec
    label_with_name(new)


def label_with_name(obj: Obj) -> None:
    """The label that selectors of namespaces rely on: nobody can change it."""
    metadata = obj["metadata"]
    if name := metadata.get("name"):
        metadata["labels"] = {**(metadata.get("labels") or {}), NAME_LABEL: name}
