"""Ingresses, IngressClasses, NetworkPolicies, IPAddresses, ServiceCIDRs.

Source: k8s.io/kubernetes, pkg/apis/networking/validation/validation.go.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from havre.api.meta import Obj
from havre.api.strategy.equality import semantic_equal
from havre.api.validation.checks import (
    Errors,
    checked,
    choice,
    label_selector,
    optional_name,
    port,
    required_choice,
    required_name,
)
from havre.kit import names
from havre.kit.field import forbidden, invalid, required, too_long

_PATH_TYPES: Final = ("Exact", "ImplementationSpecific", "Prefix")
_PATH_SEQUENCES: Final = ("//", "/./", "/../", "%2f", "%2F")
_PATH_SUFFIXES: Final = ("/..", "/.")
CONTROLLER_MAX: Final = 250


def ingress(obj: Obj) -> Errors:
    spec = obj.get("spec") or {}
    rules, backend = spec.get("rules") or [], spec.get("defaultBackend")
    if not rules and backend is None:
        yield invalid("spec", None, "either `defaultBackend` or `rules` must be specified")
    if backend is not None:
        yield from _backend("spec.defaultBackend", backend)
    for i, rule in enumerate(rules):
        path = f"spec.rules[{i}]"
        if host := rule.get("host"):
            yield from _host(f"{path}.host", host)
        if (http := rule.get("http")) is not None:
            yield from _paths(f"{path}.http.paths", http.get("paths") or [])
    for i, tls in enumerate(spec.get("tls") or ()):
        path = f"spec.tls[{i}]"
        for j, host in enumerate(tls.get("hosts") or ()):
            check = names.wildcard_dns1123_subdomain if "*" in host else names.dns1123_subdomain
            yield from checked(f"{path}.hosts[{j}]", host, check)
        yield from optional_name(f"{path}.secretName", tls.get("secretName"), names.dns1123_subdomain)
    if (name := spec.get("ingressClassName")) is not None:
        yield from checked("spec.ingressClassName", name, names.dns1123_subdomain)


def _host(path: str, host: str) -> Errors:
    if not names.ip(host):
        yield invalid(path, host, "must be a DNS name, not an IP address")
        return
    check = names.wildcard_dns1123_subdomain if "*" in host else names.dns1123_subdomain
    yield from checked(path, host, check)


def _paths(path: str, paths: list[Obj]) -> Errors:
    if not paths:
        yield required(path)
    for i, item in enumerate(paths):
        yield from _path(f"{path}[{i}]", item)
        yield from _backend(f"{path}[{i}].backend", item.get("backend") or {})


def _path(path: str, item: Obj) -> Errors:
    kind, value = item.get("pathType"), item.get("path") or ""
    if kind is None:
        yield required(f"{path}.pathType", "pathType must be specified")
    elif kind in ("Exact", "Prefix"):
        if not value.startswith("/"):
            yield invalid(f"{path}.path", value, "must be an absolute path")
        if value:
            for sequence in _PATH_SEQUENCES:
                if sequence in value:
                    yield invalid(f"{path}.path", value, f"must not contain '{sequence}'")
            for suffix in _PATH_SUFFIXES:
                if value.endswith(suffix):
                    yield invalid(f"{path}.path", value, f"cannot end with '{suffix}'")
    elif kind == "ImplementationSpecific":
        if value and not value.startswith("/"):
            yield invalid(f"{path}.path", value, "must be an absolute path")
    else:
        yield from choice(f"{path}.pathType", kind, _PATH_TYPES)


def _backend(path: str, backend: Obj) -> Errors:
    service, resource = backend.get("service"), backend.get("resource")
    if service is not None and resource is not None:
        yield invalid(path, "", "cannot set both resource and service backends")
    elif resource is not None:
        yield from _typed_reference(f"{path}.resource", resource)
    elif service is not None:
        yield from _service_backend(path, service)
    else:
        yield invalid(path, "", "resource or service backend is required")


def _typed_reference(path: str, ref: Obj) -> Errors:
    if not ref.get("kind"):
        yield required(f"{path}.kind")
    if not ref.get("name"):
        yield required(f"{path}.name")


def _service_backend(path: str, service: Obj) -> Errors:
    yield from required_name(f"{path}.service.name", service.get("name"), names.dns1035_label)
    target = service.get("port") or {}
    name, number = target.get("name"), target.get("number") or 0
    if name and number:
        yield invalid(path, "", "cannot set both port name & port number")
    elif name:
        yield from checked(f"{path}.service.port.name", name, names.port_name)
    elif number:
        yield from checked(f"{path}.service.port.number", number, names.port_number)
    else:
        yield required(path, "port name or number is required")


def ingress_class(obj: Obj) -> Errors:
    spec = obj.get("spec") or {}
    controller = spec.get("controller") or ""
    if not controller:
        yield required("spec.controller")
    else:
        if len(controller) > CONTROLLER_MAX:
            yield too_long("spec.controller", CONTROLLER_MAX)
        yield from checked("spec.controller", controller, names.domain_prefixed_path)
    if (parameters := spec.get("parameters")) is not None:
        yield from _class_parameters("spec.parameters", parameters)


def _class_parameters(path: str, parameters: Obj) -> Errors:
    if group := parameters.get("apiGroup"):
        yield from checked(f"{path}.apiGroup", group, names.dns1123_subdomain)
    for field in ("kind", "name"):
        yield from required_name(f"{path}.{field}", parameters.get(field), names.path_segment)
    scope, namespace = parameters.get("scope"), parameters.get("namespace")
    if scope is None:
        yield required(f"{path}.scope")
        return
    yield from choice(f"{path}.scope", scope, ("Cluster", "Namespace"))
    if scope == "Namespace":
        if not namespace:
            yield required(f"{path}.namespace", "`parameters.scope` is set to 'Namespace'")
        else:
            yield from checked(f"{path}.namespace", namespace, names.dns1123_label)
    elif scope == "Cluster" and namespace is not None:
        yield forbidden(f"{path}.namespace", "`parameters.scope` is set to 'Cluster'")


def ingress_class_update(new: Obj, old: Obj) -> Errors:
    controller, before = ((o.get("spec") or {}).get("controller") for o in (new, old))
    if controller != before:
        yield invalid("spec.controller", controller, "field is immutable")
    yield from ingress_class(new)


def network_policy(obj: Obj) -> Errors:
    spec = obj.get("spec") or {}
    yield from label_selector("spec.podSelector", spec.get("podSelector"))
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for i, rule in enumerate(spec.get(direction) or ()):
            path = f"spec.{direction}[{i}]"
            for j, item in enumerate(rule.get("ports") or ()):
                yield from _policy_port(f"{path}.ports[{j}]", item)
            for j, item in enumerate(rule.get(peers) or ()):
                yield from _peer(f"{path}.{peers}[{j}]", item)
    types = spec.get("policyTypes") or []
    if len(types) > 2:
        yield invalid("spec.policyTypes", types, "may not specify more than two policyTypes")
        return
    for i, kind in enumerate(types):
        yield from choice(f"spec.policyTypes[{i}]", kind, ("Ingress", "Egress"))


def _policy_port(path: str, item: Obj) -> Errors:
    protocol = item.get("protocol")
    if protocol is not None:
        yield from required_choice(f"{path}.protocol", protocol, ("TCP", "UDP", "SCTP"))
    number, end = item.get("port"), item.get("endPort")
    if number is None:
        if end is not None:
            yield invalid(f"{path}.endPort", end, "may not be specified when `port` is not specified")
        return
    yield from port(f"{path}.port", number)
    if end is None:
        return
    if isinstance(number, str):
        yield invalid(f"{path}.endPort", end, "may not be specified when `port` is non-numeric")
        return
    if end < number:
        # upstream shows the port here, not the end
        yield invalid(f"{path}.endPort", number, "must be greater than or equal to `port`")
    yield from checked(f"{path}.endPort", end, names.port_number)


def _peer(path: str, peer: Obj) -> Errors:
    count = 0
    for field in ("podSelector", "namespaceSelector"):
        if (selector := peer.get(field)) is not None:
            count += 1
            yield from label_selector(f"{path}.{field}", selector)
    if (block := peer.get("ipBlock")) is not None:
        yield from _ip_block(f"{path}.ipBlock", block)
        if count:
            yield forbidden(path, "may not specify both ipBlock and another peer")
        count += 1
    if not count:
        yield required(path, "must specify a peer")


def _ip_block(path: str, block: Obj) -> Errors:
    cidr = block.get("cidr") or ""
    if not cidr:
        yield required(f"{path}.cidr")
        return
    bad = list(checked(f"{path}.cidr", cidr, names.cidr))
    yield from bad
    for i, part in enumerate(block.get("except") or ()):
        here = f"{path}.except[{i}]"
        wrong = list(checked(here, part, names.cidr))
        yield from wrong
        if not bad and not wrong and not _inside(part, cidr):
            yield invalid(here, part, "must be a strict subset of `cidr`")


def _inside(part: str, whole: str) -> bool:
    inner: Any = ipaddress.ip_network(part, strict=False)
    outer: Any = ipaddress.ip_network(whole, strict=False)
    return bool(inner.version == outer.version and inner != outer and inner.subnet_of(outer))


def ip_address(obj: Obj) -> Errors:
    ref = (obj.get("spec") or {}).get("parentRef")
    if ref is None:
        yield required("spec.parentRef")
        return
    for field in ("resource", "name"):
        yield from required_name(f"spec.parentRef.{field}", ref.get(field), names.path_segment)


def service_cidr(obj: Obj) -> Errors:
    cidrs = (obj.get("spec") or {}).get("cidrs") or []
    if not cidrs:
        yield required("spec.cidrs", "at least one CIDR required")
        return
    if len(cidrs) > 2:
        yield invalid("spec", cidrs, "may only hold up to 2 values")
        return
    for i, cidr in enumerate(cidrs):
        yield from checked(f"spec.cidrs[{i}]", cidr, names.strict_cidr)


def service_cidr_update(new: Obj, old: Obj) -> Errors:
    cidrs, before = ((o.get("spec") or {}).get("cidrs") for o in (new, old))
    if not semantic_equal(cidrs, before):
        yield invalid("spec.cidrs", cidrs, "field is immutable")
