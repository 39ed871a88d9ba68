"""What a new cluster has before anyone asks: namespaces, default roles and bindings, priority classes, flow schemas,
the `kubernetes` Service and how extension servers recognise us.

`objects(config)` lists them in the order in which they should be written; `reconcile(default, live)` says what to write
where one exists already: RBAC defaults regain what they miss and never lose what a user added, and
`rbac.authorization.kubernetes.io/autoupdate: "false"` keeps an object as it is.

The table is generated from a fresh cluster of the same version by `tools/generate/bootstrap.py`.

Source: k8s.io/kubernetes pkg/registry/rbac/rest, k8s.io/component-helpers auth/rbac/reconciliation,
k8s.io/apiserver pkg/apis/flowcontrol/bootstrap, k8s.io/kubernetes pkg/controlplane.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import orjson
import zstandard

from havre.api.meta import Obj, annotations_of, labels_of, name_of
from havre.control.apiserver import rbac

NAMESPACES = ("kube-system", "kube-public", "kube-node-lease", "default")
RBAC_AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
KUBELET_CLIENT = "kube-apiserver-kubelet-client"  # the user that agents of nodes see in our certificate
NETWORK = "havre:network"  # the user and the roles of a node's services and DNS
FLOW_AUTOUPDATE = "apf.kubernetes.io/autoupdate-spec"
MANDATORY_FLOW = frozenset({"exempt", "catch-all"})  # restored whatever the annotation says
TABLE_LIMIT = 4 << 20  # bytes of the unpacked table, 100 kB today

# the order of creation; what is not named here comes last
_ORDER = ("Namespace", "PriorityClass", "PriorityLevelConfiguration", "FlowSchema", "ClusterRole", "Role")


@dataclass(frozen=True, slots=True)
class Config:
    """What the defaults depend on."""

    address: str  # where the API server is reached, for the endpoints of the `kubernetes` Service
    port: int = 6443
    service_cidr: str = "10.96.0.0/16"
    client_ca: str = ""  # PEM
    requestheader_ca: str = ""  # PEM; "" when nothing is aggregated
    requestheader_names: tuple[str, ...] = ("front-proxy-client",)


def objects(config: Config) -> list[Obj]:
    """Everything a new cluster has; each call gives objects of its own."""
    found = [_namespace(name) for name in NAMESPACES] + _table()
    found += [
        *_ours(),
        _service_cidr(config),
        _service(config),
        _ip_address(config),
        _endpoint_slice(config),
        _endpoints(config),
        _authentication(config),
    ]
    ranks = {kind: rank for rank, kind in enumerate(_ORDER)}
    return sorted(found, key=lambda obj: ranks.get(obj["kind"], len(_ORDER)))


def node_rules() -> list[Obj]:
    """What every node's agent may do: the rules of ClusterRole system:node, which nobody needs to bind."""
    rules: list[Obj] = next(o for o in _table() if o["kind"] == "ClusterRole" and name_of(o) == "system:node")["rules"]
    return rules


@cache
def _packed() -> bytes:
    packed = resources.files("havre.control.apiserver").joinpath("data/bootstrap.json.zst").read_bytes()
    return zstandard.ZstdDecompressor().decompress(packed, max_output_size=TABLE_LIMIT)


def _table() -> list[Obj]:
    table: list[Obj] = orjson.loads(_packed())
    return table


def _namespace(name: str) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def _ours() -> list[Obj]:
    """What Havre's own parts may do beside the roles of upstream."""
    return [
        # agents that ask us about rights (SubjectAccessReview) let the API server do all that kubelets offer
        *_bound("ClusterRole", "havre:kube-apiserver-kubelet-client", KUBELET_CLIENT, "system:kubelet-api-admin"),
        *_bound("ClusterRole", NETWORK, NETWORK, NETWORK, _NETWORK_READS),
        *_bound("Role", NETWORK, NETWORK, NETWORK, _NETWORK_WRITES),
    ]


def _bound(kind: str, name: str, user: str, role: str, rules: Sequence[Obj] = ()) -> list[Obj]:
    """A binding of `user` to `role`, and the role with these rules; of kind Role both live in kube-system."""
    metadata: Obj = {
        "annotations": {RBAC_AUTOUPDATE: "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    }
    if kind == "Role":
        metadata["namespace"] = "kube-system"
    group = "rbac.authorization.k8s.io"
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": f"{kind}Binding",
        "metadata": {"name": name, **metadata},
        "roleRef": {"apiGroup": group, "kind": kind, "name": role},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }
    if not rules:
        return [binding]
    return [
        {"apiVersion": f"{group}/v1", "kind": kind, "metadata": {"name": role, **metadata}, "rules": list(rules)},
        binding,
    ]


_READ = ["get", "list", "watch"]
_NETWORK_READS: tuple[Obj, ...] = (
    {"apiGroups": [""], "resources": ["services", "endpoints", "namespaces", "pods", "nodes"], "verbs": _READ},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": _READ},
    {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": _READ},
)
_NETWORK_WRITES: tuple[Obj, ...] = (  # the Service of the cluster DNS and where it leads
    {"apiGroups": [""], "resources": ["services"], "verbs": ["create", "patch", "update"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["create", "patch", "update"]},
)


def service_address(config: Config) -> str:
    """The cluster IP of the API server: the first address of the service range."""
    return str(ipaddress.ip_network(config.service_cidr)[1])


def _family(address: str) -> str:
    return f"IPv{ipaddress.ip_address(address).version}"


def _service(config: Config) -> Obj:
    address = service_address(config)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": config.port}],
            "clusterIP": address,
            "clusterIPs": [address],
            "type": "ClusterIP",
            "sessionAffinity": "None",
            "ipFamilies": [_family(address)],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    }


def _endpoint_slice(config: Config) -> Obj:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": _family(config.address),
        "endpoints": [{"addresses": [config.address], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": config.port, "protocol": "TCP"}],
    }


def _endpoints(config: Config) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [
            {
                "addresses": [{"ip": config.address}],
                "ports": [{"name": "https", "port": config.port, "protocol": "TCP"}],
            }
        ],
    }


def _service_cidr(config: Config) -> Obj:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [config.service_cidr]},
    }


