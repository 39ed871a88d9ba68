"""Whether an object of a built-in kind may be written: every problem with it, in the words of the reference server.

`validate_create`, `validate_update` and `validate_status_update` look at objects that have their defaults and went
through `strategy`; shapes and types of fields were checked when the request was decoded. `validate_metadata` serves
custom resources too.

metadata.py  every object      checks.py  small checks that kinds share     cron.py  schedules
pods.py containers.py volumes.py services.py config.py workloads.py batch.py rbac.py storage.py limits.py
networking.py admission.py certificates.py   one function per kind, generators of problems

Source: k8s.io/kubernetes, pkg/apis/*/validation/validation.go, and Validate of pkg/registry/*/strategy.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from havre.api.kinds import by_gvk
from havre.api.meta import GVK, Obj
from havre.api.strategy.names import name_validator, prefix_validator
from havre.api.validation import (
    admission,
    batch,
    certificates,
    config,
    limits,
    networking,
    pods,
    rbac,
    services,
    storage,
    workloads,
)
from havre.api.validation.checks import Errors, not_negative
from havre.api.validation.metadata import validate_metadata, validate_metadata_update
from havre.kit.field import FieldError, invalid

__all__ = [
    "validate_create",
    "validate_metadata",
    "validate_metadata_update",
    "validate_status_update",
    "validate_subresource_update",
    "validate_update",
]

Create = Callable[[Obj], Errors]
Update = Callable[[Obj, Obj], Errors]


def _fine(obj: Obj) -> Errors:
    return iter(())


def _template_object(obj: Obj) -> Errors:
    yield from pods.template("template", obj.get("template"))


def _lease(obj: Obj) -> Errors:
    spec = obj.get("spec") or {}
    seconds = spec.get("leaseDurationSeconds")
    if seconds is not None and seconds <= 0:
        yield invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0")
    yield from not_negative("spec", spec, "leaseTransitions")


def _unchanged(create: Create) -> Update:
    """An update is checked like a create."""

    def update(new: Obj, old: Obj) -> Iterator[FieldError]:
        return create(new)

    return update


_CORE: Final[Mapping[str, tuple[Create, Update | None]]] = {
    "ConfigMap": (config.config_map, config.config_map_update),
    "Binding": (pods.binding, None),
    "Endpoints": (services.endpoints, None),
    "Event": (config.event, None),
    "LimitRange": (limits.limit_range, None),
    "Node": (config.node, config.node_update),
    "PersistentVolume": (storage.volume, storage.volume_update),
    "PersistentVolumeClaim": (storage.claim, storage.claim_update),
    "Pod": (pods.create, pods.update),
    "PodTemplate": (_template_object, None),
    "ReplicationController": (workloads.replication_controller, None),
    "ResourceQuota": (limits.quota, limits.quota_update),
    "Secret": (config.secret, config.secret_update),
    "Service": (services.create, services.update),
}
_GROUPS: Final[Mapping[tuple[str, str], tuple[Create, Update | None]]] = {
    ("apps", "ControllerRevision"): (workloads.controller_revision, workloads.controller_revision_update),
    ("apps", "DaemonSet"): (workloads.daemon_set, workloads.daemon_set_update),
    ("apps", "Deployment"): (workloads.deployment, workloads.deployment_update),
    ("apps", "ReplicaSet"): (workloads.replica_set, workloads.replica_set_update),
    ("apps", "StatefulSet"): (workloads.stateful_set, workloads.stateful_set_update),
    ("autoscaling", "HorizontalPodAutoscaler"): (limits.autoscaler, None),
    ("batch", "CronJob"): (batch.cron_job, batch.cron_job_update),
    ("batch", "Job"): (batch.job, batch.job_update),
    ("certificates.k8s.io", "CertificateSigningRequest"): (certificates.request, certificates.update),
    ("coordination.k8s.io", "Lease"): (_lease, None),
    ("discovery.k8s.io", "EndpointSlice"): (services.slice_, services.slice_update),
    ("events.k8s.io", "Event"): (config.new_event, None),
    ("networking.k8s.io", "IPAddress"): (networking.ip_address, None),
    ("networking.k8s.io", "Ingress"): (networking.ingress, None),
    ("networking.k8s.io", "IngressClass"): (networking.ingress_class, networking.ingress_class_update),
    ("networking.k8s.io", "NetworkPolicy"): (networking.network_policy, None),
    ("networking.k8s.io", "ServiceCIDR"): (networking.service_cidr, networking.service_cidr_update),
    ("node.k8s.io", "RuntimeClass"): (config.runtime_class, None),
    ("policy", "PodDisruptionBudget"): (limits.budget, None),
    ("rbac.authorization.k8s.io", "ClusterRole"): (rbac.cluster_role, None),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): (rbac.cluster_role_binding, rbac.binding_update),
    ("rbac.authorization.k8s.io", "Role"): (rbac.role, None),
    ("rbac.authorization.k8s.io", "RoleBinding"): (rbac.role_binding, rbac.binding_update),
    ("scheduling.k8s.io", "PriorityClass"): (limits.priority_class, limits.priority_class_update),
    ("storage.k8s.io", "StorageClass"): (storage.storage_class, storage.storage_class_update),
    ("storage.k8s.io", "VolumeAttachment"): (storage.attachment, storage.attachment_update),
    ("storage.k8s.io", "VolumeAttributesClass"): (storage.attributes_class, storage.attributes_class_update),
}
_ADMISSION: Final[Mapping[str, Create]] = {
    "MutatingAdmissionPolicyBinding": admission.policy_binding,
    "MutatingWebhookConfiguration": admission.mutating_webhooks,
    "ValidatingAdmissionPolicy": admission.policy,
    "ValidatingAdmissionPolicyBinding": admission.policy_binding,
    "ValidatingWebhookConfiguration": admission.validating_webhooks,
}
_ADMISSION_GROUP: Final = "admissionregistration.k8s.io"
_GENERIC: Final = frozenset({_ADMISSION_GROUP, "apiextensions.k8s.io"})  # whose finalizers may have any name
_STATUS: Final[Mapping[tuple[str, str], Update]] = {
    ("", "Namespace"): config.namespace_status,
    ("", "Pod"): pods.update_status,
    ("certificates.k8s.io", "CertificateSigningRequest"): certificates.status_update,
}
_SUBRESOURCES: Final[Mapping[tuple[str, str], Update]] = {
    ("Pod", "ephemeralcontainers"): pods.update_ephemeral_containers,
    ("Pod", "resize"): pods.resize,
    ("Namespace", "finalize"): config.namespace_finalizers,
    ("CertificateSigningRequest", "approval"): certificates.approval_update,
}


def _checks() -> dict[tuple[str, str], tuple[Create, Update]]:
    rows: dict[tuple[str, str], tuple[Create, Update | None]] = {("", kind): row for kind, row in _CORE.items()}
    rows |= _GROUPS
    rows |= {(_ADMISSION_GROUP, kind): (check, None) for kind, check in _ADMISSION.items()}
    return {key: (create, update or _unchanged(create)) for key, (create, update) in rows.items()}


_CHECKS: Final = _checks()
_NONE: Final[tuple[Create, Update]] = (_fine, _unchanged(_fine))


def validate_create(obj: Obj) -> list[FieldError]:
    """Problems of a new object: its metadata, then what its kind asks for."""
    gvk = GVK.of(obj)
    kind = by_gvk(gvk)
    found = validate_metadata(
        obj,
        namespaced=kind.namespaced if kind else bool(obj["metadata"].get("namespace")),
        name_check=name_validator(gvk),
        prefix_check=prefix_validator(gvk),
        standard=gvk.group not in _GENERIC,
    )
    found.extend(_CHECKS.get((gvk.group, gvk.kind), _NONE)[0](obj))
    return found


def _metadata_update(new: Obj, old: Obj) -> list[FieldError]:
    return validate_metadata_update(new, old, standard=GVK.of(new).group not in _GENERIC)


def validate_update(new: Obj, old: Obj) -> list[FieldError]:
    """Problems of replacing `old` by `new`."""
    group, kind = GVK.of(new).group, new["kind"]
    found = _metadata_update(new, old)
    found.extend(_CHECKS.get((group, kind), _NONE)[1](new, old))
    return found


def validate_status_update(new: Obj, old: Obj) -> list[FieldError]:
    """Problems of a write to the status of an object."""
    found = _metadata_update(new, old)
    if check := _STATUS.get((GVK.of(new).group, new["kind"])):
        found.extend(check(new, old))
    return found


def validate_subresource_update(subresource: str, new: Obj, old: Obj) -> list[FieldError]:
    """Problems of a write to `status`, `approval`, `finalize`, `ephemeralcontainers` or `resize`."""
    if subresource == "status":
        return validate_status_update(new, old)
    found = _metadata_update(new, old)
    if check := _SUBRESOURCES.get((new["kind"], subresource)):
        found.extend(check(new, old))
    return found
