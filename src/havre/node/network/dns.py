"""The cluster's DNS server: UDP and TCP on the gateway address; Service kube-system/kube-dns leads pods to it.

    await run(api, Config(gateway="10.42.0.1", pods=…, services=…))

Names of the cluster are answered from memory (`records`), kept up to date by informers; all others by `forwarder`.
Before the informers have read everything once, questions about the cluster are answered with SERVFAIL, which makes a
client ask again; an early NXDOMAIN would be believed. While the API is away, what was known stays.

The socket is bound to the gateway address before that exists (IP_FREEBIND), so the order of starting does not matter.
Datagrams are read as many as there are per wake-up, and the answer to a question of the same bytes is sent as it was
made, until something changes.

reads   Service, EndpointSlice, Namespace
writes  Service and EndpointSlice kube-dns in kube-system (server-side apply)
source  github.com/kubernetes/dns, docs/specification.md; RFC 1035, RFC 6891, RFC 7766 (TCP)
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from havre.api.errors import ApiError
from havre.api.meta import GVK, Obj
from havre.machinery.api import Api, Ref
from havre.machinery.informer import Handlers, Informer, SharedInformers
from havre.machinery.queue import backoff, jittered
from havre.node.network.errors import NetworkError
from havre.node.network.forwarder import Forwarder
from havre.node.network.records import SERVICE_OF, Zone
from havre.wire.dns.answer import UNLIMITED, Answer, limit_of, prepare, refusal, reply
from havre.wire.dns.message import (
    AXFR,
    BADVERS,
    FORMERR,
    IN,
    IXFR,
    LONGEST_MESSAGE,
    NOTIMP,
    REFUSED,
    SERVFAIL,
    Malformed,
    Query,
)

log = logging.getLogger(__name__)

SERVICE = GVK("", "v1", "Service")
SLICE = GVK("discovery.k8s.io", "v1", "EndpointSlice")
NAMESPACE = GVK("", "v1", "Namespace")
NAME, HOME = "kube-dns", "kube-system"
MANAGER = "havre-dns"

IP_FREEBIND = 15
RECEIVE_BUFFER = 4 << 20  # bytes: 5,000 waiting questions; the kernel grants what net.core.rmem_max allows
MOST_AT_ONCE = 64  # datagrams per wake-up, 1–3 ms: then others have their turn
MOST_WAITING = 1_000  # questions for the forwarder; more are answered with SERVFAIL
MOST_KEPT = 10_000  # answers ready to send, under 600 bytes each with their question
LONGEST_KEPT = 300  # bytes of a question that is worth keeping
MOST_KNOWN = 4_096  # clients; a pod network of /20 has as many
MOST_CONNECTIONS = 256  # over TCP
IDLE = 10.0  # seconds between two questions of one connection
LONGEST_BACKOFF = 30.0

Sockets = tuple[socket.socket, socket.socket]  # for datagrams, and to listen for connections


@dataclass(frozen=True, slots=True)
class Config:
    """Where the server listens, and what it is the server of."""

    gateway: IPv4Address
    pods: IPv4Network
    services: IPv4Network
    service_ip: str = "10.96.0.10"
    domain: str = "cluster.local"
    port: int = 10053
    resolv_conf: Path = Path("/etc/resolv.conf")


@dataclass(slots=True)
class Counts:
    """What was asked, since the start."""

    kept: int = 0  # sent as they were made
    cluster: int = 0
    cached: int = 0
    forwarded: int = 0
    refused: int = 0


async def run(api: Api, config: Config, *, started: asyncio.Event | None = None) -> None:
    """Serve until cancelled; `started` is set when questions are answered. Raises NetworkError if it cannot listen."""
    server = Server(config)
    await server.open()
    try:
        if started is not None:
            started.set()
        async with asyncio.TaskGroup() as group:
            informers = SharedInformers(api, group)
            publisher = Publisher(api, config)
            follow(server.responder, informers)
            publisher.follow(informers.of(SERVICE), informers.of(SLICE))
            await informers.synced()
            server.responder.ready = True
            await publisher.run()
    finally:
        await server.close()


def follow(responder: Responder, informers: SharedInformers) -> None:
    """The zone hears of every change."""
    zone = responder.zone
    for gvk, put, drop in (
        (NAMESPACE, zone.put_namespace, zone.drop_namespace),
        (SERVICE, zone.put_service, zone.drop_service),
        (SLICE, zone.put_slice, zone.drop_slice),
    ):
        informers.of(gvk).subscribe(_told(put, drop))


def _told(put: Callable[[Obj], None], drop: Callable[[Obj], None]) -> Handlers:
    return Handlers(put, lambda new, _: put(new), drop)


class Responder:
    """Question in, answer out; knows nothing of sockets."""

    def __init__(self, zone: Zone, forwarder: Forwarder) -> None:
        self.zone = zone
        self.forwarder = forwarder
        self.ready = False  # the zone knows everything that the API knew at the start
        self.counts = Counts()
        self._waiting = 0

    def over_udp(self, data: bytes) -> Query | bytes | None:
        """The answer; or the parsed question, if `forwarded` must find it; or None, if nothing is to be said."""
        return self._answer(data, None)

    def over_tcp(self, data: bytes) -> Query | bytes | None:
        return self._answer(data, UNLIMITED)

    async def forwarded(self, query: Query, limit: int) -> bytes:
        """The answer to a question that others must help with."""
        if self._waiting >= MOST_WAITING:
            self.counts.refused += 1
            return reply(query, Answer(SERVFAIL), limit=limit)
        self._waiting += 1
        try:
            self.counts.forwarded += 1
            here = self.zone.answer(query.name, query.kind) if query.klass == IN else None
            found = await (self._chased(query, here) if here is not None else self.forwarder.answer(query))
        finally:
            self._waiting -= 1
        return reply(query, found, limit=limit)

    def _answer(self, data: bytes, limit: int | None) -> Query | bytes | None:
        try:
            query = Query.parse(data)
        except Malformed:
            self.counts.refused += 1
            return refusal(data, FORMERR)
        limit = limit or limit_of(query)
        bad = _unanswerable(query)
        if bad:
            self.counts.refused += 1
            return reply(query, Answer(bad), limit=limit)
        here = self.zone.answer(query.name, query.kind)
        if here is not None:
            return self._from_zone(query, here, limit)
        known = self.forwarder.known(query)
        if known is not None:
            self.counts.cached += 1
            return reply(query, known, limit=limit)
        if self.forwarder.is_probe(query):
            return reply(query, Answer(REFUSED), limit=limit)
        return query

    def _from_zone(self, query: Query, here: Answer, limit: int) -> Query | bytes:
        if not self.ready:
            return reply(query, Answer(SERVFAIL), limit=limit)
        if here.chase:
            return query
        self.counts.cluster += 1
        first = random.randrange(len(here.answers)) if here.movable and here.answers else 0  # noqa: S311 - to share load
        return reply(query, here, limit=limit, first=first)

    async def _chased(self, query: Query, here: Answer) -> Answer:
        """The alias of a Service with an external name, and what is at its end."""
        rcode, records = await self.forwarder.records(here.chase, query.kind)
        return prepare(query.name, rcode, [*self.zone.aliases(query.name), *records])


def _unanswerable(query: Query) -> int:
    """Why a question is not answered at all; 0: it is."""
    if query.opcode:
        return NOTIMP
    if query.edns is not None and query.edns.version > 0:
        return BADVERS
    if query.klass != IN or query.kind in {AXFR, IXFR}:
        return REFUSED
    return 0


class Server:
    """The sockets: one for datagrams, one that listens for connections."""

    def __init__(self, config: Config, forwarder: Forwarder | None = None) -> None:
        self._config = config
        self._kept: dict[bytes, bytes] = {}
        self._known: dict[str, bool] = {}  # address of a client → whether it is one of ours
        zone = Zone(config.domain, (config.pods, config.services), config.service_ip, self._kept.clear)
        ours = (str(config.gateway), config.service_ip)
        self.responder = Responder(zone, forwarder or Forwarder(config.resolv_conf, ours))
        self._udp: socket.socket | None = None
        self._tcp: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0

    @property
    def port(self) -> int:
        """Where it listens, also when the configured port is 0."""
        assert self._udp is not None, "not open"
        port: int = self._udp.getsockname()[1]
        return port

    async def open(self, sockets: Sockets | None = None) -> None:
        """Listen; on sockets that are bound already, if there are any. Raises NetworkError."""
        if sockets is None:
            sockets = await asyncio.to_thread(bound, str(self._config.gateway), self._config.port)
        self._udp, tcp = sockets
        self._tcp = await asyncio.start_server(self._converse, sock=tcp, backlog=128)
        asyncio.get_running_loop().add_reader(self._udp.fileno(), self._read)

    async def close(self) -> None:
        if self._udp is not None:
            asyncio.get_running_loop().remove_reader(self._udp.fileno())
            self._udp.close()
            self._udp = None
        if self._tcp is not None:
            self._tcp.close()
            self._tcp = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.responder.forwarder.close()

    # datagrams

    def _read(self) -> None:
        """Answer what has arrived."""
        udp = self._udp
        assert udp is not None
        receive, send, kept = udp.recvfrom, udp.sendto, self._kept
        for _ in range(MOST_AT_ONCE):
            try:
                data, sender = receive(LONGEST_MESSAGE)
                if not (self._known.get(sender[0]) or self._is_ours(sender[0])):
                    continue
                known = kept.get(data[2:])
                if known is not None:
                    self.responder.counts.kept += 1
                    send(data[:2] + known, sender)
                    continue
                answer = self.responder.over_udp(data)
                if isinstance(answer, bytes):
                    self._keep(data, answer)
                    send(answer, sender)
                elif answer is not None:
                    self._later(self._send_forwarded(answer, sender))
            except BlockingIOError:  # nothing more to read; or no room to send, and the client asks again
                return
            except OSError as error:  # an unreachable client must not stop the others
                log.debug("answer was not sent", extra={"error": str(error)})

    def _is_ours(self, address: str) -> bool:
        """Pods, and this machine, which speaks to the gateway address from that address. A machine that routes to us
        from outside gets no answer: it could be forged, and we would be its amplifier."""
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            asker = IPv4Address(address)
            known = self._known[address] = asker in self._config.pods or asker.is_loopback
        return known

    def _keep(self, data: bytes, answer: bytes) -> None:
        """The same question gets the same answer until the zone changes, if it is the zone's and has one order only."""
        authoritative = len(answer) > 3 and answer[2] & 0x04 and answer[7] < 2
        if authoritative and len(data) <= LONGEST_KEPT:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[data[2:]] = answer[2:]

    async def _send_forwarded(self, query: Query, sender: tuple[str, int]) -> None:
        answer = await self.responder.forwarded(query, limit_of(query))
        if self._udp is not None:
            try:
                self._udp.sendto(answer, sender)
            except OSError as error:
                log.debug("answer was not sent", extra={"error": str(error)})

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # connections

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Questions and answers, one after the other, each behind its length."""
        if not self._is_ours(writer.get_extra_info("peername")[0]):
            writer.transport.abort()
            return
        self._connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while self._connections <= MOST_CONNECTIONS:
                async with asyncio.timeout(IDLE):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    data = await reader.readexactly(size)
                answer = self.responder.over_tcp(data)
                if isinstance(answer, Query):
                    answer = await self.responder.forwarded(answer, UNLIMITED)
                if answer is None:
                    return
                writer.write(len(answer).to_bytes(2, "big") + answer)
                async with asyncio.timeout(IDLE):
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return  # the client left, or sleeps
        finally:
            self._connections -= 1
            self._tasks.discard(task)
            writer.close()


def bound(address: str, port: int) -> Sockets:
    """Both on the same port, whether or not the machine has the address yet. Raises NetworkError."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for one in (udp, tcp):
            one.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        udp.bind((address, port))
        tcp.bind((address, udp.getsockname()[1]))
    except OSError as error:
        udp.close()
        tcp.close()
        raise NetworkError(f"listen for DNS on {address} port {port}: {error.strerror}; choose another port") from error
    return udp, tcp


