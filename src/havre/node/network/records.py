"""The names of the cluster: what Services, their EndpointSlices and Namespaces add to the zone, and what is answered.

Pure, and kept up to date object by object: a change of one Service changes its names only. Given the domain
cluster.local, there are

    web.shop.svc                     A, AAAA   the Service's addresses; without one (headless), those of its endpoints
    web.shop.svc                     CNAME     of a Service with an external name
    _http._tcp.web.shop.svc          SRV       each named port
    db-0.web.shop.svc                A, AAAA   an endpoint of a headless Service, by its hostname or its address
    10-42-0-7.shop.pod               A         whatever the address; only the namespace must exist
    5.0.96.10.in-addr.arpa           PTR       addresses of Services and of endpoints of headless ones
    dns-version                      TXT

A name that exists without records of the type asked for gives an empty answer (NODATA), as does one above an existing
name; any other name of the zone, or of an address in the cluster's networks, does not exist (NXDOMAIN). The difference
matters: a client that asks for AAAA and hears NXDOMAIN does not ask for A.

Source: github.com/kubernetes/dns, docs/specification.md (1.1.0); RFC 2308, RFC 2782, RFC 8020.
"""

from __future__ import annotations

import ipaddress
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from havre.api.meta import Obj, labels_of, name_of, namespace_of
from havre.wire.dns import names
from havre.wire.dns.answer import Answer, prepare
from havre.wire.dns.message import AAAA, ANY, CNAME, NOERROR, NS, NXDOMAIN, PTR, SOA, SRV, TXT, A, Record
from havre.wire.dns.names import Malformed

TTL = 5  # seconds: a moved endpoint is forgotten by every cache before anybody wonders
SCHEMA = "1.1.0"
SERVICE_OF = "kubernetes.io/service-name"
MOST_STEPS = 8  # of aliases that lead to aliases
MOST_PREPARED = 10_000  # answers kept ready, about 400 bytes each; a flood of wrong names must not fill the memory
SOA_NUMBERS = (7200, 1800, 86400, TTL)  # refresh, retry, expire, minimum: the last is how long "no" is remembered
HEAVIEST = 100  # the weights of a port's SRV records add up to this

_EXISTS = 0  # not a type: the name is there without records of its own
_SRV = struct.Struct(">HHH")

Key = tuple[str, str]  # namespace and name
Entry = tuple[bytes, int, bytes]  # name, type, data


@dataclass(frozen=True, slots=True)
class Port:
    name: str
    protocol: str
    number: int


@dataclass(frozen=True, slots=True)
class Service:
    """What the names of a Service follow from."""

    key: Key
    ips: tuple[str, ...] = ()
    headless: bool = False
    external: str = ""
    unready_too: bool = False
    ports: tuple[Port, ...] = ()

    @classmethod
    def of(cls, obj: Obj) -> Service:
        spec = obj.get("spec") or {}
        key = namespace_of(obj), name_of(obj)
        if spec.get("type") == "ExternalName":
            return cls(key, external=spec.get("externalName") or "")
        headless = spec.get("clusterIP") == "None"
        ips = tuple(spec.get("clusterIPs") or filter(None, [spec.get("clusterIP")]))
        unready_too = bool(spec.get("publishNotReadyAddresses"))
        return cls(key, () if headless else ips, headless, "", unready_too, _ports(spec.get("ports")))


@dataclass(frozen=True, slots=True)
class Endpoint:
    addresses: tuple[str, ...]
    hostname: str
    ready: bool


@dataclass(frozen=True, slots=True)
class Slice:
    """What the names of a headless Service follow from, besides itself."""

    service: Key
    endpoints: tuple[Endpoint, ...]
    ports: tuple[Port, ...]

    @classmethod
    def of(cls, obj: Obj) -> Slice:
        service = namespace_of(obj), labels_of(obj).get(SERVICE_OF, "")
        if obj.get("addressType") == "FQDN":
            return cls(service, (), ())
        return cls(service, tuple(map(_endpoint, obj.get("endpoints") or ())), _ports(obj.get("ports")))


