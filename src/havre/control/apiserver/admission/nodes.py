"""NodeRestriction and TaintNodesByCondition: a node's agent writes about its own node and its own pods, nothing else.

Thinner than upstream in one place: the audiences a node may ask tokens for are looked up in the projected volumes and
inline CSI drivers of the pod, not through its claims.

Source: k8s.io/kubernetes plugin/pkg/admission/{noderestriction,nodetaint}.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from havre.api.errors import NotFound
from havre.api.meta import Obj, annotations_of, labels_of
from havre.control.apiserver.admission.certificates import common_names
from havre.control.apiserver.admission.refusal import forbidden
from havre.control.apiserver.admission.service_accounts import MIRROR, environment_references
from havre.control.apiserver.rbac import quoted
from havre.machinery.admission import NODE_PREFIX, AdmissionRequest, Lister, Operation

NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
RESTRICTED = "node-restriction.kubernetes.io"
_KUBELET_LABELS = frozenset(
    {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/instance-type",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    }
)
_KUBELET_LABEL_SPACES = ("kubelet.kubernetes.io", "node.kubernetes.io")
_VOLUMES = {  # kinds of volumes that read other objects, as a refusal names them
    "configMap": "configmaps (via configmap volumes)",
    "secret": "secrets (via secret volumes)",
    "csi": "csidrivers (via CSI volumes)",
    "glusterfs": "endpoints (via glusterFS volumes)",
    "persistentVolumeClaim": "persistentvolumeclaims",
    "ephemeral": "persistentvolumeclaims (via ephemeral volumes)",
    "azureFile": "secrets (via azureFile volumes)",
}
_PROJECTIONS = {
    "configMap": "configmaps (via projected volumes)",
    "secret": "secrets (via projected volumes)",
    "serviceAccountToken": "serviceaccounts (via projected volumes)",
    "clusterTrustBundle": "clustertrustbundles",
    "podCertificate": "podcertificates",
}


class TaintNodesByCondition:
    """A new node takes no pods before it is ready."""

    concerns: ClassVar = frozenset({("", "nodes")})

    async def admit(self, req: AdmissionRequest) -> None:
        if not req.targets("", "nodes") or req.operation != Operation.CREATE or req.obj is None:
            return
        spec = req.obj.setdefault("spec", {})
        taints = spec.get("taints") or []
        if not any(t.get("key") == NOT_READY["key"] and t.get("effect") == NOT_READY["effect"] for t in taints):
            spec["taints"] = [*taints, dict(NOT_READY)]


@dataclass(frozen=True, slots=True)
class NodeRestriction:
    lister: Lister

    async def admit(self, req: AdmissionRequest) -> None:
        node = req.attributes.user.node
        if not node:
            return
        rule = self._rule(req)
        if rule is not None:
            rule(req, node)

    def _rule(self, req: AdmissionRequest) -> Callable[[AdmissionRequest, str], None] | None:
        match req.attributes.group, req.attributes.resource:
            case "", "pods":
                return self._pod
            case "", "nodes":
                return _own_node
            case "", "persistentvolumeclaims":
                return _claim
            case "", "serviceaccounts":
                return self._token
            case "coordination.k8s.io", "leases":
                return _lease
            case "storage.k8s.io", "csinodes":
                return _csi_node
            case "resource.k8s.io", "resourceslices":
                return _resource_slice
            case "certificates.k8s.io", "certificatesigningrequests":
                return _certificate
            case _:
                return None

    def _pod(self, req: AdmissionRequest, node: str) -> None:
        me, subresource, operation = quoted(node), req.attributes.subresource, req.operation
        match subresource, operation:
            case "", Operation.CREATE:
                self._mirror(req, node)
            case "", Operation.DELETE:
                if self._node_of_pod(req) != node:
                    raise forbidden(req, f"node {me} can only delete pods with spec.nodeName set to itself")
            case "", _:
                text = f"unexpected operation {quoted(operation)}, node {me} can only create and delete mirror pods"
                raise forbidden(req, text)
            case "status", Operation.UPDATE:
                _pod_status(req, node)
            case "eviction", Operation.CREATE:
                if self._node_of_pod(req) != node:
                    raise forbidden(req, f"node {node} can only evict pods with spec.nodeName set to itself")
            case "status" | "eviction", _:
                raise forbidden(req, f"unexpected operation {quoted(operation)}")
            case _:
                text = f"unexpected pod subresource {quoted(subresource)}, only 'status' and 'eviction' are allowed"
                raise forbidden(req, text)

    def _node_of_pod(self, req: AdmissionRequest) -> object:
        a = req.attributes
        pod = self.lister.get("", "pods", a.namespace, a.name)
        if pod is None:
            raise NotFound.of("pods", "", a.name)
        return (pod.get("spec") or {}).get("nodeName")

    def _mirror(self, req: AdmissionRequest, node: str) -> None:
        pod, me = req.obj or {}, quoted(node)
        if MIRROR not in annotations_of(pod):
            text = f'pod does not have "{MIRROR}" annotation, node {me} can only create mirror pods'
            raise forbidden(req, text)
        if pod["spec"].get("nodeName") != node:
            raise forbidden(req, f"node {me} can only create pods with spec.nodeName set to itself")
        owners = pod["metadata"].get("ownerReferences") or []
        if len(owners) > 1:
            raise forbidden(req, f"node {me} can only create pods with a single owner reference set to itself")
        owner = owners[0] if owners else {}
        if (owner.get("apiVersion"), owner.get("kind"), owner.get("name")) != ("v1", "Node", node):
            raise forbidden(req, f"node {me} can only create pods with an owner reference set to itself")
        if not owner.get("controller"):
            raise forbidden(req, f"node {me} can only create pods with a controller owner reference set to itself")
        if owner.get("blockOwnerDeletion"):
            raise forbidden(req, f"node {me} must not set blockOwnerDeletion on an owner reference")
        self._check_owner_uid(req, node, owner)
        reference = _reference(pod["spec"])
        if reference:
            raise forbidden(req, f"node {me} can not create pods that reference {reference}")

    def _check_owner_uid(self, req: AdmissionRequest, node: str, owner: Obj) -> None:
        live = self.lister.get("", "nodes", "", node)
        if live is None:
            raise NotFound.of("nodes", "", node)
        uid = live["metadata"]["uid"]
        if owner.get("uid") != uid:
            raise forbidden(req, f"node {node} UID mismatch: expected {owner.get('uid')} got {uid}")

    def _token(self, req: AdmissionRequest, node: str) -> None:
        if req.operation != Operation.CREATE or req.attributes.subresource != "token":
            return
        spec = (req.obj or {}).get("spec") or {}
        ref = spec.get("boundObjectRef") or {}
        if (ref.get("apiVersion"), ref.get("kind")) != ("v1", "Pod") or not ref.get("name"):
            raise forbidden(req, "node requested token not bound to a pod")
        if not ref.get("uid"):
            raise forbidden(req, "node requested token with a pod binding without a uid")
        pod = self.lister.get("", "pods", req.attributes.namespace, ref["name"])
        if pod is None:
            raise NotFound.of("pods", "", ref["name"])
        if ref["uid"] != pod["metadata"]["uid"]:
            text = f"the UID in the bound object reference ({ref['uid']}) does not match the UID in record. "
            raise forbidden(req, text + "The object might have been deleted and then recreated")
        if pod["spec"].get("nodeName") != node:
            raise forbidden(req, "node requested token bound to a pod scheduled on a different node")
        self._check_audience(req, pod, spec.get("audiences") or [""])

    def _check_audience(self, req: AdmissionRequest, pod: Obj, audiences: list[str]) -> None:
        if len(audiences) > 1:
            raise forbidden(req, "node may only request 0 or 1 audiences")
        if audiences[0] not in self._audiences(pod):
            text = f"audience {quoted(audiences[0])} not found in pod spec volume, {req.attributes.user.name} "
            raise forbidden(req, text + "is not authorized to request tokens for this audience")

    def _audiences(self, pod: Obj) -> set[str]:
        found = set()
        for volume in pod["spec"].get("volumes") or ():
            for source in (volume.get("projected") or {}).get("sources") or ():
                if "serviceAccountToken" in source:
                    found.add(source["serviceAccountToken"].get("audience", ""))
            if "csi" in volume:
                driver = self.lister.get("storage.k8s.io", "csidrivers", "", volume["csi"]["driver"]) or {}
                requests = (driver.get("spec") or {}).get("tokenRequests") or ()
                found.update(request.get("audience", "") for request in requests)
        return found


def _reference(spec: Obj) -> str:
    """What a pod reads from the API, "" for nothing."""
    if spec.get("serviceAccountName"):
        return "serviceaccounts"
    if any(True for _ in environment_references(spec, "secret")):
        return "secrets"
    if any(True for _ in environment_references(spec, "configMap")):
        return "configmaps"
    if spec.get("resourceClaims"):
        return "resourceclaims"
    for volume in spec.get("volumes") or ():
        named = next((words for kind, words in _VOLUMES.items() if kind in volume), "")
        if named:
            return named
        for source in (volume.get("projected") or {}).get("sources") or ():
            named = next((words for kind, words in _PROJECTIONS.items() if kind in source), "")
            if named:
                return named
    return ""


def _pod_status(req: AdmissionRequest, node: str) -> None:
    old, new = req.old or {}, req.obj or {}
    if old["spec"].get("nodeName") != node:
        whose = "pods with spec.nodeName set to itself"
        raise forbidden(req, f"node {quoted(node)} can only update pod status for {whose}")
    if labels_of(old) != labels_of(new):
        raise forbidden(req, f"node {quoted(node)} cannot update labels through pod status")
    claims = ((o.get("status") or {}).get("resourceClaimStatuses") or [] for o in (old, new))
    if next(claims) != next(claims):
        raise forbidden(req, f"node {quoted(node)} cannot update resource claim statues")


def _own_node(req: AdmissionRequest, node: str) -> None:
    me, name, new, old = quoted(node), req.attributes.name, req.obj or {}, req.old or {}
    if not name and req.operation == Operation.CREATE:
        name = new["metadata"].get("name", "")
    if name != node:
        raise forbidden(req, f"node {me} is not allowed to modify node {quoted(name)}")
    if req.operation == Operation.CREATE:
        banned = _banned(labels_of(new), {})
        if banned:
            raise forbidden(req, f"node {me} is not allowed to set the following labels: {', '.join(banned)}")
    elif req.operation == Operation.UPDATE:
        if ((new.get("spec") or {}).get("taints") or []) != ((old.get("spec") or {}).get("taints") or []):
            raise forbidden(req, f"node {me} is not allowed to modify taints")
        if (new["metadata"].get("ownerReferences") or []) != (old["metadata"].get("ownerReferences") or []):
            raise forbidden(req, f"node {me} is not allowed to modify ownerReferences")
        banned = _banned(labels_of(new), labels_of(old))
        if banned:
            raise forbidden(req, f"is not allowed to modify labels: {', '.join(banned)}")


def _banned(new: dict[str, str], old: dict[str, str]) -> list[str]:
    changed = {key for key in new.keys() | old.keys() if new.get(key) != old.get(key)}
    return sorted(filter(_is_restricted, changed))


def _is_restricted(label: str) -> bool:
    """Labels that steer pods: the cluster's own, except those that describe the machine."""
    space = label.rpartition("/")[0]
    if f".{space}".endswith(f".{RESTRICTED}"):
        return True
    if not f".{space}".endswith((".kubernetes.io", ".k8s.io")) or label in _KUBELET_LABELS:
        return False
    return not any(f".{space}".endswith(f".{allowed}") for allowed in _KUBELET_LABEL_SPACES)


