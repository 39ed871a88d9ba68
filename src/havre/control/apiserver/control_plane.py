"""Everything of the API server put together: store, cache, kinds, admission and the listener; started and stopped as
one.

plane = ControlPlane(Config(data_dir=Path("/var/lib/havre")))
await plane.start()         # /readyz answers ok when this returns
plane.local                 # the Api of this process, for controllers
await plane.close()
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from havre.api.errors import ApiError, Conflict, NotFound
from havre.api.meta import GVK, Obj
from havre.control.apiserver import authn, bootstrap, builtin, pki, server
from havre.control.apiserver.addresses import Addresses
from havre.control.apiserver.admission.chain import Chain, standard
from havre.control.apiserver.admission.expressions import Expressions
from havre.control.apiserver.admission.match_conditions import MatchConditions
from havre.control.apiserver.admission.rbac_escalation import RoleEscalation
from havre.control.apiserver.admission.served import ServedKinds
from havre.control.apiserver.admission.validating_policies import BINDINGS, GROUP, POLICIES, ValidatingPolicies
from havre.control.apiserver.admission.webhooks import Webhooks
from havre.control.apiserver.authn import Authenticator
from havre.control.apiserver.authz import Authorizer
from havre.control.apiserver.cache import Cache, Entry, Event
from havre.control.apiserver.custom import ACTOR, CustomResources
from havre.control.apiserver.handlers import Handlers
from havre.control.apiserver.local import LocalApi
from havre.control.apiserver.nodes import Nodes
from havre.control.apiserver.objects import MODIFIED, Objects, Options
from havre.control.apiserver.pages import ServedPages
from havre.control.apiserver.pki import Pki
from havre.control.apiserver.resources import Registry, prefix_of
from havre.control.apiserver.service_account_tokens import Tokens
from havre.control.apiserver.subresources import Subresources
from havre.control.apiserver.virtual import VirtualKinds
from havre.control.apiserver.webhook_caller import WebhookCaller
from havre.control.store.log import Store
from havre.lang import jsonpatch
from havre.machinery.admission import User
from havre.wire import tls
from havre.wire.http.server import Server, bound, serve

if TYPE_CHECKING:
    from havre.wire.http.client import Client

log = logging.getLogger(__name__)

ISSUER = "https://kubernetes.default.svc.cluster.local"
_RBAC = "rbac.authorization.k8s.io"
_RBAC_PLURALS = ("clusterroles", "roles", "clusterrolebindings", "rolebindings")


class BadTokenFile(ValueError):
    """The file of static tokens cannot be used."""


@dataclass(frozen=True, slots=True)
class Config:
    """What can be chosen; every path and port, so that several instances live on one machine."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 6443
    advertise: str = ""  # an address that pods reach, where the API listens too; the machine may get it later
    names: tuple[str, ...] = ()  # further addresses and DNS names for the certificate
    node: str = ""  # the node of this machine, which gets a certificate and a kubeconfig; "": there is none
    node_addresses: tuple[str, ...] = ()
    service_cidr: str = "10.96.0.0/16"
    token_file: Path | None = None  # token,user,uid,"group1,group2"
    anonymous: bool = True
    keep_history: float = 300.0  # seconds that superseded objects stay in the log


