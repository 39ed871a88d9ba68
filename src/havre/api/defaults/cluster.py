"""Defaults of the remaining groups: networking, RBAC, admission, storage, flow control, scheduling, devices and more.

Source: k8s.io/kubernetes, pkg/apis/*/v1/defaults.go; the same files of kube-aggregator and apiextensions-apiserver.
"""

from __future__ import annotations

from typing import Final

from havre.api.defaults.core import absent, unset
from havre.api.meta import Obj

RBAC: Final = "rbac.authorization.k8s.io"
WEBHOOK_SECONDS: Final = 10
HTTPS: Final = 443


def network_policy(obj: Obj) -> None:
    spec = obj["spec"] = obj.get("spec") or {}
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def network_policy_port(obj: Obj) -> None:
    absent(obj, protocol="TCP")


def ingress_class(obj: Obj) -> None:
    parameters = (obj.get("spec") or {}).get("parameters")
    if parameters is not None:
        absent(parameters, scope="Cluster")


def endpoint_port(obj: Obj) -> None:
    absent(obj, name="", protocol="TCP")


def role_binding(obj: Obj) -> None:
    role = obj["roleRef"] = obj.get("roleRef") or {}
    unset(role, apiGroup=RBAC)


def subject(obj: Obj) -> None:
    if obj.get("kind") in ("User", "Group"):
        unset(obj, apiGroup=RBAC)


def webhook(obj: Obj) -> None:
    match_resources(obj)
    absent(obj, failurePolicy="Fail", timeoutSeconds=WEBHOOK_SECONDS)


def mutating_webhook(obj: Obj) -> None:
    webhook(obj)
    absent(obj, reinvocationPolicy="Never")


def match_resources(obj: Obj) -> None:
    absent(obj, matchPolicy="Equivalent")
    for field in ("namespaceSelector", "objectSelector"):
        if obj.get(field) is None:
            obj[field] = {}


def rule(obj: Obj) -> None:
    absent(obj, scope="*")


def service_reference(obj: Obj) -> None:
    absent(obj, port=HTTPS)


def admission_policy_spec(obj: Obj) -> None:
    absent(obj, failurePolicy="Fail")


def priority_class(obj: Obj) -> None:
    absent(obj, preemptionPolicy="PreemptLowerPriority")


def storage_class(obj: Obj) -> None:
    absent(obj, reclaimPolicy="Delete", volumeBindingMode="Immediate")


def csi_driver(obj: Obj) -> None:
    spec = obj["spec"] = obj.get("spec") or {}
    absent(
        spec,
        attachRequired=True,
        podInfoOnMount=False,
        storageCapacity=False,
        fsGroupPolicy="ReadWriteOnceWithFSType",
        requiresRepublish=False,
        seLinuxMount=False,
    )
    if not spec.get("volumeLifecycleModes"):
        spec["volumeLifecycleModes"] = ["Persistent"]


def flow_schema_spec(obj: Obj) -> None:
    unset(obj, matchingPrecedence=1000)


def exempt_priority(obj: Obj) -> None:
    absent(obj, nominalConcurrencyShares=0, lendablePercent=0)


def limited_priority(obj: Obj) -> None:
    absent(obj, nominalConcurrencyShares=30, lendablePercent=0)


def queuing(obj: Obj) -> None:
    unset(obj, handSize=8, queues=64, queueLengthLimit=50)


def device_request(obj: Obj) -> None:
    unset(obj, allocationMode="ExactCount")
    if obj["allocationMode"] == "ExactCount":
        unset(obj, count=1)


def device_toleration(obj: Obj) -> None:
    unset(obj, operator="Equal")


def token_request_spec(obj: Obj) -> None:
    absent(obj, expirationSeconds=60 * 60)


HOOKS: Final = {
    "admissionregistration.v1.MatchResources": match_resources,
    "admissionregistration.v1.MutatingWebhook": mutating_webhook,
    "admissionregistration.v1.NamedRuleWithOperations": rule,
    "admissionregistration.v1.RuleWithOperations": rule,
    "admissionregistration.v1.ServiceReference": service_reference,
    "admissionregistration.v1.ValidatingAdmissionPolicySpec": admission_policy_spec,
    "admissionregistration.v1.ValidatingWebhook": webhook,
    "apiregistration.v1.ServiceReference": service_reference,
    "authentication.v1.TokenRequestSpec": token_request_spec,
    "discovery.v1.EndpointPort": endpoint_port,
    "flowcontrol.v1.ExemptPriorityLevelConfiguration": exempt_priority,
    "flowcontrol.v1.FlowSchemaSpec": flow_schema_spec,
    "flowcontrol.v1.LimitedPriorityLevelConfiguration": limited_priority,
    "flowcontrol.v1.QueuingConfiguration": queuing,
    "networking.v1.IngressClass": ingress_class,
    "networking.v1.NetworkPolicy": network_policy,
    "networking.v1.NetworkPolicyPort": network_policy_port,
    "rbac.v1.ClusterRoleBinding": role_binding,
    "rbac.v1.RoleBinding": role_binding,
    "rbac.v1.Subject": subject,
    "resource.v1.DeviceSubRequest": device_request,
    "resource.v1.DeviceToleration": device_toleration,
    "resource.v1.ExactDeviceRequest": device_request,
    "scheduling.v1.PriorityClass": priority_class,
    "storage.v1.CSIDriver": csi_driver,
    "storage.v1.StorageClass": storage_class,
}
