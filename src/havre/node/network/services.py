"""Services of the cluster, as the datapath needs them: which address leads to which endpoints.

reads     Service, EndpointSlice; the host ports of pods; the machine's addresses
writes    Datapath.set_frontends: all of them, again on every change; the datapath writes only what differs
wakes     any change of these; changes of one moment are answered together

    address              ports           reached from       when no endpoint is ready
    cluster IPs          port            the machine        refused
    node addresses       nodePort        everywhere         refused
    external IPs         port            everywhere         refused
    load balancer IPs    port            everywhere         refused; one of the node's own: left to the host's servers
    host ports           hostPort        everywhere         (a pod is always there); on the machine's own addresses only

Endpoints are those that are ready; when none is, those that end but still serve. An externalTrafficPolicy or
internalTrafficPolicy of Local leaves those that are on this node: since it is the only one, all with a node's name.
The first Service that claimed an address keeps it; cluster IPs come before all others, so nobody takes one over, and
Services come before host ports.

loadBalancerSourceRanges hold for clients outside of the machine. Not done: healthCheckNodePort, SCTP, IPv6.
Source: k8s.io/kubernetes, pkg/proxy (service.go, endpointslicecache.go, topology.go); KEP-1669.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import Final, Generic, Protocol, TypeVar

from havre.api.meta import GVK, Obj, labels_of
from havre.machinery.api import Api
from havre.machinery.informer import Handlers, SharedInformers
from havre.node.bpf.call import BpfError
from havre.node.network.addresses import HostPort, Target
from havre.node.network.frontends import MOST, Backend, Backends, Frontend
from havre.node.network.layouts import PROTOCOLS, packed_ip

log = logging.getLogger(__name__)

SERVICE: Final = GVK("", "v1", "Service")
SLICE: Final = GVK("discovery.k8s.io", "v1", "EndpointSlice")
SERVICE_NAME: Final = "kubernetes.io/service-name"
PROXIED_BY_OTHERS: Final = ("service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless")
LOOPBACK: Final = "127.0.0.1"
ANY: Final = "0.0.0.0"  # noqa: S104
AFFINITY = 10_800  # seconds; the API's default
SETTLE = 0.02  # seconds: a rolling update or a `kubectl apply` of many comes as one change
RETRY = 5.0  # seconds, when the kernel refused: a map may be full

Key = tuple[str, str]  # namespace and name of a Service
PortKey = tuple[Key, str, str]  # Service, name of its port, protocol
Entry = tuple[PortKey, Backend, bool, str]  # an endpoint: of what, where, whether on this node, its state

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Port:
    """One port of a Service."""

    name: str
    protocol: str
    port: int
    node_port: int


@dataclass(frozen=True, slots=True)
class Spec:
    """What we read of a Service; one that is not ours to serve has no addresses."""

    key: Key
    ports: tuple[Port, ...]
    cluster_ips: tuple[str, ...]
    external_ips: tuple[str, ...]
    balancer_ips: tuple[str, ...]
    ranges: tuple[str, ...] | None  # of clients that may use these; None: all
    affinity: int
    inside_local: bool
    outside_local: bool
    claimed: str  # when: the order in which addresses are given

    @classmethod
    def of(cls, service: Obj) -> Spec:
        meta, spec = service["metadata"], service.get("spec") or {}
        ours = _is_ours(service)
        return cls(
            (meta.get("namespace") or "", meta["name"]),
            tuple(_ports(spec)) if ours else (),
            tuple(ip for ip in spec.get("clusterIPs") or [spec.get("clusterIP")] if _is_ipv4(ip)),
            tuple(ip for ip in spec.get("externalIPs") or () if _is_ipv4(ip)),
            tuple(_balancer_ips(service)),
            _ranges(spec),
            _affinity(spec),
            spec.get("internalTrafficPolicy") == "Local",
            spec.get("externalTrafficPolicy") == "Local",
            meta.get("creationTimestamp") or "",
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """Endpoints of one port of a Service: what to use, and what of it is on this node."""

    everywhere: tuple[Backend, ...] = ()
    here: tuple[Backend, ...] = ()


class HostPorts(Protocol):
    """Who knows the host ports of pods: the pod network."""

    def host_ports(self) -> Mapping[HostPort, Target]: ...

    def subscribe(self, changed: Callable[[], None]) -> None: ...


class NodeAddresses(Protocol):
    """Who knows the machine's own addresses, which may change: the uplinks."""

    def addresses(self) -> Iterable[str]: ...

    def subscribe(self, changed: Callable[[], None]) -> None: ...


class Datapath(Protocol):
    """Who takes connections where we say. Blocks; raises BpfError when the kernel refuses."""

    def set_frontends(self, wanted: Mapping[Frontend, Backends]) -> None: ...


