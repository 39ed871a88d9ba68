"""Printers: the columns and cells that `kubectl get` shows, made on the server so that every client shows the same.

    object → cells (pure, once per revision) → table.Row (bytes around the ages) → Table

The columns are data (`columns.json`); each kind has one function from an object to its cells: `pod`, `workloads`,
`core`, `network`, `storage`, `access`. `custom_columns` makes them from the columns of a CustomResourceDefinition. A
cell that shows how long ago something was is a `Since`, for the clock belongs to the row.

Built-in kinds are printed from the object as it is stored, as upstream prints its internal form: an Event of either
group from the core form, an autoscaler of either version from v2.

Source: k8s.io/kubernetes, pkg/printers/internalversion (printers.go).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from havre.api.meta import GVK, Obj
from havre.control.apiserver.printers import access, core, custom_columns, network, storage, workloads
from havre.control.apiserver.printers.columns import Cells, KindTable, columns_of
from havre.control.apiserver.printers.pod import pod

_CELLS: dict[str, Cells] = {
    "/ComponentStatus": core.component_status,
    "/ConfigMap": core.config_map,
    "/Endpoints": network.endpoints,
    "/Event": core.event,
    "/Namespace": core.namespace,
    "/Node": core.node,
    "/PersistentVolume": storage.volume,
    "/PersistentVolumeClaim": storage.volume_claim,
    "/Pod": pod,
    "/PodTemplate": workloads.pod_template,
    "/ReplicationController": workloads.replication_controller,
    "/ResourceQuota": core.resource_quota,
    "/Secret": core.secret,
    "/Service": network.service,
    "/ServiceAccount": core.service_account,
    "admissionregistration.k8s.io/MutatingWebhookConfiguration": access.webhooks,
    "admissionregistration.k8s.io/ValidatingAdmissionPolicy": access.admission_policy,
    "admissionregistration.k8s.io/ValidatingAdmissionPolicyBinding": access.admission_binding,
    "admissionregistration.k8s.io/ValidatingWebhookConfiguration": access.webhooks,
    "apiregistration.k8s.io/APIService": access.api_service,
    "apps/ControllerRevision": workloads.controller_revision,
    "apps/DaemonSet": workloads.daemon_set,
    "apps/Deployment": workloads.deployment,
    "apps/ReplicaSet": workloads.replica_set,
    "apps/StatefulSet": workloads.stateful_set,
    "autoscaling/HorizontalPodAutoscaler": workloads.autoscaler,
    "autoscaling/Scale": workloads.scale,
    "batch/CronJob": workloads.cron_job,
    "batch/Job": workloads.job,
    "certificates.k8s.io/CertificateSigningRequest": access.signing_request,
    "coordination.k8s.io/Lease": core.lease,
    "discovery.k8s.io/EndpointSlice": network.endpoint_slice,
    "events.k8s.io/Event": core.event,
    "flowcontrol.apiserver.k8s.io/FlowSchema": access.flow_schema,
    "flowcontrol.apiserver.k8s.io/PriorityLevelConfiguration": access.priority_level,
    "networking.k8s.io/IPAddress": network.ip_address,
    "networking.k8s.io/Ingress": network.ingress,
    "networking.k8s.io/IngressClass": network.ingress_class,
    "networking.k8s.io/NetworkPolicy": network.network_policy,
    "networking.k8s.io/ServiceCIDR": network.service_cidr,
    "node.k8s.io/RuntimeClass": core.runtime_class,
    "policy/PodDisruptionBudget": workloads.disruption_budget,
    "rbac.authorization.k8s.io/ClusterRoleBinding": access.role_binding,
    "rbac.authorization.k8s.io/RoleBinding": access.role_binding,
    "resource.k8s.io/DeviceClass": core.name_and_age,
    "resource.k8s.io/ResourceClaim": storage.resource_claim,
    "resource.k8s.io/ResourceClaimTemplate": core.name_and_age,
    "resource.k8s.io/ResourceSlice": storage.resource_slice,
    "scheduling.k8s.io/PriorityClass": core.priority_class,
    "storage.k8s.io/CSIDriver": storage.csi_driver,
    "storage.k8s.io/CSINode": storage.csi_node,
    "storage.k8s.io/StorageClass": storage.storage_class,
    "storage.k8s.io/VolumeAttachment": storage.attachment,
    "storage.k8s.io/VolumeAttributesClass": storage.attributes_class,
}


@lru_cache(256)  # built-in kinds: 60
def table_of(gvk: GVK) -> KindTable:
    """The table of a built-in kind; one that has no columns of its own shows name and creation time."""
    kind = f"{gvk.group}/{gvk.kind}"
    return KindTable(columns_of(kind), _CELLS.get(kind, core.created_at))


def custom(columns: Sequence[Obj]) -> KindTable:
    """The table of a custom kind, from its `additionalPrinterColumns`; none declared shows name and age."""
    return custom_columns.table(columns)
