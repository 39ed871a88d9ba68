from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from havre.wire.http.client import Client
from havre.wire.http.errors import ConnectFailed
from havre.wire.http.proxy import proxy_for
from havre.wire.http.server import Server

Serving = Callable[..., AbstractAsyncContextManager[Server]]


@asynccontextmanager
async def proxying(asked: list[bytes], answer: bytes = b"HTTP/1.1 200 ok\r\n\r\n") -> AsyncIterator[str]:
    """A proxy that notes what it is asked and connects to the port that is named."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        if b" 200 " not in answer:
            writer.close()
            return
        port = int(asked[-1].split(b" ")[1].rpartition(b":")[2])
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, other_writer), copy(other_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_tls_goes_through_the_proxy_to_the_server_itself(serving: Serving, files: Any) -> None:
    asked: list[bytes] = []
    async with serving(ssl=files.server_context()) as server, proxying(asked) as door:
        url, context = f"https://localhost:{server.port}", files.client_context()
        async with Client(url, ssl=context, proxy=f"http://user:p%40ss@{door}") as client:
            for _ in range(2):
                assert (await client.request("PUT", "/x", body=bytes(100_000))).status == 200
    assert asked == [
        f"CONNECT localhost:{server.port} HTTP/1.1\r\nhost: localhost:{server.port}\r\n"
        "proxy-authorization: Basic dXNlcjpwQHNz\r\n\r\n".encode()
    ]


async def test_a_proxy_in_the_middle_cannot_pretend_to_be_the_server(serving: Serving, files: Any) -> None:
    async with serving(ssl=files.server_context()) as server, proxying([]) as door:
        client = Client(f"https://other.example:{server.port}", ssl=files.client_context(), proxy=door)
        with pytest.raises(ConnectFailed, match="not trusted"):
            await client.request("GET", "/")
        await client.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 Proxy Authentication Required"),
        (b"nonsense\r\n\r\n", "nonsense"),
        (b"", "closed the connection"),
    ],
)
async def test_a_proxy_that_refuses_is_named(files: Any, answer: bytes, why: str) -> None:
    async with proxying([], answer) as door:
        client = Client("https://x.example", ssl=files.client_context(), proxy=door)
        with pytest.raises(ConnectFailed, match=f"the proxy {door} answered .*{why}"):
            await client.request("GET", "/")
        await client.close()


async def test_a_proxy_that_is_none_is_refused(files: Any) -> None:
    async with Client("https://x.example", ssl=files.client_context(), proxy="socks5://p:1") as client:
        with pytest.raises(ConnectFailed, match="must look like"):
            await client.request("GET", "/")


@pytest.mark.parametrize(
    ("excluded", "host", "proxied"),
    [
        ("", "registry.example", True),
        ("*", "registry.example", False),
        ("registry.example", "registry.example", False),
        ("registry.example", "a.registry.example", False),
        (".registry.example", "registry.example", True),
        ("*.registry.example", "a.registry.example", False),
        ("gistry.example", "registry.example", True),
        ("x, 10.0.0.0/8 ", "10.1.2.3", False),
        ("10.0.0.0/8", "11.1.2.3", True),
        ("registry.example:443", "registry.example", False),
        ("registry.example:5000", "registry.example", True),
        ("", "localhost", False),
        ("", "127.0.0.1", False),
    ],
)
def test_the_environment_says_which_hosts_are_reached_directly(excluded: str, host: str, *, proxied: bool) -> None:
    environment = {"HTTPS_PROXY": "http://p:1", "NO_PROXY": excluded}
    assert proxy_for(host, 443, environment) == ("http://p:1" if proxied else None)


def test_without_a_proxy_in_the_environment_there_is_none() -> None:
    assert proxy_for("registry.example", 443, {}) is None
