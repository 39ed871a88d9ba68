"""EndpointSlice: where the pods of a Service are, in slices of at most 100, changed as little as possible.

reads   Service; Pods and EndpointSlices of its namespace; the zones of Nodes
writes  EndpointSlices that it manages (create, update, delete)
wakes   on Service; a Pod wakes the Services that select it; a slice wakes its Service
source  k8s.io/endpointslice, reconciler.go; k8s.io/kubernetes, pkg/controller/endpointslice
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from havre.api.errors import NotFound
from havre.api.meta import GVK, Obj, labels_of, name_of, namespace_of
from havre.control.workloads import backends
from havre.control.workloads.backends import NODE, SERVICE
from havre.control.workloads.dependents import MANAGER, prefix_of
from havre.control.workloads.pods import POD
from havre.control.workloads.replicas import RETRY
from havre.machinery.api import Api, Ref
from havre.machinery.controller import Controller, Plan
from havre.machinery.informer import look
from havre.machinery.owners import adopted

ENDPOINT_SLICE = GVK("discovery.k8s.io", "v1", "EndpointSlice")
OF_SERVICE = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
NAME = "endpointslice-controller.k8s.io"
MOST = 100  # endpoints of one slice
_RESERVED = frozenset({OF_SERVICE, MANAGED_BY, backends.HEADLESS})

Ports = tuple[tuple[tuple[str, object], ...], ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """The pods that the Service selects, and the slices that are here for it."""

    pods: Sequence[Obj]
    slices: Sequence[Obj]
    zones: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Steps:
    """What makes the slices right."""

    create: tuple[Obj, ...] = ()
    update: tuple[Obj, ...] = ()
    delete: tuple[Obj, ...] = ()


def plan(service: Obj, seen: Seen) -> Steps:
    create: list[Obj] = []
    update: list[Obj] = []
    delete: list[Obj] = []
    families = backends.families_of(service)
    for family in families:
        mine = [each for each in seen.slices if each["addressType"] == family]
        steps = _of_family(service, seen, family, mine)
        create, update, delete = [*create, *steps.create], [*update, *steps.update], [*delete, *steps.delete]
    delete += [each for each in seen.slices if each["addressType"] not in families]
    return Steps(tuple(create), tuple(update), tuple(delete))


def _of_family(service: Obj, seen: Seen, family: str, slices: Sequence[Obj]) -> Steps:
    wanted, ports = _wanted(service, seen, family)
    held: dict[Ports, list[Obj]] = {}
    delete = []
    for each in slices:
        if _is_of(each, service):
            held.setdefault(_key(each.get("ports")), []).append(each)
        else:
            delete.append(each)
    create: list[Obj] = []
    update: list[Obj] = []
    for key, endpoints in wanted.items():
        steps = _packed(service, family, ports[key], endpoints, held.pop(key, []))
        create, update, delete = [*create, *steps.create], [*update, *steps.update], [*delete, *steps.delete]
    delete += [each for rest in held.values() for each in rest]
    if len(delete) == len(slices) and not create:
        return _placeholder(service, family, delete)
    return Steps(tuple(create), tuple(update), tuple(delete))


def _placeholder(service: Obj, family: str, delete: Sequence[Obj]) -> Steps:
    """A Service without endpoints has one empty slice, so that who watches knows that there are none."""
    empty = _slice(service, family, [], [])
    for each in delete:
        if not each.get("endpoints") and not each.get("ports") and labels_of(each) == labels_of(empty):
            return Steps(delete=tuple(other for other in delete if other is not each))
    return _recycled([empty], [], [*delete], service)


def _wanted(service: Obj, seen: Seen, family: str) -> tuple[dict[Ports, dict[str, Obj]], dict[Ports, list[Obj]]]:
    """Endpoints by their ports, then by pod: a named port may be another number in another pod."""
    wanted: dict[Ports, dict[str, Obj]] = {}
    ports: dict[Ports, list[Obj]] = {}
    for pod in seen.pods:
        addresses = backends.of_family(backends.addresses_of(pod), family)
        if not addresses or not backends.counts(pod, leaving=True):
            continue
        these = backends.ports_of(service, pod)
        key = _key(these)
        ports[key] = these
        wanted.setdefault(key, {})[pod["metadata"]["uid"]] = backends.endpoint(service, pod, addresses, seen.zones)
    return wanted, ports


def _key(ports: Iterable[Obj] | None) -> Ports:
    return tuple(sorted(tuple(sorted(port.items(), key=str)) for port in ports or ()))


def _packed(service: Obj, family: str, ports: list[Obj], wanted: dict[str, Obj], held: Sequence[Obj]) -> Steps:
    """Who has a place keeps it; newcomers fill slices that change anyway, then the fullest that has room."""
    update: list[Obj] = []
    unchanged: list[Obj] = []
    delete: list[Obj] = []
    left = dict(wanted)
    for each in held:
        before = each.get("endpoints") or []
        stay = [left.pop(uid) for endpoint in before if (uid := _target(endpoint)) in left]
        fresh = _with(each, service, stay)
        if not stay:
            delete.append(each)
        elif stay != before or labels_of(fresh) != labels_of(each):
            update.append(fresh)
        else:
            unchanged.append(each)
    newcomers = [*left.values()]
    for each in sorted(update, key=lambda s: -len(s["endpoints"])):
        room = MOST - len(each["endpoints"])
        each["endpoints"] += newcomers[:room]
        newcomers = newcomers[room:]
    create = []
    while len(newcomers) >= MOST:
        create.append(_slice(service, family, ports, newcomers[:MOST]))
        newcomers = newcomers[MOST:]
    if newcomers:
        fitting = [each for each in unchanged if len(each["endpoints"]) + len(newcomers) <= MOST]
        if fitting:
            fullest = max(fitting, key=lambda s: len(s["endpoints"]))
            update.append(_with(fullest, service, [*fullest["endpoints"], *newcomers]))
        else:
            create.append(_slice(service, family, ports, newcomers))
    return _recycled(create, update, delete, service)


def _recycled(create: list[Obj], update: list[Obj], delete: list[Obj], service: Obj) -> Steps:
    """A slice to delete and one to create are one update."""
    while create and delete:
        old, new = delete.pop(), create.pop()
        update.append({**_with(old, service, new["endpoints"]), "ports": new["ports"]})
    return Steps(tuple(create), tuple(update), tuple(delete))


def _target(endpoint: Obj) -> str:
    return str((endpoint.get("targetRef") or {}).get("uid", ""))


def _is_of(each: Obj, service: Obj) -> bool:
    uid = service["metadata"]["uid"]
    return any(o["uid"] == uid and o["kind"] == "Service" for o in each["metadata"].get("ownerReferences") or ())


def _slice(service: Obj, family: str, ports: list[Obj], endpoints: list[Obj]) -> Obj:
    made: Obj = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": prefix_of(name_of(service)),
            "namespace": namespace_of(service),
            "labels": _labels(service),
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    }
    return adopted(made, service)


def _with(each: Obj, service: Obj, endpoints: list[Obj]) -> Obj:
    return {**each, "metadata": {**each["metadata"], "labels": _labels(service)}, "endpoints": endpoints}


def _labels(service: Obj) -> dict[str, str]:
    """Those of the Service, and what the slice is."""
    inherited = {key: value for key, value in labels_of(service).items() if key not in _RESERVED}
    headless = {backends.HEADLESS: ""} if backends.is_headless(service) else {}
    return {**inherited, **headless, OF_SERVICE: name_of(service), MANAGED_BY: NAME}


async def reconcile(service: Obj, api: Api) -> Plan:
    if not backends.is_managed(service):
        return Plan()
    namespace = namespace_of(service)
    pods = [pod for pod in await look(api, POD, namespace) if backends.selects(service, pod)]
    slices = [each for each in await look(api, ENDPOINT_SLICE, namespace) if is_ours(each, name_of(service))]
    steps = plan(service, Seen(pods, slices, backends.zones_of(await look(api, NODE))))
    await carry_out(steps, api)
    return Plan()


def is_ours(each: Obj, service: str) -> bool:
    labels = labels_of(each)
    leaving = each["metadata"].get("deletionTimestamp")
    return labels.get(OF_SERVICE) == service and labels.get(MANAGED_BY) == NAME and not leaving


async def carry_out(steps: Steps, api: Api) -> None:
    """New places first, so that a moving endpoint is twice for a moment and never nowhere."""
    for each in steps.create:
        await api.create(each, manager=MANAGER)
    for each in steps.update:
        await api.update(each, manager=MANAGER)
    for each in steps.delete:
        try:
            await api.delete(Ref.of(each), uid=each["metadata"]["uid"])
        except NotFound:
            continue


def service_of(each: Obj) -> Iterable[Ref]:
    labels = labels_of(each)
    if labels.get(MANAGED_BY) == NAME and labels.get(OF_SERVICE):
        yield Ref(SERVICE, namespace_of(each), labels[OF_SERVICE])


def nobody(_: Obj) -> Iterable[Ref]:
    """Zones are read, but their changes wake nobody: a node keeps its zone."""
    return ()


def controller() -> Controller:
    return Controller(
        SERVICE,
        reconcile,
        wakes={ENDPOINT_SLICE: service_of, NODE: nobody},
        selects={POD: backends.selects},
        manager=MANAGER,
        component="endpoint-slice-controller",
        words=None,
        suspendable=False,
        cached=True,
        base=RETRY,
    )