# the Service


@dataclass(slots=True)
class Publisher:
    """Keeps Service and EndpointSlice kube-dns as they should be."""

    api: Api
    config: Config
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _informers: dict[str, Informer] = field(default_factory=dict)

    def follow(self, services: Informer, slices: Informer) -> None:
        """Any change of ours, by whomever, makes us look again."""

        def look(obj: Obj, *_: Obj) -> None:
            if obj["metadata"]["name"] == NAME and obj["metadata"].get("namespace") == HOME:
                self._wake.set()

        for informer in (services, slices):
            informer.subscribe(Handlers(look, look, look))
            self._informers[informer.gvk.kind] = informer

    async def run(self) -> None:
        """For ever; a failing API is asked again with a growing delay."""
        failures = 0
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.once()
                failures = 0
            except ApiError as error:
                failures += 1
                log.warning("Service kube-system/kube-dns could not be written", extra={"error": str(error)})
                await asyncio.sleep(jittered(backoff(failures, base=0.5, cap=LONGEST_BACKOFF)))
                self._wake.set()

    async def once(self) -> None:
        """Write what differs."""
        for wanted in (service(self.config), endpoints(self.config)):
            informer = self._informers.get(wanted["kind"])
            live = informer.get(Ref.of(wanted)) if informer is not None else None
            if live is None or not covers(live, wanted):
                await self.api.apply(wanted, manager=MANAGER)


