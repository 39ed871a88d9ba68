"""The pods behind a Service, as endpoints: which count, on which ports and addresses, in which state. Pure.

Source: k8s.io/endpointslice (utils.go, util/controller_utils.go).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from havre.api.meta import GVK, Obj, labels_of, name_of, namespace_of
from havre.control.workloads.pods import is_finished, is_leaving, is_ready, node_of, status_of

SERVICE = GVK("", "v1", "Service")
NODE = GVK("", "v1", "Node")
HEADLESS = "service.kubernetes.io/headless"
ZONE = "topology.kubernetes.io/zone"
FAMILIES = {"IPv4": 4, "IPv6": 6}
_NONE = "None"


def selects(service: Obj, pod: Obj) -> bool:
    """A Service without a selector selects nothing: its endpoints are somebody else's."""
    selector = (service.get("spec") or {}).get("selector") or {}
    return bool(selector) and selector.items() <= labels_of(pod).items()


def is_managed(service: Obj) -> bool:
    spec = service.get("spec") or {}
    return bool(spec.get("selector")) and spec.get("type") != "ExternalName"


def is_headless(service: Obj) -> bool:
    return (service.get("spec") or {}).get("clusterIP") in (None, "", _NONE)


def families_of(service: Obj) -> list[str]:
    """The address types its slices have."""
    spec = service["spec"]
    if families := spec.get("ipFamilies"):
        return list(families)
    address = spec.get("clusterIP")
    if not address or address == _NONE:
        return [*FAMILIES]
    return ["IPv6" if ":" in address else "IPv4"]


def counts(pod: Obj, *, leaving: bool) -> bool:
    """It has an address and has not ended; `leaving`: also while it is being deleted."""
    return not is_finished(pod) and bool(addresses_of(pod)) and (leaving or not is_leaving(pod))


def addresses_of(pod: Obj) -> list[str]:
    status = status_of(pod)
    several = [each["ip"] for each in status.get("podIPs") or () if each.get("ip")]
    return several or [ip for ip in (status.get("podIP"),) if ip]


def of_family(addresses: Iterable[str], family: str) -> list[str]:
    return [a for a in addresses if ipaddress.ip_address(a).version == FAMILIES[family]]


def ports_of(service: Obj, pod: Obj) -> list[Obj]:
    """The service's ports as numbers of this pod; a name that the pod does not have is left out."""
    found = []
    for port in service["spec"].get("ports") or ():
        number = find_port(pod, port)
        if number is not None:
            found.append(_port(port, number))
    return found


def _port(port: Obj, number: int) -> Obj:
    named: Obj = {"name": port.get("name") or "", "port": number, "protocol": port.get("protocol") or "TCP"}
    return named | ({"appProtocol": port["appProtocol"]} if port.get("appProtocol") else {})


def find_port(pod: Obj, port: Obj) -> int | None:
    target = port.get("targetPort")
    if not isinstance(target, str):
        return int(target or port["port"])
    spec = pod.get("spec") or {}
    sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    for container in [*(spec.get("containers") or ()), *sidecars]:
        for each in container.get("ports") or ():
            same = (each.get("protocol") or "TCP") == (port.get("protocol") or "TCP")
            if each.get("name") == target and same:
                return int(each["containerPort"])
    return None


def endpoint(service: Obj, pod: Obj, addresses: list[str], zones: Mapping[str, str]) -> Obj:
    """An endpoint of a slice."""
    serving, leaving = is_ready(pod), is_leaving(pod)
    published = bool(service["spec"].get("publishNotReadyAddresses"))
    made: dict[str, Any] = {
        "addresses": addresses,
        "conditions": {
            "ready": published or (serving and not leaving),
            "serving": serving,
            "terminating": leaving,
        },
        "targetRef": target_of(pod),
    }
    if hostname := hostname_of(service, pod):
        made["hostname"] = hostname
    if node := node_of(pod):
        made["nodeName"] = node
        made |= {"zone": zones[node]} if node in zones else {}
    return made


def target_of(pod: Obj) -> Obj:
    return {"kind": "Pod", "namespace": namespace_of(pod), "name": name_of(pod), "uid": pod["metadata"]["uid"]}


def hostname_of(service: Obj, pod: Obj) -> str:
    """A pod of this subdomain has a name of its own in the DNS."""
    spec = pod.get("spec") or {}
    return str(spec.get("hostname") or "") if spec.get("subdomain") == name_of(service) else ""


def zones_of(nodes: Iterable[Obj]) -> dict[str, str]:
    return {name_of(node): labels_of(node)[ZONE] for node in nodes if labels_of(node).get(ZONE)}