def _claim(req: AdmissionRequest, node: str) -> None:
    if req.attributes.subresource != "status":
        raise forbidden(req, "may only update PVC status")
    if req.operation != Operation.UPDATE:
        raise forbidden(req, f"unexpected operation {quoted(req.operation)}")
    if _without_sizes(req.obj or {}) != _without_sizes(req.old or {}):
        text = f"node {quoted(node)} is not allowed to update fields other than status.quantity and status.conditions"
        raise forbidden(req, text)


def _without_sizes(claim: Obj) -> Obj:
    free = ("capacity", "conditions", "allocatedResources", "allocatedResourceStatuses")
    status = {k: v for k, v in (claim.get("status") or {}).items() if k not in free}
    metadata = {k: v for k, v in claim["metadata"].items() if k not in ("resourceVersion", "managedFields")}
    return {**claim, "status": status, "metadata": metadata}


def _lease(req: AdmissionRequest, node: str) -> None:
    a, name = req.attributes, req.attributes.name or ((req.obj or {}).get("metadata") or {}).get("name", "")
    if a.namespace != "kube-node-lease":
        raise forbidden(req, 'can only access leases in the "kube-node-lease" system namespace')
    if name != node:
        raise forbidden(req, "can only access node lease with the same name as the requesting node")


def _csi_node(req: AdmissionRequest, node: str) -> None:
    name = req.attributes.name or ((req.obj or {}).get("metadata") or {}).get("name", "")
    if name != node:
        raise forbidden(req, "can only access CSINode with the same name as the requesting node")


def _resource_slice(req: AdmissionRequest, node: str) -> None:
    slice_ = req.old if req.operation == Operation.DELETE and req.old else req.obj or {}
    if (slice_.get("spec") or {}).get("nodeName") != node:
        verb = {"CREATE": "create", "DELETE": "delete"}.get(req.operation)
        if verb:
            raise forbidden(req, f"can only {verb} ResourceSlice with the same NodeName as the requesting node")


def _certificate(req: AdmissionRequest, node: str) -> None:
    spec = (req.obj or {}).get("spec") or {}
    if req.operation != Operation.CREATE or spec.get("signerName") not in _NODE_SIGNERS:
        return
    try:
        names = common_names(spec.get("request", ""))
    except ValueError as e:
        raise forbidden(req, f"unable to parse csr: {e}") from e
    if names != [f"{NODE_PREFIX}{node}"]:
        raise forbidden(req, f"can only create a node CSR with CN={NODE_PREFIX}{node}")


_NODE_SIGNERS = ("kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet")
