"""kubectl → API server → node endpoint → a runtime's streaming server: the whole way of logs, exec and port-forward.

The node and its runtime are of the test's own, in a thread with its own loop; commands run on this machine.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import subprocess
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Server, Tool, running

from havre.machinery import kubeconfig as kubeconfigs
from havre.machinery.client import HttpApi
from havre.node.agent.cri import Container, ContainerStatus, Executed, Sandbox, State
from havre.node.agent.endpoint import Endpoint, User, serve
from havre.node.agent.reviews import Reviews
from havre.node.agent.stats import Disk, Machine, Reading, Usage
from havre.node.agent.streams import Wanted
from havre.wire import tls
from havre.wire.http.message import Answer, Request
from havre.wire.http.server import serve as listen
from havre.wire.streaming.negotiate import negotiate, negotiate_port_forward
from havre.wire.streaming.portforward import Forwarded, PortForward
from havre.wire.streaming.remotecommand import RemoteCommand, Streams

kubernetes: Any = pytest.importorskip("kubernetes", reason="the Python package kubernetes is not installed")
LOG = "".join(f"2026-01-01T10:00:0{i}.5Z stdout F line {i}\n" for i in range(5))


@dataclass(slots=True)
class Machine1:
    """A node with one pod, whose container `c` is this machine."""

    folder: Path
    uid: str = ""
    url: str = ""
    exec: tuple[Sequence[str], Wanted] = ((), Wanted())
    users: set[str] = field(default_factory=set)
    reviews: Reviews | None = None
    port: int = 0

    def pods(self) -> Sequence[dict[str, Any]]:
        status = [
            {"name": "c", "containerID": "containerd://c1", "state": {"running": {}}},
            {"name": "d", "state": {"waiting": {"reason": "ImagePullBackOff"}}},
        ]
        meta = {"name": "p", "namespace": "default", "uid": self.uid}
        spec = {"containers": [{"name": "c"}, {"name": "d"}]}
        return [{"metadata": meta, "spec": spec, "status": {"phase": "Running", "containerStatuses": status}}]

    def find(self, namespace: str, name: str) -> dict[str, Any] | None:
        return self.pods()[0] if (namespace, name) == ("default", "p") else None

    async def sandboxes(self, uid: str = "") -> list[Sandbox]:
        return [Sandbox("s1", uid, "default", "p", 0, True, 1.0)]

    async def containers(self, uid: str = "") -> list[Container]:
        return [Container("c1", "s1", uid, "c", State.RUNNING, 1.0)]

    async def container_status(self, id: str) -> ContainerStatus:
        return ContainerStatus(id=id, name="c", state=State.EXITED, log_path=str(self.folder / "0.log"))

    async def execute(self, id: str, command: Sequence[str], timeout: float) -> Executed:
        return Executed(0, b"", b"")

    async def exec_url(self, container: str, command: Sequence[str], wanted: Wanted) -> str:
        self.exec = command, wanted
        return f"{self.url}/exec"

    async def attach_url(self, container: str, wanted: Wanted) -> str:
        self.exec = ("cat",), wanted
        return f"{self.url}/exec"

    async def port_forward_url(self, sandbox: str, ports: Sequence[int]) -> str:
        return f"{self.url}/portforward"

    async def look(self) -> Reading:
        return Reading(0.0, Machine(Usage(cpu=7), Disk(), Disk(), (), 0.0, 1, 1, 1, 1), ())

    async def authorize(self, user: User, verb: str, subresource: str) -> bool:
        self.users.add(user.name)
        assert self.reviews
        return await self.reviews.authorize(user, verb, subresource)

    async def authenticate(self, token: str) -> User | None:
        assert self.reviews
        return await self.reviews.authenticate(token)

    def stream(self, request: Request) -> Answer:
        """The runtime's streaming server."""
        if request.path == "/portforward":
            return negotiate_port_forward(request).upgrade(forward_all)
        command, wanted = self.exec

        async def run(remote: RemoteCommand) -> None:
            await execute(command, remote)

        return negotiate(request, Streams(wanted.stdin, wanted.stdout, wanted.stderr, wanted.tty)).upgrade(run)


