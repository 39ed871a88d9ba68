"""Endpoints: where the pods of a Service are, in the one list of before EndpointSlices.

reads   Service; Pods of its namespace; Endpoints of the same name
writes  Endpoints (create, update; delete when the Service is gone)
wakes   on Service; a Pod wakes the Services that select it; Endpoints wake their Service
source  k8s.io/kubernetes, pkg/controller/endpoint; pkg/api/v1/endpoints/util.go (RepackSubsets)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from havre.api.errors import ApiError, NotFound
from havre.api.meta import GVK, Obj, annotations_of, labels_of, name_of, namespace_of
from havre.control.workloads import backends
from havre.control.workloads.backends import SERVICE
from havre.control.workloads.chore import Change, Chore
from havre.control.workloads.dependents import MANAGER, is_of_ending_namespace
from havre.control.workloads.pods import POD, is_ready, node_of
from havre.control.workloads.replicas import RETRY
from havre.machinery.api import Api, Ref
from havre.machinery.controller import Controller, Plan
from havre.machinery.informer import look

ENDPOINTS = GVK("", "v1", "Endpoints")
MANAGED_BY = "endpoints.kubernetes.io/managed-by"
NAME = "endpoint-controller"
OVER = "endpoints.kubernetes.io/over-capacity"
MOST = 1000  # addresses
_OURS = frozenset({backends.HEADLESS, MANAGED_BY})

Address = tuple[str, str]  # IP, uid of the pod


def plan(service: Obj, pods: Sequence[Obj], live: Obj | None) -> Obj | None:
    """The Endpoints to write; None when they are right."""
    subsets = truncated(repacked(_offers(service, pods)))
    cut = sum(map(_size, subsets)) >= MOST and len(pods) > MOST
    meta = {"name": name_of(service), "namespace": namespace_of(service)}
    wanted: Obj = {**(live or {"apiVersion": "v1", "kind": "Endpoints", "metadata": meta}), "subsets": subsets}
    labels = {key: value for key, value in labels_of(service).items() if key not in _OURS}
    headless = {backends.HEADLESS: ""} if backends.is_headless(service) else {}
    annotations = {key: value for key, value in annotations_of(live or wanted).items() if key != OVER}
    wanted["metadata"] = {
        **wanted["metadata"],
        "labels": {**labels, **headless, MANAGED_BY: NAME},
        "annotations": {**annotations, **({OVER: "truncated"} if cut else {})},
    }
    return None if live is not None and _same(live, wanted) else wanted


def _same(live: Obj, wanted: Obj) -> bool:
    labels, annotations = labels_of(live), annotations_of(live)
    same = (live.get("subsets") or []) == wanted["subsets"]
    return same and labels == labels_of(wanted) and annotations == annotations_of(wanted)


def _offers(service: Obj, pods: Iterable[Obj]) -> Iterable[tuple[Obj | None, Obj, bool]]:
    """(port, address, ready) of every pod and port; no port where a headless Service has none."""
    published = bool(service["spec"].get("publishNotReadyAddresses"))
    family = backends.families_of(service)[0]
    for pod in pods:
        addresses = backends.of_family(backends.addresses_of(pod), family)
        if not addresses or not backends.counts(pod, leaving=published):
            continue
        address = _address(service, pod, addresses[0])
        if not service["spec"].get("ports"):
            if backends.is_headless(service):
                yield None, address, published or is_ready(pod)
            continue
        for port in backends.ports_of(service, pod):
            yield {k: v for k, v in port.items() if v != ""}, address, published or is_ready(pod)


def _address(service: Obj, pod: Obj, ip: str) -> Obj:
    made: Obj = {"ip": ip}
    if hostname := backends.hostname_of(service, pod):
        made["hostname"] = hostname
    if node := node_of(pod):
        made["nodeName"] = node
    return made | {"targetRef": backends.target_of(pod)}


def repacked(offers: Iterable[tuple[Obj | None, Obj, bool]]) -> list[Obj]:
    """Ports that the same addresses offer are one subset; the order depends on the content alone."""
    addresses: dict[Address, Obj] = {}
    by_port: dict[tuple[tuple[str, object], ...], dict[Address, bool]] = {}
    for port, address, ready in offers:
        key = address["ip"], (address.get("targetRef") or {}).get("uid", "")
        addresses.setdefault(key, address)
        by_port.setdefault(tuple(sorted((port or {}).items(), key=str)), {})[key] = ready
    by_hosts: dict[tuple[tuple[Address, bool], ...], list[Obj]] = {}
    for port_items, hosts in by_port.items():
        ports = by_hosts.setdefault(tuple(sorted(hosts.items())), [])
        if port_items:
            ports.append(dict(port_items))
    subsets = [_subset(hosts, ports, addresses) for hosts, ports in by_hosts.items()]
    return sorted(subsets, key=lambda each: hashlib.blake2b(repr(each).encode()).digest())


def _subset(hosts: Iterable[tuple[Address, bool]], ports: list[Obj], addresses: dict[Address, Obj]) -> Obj:
    ready = [addresses[key] for key, is_up in hosts if is_up]
    other = [addresses[key] for key, is_up in hosts if not is_up]
    made: Obj = {}
    if ready:
        made["addresses"] = ready
    if other:
        made["notReadyAddresses"] = other
    if ports:
        made["ports"] = sorted(ports, key=lambda port: (port.get("name", ""), port["port"], port["protocol"]))
    return made


def _size(subset: Obj) -> int:
    return len(subset.get("addresses") or ()) + len(subset.get("notReadyAddresses") or ())


def truncated(subsets: list[Obj]) -> list[Obj]:
    """At most so many addresses, ready ones first."""
    left = MOST
    if sum(map(_size, subsets)) <= left:
        return subsets
    for key in ("addresses", "notReadyAddresses"):
        for subset in subsets:
            if key in subset:
                subset[key] = subset[key][:left]
                left -= len(subset[key])
    return subsets


async def reconcile(service: Obj, api: Api) -> Plan:
    if not backends.is_managed(service):
        return Plan()
    pods = [pod for pod in await look(api, POD, namespace_of(service)) if backends.selects(service, pod)]
    live = await api.get(Ref(ENDPOINTS, namespace_of(service), name_of(service)))
    wanted = plan(service, pods, live)
    if wanted is None:
        return Plan()
    try:
        await (api.update if live else api.create)(wanted, manager=MANAGER)
    except ApiError as error:
        if not is_of_ending_namespace(error):
            raise
    return Plan()


def service_of(endpoints: Obj) -> Iterable[Ref]:
    yield Ref(SERVICE, namespace_of(endpoints), name_of(endpoints))


def controller() -> Controller:
    return Controller(
        SERVICE,
        reconcile,
        wakes={ENDPOINTS: service_of},
        selects={POD: backends.selects},
        manager=MANAGER,
        component=NAME,
        words=None,
        suspendable=False,
        cached=True,
        base=RETRY,
    )


# they have no owner: who deletes a Service must not leave them


async def clean_up(ref: Ref, api: Api) -> None:
    if await api.get(Ref(SERVICE, ref.namespace, ref.name)) is not None:
        return
    try:
        await api.delete(ref)
    except NotFound:
        return


def wakes(change: Change) -> Iterable[Ref]:
    if change.kind.gvk == SERVICE and change.obj is None:
        yield Ref(ENDPOINTS, change.node.ref.namespace, change.node.ref.name)


def chore() -> Chore:
    return Chore("endpoints", clean_up, wakes)
