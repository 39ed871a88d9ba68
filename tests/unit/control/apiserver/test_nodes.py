"""Log, exec, port-forward and proxy, with a node agent that is a small HTTP server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
import pytest_asyncio

from havre.api.errors import BadRequest, Forbidden
from havre.control.apiserver import nodes
from havre.wire.http.message import Answer, Request, Response, Stream, Tunnel, Upgrade, Writer
from havre.wire.http.server import Server, serve

pytestmark = pytest.mark.asyncio(loop_scope="module")
WEBSOCKET = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-protocol": "v5.channel.k8s.io",
    "sec-websocket-key": "k",
    "sec-websocket-version": "13",
}


@dataclass
class Agent:
    """Answers like a kubelet, and remembers what it was asked."""

    asked: list[Request] = field(default_factory=list)
    writers: list[Writer] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def handle(self, request: Request) -> Answer:
        self.asked.append(request)
        if request.path.startswith("/containerLogs/"):
            return (
                Stream(200, [("content-type", "text/plain")], self.follow)
                if "follow" in request.query
                else Response(200, [], b"one\ntwo\n")
            )
        if request.path.startswith(("/exec/", "/portForward/")):
            if request.headers.get("upgrade") is None:
                return Response(400, [], b"Upgrade request required")
            return Upgrade([("upgrade", "websocket"), ("sec-websocket-protocol", "v5.channel.k8s.io")], self.echo)
        if request.path == "/refuse":
            return Response(403, [("x-why", "no")], b"not you")
        if request.path == "/page":
            return Response(200, [("content-type", "text/html; charset=utf-8")], b'<a href="/x">x</a>')
        if request.path == "/moved":
            return Response(302, [("location", "/there?q=1")])
        return Response(200, [("content-type", "text/plain"), ("x-method", request.method)], request.body or b"hello")

    def follow(self, writer: Writer) -> None:
        self.writers.append(writer)
        writer.on_close = self.left.set
        writer.write(b"first\n")

    async def echo(self, tunnel: Tunnel) -> None:
        while data := await tunnel.read():
            tunnel.write(b"echo " + data)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving() -> AsyncIterator[tuple[Agent, Server]]:
    agent = Agent()
    server = await serve(agent.handle)
    yield agent, server
    await server.close(0)


@pytest_asyncio.fixture(loop_scope="module")
async def agent(serving: tuple[Agent, Server]) -> Agent:
    serving[0].__init__()  # type: ignore[misc]
    return serving[0]


def node(name: str, port: int) -> Any:
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    return {"metadata": {"name": name}, "status": status}


@pytest_asyncio.fixture(loop_scope="module")
async def home(plane: Any, namespace: str, serving: tuple[Agent, Server]) -> str:
    """URL of a namespace with a pod `proxy-web` (two containers, on a node that answers) and a Service."""
    port = serving[1].port
    if (await plane.ask("GET", "/api/v1/nodes/n1")).status == 404:
        await plane.make("/api/v1/nodes", node("n1", port))
        await plane.make("/api/v1/nodes", node("dead", 1))
        for name in ("n1", "dead"):
            body = node(name, port if name == "n1" else 1)
            assert (await plane.ask("PUT", f"/api/v1/nodes/{name}/status", body)).status == 200
    url = f"/api/v1/namespaces/{namespace}"
    containers = [{"name": "a", "image": "i", "ports": [{"containerPort": port}]}, {"name": "b", "image": "i"}]
    for name, at in (("proxy-web", "n1"), ("lost", "dead"), ("waiting", "")):
        spec = {"containers": containers, **({"nodeName": at} if at else {})}
        await plane.make(f"{url}/pods", {"metadata": {"name": name}, "spec": spec})
        status = {"metadata": {"name": name}, "status": {"phase": "Running", "podIP": "127.0.0.1"}}
        assert (
            await plane.ask("PATCH", f"{url}/pods/{name}/status", status, content_type="application/merge-patch+json")
        ).status == 200
    await plane.make(f"{url}/services", {"metadata": {"name": "s"}, "spec": {"ports": [{"name": "http", "port": 80}]}})
    labels = {"kubernetes.io/service-name": "s"}
    piece = {
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port}],
        "metadata": {"name": "s-1", "labels": labels},
    }
    ready = {"addresses": ["127.0.0.1"], "conditions": {"ready": True}}
    not_ready = {"addresses": ["127.0.0.9"], "conditions": {"ready": False}}
    body = {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", **piece, "endpoints": [not_ready, ready]}
    key = plane.registry.find("discovery.k8s.io", "v1", "endpointslices").key(namespace, "s-1")
    await plane.cache.put(key, None, lambda _revision: orjson.dumps(body))  # the API takes no loopback address
    return url


async def read(plane: Any, url: str, sink: Any, **options: Any) -> Any:
    """A carried answer, read to its end."""
    answer = await plane.answer(options.pop("method", "GET"), url, **options)
    assert isinstance(answer, Stream)
    sink.taken.set()
    answer.start(sink)
    async with asyncio.timeout(5):
        while not sink.closed:
            sink.more.clear()
            await sink.more.wait()
    return answer


# logs


async def test_the_log_of_a_container_comes_from_its_node(plane: Any, home: str, agent: Agent, sink: Any) -> None:
    answer = await read(plane, f"{home}/pods/proxy-web/log?container=b&tailLines=5&nonsense=1", sink)
    assert (answer.status, sink.text, sink.aborted) == (200, "one\ntwo\n", False)
    (asked,) = agent.asked
    assert asked.path == f"/containerLogs/{home.rsplit('/', 1)[1]}/proxy-web/b"
    assert asked.query == "tailLines=5"
    assert "authorization" not in asked.headers


async def test_a_followed_log_ends_when_the_client_leaves(plane: Any, home: str, agent: Agent, sink: Any) -> None:
    answer = await plane.answer("GET", f"{home}/pods/proxy-web/log?container=a&follow=true")
    sink.taken.set()
    answer.start(sink)
    async with asyncio.timeout(5):
        await sink.more.wait()
        assert sink.text == "first\n"
        sink.close()
        await agent.left.wait()
    while plane.nodes._pumps:  # noqa: ASYNC110 - what happens inside the server has no event of its own
        await asyncio.sleep(0)


async def test_a_slow_reader_holds_the_node_back(plane: Any, home: str, agent: Agent, sink: Any) -> None:
    answer = await plane.answer("GET", f"{home}/pods/proxy-web/log?container=a&follow=true")
    sink.held = 2 << 20
    answer.start(sink)
    async with asyncio.timeout(5):
        await sink.more.wait()
        agent.writers[0].write(b"second\n")
        for _ in range(20):
            await asyncio.sleep(0)
        assert sink.text == "first\n"  # nothing more is read while that waits
        sink.more.clear()
        sink.taken.set()
        await sink.more.wait()
        assert sink.text == "first\nsecond\n"
        sink.close()
        await agent.left.wait()


async def test_a_node_that_is_down_is_named(plane: Any, home: str) -> None:
    reply = await plane.ask("GET", f"{home}/pods/lost/log?container=a")
    assert (reply.status, reply.json()["reason"]) == (500, "InternalError")
    assert reply.message.startswith("Internal error occurred: error dialing backend: https://127.0.0.1:1: ")


@pytest.mark.parametrize(
    ("rest", "status", "message"),
    [
        ("pods/proxy-web/log", 400, "a container name must be specified for pod proxy-web, choose one of: [a b]"),
        ("pods/proxy-web/log?container=z", 400, "container z is not valid for pod proxy-web"),
        ("pods/waiting/log?container=a", 400, "pod waiting does not have a host assigned"),
        ("pods/absent/log", 404, 'pods "absent" not found'),
        ("pods/proxy-web/exec?container=a&stdout=true", 400, "Upgrade request required"),
        ("services/absent/proxy/", 404, 'services "absent" not found'),
        ("services/s:https/proxy/", 503, "no service port 'https' found for service 's'"),
        (
            "services/x:s:80/proxy/",
            400,
            "invalid service request 'x:s:80': expected name, name:port or scheme:name:port",
        ),
    ],
)
async def test_what_cannot_be_reached_is_said(plane: Any, home: str, rest: str, status: int, message: str) -> None:
    reply = await plane.ask("GET", f"{home}/{rest}")
    assert (reply.status, reply.message) == (status, message)


async def test_a_log_is_only_read(plane: Any, home: str) -> None:
    assert (await plane.ask("POST", f"{home}/pods/proxy-web/log?container=a")).status == 405


# upgrades


class Ends:
    """A tunnel with our hand on both ends."""

    def __init__(self) -> None:
        self.to_read: asyncio.Queue[bytes] = asyncio.Queue()
        self.written: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed = False

    async def read(self) -> bytes:
        return await self.to_read.get()

    def write(self, data: bytes) -> None:
        self.written.put_nowait(data)

    async def drain(self) -> None:
        return

    def close(self) -> None:
        self.closed = True


async def test_exec_is_carried_both_ways_until_one_side_ends(plane: Any, home: str, agent: Agent) -> None:
    url = f"{home}/pods/proxy-web/exec?container=a&command=sh&command=-c%20x&stdin=true&stdout=1&tty=false"
    answer = await plane.answer("GET", url, headers=WEBSOCKET)
    assert isinstance(answer, Upgrade)
    assert ("sec-websocket-protocol", "v5.channel.k8s.io") in answer.headers
    (asked,) = agent.asked
    assert asked.query == "input=1&output=1&command=sh&command=-c%20x"
    assert (asked.headers["sec-websocket-protocol"], "authorization" in asked.headers) == ("v5.channel.k8s.io", False)
    ends: Any = Ends()
    running = asyncio.ensure_future(answer.run(ends))
    async with asyncio.timeout(5):
        ends.to_read.put_nowait(b"hi")
        assert await ends.written.get() == b"echo hi"
        ends.to_read.put_nowait(b"")
        await running
    assert ends.closed


async def test_a_log_over_a_websocket_comes_in_messages(plane: Any, home: str, agent: Agent) -> None:
    headers = WEBSOCKET | {"sec-websocket-protocol": "binary.k8s.io", "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}
    answer = await plane.answer("GET", f"{home}/pods/proxy-web/log?container=b", headers=headers)
    assert isinstance(answer, Upgrade)
    assert ("sec-websocket-protocol", "binary.k8s.io") in answer.headers
    ends: Any = Ends()
    running = asyncio.ensure_future(answer.run(ends))
    async with asyncio.timeout(5):
        assert await ends.written.get() == b"\x82\x08one\ntwo\n"
        assert (await ends.written.get())[:1] == b"\x88"
        ends.to_read.put_nowait(b"")
        await running
    assert "upgrade" not in agent.asked[0].headers


@pytest.mark.parametrize(
    ("rest", "options"),
    [
        (
            "exec?container=a&command=sh&command=-c&stdin=true",
            {"stdin": True, "container": "a", "command": ["sh", "-c"]},
        ),
        ("attach?container=a&stdout=1", {"stdout": True, "container": "a"}),
        ("portforward?ports=80,443", {"ports": [80, 443]}),
        ("proxy/x?q=1", {"path": "/x"}),
    ],
)
async def test_admission_is_asked_about_a_connection(
    plane: Any, home: str, agent: Agent, monkeypatch: pytest.MonkeyPatch, rest: str, options: Any
) -> None:
    async def refuse(request: Any) -> None:
        if request.operation == "CONNECT":
            seen.append(request)
            raise Forbidden("not allowed")

    seen: list[Any] = []
    monkeypatch.setattr(plane.admission, "validate", refuse)
    reply = await plane.ask("GET", f"{home}/pods/proxy-web/{rest}", headers=WEBSOCKET)
    assert (reply.status, reply.message, agent.asked) == (403, "not allowed", [])
    subresource = rest.partition("?")[0].partition("/")[0]
    kind = {"exec": "PodExec", "attach": "PodAttach", "portforward": "PodPortForward", "proxy": "PodProxy"}[subresource]
    assert seen[0].attributes.subresource == subresource
    assert seen[0].obj == {"kind": f"{kind}Options", "apiVersion": "v1", **options}


async def test_a_refused_upgrade_keeps_the_answer_of_the_node(plane: Any, home: str, agent: Agent) -> None:
    reply = await plane.ask("GET", f"{home}/pods/proxy-web/proxy/refuse", headers=WEBSOCKET)
    assert (reply.status, reply.body, reply.headers["x-why"]) == (403, b"not you", "no")


async def test_exec_needs_a_stream(plane: Any, home: str) -> None:
    reply = await plane.ask("GET", f"{home}/pods/proxy-web/exec?container=a", headers=WEBSOCKET)
    assert (reply.status, reply.message) == (400, "you must specify at least 1 of stdin, stdout, stderr")


async def test_port_forward_goes_to_the_pod(plane: Any, home: str, agent: Agent) -> None:
    answer = await plane.answer("GET", f"{home}/pods/proxy-web/portforward?ports=80", headers=WEBSOCKET)
    assert isinstance(answer, Upgrade)
    assert (agent.asked[0].path.split("/")[1], agent.asked[0].query) == ("portForward", "port=80")
    ends: Any = Ends()
    ends.to_read.put_nowait(b"")
    await answer.run(ends)


# proxies


@pytest.mark.parametrize(
    ("rest", "path"),
    [
        ("pods/proxy-web/proxy/", "/"),
        ("pods/proxy-web/proxy/a%20b/proxy/c?q=1", "/a%20b/proxy/c"),
        ("services/s/proxy/x/", "/x/"),
        ("services/s:http/proxy/x", "/x"),
        ("services/http:s:80/proxy/x", "/x"),
        ("/api/v1/nodes/n1/proxy/pods", "/pods"),
    ],
)  # fmt: skip
async def test_a_proxied_request_keeps_its_path(
    plane: Any, home: str, agent: Agent, sink: Any, rest: str, path: str
) -> None:
    url = rest if rest.startswith("/") else f"{home}/{rest}"
    answer = await read(
        plane, url, sink, headers={"impersonate-user": "root", "impersonate-group": "system:masters", "x-mine": "1"}
    )
    assert (answer.status, sink.text) == (200, "hello")
    (asked,) = agent.asked
    assert asked.path == path
    assert asked.headers["x-mine"] == "1"
    assert [h for h in asked.headers if h.startswith(("impersonate", "authorization"))] == []


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
async def test_a_pod_is_asked_with_any_method(plane: Any, home: str, agent: Agent, method: str) -> None:
    answer = await plane.answer(method, f"{home}/pods/proxy-web/proxy/x")
    assert (answer.status, dict(answer.headers)["x-method"], agent.asked[0].method) == (200, method, method)
    assert (await plane.ask(method, f"{home}/pods/proxy-web")).status == 405


async def test_a_proxied_page_without_a_path_is_the_one_with_a_slash(plane: Any, home: str, agent: Agent) -> None:
    answer = await plane.ask("GET", f"{home}/pods/proxy-web/proxy?a=1")
    assert (answer.status, answer.headers["location"]) == (301, f"{home}/pods/proxy-web/proxy/?a=1")
    carried = await plane.answer("PUT", f"{home}/pods/proxy-web/proxy")
    assert (carried.status, agent.asked[0].path) == (200, "/")


async def test_links_and_redirects_of_a_pod_lead_through_the_proxy(plane: Any, home: str, agent: Agent) -> None:
    asked = {"accept": "text/html", "accept-encoding": "gzip"}
    page = await plane.ask("GET", f"{home}/pods/proxy-web/proxy/page", headers=asked)
    assert page.body == f'<a href="{home}/pods/proxy-web/proxy/x">x</a>'.encode()
    assert "accept-encoding" not in agent.asked[0].headers
    moved = await plane.answer("GET", f"{home}/services/s/proxy/moved")
    assert dict(moved.headers)["location"] == f"{home}/services/s/proxy/there?q=1"


async def test_a_proxied_request_keeps_method_and_body(plane: Any, home: str, agent: Agent, sink: Any) -> None:
    answer = await read(plane, f"{home}/pods/proxy-web/proxy/x", sink, method="POST", body=b"data")
    assert (("x-method", "POST") in answer.headers, sink.text) == (True, "data")


async def test_only_a_node_agent_sees_our_certificate(plane: Any, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, bool]] = []
    real = plane.nodes._connect

    def connect(base: str, agent: bool) -> Any:
        shown.append((base.partition(":")[0], agent))
        return real(base, agent)

    monkeypatch.setattr(plane.nodes, "_connect", connect)
    monkeypatch.setattr(plane.nodes, "_clients", {})
    for rest in ("pods/proxy-web/log?container=a", "pods/https:proxy-web:1/proxy/", "services/https:s:80/proxy/"):
        await plane.answer("GET", f"{home}/{rest}")
    assert shown == [("https", True), ("https", False), ("https", False)]


# words


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ("http", "a", "")),
        ("a:80", ("http", "a", "80")),
        ("https:a:443", ("https", "a", "443")),
        (":a:", ("http", "a", "")),
    ],
)
async def test_a_name_may_carry_scheme_and_port(text: str, parts: tuple[str, str, str]) -> None:
    assert nodes.split_name(text) == parts


async def test_the_default_container_is_the_annotated_one_else_the_only_one() -> None:
    two: Any = {
        "metadata": {"name": "p", "annotations": {"kubectl.kubernetes.io/default-container": "b"}},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
    }
    assert nodes.container_of(two, "") == "b"
    assert nodes.container_of(two, "i") == "i"
    two["metadata"]["annotations"] = {}
    with pytest.raises(BadRequest, match=r"choose one of: \[a b\] or one of the init containers: \[i\]"):
        nodes.container_of(two, "")
    assert nodes.container_of({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}}, "") == "a"