async def execute(command: Sequence[str], remote: RemoteCommand) -> None:
    given = b""
    while remote.stdin and (data := await remote.stdin.read()):
        given += data
    done = await asyncio.to_thread(subprocess.run, command, input=given, capture_output=True, check=False)
    if remote.stdout:
        await remote.stdout.write(done.stdout)
    if remote.stderr:
        await remote.stderr.write(done.stderr)
    await remote.exit(done.returncode)


async def forward_all(session: PortForward) -> None:
    async with asyncio.TaskGroup() as tasks:
        async for forwarded in session:
            tasks.create_task(shout(forwarded))


async def shout(forwarded: Forwarded) -> None:
    while data := await forwarded.read():
        await forwarded.write(data.upper())
    forwarded.close()


@dataclass(slots=True)
class Beside:
    """An event loop in a thread."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(30)
        self.loop.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("havre") / "data") as started:
        yield started


@pytest.fixture(scope="module")
def node(cluster: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine1]:
    """The node's endpoint, and its Node and Pod in the API."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "0.log").write_text(LOG)
    found = Machine1(folder)
    beside = Beside()
    stops = []
    try:
        streaming = beside.run(listen(found.stream))
        stops.append(streaming.close)
        found.url = f"http://127.0.0.1:{streaming.port}"
        connection = kubeconfigs.load(cluster.kubeconfig)
        api = beside.run(connected(connection))
        stops.append(api.close)
        found.reviews = Reviews(api, "node-1")
        endpoint = Endpoint("node-1", found, found, found, found, found.authorize, found.authenticate)
        authority = next(cluster.data_dir.rglob("ca.crt"))
        pair = tls.issue(tls.new_authority("node-1"), tls.Subject("node-1"), server=True, names=["127.0.0.1"])
        certificate, key = tls.save(folder, "kubelet", pair)
        server = beside.run(
            serve(endpoint, host="127.0.0.1", port=0, certificate=certificate, key=key, client_ca=authority)
        )
        stops += [endpoint.close, server.close]
        kubectl = Tool.of("kubectl", cluster, folder)
        found.port = server.port
        found.uid = create(kubectl, server.port)
        yield found
    finally:
        for stop in reversed(stops):
            beside.run(stop())
        beside.close()


async def connected(connection: kubeconfigs.Connection) -> HttpApi:
    return HttpApi(connection, user_agent="test")


def create(kubectl: Tool, port: int) -> str:
    """The uid of the pod."""
    addresses = [{"type": "InternalIP", "address": "127.0.0.1"}]
    status = {"addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}
    kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}))
    kubectl(
        "patch", "node", "node-1", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
    ).ok()
    containers = [{"name": "c", "image": "x"}, {"name": "d", "image": "x"}]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"nodeName": "node-1", "serviceAccountName": "default", "containers": containers},
    }
    for _ in range(50):  # until the controllers have made the account that pods need
        if kubectl("create", "-f", "-", stdin=json.dumps(pod)).code == 0:
            break
        kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=10s")
    running = {"status": {"phase": "Running"}}
    kubectl("patch", "pod", "p", "--subresource=status", "--type=merge", "-p", json.dumps(running)).ok()
    return kubectl("get", "pod", "p", "-o", "jsonpath={.metadata.uid}").ok()


@pytest.fixture(params=["kubectl", "kubectl-1.31", "kubectl-1.33"])
def kubectl(request: pytest.FixtureRequest, cluster: Server, node: Machine1, tmp_path: Path) -> Tool:
    return Tool.of(request.param, cluster, tmp_path)


def test_logs_come_from_the_node(kubectl: Tool, node: Machine1) -> None:
    assert kubectl("logs", "p", "-c", "c", "--tail=2").ok() == "line 3\nline 4\n"
    assert kubectl("logs", "p", "-c", "c", "-f", "--timestamps", "--since-time=2026-01-01T10:00:04Z").ok() == (
        "2026-01-01T10:00:04.500000000Z line 4\n"
    )
    assert "kube-apiserver-kubelet-client" in node.users


