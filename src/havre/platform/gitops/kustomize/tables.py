"""Which fields the transformers write, and which fields hold the name of another object: a table.

A pod template stands in several kinds at several places, so the tables are products of places and fields; a few
entries that upstream lacks are left out here too (a ReplicaSet's service account), since names must not change where
they do not change there.

Source: sigs.k8s.io/kustomize, api/internal/konfig/builtinpluginconsts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from havre.platform.gitops.kustomize.fields import FieldSpec
from havre.platform.gitops.kustomize.resource import Gvk

# labels and annotations

METADATA_LABELS: Final = FieldSpec("metadata/labels", create=True)

_TEMPLATES = (
    ("spec/template/metadata", Gvk(version="v1", kind="ReplicationController")),
    ("spec/template/metadata", Gvk(kind="Deployment")),
    ("spec/template/metadata", Gvk(kind="ReplicaSet")),
    ("spec/template/metadata", Gvk(kind="DaemonSet")),
    ("spec/template/metadata", Gvk(group="batch", kind="Job")),
    ("spec/jobTemplate/metadata", Gvk(group="batch", kind="CronJob")),
    ("spec/jobTemplate/spec/template/metadata", Gvk(group="batch", kind="CronJob")),
)
TEMPLATE_LABELS: Final = (
    METADATA_LABELS,
    *(FieldSpec(f"{path}/labels", gvk, create=True) for path, gvk in _TEMPLATES),
    FieldSpec("spec/template/metadata/labels", Gvk(group="apps", kind="StatefulSet"), create=True),
)
VOLUME_CLAIM_LABELS: Final = (
    FieldSpec("spec/volumeClaimTemplates[]/metadata/labels", Gvk(group="apps", kind="StatefulSet"), create=True),
)
ANNOTATIONS: Final = (
    FieldSpec("metadata/annotations", create=True),
    *(FieldSpec(f"{path}/annotations", gvk, create=True) for path, gvk in _TEMPLATES),
    FieldSpec("spec/template/metadata/annotations", Gvk(kind="StatefulSet"), create=True),
)

_NEIGHBOURS = (
    "affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution/podAffinityTerm/labelSelector/matchLabels",
    "affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution/labelSelector/matchLabels",
    "affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/podAffinityTerm/labelSelector/matchLabels",
    "affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/labelSelector/matchLabels",
    "topologySpreadConstraints/labelSelector/matchLabels",
)
_NETWORK_POLICY = Gvk(group="networking.k8s.io", kind="NetworkPolicy")
COMMON_LABELS: Final = (
    FieldSpec("spec/selector", Gvk(version="v1", kind="Service"), create=True),
    FieldSpec("spec/selector", Gvk(version="v1", kind="ReplicationController"), create=True),
    *(
        FieldSpec("spec/selector/matchLabels", Gvk(kind=kind), create=True)
        for kind in ("Deployment", "ReplicaSet", "DaemonSet")
    ),
    FieldSpec("spec/selector/matchLabels", Gvk(group="apps", kind="StatefulSet"), create=True),
    *(
        FieldSpec(f"spec/template/spec/{path}", Gvk(group="apps", kind=kind))
        for kind in ("Deployment", "StatefulSet")
        for path in _NEIGHBOURS
    ),
    FieldSpec("spec/selector/matchLabels", Gvk(group="batch", kind="Job")),
    FieldSpec("spec/jobTemplate/spec/selector/matchLabels", Gvk(group="batch", kind="CronJob")),
    FieldSpec("spec/selector/matchLabels", Gvk(group="policy", kind="PodDisruptionBudget")),
    FieldSpec("spec/podSelector/matchLabels", _NETWORK_POLICY),
    FieldSpec("spec/ingress/from/podSelector/matchLabels", _NETWORK_POLICY),
    FieldSpec("spec/egress/to/podSelector/matchLabels", _NETWORK_POLICY),
    *TEMPLATE_LABELS,
    *VOLUME_CLAIM_LABELS,
)

# namespaces, images, replicas

NAMESPACES: Final = (
    FieldSpec("metadata/name", Gvk(kind="Namespace"), create=True),
    FieldSpec("spec/service/namespace", Gvk(group="apiregistration.k8s.io", kind="APIService"), create=True),
    FieldSpec(
        "spec/conversion/webhook/clientConfig/service/namespace",
        Gvk(group="apiextensions.k8s.io", kind="CustomResourceDefinition"),
    ),
)
IMAGES: Final = tuple(
    FieldSpec(path)
    for path in (
        "spec/containers[]/image",
        "spec/initContainers[]/image",
        "spec/volumes[]/image/reference",
        "spec/template/spec/containers[]/image",
        "spec/template/spec/initContainers[]/image",
        "spec/template/spec/volumes[]/image/reference",
        "spec/jobTemplate/spec/template/spec/volumes[]/image/reference",
    )
)
REPLICAS: Final = tuple(
    FieldSpec("spec/replicas", Gvk(kind=kind), create=True)
    for kind in ("Deployment", "ReplicationController", "ReplicaSet", "StatefulSet")
)

# names


@dataclass(frozen=True, slots=True)
class NameReference:
    """Objects of `target` are named in these fields."""

    target: Gvk
    fields: tuple[FieldSpec, ...]


_POD_PLACES = {
    "Pod": "spec",
    "PodTemplate": "template/spec",
    **dict.fromkeys(("Deployment", "ReplicaSet", "DaemonSet", "StatefulSet", "Job"), "spec/template/spec"),
    "CronJob": "spec/jobTemplate/spec/template/spec",
}
_OTHER_PLACES = {
    "Pod": "spec",
    **dict.fromkeys(("StatefulSet", "Deployment", "ReplicationController", "Job", "DaemonSet"), "spec/template/spec"),
    "CronJob": "spec/jobTemplate/spec/template/spec",
}


def _in_pods(places: dict[str, str], *paths: str) -> tuple[FieldSpec, ...]:
    return tuple(FieldSpec(f"{place}/{path}", Gvk(kind=kind)) for kind, place in places.items() for path in paths)


def _fields(*entries: tuple[str, str, str]) -> tuple[FieldSpec, ...]:
    return tuple(FieldSpec(path, Gvk(group=group, kind=kind)) for path, kind, group in entries)


_RBAC = "rbac.authorization.k8s.io"
_ADMISSION = "admissionregistration.k8s.io"
_RESOURCE_NAMES = (("rules/resourceNames", "Role", ""), ("rules/resourceNames", "ClusterRole", ""))

NAMES: Final = (
    *(
        NameReference(Gvk(kind=kind), _fields(("spec/scaleTargetRef/name", "HorizontalPodAutoscaler", "")))
        for kind in ("Deployment", "ReplicationController", "ReplicaSet", "StatefulSet")
    ),
    NameReference(
        Gvk(version="v1", kind="ConfigMap"),
        (
            *_in_pods(
                _POD_PLACES,
                "volumes/configMap/name",
                "containers/env/valueFrom/configMapKeyRef/name",
                "initContainers/env/valueFrom/configMapKeyRef/name",
                "containers/envFrom/configMapRef/name",
                "initContainers/envFrom/configMapRef/name",
                "volumes/projected/sources/configMap/name",
            ),
            *_fields(
                ("spec/configSource/configMap", "Node", ""),
                *_RESOURCE_NAMES,
                (r"metadata/annotations/nginx.ingress.kubernetes.io\/fastcgi-params-configmap", "Ingress", ""),
            ),
        ),
    ),
    NameReference(
        Gvk(version="v1", kind="Secret"),
        (
            *_in_pods(
                _POD_PLACES,
                "volumes/secret/secretName",
                "containers/env/valueFrom/secretKeyRef/name",
                "initContainers/env/valueFrom/secretKeyRef/name",
                "containers/envFrom/secretRef/name",
                "initContainers/envFrom/secretRef/name",
                "imagePullSecrets/name",
                "volumes/projected/sources/secret/name",
            ),
            *_fields(
                ("spec/tls/secretName", "Ingress", ""),
                (r"metadata/annotations/ingress.kubernetes.io\/auth-secret", "Ingress", ""),
                (r"metadata/annotations/nginx.ingress.kubernetes.io\/auth-secret", "Ingress", ""),
                (r"metadata/annotations/nginx.ingress.kubernetes.io\/auth-tls-secret", "Ingress", ""),
                ("imagePullSecrets/name", "ServiceAccount", ""),
                ("parameters/secretName", "StorageClass", ""),
                ("parameters/adminSecretName", "StorageClass", ""),
                ("parameters/userSecretName", "StorageClass", ""),
                ("parameters/secretRef", "StorageClass", ""),
                *_RESOURCE_NAMES,
                ("spec/template/spec/containers/env/valueFrom/secretKeyRef/name", "Service", "serving.knative.dev"),
                ("spec/azureFile/secretName", "PersistentVolume", ""),
            ),
        ),
    ),
    NameReference(
        Gvk(version="v1", kind="Service"),
        _fields(
            ("spec/serviceName", "StatefulSet", "apps"),
            ("spec/rules/http/paths/backend/serviceName", "Ingress", ""),
            ("spec/backend/serviceName", "Ingress", ""),
            ("spec/rules/http/paths/backend/service/name", "Ingress", ""),
            ("spec/defaultBackend/service/name", "Ingress", ""),
            ("spec/service/name", "APIService", "apiregistration.k8s.io"),
            ("webhooks/clientConfig/service", "ValidatingWebhookConfiguration", _ADMISSION),
            ("webhooks/clientConfig/service", "MutatingWebhookConfiguration", _ADMISSION),
        ),
    ),
    NameReference(Gvk(group=_RBAC, kind="Role"), _fields(("roleRef/name", "RoleBinding", _RBAC))),
    NameReference(
        Gvk(group=_RBAC, kind="ClusterRole"),
        _fields(("roleRef/name", "RoleBinding", _RBAC), ("roleRef/name", "ClusterRoleBinding", _RBAC)),
    ),
    NameReference(
        Gvk(version="v1", kind="ServiceAccount"),
        (
            *_fields(("subjects", "RoleBinding", _RBAC), ("subjects", "ClusterRoleBinding", _RBAC)),
            *_in_pods(_OTHER_PLACES, "serviceAccountName"),
        ),
    ),
    NameReference(
        Gvk(version="v1", kind="PersistentVolumeClaim"),
        _in_pods(_OTHER_PLACES, "volumes/persistentVolumeClaim/claimName"),
    ),
    NameReference(
        Gvk(version="v1", kind="PersistentVolume"),
        _fields(("spec/volumeName", "PersistentVolumeClaim", ""), ("rules/resourceNames", "ClusterRole", "")),
    ),
    NameReference(
        Gvk("storage.k8s.io", "v1", "StorageClass"),
        _fields(
            ("spec/storageClassName", "PersistentVolume", ""),
            ("spec/storageClassName", "PersistentVolumeClaim", ""),
            ("spec/volumeClaimTemplates/spec/storageClassName", "StatefulSet", ""),
        ),
    ),
    NameReference(Gvk("scheduling.k8s.io", "v1", "PriorityClass"), _in_pods(_OTHER_PLACES, "priorityClassName")),
    NameReference(
        Gvk(group=_ADMISSION, kind="ValidatingAdmissionPolicy"),
        _fields(("spec/policyName", "ValidatingAdmissionPolicyBinding", _ADMISSION)),
    ),
)
