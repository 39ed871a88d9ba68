"""Cells of how traffic finds its way: Service, Endpoints, EndpointSlice, Ingress, NetworkPolicy, addresses.

Source: k8s.io/kubernetes, pkg/printers/internalversion (printers.go).
"""

from __future__ import annotations

from havre.api.meta import Obj
from havre.control.apiserver.printers.reading import (
    NONE,
    SHOWN,
    UNKNOWN,
    UNSET,
    addresses,
    created,
    labels,
    selector,
    shortened,
    spec_of,
    status_of,
)


def service(obj: Obj) -> list[object]:
    meta, spec = obj["metadata"], spec_of(obj)
    own = spec.get("clusterIPs")
    return [
        meta["name"],
        spec.get("type", ""),
        own[0] if own else NONE,
        _external(spec, status_of(obj)),
        ",".join([_service_port(port) for port in spec.get("ports") or ()]) or NONE,
        created(meta),
        labels(spec.get("selector")),
    ]


def _external(spec: Obj, status: Obj) -> str:
    extra = ",".join(spec.get("externalIPs") or ())
    match spec.get("type"):
        case "ClusterIP" | "NodePort":
            return extra or NONE
        case "LoadBalancer":
            return ",".join(filter(None, (addresses(status), extra))) or "<pending>"
        case "ExternalName":
            return str(spec.get("externalName", ""))
    return UNKNOWN


def _service_port(port: Obj) -> str:
    number = port.get("nodePort") or 0
    outside = f":{number}" if number > 0 else ""
    return f"{port.get('port') or 0}{outside}/{port.get('protocol', '')}"


def endpoints(obj: Obj) -> list[object]:
    meta = obj["metadata"]
    subsets = obj.get("subsets")
    return [meta["name"], _subsets(subsets) if subsets else NONE, created(meta)]


def _subsets(subsets: list[Obj]) -> str:
    """Every address with every port of its subset; a subset without ports shows bare addresses."""
    shown: list[str] = []
    total = 0
    for subset in subsets:
        ready = subset.get("addresses") or ()
        for port in subset.get("ports") or (None,):
            total += len(ready)
            shown += [_host_port(address.get("ip", ""), port) for address in ready[: SHOWN - len(shown)]]
    return shortened(shown, total=total)


def _host_port(host: str, port: Obj | None) -> str:
    if port is None:
        return host
    return f"[{host}]:{port.get('port') or 0}" if ":" in host or "%" in host else f"{host}:{port.get('port') or 0}"


def endpoint_slice(obj: Obj) -> list[object]:
    meta = obj["metadata"]
    ports = [_slice_port(port) for port in obj.get("ports") or ()]
    found = [address for endpoint in obj.get("endpoints") or () for address in endpoint.get("addresses") or ()]
    kind = obj.get("addressType", "")
    return [meta["name"], kind, shortened(ports) or UNSET, shortened(found) or UNSET, created(meta)]


def _slice_port(port: Obj) -> str:
    number, name = port.get("port"), port.get("name")
    if number is not None:
        return str(number)
    return "*" if name is None else name


def ingress(obj: Obj) -> list[object]:
    meta, spec = obj["metadata"], spec_of(obj)
    name = spec.get("ingressClassName")
    return [
        meta["name"],
        NONE if name is None else name,
        _hosts(spec.get("rules") or []),
        addresses(status_of(obj)),
        "80, 443" if spec.get("tls") else "80",
        created(meta),
    ]


def _hosts(rules: list[Obj]) -> str:
    """The first three hosts; what is left is counted in rules, with or without a host."""
    shown: list[str] = []
    for rule in rules:
        if len(shown) == SHOWN:
            return f"{','.join(shown)} + {len(rules) - SHOWN} more..."
        if host := rule.get("host"):
            shown.append(host)
    return ",".join(shown) or "*"


def ingress_class(obj: Obj) -> list[object]:
    meta, spec = obj["metadata"], spec_of(obj)
    return [meta["name"], spec.get("controller", ""), _parameters(spec.get("parameters")), created(meta)]


def _parameters(ref: Obj | None) -> str:
    if ref is None:
        return NONE
    group = ref.get("apiGroup")
    kind = ref.get("kind", "")
    return f"{kind if group is None else f'{kind}.{group}'}/{ref.get('name', '')}"


def network_policy(obj: Obj) -> list[object]:
    meta = obj["metadata"]
    return [meta["name"], selector(spec_of(obj).get("podSelector")), created(meta)]


def service_cidr(obj: Obj) -> list[object]:
    meta = obj["metadata"]
    return [meta["name"], ",".join(spec_of(obj).get("cidrs") or ()), created(meta)]


def ip_address(obj: Obj) -> list[object]:
    """Upstream declares two columns and fills three cells."""
    meta = obj["metadata"]
    return [meta["name"], _parent(spec_of(obj).get("parentRef")), created(meta)]


def _parent(ref: Obj | None) -> str:
    """`services/default/web`."""
    if ref is None:
        return NONE
    group, resource, namespace = ref.get("group"), ref.get("resource", ""), ref.get("namespace")
    kind = (f"{resource}.{group}" if group else resource).lower()
    return f"{kind}/{namespace}/{ref.get('name', '')}" if namespace else f"{kind}/{ref.get('name', '')}"