def test_a_container_that_waits_has_no_logs(kubectl: Tool) -> None:
    assert "(BadRequest)" in kubectl("logs", "p", "-c", "d").failed()


def test_a_command_runs_in_the_container(kubectl: Tool) -> None:
    done = kubectl("exec", "-i", "p", "-c", "c", "--", "sh", "-c", "cat; echo no >&2; exit 4", stdin="hello\n")
    assert (done.code, done.out) == (4, "hello\n")
    assert done.err == "no\ncommand terminated with exit code 4\n"


def test_an_older_client_is_passed_on_too(kubectl: Tool) -> None:
    spdy = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false"}
    done = kubectl("exec", "p", "-c", "c", "--", "sh", "-c", "echo there; exit 5", env=spdy)
    assert (done.code, done.out) == (5, "there\n")


@pytest.mark.parametrize("websockets", ["true", "false"])
def test_ports_are_forwarded(kubectl: Tool, websockets: str) -> None:
    command = [str(kubectl.path), "port-forward", "p", ":80"]
    env = {**kubectl.env, "KUBECTL_PORT_FORWARD_WEBSOCKETS": websockets}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=kubectl.cwd) as process:
        try:
            assert process.stdout
            port = int(process.stdout.readline().partition("127.0.0.1:")[2].split()[0])
            with socket.create_connection(("127.0.0.1", port), 10) as there:
                there.sendall(b"hello")
                there.shutdown(socket.SHUT_WR)
                there.settimeout(10)
                received = b""
                while data := there.recv(100):
                    received += data
            assert received == b"HELLO"
        finally:
            with suppress(ProcessLookupError):
                process.terminate()


def test_the_python_client_runs_commands_too(cluster: Server, node: Machine1) -> None:
    """It speaks v4.channel.k8s.io over WebSocket."""
    api = kubernetes.config.new_client_from_config(str(cluster.kubeconfig))
    run = kubernetes.client.CoreV1Api(api).connect_get_namespaced_pod_exec
    command = ["sh", "-c", "echo out; echo err >&2; exit 6"]
    session = kubernetes.stream.stream(
        run, "p", "default", container="c", command=command, stdout=True, stderr=True, _preload_content=False
    )
    session.run_forever(timeout=20)
    assert (session.read_stdout(), session.read_stderr(), session.returncode) == ("out\n", "err\n", 6)
    session.sock.shutdown()  # its own close does nothing once the server has said goodbye
    api.close()


def test_the_node_is_asked_through_its_proxy(kubectl: Tool) -> None:
    summary = json.loads(kubectl("get", "--raw", "/api/v1/nodes/node-1/proxy/stats/summary").ok())
    assert summary["node"]["cpu"]["usageCoreNanoSeconds"] == 7
    assert kubectl("get", "--raw", "/api/v1/nodes/node-1/proxy/healthz").ok() == "ok"


def test_a_token_may_do_at_the_node_what_its_account_may(cluster: Server, node: Machine1, tmp_path: Path) -> None:
    kubectl = Tool.of("kubectl", cluster, tmp_path)
    kubectl("create", "serviceaccount", "scraper").ok()
    token = kubectl("create", "token", "scraper").ok().strip()
    assert asked(node, "/metrics/resource", "nonsense") == (401, "Unauthorized")
    assert asked(node, "/metrics", token)[0] == 403
    kubectl("create", "clusterrole", "scraper", "--verb=get", "--resource=nodes/metrics").ok()
    bound = ["--clusterrole=scraper", "--serviceaccount=default:scraper"]
    kubectl("create", "clusterrolebinding", "scraper", *bound).ok()
    status, text = asked(node, "/metrics/cadvisor", token)
    assert (status, text[:24]) == (200, "# HELP machine_cpu_cores")
    assert asked(node, "/pods", token)[0] == 403


def asked(node: Machine1, path: str, token: str) -> tuple[int, str]:
    context = tls.client_context(verify=False)
    connection = http.client.HTTPSConnection("127.0.0.1", node.port, context=context, timeout=30)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text