def _ip_address(config: Config) -> Obj:
    address = service_address(config)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address,
            "labels": {
                "ipaddress.kubernetes.io/ip-family": _family(address),
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "kubernetes"}},
    }


def _authentication(config: Config) -> Obj:
    """How an aggregated API server recognises our users and ourselves."""
    data = {"client-ca-file": config.client_ca} if config.client_ca else {}
    if config.requestheader_ca:
        data |= {
            "requestheader-client-ca-file": config.requestheader_ca,
            "requestheader-allowed-names": json.dumps(list(config.requestheader_names)),
            "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
            "requestheader-group-headers": '["X-Remote-Group"]',
            "requestheader-username-headers": '["X-Remote-User"]',
        }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": data,
    }


# reconciling


def reconcile(default: Obj, live: Obj | None) -> Obj | None:
    """What to write so that the default holds: the default itself, a completed copy of `live`, or None."""
    if live is None:
        return default
    merge = _MERGES.get(default["kind"])
    wanted = merge(default, live) if merge else live
    return wanted if wanted != live else None


def _reconcile_role(default: Obj, live: Obj) -> Obj:
    if annotations_of(live).get(RBAC_AUTOUPDATE) == "false":
        return live
    wanted = _with_metadata(default, live)
    if "aggregationRule" in default:
        selectors = (live.get("aggregationRule") or {}).get("clusterRoleSelectors") or []
        new = [s for s in default["aggregationRule"]["clusterRoleSelectors"] if s not in selectors]
        if new:
            wanted["aggregationRule"] = {"clusterRoleSelectors": selectors + new}
        return wanted  # its rules are the work of the aggregation controller
    lost = rbac.missing(live.get("rules") or (), default.get("rules") or ())
    if lost:
        wanted["rules"] = [*(live.get("rules") or ()), *lost]
    return {key: value for key, value in wanted.items() if key != "aggregationRule"}


def _reconcile_binding(default: Obj, live: Obj) -> Obj:
    """A binding to another role cannot be repaired (roleRef never changes): it is left to its owner."""
    if annotations_of(live).get(RBAC_AUTOUPDATE) == "false" or live["roleRef"] != default["roleRef"]:
        return live
    wanted = _with_metadata(default, live)
    subjects = live.get("subjects") or []
    lost = [subject for subject in default.get("subjects") or () if subject not in subjects]
    if lost:
        wanted["subjects"] = subjects + lost
    return wanted


def _reconcile_flow(default: Obj, live: Obj) -> Obj:
    if name_of(default) not in MANDATORY_FLOW and annotations_of(live).get(FLOW_AUTOUPDATE) != "true":
        return live
    return {**live, "spec": default["spec"]}


def _reconcile_address(default: Obj, live: Obj) -> Obj:
    """The address of this server may have changed since the last start."""
    return {**live, **{key: default[key] for key in ("addressType", "endpoints", "ports", "subsets") if key in default}}


def _reconcile_data(default: Obj, live: Obj) -> Obj:
    return {**live, "data": {**(live.get("data") or {}), **default["data"]}}


def _with_metadata(default: Obj, live: Obj) -> Obj:
    """A copy of `live` with the labels and annotations of the default that it lacks."""
    metadata = dict(live["metadata"])
    for key, ours, theirs in (
        ("labels", labels_of(default), labels_of(live)),
        ("annotations", annotations_of(default), annotations_of(live)),
    ):
        if merged := {**ours, **theirs}:
            metadata[key] = merged
    return {**live, "metadata": metadata}


_MERGES: dict[str, Callable[[Obj, Obj], Obj]] = {
    "ClusterRole": _reconcile_role,
    "Role": _reconcile_role,
    "ClusterRoleBinding": _reconcile_binding,
    "RoleBinding": _reconcile_binding,
    "FlowSchema": _reconcile_flow,
    "PriorityLevelConfiguration": _reconcile_flow,
    "EndpointSlice": _reconcile_address,
    "Endpoints": _reconcile_address,
    "ConfigMap": _reconcile_data,
}