class Read(Generic[T]):
    """What was read of objects that have not changed since: of 10,000 Services, one change reads one."""

    def __init__(self, read: Callable[[Obj], T]) -> None:
        self._read = read
        self._known: dict[tuple[Key, str], T] = {}

    def all(self, objects: Iterable[Obj]) -> list[T]:
        """What is read of each; objects without a revision are read every time."""
        known: dict[tuple[Key, str], T] = {}
        values = []
        for obj in objects:
            meta = obj["metadata"]
            revision = meta.get("resourceVersion") or ""
            name = ((meta.get("namespace") or "", meta["name"]), revision)
            value = self._known.get(name) if revision else None
            if value is None:
                value = self._read(obj)
            known[name] = value
            values.append(value)
        self._known = known
        return values


def frontends(
    services: Iterable[Obj],
    slices: Iterable[Obj],
    node_addresses: Iterable[str],
    read_services: Read[Spec] | None = None,
    read_slices: Read[tuple[Entry, ...]] | None = None,
) -> dict[Frontend, Backends]:
    """All the addresses of all Services, O(services × ports × addresses + endpoints); a function of its arguments
    alone, `read_…` only remember."""
    nodes = tuple(node_addresses)
    endpoints = _endpoints((read_slices or Read(_entries)).all(slices))
    specs = sorted((read_services or Read(Spec.of)).all(services), key=lambda spec: (spec.claimed, spec.key))
    found: dict[Frontend, Backends] = {}
    for offers in (_cluster_ips, _node_ports, _external_ips):
        for spec in specs:
            for port in spec.ports:
                seen = endpoints.get((spec.key, port.name, port.protocol), Seen())
                for frontend, backends in offers(spec, port, seen, nodes):
                    found.setdefault(frontend, backends)
    return found


def host_frontends(ports: Mapping[HostPort, Target], node_addresses: Iterable[str]) -> dict[Frontend, Backends]:
    """The addresses of pods' host ports."""
    nodes = tuple(node_addresses)
    return {
        Frontend(ip, port.port, port.protocol): Backends((Backend(target.ip, target.port),), external=True)
        for port, target in ports.items()
        if port.protocol in PROTOCOLS
        for ip in (nodes if port.ip == ANY else (port.ip,))
        if ip in nodes  # any other would be somebody else's: a Service's, or an address of the world
    }


Offers = Iterator[tuple[Frontend, Backends]]


def _cluster_ips(spec: Spec, port: Port, seen: Seen, nodes: tuple[str, ...]) -> Offers:
    backends = _backends(spec, port, seen.here if spec.inside_local else seen.everywhere, external=False)
    for ip in spec.cluster_ips:
        yield Frontend(ip, port.port, port.protocol), backends


def _node_ports(spec: Spec, port: Port, seen: Seen, nodes: tuple[str, ...]) -> Offers:
    if port.node_port:
        backends = _outside(spec, port, seen)
        for ip in nodes:
            yield Frontend(ip, port.node_port, port.protocol), backends


def _external_ips(spec: Spec, port: Port, seen: Seen, nodes: tuple[str, ...]) -> Offers:
    backends = _outside(spec, port, seen)
    ranged = replace(backends, ranges=spec.ranges)
    for ip in (*spec.balancer_ips, *spec.external_ips):
        if backends.addresses or ip not in nodes:  # never shut the node's own port while there is nobody to serve it
            yield Frontend(ip, port.port, port.protocol), ranged if ip in spec.balancer_ips else backends


def _outside(spec: Spec, port: Port, seen: Seen) -> Backends:
    return _backends(spec, port, seen.here if spec.outside_local else seen.everywhere, external=True)


def _backends(spec: Spec, port: Port, addresses: tuple[Backend, ...], *, external: bool) -> Backends:
    name = f"{'/'.join(spec.key)}:{port.port}/{port.protocol}"
    return Backends(addresses[:MOST], spec.affinity, external, name)


# reading objects


def _is_ours(service: Obj) -> bool:
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName" or spec.get("clusterIP") in {None, "", "None"}:
        return False
    return not any(label in labels_of(service) for label in PROXIED_BY_OTHERS)


def _ports(spec: Obj) -> Iterator[Port]:
    for port in spec.get("ports") or ():
        protocol = port.get("protocol") or "TCP"
        if protocol in PROTOCOLS:
            yield Port(port.get("name") or "", protocol, port["port"], port.get("nodePort") or 0)


def _balancer_ips(service: Obj) -> Iterator[str]:
    """The addresses that a load balancer has given; with ipMode Proxy it wants to see the traffic itself."""
    if service["spec"].get("type") != "LoadBalancer":
        return
    for ingress in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ():
        if _is_ipv4(ingress.get("ip")) and ingress.get("ipMode") != "Proxy":
            yield ingress["ip"]


def _ranges(spec: Obj) -> tuple[str, ...] | None:
    """Networks of IPv4 clients; when all that is given is IPv6, no client of IPv4 may."""
    given = spec.get("loadBalancerSourceRanges") if spec.get("type") == "LoadBalancer" else None
    return tuple(network.strip() for network in given if _is_network(network)) if given else None


