"""The server behind the URLs that Exec, Attach and PortForward answer with.

A URL has a token of 128 random bits, is good for one connection and for a minute, and leads to the loopback interface:
whoever asked for it over the runtime's socket, which only root may, passes it on. The agent is the only one who does.

Source: k8s.io/kubelet pkg/cri/streaming (request cache, one minute, one thousand).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from havre.node.runtime.config import Config
from havre.node.runtime.errors import Failed
from havre.wire.http.message import Answer, Request, Response
from havre.wire.http.server import Server, serve
from havre.wire.streaming.errors import StreamingError
from havre.wire.streaming.negotiate import negotiate, negotiate_port_forward
from havre.wire.streaming.portforward import PortForward
from havre.wire.streaming.remotecommand import RemoteCommand, Streams

__all__ = ["Streaming"]

TOKEN_SECONDS = 60.0
WAITING_LIMIT = 1000  # URLs given out and not used yet


@dataclass(frozen=True, slots=True)
class _Command:
    streams: Streams
    run: Callable[[RemoteCommand], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Ports:
    run: Callable[[PortForward], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Waiting:
    kind: str
    until: float
    work: _Command | _Ports


class Streaming:
    """`open` it before URLs are asked for."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._waiting: dict[str, _Waiting] = {}
        self._server: Server | None = None

    async def open(self) -> None:
        """Raises OSError when the port is taken."""
        self._server = await serve(self._answer, host=self._config.streaming_host, port=self._config.streaming_port)

    async def close(self) -> None:
        """End every stream; what runs for a client ends with it."""
        if self._server is not None:
            await self._server.close()

    def command(self, kind: str, streams: Streams, run: Callable[[RemoteCommand], Awaitable[None]]) -> str:
        """A URL at which a client finds `run`; `kind` is "exec" or "attach". Raises Failed when too many wait."""
        return self._url(kind, _Command(streams, run))

    def ports(self, run: Callable[[PortForward], Awaitable[None]]) -> str:
        """A URL for a port-forward."""
        return self._url("portforward", _Ports(run))

    def _url(self, kind: str, work: _Command | _Ports) -> str:
        assert self._server is not None
        now = time.monotonic()
        self._waiting = {token: waiting for token, waiting in self._waiting.items() if waiting.until > now}
        if len(self._waiting) >= WAITING_LIMIT:
            raise Failed(f"{kind}: {WAITING_LIMIT} streaming URLs are waiting for their clients; try again in a minute")
        token = secrets.token_urlsafe(16)
        self._waiting[token] = _Waiting(kind, now + TOKEN_SECONDS, work)
        return f"http://{self._server.address}:{self._server.port}/{kind}/{token}"

    def _answer(self, request: Request) -> Answer:
        _, _, rest = request.path.partition("/")
        kind, _, token = rest.partition("/")
        waiting = self._waiting.get(token)
        if waiting is None or waiting.kind != kind or waiting.until <= time.monotonic():
            return Response(404, [("content-type", "text/plain")], b"this URL was used, or is older than a minute\n")
        try:
            answer = _upgrade(request, waiting.work)
        except StreamingError as error:
            return error.answer()  # the URL stays good: kubectl tries WebSocket first, then SPDY
        del self._waiting[token]
        return answer


def _upgrade(request: Request, work: _Command | _Ports) -> Answer:
    if isinstance(work, _Command):
        return negotiate(request, work.streams).upgrade(work.run)
    return negotiate_port_forward(request).upgrade(work.run)
