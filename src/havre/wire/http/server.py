"""Open a listener and serve HTTP/1.1 and HTTP/2 on it, over TLS or plain, TCP or a Unix socket.

    server = await serve(handler, host="127.0.0.1", port=6443, ssl=tls.server_context(...), on_error=as_status)
    ...
    await server.close(grace=10)

Over TLS the protocol is what ALPN chose; on plain connections a client that opens with the HTTP/2 preface gets HTTP/2
(prior knowledge), any other HTTP/1.1. The client certificate is read once per connection.

Closing is graceful: the listener goes first, streams end at once, running requests may finish within `grace`, HTTP/2
clients are told by GOAWAY and HTTP/1.1 clients by `Connection: close`; what is left then is dropped and its handlers
are cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl as tls
import stat
from pathlib import Path
from typing import cast

from havre.wire.http.framing import PREFACE
from havre.wire.http.h1 import Http1
from havre.wire.http.h2 import Http2
from havre.wire.http.message import Handler, Response
from havre.wire.http.receive import Receiver
from havre.wire.http.service import Limits, OnError, Service, Wanted
from havre.wire.tls import Peer, peer_of

__all__ = ["Limits", "OnError", "Server", "bound", "plain_error", "serve"]

BACKLOG = 4096  # connections waiting for accept: a restart of 1,000 informers with 4 connections each
KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))  # dead peer found in 60 s
FREEBIND = 15  # IP_FREEBIND of ip(7), which the socket module does not name
SWEEP = 1.0  # seconds between two looks at the time limits, which are tens of seconds


class Server:
    """A running listener; `close` it."""

    def __init__(self, service: Service, listener: asyncio.Server, address: str, port: int) -> None:
        self._service = service
        self._listener = listener
        self.address = address  # "127.0.0.1", or the path of the Unix socket
        self.port = port  # 0 for a Unix socket
        shortest = min(service.limits.head_seconds, service.limits.body_seconds, service.limits.idle_seconds)
        self._interval = min(SWEEP, shortest / 4)
        self._sweeper = service.loop.call_later(self._interval, self._sweep)

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._service.connections)

    async def close(self, grace: float = 0.0) -> None:
        """Stop accepting, let running requests end within `grace` seconds, drop the rest; returns when all is gone."""
        service = self._service
        service.retiring = True
        self._listener.close()
        if self.port == 0:
            _unlink(self.address)
        for connection in list(service.connections):
            connection.retire()
        await self._emptied(grace)
        for connection in list(service.connections):
            connection.abort()
        tasks = list(service.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._emptied(1.0)  # the transports report their end a turn of the loop later
        self._sweeper.cancel()

    async def _emptied(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._service.empty.wait(), seconds)

    def _sweep(self) -> None:
        service = self._service
        now = service.now = service.loop.time()
        for connection in list(service.connections):
            connection.sweep(now)
        self._sweeper = service.loop.call_later(self._interval, self._sweep)


class _Arrival(Receiver):
    """A fresh connection until its protocol is known."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.inbox)
        self._service = service
        self._data = b""
        self._since = service.now

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        session = transport.get_extra_info("ssl_object")
        if self._service.retiring:
            transport.close()
        elif session is None:
            self._service.join(self)
        else:
            self._hand_over(Http2 if session.selected_alpn_protocol() == "h2" else Http1, peer_of(session))

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._data.startswith(PREFACE):
            self._hand_over(Http2, None)
        elif not PREFACE.startswith(self._data):
            self._hand_over(Http1, None)

    def _hand_over(self, kind: type[Http1 | Http2], peer: Peer | None) -> None:
        self._service.leave(self)
        protocol = kind(self._service, self._transport, peer, *_remote(self._transport))
        self._transport.set_protocol(protocol)
        if self._data:
            protocol.data_received(self._data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.leave(self)

    def retire(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def sweep(self, now: float) -> None:
        if now - self._since > self._service.limits.head_seconds:
            self._transport.close()


def _remote(transport: asyncio.Transport) -> tuple[str, int]:
    peername = transport.get_extra_info("peername")
    return (str(peername[0]), int(peername[1])) if isinstance(peername, tuple) and peername else ("", 0)


def plain_error(status: int, why: str) -> Response:
    """The answer to a broken request when the caller has no format of its own."""
    return Response(status, [("content-type", "text/plain; charset=utf-8")], f"{why}\n".encode())


async def serve(
    handler: Handler,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    path: str | Path | None = None,
    sock: socket.socket | None = None,
    ssl: tls.SSLContext | None = None,
    limits: Limits | None = None,
    on_error: OnError = plain_error,
    uploads: Wanted | None = None,
) -> Server:
    """Listen on `host`:`port` (0 picks a free one), on the Unix socket `path` or on `sock`, which is `bound` already;
    connections are accepted on return.

    `on_error(status, why)` makes the answer to what never reaches the handler (400, 408, 413, 417, 431, 501, 505) and
    to a handler that raised (500). `uploads(request)` is asked when the head of a request with a body is there: True
    hands it over at once, the body as `request.upload`, of any size. Raises OSError when the address is taken.
    """
    service = Service(handler, limits or Limits(), on_error, uploads)
    listener = sock or (_unix_socket(Path(path)) if path is not None else bound(host, port))
    handshake = service.limits.handshake_seconds if ssl is not None else None
    running = await service.loop.create_server(
        lambda: _Arrival(service), sock=listener, ssl=ssl, backlog=BACKLOG, ssl_handshake_timeout=handshake
    )
    if path is not None:
        return Server(service, running, str(path), 0)
    address, number = listener.getsockname()[:2]
    return Server(service, running, str(address), int(number))


def bound(host: str, port: int, *, early: bool = False) -> socket.socket:
    """A TCP socket that holds `host`:`port` and does not listen yet; `early`: the machine may get this address later.

    Raises OSError when the address is taken.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # accepted sockets inherit these
        for option, value in KEEPALIVE:
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
        if early:
            listener.setsockopt(socket.IPPROTO_IP, FREEBIND, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"listen on {host}:{port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


def _unlink(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _unix_socket(path: Path) -> socket.socket:
    """A socket file that a dead instance left behind is replaced."""
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"listen on {path}: {error.strerror}") from error
    listener.setblocking(False)
    return listener