def _affinity(spec: Obj) -> int:
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    seconds: int = ((spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds") or AFFINITY
    return seconds


def _is_ipv4(ip: object) -> bool:
    try:
        packed_ip(str(ip))
    except ValueError:
        return False
    return True


def _endpoints(slices: Iterable[Iterable[Entry]]) -> dict[PortKey, Seen]:
    """What the slices say of every port; a Service may have several, and an endpoint may be in two of them."""
    ready: dict[PortKey, dict[Backend, bool]] = {}
    ending: dict[PortKey, dict[Backend, bool]] = {}
    for entries in slices:
        for key, backend, here, state in entries:
            if state != GONE:
                (ready if state == READY else ending).setdefault(key, {})[backend] = here
    return {key: Seen(*_usable(ready.get(key, {}), ending.get(key, {}))) for key in ready.keys() | ending.keys()}


def _usable(ready: Mapping[Backend, bool], ending: Mapping[Backend, bool]) -> Iterator[tuple[Backend, ...]]:
    """Everywhere, then here: what is ready, else what still serves."""
    yield tuple(sorted(ready or ending))
    here = sorted(backend for backend, local in ready.items() if local)
    yield tuple(here or sorted(backend for backend, local in ending.items() if local))


READY, ENDING, GONE = "ready", "ending", "gone"


def _is_network(text: str) -> bool:
    try:
        IPv4Network(text.strip(), strict=False)
    except ValueError:
        return False
    return True


def _entries(one: Obj) -> tuple[Entry, ...]:
    """What one slice says: one entry for every endpoint and port."""
    return tuple(_slice(one))


def _slice(one: Obj) -> Iterator[Entry]:
    service = labels_of(one).get(SERVICE_NAME)
    if not service or one.get("addressType") != "IPv4":
        return
    key = (one["metadata"].get("namespace") or "", service)
    ports = [
        (p.get("name") or "", p.get("protocol") or "TCP", p["port"]) for p in one.get("ports") or () if p.get("port")
    ]
    for endpoint in one.get("endpoints") or ():
        state, here = _state(endpoint.get("conditions") or {}), bool(endpoint.get("nodeName"))
        for ip in endpoint.get("addresses", ())[:1]:  # further ones mean the same endpoint
            if _is_ipv4(ip):
                for name, protocol, port in ports:
                    yield (key, name, protocol), Backend(ip, port), here, state


def _state(conditions: Obj) -> str:
    """Unknown readiness counts as ready. An endpoint of a Service that publishes what is not ready says that it is."""
    ready = conditions.get("ready")
    if ready is None or ready:
        return READY
    return ENDING if conditions.get("serving") and conditions.get("terminating") else GONE


# following them


async def run(
    api: Api,
    datapath: Datapath,
    node_addresses: Iterable[str],
    host_ports: HostPorts | None = None,
    uplinks: NodeAddresses | None = None,
    own: Collection[int] = (),
) -> None:
    """Keep the datapath as the cluster says, for ever. On the machine's addresses, the ports `own` stay the machine's:
    with an external IP or a host port, anybody could otherwise stand in for its API, agent, DNS or registry.

    Node ports are at `node_addresses` (the pods' gateway), at those of the uplinks, and at 127.0.0.1.
    """
    fixed = (*node_addresses, LOOPBACK)
    reads = Read(Spec.of), Read(_entries)
    changed = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        informers = SharedInformers(api, group)
        services, slices = informers.of(SERVICE), informers.of(SLICE)
        for informer in (services, slices):
            informer.subscribe(_wake(changed))
        for other in (host_ports, uplinks):
            if other is not None:
                other.subscribe(changed.set)
        await informers.synced()
        changed.set()
        while True:
            await changed.wait()
            await asyncio.sleep(SETTLE)
            changed.clear()
            ports = host_ports.host_ports() if host_ports is not None else {}
            nodes = tuple(dict.fromkeys((*fixed, *(uplinks.addresses() if uplinks is not None else ()))))
            done = await asyncio.to_thread(_follow, datapath, services.list(), slices.list(), ports, nodes, reads, own)
            if not done:
                asyncio.get_running_loop().call_later(RETRY, changed.set)


def _wake(changed: asyncio.Event) -> Handlers:
    return Handlers(lambda _: changed.set(), lambda _new, _old: changed.set(), lambda _: changed.set())


def _follow(
    datapath: Datapath,
    services: list[Obj],
    slices: list[Obj],
    ports: Mapping[HostPort, Target],
    nodes: tuple[str, ...],
    reads: tuple[Read[Spec], Read[tuple[Entry, ...]]],
    own: Collection[int] = (),
) -> bool:
    offered = host_frontends(ports, nodes) | frontends(services, slices, nodes, *reads)
    wanted = {front: backends for front, backends in offered.items() if front.port not in own or front.ip not in nodes}
    try:
        datapath.set_frontends(wanted)
    except BpfError as error:
        log.warning("the kernel refused Services; will try again", extra={"error": str(error), "count": len(wanted)})
        return False
    return True
