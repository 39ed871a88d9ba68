"""A server on a free port, TLS files, and a raw client that says exactly the bytes a test wants."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop

from havre.wire import tls
from havre.wire.http.message import Answer, Handler, Request, Response
from havre.wire.http.server import Server, serve

Talk = Callable[..., Awaitable[bytes]]
Serving = Callable[..., AbstractAsyncContextManager[Server]]


@pytest.fixture
def event_loop_policy() -> Any:
    return uvloop.EventLoopPolicy()


@dataclass(frozen=True)
class Files:
    """An authority, a server, a client it signed and a client somebody else signed."""

    directory: Path
    authority: tls.Pair
    client: tls.Pair
    stranger: tls.Pair

    def server_context(self) -> ssl.SSLContext:
        at = self.directory
        return tls.server_context(at / "server.crt", at / "server.key", client_ca=at / "ca.crt")

    def client_context(self, pair: tls.Pair | None = None, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
        shown = pair or tls.Pair(b"", b"")
        return tls.client_context(self.authority.certificate, shown.certificate or None, shown.key or None, alpn=alpn)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory = tmp_path_factory.mktemp("tls")
    authority = tls.new_authority("havre-test")
    tls.save(directory, "ca", authority)
    tls.save(
        directory,
        "server",
        tls.issue(authority, tls.Subject("server"), server=True, names=["127.0.0.1", "localhost"]),
    )
    client = tls.issue(authority, tls.Subject("alice", ("dev", "ops")), client=True)
    tls.save(directory, "client", client)
    stranger = tls.issue(tls.new_authority("other"), tls.Subject("mallory"), client=True)
    return Files(directory, authority, client, stranger)


def _describe(request: Request) -> Answer:
    """Says what it was asked."""
    return Response(200, [], f"{request.method} {request.path}?{request.query} {request.body.decode()}".encode())


@asynccontextmanager
async def _serving(handler: Handler = _describe, **options: Any) -> AsyncIterator[Server]:
    server = await serve(handler, **options)
    try:
        yield server
    finally:
        await server.close()


async def _talk(server: Server, *pieces: bytes, eof: bool = False) -> bytes:
    """Send the pieces one by one, return all that comes until the server closes; the last request must ask for that."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0)
    if eof:
        writer.write_eof()
    async with asyncio.timeout(5):
        data = await reader.read()
    writer.close()
    return data


@pytest.fixture
def serving() -> Serving:
    """`async with serving(handler, **options of serve) as server`; the default handler says what it was asked."""
    return _serving


@pytest.fixture
def talk() -> Talk:
    return _talk
