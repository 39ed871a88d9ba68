"""An API server without a socket: store, cache, admission and verbs on a temporary directory, shared by a module.

Tests take a namespace of their own (`namespace`), so that one server serves them all.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from havre.api.meta import Obj
from havre.control.apiserver import bootstrap, builtin
from havre.control.apiserver.addresses import Addresses
from havre.control.apiserver.admission.chain import Chain, standard
from havre.control.apiserver.admission.served import ServedKinds
from havre.control.apiserver.admission.webhooks import Webhooks
from havre.control.apiserver.authn import Authenticator, parse_token_file
from havre.control.apiserver.authz import Authorizer
from havre.control.apiserver.cache import Cache
from havre.control.apiserver.control_plane import CacheLister, _json_patch
from havre.control.apiserver.custom import CustomResources
from havre.control.apiserver.handlers import Handlers
from havre.control.apiserver.local import LocalApi
from havre.control.apiserver.nodes import Nodes
from havre.control.apiserver.objects import Objects
from havre.control.apiserver.pages import ServedPages
from havre.control.apiserver.resources import Registry, prefix_of
from havre.control.apiserver.server import ApiServer
from havre.control.apiserver.service_account_tokens import Tokens
from havre.control.apiserver.subresources import Subresources
from havre.control.apiserver.virtual import VirtualKinds
from havre.control.apiserver.webhook_caller import WebhookCaller
from havre.control.store.log import Store
from havre.machinery.admission import SUPERUSERS
from havre.wire import tls
from havre.wire.http.client import Client
from havre.wire.http.message import Answer, Request, Response, Stream

TOKENS = f'root-token,root,1,"{SUPERUSERS}"\nbob-token,bob,2,"dev"\n'
_RBAC = "rbac.authorization.k8s.io"
_counter = itertools.count(1)


@dataclass
class Reply:
    """An answer as a client reads it."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json()["message"])


@dataclass
class Sink:
    """The open end of a stream that a test reads; counts as slow as `held` says."""

    chunks: list[bytes] = field(default_factory=list)
    on_close: Callable[[], None] | None = None
    closed: bool = False
    aborted: bool = False
    held: int = 0
    more: asyncio.Event = field(default_factory=asyncio.Event)
    taken: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def buffered(self) -> int:
        return self.held

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.chunks.append(data)
            self.more.set()

    async def drain(self) -> None:
        await self.taken.wait()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.more.set()
            if self.on_close:
                self.on_close()

    def abort(self) -> None:
        self.aborted = True
        self.close()

    @property
    def text(self) -> str:
        return b"".join(self.chunks).decode()

    @property
    def events(self) -> list[tuple[str, Obj]]:
        return [(e["type"], e["object"]) for e in map(orjson.loads, self.text.splitlines())]

    async def until(self, count: int) -> list[tuple[str, Obj]]:
        """The events once there are `count` of them."""
        async with asyncio.timeout(5):
            while len(self.events) < count:
                self.more.clear()
                await self.more.wait()
        return self.events


@dataclass
class Plane:
    """What `ControlPlane` puts together, without certificates and a listener."""

    registry: Registry
    cache: Cache
    objects: Objects
    local: LocalApi
    api: ApiServer
    addresses: Addresses
    admission: Chain
    nodes: Nodes
    authorizer: Authorizer
    custom: CustomResources

    async def ask(
        self,
        method: str,
        url: str,
        body: Any = None,
        *,
        user: str = "root",
        headers: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Reply:
        """One request, answered whole."""
        answer = await self.answer(method, url, body, user=user, headers=headers, content_type=content_type)
        assert isinstance(answer, Response)
        whole = answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
        return Reply(answer.status, dict(answer.headers), whole)

    async def answer(
        self,
        method: str,
        url: str,
        body: Any = None,
        *,
        user: str = "root",
        headers: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Answer:
        path, _, query = url.partition("?")
        raw = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        head = {"user-agent": "test/1.0", **({"authorization": f"Bearer {user}-token"} if user else {})}
        if raw:
            head["content-type"] = content_type
        request = Request(method, path, query, {**head, **(headers or {})}, raw, None, "127.0.0.1", "HTTP/1.1")
        reply = self.api.handle(request)
        return reply if isinstance(reply, Response | Stream) or not hasattr(reply, "__await__") else await reply

    async def watch(self, url: str, sink: Sink | None = None, **options: Any) -> Sink:
        """An open watch; close the sink at the end."""
        answer = await self.answer("GET", url, **options)
        assert isinstance(answer, Stream)
        sink = sink or Sink()
        answer.start(sink)
        return sink

    async def make(self, url: str, body: Obj, **options: Any) -> Obj:
        reply = await self.ask("POST", url, body, **options)
        assert reply.status == 201, reply.body
        made: Obj = reply.json()
        return made


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Plane]:
    cache = Cache(Store.open(directory / "state.db"))
    await cache.start()
    registry = Registry()
    for resource in builtin.resources():
        registry.add(resource)
    lister = CacheLister(cache)
    authorizer = Authorizer(bootstrap.node_rules())

    def follow(events: Any) -> None:
        for event in events:
            change = authorizer.remove if event.type == "DELETED" else authorizer.upsert
            change(event.entry.decode())

    for plural in ("clusterroles", "roles", "clusterrolebindings", "rolebindings"):
        cache.watch(prefix_of(_RBAC, plural), None, follow)
    tokens = Tokens("https://issuer.example", tls.new_signing_key(), lister.lookup)
    authenticator = Authenticator(static_tokens=parse_token_file(TOKENS), service_accounts=tokens, anonymous=True)
    addresses = Addresses("10.96.0.0/24")
    cache.watch(prefix_of("", "services"), None, addresses.deliver)

    async def charge(quota: Obj, used: Mapping[str, str]) -> bool:
        return True

    caller = WebhookCaller(lister)
    webhooks = Webhooks(lister, caller, _json_patch, complete=ServedKinds(registry).complete)
    admission = standard(lister, authorizer, charge, webhooks)
    objects = Objects(cache, admission, addresses)
    custom = CustomResources(registry, cache, objects)
    custom.start()
    nodes = Nodes(registry, cache, lambda base, _agent: Client(base.replace("https:", "http:")), objects.connected)
    handlers = Handlers(registry, cache, objects)
    subresources = Subresources(registry, cache, objects, handlers, tokens)
    api = ApiServer(
        registry,
        handlers,
        subresources,
        nodes,
        authenticator,
        authorizer,
        ServedPages(registry, cache, tokens, lambda: True),
        VirtualKinds(authenticator, authorizer, subresources),
    )
    local = LocalApi(registry, cache, objects)
    try:
        yield Plane(registry, cache, objects, local, api, addresses, admission, nodes, authorizer, custom)
    finally:
        await nodes.close()
        await custom.close()
        await caller.close()
        await cache.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plane]:
    """One server for all tests of a module; they mark themselves `asyncio(loop_scope="module")`."""
    async with running(tmp_path_factory.mktemp("plane")) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def namespace(plane: Plane) -> str:
    """A namespace that no other test has, with its default service account."""
    name = f"test-{next(_counter)}"
    await plane.make("/api/v1/namespaces", {"metadata": {"name": name}})
    await plane.make(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})
    return name


@pytest.fixture
def sink() -> Sink:
    """The open end of a stream."""
    return Sink()
