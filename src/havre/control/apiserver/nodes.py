"""Log, exec, attach, port-forward and proxy: requests that end on a node or in a pod, carried there and back.

The API server answers for who may (authz, admission) and finds the place; the bytes are the node agent's. The agent's
endpoint and paths are those of a kubelet, so a real kubelet can stand behind a Node object too: both new WebSocket
and old SPDY clients are passed through as they are.

Source: k8s.io/kubernetes, pkg/registry/core/pod/strategy.go (LogLocation, ExecLocation, …),
pkg/kubelet/server/server.go, pkg/registry/core/{pod,service,node}/rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

from havre.api.errors import ApiError, BadRequest, InternalError, NotFound, Unavailable
from havre.api.meta import Obj
from havre.control.apiserver import links
from havre.control.apiserver.cache import Cache
from havre.control.apiserver.handlers import Call, not_allowed
from havre.control.apiserver.resources import Registry, Resource
from havre.machinery.admission import User
from havre.wire.http.errors import HttpError, UpgradeRefused
from havre.wire.http.message import Answer, Response, Stream, Tunnel, Upgrade, Writer
from havre.wire.http.tunnel import splice
from havre.wire.streaming.errors import StreamingError
from havre.wire.streaming.output import negotiate_output

if TYPE_CHECKING:
    from havre.wire.http.client import Client, StreamReply

log = logging.getLogger(__name__)

_ADDRESSES = ("InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS")
_STREAMS = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}
_LOG_OPTIONS = ("follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream")
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "content-length"}
)
_NEVER_FORWARDED = _HOP_BY_HOP | {"authorization"}
_NOT_TUNNELED = frozenset({"host", "authorization", "content-length", "connection"})
_NEGOTIATED = ("sec-websocket-", "x-stream-")
_IMPERSONATE = "impersonate-"
_BEARER = "base64url.bearer.authorization.k8s.io."  # subprotocol that carries the token of a browser
_HOST = re.compile(r"[0-9A-Za-z._-]+|[0-9A-Fa-f:.]+").fullmatch
_CLIENTS = 4096  # places that are remembered with their idle connections, before those that are idle are forgotten
_REFUSAL = 50_000  # bytes of an agent's explanation
_HIGH = 1 << 20  # bytes that may wait for a slow reader before we stop reading from the node


Connect = Callable[[str, bool], "Client"]  # base URL; whether to show our client certificate


Admit = Callable[[Resource, str, str, Obj, User, str], Awaitable[None]]
"""What admission says to a connection: (resource, namespace, name, options, user, subresource). Raises ApiError."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes: `base` is `https://10.0.0.1:10250`, `path` what is asked for there, with its query."""

    base: str
    path: str
    agent: bool = True  # a node agent, which sees our client certificate; pods and services never do


