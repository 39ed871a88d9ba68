"""The one HTTP client of Havre: HTTP/1.1, keep-alive, streamed replies, upgrades, over TCP, TLS or a Unix socket.

    async with Client("https://127.0.0.1:6443", ssl=tls.client_context(ca, crt, key)) as api:
        reply = await api.request("GET", "/version")
        async with api.stream("GET", "/api/v1/pods?watch=true") as watch:
            async for chunk in watch.chunks: ...

A request takes an idle connection or opens one; at most `connections` requests run at once, the next wait. A stream and
an upgrade own their connection. A kept-alive connection that the server closed meanwhile is noticed only when it is
used: then the request is sent once more on a fresh one, if that is safe (see `_may_repeat`). Redirects are not
followed, bodies are not decompressed, statuses are not judged.
"""

from __future__ import annotations

import asyncio
import re
import ssl as tls
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from havre.wire.http.errors import (
    ConnectFailed,
    Disconnected,
    HttpError,
    ProtocolError,
    ReplyTooLarge,
    TimedOut,
    UpgradeRefused,
)
from havre.wire.http.proxy import connect
from havre.wire.http.receive import Receiver, inbox
from havre.wire.http.tunnel import Tunnel
from havre.wire.tls import client_context

CONNECTIONS = 32  # requests at once: beyond this a single server answers later, not faster
IDLE_KEPT = 8  # idle connections kept for the next request
IDLE_SECONDS = 60.0  # below the 90 s after which Go servers close an idle connection
STALE_SECONDS = 0.5  # a connection that died younger than this was in use: the server may have seen the request
HIGH = 1024 * 1024  # bytes of a streamed reply kept for a slow reader
REPLY = 256 * 1024 * 1024  # bytes of a whole reply: LIST of 100,000 objects of 2 KiB
HEAD_FIELDS = 256  # header fields of a reply
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
_TARGET = re.compile(r"/[!-~]*\Z").match


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    headers: dict[str, str]  # names in lower case; repeated ones joined by ", "
    body: bytes


@dataclass(frozen=True, slots=True)
class StreamReply:
    """The head of an answer; `chunks` gives the body as it arrives."""

    status: int
    headers: dict[str, str]
    chunks: AsyncIterator[bytes]

    async def read(self, limit: int = REPLY) -> bytes:
        """What is left of the body. Raises ReplyTooLarge."""
        parts: list[bytes] = []
        size = 0
        async for chunk in self.chunks:
            size += len(chunk)
            if size > limit:
                raise ReplyTooLarge(f"the reply is longer than {limit} bytes")
            parts.append(chunk)
        return b"".join(parts)


class _Line(Receiver):
    """One connection to the server; one request at a time."""

    def __init__(self, where: str, buffer: memoryview) -> None:
        super().__init__(buffer)
        self._where = where
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self.used_at = self._loop.time()
        self.requests = 0
        self.lost: Exception | None = None
        self.heir: Tunnel | None = None  # it has the transport now
        self._reset("GET")

    def _reset(self, method: str) -> None:
        self._parser = HttpResponseParser(self)
        self._method = method
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._fields = 0
        self._error: HttpError | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.headed = self.complete = self.answered = False
        self.reusable = False
        self.early = b""

    def send(self, method: str, head: bytes, body: bytes) -> None:
        self._reset(method)
        self.requests += 1
        self.transport.write(head + body if len(body) < 64 * 1024 else head)
        if len(body) >= 64 * 1024:
            self.transport.write(body)

    async def head(self) -> None:
        """Wait for the status and the headers."""
        while not self.headed:
            await self._wait()

    async def chunk(self) -> bytes:
        """What has arrived of the body, at least one byte; b"" at its end."""
        while not self._chunks:
            if self.complete:
                return b""
            await self._wait()
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._held = 0
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        return data

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        if self.lost is not None:
            raise self.lost
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def usable(self) -> bool:
        """It may carry the next request."""
        return self.lost is None and not self.transport.is_closing()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.complete or self.requests == 0:  # nobody asked
            self.transport.abort()
            return
        self.answered = True
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self.early = data[upgrade.args[0] :]
        except HttpParserError as error:
            self._error = self._error or ProtocolError(
                f"{self._where} answered with something that is not HTTP: {error}"
            )
            self.transport.abort()
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        reason = f": {exc}" if exc is not None else ""
        self.lost = Disconnected(f"{self._where} closed the connection before its answer was complete{reason}")
        if self.headed and not self.complete and exc is None and not self._delimited():
            self.complete = True  # a body that ends with the connection
        if self.heir is not None:  # the end was on its way to us when the tunnel took our place
            self.heir.connection_lost(exc)
        self._wake()

    def _delimited(self) -> bool:
        return "content-length" in self.headers or "transfer-encoding" in self.headers

    # callbacks of httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.headed:
            return  # trailers
        self._fields += 1
        if self._fields > HEAD_FIELDS:
            self._error = ProtocolError(f"{self._where} answered with more than {HEAD_FIELDS} header fields")
            raise self._error
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            return  # the answer proper follows
        self.status = status
        self.headed = True
        if self._method == "HEAD" or status == 101:
            self.complete = True
            self.reusable = status != 101 and self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        self._chunks.append(data)
        self._held += len(data)
        if self._held > HIGH and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        if not self.headed:
            self.headers = {}
            self._fields = 0
        elif not self.complete:
            self.complete = True
            self.reusable = self._parser.should_keep_alive()


