"""The agent's HTTPS endpoint: the paths of a kubelet, for the API server, metrics collectors and people with rights.

    /containerLogs/{ns}/{pod}/{container}                         logs
    /exec · /attach · /run /{ns}/{pod}[/{uid}]/{container}        streams, and a command with its output
    /portForward/{ns}/{pod}[/{uid}]
    /pods  /runningpods/  /healthz  /stats/summary  /metrics  /metrics/resource  /metrics/cadvisor  /metrics/probes

Who asks shows a client certificate of the cluster's authority, or a bearer token that `authenticate` knows; then
`authorize` decides by verb and subresource of the node, as a kubelet asks it (SubjectAccessReview). Nothing is answered
without both. Errors are plain text in the kubelet's words.

Source: k8s.io/kubernetes, pkg/kubelet/server/{server,auth}.go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import parse_qs, unquote

import orjson

from havre.api.errors import ApiError
from havre.api.meta import Obj
from havre.node.agent import exposition, logs, stats
from havre.node.agent.cri import Container, ContainerStatus, Executed, RuntimeFault, Sandbox, State
from havre.node.agent.streams import Streams, Wanted, passed_on
from havre.wire import tls
from havre.wire.http.errors import HttpError
from havre.wire.http.message import Answer, Request, Response, Stream, Writer
from havre.wire.http.server import Server
from havre.wire.http.server import serve as listen

log = logging.getLogger(__name__)

HELD: Final = 1 << 20  # bytes of a log that may wait for a slow reader before the file is read on
RUN_SECONDS: Final = 120.0  # of a command behind /run
ADMITTED: Final = 10.0  # seconds that a yes of `authorize` or `authenticate` is kept; a kubelet keeps it 5 minutes
KEPT: Final = 1024  # of them
_VERBS: Final = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_TEXT: Final = ("content-type", "text/plain; charset=utf-8")
_JSON: Final = ("content-type", "application/json")


@dataclass(frozen=True, slots=True)
class User:
    """Who asks."""

    name: str
    groups: tuple[str, ...] = ()


# `reviews.Reviews` has both; they may raise ApiError.
Authenticate = Callable[[str], Awaitable[User | None]]  # of a bearer token
Authorize = Callable[[User, str, str], Awaitable[bool]]  # user, verb, subresource of the node: "proxy", "metrics", …


class PodLookup(Protocol):
    """The pods of this node as the agent knows them, with their newest status."""

    def find(self, namespace: str, name: str) -> Obj | None: ...

    def pods(self) -> Sequence[Obj]: ...


class Containers(Protocol):
    """What is asked of the runtime; the agent's `CriClient` has it. Everything raises RuntimeFault."""

    async def sandboxes(self, uid: str = "") -> list[Sandbox]: ...

    async def containers(self, uid: str = "") -> list[Container]: ...

    async def container_status(self, id: str) -> ContainerStatus: ...

    async def execute(self, id: str, command: Sequence[str], timeout: float) -> Executed: ...


class Look(Protocol):
    """What is used now; `stats.Observer` has it."""

    async def look(self) -> stats.Reading: ...


