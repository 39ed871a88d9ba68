"""The agent's questions over CRI, answered by a small runtime on a socket."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from havre.node.agent.cri import RuntimeFault
from havre.node.agent.stats import Observer
from havre.node.agent.streams import CriStreams, Wanted
from havre.wire.grpc.channel import Channel
from havre.wire.grpc.errors import GrpcError, Status
from havre.wire.grpc.messages import messages
from havre.wire.grpc.server import Service, serve

CRI = messages("runtime.v1")


@asynccontextmanager
async def runtime(folder: Path) -> AsyncGenerator[tuple[Channel, list[Any]]]:
    """Answers every stream with a URL; the container `gone` does not exist."""
    asked: list[Any] = []

    def at(path: str, reply: Any) -> Any:
        async def answer(request: Any, metadata: Mapping[str, str]) -> Any:
            asked.append(request)
            if getattr(request, "container_id", "") == "gone":
                raise GrpcError(Status.NOT_FOUND, "no such container")
            return reply(url=f"http://127.0.0.1:1/{path}")

        return answer

    async def sandbox_stats(request: Any, metadata: Mapping[str, str]) -> Any:
        cpu = {"timestamp": 5, "usage_core_nano_seconds": {"value": 7}}
        stats = {"attributes": {"id": "s1", "metadata": {"name": "p"}}, "linux": {"cpu": cpu}}
        return CRI.ListPodSandboxStatsResponse(stats=[CRI.PodSandboxStats(**stats)])

    async def images(request: Any, metadata: Mapping[str, str]) -> Any:
        return CRI.ImageFsInfoResponse(image_filesystems=[{"used_bytes": {"value": 3}}])

    methods = {
        "Exec": at("exec", CRI.ExecResponse),
        "Attach": at("attach", CRI.AttachResponse),
        "PortForward": at("portforward", CRI.PortForwardResponse),
        "ListPodSandboxStats": sandbox_stats,
    }
    services = [
        Service("runtime.v1.RuntimeService", methods),
        Service("runtime.v1.ImageService", {"ImageFsInfo": images}),
    ]
    server = await serve(folder / "cri.sock", services)
    channel = Channel(server.path)
    try:
        yield channel, asked
    finally:
        channel.close()
        await server.close()


async def test_the_runtime_names_the_urls_of_streams(tmp_path: Path) -> None:
    async with runtime(tmp_path) as (channel, asked):
        streams = CriStreams(channel)
        everything = Wanted(stdin=True, stdout=True, stderr=True)
        assert await streams.exec_url("c1", ["sh", "-c", "x"], everything) == "http://127.0.0.1:1/exec"
        assert await streams.attach_url("c1", Wanted(stdout=True)) == "http://127.0.0.1:1/attach"
        assert await streams.port_forward_url("s1", [80, 443]) == "http://127.0.0.1:1/portforward"
        assert asked == [
            CRI.ExecRequest(container_id="c1", cmd=["sh", "-c", "x"], stdin=True, stdout=True, stderr=True),
            CRI.AttachRequest(container_id="c1", stdout=True),
            CRI.PortForwardRequest(pod_sandbox_id="s1", port=[80, 443]),
        ]


async def test_a_terminal_has_no_stderr(tmp_path: Path) -> None:
    async with runtime(tmp_path) as (channel, asked):
        await CriStreams(channel).exec_url("c1", ["sh"], Wanted(stdout=True, stderr=True, tty=True))
        assert asked == [CRI.ExecRequest(container_id="c1", cmd=["sh"], stdout=True, tty=True)]


async def test_what_the_runtime_refuses_keeps_its_code(tmp_path: Path) -> None:
    async with runtime(tmp_path) as (channel, _):
        with pytest.raises(RuntimeFault, match="no such container") as caught:
            await CriStreams(channel).exec_url("gone", ["sh"], Wanted(stdout=True))
        assert caught.value.code == "NOT_FOUND"


async def test_a_look_reads_pods_images_and_the_machine(tmp_path: Path) -> None:
    async with runtime(tmp_path) as (channel, _):
        observer = Observer(channel, tmp_path)
        first = await observer.look()
        assert [(pod.sandbox, pod.usage.cpu) for pod in first.pods] == [("s1", 7)]
        assert (first.node.images.used, first.node.usage.nano_cores) == (3, None)
        second = await observer.look()
        assert second.node.usage.nano_cores is not None


async def test_a_look_without_a_runtime_is_a_fault(tmp_path: Path) -> None:
    channel = Channel(tmp_path / "nothing.sock")
    with pytest.raises(RuntimeFault) as caught:
        await Observer(channel, tmp_path).look()
    assert caught.value.code == "UNAVAILABLE"
    channel.close()