@dataclass(slots=True)
class ControlPlane:
    """The parts, in the order in which they start."""

    config: Config
    registry: Registry = field(default_factory=Registry)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _ready: bool = False
    _grace: float = 0.0

    pki: Pki = field(init=False)
    cache: Cache = field(init=False)
    objects: Objects = field(init=False)
    local: LocalApi = field(init=False)
    tokens: Tokens = field(init=False)
    server: Server = field(init=False)

    async def start(self) -> None:
        """Serve; returns when /readyz says ok. Raises StoreError, TlsError, OSError; nothing stays open then."""
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()

    async def close(self, grace: float = 3.0) -> None:
        """Stop taking requests, let running ones end, write what is queued, release the data directory."""
        self._ready = False
        self._grace = grace
        await self._stack.aclose()

    async def _stop(self, listener: Server) -> None:
        await listener.close(self._grace)

    @property
    def url(self) -> str:
        host = self.config.host
        return f"https://{f'[{host}]' if ':' in host else host}:{self.server.port}"

    async def _start(self, stack: AsyncExitStack) -> None:
        config = self.config
        config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        store = await asyncio.to_thread(Store.open, config.data_dir / "state.db")
        stack.push_async_callback(store.close)
        self.pki = await asyncio.to_thread(pki.ensure, config.data_dir / "pki", self._names())
        sockets = self._sockets(stack)
        self.cache = cache = Cache(store, keep=config.keep_history)
        await cache.start()
        stack.push_async_callback(cache.close)
        for resource in builtin.resources():
            self.registry.add(resource)
        lister = CacheLister(cache)
        authorizer = self._authorizer()
        self.tokens = tokens = Tokens(ISSUER, self.pki.signing_key, lister.lookup)
        static = await asyncio.to_thread(_static_tokens, config.token_file) if config.token_file else {}
        authenticator = Authenticator(static_tokens=static, service_accounts=tokens, anonymous=config.anonymous)
        addresses = self._addresses()
        admission = self._admission(stack, lister, authorizer)
        self.objects = objects = Objects(cache, admission, addresses)
        custom = CustomResources(self.registry, cache, objects)
        await self._bootstrap(sockets[0].getsockname()[1])
        custom.start()
        stack.push_async_callback(custom.close)
        self.local = LocalApi(self.registry, cache, objects)
        nodes = Nodes(self.registry, cache, self._connector(), self.objects.connected)
        stack.push_async_callback(nodes.close)
        handlers = Handlers(self.registry, cache, objects)
        subresources = Subresources(self.registry, cache, objects, handlers, tokens)
        api = server.ApiServer(
            self.registry,
            handlers,
            subresources,
            nodes,
            authenticator,
            authorizer,
            ServedPages(self.registry, cache, tokens, lambda: self._ready),
            VirtualKinds(authenticator, authorizer, subresources),
        )
        certificate, key = self.pki.server_files
        context = tls.server_context(certificate, key, client_ca=self.pki.ca_file)
        listeners = []
        for sock in sockets:
            listener = await serve(api.handle, sock=sock, ssl=context, on_error=server.protocol_failure)
            listeners.append(listener)
            stack.push_async_callback(self._stop, listener)
        self.server = listeners[0]
        await asyncio.to_thread(self._write_kubeconfigs)
        gc.collect()
        gc.freeze()  # what is loaded now lives as long as the process; later collections need not walk it
        self._ready = True

    def _names(self) -> tuple[str, ...]:
        first = str(ip_network(self.config.service_cidr)[1])
        advertised = (self.config.advertise,) if self.config.advertise else ()
        return (self.config.host, "127.0.0.1", first, *advertised, *self.config.names)

    def _sockets(self, stack: AsyncExitStack) -> list[socket.socket]:
        """Taken before anything is written, so that a second instance or a taken port changes nothing."""
        config = self.config
        sockets = [stack.enter_context(bound(config.host, config.port))]
        if config.advertise not in ("", config.host) and not ip_address(config.host).is_unspecified:
            port = sockets[0].getsockname()[1]
            sockets.append(stack.enter_context(bound(config.advertise, port, early=True)))
        return sockets

    def _write_kubeconfigs(self) -> None:
        config, authority = self.config, self.pki.authority.certificate
        text = pki.kubeconfig(self.url, authority, self.pki.admin)
        tls.write(config.data_dir / "admin.kubeconfig", text.encode(), mode=0o600)
        if not config.node:
            return
        agent = pki.ensure_node(self.pki, config.node, config.node_addresses)
        network = pki.ensure_network(self.pki)
        for name, pair in (("node", agent), ("network", network)):
            text = pki.kubeconfig(self.url, authority, pair, user=tls.read(pair.certificate).subject.common_name)
            tls.write(config.data_dir / f"{name}.kubeconfig", text.encode(), mode=0o600)

    def _authorizer(self) -> Authorizer:
        """RBAC that follows the cache."""
        authorizer = Authorizer(bootstrap.node_rules())

        def deliver(events: Sequence[Event]) -> None:
            for event in events:
                change = authorizer.remove if event.type == "DELETED" else authorizer.upsert
                change(event.entry.decode())

        for plural in _RBAC_PLURALS:
            prefix = prefix_of(_RBAC, plural)
            for entry in self.cache.range(prefix)[0]:
                authorizer.upsert(entry.decode())
            self.cache.watch(prefix, None, deliver)
        return authorizer

    def _addresses(self) -> Addresses:
        addresses = Addresses(self.config.service_cidr)
        prefix = prefix_of("", "services")
        addresses.load(self.cache.range(prefix)[0])
        self.cache.watch(prefix, None, addresses.deliver)
        return addresses

    def _admission(self, stack: AsyncExitStack, lister: CacheLister, authorizer: Authorizer) -> Chain:
        caller = WebhookCaller(lister)
        stack.push_async_callback(caller.close)
        served = ServedKinds(self.registry)
        webhooks = Webhooks(
            lister,
            caller,
            _json_patch,
            conditions=MatchConditions(authorizer),
            equivalents=served.equivalents,
            convert=served.convert,
            complete=served.complete,
        )
        policies = ValidatingPolicies(lister, authorizer, served)

        def deliver(events: Sequence[Event]) -> None:
            for event in events:
                change = policies.remove if event.type == "DELETED" else policies.upsert
                change(event.entry.decode())

        for plural in (POLICIES, BINDINGS):
            prefix = prefix_of(GROUP, plural)
            for entry in self.cache.range(prefix)[0]:
                policies.upsert(entry.decode())
            self.cache.watch(prefix, None, deliver)
        validators = (Expressions(), policies, RoleEscalation(authorizer))
        return standard(lister, authorizer, self._charge, webhooks, validators=validators)

    async def _charge(self, quota: Obj, used: Mapping[str, str]) -> bool:
        """Writes the usage of a quota, unless somebody else has written it since it was read."""
        resource = self.registry.find("", "v1", "resourcequotas")
        meta = quota["metadata"]

        def change(live: Entry) -> Obj:
            obj = live.decode()
            if obj["metadata"]["resourceVersion"] != meta["resourceVersion"]:
                raise Conflict.of("resourcequotas", "", meta["name"], MODIFIED)
            obj.setdefault("status", {})["used"] = dict(used)
            return obj

        options = Options(ACTOR, manager="kube-apiserver")
        try:
            await self.objects.update(resource, meta["namespace"], meta["name"], change, options, subresource="status")
        except (Conflict, NotFound):
            return False
        return True

    async def _bootstrap(self, port: int) -> None:
        """What a new cluster has, and what RBAC regains after somebody removed it."""
        address = self.config.advertise or self.config.host
        wanted = bootstrap.objects(
            bootstrap.Config(
                address,
                port,
                self.config.service_cidr,
                self.pki.authority.certificate.decode(),
            )
        )
        if ip_address(address).is_loopback:  # which no endpoint may be: pods could not reach it
            wanted = [default for default in wanted if default["kind"] not in ("Endpoints", "EndpointSlice")]
        namespaces = [default for default in wanted if default["kind"] == "Namespace"]
        others = [default for default in wanted if default["kind"] != "Namespace"]
        for batch in (namespaces, others):  # what lives in a namespace needs it; a batch is one commit or two
            await asyncio.gather(*map(self._ensure, batch))

    async def _ensure(self, default: Obj) -> None:
        gvk = GVK.of(default)
        resource = self.registry.of_kind(*gvk)
        if resource is None:
            raise NotFound(f"bootstrap {gvk}: this kind is not served")
        meta = default["metadata"]
        namespace, name = meta.get("namespace", ""), meta["name"]
        entry = self.cache.get(resource.key(namespace, name))
        options = Options(ACTOR, manager="kube-apiserver")
        if entry is None:
            await self.objects.create(resource, namespace, default, options)
            return
        changed = bootstrap.reconcile(default, entry.decode())
        if changed is None:
            return
        try:
            await self.objects.update(resource, namespace, name, lambda _live: changed, options)
        except ApiError as e:  # a webhook or a policy of the cluster: it must not keep the cluster from starting
            log.warning("a default object keeps its old state", extra={"object": f"{gvk.kind} {name}", "error": str(e)})

    def _connector(self) -> Callable[[str, bool], Client]:
        """Clients of node agents: our certificate shown, theirs not verified (upstream's default too).

        Pods and services that speak TLS are not verified either, and are not shown who asks.
        """
        pair = self.pki.kubelet_client

        def connect(base: str, agent: bool) -> Client:
            from havre.wire.http.client import Client

            if not base.startswith("https"):
                return Client(base)
            shown = (pair.certificate, pair.key) if agent else (None, None)
            return Client(base, ssl=tls.client_context(certificate=shown[0], key=shown[1], verify=False))

        return connect


