"""Services, Endpoints, EndpointSlices.

Source: k8s.io/kubernetes, pkg/apis/core/validation (validateService, ValidateEndpoints), pkg/apis/discovery.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from havre.api.meta import Obj
from havre.api.strategy.services import externally_accessible, needs_health_check_port
from havre.api.validation.checks import (
    PROTOCOLS,
    Errors,
    checked,
    choice,
    endpoint_ip,
    immutable,
    labels,
    optional_name,
    port,
    required_choice,
    required_name,
)
from havre.kit import names
from havre.kit.field import Structure, duplicate, forbidden, invalid, required, too_many

_TYPES: Final = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_DISTRIBUTIONS: Final = ("PreferClose", "PreferSameZone", "PreferSameNode")
_ONLY_BALANCER: Final = "may only be used when `type` is 'LoadBalancer'"
AFFINITY_MAX: Final = 86400
ENDPOINTS_MAX, SLICE_PORTS_MAX = 1000, 20000


def create(obj: Obj) -> Errors:
    spec = obj["spec"]
    kind, ports = spec.get("type"), spec.get("ports") or []
    headless = spec.get("clusterIP") == "None" or (spec.get("clusterIPs") or [""])[0] == "None"
    if not ports and not headless and kind != "ExternalName":
        yield required("spec.ports")
    if headless and kind in ("LoadBalancer", "NodePort"):
        yield invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services")
    if kind == "ExternalName":
        yield from _external_name(spec)
    seen: set[str] = set()
    for i, item in enumerate(ports):
        yield from _port(f"spec.ports[{i}]", item, len(ports) > 1, seen)
    yield from labels("spec.selector", spec.get("selector"))
    yield from _affinity(spec)
    yield from _addresses(spec)
    yield from required_choice("spec.type", kind, _TYPES)
    yield from _port_clashes(spec, ports)
    yield from _balancer(spec)
    yield from _policies(spec)


def _external_name(spec: Obj) -> Errors:
    for field in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        if spec.get(field):
            yield forbidden(f"spec.{field}", "may not be set for ExternalName services")
    name = (spec.get("externalName") or "").removesuffix(".")
    yield from required_name("spec.externalName", name, names.dns1123_subdomain)


def _port(path: str, item: Obj, must_have_name: bool, seen: set[str]) -> Errors:
    name = item.get("name")
    if must_have_name and not name:
        yield required(f"{path}.name")
    elif name:
        yield from checked(f"{path}.name", name, names.dns1123_label)
        if name in seen:
            yield duplicate(f"{path}.name", name)
        seen.add(name)
    yield from checked(f"{path}.port", item.get("port") or 0, names.port_number)
    yield from required_choice(f"{path}.protocol", item.get("protocol"), PROTOCOLS)
    yield from port(f"{path}.targetPort", item.get("targetPort"))
    if (protocol := item.get("appProtocol")) is not None:
        yield from checked(f"{path}.appProtocol", protocol, names.qualified_name)


def _affinity(spec: Obj) -> Errors:
    affinity = spec.get("sessionAffinity")
    yield from required_choice("spec.sessionAffinity", affinity, ("ClientIP", "None"))
    if affinity == "ClientIP":
        client = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
        seconds = client.get("timeoutSeconds") or 0
        if not 0 < seconds <= AFFINITY_MAX:
            words = f"must be greater than 0 and less than {AFFINITY_MAX}"
            yield invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, words)


def _addresses(spec: Obj) -> Errors:
    addresses = spec.get("clusterIPs") or []
    if spec.get("type") != "ExternalName":
        first = spec.get("clusterIP") or ""
        if addresses and first != addresses[0]:
            yield invalid("spec.clusterIPs", addresses, "first value must match `clusterIP`")
        for i, address in enumerate(addresses):
            if address == "None":
                if len(addresses) > 1:
                    yield invalid(f"spec.clusterIPs[{i}]", address, "'None' must be the first and only value")
            else:
                yield from checked(f"spec.clusterIPs[{i}]", address, names.ip)
    for i, address in enumerate(spec.get("externalIPs") or ()):
        bad = list(checked(f"spec.externalIPs[{i}]", address, names.ip))
        yield from bad or endpoint_ip(f"spec.externalIPs[{i}]", address)


def _port_clashes(spec: Obj, ports: list[Obj]) -> Errors:
    node_ports: set[tuple[Any, Any]] = set()
    taken: set[tuple[Any, Any]] = set()
    if spec.get("type") == "ClusterIP":
        for i, item in enumerate(ports):
            if item.get("nodePort"):
                yield forbidden(f"spec.ports[{i}].nodePort", "may not be used when `type` is 'ClusterIP'")
    for i, item in enumerate(ports):
        if item.get("nodePort"):
            key = (item.get("protocol"), item["nodePort"])
            if key in node_ports:
                yield duplicate(f"spec.ports[{i}].nodePort", item["nodePort"])
            node_ports.add(key)
    for i, item in enumerate(ports):
        key = (item.get("protocol"), item.get("port"))
        if key in taken:
            shown = {
                "Name": "",
                "Protocol": key[0],
                "AppProtocol": None,
                "Port": key[1],
                "TargetPort": 0,
                "NodePort": 0,
            }
            yield duplicate(f"spec.ports[{i}]", Structure(shown))
        taken.add(key)


def _balancer(spec: Obj) -> Errors:
    balancer = spec.get("type") == "LoadBalancer"
    if ranges := spec.get("loadBalancerSourceRanges"):
        path = "spec.LoadBalancerSourceRanges"  # as upstream spells it
        if not balancer:
            yield forbidden(path, _ONLY_BALANCER)
        for i, value in enumerate(ranges):
            yield from checked(f"{path}[{i}]", value.strip(), names.cidr)
    if spec.get("allocateLoadBalancerNodePorts") is not None and not balancer:
        yield forbidden("spec.allocateLoadBalancerNodePorts", _ONLY_BALANCER)
    if (name := spec.get("loadBalancerClass")) is not None:
        if balancer:
            yield from checked("spec.loadBalancerClass", name, names.qualified_name)
        else:
            yield forbidden("spec.loadBalancerClass", _ONLY_BALANCER)


def _policies(spec: Obj) -> Errors:
    policy, health = spec.get("externalTrafficPolicy"), spec.get("healthCheckNodePort")
    if externally_accessible(spec):
        yield from required_choice("spec.externalTrafficPolicy", policy, ("Cluster", "Local"))
    elif policy:
        words = "may only be set for externally-accessible services"
        yield invalid("spec.externalTrafficPolicy", policy, words)
    if health and not needs_health_check_port(spec):
        words = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        yield invalid("spec.healthCheckNodePort", health, words)
    if (internal := spec.get("internalTrafficPolicy")) is not None:
        yield from choice("spec.internalTrafficPolicy", internal, ("Cluster", "Local"))
    if (distribution := spec.get("trafficDistribution")) is not None:
        yield from choice("spec.trafficDistribution", distribution, _DISTRIBUTIONS)


def update(new: Obj, old: Obj) -> Errors:
    spec, before = new["spec"], old["spec"]
    if "ExternalName" not in (spec.get("type"), before.get("type")):
        addresses, known = spec.get("clusterIPs") or [], before.get("clusterIPs") or []
        if known and addresses != known:
            if addresses[:1] != known[:1]:
                yield invalid("spec.clusterIPs[0]", addresses, "may not change once set")
            elif len(addresses) > 1 and len(known) > 1 and addresses[1] != known[1]:
                yield invalid("spec.clusterIPs[1]", addresses, "may not change once set")
        families, known = spec.get("ipFamilies") or [], before.get("ipFamilies") or []
        if families and known and families[0] != known[0]:
            yield invalid("spec.ipFamilies[0]", families, "may not change once set")
    both = spec.get("type") == before.get("type") == "LoadBalancer"
    if both and spec.get("loadBalancerClass") != before.get("loadBalancerClass"):
        yield invalid("spec.loadBalancerClass", spec.get("loadBalancerClass"), "may not change once set")
    if needs_health_check_port(spec) and needs_health_check_port(before):
        number, known_number = spec.get("healthCheckNodePort"), before.get("healthCheckNodePort")
        if known_number and number != known_number:
            yield invalid("spec.healthCheckNodePort", number, "field is immutable")
    yield from create(new)


def endpoints(obj: Obj) -> Errors:
    for i, subset in enumerate(obj.get("subsets") or ()):
        path = f"subsets[{i}]"
        ready, waiting, ports = (subset.get(f) or [] for f in ("addresses", "notReadyAddresses", "ports"))
        if not ready and not waiting:
            yield required(path, "must specify `addresses` or `notReadyAddresses`")
        for field, addresses in (("addresses", ready), ("notReadyAddresses", waiting)):
            for j, address in enumerate(addresses):
                yield from _endpoint_address(f"{path}.{field}[{j}]", address)
        for j, item in enumerate(ports):
            here = f"{path}.ports[{j}]"
            if len(ports) > 1 and not item.get("name"):
                yield required(f"{here}.name")
            yield from optional_name(f"{here}.name", item.get("name"), names.dns1123_label)
            yield from checked(f"{here}.port", item.get("port") or 0, names.port_number)
            yield from required_choice(f"{here}.protocol", item.get("protocol"), PROTOCOLS)


def _endpoint_address(path: str, address: Obj) -> Errors:
    value = address.get("ip") or ""
    bad = list(checked(f"{path}.ip", value, names.ip))
    yield from bad
    yield from optional_name(f"{path}.hostname", address.get("hostname"), names.dns1123_label)
    yield from optional_name(f"{path}.nodeName", address.get("nodeName"), names.dns1123_subdomain)
    if bad:
        yield invalid(f"{path}.ip", value, "must be a valid IP address")
    else:
        yield from endpoint_ip(f"{path}.ip", value)


def slice_(obj: Obj) -> Errors:
    kind = obj.get("addressType") or ""
    yield from required_choice("addressType", kind, ("FQDN", "IPv4", "IPv6"))
    endpoints_ = obj.get("endpoints") or []
    if len(endpoints_) > ENDPOINTS_MAX:
        yield too_many("endpoints", len(endpoints_), ENDPOINTS_MAX)
        return
    for i, endpoint in enumerate(endpoints_):
        yield from _slice_endpoint(f"endpoints[{i}]", endpoint, kind)
    yield from _slice_ports(obj.get("ports") or [])


def _slice_endpoint(path: str, endpoint: Obj, kind: str) -> Errors:
    addresses = endpoint.get("addresses") or []
    if not addresses:
        yield required(f"{path}.addresses", "must contain at least 1 address")
    for j, address in enumerate(addresses):
        here = f"{path}.addresses[{j}]"
        if kind == "FQDN":
            yield from checked(here, address, names.dns1123_subdomain)
        elif kind in ("IPv4", "IPv6"):
            bad = list(checked(here, address, names.ip))
            yield from bad
            if not bad:
                yield from _right_family(f"{path}.addresses", address, kind)
                yield from endpoint_ip(here, address)
    if (node := endpoint.get("nodeName")) is not None:
        yield from checked(f"{path}.nodeName", node, names.dns1123_subdomain)
    for key, value in (endpoint.get("deprecatedTopology") or {}).items():
        yield from checked(f"{path}.deprecatedTopology", key, names.qualified_name)
        yield from checked(f"{path}.deprecatedTopology[{key}]", value, names.label_value)
    if (hostname := endpoint.get("hostname")) is not None:
        yield from checked(f"{path}.hostname", hostname, names.dns1123_label)


def _right_family(path: str, address: str, kind: str) -> Errors:
    version = ipaddress.ip_address(address).version
    if kind != f"IPv{version}":
        yield invalid(path, address, f"must be an {kind} address")


def _slice_ports(ports: list[Obj]) -> Errors:
    seen: set[str] = set()
    for i, item in enumerate(ports):
        path, name = f"ports[{i}]", item.get("name") or ""
        yield from optional_name(f"{path}.name", name, names.dns1123_label)
        if name in seen:
            yield duplicate(f"{path}.name", name)
        seen.add(name)
        yield from required_choice(f"{path}.protocol", item.get("protocol"), PROTOCOLS)
        if (protocol := item.get("appProtocol")) is not None:
            yield from checked(f"{path}.appProtocol", protocol, names.qualified_name)


def slice_update(new: Obj, old: Obj) -> Errors:
    yield from slice_(new)
    yield from immutable("addressType", new.get("addressType"), old.get("addressType"))
