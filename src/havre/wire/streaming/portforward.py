"""`PortForward`: the connections that a client forwards to a pod, each a pair of a port and a duplex stream.

    async def run(session: PortForward) -> None:
        async with asyncio.TaskGroup() as tasks:
            async for forwarded in session:                 ends when the client leaves
                tasks.create_task(forward(forwarded))       forwarded.port, read, write, finish, fail, close

    SPDY       a connection is two streams with the same `requestID`, `streamType` data and error, and a `port`
    WebSocket  v4.channel.k8s.io: the query names the ports; channels 2i data and 2i+1 error of the i-th, each begins
               with the port as two bytes, the lower first

Source: k8s.io/kubelet, pkg/cri/streaming/portforward/{httpstream,websocket}.go; k8s.io/client-go,
tools/portforward.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from havre.wire.http.message import Tunnel
from havre.wire.streaming.channels import Channels
from havre.wire.streaming.remotecommand import Sink, Source, beside
from havre.wire.streaming.spdy import Link, Session, Stream
from havre.wire.streaming.spdy_frames import Reset
from havre.wire.streaming.websocket import Socket

log = logging.getLogger(__name__)

PAIR_SECONDS = 30.0  # for the second stream of a pair to come, as the kubelet waits
PORTS = 127  # of one WebSocket: two channels each, in one byte


class Duplex(Source, Sink, Protocol):
    """A stream of both directions."""

    def finish(self) -> None:
        """End our direction."""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """One connection to `port` in the pod."""

    port: int
    data: Duplex
    error: Duplex

    async def read(self) -> bytes:
        """What the client sent, at least one byte; b"" at the end."""
        return await self.data.read()

    async def write(self, data: bytes) -> None:
        """Raises ConnectionResetError when the client has left the connection."""
        await self.data.write(data)

    def finish(self) -> None:
        """The pod has ended its direction; the client may still send."""
        self.data.finish()

    async def fail(self, message: str) -> None:
        """Tell the client, who prints it, why the port cannot be forwarded."""
        try:
            await self.error.write(message.encode())
        except ConnectionResetError:
            log.debug("a client left before the reason of its failure")

    def close(self) -> None:
        """The connection is done with."""
        self.data.finish()
        self.error.finish()


class PortForward:
    """An async iterator of `Forwarded`, until the client leaves."""

    def __init__(self, closed: asyncio.Event) -> None:
        self.closed = closed  # set when the client has left
        self._waiting: asyncio.Queue[Forwarded | None] = asyncio.Queue()

    def __aiter__(self) -> AsyncIterator[Forwarded]:
        return self

    async def __anext__(self) -> Forwarded:
        found = await self._waiting.get()
        if found is None:
            self._waiting.put_nowait(None)
            raise StopAsyncIteration
        return found

    def add(self, forwarded: Forwarded) -> None:
        self._waiting.put_nowait(forwarded)

    def end(self) -> None:
        """No more connections will come."""
        self._waiting.put_nowait(None)


Run = Callable[[PortForward], Awaitable[None]]


# SPDY


async def serve_spdy(link: Link, run: Run) -> None:
    """Forward for a client that opens pairs of streams, directly or inside WebSocket messages."""
    pairs = _Pairs()
    session = Session(link, pairs.accept)
    pairs.forward = forward = PortForward(session.closed)

    async def read() -> None:
        try:
            await session.run()
        finally:
            forward.end()

    try:
        async with beside(read()):
            await _run(forward, run)
            await session.leave()
    finally:
        pairs.close()


@dataclass(slots=True)
class _Half:
    stream: Stream
    timer: asyncio.TimerHandle


@dataclass(slots=True)
class _Pairs:
    """Joins data and error streams; one that stays alone is reset after a while."""

    forward: PortForward | None = None
    halves: dict[tuple[str, str], _Half] = field(default_factory=dict)

    def accept(self, stream: Stream) -> None:
        """Source: portforward/httpstream.go, httpStreamReceived and requestID."""
        kind, port = stream.headers.get("streamtype", ""), _port(stream.headers.get("port", ""))
        if kind not in ("data", "error") or not port:
            log.info("a client opened a stream that forwards nothing", extra={"headers": dict(stream.headers)})
            stream.reset(Reset.PROTOCOL_ERROR)
            return
        request = stream.headers.get("requestid") or _request_of_old_clients(stream, kind)
        if (kind, request) in self.halves:
            stream.reset(Reset.PROTOCOL_ERROR)
            return
        stream.reply()
        other = self.halves.pop(("error" if kind == "data" else "data", request), None)
        if other is None:
            timer = asyncio.get_running_loop().call_later(PAIR_SECONDS, self._alone, kind, request)
            self.halves[kind, request] = _Half(stream, timer)
            return
        other.timer.cancel()
        data, error = (stream, other.stream) if kind == "data" else (other.stream, stream)
        assert self.forward is not None
        self.forward.add(Forwarded(port, data, error))

    def _alone(self, kind: str, request: str) -> None:
        half = self.halves.pop((kind, request))
        log.info("the second stream of a forwarded connection did not come", extra={"request": request})
        half.stream.reset()

    def close(self) -> None:
        for half in self.halves.values():
            half.timer.cancel()
        self.halves.clear()


def _request_of_old_clients(stream: Stream, kind: str) -> str:
    """Clients of Kubernetes 1.0 name no request: they open the error stream, then at once the data stream."""
    return f"#{stream.id if kind == 'error' else stream.id - 2}"


def _port(text: str) -> int:
    """0 for what is no port."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        return 0
    number = int(text)
    return number if number < 65536 else 0


# WebSocket


async def serve_websocket(tunnel: Tunnel, ports: tuple[int, ...], run: Run, *, text: bool) -> None:
    """Forward the ports that the query named, one connection each."""
    channels = Channels(Socket(tunnel), tuple(range(0, 2 * len(ports), 2)), text=text, closable=False)
    forward = PortForward(channels.socket.closed)
    async with beside(channels.run()):
        try:
            for i, port in enumerate(ports):
                for channel in (2 * i, 2 * i + 1):
                    await channels.write(channel, struct.pack("<H", port))
                forward.add(Forwarded(port, _Channel(channels, 2 * i), _Channel(channels, 2 * i + 1)))
        except ConnectionResetError:
            return
        forward.end()
        await _run(forward, run)
        await channels.leave()


@dataclass(frozen=True, slots=True)
class _Channel:
    channels: Channels
    number: int

    async def read(self) -> bytes:
        return await self.channels.inputs[self.number].read()

    async def write(self, data: bytes) -> None:
        if data:
            await self.channels.write(self.number, data)

    def finish(self) -> None:
        """A channel has no end of its own: the WebSocket ends when all connections have."""


async def _run(forward: PortForward, run: Run) -> None:
    try:
        await run(forward)
    except ConnectionResetError:
        log.debug("a client left its forwarded ports")
