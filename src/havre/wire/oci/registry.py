"""The client of a registry: resolve names, fetch manifests and blobs, over mirrors, with resume, retries and tokens.

    async with RegistryClient("registry.example", [Endpoint("https://registry.example/v2")], auth) as registry:
        found = await registry.resolve("team/app", "1.2")
        data = (await registry.manifest("team/app", found.digest)).data
        await registry.blob("team/app", layer, writer)

Endpoints are asked in their order; the next is asked when one does not have it or does not answer. 429 and 5xx are
tried again with back-off, a body that breaks off is resumed where it stopped. Everything is checked that can be: sizes,
digests, ranges; the digest of a blob is for the sink to check, which sees all of it.

Source: opencontainers/distribution-spec v1.1; containerd, core/remotes/docker (order of hosts, HEAD before GET, what a
server that ignores Range is good for).
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import re
import ssl as tls
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

import orjson

from havre.kit.backoff import Backoff
from havre.wire.http.client import Client, StreamReply
from havre.wire.http.errors import ConnectFailed, HttpError, ProtocolError, ReplyTooLarge
from havre.wire.http.proxy import proxy_for
from havre.wire.oci.auth import TOKEN_REPLY, Auth, choose, token_of, token_request
from havre.wire.oci.challenge import parse
from havre.wire.oci.digest import Digest, digest_of, is_digest, matches, parse_digest
from havre.wire.oci.documents import MANIFEST_LIMIT, Descriptor
from havre.wire.oci.errors import BadContent, InvalidReference, NotFound, RegistryError, Unauthorized
from havre.wire.oci.media_types import ACCEPT
from havre.wire.oci.reference import is_repository, is_tag
from havre.wire.tls import client_context

ATTEMPTS = 5  # of one request to one endpoint; waits 0.5 + 1 + 2 + 4 s, with up to half of each more
WAIT = Backoff(base=0.5, factor=2.0, cap=30.0, jitter=0.5)
MAX_RETRY_AFTER = 60.0  # seconds; a server that asks for more has failed
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5
HEAD_SECONDS = 30.0  # for connection and head of an answer
STALL_SECONDS = 60.0  # without a byte of a body
MAX_TAGS = 100_000  # of one repository
TAGS_REPLY = 8 * 1024 * 1024
ERROR_REPLY = 64 * 1024
_T = TypeVar("_T")
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(?:\d{1,19}|\*)").fullmatch
_NEXT = re.compile(r"<([^>]{1,4096})>\s*;\s*rel=\"?next\"?")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server that answers for a registry: the registry itself, or a mirror."""

    url: str  # the root of the API: https://host[:port]/v2
    ssl: tls.SSLContext | None = None  # None is the system's authorities
    capabilities: frozenset[str] = frozenset({"pull", "resolve"})
    headers: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)  # for this server only
    trusted: bool = True  # it is the registry itself: its credentials may be sent here


@dataclass(frozen=True, slots=True)
class Fetched:
    """A manifest or an index, verified."""

    descriptor: Descriptor
    data: bytes


class Sink(Protocol):
    """Where a blob goes; a content writer is one."""

    offset: int

    async def write(self, data: bytes) -> None: ...