class Client:
    """Requests to one server. Make it once, close it at the end."""

    def __init__(
        self,
        base_url: str,
        *,
        ssl: tls.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        path: str | None = None,
        timeout: float = 30.0,
        connections: int = CONNECTIONS,
        server_name: str | None = None,
        proxy: str | None = None,
    ) -> None:
        """`base_url` is `http[s]://host[:port][/prefix]`; with `path` the connection goes to that Unix socket instead.

        `headers` go with every request; `server_name` is the name its certificate must have, when it is not the host.
        `timeout` (seconds) is the default of each request, connecting included. TLS connections go through the HTTP
        proxy `proxy`, `http://host:port`, when there is one.
        """
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"base URL {base_url!r}: it must look like https://host:port")
        self._host = url.hostname
        self._server_name = server_name
        self._proxy = proxy
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._prefix = url.path.rstrip("/")
        self._path = path
        self._ssl = (ssl or client_context()) if url.scheme == "https" else None
        self._where = path or f"{url.hostname}:{self._port}"
        self._fields = {"host": url.netloc.rpartition("@")[2], **{k.lower(): v for k, v in (headers or {}).items()}}
        self._timeout = timeout
        self._inbox = inbox()
        self._idle: list[_Line] = []
        self._busy: set[_Line] = set()
        self._slots = asyncio.Semaphore(connections)
        self._closed = False

    @property
    def idle(self) -> bool:
        """No request runs; those that still wait for a connection are not seen."""
        return not self._busy

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop all connections; what still runs fails."""
        self._closed = True
        for line in [*self._idle, *self._busy]:
            line.transport.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # the transports report their end in the next turn of the loop

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout: float | None = None,
        limit: int = REPLY,
    ) -> Reply:
        """The whole answer, at most `limit` bytes of body. Raises HttpError."""
        head = self._head(method, target, headers, body)
        seconds = self._timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(seconds), self._slots:
                line = await self._exchange(method, head, body)
                try:
                    data = await self._body(line, limit)
                finally:
                    self._release(line)
        except TimeoutError:
            raise TimedOut(f"{method} {target} of {self._where}: no answer within {seconds:g} s") from None
        return Reply(line.status, line.headers, data)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout: float | None = None,
    ) -> AsyncIterator[StreamReply]:
        """The head, then the body as it arrives; `timeout` is for the head only. Leaving early drops the connection."""
        line = await self._open(method, target, self._head(method, target, headers, body), body, timeout)
        chunks = self._chunks(line)
        try:
            yield StreamReply(line.status, line.headers, chunks)
        finally:
            await chunks.aclose()
            self._release(line)

    async def upgrade(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        timeout: float | None = None,
    ) -> Tunnel:
        """Switch the protocol of a connection and hand it over; `headers` holds `Upgrade`. Raises UpgradeRefused."""
        head = self._head(method, target, {**headers, "connection": "Upgrade"}, b"")
        line = await self._open(method, target, head, b"", timeout)
        if line.status != 101:
            try:
                async with asyncio.timeout(self._timeout if timeout is None else timeout):
                    data = await self._body(line, HIGH)
            except TimeoutError:
                data = b""
            finally:
                self._release(line)
            shown = data[:200].decode(errors="replace")
            raise UpgradeRefused(
                f"{method} {target} of {self._where}: answered {line.status} instead of switching protocols: {shown}",
                status=line.status,
                headers=line.headers,
                body=data,
            )
        self._busy.discard(line)
        tunnel = Tunnel(line.transport, line.early, line.inbox)
        tunnel.headers = line.headers
        line.transport.set_protocol(tunnel)
        line.heir = tunnel
        if line.lost is not None:
            tunnel.connection_lost(None)
        return tunnel

    def _head(self, method: str, target: str, headers: Mapping[str, str] | None, body: bytes) -> bytes:
        fields = dict(self._fields)
        fields.update((name.lower(), value) for name, value in (headers or {}).items())
        if body or method in ("POST", "PUT", "PATCH"):
            fields["content-length"] = str(len(body))
        path = self._prefix + target
        lines = [f"{method} {path} HTTP/1.1", *[f"{name}: {value}" for name, value in fields.items()]]
        whole = "\r\n".join(lines)
        if _TARGET(path) is None or whole.count("\n") != len(lines) - 1 or whole.count("\r") != len(lines) - 1:
            raise ValueError(f"{method} {target!r}: the target must be percent-encoded and headers without line breaks")
        return f"{whole}\r\n\r\n".encode()

    async def _open(self, method: str, target: str, head: bytes, body: bytes, timeout: float | None) -> _Line:
        seconds = self._timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(method, head, body)
        except TimeoutError:
            raise TimedOut(f"{method} {target} of {self._where}: no answer within {seconds:g} s") from None

    async def _exchange(self, method: str, head: bytes, body: bytes) -> _Line:
        """Send, and wait for the head of the answer; once more on a fresh connection if the kept one was stale."""
        line = self._kept() or await self._connect()
        fresh = line.requests == 0
        idle = asyncio.get_running_loop().time() - line.used_at
        try:
            return await self._ask(line, method, head, body)
        except Disconnected:
            if fresh or not _may_repeat(method, answered=line.answered, idle=idle):
                raise
        return await self._ask(await self._connect(), method, head, body)

    async def _ask(self, line: _Line, method: str, head: bytes, body: bytes) -> _Line:
        self._busy.add(line)
        try:
            line.send(method, head, body)
            await line.head()
        except BaseException:
            self._busy.discard(line)
            line.transport.abort()
            raise
        return line

    def _kept(self) -> _Line | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            line = self._idle.pop()
            if line.usable and now - line.used_at < IDLE_SECONDS:
                return line
            line.transport.abort()
        return None

    async def _connect(self) -> _Line:
        if self._closed:
            raise ConnectFailed(f"connect to {self._where}: this client has been closed")
        loop = asyncio.get_running_loop()
        name = (self._server_name or self._host) if self._ssl is not None else None
        try:
            if self._path is not None:
                _, line = await loop.create_unix_connection(
                    lambda: _Line(self._where, self._inbox), self._path, ssl=self._ssl, server_hostname=name
                )
            elif self._proxy is not None and self._ssl is not None:
                fresh = _Line(self._where, self._inbox)
                line = await connect(self._proxy, self._host, self._port, self._ssl, name or self._host, fresh)
            else:
                _, line = await loop.create_connection(
                    lambda: _Line(self._where, self._inbox), self._host, self._port, ssl=self._ssl, server_hostname=name
                )
        except OSError as error:  # ssl.SSLError and socket.gaierror are among them
            raise ConnectFailed(f"connect to {self._where}: {_reason(error)}") from error
        return line

    async def _body(self, line: _Line, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while chunk := await line.chunk():
            size += len(chunk)
            if size > limit:
                raise ReplyTooLarge(f"the reply of {self._where} is longer than {limit} bytes")
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @staticmethod
    async def _chunks(line: _Line) -> AsyncGenerator[bytes, None]:
        while chunk := await line.chunk():
            yield chunk

    def _release(self, line: _Line) -> None:
        """Keep the connection for the next request, if the answer was read to its end."""
        self._busy.discard(line)
        if line.complete and line.reusable and line.usable and not self._closed and len(self._idle) < IDLE_KEPT:
            line.used_at = asyncio.get_running_loop().time()
            self._idle.append(line)
        elif not line.transport.is_closing():
            line.transport.abort()


def _may_repeat(method: str, *, answered: bool, idle: float) -> bool:
    """Whether a request that died on a kept connection may be sent again.

    An idempotent one always. Another only when no byte was answered and the connection had been idle: then the server
    closed it for its age before the request arrived, while a busy connection that dies means that the server died at
    work. Source: RFC 9110, 9.2.2.
    """
    return method in IDEMPOTENT or (not answered and idle > STALE_SECONDS)


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused; is it running?"
    if isinstance(error, FileNotFoundError):
        return "no such socket; is it running?"
    if isinstance(error, tls.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; check the certificate authority"
    if isinstance(error, tls.SSLError):
        return f"TLS handshake failed: {error.reason or error}"
    return error.strerror or str(error) or type(error).__name__
