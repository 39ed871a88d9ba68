"""What the server does to an object of each built-in kind besides storing it: one row per kind.

A row says whether the kind has a status of its own, which fields count as its specification (a change raises
`metadata.generation`), whether PUT may create, whether it needs a resourceVersion, and which extra steps a write takes.

Source: k8s.io/kubernetes, pkg/registry/*/*/strategy.go (PrepareForCreate, PrepareForUpdate, GetResetFields).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from havre.api.meta import Obj
from havre.api.strategy import certificates, namespaces, pods, services, storage, workloads

OnCreate = Callable[[Obj], None]
OnUpdate = Callable[[Obj, Obj], None]
OnStatus = Callable[[Obj, Obj, str | None], None]


class StatusMeta(Enum):
    """How much of `metadata` a write to the status subresource leaves as it was."""

    FREE = "free"  # labels, annotations, finalizers and owners follow the request
    LABELS = "labels"  # labels stay
    ALL = "all"  # labels, annotations, finalizers, owners and deletionTimestamp stay
    WHOLE = "whole"  # everything but managedFields stays


EVERYTHING: Final = ("*",)  # every field but metadata, and the labels, count as specification


@dataclass(frozen=True, slots=True)
class Strategy:
    """One row; the defaults describe a plain kind such as ConfigMap."""

    has_status: bool = False
    generation: tuple[str, ...] = ()  # top-level fields whose change raises metadata.generation; () keeps none
    with_annotations: bool = False  # annotations count too: Deployment
    generation_on_create: bool = True  # a kind with `generation` starts at 1
    create_on_update: bool = False
    unconditional_update: bool = True
    empty_status: Mapping[str, Any] | None = None  # status after a create
    creator_sets_status: bool = False  # a create keeps the status that it carries: Node
    status_meta: StatusMeta = StatusMeta.FREE
    spec: tuple[str, ...] = ("spec",)  # fields that a status write leaves as they were
    on_create: OnCreate | None = None
    on_update: OnUpdate | None = None
    on_status: OnStatus | None = None


PLAIN: Final = Strategy()
_SPEC: Final = ("spec",)
_DAEMON_COUNTS: Final = ("currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady")
_BUDGET_COUNTS: Final = ("currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods")

_CORE: dict[str, Strategy] = {
    "Binding": PLAIN,
    "ConfigMap": PLAIN,
    "Endpoints": Strategy(create_on_update=True),
    "Event": Strategy(create_on_update=True),
    "LimitRange": Strategy(create_on_update=True),
    "Namespace": Strategy(
        has_status=True,
        empty_status={"phase": "Active"},
        on_create=namespaces.create,
        on_update=namespaces.update,
    ),
    "Node": Strategy(has_status=True, on_create=workloads.create_node, creator_sets_status=True),
    "PersistentVolume": Strategy(
        has_status=True,
        empty_status={"phase": "Pending"},
        on_create=storage.create_volume,
        on_status=storage.update_volume_status,
    ),
    "PersistentVolumeClaim": Strategy(
        has_status=True,
        empty_status={"phase": "Pending"},
        on_create=storage.create_claim,
        on_update=storage.update_claim,
    ),
    "Pod": Strategy(
        has_status=True,
        generation=_SPEC,
        on_create=pods.create,
        empty_status={"phase": "Pending"},
        on_status=pods.update_status,
    ),
    "PodTemplate": Strategy(generation=("template",)),
    "ReplicationController": Strategy(has_status=True, generation=_SPEC, empty_status={"replicas": 0}),
    "ResourceQuota": Strategy(has_status=True, empty_status={}),
    "Secret": Strategy(on_create=storage.fold_string_data, on_update=storage.update_secret),
    "Service": Strategy(
        has_status=True,
        create_on_update=True,
        empty_status={"loadBalancer": {}},
        on_create=services.create,
        on_update=services.update,
    ),
    "ServiceAccount": Strategy(
        on_create=workloads.clean_secret_references, on_update=workloads.clean_secret_references_on_update
    ),
}

_APPS: dict[str, Strategy] = {
    "ControllerRevision": PLAIN,
    "DaemonSet": Strategy(
        has_status=True,
        generation=_SPEC,
        empty_status=dict.fromkeys(_DAEMON_COUNTS, 0),
        on_create=workloads.create_daemon_set,
        on_update=workloads.update_daemon_set,
    ),
    "Deployment": Strategy(
        has_status=True,
        generation=_SPEC,
        with_annotations=True,
        empty_status={},
        status_meta=StatusMeta.LABELS,
    ),
    "ReplicaSet": Strategy(has_status=True, generation=_SPEC, empty_status={"replicas": 0}),
    "StatefulSet": Strategy(has_status=True, generation=_SPEC, empty_status={"availableReplicas": 0, "replicas": 0}),
}

_OTHER: dict[tuple[str, str], Strategy] = {
    ("batch/v1", "Job"): Strategy(has_status=True, generation=_SPEC, empty_status={}, on_create=workloads.create_job),
    ("batch/v1", "CronJob"): Strategy(has_status=True, generation=_SPEC, empty_status={}),
    ("policy/v1", "PodDisruptionBudget"): Strategy(
        has_status=True, generation=_SPEC, unconditional_update=False, empty_status=dict.fromkeys(_BUDGET_COUNTS, 0)
    ),
    ("networking.k8s.io/v1", "Ingress"): Strategy(has_status=True, generation=_SPEC, empty_status={"loadBalancer": {}}),
    ("networking.k8s.io/v1", "IngressClass"): Strategy(generation=_SPEC),
    ("networking.k8s.io/v1", "NetworkPolicy"): Strategy(generation=_SPEC),
    ("networking.k8s.io/v1", "IPAddress"): PLAIN,
    ("networking.k8s.io/v1", "ServiceCIDR"): Strategy(
        has_status=True, creator_sets_status=True, status_meta=StatusMeta.ALL
    ),
    ("discovery.k8s.io/v1", "EndpointSlice"): Strategy(generation=EVERYTHING, on_create=services.drop_topology),
    ("coordination.k8s.io/v1", "Lease"): Strategy(create_on_update=True, unconditional_update=False),
    ("events.k8s.io/v1", "Event"): Strategy(create_on_update=True),
    ("scheduling.k8s.io/v1", "PriorityClass"): Strategy(generation=("",)),
    ("node.k8s.io/v1", "RuntimeClass"): Strategy(create_on_update=True, unconditional_update=False),
    ("certificates.k8s.io/v1", "CertificateSigningRequest"): Strategy(
        has_status=True,
        empty_status={},
        on_create=certificates.create,
        on_update=certificates.update,
        on_status=certificates.update_status,
    ),
    ("storage.k8s.io/v1", "StorageClass"): PLAIN,
    ("storage.k8s.io/v1", "CSIDriver"): Strategy(
        generation=_SPEC, generation_on_create=False, unconditional_update=False
    ),
    ("storage.k8s.io/v1", "CSINode"): Strategy(unconditional_update=False),
    ("storage.k8s.io/v1", "CSIStorageCapacity"): Strategy(unconditional_update=False),
    ("storage.k8s.io/v1", "VolumeAttachment"): Strategy(
        has_status=True, unconditional_update=False, empty_status={"attached": False}, status_meta=StatusMeta.ALL
    ),
    ("storage.k8s.io/v1", "VolumeAttributesClass"): PLAIN,
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"): Strategy(
        has_status=True,
        generation=_SPEC,
        unconditional_update=False,
        empty_status={"acceptedNames": {"kind": "", "plural": ""}, "conditions": None, "storedVersions": []},
        on_create=workloads.create_definition,
        status_meta=StatusMeta.ALL,
    ),
    ("apiregistration.k8s.io/v1", "APIService"): Strategy(has_status=True, unconditional_update=False, empty_status={}),
    ("internal.apiserver.k8s.io/v1alpha1", "StorageVersion"): Strategy(
        has_status=True, unconditional_update=False, empty_status={}, status_meta=StatusMeta.ALL
    ),
}

_RBAC = Strategy(create_on_update=True)
_WEBHOOKS = Strategy(generation=("webhooks",), unconditional_update=False)
_POLICY_BINDING = Strategy(generation=_SPEC, unconditional_update=False)
_FLOW = Strategy(has_status=True, generation=_SPEC, empty_status={}, status_meta=StatusMeta.WHOLE)


def _rows() -> dict[tuple[str, str], Strategy]:
    """Rows by (apiVersion, kind)."""
    rows = {("v1", kind): row for kind, row in _CORE.items()}
    rows |= {("apps/v1", kind): row for kind, row in _APPS.items()}
    rows |= _OTHER
    for version in ("v1", "v2"):
        row = Strategy(has_status=True, empty_status={"currentMetrics": None, "desiredReplicas": 0})
        if version == "v1":
            row = Strategy(has_status=True, empty_status={"currentReplicas": 0, "desiredReplicas": 0})
        rows[f"autoscaling/{version}", "HorizontalPodAutoscaler"] = row
    for kind in ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"):
        rows["rbac.authorization.k8s.io/v1", kind] = _RBAC
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        rows["admissionregistration.k8s.io/v1", kind] = _WEBHOOKS
    for version in ("v1", "v1beta1"):
        group_version = f"admissionregistration.k8s.io/{version}"
        rows[group_version, "ValidatingAdmissionPolicy"] = Strategy(
            has_status=True,
            generation=_SPEC,
            unconditional_update=False,
            empty_status={},
            status_meta=StatusMeta.ALL,
        )
        rows[group_version, "MutatingAdmissionPolicy"] = _POLICY_BINDING
        rows[group_version, "ValidatingAdmissionPolicyBinding"] = _POLICY_BINDING
        rows[group_version, "MutatingAdmissionPolicyBinding"] = _POLICY_BINDING
    for kind in ("FlowSchema", "PriorityLevelConfiguration"):
        rows["flowcontrol.apiserver.k8s.io/v1", kind] = _FLOW
    for version in ("v1", "v1beta1", "v1beta2"):
        group_version = f"resource.k8s.io/{version}"
        rows[group_version, "DeviceClass"] = rows[group_version, "ResourceSlice"] = Strategy(generation=_SPEC)
        rows[group_version, "ResourceClaimTemplate"] = PLAIN
        rows[group_version, "ResourceClaim"] = Strategy(has_status=True, empty_status={}, status_meta=StatusMeta.ALL)
    return rows


TABLE: Final[Mapping[tuple[str, str], Strategy]] = _rows()