def is_loopback(host: str) -> bool:
    """Plain HTTP never leaves the machine there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class RegistryClient:
    """Requests about the repositories of one registry. Make it for a pull, close it after."""

    def __init__(
        self,
        registry: str,
        endpoints: Sequence[Endpoint],
        auth: Auth | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.registry = registry
        self.endpoints = tuple(endpoints)
        self._auth = auth if auth is not None and auth.serves(registry) else None
        self._sleep = sleep
        self._chance = chance
        self._clients: dict[tuple[str, int], Client] = {}
        self._authorized: dict[tuple[str, str], str] = {}  # (endpoint, scope) → value of Authorization
        self._buying = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
        self._clients.clear()

    # what one asks of a registry

    async def ping(self) -> None:
        """Something speaks the protocol there. Raises RegistryError."""
        for endpoint in self._able("pull"):
            async with self._reply(endpoint, "GET", "/", "") as reply:
                await self._judge(reply, endpoint, "ping", (200,))
                return

    async def resolve(self, repository: str, target: str) -> Descriptor:
        """What a tag or digest stands for now; the size and type are what the registry says. Raises RegistryError."""
        path, ability = _manifest_path(repository, target)

        async def ask(endpoint: Endpoint) -> Descriptor:
            headers = {"accept": ACCEPT}
            async with self._reply(endpoint, "HEAD", path, _pull(repository), headers) as reply:
                await self._judge(reply, endpoint, f"{repository}:{target}", (200, 404, 405))
                named = _described(reply, target) if reply.status == 200 else None
                missing = reply.status == 404
            if missing:
                raise NotFound(f"{_where(endpoint)} has no manifest {repository}:{target}", status=404)
            return named or (await self._manifest(endpoint, repository, target, path)).descriptor

        return await self._first(ability, f"{repository}:{target}", ask)

    async def manifest(self, repository: str, target: str) -> Fetched:
        """The manifest or index; when `target` is a digest, with that digest. Raises RegistryError."""
        path, ability = _manifest_path(repository, target)

        async def ask(endpoint: Endpoint) -> Fetched:
            return await self._manifest(endpoint, repository, target, path)

        return await self._first(ability, f"{repository}:{target}", ask)

    async def blob(self, repository: str, wanted: Descriptor, sink: Sink, avoid: Collection[Endpoint] = ()) -> Endpoint:
        """Fill `sink` from its offset to the size of the blob; returns who served it. Raises RegistryError."""
        if not is_repository(repository):
            raise InvalidReference(f"repository {repository[:100]!r} breaks the grammar")

        async def ask(endpoint: Endpoint) -> Endpoint:
            await self._blob(endpoint, repository, wanted, sink)
            return endpoint

        return await self._first("pull", f"blob {wanted.digest} of {repository}", ask, avoid)

    async def tags(self, repository: str) -> list[str]:
        """All tags of a repository. Raises RegistryError."""
        if not is_repository(repository):
            raise InvalidReference(f"repository {repository[:100]!r} breaks the grammar")

        async def ask(endpoint: Endpoint) -> list[str]:
            return [tag async for tag in self._tags(endpoint, repository)]

        return await self._first("resolve", f"tags of {repository}", ask)

    # one endpoint

    async def _manifest(self, endpoint: Endpoint, repository: str, target: str, path: str) -> Fetched:
        what = f"manifest {repository}:{target}"
        async with self._reply(endpoint, "GET", path, _pull(repository), {"accept": ACCEPT}) as reply:
            await self._judge(reply, endpoint, what, (200,))
            try:
                data = await _read(reply, MANIFEST_LIMIT)
            except ReplyTooLarge:
                raise BadContent(f"{what}: longer than {MANIFEST_LIMIT} bytes") from None
        announced = reply.headers.get("docker-content-digest", "")
        for digest in (target, announced):
            if is_digest(digest) and not matches(Digest(digest), data):
                raise BadContent(f"{what} from {_where(endpoint)}: its digest is not {digest}")
        name = Digest(target) if is_digest(target) else digest_of(data)
        return Fetched(Descriptor(_media_type(reply), name, len(data)), data)

    async def _blob(self, endpoint: Endpoint, repository: str, wanted: Descriptor, sink: Sink) -> None:
        what = f"blob {wanted.digest} of {repository} from {_where(endpoint)}"
        failures = 0
        while sink.offset < wanted.size:
            before = sink.offset
            try:
                await self._part(endpoint, repository, wanted, sink, what)
            except (HttpError, TimeoutError) as error:
                failures = 0 if sink.offset > before else failures + 1
                if failures == ATTEMPTS:
                    raise RegistryError(f"{what}: it breaks off at byte {sink.offset}: {error}") from error
                await self._sleep(WAIT.delay(failures, self._chance))
            else:
                if sink.offset < wanted.size:
                    raise BadContent(f"{what}: {sink.offset} bytes, the manifest says {wanted.size}")

    async def _part(self, endpoint: Endpoint, repository: str, wanted: Descriptor, sink: Sink, what: str) -> None:
        """From the sink's offset on, as far as one answer goes."""
        start = sink.offset
        headers = {"range": f"bytes={start}-"} if start else {}
        path = f"/{repository}/blobs/{wanted.digest}"
        async with self._reply(endpoint, "GET", path, _pull(repository), headers) as reply:
            await self._judge(reply, endpoint, what, (200, 206))
            skip = start
            if reply.status == 206:
                span = _RANGE(reply.headers.get("content-range", ""))
                if span is None or int(span[1]) != start:
                    raise BadContent(f"{what}: it sent another range than the one from byte {start}")
                skip = 0
            async for chunk in _chunks(reply):
                data, skip = chunk[skip:], max(0, skip - len(chunk))
                if sink.offset + len(data) > wanted.size:
                    raise BadContent(f"{what}: longer than the {wanted.size} bytes of its manifest")
                if data:
                    await sink.write(data)

    async def _tags(self, endpoint: Endpoint, repository: str) -> AsyncIterator[str]:
        path, seen = f"/{repository}/tags/list?n=1000", 0
        while path:
            async with self._reply(endpoint, "GET", path, _pull(repository)) as reply:
                await self._judge(reply, endpoint, f"tags of {repository}", (200,))
                data = await _read(reply, TAGS_REPLY)
            try:
                tags = orjson.loads(data).get("tags") or []
            except (orjson.JSONDecodeError, AttributeError):
                raise BadContent(f"tags of {repository} from {_where(endpoint)}: not a JSON object") from None
            for tag in tags:
                seen += 1
                if seen > MAX_TAGS:
                    raise BadContent(f"tags of {repository}: more than {MAX_TAGS}")
                if isinstance(tag, str) and is_tag(tag):
                    yield tag
            link = _NEXT.search(reply.headers.get("link", ""))
            path = _below(endpoint, link[1]) if link and tags else ""

    # endpoints, in order

    def _able(self, ability: str) -> list[Endpoint]:
        return [endpoint for endpoint in self.endpoints if ability in endpoint.capabilities]

    async def _first(
        self, ability: str, what: str, ask: Callable[[Endpoint], Awaitable[_T]], avoid: Collection[Endpoint] = ()
    ) -> _T:
        """The answer of the first endpoint that has one."""
        failures: list[RegistryError] = []
        for endpoint in self._able(ability):
            if endpoint in avoid:
                continue
            try:
                return await ask(endpoint)
            except RegistryError as error:
                failures.append(error)
            except HttpError as error:
                failures.append(RegistryError(f"{what} from {_where(endpoint)}: {error}"))
        if not failures:
            raise RegistryError(f"{what}: no endpoint of {self.registry} is left that can {ability}")
        last = failures[-1]  # the registry itself comes after its mirrors, so its word counts
        if len(failures) == 1:
            raise last
        raise type(last)("; ".join(map(str, failures)), status=last.status)

    # requests

    @asynccontextmanager
    async def _reply(
        self, endpoint: Endpoint, method: str, path: str, scope: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[StreamReply]:
        """An answer that is neither a redirect nor to be tried again."""
        url = urlsplit(endpoint.url + path)
        for attempt in range(ATTEMPTS):
            async with AsyncExitStack() as stack:
                try:
                    reply = await self._authorize(stack, endpoint, method, url, scope, dict(headers or {}))
                except (ProtocolError, Unauthorized):
                    raise
                except HttpError as error:
                    failure = RegistryError(f"{method} {url.geturl()}: {error}")
                    wait = WAIT.delay(attempt, self._chance)
                    # nobody is there: another endpoint may be, and waiting does not start a server
                    if isinstance(error, ConnectFailed) and attempt:
                        break
                else:
                    if reply.status not in RETRIED:
                        yield reply
                        return
                    failure = RegistryError(f"{method} {url.geturl()}: {reply.status}", status=reply.status)
                    wait = _retry_after(reply) or WAIT.delay(attempt, self._chance)
            if attempt + 1 == ATTEMPTS or wait > MAX_RETRY_AFTER:
                break
            await self._sleep(wait)
        raise failure

    async def _authorize(
        self,
        stack: AsyncExitStack,
        endpoint: Endpoint,
        method: str,
        url: SplitResult,
        scope: str,
        headers: dict[str, str],
    ) -> StreamReply:
        """Ask; when it wants to know who asks, tell it and ask again, once."""
        key = (endpoint.url, scope)
        known = self._authorized.get(key) or self._given(endpoint)
        if known:
            headers["authorization"] = known
        reply, redirected = await self._follow(stack, endpoint, method, url, headers)
        if reply.status != 401 or redirected:  # a stranger's challenge is not answered
            return reply
        async with self._buying:
            bought = self._authorized.get(key)
            if bought is None or bought == known:
                bought = await self._buy(endpoint, reply, scope)
                if not bought or (bought == known and bought.startswith("Basic ")):
                    return reply
                self._authorized[key] = bought
        await stack.aclose()
        headers["authorization"] = bought
        reply, _ = await self._follow(stack, endpoint, method, url, headers)
        return reply

    def _given(self, endpoint: Endpoint) -> str:
        token = self._auth.registry_token if self._auth is not None and endpoint.trusted else ""
        return f"Bearer {token}" if token else ""

    async def _buy(self, endpoint: Endpoint, reply: StreamReply, scope: str) -> str:
        """The value of Authorization that answers the challenge; "" when there is none."""
        auth = self._auth if endpoint.trusted else None
        challenge = choose(parse(reply.headers.get("www-authenticate", "")), auth)
        if challenge is None:
            return ""
        if challenge.scheme == "basic":
            return auth.basic if auth is not None else ""
        request = token_request(challenge, scope, auth, plain=endpoint.url.startswith("http:"))
        url = urlsplit(request.url)
        client = await self._client(endpoint, url)
        bought = await client.request(
            request.method, _target(url), headers=request.headers, body=request.body, limit=TOKEN_REPLY
        )
        if bought.status != 200:
            kind = Unauthorized if bought.status in (400, 401, 403) else RegistryError
            raise kind(
                f"{self.registry}: its token service {url.netloc} answered {bought.status}: {_reason(bought.body)}",
                status=bought.status,
            )
        return f"Bearer {token_of(bought.body, request.url)}"

    async def _follow(
        self, stack: AsyncExitStack, endpoint: Endpoint, method: str, url: SplitResult, headers: Mapping[str, str]
    ) -> tuple[StreamReply, bool]:
        """The answer, and whether another server gave it. Nothing secret follows a redirect to another origin."""
        origin = _origin(url)
        for _ in range(MAX_REDIRECTS + 1):
            at_home = _origin(url) == origin
            fields = {**endpoint.headers, **headers} if at_home else _public(headers)
            client = await self._client(endpoint, url)
            reply = await stack.enter_async_context(
                client.stream(method, _target(url), headers=fields, timeout=HEAD_SECONDS)
            )
            if reply.status not in REDIRECTS:
                return reply, not at_home
            await stack.aclose()
            url = self._next(endpoint, url, reply.headers.get("location", ""))
        raise RegistryError(f"{method} {url.geturl()[:200]}: more than {MAX_REDIRECTS} redirects")

    @staticmethod
    def _next(endpoint: Endpoint, url: SplitResult, location: str) -> SplitResult:
        try:
            found = urlsplit(urljoin(url.geturl(), location))
            usable = bool(location and found.hostname) and found.port != 0 and found.username is None
        except ValueError:
            usable = False
        if not usable or found.scheme not in ("http", "https"):
            raise RegistryError(f"{_where(endpoint)} redirects to {location[:200]!r}, which is not a URL of the web")
        if found.scheme == "http" and not endpoint.url.startswith("http:"):
            raise RegistryError(f"{_where(endpoint)} redirects from https to {found.netloc} without encryption")
        return found

    async def _client(self, endpoint: Endpoint, url: SplitResult) -> Client:
        """Connections to the server of `url`; an authority that is trusted for the endpoint is so for its helpers."""
        context = endpoint.ssl
        foreign = _origin(url) != _origin(urlsplit(endpoint.url))
        if url.scheme == "http" or (foreign and context is not None and context.verify_mode == tls.CERT_NONE):
            context = None
        if context is None and url.scheme == "https":
            context = await _system_context()
        key = (_origin(url), id(context))
        if key not in self._clients:
            proxy = proxy_for(url.hostname or "", url.port or 443)
            self._clients[key] = Client(_origin(url), ssl=context, headers={"user-agent": "havre"}, proxy=proxy)
        return self._clients[key]

    async def _judge(self, reply: StreamReply, endpoint: Endpoint, what: str, fine: Collection[int]) -> None:
        """Raises RegistryError for a status that is not `fine`."""
        if reply.status in fine:
            return
        try:
            text = _reason(await _read(reply, ERROR_REPLY))
        except (HttpError, TimeoutError):
            text = ""
        message = f"{what} from {_where(endpoint)}: {reply.status} {text}".rstrip()
        if reply.status in (401, 403):
            hint = "check the credentials" if self._auth else "credentials are needed, or the repository does not exist"
            raise Unauthorized(f"{message}; {hint}", status=reply.status)
        raise (NotFound if reply.status == 404 else RegistryError)(message, status=reply.status)


_kept: list[tls.SSLContext] = []


async def _system_context() -> tls.SSLContext:
    """Made once, in a thread: reading the authorities of the system takes 20 ms and more."""
    if not _kept:
        _kept.append(await asyncio.to_thread(client_context))
    return _kept[0]


# pure


def _manifest_path(repository: str, target: str) -> tuple[str, str]:
    """The path of a manifest, and what an endpoint must be able to do."""
    if not is_repository(repository):
        raise InvalidReference(f"repository {repository[:100]!r} breaks the grammar")
    if is_tag(target):
        return f"/{repository}/manifests/{target}", "resolve"
    return f"/{repository}/manifests/{parse_digest(target)}", "pull"


def _pull(repository: str) -> str:
    return f"repository:{repository}:pull"


def _origin(url: SplitResult) -> str:
    return f"{url.scheme}://{url.netloc}"


def _target(url: SplitResult) -> str:
    return (url.path or "/") + (f"?{url.query}" if url.query else "")


def _where(endpoint: Endpoint) -> str:
    return urlsplit(endpoint.url).netloc


def _public(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name in ("accept", "range")}


def _below(endpoint: Endpoint, link: str) -> str:
    """The next page as a path below the endpoint; another server's pages are not read."""
    whole = urljoin(endpoint.url + "/", link)
    return whole.removeprefix(endpoint.url) if whole.startswith(endpoint.url + "/") else ""


def _media_type(reply: StreamReply) -> str:
    return reply.headers.get("content-type", "").partition(";")[0].strip()


def _described(reply: StreamReply, target: str) -> Descriptor | None:
    """The descriptor that the head of an answer gives; None when it is not enough."""
    announced = reply.headers.get("docker-content-digest", "")
    length = reply.headers.get("content-length", "")
    if not is_digest(announced) or not (length.isascii() and length.isdigit()) or not _media_type(reply):
        return None
    if is_digest(target) and announced != target:
        raise BadContent(f"manifest {target}: the registry says its digest is {announced}")
    return Descriptor(_media_type(reply), Digest(announced), int(length))


def _retry_after(reply: StreamReply) -> float:
    """Seconds that the server asks to wait; 0.0 when it does not say."""
    value = reply.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0.0


def _reason(body: bytes) -> str:
    """The first error of an answer, short and printable."""
    try:
        error = orjson.loads(body)["errors"][0]
        text = f"{error.get('code', '')} {error.get('message', '')}"
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError):
        text = body[:200].decode(errors="replace")
    return "".join(c if c.isprintable() else " " for c in text[:200]).strip()


async def _chunks(reply: StreamReply) -> AsyncIterator[bytes]:
    """The body; a server that falls silent is given up."""
    body = aiter(reply.chunks)
    while True:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                chunk = await anext(body)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise TimeoutError(f"no byte for {STALL_SECONDS:g} s") from None
        yield chunk


async def _read(reply: StreamReply, limit: int) -> bytes:
    async with asyncio.timeout(STALL_SECONDS):
        return await reply.read(limit)
