"""The order in which objects can be applied: what others need comes first, what watches over them last. Pure.

Source: sigs.k8s.io/kustomize, api/internal/builtins/SortOrderTransformer; fluxcd/pkg, ssa (sort.go), which is the same
idea with its own list (see `gitops.apply`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from havre.platform.gitops.kustomize.errors import BuildError
from havre.platform.gitops.kustomize.resource import Resource

FIRST: Final = [
    "Namespace",
    "ResourceQuota",
    "StorageClass",
    "CustomResourceDefinition",
    "ServiceAccount",
    "PodSecurityPolicy",
    "Role",
    "ClusterRole",
    "RoleBinding",
    "ClusterRoleBinding",
    "ConfigMap",
    "Secret",
    "Endpoints",
    "Service",
    "LimitRange",
    "PriorityClass",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Deployment",
    "StatefulSet",
    "CronJob",
    "PodDisruptionBudget",
]
LAST: Final = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


def sort(resources: Sequence[Resource], options: Mapping[str, Any]) -> list[Resource]:
    """`order: fifo` or `legacy`; the latter with lists of its own if it has them. Raises BuildError."""
    how = options.get("order") or "legacy"
    if how == "fifo":
        return [*resources]
    if how != "legacy":
        raise BuildError(f"sortOptions: order: {how!r} is none of legacy, fifo")
    own = options.get("legacySortOptions") or {}
    first = own.get("orderFirst") or FIRST
    last = own.get("orderLast") or LAST
    places = {kind: index - len(first) for index, kind in enumerate(first)}
    places |= {kind: index + 1 for index, kind in enumerate(last)}

    def key(resource: Resource) -> tuple[int, str, str]:
        gvk = resource.gvk
        kind = f"{gvk.group or '~G'}_{gvk.version or '~V'}_{gvk.kind}"
        return places.get(gvk.kind, 0), kind, f"{resource.namespace or '~X'}|{resource.name}"

    return sorted(resources, key=key)