def _endpoint(obj: Obj) -> Endpoint:
    ready = (obj.get("conditions") or {}).get("ready")
    return Endpoint(tuple(obj.get("addresses") or ()), obj.get("hostname") or "", ready is not False)


def _ports(listed: Iterable[Obj] | None) -> tuple[Port, ...]:
    return tuple(
        Port(port["name"], port.get("protocol") or "TCP", port["port"])
        for port in listed or ()
        if port.get("name") and port.get("port")
    )


def entries(service: Service, slices: Iterable[Slice], domain: bytes) -> Iterator[Entry]:
    """All records that a Service gives; an address or a name that DNS cannot hold gives none."""
    try:
        own = names.join(service.key[1].encode(), service.key[0].encode(), b"svc", under=domain)
        if service.external:
            yield own, CNAME, names.name(service.external.lower())
    except Malformed:
        return
    for ip in service.ips:
        yield from _address(own, ip)
        yield from _pointer(ip, own)
    if service.ips:
        yield from _service_ports(own, service.ports, [own])
    if service.headless:
        yield from _endpoints(own, service, slices)


def _endpoints(own: bytes, service: Service, slices: Iterable[Slice]) -> Iterator[Entry]:
    hosts: dict[Port, list[bytes]] = defaultdict(list)
    for part in slices:
        for endpoint in part.endpoints:
            if not (endpoint.ready or service.unready_too):
                continue
            for ip in endpoint.addresses:
                label = endpoint.hostname.lower() or ip.replace(".", "-").replace(":", "-")
                host = _under(own, label)
                if not host:
                    continue
                yield from _address(own, ip)
                yield from _address(host, ip)
                yield from _pointer(ip, host)
                for port in part.ports:
                    hosts[port].append(host)
    for port, targets in hosts.items():
        yield from _service_ports(own, (port,), targets)


def _address(name: bytes, ip: str) -> Iterator[Entry]:
    packed = _packed(ip)
    if packed is not None:
        yield name, A if len(packed) == 4 else AAAA, packed


def _pointer(ip: str, name: bytes) -> Iterator[Entry]:
    packed = _packed(ip)
    if packed is not None:
        yield names.reversed_ip(packed), PTR, name