class Refused(Exception):
    """The answer is this status and text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Endpoint:
    """Answers the requests; `serve` opens the listener for it."""

    node: str
    pods: PodLookup
    containers: Containers
    streams: Streams
    observer: Look
    authorize: Authorize
    authenticate: Authenticate | None = None
    version: str = "v1.34.4"
    _pumps: set[asyncio.Task[None]] = field(default_factory=set)
    _decisions: dict[object, tuple[float, User | bool | None]] = field(default_factory=dict)

    async def answer(self, request: Request) -> Answer:
        try:
            await self._admit(request)
            return await self._route(request)
        except (Refused, logs.LogError) as e:
            return Response(e.status, [_TEXT], str(e).encode())
        except RuntimeFault as e:
            status = {"NOT_FOUND": 404, "RESOURCE_EXHAUSTED": 429}.get(e.code, 500)
            return Response(status, [_TEXT], str(e).encode())
        except ApiError as e:
            return Response(500, [_TEXT], f"the API server was asked who may do this: {e}".encode())
        except HttpError as e:
            return Response(500, [_TEXT], f"error dialing the runtime: {e}".encode())

    async def close(self) -> None:
        """End the logs that are followed."""
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    # who may

    async def _admit(self, request: Request) -> None:
        user = await self._user(request)
        if user is None:
            raise Refused(401, "Unauthorized")
        verb, subresources = verb_of(request.method, request.path), subresources_of(request.path)
        for subresource in subresources:
            if await self._decided((user, verb, subresource), partial(self.authorize, user, verb, subresource)):
                return
        asked = f"user={user.name}, verb={verb}, resource=nodes, subresource(s)={list(subresources)}"
        raise Refused(403, f"Forbidden ({asked})")

    async def _user(self, request: Request) -> User | None:
        if request.peer is not None:
            return User(request.peer.common_name, request.peer.organizations)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token or self.authenticate is None:
            return None
        found = await self._decided(token, partial(self.authenticate, token))
        return found if isinstance(found, User) else None

    async def _decided(self, key: object, ask: Callable[[], Awaitable[User | bool | None]]) -> User | bool | None:
        """A scrape every few seconds need not ask the API server every time; what is refused is asked again."""
        now = asyncio.get_running_loop().time()
        until, decision = self._decisions.get(key, (0.0, None))
        if now < until:
            return decision
        decision = await ask()
        if decision:
            if len(self._decisions) >= KEPT:
                self._decisions.clear()
            self._decisions[key] = now + ADMITTED, decision
        return decision

    # what is there

    async def _route(self, request: Request) -> Answer:
        path = [unquote(part) for part in request.path.strip("/").split("/")]
        match path:
            case ["healthz" | "livez" | "readyz"] | ["healthz", "ping" | "log" | "syncloop"]:
                return Response(200, [_TEXT], b"ok")
            case ["pods"]:
                return _json(_pod_list(self.pods.pods()))
            case ["runningpods"]:
                return _json(_pod_list([pod for pod in self.pods.pods() if _runs(pod)]))
            case ["stats", "summary"]:
                return await self._summary(request)
            case ["metrics"] | ["metrics", "resource" | "cadvisor" | "probes"]:
                return await self._metrics(path[-1])
            case ["containerLogs", namespace, name, container] if request.method == "GET":
                return await self._logs(request, namespace, name, container)
            case ["exec" | "attach" | "run" as kind, namespace, name, container]:
                return await self._command(request, kind, self._pod(namespace, name), container)
            case ["exec" | "attach" | "run" as kind, namespace, name, uid, container]:
                return await self._command(request, kind, self._pod(namespace, name, uid), container)
            case ["portForward", namespace, name]:
                return await self._port_forward(request, self._pod(namespace, name))
            case ["portForward", namespace, name, uid]:
                return await self._port_forward(request, self._pod(namespace, name, uid))
        raise Refused(404, "404 page not found")

    def _pod(self, namespace: str, name: str, uid: str = "") -> Obj:
        pod = self.pods.find(namespace, name)
        if pod is None:
            raise Refused(404, "pod does not exist")
        if uid and pod["metadata"]["uid"] != uid:
            raise Refused(404, "pod not found")
        return pod

    async def _logs(self, request: Request, namespace: str, name: str, container: str) -> Answer:
        options = logs.Options.of(parse_qs(request.query, keep_blank_values=True), datetime.now(UTC))
        pod = self.pods.find(namespace, name)
        if pod is None:
            raise Refused(404, f'pod "{name}" does not exist')
        id = logs.container_id(pod, container, previous=options.previous)
        try:
            path = Path((await self.containers.container_status(id)).log_path)
        except RuntimeFault as e:
            raise Refused(400, f"unable to retrieve container logs for containerd://{id}") from e
        try:
            await asyncio.to_thread(path.stat)
        except OSError as e:
            raise Refused(400, f'failed to open log file "{path}": {e.strerror}') from e
        pieces = logs.read(path, options, partial(self._still_runs, id))
        return Stream(200, [_TEXT], partial(self._start_log, pieces))

    async def _still_runs(self, id: str) -> bool:
        """A runtime that does not answer is being restarted, and its containers go on."""
        try:
            return (await self.containers.container_status(id)).state == State.RUNNING
        except RuntimeFault as e:
            return e.code == "UNAVAILABLE"

    def _start_log(self, pieces: logs.Pieces, writer: Writer) -> None:
        pump = asyncio.get_running_loop().create_task(_pump(pieces, writer))
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)
        writer.on_close = lambda: _cancel(pump)

    async def _command(self, request: Request, kind: str, pod: Obj, container: str) -> Answer:
        query = parse_qs(request.query, keep_blank_values=True)
        wanted = wanted_of(query)
        if kind != "run" and not (wanted.stdin or wanted.stdout or wanted.stderr):
            raise Refused(400, "you must specify at least 1 of stdin, stdout, stderr")
        id = await self._running(pod, container)
        if kind == "run":
            done = await self.containers.execute(id, query.get("cmd", [""])[0].split(" "), RUN_SECONDS)
            if done.exit_code:
                raise Refused(
                    500, f"command exited with {done.exit_code}: {(done.stdout + done.stderr).decode(errors='replace')}"
                )
            return Response(200, [_TEXT], done.stdout + done.stderr)
        if kind == "exec":
            url = await self.streams.exec_url(id, query.get("command", []), wanted)
        else:
            url = await self.streams.attach_url(id, wanted)
        return await passed_on(request, url)

    async def _running(self, pod: Obj, name: str) -> str:
        found = await self.containers.containers(pod["metadata"]["uid"])
        running = [c for c in found if c.name == name and c.state == State.RUNNING]
        if not running:
            raise Refused(500, f'container not found ("{name}")')
        return max(running, key=lambda c: c.created).id

    async def _port_forward(self, request: Request, pod: Obj) -> Answer:
        sandboxes = [s for s in await self.containers.sandboxes(pod["metadata"]["uid"]) if s.ready]
        if not sandboxes:
            meta = pod["metadata"]
            raise Refused(500, f'pod not found ("{meta["name"]}_{meta["namespace"]}")')
        newest = max(sandboxes, key=lambda s: s.created)
        ports = [int(p) for p in parse_qs(request.query).get("port", []) if p.isascii() and p.isdigit() and len(p) < 6]
        url = await self.streams.port_forward_url(newest.id, ports)
        if request.query and "?" not in url:
            url = f"{url}?{request.query}"  # the old WebSocket protocol has its ports there
        return await passed_on(request, url)

    async def _summary(self, request: Request) -> Answer:
        brief = parse_qs(request.query).get("only_cpu_and_memory", [""])[0] == "true"
        reading = await self.observer.look()
        return _json(stats.summary(reading, self.node, self.pods.pods(), only_cpu_and_memory=brief))

    async def _metrics(self, kind: str) -> Answer:
        if kind == "probes":
            return Response(200, [("content-type", exposition.CONTENT_TYPE)], b"")
        pods = self.pods.pods()
        try:
            reading = await self.observer.look()
        except RuntimeFault as e:
            if kind == "cadvisor":
                raise
            log.warning("no stats of pods for the metrics", extra={"why": str(e)})
            reading = None
        if kind == "resource":
            body = exposition.resource(reading, pods)
        elif kind == "cadvisor":
            assert reading is not None
            body = exposition.cadvisor(reading, pods)
        else:
            body = exposition.agent(self.node, self.version, pods, reading)
        return Response(200, [("content-type", exposition.CONTENT_TYPE)], body)


async def serve(endpoint: Endpoint, *, host: str, port: int, certificate: Path, key: Path, client_ca: Path) -> Server:
    """Listen with TLS; close the server, then the endpoint. Raises OSError, TlsError."""
    context = tls.server_context(certificate, key, client_ca=client_ca)
    return await listen(endpoint.answer, host=host, port=port, ssl=context)


def verb_of(method: str, path: str) -> str:
    """A command in a pod is never a mere `get`: a WebSocket begins with GET, and collectors of metrics may get all."""
    first = unquote(path.strip("/").partition("/")[0])  # as the path is read when the request is carried out
    return "create" if first in _ACTS else _VERBS.get(method, "")


def subresources_of(path: str) -> tuple[str, ...]:
    """Of the node, any of which admits: `/stats/summary` is nodes/stats, what nothing else fits is nodes/proxy."""

    def below(prefix: str) -> bool:
        return path == prefix or path.startswith(prefix.rstrip("/") + "/")

    fine = next((name for prefix, name in _FINE if below(prefix)), None)
    coarse = next((name for prefix, name in _COARSE if below(prefix)), "proxy")
    return (fine, coarse) if fine else (coarse,)


_ACTS: Final = ("exec", "attach", "run", "portForward")
_FINE: Final = (("/pods", "pods"), ("/healthz", "healthz"), ("/configz", "configz"), ("/runningpods", "pods"))
_COARSE: Final = (("/stats", "stats"), ("/metrics", "metrics"), ("/logs", "log"), ("/checkpoint", "checkpoint"))


def wanted_of(query: Mapping[str, Sequence[str]]) -> Wanted:
    """A kubelet is told by `input=1`; clients that ask it directly may say `stdin=true`."""

    def flag(*names: str) -> bool:
        return any(query.get(name, [""])[0] in ("1", "true") for name in names)

    return Wanted(flag("input", "stdin"), flag("output", "stdout"), flag("error", "stderr"), flag("tty"))


def _runs(pod: Obj) -> bool:
    return (pod.get("status") or {}).get("phase") == "Running"


def _pod_list(pods: Sequence[Obj]) -> Obj:
    bare = [{key: value for key, value in pod.items() if key not in ("kind", "apiVersion")} for pod in pods]
    return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": bare}


def _json(value: Obj) -> Response:
    return Response(200, [_JSON], orjson.dumps(value))


async def _pump(pieces: logs.Pieces, writer: Writer) -> None:
    """The log to the client; cancelled when the client goes away."""
    try:
        async for piece in pieces:
            writer.write(piece)
            if writer.buffered > HELD:
                await writer.drain()
        writer.close()
    except OSError as e:
        log.info("a log broke off", extra={"why": str(e)})
        writer.abort()
    finally:
        await pieces.aclose()


def _cancel(pump: asyncio.Task[None]) -> None:
    pump.cancel()