def covers(live: object, wanted: object) -> bool:
    """Everything that is wanted is there; what is there besides is not ours to judge."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(key in live and covers(live[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(covers, live, wanted))
    return live == wanted


def service(config: Config) -> Obj:
    """Service kube-dns: port 53, whatever port we listen on."""
    ports = [
        {"name": name, "port": 53, "protocol": protocol, "targetPort": config.port}
        for name, protocol in (("dns", "UDP"), ("dns-tcp", "TCP"))
    ]
    labels = {
        "k8s-app": NAME,
        "kubernetes.io/cluster-service": "true",
        "kubernetes.io/name": "KubeDNS",
    }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": HOME, "labels": labels},
        "spec": {"type": "ClusterIP", "clusterIP": config.service_ip, "ports": ports},
    }


def endpoints(config: Config) -> Obj:
    """EndpointSlice kube-dns: this machine's gateway address."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": NAME,
            "namespace": HOME,
            "labels": {SERVICE_OF: NAME, "endpointslice.kubernetes.io/managed-by": MANAGER},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [str(config.gateway)], "conditions": {"ready": True}}],
        "ports": [
            {"name": name, "protocol": protocol, "port": config.port}
            for name, protocol in (("dns", "UDP"), ("dns-tcp", "TCP"))
        ],
    }
