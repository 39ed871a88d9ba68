"""Endpoints made by hand, for a Service without a selector: mirrored into EndpointSlices, for who reads only those.

reads   Endpoints; the Service of the same name; mirrored EndpointSlices
writes  EndpointSlices that it manages
wakes   on Endpoints; their Service; a mirrored slice wakes its Endpoints
source  k8s.io/kubernetes, pkg/controller/endpointslicemirroring
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from havre.api.meta import Obj, annotations_of, labels_of, name_of, namespace_of
from havre.control.workloads.backends import SERVICE
from havre.control.workloads.dependents import MANAGER, prefix_of
from havre.control.workloads.endpoint_slice import ENDPOINT_SLICE, MANAGED_BY, OF_SERVICE, Steps, carry_out
from havre.control.workloads.endpoints import ENDPOINTS
from havre.control.workloads.replicas import RETRY
from havre.machinery.api import Api, Ref
from havre.machinery.controller import Controller, Plan
from havre.machinery.informer import look
from havre.machinery.owners import adopted

NAME = "endpointslicemirroring-controller.k8s.io"
SKIP = "endpointslice.kubernetes.io/skip-mirror"
MOST = 1000  # addresses of one subset
_LEADER = "control-plane.alpha.kubernetes.io/leader"
_NOT_COPIED = frozenset(
    {"endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"}
)


def plan(endpoints: Obj, service: Obj | None, held: Sequence[Obj]) -> Steps:
    """One slice for each subset and family; a slice that is there for its ports is used again."""
    if not _is_mirrored(endpoints, service):
        return Steps(delete=tuple(held))
    left, create, update = [*held], [], []
    for wanted in _wanted(endpoints):
        found = next((each for each in left if _place(each) == _place(wanted)), None)
        if found is None:
            create.append(wanted)
            continue
        left.remove(found)
        if not _same(found, wanted):
            update.append({**found, **wanted, "metadata": {**found["metadata"], **_lasting(wanted["metadata"])}})
    return Steps(tuple(create), tuple(update), tuple(left))


def _is_mirrored(endpoints: Obj, service: Obj | None) -> bool:
    if service is None or (service.get("spec") or {}).get("selector"):
        return False
    return labels_of(endpoints).get(SKIP) != "true" and _LEADER not in annotations_of(endpoints)


def _wanted(endpoints: Obj) -> Iterable[Obj]:
    for subset in endpoints.get("subsets") or ():
        ready = [(address, True) for address in subset.get("addresses") or ()]
        rest = [(address, False) for address in subset.get("notReadyAddresses") or ()]
        by_family: dict[str, list[Obj]] = {}
        for address, is_ready in [*ready, *rest][:MOST]:
            family = f"IPv{ipaddress.ip_address(address['ip']).version}"
            by_family.setdefault(family, []).append(_endpoint(address, is_ready))
        for family, found in by_family.items():
            yield _slice(endpoints, family, subset.get("ports") or [], found)


def _endpoint(address: Obj, is_ready: bool) -> Obj:
    made: Obj = {"addresses": [address["ip"]], "conditions": {"ready": is_ready}}
    return made | {key: address[key] for key in ("hostname", "nodeName", "targetRef") if address.get(key)}


def _slice(endpoints: Obj, family: str, ports: Sequence[Obj], found: list[Obj]) -> Obj:
    labels = {**labels_of(endpoints), OF_SERVICE: name_of(endpoints), MANAGED_BY: NAME}
    made: Obj = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": prefix_of(name_of(endpoints)),
            "namespace": namespace_of(endpoints),
            "labels": labels,
            "annotations": {k: v for k, v in annotations_of(endpoints).items() if k not in _NOT_COPIED},
        },
        "addressType": family,
        "endpoints": found,
        "ports": [{"name": "", "protocol": "TCP", **port} for port in ports],
    }
    return adopted(made, endpoints)


def _lasting(meta: Obj) -> Obj:
    return {key: value for key, value in meta.items() if key != "generateName"}


def _place(each: Obj) -> tuple[str, list[str]]:
    return each["addressType"], sorted(str(sorted(port.items(), key=str)) for port in each.get("ports") or ())


def _same(held: Obj, wanted: Obj) -> bool:
    owners = [owner["uid"] for owner in held["metadata"].get("ownerReferences") or ()]
    same = owners == [owner["uid"] for owner in wanted["metadata"]["ownerReferences"]]
    said = labels_of(held) == labels_of(wanted) and annotations_of(held) == annotations_of(wanted)
    return same and said and held.get("endpoints") == wanted["endpoints"]


async def reconcile(endpoints: Obj, api: Api) -> Plan:
    namespace, name = namespace_of(endpoints), name_of(endpoints)
    held = [each for each in await look(api, ENDPOINT_SLICE, namespace) if Ref(ENDPOINTS, namespace, name) in _of(each)]
    service = await api.get(Ref(SERVICE, namespace, name))
    await carry_out(plan(endpoints, service, held), api)
    return Plan()


def _of(each: Obj) -> list[Ref]:
    labels = labels_of(each)
    mirrored = labels.get(MANAGED_BY) == NAME and labels.get(OF_SERVICE)
    return [Ref(ENDPOINTS, namespace_of(each), labels[OF_SERVICE])] if mirrored else []


def endpoints_of(service: Obj) -> Iterable[Ref]:
    yield Ref(ENDPOINTS, namespace_of(service), name_of(service))


def controller() -> Controller:
    return Controller(
        ENDPOINTS,
        reconcile,
        wakes={SERVICE: endpoints_of, ENDPOINT_SLICE: _of},
        manager=MANAGER,
        component="endpoint-slice-mirroring-controller",
        words=None,
        suspendable=False,
        cached=True,
        base=RETRY,
    )
