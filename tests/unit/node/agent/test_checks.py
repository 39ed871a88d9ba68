"""One check of each kind, against small servers on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.node.agent.fake_runtime import FakeRuntime
from tests.unit.node.agent.pods import container

from havre.api.meta import Obj
from havre.node.agent.checks import Checked, Target, check, request_of
from havre.node.agent.grpc_health import serving

HEADER_LIMIT = 4096


def target(port: int) -> Target:
    return Target("c1", container("app", ports=[{"name": "web", "containerPort": port}]), "127.0.0.1")


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    """A server on loopback that has let go of every connection at the end; its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await serve(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)


@asynccontextmanager
async def answering(answer: bytes | Callable[[bytes], bytes]) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that answers every request so; its port and what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        asked.append(request)
        writer.write(answer(request) if callable(answer) else answer)
        await writer.drain()

    async with listening(serve) as port:
        yield port, asked


def http(status: str, body: str = "", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


async def probe(port: int, **action: Any) -> Checked:
    return await check(FakeRuntime(), {"httpGet": {"port": port, **action}, "timeoutSeconds": 2}, target(port))


@pytest.mark.parametrize(
    ("status", "outcome"),
    [("200 OK", "success"), ("204 No Content", "success"), ("404 Not Found", "failure"), ("500 Oh", "failure")],
)
async def test_status_decides(status: str, outcome: str) -> None:
    async with answering(http(status)) as (port, _):
        assert (await probe(port)).outcome == outcome


async def test_failure_shows_the_status_and_not_the_body() -> None:
    async with answering(http("503 No", "secret")) as (port, _):
        assert (await probe(port)).text == "HTTP probe failed with statuscode: 503"


async def test_request_carries_its_headers_and_path() -> None:
    async with answering(http("200 OK")) as (port, asked):
        headers = [{"name": "Host", "value": "app.example"}, {"name": "X-One", "value": "a\r\nb: c"}]
        await probe(port, path="/live?deep=1", httpHeaders=headers)
    text = asked[0].decode()
    assert text.startswith("GET /live?deep=1 HTTP/1.1\r\n")
    assert "host: app.example" in text
    assert "user-agent: kube-probe/1.34" in text
    assert "x-one: a  b: c\r\n" in text


async def test_port_may_be_a_name() -> None:
    async with answering(http("200 OK")) as (port, _):
        got = await check(FakeRuntime(), {"httpGet": {"port": "web"}}, target(port))
        assert got.outcome == "success"
        assert (await check(FakeRuntime(), {"httpGet": {"port": "no"}}, target(port))).outcome == "error"


async def test_redirect_to_the_same_host_is_followed() -> None:
    def answer(request: bytes) -> bytes:
        return http("200 OK") if request.startswith(b"GET /there") else http("302 Found", location="/there")

    async with answering(answer) as (port, asked):
        assert (await probe(port)).outcome == "success"
    assert len(asked) == 2


async def test_redirect_to_another_host_is_a_warning_and_not_followed() -> None:
    async with answering(http("302 Found", location="http://other.example/")) as (port, asked):
        assert (await probe(port)).outcome == "warning"
    assert len(asked) == 1


async def test_endless_redirects_fail() -> None:
    async with answering(http("302 Found", location="/")) as (port, asked):
        assert (await probe(port)).outcome == "failure"
    assert len(asked) == 10


async def test_refused_connection_is_a_failure() -> None:
    async with answering(b"") as (port, _):
        pass
    got = await probe(port)
    assert got.outcome == "failure"
    assert got.text.startswith(f'Get "http://127.0.0.1:{port}/": ')
    got = await check(FakeRuntime(), {"tcpSocket": {"port": port}}, target(port))
    assert got == Checked("failure", f"dial tcp 127.0.0.1:{port}: connect: connection refused")


async def test_open_port_is_success() -> None:
    async with answering(b"") as (port, _):
        assert await check(FakeRuntime(), {"tcpSocket": {"port": "web"}}, target(port)) == Checked("success")


async def test_probe_without_a_handler_is_an_error() -> None:
    assert (await check(FakeRuntime(), {}, target(1))).outcome == "error"


@given(st.text(max_size=60))
def test_any_path_makes_a_request_line(path: str) -> None:
    request = request_of({"port": 80, "path": path}, target(80), "probe")
    assert request.path.startswith("/")
    assert request.path.isascii()
    assert not set(request.path) & set(" \r\n")


# gRPC


def frame(type: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([type, flags]) + stream.to_bytes(4, "big") + payload


@asynccontextmanager
async def health(*frames: bytes) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(24 + 9)
        writer.write(b"".join(frames))
        await writer.drain()
        await reader.read(HEADER_LIMIT)

    async with listening(serve) as port:
        yield port


def message(status: int) -> bytes:
    return b"\0\0\0\0\x02\x08" + bytes([status])


HEAD = frame(4, 0, 0) + frame(1, 4, 1, b"\x88")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (1, (True, "service healthy")),
        (2, (False, 'service unhealthy (responded with "NOT_SERVING")')),
        (3, (False, 'service unhealthy (responded with "SERVICE_UNKNOWN")')),
    ],
)
async def test_service_says_whether_it_serves(status: int, expected: tuple[bool, str]) -> None:
    async with health(HEAD, frame(0, 0, 1, message(status))) as port:
        assert await serving("127.0.0.1", port, "app") == expected


async def test_answer_without_a_message_is_a_failure() -> None:
    async with health(HEAD, frame(1, 5, 1, b"\x88")) as port:
        healthy, text = await serving("127.0.0.1", port, "")
        assert not healthy
        assert "grpc.health.v1.Health" in text


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 64, frame(7, 0, 0, b"\0" * 8)])
async def test_server_of_another_kind_is_a_failure(garbage: bytes) -> None:
    async with health(garbage) as port:
        assert (await serving("127.0.0.1", port, ""))[0] is False


async def test_probe_of_a_grpc_service() -> None:
    async with health(HEAD, frame(0, 0, 1, message(1))) as port:
        spec: Obj = {"grpc": {"port": port, "service": "s"}}
        assert (await check(FakeRuntime(), spec, target(port))).outcome == "success"
