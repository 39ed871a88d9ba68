from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from havre.wire.http.client import Client
from havre.wire.http.errors import HttpError
from havre.wire.http.message import Answer, Peer, Request, Response, Stream, Upgrade, Writer
from havre.wire.http.server import Limits, Server, serve

Serving = Callable[..., AbstractAsyncContextManager[Server]]
Talk = Callable[..., Awaitable[bytes]]

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"


async def test_a_silent_connection_and_half_a_preface_are_closed(serving: Serving, talk: Talk) -> None:
    async with serving(limits=Limits(head_seconds=0.02)) as server:
        assert await talk(server) == b""
        assert await talk(server, b"PRI * HT") == b""


async def test_closing_lets_the_running_request_end_and_says_so(serving: Serving) -> None:
    begun = asyncio.Event()

    async def slow() -> Answer:
        begun.set()
        await asyncio.sleep(0.02)
        return Response(200, [], b"done")

    async with serving(lambda request: slow()) as server:
        idle_reader, idle = await asyncio.open_connection("127.0.0.1", server.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(GET)
        await begun.wait()
        await server.close(grace=2)
        data = await reader.read()
        assert data.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close\r\n" in data
        assert data.endswith(b"done")
        assert await idle_reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        writer.close()
        idle.close()


async def test_closing_ends_streams_at_once_and_cancels_what_outlives_the_grace(serving: Serving) -> None:
    begun, cancelled, closed = asyncio.Event(), asyncio.Event(), []

    async def forever() -> Answer:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    def start(writer: Writer) -> None:
        writer.on_close = lambda: closed.append(1)
        writer.write(b"last words")

    def handler(request: Request) -> Answer | Awaitable[Answer]:
        return Stream(200, [], start) if request.path == "/watch" else forever()

    async with serving(handler) as server:
        reader, watch = await asyncio.open_connection("127.0.0.1", server.port)
        _, stuck = await asyncio.open_connection("127.0.0.1", server.port)
        watch.write(b"GET /watch HTTP/1.1\r\nHost: a\r\n\r\n")
        stuck.write(GET)
        await begun.wait()
        await server.close(grace=0.02)
        assert (await reader.read()).endswith(b"\r\n\r\na\r\nlast words\r\n0\r\n\r\n")
        assert (closed, cancelled.is_set(), server.connections) == ([1], True, 0)
        watch.close()
        stuck.close()


async def test_closing_drops_tunnels_after_the_grace(serving: Serving) -> None:
    begun = asyncio.Event()

    async def run(tunnel: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with serving(lambda request: Upgrade([("upgrade", "x")], run)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        await begun.wait()
        await server.close(grace=0.01)
        assert (await reader.read()).startswith(b"HTTP/1.1 101 ")
        writer.close()


async def test_a_unix_socket_is_served_and_removed(serving: Serving, tmp_path: Path) -> None:
    path = tmp_path / "s"
    left_behind = socket.socket(socket.AF_UNIX)
    left_behind.bind(str(path))
    left_behind.close()
    async with serving(path=path) as server, Client("http://unix", path=str(path)) as client:
        assert (server.address, server.port) == (str(path), 0)
        assert (await client.request("GET", "/a")).body == b"GET /a? "
    assert not path.exists()


async def test_an_address_that_is_taken_is_named(serving: Serving) -> None:
    async with serving() as server:
        with pytest.raises(OSError, match=rf"listen on 127\.0\.0\.1:{server.port}: .*in use"):
            await serve(lambda request: Response(200, []), port=server.port)


def who(request: Request) -> Answer:
    return Response(200, [], repr(request.peer and (request.peer.common_name, request.peer.organizations)).encode())


async def test_a_client_certificate_is_welcome_and_not_required(serving: Serving, files: Any) -> None:
    async with serving(who, ssl=files.server_context()) as server:
        for pair, expected in ((files.client, b"('alice', ('dev', 'ops'))"), (None, b"None")):
            async with Client(f"https://127.0.0.1:{server.port}", ssl=files.client_context(pair)) as client:
                assert (await client.request("GET", "/")).body == expected


async def test_a_certificate_of_somebody_else_fails_the_handshake(serving: Serving, files: Any) -> None:
    async with serving(who, ssl=files.server_context()) as server:
        context = files.client_context(files.stranger)
        async with Client(f"https://127.0.0.1:{server.port}", ssl=context) as client:
            with pytest.raises(HttpError):
                await client.request("GET", "/")


async def test_the_certificate_is_read_once_for_a_connection(serving: Serving, files: Any) -> None:
    peers: list[Peer | None] = []

    def handler(request: Request) -> Answer:
        peers.append(request.peer)
        return Response(200, [])

    async with (
        serving(handler, ssl=files.server_context()) as server,
        Client(f"https://127.0.0.1:{server.port}", ssl=files.client_context(files.client)) as client,
    ):
        for _ in range(3):
            await client.request("GET", "/")
    assert peers[0] is peers[1] is peers[2]
    assert peers[0] is not None
    assert ssl.DER_cert_to_PEM_cert(peers[0].der).encode().split() == files.client.certificate.split()


async def test_a_tunnel_works_over_tls(serving: Serving, files: Any) -> None:
    async def run(tunnel: Any) -> None:
        while data := await tunnel.read():
            tunnel.write(data.upper())

    async with (
        serving(lambda request: Upgrade([("upgrade", "x")], run), ssl=files.server_context()) as server,
        Client(f"https://127.0.0.1:{server.port}", ssl=files.client_context()) as client,
    ):
        tunnel = await client.upgrade("POST", "/exec", headers={"upgrade": "x"})
        tunnel.write(b"x" * 300_000)
        await tunnel.drain()
        received = b""
        async with asyncio.timeout(5):
            while len(received) < 300_000:
                received += await tunnel.read()
        assert received == b"X" * 300_000
        tunnel.close()


async def test_every_writer_of_many_gets_every_event(serving: Serving, files: Any) -> None:
    writers: list[Writer] = []
    async with serving(lambda request: Stream(200, [], writers.append), ssl=files.server_context()) as server:

        async def watch() -> bytes:
            url = f"https://127.0.0.1:{server.port}"
            async with Client(url, ssl=files.client_context()) as client, client.stream("GET", "/") as reply:
                return await reply.read()

        watching = [asyncio.ensure_future(watch()) for _ in range(10)]
        async with asyncio.timeout(5):
            while len(writers) < 10:  # noqa: ASYNC110 - only the handler knows
                await asyncio.sleep(0.001)
            for event in range(5):
                for writer in writers:
                    writer.write(b"%d" % event * 1000)
            for writer in writers:
                writer.close()
            assert await asyncio.gather(*watching) == [b"".join(b"%d" % event * 1000 for event in range(5))] * 10