class Nodes:
    """Carries requests to node agents (over TLS with our client certificate) and to pods and services (plain)."""

    def __init__(self, registry: Registry, cache: Cache, connect: Connect, admit: Admit) -> None:
        self._admit = admit
        self._registry = registry
        self._cache = cache
        self._connect = connect
        self._clients: dict[tuple[str, bool], Client] = {}
        self._pumps: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for client in self._clients.values():
            await client.close()

    def serves(self, resource: Resource, subresource: str) -> bool:
        return (resource.group, resource.plural, subresource) in _PLACES

    async def serve(self, resource: Resource, call: Call) -> Answer:
        """Raises NotFound, BadRequest, Unavailable."""
        subresource = call.target.subresource
        if subresource == "log" and call.request.method != "GET":
            raise not_allowed()
        place = _PLACES[resource.group, resource.plural, subresource](self, call)
        if subresource != "log":
            body = _connect_options(resource, call)
            await self._admit(resource, call.target.namespace, call.target.name, body, call.user, subresource)
        if "upgrade" in call.request.headers.get("connection", "").lower():
            return await (self._log_messages if subresource == "log" else self._upgrade)(place, call)
        if subresource in ("exec", "attach", "portforward"):
            raise BadRequest("Upgrade request required")
        if subresource == "proxy" and _lacks_slash(call):
            query = f"?{call.request.query}" if call.request.query else ""
            return Response(301, [("location", f"{call.request.path}/{query}")])
        return await self._forward(place, call)

    def _client(self, place: Place) -> Client:
        key = place.base, place.agent
        client = self._clients.get(key)
        if client is None:
            if len(self._clients) >= _CLIENTS:
                self._forget_idle()
            client = self._clients[key] = self._connect(place.base, place.agent)
        return client

    def _forget_idle(self) -> None:
        """Whoever may proxy chooses the port, and every port is a place."""
        for key, client in list(self._clients.items()):
            if client.idle:
                del self._clients[key]
                closing = asyncio.get_running_loop().create_task(client.close())
                self._pumps.add(closing)
                closing.add_done_callback(self._pumps.discard)

    async def _upgrade(self, place: Place, call: Call) -> Answer:
        headers = _forwarded(call, _NOT_TUNNELED)
        try:
            inner = await self._client(place).upgrade(call.request.method, place.path, headers=headers)
        except UpgradeRefused as e:
            kept = [(k, v) for k, v in e.headers.items() if k not in _HOP_BY_HOP]
            return Response(e.status, kept, e.body)
        except HttpError as e:
            raise _unreachable(place, e) from e
        except ValueError as e:
            raise BadRequest(str(e)) from e  # bytes in the path that are not percent-encoded

        async def run(outer: Tunnel) -> None:
            await splice(outer, inner)

        chosen = [(k, v) for k, v in inner.headers.items() if k == "upgrade" or k.startswith(_NEGOTIATED)]
        return Upgrade(chosen, run)

    async def _log_messages(self, place: Place, call: Call) -> Answer:
        """A log as messages of a WebSocket, which end here: the agent knows logs only as plain answers."""
        try:
            output = negotiate_output(call.request)
        except StreamingError as e:
            return e.answer()
        opened, reply = await self._open(place, call)

        async def chunks() -> AsyncGenerator[bytes]:
            try:
                async for chunk in reply.chunks:
                    yield chunk
            finally:
                await opened.__aexit__(None, None, None)

        async def run(tunnel: Tunnel) -> None:
            async with contextlib.aclosing(chunks()) as log_of_container:
                await output.upgrade(log_of_container).run(tunnel)

        return Upgrade(list(output.headers), run)

    async def _forward(self, place: Place, call: Call) -> Answer:
        """A request with an ordinary answer, whose body may never end (logs that are followed)."""
        opened, reply = await self._open(place, call)
        kept = [(k, v) for k, v in reply.headers.items() if k not in _HOP_BY_HOP]
        if call.request.method == "HEAD":
            await opened.__aexit__(None, None, None)
            return Response(reply.status, kept)
        first = b""
        if call.target.subresource == "proxy":
            link = _links(place, call)
            kept = [(k, link(v) if k == "location" else v) for k, v in kept]
            if _is_page(reply):
                first, whole = await _page(opened, reply)
                if whole:
                    return Response(reply.status, kept, links.rewritten(first, link))

        def start(writer: Writer) -> None:
            if first:
                writer.write(first)
            pump = asyncio.get_running_loop().create_task(_pump(opened, reply, writer, place))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)
            writer.on_close = lambda: _cancel(pump)

        return Stream(reply.status, kept, start)

    async def _open(self, place: Place, call: Call) -> tuple[AbstractAsyncContextManager[StreamReply], StreamReply]:
        """The other side's answer, whose body is still to be read. Raises ApiError."""
        headers = _forwarded(call, _NEVER_FORWARDED)
        if call.target.subresource == "proxy" and "text/html" in call.accept:
            headers.pop("accept-encoding", None)  # a page has to be read, to rewrite its links
        request = call.request
        opened = self._client(place).stream(request.method, place.path, headers=headers, body=request.body)
        try:
            reply = await opened.__aenter__()
        except HttpError as e:
            raise _unreachable(place, e) from e
        except ValueError as e:
            raise BadRequest(str(e)) from e
        if place.agent and call.target.subresource == "log" and not 200 <= reply.status <= 206:
            raise await _refusal(opened, reply)
        return opened, reply

    # places

    def _read(self, group: str, plural: str, namespace: str, name: str) -> Obj:
        resource = self._registry.find(group, "v1", plural)
        entry = self._cache.get(resource.key(namespace, name))
        if entry is None:
            raise resource.not_found(name)
        return entry.decode()

    def _node(self, name: str) -> str:
        """`https://address:port` of a node's agent. Raises NotFound, InternalError."""
        status = self._read("", "nodes", "", name).get("status") or {}
        known = {a["type"]: a["address"] for a in status.get("addresses") or ()}
        address = next((known[kind] for kind in _ADDRESSES if kind in known), "")
        if not address:
            raise InternalError.of(f"no preferred addresses found; known addresses: {sorted(known)}")
        port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or 10250
        return f"https://{_host(address)}:{port}"

    def _pod(self, call: Call) -> tuple[Obj, str]:
        """The pod and its node's endpoint. Raises NotFound, BadRequest."""
        target = call.target
        pod = self._read("", "pods", target.namespace, target.name)
        node = pod["spec"].get("nodeName")
        if not node:
            raise BadRequest(f"pod {target.name} does not have a host assigned")
        return pod, self._node(node)

    def log(self, call: Call) -> Place:
        pod, base = self._pod(call)
        container = container_of(pod, call.params.get("container", ""))
        query = urlencode({k: call.params[k] for k in _LOG_OPTIONS if k in call.params})
        path = f"/containerLogs/{_pod_path(pod)}/{quote(container)}"
        return Place(base, f"{path}?{query}" if query else path)

    def exec(self, call: Call) -> Place:
        return self._streams(call, "exec")

    def attach(self, call: Call) -> Place:
        return self._streams(call, "attach")

    def _streams(self, call: Call, verb: str) -> Place:
        pod, base = self._pod(call)
        container = container_of(pod, call.params.get("container", ""))
        pairs = [(theirs, "1") for ours, theirs in _STREAMS.items() if call.params.get(ours) in ("true", "1")]
        if not pairs:
            raise BadRequest("you must specify at least 1 of stdin, stdout, stderr")
        commands = call.request.query.split("&") if verb == "exec" else []
        query = "&".join([urlencode(pairs), *(part for part in commands if part.startswith("command="))])
        return Place(base, f"/{verb}/{_pod_path(pod)}/{quote(container)}?{query}")

    def port_forward(self, call: Call) -> Place:
        pod, base = self._pod(call)
        query = urlencode({"port": call.params["ports"]}) if call.params.get("ports") else ""
        path = f"/portForward/{_pod_path(pod)}"
        return Place(base, f"{path}?{query}" if query else path)

    def node_proxy(self, call: Call) -> Place:
        name, _, port = call.target.name.partition(":")
        base = self._node(name)
        host, _, own = base.rpartition(":")
        if not port or port == own:
            return Place(base, _tail(call))
        return Place(f"{host}:{_number(port)}", _tail(call), agent=False)  # who knows who listens there

    def pod_proxy(self, call: Call) -> Place:
        scheme, name, port = split_name(call.target.name)
        pod = self._read("", "pods", call.target.namespace, name)
        address = (pod.get("status") or {}).get("podIP")
        if not address:
            raise NotFound(f"address not allowed: pod {name} has no address yet", details={})
        ports = (p for c in pod["spec"]["containers"] for p in c.get("ports") or ())
        number = _number(port) if port else next((str(p["containerPort"]) for p in ports), "80")
        return Place(f"{scheme}://{_host(address)}:{number}", _tail(call), agent=False)

    def service_proxy(self, call: Call) -> Place:
        scheme, name, port = split_name(call.target.name)
        namespace = call.target.namespace
        service = self._read("", "services", namespace, name)
        slices = self._registry.find("discovery.k8s.io", "v1", "endpointslices")
        entries, _ = self._cache.range(slices.scope(namespace))
        wanted = _service_port(service, port)
        for entry in entries:
            if entry.labels.get("kubernetes.io/service-name") != name:
                continue
            if place := _endpoint(entry.decode(), wanted):
                return Place(f"{scheme}://{place}", _tail(call), agent=False)
        raise Unavailable(f'no endpoints available for service "{call.target.name}"')


