"""Fields by which objects of each kind can be selected (`fieldSelector`), as functions object → text.

Source: k8s.io/kubernetes, pkg/registry/*/strategy.go (SelectableFields), pkg/apis/*/v1/conversion.go (field labels).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from havre.api.meta import GVK, Obj

Extract = Callable[[Obj], str]


def text_at(path: str) -> Extract:
    """The value at a dotted path as text: "" when absent, `true` and `false` for booleans."""
    *parents, last = path.split(".")

    def extract(obj: Obj) -> str:
        node: Any = obj
        for key in parents:
            node = node.get(key)
            if not node:
                return ""
        return _text(node.get(last))

    return extract


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _flag_at(path: str) -> Extract:
    extract = text_at(path)
    return lambda obj: extract(obj) or "false"


def _count_at(path: str) -> Extract:
    extract = text_at(path)
    return lambda obj: extract(obj) or "0"


def _pod_ip(obj: Obj) -> str:
    addresses = (obj.get("status") or {}).get("podIPs")
    return str(addresses[0].get("ip", "")) if addresses else ""


def _event_source(obj: Obj) -> str:
    return str((obj.get("source") or {}).get("component") or obj.get("reportingComponent") or "")


_NAME: Final[Mapping[str, Extract]] = {"metadata.name": text_at("metadata.name")}
_NAMED: Final[Mapping[str, Extract]] = {**_NAME, "metadata.namespace": text_at("metadata.namespace")}
_OBJECT: Final = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")

_POD_TEXTS: Final = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.phase",
    "status.nominatedNodeName",
)

_FIELDS: Final[Mapping[tuple[str, str], Mapping[str, Extract]]] = {
    ("", "Pod"): {
        **{path: text_at(path) for path in _POD_TEXTS},
        "spec.hostNetwork": _flag_at("spec.hostNetwork"),
        "status.podIP": _pod_ip,
        "status.podIPs": _pod_ip,
    },
    ("", "Event"): {
        **{f"involvedObject.{field}": text_at(f"involvedObject.{field}") for field in _OBJECT},
        **{path: text_at(path) for path in ("reason", "reportingComponent", "type")},
        "source": _event_source,
    },
    ("events.k8s.io", "Event"): {
        **{f"regarding.{field}": text_at(f"regarding.{field}") for field in _OBJECT},
        **{path: text_at(path) for path in ("reason", "reportingController", "type")},
    },
    ("", "Namespace"): {"status.phase": text_at("status.phase")},
    ("", "Node"): {"spec.unschedulable": _flag_at("spec.unschedulable")},
    ("", "ReplicationController"): {"status.replicas": _count_at("status.replicas")},
    ("", "Secret"): {"type": text_at("type")},
    ("", "Service"): {"spec.clusterIP": text_at("spec.clusterIP"), "spec.type": text_at("spec.type")},
    ("apps", "ReplicaSet"): {"status.replicas": _count_at("status.replicas")},
    ("batch", "Job"): {"status.successful": _count_at("status.succeeded")},
    ("certificates.k8s.io", "CertificateSigningRequest"): {"spec.signerName": text_at("spec.signerName")},
    ("resource.k8s.io", "ResourceSlice"): {
        "spec.nodeName": text_at("spec.nodeName"),
        "spec.driver": text_at("spec.driver"),
    },
}
_CLUSTER_SCOPED: Final = frozenset({"Namespace", "Node", "CertificateSigningRequest", "ResourceSlice"})

_ALL: Final = {key: {**(_NAME if key[1] in _CLUSTER_SCOPED else _NAMED), **fields} for key, fields in _FIELDS.items()}


def field_values(gvk: GVK) -> Mapping[str, Extract]:
    """Name of each supported field → its value in an object; other fields are `field label not supported`."""
    return _ALL.get((gvk.group, gvk.kind), _NAMED)


def alias_of(gvk: GVK, field: str) -> str:
    """The supported name of an old one: `spec.host` of pods is `spec.nodeName`."""
    return "spec.nodeName" if field == "spec.host" and (gvk.group, gvk.kind) == ("", "Pod") else field
