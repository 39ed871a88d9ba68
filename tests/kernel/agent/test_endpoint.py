"""The agent's endpoint over the real runtime and a real container: logs, streams and stats."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from tests.kernel.runtime.node import Node, needs_runtime, running_node

from havre.node.agent import names
from havre.node.agent.cri import CriClient
from havre.node.agent.endpoint import Endpoint, User, serve
from havre.node.agent.stats import Observer
from havre.node.agent.streams import CriStreams
from havre.wire import tls
from havre.wire.http.client import Client
from havre.wire.http.message import Tunnel

pytestmark = needs_runtime

SCRIPT = "echo one; echo two >&2; while [ ! -e /etc/end ]; do sleep 0.05; done; echo last"
WEBSOCKET = {
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-protocol": "v5.channel.k8s.io",
}


@dataclass(slots=True)
class Pod:
    """One pod with one container `c`, and everybody may ask."""

    id: str

    def pods(self) -> Sequence[dict[str, Any]]:
        status = {"name": "c", "containerID": f"containerd://{self.id}", "state": {"running": {}}}
        meta = {"name": "p", "namespace": "default", "uid": "uid-p"}
        return [{"metadata": meta, "spec": {"containers": [{"name": "c"}]}, "status": {"containerStatuses": [status]}}]

    def find(self, namespace: str, name: str) -> dict[str, Any] | None:
        return self.pods()[0]

    async def authorize(self, user: User, verb: str, subresource: str) -> bool:
        return user.name == "admin"


async def started(node: Node) -> str:
    """The container, labelled as the agent labels it."""
    pod = node.pod("p")
    pod.labels.update({names.POD_UID: "uid-p", names.POD_NAME: "p", names.POD_NAMESPACE: "default"})
    labels = {names.POD_UID: "uid-p", names.CONTAINER_NAME: "c"}
    return await node.run(await node.sandbox(pod), node.container("sh", "-c", SCRIPT, name="c", labels=labels))


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """An administrator at the endpoint of a node that runs the pod."""
    async with running_node() as node:
        pod = Pod(await started(node))
        ca = tls.new_authority("cluster")
        certificate, key = tls.save(
            node.root, "kubelet", tls.issue(ca, tls.Subject("node"), server=True, names=["127.0.0.1"])
        )
        authority, _ = tls.save(node.root, "ca", ca)
        admin = tls.issue(ca, tls.Subject("admin"), client=True)
        runtime = CriClient(node.config.socket)
        observer = Observer(node.channel, node.root)
        endpoint = Endpoint("node-1", pod, runtime, CriStreams(node.channel), observer, pod.authorize)
        server = await serve(endpoint, host="127.0.0.1", port=0, certificate=certificate, key=key, client_ca=authority)
        context = tls.client_context(ca.certificate, admin.certificate, admin.key)
        try:
            async with Client(f"https://127.0.0.1:{server.port}", ssl=context) as made:
                yield made
        finally:
            await server.close()
            await endpoint.close()
            await runtime.close()


async def got(client: Client, path: str) -> str:
    reply = await client.request("GET", path)
    assert reply.status == 200, reply.body
    return reply.body.decode()


async def run(client: Client, *command: str) -> bytes:
    """What the WebSocket of an exec carries until its result."""
    query = "&".join(["output=1", *(f"command={word}" for word in command)])
    tunnel: Tunnel = await client.upgrade("GET", f"/exec/default/p/c?{query}", headers=WEBSOCKET)
    seen = b""
    while b'"status":' not in seen:
        seen += await tunnel.read()
    tunnel.close()
    return seen


async def test_a_log_is_followed_to_the_end_of_its_container(client: Client) -> None:
    following = asyncio.create_task(got(client, "/containerLogs/default/p/c?follow=true"))
    async with asyncio.timeout(20):
        while await got(client, "/containerLogs/default/p/c") != "one\ntwo\n":  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
    assert await got(client, "/containerLogs/default/p/c?stream=Stderr") == "two\n"
    assert b'"status":"Success"' in await run(client, "touch", "/etc/end")
    assert await asyncio.wait_for(following, 20) == "one\ntwo\nlast\n"


async def test_a_command_runs_and_tells_its_exit_code(client: Client) -> None:
    seen = await run(client, "sh", "-c", "echo+hello;exit+3")
    assert b"\x01hello\n" in seen
    assert b'{"reason":"ExitCode","message":"3"}' in seen


async def test_the_container_is_seen_in_stats_and_metrics(client: Client) -> None:
    summary = json.loads(await got(client, "/stats/summary"))
    (pod,) = summary["pods"]
    assert pod["podRef"] == {"name": "p", "namespace": "default", "uid": "uid-p"}
    (container,) = pod["containers"]
    assert container["name"] == "c"
    assert container["cpu"]["usageCoreNanoSeconds"] > 0
    assert container["memory"]["workingSetBytes"] > 0
    assert summary["node"]["memory"]["workingSetBytes"] > 0
    text = await got(client, "/metrics/resource")
    assert 'container_memory_working_set_bytes{container="c",pod="p",namespace="default"} ' in text
    assert 'container_cpu_usage_seconds_total{container="c",id="/kubepods/poduid-p/' in await got(
        client, "/metrics/cadvisor"
    )