_PLACES: Mapping[tuple[str, str, str], Callable[[Nodes, Call], Place]] = {
    ("", "pods", "log"): Nodes.log,
    ("", "pods", "exec"): Nodes.exec,
    ("", "pods", "attach"): Nodes.attach,
    ("", "pods", "portforward"): Nodes.port_forward,
    ("", "pods", "proxy"): Nodes.pod_proxy,
    ("", "services", "proxy"): Nodes.service_proxy,
    ("", "nodes", "proxy"): Nodes.node_proxy,
}


_OPTIONS = {"exec": "PodExecOptions", "attach": "PodAttachOptions", "portforward": "PodPortForwardOptions"}


def _connect_options(resource: Resource, call: Call) -> Obj:
    """What a connection asks for, as the object that webhooks see."""
    subresource, params = call.target.subresource, call.params
    body: Obj = {"kind": _OPTIONS.get(subresource, f"{resource.kind.kind}ProxyOptions"), "apiVersion": "v1"}
    if subresource == "proxy":
        return {**body, "path": _tail(call).partition("?")[0]}
    if subresource == "portforward":
        ports = params.get("ports", "").split(",")
        return {**body, "ports": [int(port) for port in ports if port.isascii() and port.isdigit()]}
    body |= {name: True for name in _STREAMS if params.get(name) in ("true", "1")}
    if params.get("container"):
        body["container"] = params["container"]
    if commands := [value for key, value in parse_qsl(call.request.query) if key == "command"]:
        body["command"] = commands
    return body