def _static_tokens(file: Path) -> dict[str, User]:
    try:
        return authn.parse_token_file(file.read_text())
    except ValueError as e:
        raise BadTokenFile(f"{file}: {e}") from e


class CacheLister:
    """Other objects, for admission and authentication: decoded once per revision, shared, not to be changed."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def lookup(self, resource: str, namespace: str, name: str) -> Obj | None:
        """An object of the core group, for the verification of tokens."""
        return self.get("", resource, namespace, name)

    def get(self, group: str, resource: str, namespace: str, name: str) -> Obj | None:
        entry = self._cache.get(f"{prefix_of(group, resource)}{namespace}/{name}")
        return None if entry is None else _decoded(entry)

    def list(self, group: str, resource: str, namespace: str) -> list[Obj]:
        prefix = prefix_of(group, resource)
        scope = f"{prefix}{namespace}/" if namespace else prefix
        return [_decoded(entry) for entry in self._cache.range(scope)[0]]


def _decoded(entry: Entry) -> Obj:
    if entry.memo is None:
        entry.memo = {}
    obj: Obj | None = entry.memo.get("object")
    if obj is None:
        obj = entry.memo["object"] = entry.decode()
    return obj


def _json_patch(obj: Obj, operations: list[Any]) -> Obj:
    """The patch of a mutating webhook. Raises PatchError, a ValueError."""
    patched: Obj = jsonpatch.apply(obj, jsonpatch.parse(operations))
    return patched
