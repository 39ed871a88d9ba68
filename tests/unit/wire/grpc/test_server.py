"""Server and channel together, over a socket in a temporary directory."""

from __future__ import annotations

import asyncio
import logging
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from havre.wire.grpc.channel import Channel
from havre.wire.grpc.errors import GrpcError, Status
from havre.wire.grpc.messages import messages
from havre.wire.grpc.server import Method, Service, serve

CRI = messages("runtime.v1")
CONTENT = messages("containerd.services.content.v1")
RUNTIME = "runtime.v1.RuntimeService"
VERSION = CRI.VersionRequest(version="v1")


@asynccontextmanager
async def serving(folder: Path, service: str = RUNTIME, **methods: Method) -> AsyncGenerator[Channel]:
    server = await serve(folder / "a.sock", [Service(service, methods)])
    channel = Channel(folder / "a.sock", metadata={"containerd-namespace": "k8s.io"})
    try:
        yield channel
    finally:
        channel.close()
        await server.close()


async def status_of(channel: Channel, timeout: float | None = None) -> tuple[Status, str]:
    with pytest.raises(GrpcError) as caught:
        await channel.unary(RUNTIME, "Version", VERSION, timeout=timeout)
    return caught.value.status, caught.value.message


async def test_a_call_carries_request_metadata_and_reply(tmp_path: Path) -> None:
    async def version(request: Any, metadata: Mapping[str, str]) -> Any:
        return CRI.VersionResponse(version=request.version, runtime_name=metadata["containerd-namespace"])

    async with serving(tmp_path, Version=version) as channel:
        reply = await channel.unary(RUNTIME, "Version", VERSION)
        assert (reply.version, reply.runtime_name) == ("v1", "k8s.io")
        other = await channel.unary(RUNTIME, "Version", VERSION, metadata={"containerd-namespace": "moby"})
        assert other.runtime_name == "moby"


async def test_a_handler_chooses_the_status(tmp_path: Path) -> None:
    async def version(request: Any, metadata: Mapping[str, str]) -> Any:
        raise GrpcError(Status.NOT_FOUND, "no sandbox “a” 100 %")

    async with serving(tmp_path, Version=version) as channel:
        assert await status_of(channel) == (Status.NOT_FOUND, "no sandbox “a” 100 %")


async def test_a_bug_is_logged_and_answered_unknown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def version(request: Any, metadata: Mapping[str, str]) -> Any:
        raise ValueError("a bug")

    async with serving(tmp_path, Version=version) as channel:
        assert await status_of(channel) == (Status.UNKNOWN, "a bug")
    assert [(r.levelno, r.message) for r in caplog.records if r.name.startswith("havre")] == [
        (logging.ERROR, "a gRPC handler failed")
    ]


async def test_an_unserved_method_is_unimplemented(tmp_path: Path) -> None:
    async with serving(tmp_path) as channel:
        assert await status_of(channel) == (
            Status.UNIMPLEMENTED,
            "unknown method Version for service runtime.v1.RuntimeService",
        )


async def test_a_deadline_ends_the_call_and_the_handler(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def version(request: Any, metadata: Mapping[str, str]) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(tmp_path, Version=version) as channel:
        status, _ = await status_of(channel, timeout=0.01)
        assert status == Status.DEADLINE_EXCEEDED
        await asyncio.wait_for(ended.wait(), 5)


async def test_leaving_a_stream_ends_its_handler(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def events(request: Any, metadata: Mapping[str, str]) -> AsyncIterator[Any]:
        try:
            yield CRI.ContainerEventResponse(container_id="1")
            yield CRI.ContainerEventResponse(container_id="2")
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(tmp_path, GetContainerEvents=events) as channel:
        seen = []
        async with aclosing(channel.stream(RUNTIME, "GetContainerEvents", CRI.GetEventsRequest())) as replies:
            async for reply in replies:
                seen.append(reply.container_id)
                if len(seen) == 2:
                    break
        assert seen == ["1", "2"]
        await asyncio.wait_for(ended.wait(), 5)


async def test_an_error_after_replies_reaches_the_caller(tmp_path: Path) -> None:
    async def events(request: Any, metadata: Mapping[str, str]) -> AsyncIterator[Any]:
        yield CRI.ContainerEventResponse(container_id="1")
        raise GrpcError(Status.ABORTED, "enough")

    async with serving(tmp_path, GetContainerEvents=events) as channel:
        stream = channel.stream(RUNTIME, "GetContainerEvents", CRI.GetEventsRequest())
        assert (await anext(stream)).container_id == "1"
        with pytest.raises(GrpcError, match="ABORTED: enough"):
            await anext(stream)


async def test_both_sides_can_stream(tmp_path: Path) -> None:
    async def write(requests: AsyncIterator[Any], metadata: Mapping[str, str]) -> AsyncIterator[Any]:
        offset = 0
        async for request in requests:
            offset += len(request.data)
            yield CONTENT.WriteContentResponse(offset=offset)

    async def requests() -> AsyncIterator[Any]:
        for part in (b"abc", b"", b"x" * 300_000):
            yield CONTENT.WriteContentRequest(action=CONTENT.WRITE, data=part)

    name = "containerd.services.content.v1.Content"
    async with serving(tmp_path, name, Write=write) as channel:
        assert [reply.offset async for reply in channel.stream(name, "Write", requests())] == [3, 3, 300_003]


async def test_a_message_over_the_limit_is_refused_on_either_side(tmp_path: Path) -> None:
    async def version(request: Any, metadata: Mapping[str, str]) -> Any:
        return CRI.VersionResponse(version="x" * (16 << 20))

    async with serving(tmp_path, Version=version) as channel:
        assert await status_of(channel) == (
            Status.RESOURCE_EXHAUSTED,
            "answer with a message of 16777221 bytes: the limit is 16777216",
        )


async def test_closing_drops_connections_and_the_socket(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def version(request: Any, metadata: Mapping[str, str]) -> Any:
        begun.set()
        await asyncio.Event().wait()

    server = await serve(tmp_path / "a.sock", [Service(RUNTIME, {"Version": version})])
    channel = Channel(tmp_path / "a.sock")
    call = asyncio.create_task(status_of(channel))
    await begun.wait()
    assert server.connections == 1
    await server.close()
    assert (await call)[0] == Status.UNAVAILABLE
    assert not (tmp_path / "a.sock").exists()
    assert await status_of(channel) == (
        Status.UNAVAILABLE,
        f"call {RUNTIME}/Version: connect to {tmp_path}/a.sock: [Errno 2] No such file or directory; is it running?",
    )
    channel.close()


async def test_the_socket_is_for_its_owner_only_and_a_stale_one_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = await serve(path, [Service(RUNTIME)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["a.sock"]
    await server.close()


async def test_a_live_socket_is_not_taken_over(tmp_path: Path) -> None:
    async with serving(tmp_path) as channel:
        with pytest.raises(OSError, match=r"a\.sock: another server is listening there; stop it first"):
            await serve(tmp_path / "a.sock", [])
        assert (await status_of(channel))[0] == Status.UNIMPLEMENTED


async def test_a_method_that_has_no_descriptor_is_refused_at_once(tmp_path: Path) -> None:
    async def nothing(request: Any, metadata: Mapping[str, str]) -> Any:
        return None

    with pytest.raises(KeyError, match="has no method Nope"):
        await serve(tmp_path / "a.sock", [Service(RUNTIME, {"Nope": nothing})])
