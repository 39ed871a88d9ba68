"""The order in which objects are applied, and the stages that wait for each other. Pure.

Source: fluxcd/pkg, ssa (sort.go, utils).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from havre.api.meta import Obj
from havre.machinery.api import Ref

_FIRST: Final = (
    "CustomResourceDefinition",
    "Namespace",
    "ClusterRole",
    "ClusterClass",
    "RuntimeClass",
    "PriorityClass",
    "StorageClass",
    "VolumeSnapshotClass",
    "IngressClass",
    "GatewayClass",
    "ClusterRoleBinding",
    "ResourceQuota",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ConfigMap",
    "Secret",
    "Service",
    "LimitRange",
    "Deployment",
    "StatefulSet",
    "CronJob",
    "PodDisruptionBudget",
)
_LAST: Final = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
_PLACES: Final = {
    **{kind: place - len(_FIRST) for place, kind in enumerate(_FIRST)},
    **{kind: place + 1 for place, kind in enumerate(_LAST)},
}
_DEFINITIONS: Final = frozenset(("CustomResourceDefinition", "Namespace", "ClusterRole"))


def rank(ref: Ref) -> tuple[int, str, str, str, str]:
    return _PLACES.get(ref.gvk.kind, 0), ref.gvk.group, ref.gvk.kind, ref.namespace, ref.name


def stages(objects: Iterable[Obj]) -> list[list[Obj]]:
    """Definitions, classes, the rest; each in order, empty ones left out."""
    divided: list[list[Obj]] = [[], [], []]
    for obj in sorted(objects, key=lambda obj: rank(Ref.of(obj))):
        kind = obj["kind"]
        divided[0 if kind in _DEFINITIONS else 1 if kind.endswith("Class") else 2].append(obj)
    return [stage for stage in divided if stage]