def container_of(pod: Obj, asked: str) -> str:
    """The container that a request means. Raises BadRequest in upstream's words."""
    name, spec = pod["metadata"]["name"], pod["spec"]
    names = [c["name"] for c in spec.get("containers") or ()]
    inits = [c["name"] for c in spec.get("initContainers") or ()]
    ephemeral = [c["name"] for c in spec.get("ephemeralContainers") or ()]
    if not asked:
        default = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
        if default in names:
            return str(default)
        if len(names) == 1:
            return str(names[0])
        also = f" or one of the init containers: [{' '.join(inits)}]" if inits else ""
        raise BadRequest(f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]{also}")
    if asked not in (*names, *inits, *ephemeral):
        raise BadRequest(f"container {asked} is not valid for pod {name}")
    return asked


def split_name(text: str) -> tuple[str, str, str]:
    """Scheme, name and port of `name`, `name:port` or `https:name:port`. Raises BadRequest."""
    parts = text.split(":")
    match parts:
        case [name]:
            return "http", name, ""
        case [name, port]:
            return "http", name, port
        case [("http" | "https" | "") as scheme, name, port]:
            return scheme or "http", name, port
    raise BadRequest(f"invalid service request {text!r}: expected name, name:port or scheme:name:port")


def _number(port: str) -> str:
    """A port, and nothing that would make another host of an address (`80@elsewhere`). Raises BadRequest."""
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
        raise BadRequest(f"invalid port {port!r}: expected a number from 1 to 65535")
    return str(int(port))


def _service_port(service: Obj, wanted: str) -> str:
    """The name of the service's port, as its EndpointSlices call it."""
    ports = (service.get("spec") or {}).get("ports") or ()
    for port in ports:
        if not wanted or wanted in (port.get("name"), str(port["port"])):
            return str(port.get("name") or "")
    raise Unavailable(f"no service port {wanted!r} found for service {service['metadata']['name']!r}")


def _endpoint(piece: Obj, port_name: str) -> str:
    number = next((p["port"] for p in piece.get("ports") or () if (p.get("name") or "") == port_name), None)
    for endpoint in piece.get("endpoints") or ():
        if number and (endpoint.get("conditions") or {}).get("ready", True):
            return f"{_host(endpoint['addresses'][0])}:{number}"
    return ""


