"""Service: linked fields kept in step, allocated values carried over an update, fields of another type dropped.

`normalize_cluster_ips` and `carry_allocated` run before allocation and validation, so an update that leaves out what
the server once allocated keeps it; the allocators themselves live in the server.

Source: k8s.io/kubernetes, pkg/registry/core/service/strategy.go and storage/storage.go.
"""

from __future__ import annotations

from typing import Any

from havre.api.meta import Obj


def create(obj: Obj) -> None:
    normalize_cluster_ips(obj, None)
    _drop_idle_policy(obj["spec"])


def _drop_idle_policy(spec: Obj) -> None:
    """A name elsewhere has no traffic inside the cluster to direct."""
    if spec.get("type") == "ExternalName":
        spec.pop("internalTrafficPolicy", None)


def update(new: Obj, old: Obj) -> None:
    carry_allocated(new, old)
    normalize_cluster_ips(new, old)
    drop_fields_of_old_type(new, old)
    _drop_idle_policy(new["spec"])


def drop_topology(endpoint_slice: Obj) -> None:
    """What older versions kept in `topology` has fields of its own in v1."""
    for endpoint in endpoint_slice.get("endpoints") or ():
        endpoint.pop("deprecatedTopology", None)


def needs_cluster_ip(spec: Obj) -> bool:
    return spec.get("type") != "ExternalName"


def needs_node_port(spec: Obj) -> bool:
    return spec.get("type") in ("NodePort", "LoadBalancer")


def needs_health_check_port(spec: Obj) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def externally_accessible(spec: Obj) -> bool:
    return needs_node_port(spec) or (spec.get("type") == "ClusterIP" and bool(spec.get("externalIPs")))


def normalize_cluster_ips(new: Obj, old: Obj | None) -> None:
    """Derive clusterIPs from clusterIP for clients that know only the latter."""
    spec = new.setdefault("spec", {})
    if old is None:
        if spec.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIPs"] = [spec["clusterIP"]]
        return
    before = old.get("spec") or {}
    address, known = spec.get("clusterIP") or "", before.get("clusterIP") or ""
    if address == known:
        if before.get("clusterIPs") and not spec.get("clusterIPs"):
            spec["clusterIPs"] = before["clusterIPs"]
    elif (spec.get("clusterIPs") or []) == (before.get("clusterIPs") or []):
        if address:
            spec["clusterIPs"] = [address]
        else:
            spec.pop("clusterIPs", None)


def carry_allocated(new: Obj, old: Obj) -> None:
    """Fill in what the client left out and the server had allocated: addresses, node ports, health check port."""
    spec, before = new.setdefault("spec", {}), old.get("spec") or {}
    if needs_cluster_ip(before) and needs_cluster_ip(spec):
        for field in ("clusterIP", "clusterIPs"):
            if not spec.get(field) and before.get(field):
                spec[field] = before[field]
    if needs_node_port(before) and needs_node_port(spec):
        _carry_node_ports(spec, before)
    both = needs_health_check_port(before) and needs_health_check_port(spec)
    if both and not spec.get("healthCheckNodePort") and before.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = before["healthCheckNodePort"]


def _node_ports(spec: Obj) -> set[int]:
    return {port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")}


def _carry_node_ports(spec: Obj, before: Obj) -> None:
    """Ports are the same when their names are; a number that another port now claims is not given twice."""
    used = _node_ports(spec) & _node_ports(before)
    by_name = {port.get("name") or "": port.get("nodePort") for port in before.get("ports") or ()}
    for port in spec.get("ports") or ():
        number = by_name.get(port.get("name") or "")
        if not port.get("nodePort") and number and number not in used:
            port["nodePort"] = number


def drop_fields_of_old_type(new: Obj, old: Obj) -> None:
    """When the type changes, values that the client only repeated are cleared; changed ones are left to validation."""
    spec, before = new["spec"], old.get("spec") or {}
    if needs_cluster_ip(before) and not needs_cluster_ip(spec):
        if _same(spec, before, "clusterIP") and _same(spec, before, "clusterIPs"):
            _drop(spec, "clusterIP", "clusterIPs")
        for field in ("ipFamilies", "ipFamilyPolicy"):
            if _same(spec, before, field):
                _drop(spec, field)
    if needs_node_port(before) and not needs_node_port(spec) and _node_ports(spec) <= _node_ports(before):
        for port in spec.get("ports") or ():
            port.pop("nodePort", None)
    if needs_health_check_port(before) and not needs_health_check_port(spec):
        _drop_repeated(spec, before, "healthCheckNodePort")
    if before.get("type") == "LoadBalancer" and spec.get("type") != "LoadBalancer":
        _drop_repeated(spec, before, "allocateLoadBalancerNodePorts", "loadBalancerClass")
    if externally_accessible(before) and not externally_accessible(spec):
        _drop_repeated(spec, before, "externalTrafficPolicy")
    if spec.get("type") != "LoadBalancer":
        new["status"] = {**(new.get("status") or {}), "loadBalancer": {}}


def _same(spec: Obj, before: Obj, field: str) -> bool:
    a: Any = spec.get(field) or None
    b: Any = before.get(field) or None
    return bool(a == b)


def _drop(spec: Obj, *fields: str) -> None:
    for field in fields:
        spec.pop(field, None)


def _drop_repeated(spec: Obj, before: Obj, *fields: str) -> None:
    for field in fields:
        if spec.get(field) == before.get(field):
            spec.pop(field, None)
