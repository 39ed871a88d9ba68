"""The endpoint over TLS on the loopback, with a pod, a runtime and a streaming server of the test's own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from havre.node.agent.cri import Container, ContainerStatus, Executed, RuntimeFault, Sandbox, State
from havre.node.agent.endpoint import Endpoint, User, serve, subresources_of, verb_of
from havre.node.agent.stats import Disk, Machine, PodUse, Reading, Usage
from havre.node.agent.streams import Wanted
from havre.wire import tls
from havre.wire.http.client import Client
from havre.wire.http.errors import ConnectFailed, Disconnected, HttpError, UpgradeRefused
from havre.wire.http.message import Answer, Request
from havre.wire.http.server import Server
from havre.wire.http.server import serve as listen
from havre.wire.streaming.errors import StreamingError
from havre.wire.streaming.negotiate import negotiate
from havre.wire.streaming.remotecommand import RemoteCommand
from havre.wire.streaming.remotecommand import Streams as CommandStreams

POD: dict[str, Any] = {
    "kind": "Pod",
    "apiVersion": "v1",
    "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
    "spec": {"containers": [{"name": "c"}, {"name": "waits"}]},
    "status": {
        "phase": "Running",
        "containerStatuses": [
            {"name": "c", "containerID": "containerd://c1", "state": {"running": {}}},
            {"name": "waits", "state": {"waiting": {"reason": "ContainerCreating"}}},
        ],
    },
}
ADMIN = User("admin", ("system:masters",))
WEBSOCKET = {
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-protocol": "v5.channel.k8s.io",
}


@dataclass(slots=True)
class World:
    """Pods, runtime, stats and rights in one."""

    logs: Path
    url: str = ""
    asked: list[Any] = field(default_factory=list)
    decisions: list[tuple[str, str, str]] = field(default_factory=list)
    fault: RuntimeFault | None = None

    def find(self, namespace: str, name: str) -> dict[str, Any] | None:
        return POD if (namespace, name) == ("ns", "p") else None

    def pods(self) -> Sequence[dict[str, Any]]:
        return [POD]

    async def sandboxes(self, uid: str = "") -> list[Sandbox]:
        return [Sandbox("s0", uid, "ns", "p", 0, False, 1.0), Sandbox("s1", uid, "ns", "p", 1, True, 2.0)]

    async def containers(self, uid: str = "") -> list[Container]:
        return [
            Container("c0", "s0", uid, "c", State.EXITED, 1.0),
            Container("c1", "s1", uid, "c", State.RUNNING, 2.0),
        ]

    async def container_status(self, id: str) -> ContainerStatus:
        if self.fault:
            raise self.fault
        return ContainerStatus(id=id, name="c", state=State.EXITED, log_path=str(self.logs / f"{id}.log"))

    async def execute(self, id: str, command: Sequence[str], timeout: float) -> Executed:
        self.asked.append((id, *command))
        return Executed(1 if "fail" in command else 0, b"out", b"err")

    async def exec_url(self, container: str, command: Sequence[str], wanted: Wanted) -> str:
        if self.fault:
            raise self.fault
        self.asked.append((container, tuple(command), wanted))
        return f"{self.url}/exec/token"

    async def attach_url(self, container: str, wanted: Wanted) -> str:
        self.asked.append((container, wanted))
        return f"{self.url}/attach/token"

    async def port_forward_url(self, sandbox: str, ports: Sequence[int]) -> str:
        self.asked.append((sandbox, tuple(ports)))
        return f"{self.url}/portforward/token"

    async def look(self) -> Reading:
        if self.fault:
            raise self.fault
        machine = Machine(Usage(time=1, cpu=1), Disk(used=1), Disk(), (), 0.0, 1, 1, 1, 1)
        return Reading(0.0, machine, (PodUse("u", "ns", "p", "s1", Usage(time=1, cpu=5)),))

    async def authorize(self, user: User, verb: str, subresource: str) -> bool:
        self.decisions.append((user.name, verb, subresource))
        return user == ADMIN or (user.name == "scraper" and subresource == "metrics")

    async def authenticate(self, token: str) -> User | None:
        return User("scraper") if token == "good" else None


def runtime(request: Request) -> Answer:
    """The streaming server of a runtime: it echoes stdin."""

    async def run(command: RemoteCommand) -> None:
        assert command.stdin
        assert command.stdout
        await command.stdout.write(await command.stdin.read())
        await command.exit(0)

    try:
        return negotiate(request, CommandStreams(stdin=True, stdout=True)).upgrade(run)
    except StreamingError as e:
        return e.answer()


@dataclass(frozen=True, slots=True)
class Keys:
    folder: Path
    authority: tls.Pair
    admin: tls.Pair
    stranger: tls.Pair


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("tls")
    authority, other = tls.new_authority("cluster"), tls.new_authority("other")
    tls.save(folder, "ca", authority)
    tls.save(folder, "kubelet", tls.issue(authority, tls.Subject("node"), server=True, names=["127.0.0.1"]))
    admin = tls.Subject(ADMIN.name, ADMIN.groups)
    return Keys(folder, authority, tls.issue(authority, admin, client=True), tls.issue(other, admin, client=True))


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    streaming = await listen(runtime)
    yield World(tmp_path, f"http://127.0.0.1:{streaming.port}")
    await streaming.close()


@pytest_asyncio.fixture
async def server(world: World, keys: Keys) -> AsyncIterator[Server]:
    endpoint = Endpoint("harbour", world, world, world, world, world.authorize, world.authenticate)
    at = keys.folder
    running = await serve(
        endpoint,
        host="127.0.0.1",
        port=0,
        certificate=at / "kubelet.crt",
        key=at / "kubelet.key",
        client_ca=at / "ca.crt",
    )
    yield running
    await running.close()
    await endpoint.close()


def client_of(server: Server, keys: Keys, pair: tls.Pair | None = None, token: str = "") -> Client:
    shown = (pair.certificate, pair.key) if pair else (None, None)
    context = tls.client_context(keys.authority.certificate, *shown)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return Client(f"https://127.0.0.1:{server.port}", ssl=context, headers=headers)


@pytest_asyncio.fixture
async def admin(server: Server, keys: Keys) -> AsyncIterator[Client]:
    async with client_of(server, keys, keys.admin) as client:
        yield client


async def got(client: Client, path: str, method: str = "GET") -> tuple[int, str]:
    reply = await client.request(method, path)
    return reply.status, reply.body.decode()


async def test_nobody_is_answered_without_credentials(server: Server, keys: Keys, world: World) -> None:
    async with client_of(server, keys) as anonymous, client_of(server, keys, token="bad") as stranger:
        assert await got(anonymous, "/healthz") == (401, "Unauthorized")
        assert await got(stranger, "/pods") == (401, "Unauthorized")
    assert world.decisions == []


async def test_a_certificate_of_another_authority_ends_the_connection(server: Server, keys: Keys) -> None:
    async with client_of(server, keys, keys.stranger) as client:
        with pytest.raises((ConnectFailed, Disconnected, HttpError)):
            await client.request("GET", "/healthz")


async def test_a_token_may_do_what_it_is_allowed(server: Server, keys: Keys, world: World) -> None:
    async with client_of(server, keys, token="good") as scraper:
        assert (await got(scraper, "/metrics/resource"))[0] == 200
        assert await got(scraper, "/exec/ns/p/c?command=sh", "POST") == (
            403,
            "Forbidden (user=scraper, verb=create, resource=nodes, subresource(s)=['proxy'])",
        )
        await got(scraper, "/metrics")
    assert world.decisions == [("scraper", "get", "metrics"), ("scraper", "create", "proxy")]


@pytest.mark.parametrize(
    "path", ["/exec/ns/p/c", "//exec/ns/p/c", "/%65xec/ns/p/c", "/attach/n/p/c", "/portForward/n/p"]
)
def test_a_command_is_no_mere_get_whatever_the_method(path: str) -> None:
    assert verb_of("GET", path) == "create"
    assert (verb_of("GET", "/pods"), verb_of("GET", "/execs"), verb_of("BREW", "/pods")) == ("get", "get", "")


@pytest.mark.parametrize(
    ("path", "subresources"),
    [
        ("/pods", ("pods", "proxy")),
        ("/runningpods/", ("pods", "proxy")),
        ("/healthz/ping", ("healthz", "proxy")),
        ("/stats/summary", ("stats",)),
        ("/metrics/cadvisor", ("metrics",)),
        ("/metricsx", ("proxy",)),
        ("/exec/ns/p/c", ("proxy",)),
        ("/logs/x", ("log",)),
        ("/", ("proxy",)),
    ],
)
def test_rights_are_asked_as_a_kubelet_asks(path: str, subresources: tuple[str, ...]) -> None:
    assert subresources_of(path) == subresources


async def test_plain_questions_are_answered(admin: Client) -> None:
    assert await got(admin, "/healthz") == (200, "ok")
    listed = json.loads((await got(admin, "/pods"))[1])
    assert (listed["kind"], listed["items"][0]["metadata"]["name"]) == ("PodList", "p")
    assert len(json.loads((await got(admin, "/runningpods/"))[1])["items"]) == 1
    assert await got(admin, "/nothing") == (404, "404 page not found")


async def test_logs_are_those_of_the_container(admin: Client, world: World) -> None:
    (world.logs / "c1.log").write_text("2026-01-01T10:00:00Z stdout F one\n2026-01-01T10:00:01Z stdout F two\n")
    assert await got(admin, "/containerLogs/ns/p/c") == (200, "one\ntwo\n")
    assert await got(admin, "/containerLogs/ns/p/c?tailLines=1&follow=true") == (200, "two\n")


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/containerLogs/ns/x/c", 404, 'pod "x" does not exist'),
        ("/containerLogs/ns/p/x", 404, 'container "x" not found in pod "p"'),
        ("/containerLogs/ns/p/waits", 400, 'container "waits" in pod "p" is waiting to start: ContainerCreating'),
        ("/containerLogs/ns/p/c?previous=true", 400, 'previous terminated container "c" in pod "p" not found'),
        ("/containerLogs/ns/p/c?limitBytes=0", 422, '{"message": "Invalid request."}'),
        ("/exec/ns/x/c?output=1", 404, "pod does not exist"),
        ("/exec/ns/p/other-uid/c?output=1", 404, "pod not found"),
        ("/exec/ns/p/c", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("/exec/ns/p/x?output=1", 500, 'container not found ("x")'),
        ("/portForward/ns/p/other-uid", 404, "pod not found"),
    ],
)
async def test_why_something_is_not_there(admin: Client, path: str, status: int, message: str) -> None:
    assert await got(admin, path) == (status, message)


async def test_a_log_that_the_runtime_does_not_know(admin: Client, world: World) -> None:
    assert (await got(admin, "/containerLogs/ns/p/c"))[1].endswith('c1.log": No such file or directory')
    world.fault = RuntimeFault("NOT_FOUND", "no such container")
    assert await got(admin, "/containerLogs/ns/p/c") == (
        400,
        "unable to retrieve container logs for containerd://c1",
    )


async def test_an_exec_is_passed_on_to_the_runtime(admin: Client, world: World) -> None:
    path = "/exec/ns/p/c?input=1&output=1&error=1&command=sh&command=-c&command=a+b"
    tunnel = await admin.upgrade("GET", path, headers=WEBSOCKET)
    assert tunnel.headers["sec-websocket-protocol"] == "v5.channel.k8s.io"
    assert tunnel.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    tunnel.write(bytes([0x82, 0x83, 0, 0, 0, 0]) + b"\0hi")  # a masked message on channel 0
    seen = b""
    while b"Success" not in seen:
        seen += await tunnel.read()
    assert seen[:2] + seen[3:8] == b"\x82\x01\x82\x03\x01hi"
    assert world.asked == [("c1", ("sh", "-c", "a b"), Wanted(stdin=True, stdout=True, stderr=True))]
    tunnel.close()


async def test_attach_and_port_forward_find_their_container_and_sandbox(admin: Client, world: World) -> None:
    (await admin.upgrade("GET", "/attach/ns/p/u/c?stdin=true&tty=1", headers=WEBSOCKET)).close()
    (await admin.upgrade("GET", "/portForward/ns/p?port=80", headers=WEBSOCKET)).close()
    assert world.asked == [("c1", Wanted(stdin=True, tty=True)), ("s1", (80,))]


async def test_what_the_runtime_refuses_is_the_answer(admin: Client, world: World) -> None:
    headers = {**WEBSOCKET, "sec-websocket-protocol": "chat"}
    with pytest.raises(UpgradeRefused) as caught:
        await admin.upgrade("GET", "/exec/ns/p/c?output=1", headers=headers)
    assert caught.value.status == 403
    world.fault = RuntimeFault("NOT_FOUND", "no such container")
    assert await got(admin, "/exec/ns/p/c?output=1", "POST") == (404, "no such container")


async def test_a_runtime_that_is_gone_is_an_error(admin: Client, world: World) -> None:
    world.url = "http://127.0.0.1:1"
    status, message = await got(admin, "/exec/ns/p/c?output=1", "POST")
    assert (status, message.startswith("error dialing the runtime: ")) == (500, True)


async def test_run_answers_with_the_output(admin: Client, world: World) -> None:
    assert await got(admin, "/run/ns/p/c?cmd=ls+-l", "POST") == (200, "outerr")
    assert await got(admin, "/run/ns/p/c?cmd=fail", "POST") == (500, "command exited with 1: outerr")
    assert world.asked == [("c1", "ls", "-l"), ("c1", "fail")]


async def test_stats_and_metrics(admin: Client, world: World) -> None:
    shown = json.loads((await got(admin, "/stats/summary?only_cpu_and_memory=true"))[1])
    assert (shown["node"]["nodeName"], shown["pods"][0]["podRef"]["name"]) == ("harbour", "p")
    assert 'pod_cpu_usage_seconds_total{pod="p",namespace="ns"}' in (await got(admin, "/metrics/resource"))[1]
    assert "machine_cpu_cores 1\n" in (await got(admin, "/metrics/cadvisor"))[1]
    assert 'kubelet_node_name{node="harbour"} 1\n' in (await got(admin, "/metrics"))[1]
    assert await got(admin, "/metrics/probes") == (200, "")


async def test_without_stats_the_metrics_say_so(admin: Client, world: World) -> None:
    world.fault = RuntimeFault("UNAVAILABLE", "down")
    assert "resource_scrape_error 1\n" in (await got(admin, "/metrics/resource"))[1]
    assert (await got(admin, "/stats/summary")) == (500, "down")