def _host(address: str) -> str:
    """As a URL wants it. Raises BadRequest for what is neither an IP nor a DNS name: objects hold any text."""
    if _HOST(address) is None:
        raise BadRequest(f"address not allowed: {address!r} is neither an IP address nor a host name")
    return f"[{address}]" if ":" in address else address


def _pod_path(pod: Obj) -> str:
    return f"{quote(pod['metadata']['namespace'])}/{quote(pod['metadata']['name'])}"


def _tail(call: Call) -> str:
    """The path on the other side, as it was encoded by the client."""
    before = 7 if call.target.namespace else 5  # segments of /api/v1[/namespaces/NS]/PLURAL/NAME/proxy
    rest = call.request.path.split("/", before + 1)[before + 1 :]
    path = f"/{rest[0]}" if rest else "/"
    return f"{path}?{call.request.query}" if call.request.query else path


def _forwarded(call: Call, kept_back: frozenset[str]) -> dict[str, str]:
    """The client's headers without what is meant for this server alone."""
    headers = call.request.headers
    kept = {k: v for k, v in headers.items() if k not in kept_back and not k.startswith(_IMPERSONATE)}
    if _BEARER in (offered := kept.get("sec-websocket-protocol", "")):
        protocols = (p.strip() for p in offered.split(","))
        kept["sec-websocket-protocol"] = ", ".join(p for p in protocols if not p.startswith(_BEARER))
    return kept


def _lacks_slash(call: Call) -> bool:
    """Is it the page of a pod, asked for so that its relative links would lead beside it?"""
    path = call.request.path
    return call.request.method in ("GET", "HEAD") and path.endswith("/proxy") and _tail(call).partition("?")[0] == "/"


def _links(place: Place, call: Call) -> Callable[[str], str]:
    """How a link of the other side is written for this client."""
    path, tail = call.request.path, _tail(call).partition("?")[0]
    prefix = path.removesuffix(tail)
    return partial(
        links.through, prefix=prefix, target=place.base.partition("://")[2], asked=call.request.headers.get("host", "")
    )


def _is_page(reply: StreamReply) -> bool:
    kind = reply.headers.get("content-type", "").partition(";")[0].strip()
    return kind == "text/html" and "location" not in reply.headers and not reply.headers.get("content-encoding")


async def _page(opened: AbstractAsyncContextManager[StreamReply], reply: StreamReply) -> tuple[bytes, bool]:
    """What has come of a page, and whether that is all; if so, the answer is closed. Raises ApiError."""
    parts, size = [], 0
    try:
        async for chunk in reply.chunks:
            parts.append(chunk)
            size += len(chunk)
            if size > links.PAGE_LIMIT:
                return b"".join(parts), False
    except HttpError as e:
        await opened.__aexit__(None, None, None)
        raise InternalError.of(f"the page broke off: {e}") from e
    await opened.__aexit__(None, None, None)
    return b"".join(parts), True


def _unreachable(place: Place, error: Exception) -> ApiError:
    return InternalError.of(f"error dialing backend: {place.base}: {error}")


async def _refusal(opened: AbstractAsyncContextManager[StreamReply], reply: StreamReply) -> ApiError:
    """What an agent says in plain text, as the API says it.

    Source: k8s.io/apiserver, pkg/registry/generic/rest/response_checker.go.
    """
    try:
        text = (await reply.read(_REFUSAL)).decode(errors="replace")
    except HttpError as e:
        text = str(e)
    finally:
        await opened.__aexit__(None, None, None)
    if reply.status == 400:
        return BadRequest(text)
    return NotFound(text) if reply.status == 404 else InternalError.of(text)


async def _pump(
    opened: AbstractAsyncContextManager[StreamReply], reply: StreamReply, writer: Writer, place: Place
) -> None:
    """Carry the body of `reply` to the client; cancelled when the client goes away."""
    try:
        async for chunk in reply.chunks:
            writer.write(chunk)
            if writer.buffered > _HIGH:
                await writer.drain()
        writer.close()
    except HttpError as e:
        log.info("a carried answer broke off: %s: %s", place.base, e)
        writer.abort()
    finally:
        await opened.__aexit__(None, None, None)


def _cancel(pump: asyncio.Task[None]) -> None:
    pump.cancel()