def _service_ports(own: bytes, ports: Iterable[Port], targets: list[bytes]) -> Iterator[Entry]:
    for port in ports:
        name = _under(own, f"_{port.name}".lower(), f"_{port.protocol}".lower())
        weight = max(1, HEAVIEST // len(targets))
        for target in targets if name else ():
            yield name, SRV, _SRV.pack(0, weight, port.number) + target


def _under(top: bytes, *labels: str) -> bytes:
    """Labels in front of a name; empty when DNS cannot hold that."""
    try:
        return names.join(*(label.encode() for label in labels), under=top)
    except Malformed:
        return b""


def _packed(ip: str) -> bytes | None:
    try:
        return ipaddress.ip_address(ip).packed
    except ValueError:
        return None


class Zone:
    """All names of the cluster, and their answers; `changed` is called whenever an answer may have become wrong."""

    def __init__(
        self,
        domain: str = "cluster.local",
        networks: Iterable[IPv4Network] = (),
        server: str = "10.96.0.10",
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`networks` are those whose reverse names nobody else knows; `server` is the address of this name server."""
        self.domain = names.name(domain.lower())
        self._svc, self._pod = (names.join(label, under=self.domain) for label in (b"svc", b"pod"))
        self._networks = tuple(networks)
        self._reverse = {_reverse_apex(network): network for network in self._networks}
        self._changed = changed
        self._names: dict[bytes, dict[int, dict[bytes, int]]] = {}  # to types, to data, to how many give it
        self._below: dict[bytes, int] = defaultdict(int)  # how many names stand below one
        self._given: dict[Key, frozenset[Entry]] = {}
        self._services: dict[Key, Service] = {}
        self._slices: dict[Key, dict[Key, Slice]] = defaultdict(dict)  # of a service, by the slice's own key
        self._service_of: dict[Key, Key] = {}  # of a slice
        self._namespaces: set[bytes] = set()
        self._prepared: dict[tuple[bytes, int], Answer] = {}
        self._serial = 1
        for entry in self._fixed(server):
            self._add(*entry)

    # what is there

    def put_service(self, obj: Obj) -> None:
        service = Service.of(obj)
        self._services[service.key] = service
        self._renew(service.key)

    def drop_service(self, obj: Obj) -> None:
        key = namespace_of(obj), name_of(obj)
        self._services.pop(key, None)
        self._renew(key)

    def put_slice(self, obj: Obj) -> None:
        key, found = (namespace_of(obj), name_of(obj)), Slice.of(obj)
        if self._service_of.get(key, found.service) != found.service:
            self.drop_slice(obj)
        self._service_of[key] = found.service
        self._slices[found.service][key] = found
        self._renew(found.service)

    def drop_slice(self, obj: Obj) -> None:
        key = namespace_of(obj), name_of(obj)
        service = self._service_of.pop(key, None)
        if service is not None:
            self._slices[service].pop(key, None)
            if not self._slices[service]:
                del self._slices[service]
            self._renew(service)

    def put_namespace(self, obj: Obj) -> None:
        label = name_of(obj).encode()
        if label not in self._namespaces:
            self._namespaces.add(label)
            for top in (self._svc, self._pod):
                self._add(names.join(label, under=top), _EXISTS, b"")
            self._forget()

    def drop_namespace(self, obj: Obj) -> None:
        label = name_of(obj).encode()
        if label in self._namespaces:
            self._namespaces.remove(label)
            for top in (self._svc, self._pod):
                self._drop(names.join(label, under=top), _EXISTS, b"")
            self._forget()

    # what is asked

    def answer(self, name: bytes, kind: int) -> Answer | None:
        """The answer about a folded name; None when the name is not the cluster's."""
        known = self._prepared.get((name, kind))
        if known is not None:
            return known
        apex = self._apex(name)
        if not apex:
            return None
        made = self._prepare(name, kind, apex)
        if len(self._prepared) >= MOST_PREPARED:
            self._prepared.clear()
        self._prepared[name, kind] = made
        return made

    def aliases(self, name: bytes) -> list[Record]:
        """The CNAME records that lead on from a name; the last may lead out of the cluster, or in a circle."""
        found: list[Record] = []
        while len(found) < MOST_STEPS:
            target = next(iter(self._names.get(name, {}).get(CNAME, ())), b"")
            if not target:
                break
            found.append(Record(name, CNAME, TTL, target))
            name = target
        return found

    # inside

    def _fixed(self, server: str) -> Iterator[Entry]:
        host = names.join(b"ns", b"dns", under=self.domain)
        for apex in (self.domain, *self._reverse):
            yield apex, NS, host
            yield apex, SOA, self._soa(apex)
        yield from _address(host, server)
        yield names.join(b"dns-version", under=self.domain), TXT, bytes([len(SCHEMA)]) + SCHEMA.encode()
        yield self._svc, _EXISTS, b""
        yield self._pod, _EXISTS, b""

    def _soa(self, apex: bytes) -> bytes:
        host, mailbox = names.join(b"ns", b"dns", under=self.domain), names.join(b"hostmaster", under=self.domain)
        return host + mailbox + struct.pack(">IIIII", 1, *SOA_NUMBERS)

    def _renew(self, key: Key) -> None:
        service = self._services.get(key)
        wanted = (
            frozenset(entries(service, self._slices.get(key, {}).values(), self.domain)) if service else frozenset()
        )
        given = self._given.get(key, frozenset())
        if wanted == given:
            return
        for entry in wanted - given:
            self._add(*entry)
        for entry in given - wanted:
            self._drop(*entry)
        if wanted:
            self._given[key] = wanted
        else:
            del self._given[key]
        self._forget()

    def _forget(self) -> None:
        self._prepared.clear()
        self._changed()

    def _add(self, name: bytes, kind: int, data: bytes) -> None:
        held = self._names.get(name)
        if held is None:
            held = self._names[name] = {}
            for ancestor in names.above(name, names.ROOT):
                self._below[ancestor] += 1
        same = held.setdefault(kind, {})
        same[data] = same.get(data, 0) + 1

    def _drop(self, name: bytes, kind: int, data: bytes) -> None:
        held = self._names[name]
        same = held[kind]
        same[data] -= 1
        if not same[data]:
            del same[data]
        if not same:
            del held[kind]
        if not held:
            del self._names[name]
            for ancestor in names.above(name, names.ROOT):
                self._below[ancestor] -= 1
                if not self._below[ancestor]:
                    del self._below[ancestor]

    def _apex(self, name: bytes) -> bytes:
        """The top of the zone that the name belongs to; empty when it is not the cluster's."""
        if name.endswith(self.domain) and names.is_under(name, self.domain):
            return self.domain
        if not name.endswith(b"\x04arpa\0"):
            return b""
        ip = names.ip_of(name)
        for apex, network in self._reverse.items():
            if name == apex or (ip is not None and ipaddress.IPv4Address(ip) in network):
                return apex
        return names.parent(name) if name in self._names else b""  # an endpoint outside the cluster's networks

    def _prepare(self, name: bytes, kind: int, apex: bytes) -> Answer:
        """Follow aliases, then collect."""
        answers = self.aliases(name) if kind not in {CNAME, ANY} else []
        end = answers[-1].data if answers else name
        if not names.is_under(end, apex):
            return prepare(name, NOERROR, answers, authoritative=True, chase=end)
        held = self._held(end)
        if held is None:
            return self._nothing(name, apex, NXDOMAIN, answers)
        kinds = [known for known in held if known != _EXISTS] if kind == ANY else [kind]
        found = [Record(end, one, TTL, data) for one in kinds for data in held.get(one, ())]
        if not found:
            return self._nothing(name, apex, NOERROR, answers)
        movable = not answers and kind in {A, AAAA}
        targets = self._targets(found)
        return prepare(name, NOERROR, [*answers, *found], (), targets, authoritative=True, movable=movable)

    def _held(self, name: bytes) -> Mapping[int, Mapping[bytes, int]] | None:
        held = self._names.get(name)
        if held is not None:
            return held
        if name in self._below:
            return {}
        return self._pod_address(name)

    def _pod_address(self, name: bytes) -> Mapping[int, Mapping[bytes, int]] | None:
        """10-42-0-7.shop.pod.cluster.local: what it says, if there is such a namespace."""
        if not name.endswith(self._pod):
            return None
        label, *rest = names.labels(name)
        namespace = rest[0] if rest else b""
        if namespace not in self._namespaces or names.join(label, namespace, under=self._pod) != name:
            return None
        written = label.decode("latin-1")
        packed = _packed(written.replace("-", ".")) or _packed(written.replace("-", ":"))
        return {A if len(packed) == 4 else AAAA: {packed: 1}} if packed is not None else None

    def _targets(self, found: Iterable[Record]) -> list[Record]:
        """The addresses of the hosts that SRV records name, which the client would ask for next."""
        hosts = dict.fromkeys(record.data[_SRV.size :] for record in found if record.kind == SRV)
        return [
            Record(host, kind, TTL, data)
            for host in hosts
            for kind in (A, AAAA)
            for data in self._names.get(host, {}).get(kind, ())
        ]

    def _nothing(self, asked: bytes, apex: bytes, rcode: int, answers: list[Record]) -> Answer:
        soa = Record(apex, SOA, TTL, self._soa(apex))
        return prepare(asked, rcode, answers, [soa], authoritative=True)


def _reverse_apex(network: IPv4Network) -> bytes:
    """The name under in-addr.arpa that holds the network, at a byte's border."""
    whole = network.prefixlen // 8
    labels = [str(byte).encode() for byte in reversed(network.network_address.packed[:whole])]
    return names.join(*labels, under=names.IN_ADDR)
