"""Serve gRPC on a Unix socket.

    server = await serve(run / "containerd.sock", [Service("runtime.v1.RuntimeService", {"Version": version})])
    ...
    await server.close()

A handler is given the request and the metadata (headers in lower case, such as `containerd-namespace`):

    unary              async def version(request, metadata) -> reply
    server streaming   async def events(request, metadata):  yield reply …          an async generator
    client streaming   the request is an async iterator of requests; both shapes of answer are possible

What the methods take and give is read from the packaged descriptors. When the client gives up or its deadline passes,
the handler's task is cancelled. A handler raises GrpcError; anything else is a bug, is logged here with its traceback
and answered UNKNOWN with its message.

The socket appears under its name only when it is ready and has mode 0600; a stale one is replaced, a live one is an
error.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpclib.server
from google.protobuf.descriptor import MethodDescriptor
from grpclib.const import Cardinality, Handler
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol

from havre.wire.grpc.errors import LOST, GrpcError, Status
from havre.wire.grpc.framing import LIMIT, receive
from havre.wire.grpc.messages import message_class, method

log = logging.getLogger(__name__)

BACKLOG = 128  # connections that wait for accept; a client keeps one open

Method = Callable[[Any, Mapping[str, str]], Any]  # → Awaitable[reply] or AsyncGenerator[reply]
_Call = Callable[[Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Service:
    """The methods of one service that are served; the others of its descriptor answer UNIMPLEMENTED."""

    name: str  # in full: runtime.v1.RuntimeService
    methods: Mapping[str, Method] = field(default_factory=dict)


class Server:
    """A running listener; `close` it."""

    def __init__(self, path: Path, inode: int, listener: _Listener) -> None:
        self.path = path
        self._inode = inode
        self._listener = listener

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._listener.open)

    async def close(self) -> None:
        """Stop accepting, cancel what runs, drop all connections; the socket goes, unless another took its name."""
        try:
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        except FileNotFoundError:
            pass
        self._listener.close()
        for connection in list(self._listener.open):
            connection.processor.close("the server stops")
        await self._listener.wait_closed()


async def serve(path: Path, services: Sequence[Service]) -> Server:
    """Listen on the Unix socket `path`; connections are accepted on return.

    Raises OSError when a live server has the path, KeyError when a service or method has no descriptor.
    """
    listener = _Listener([_Mapping(service) for service in services])
    bound = await asyncio.to_thread(_bind, path)
    try:
        await listener.start(path=None, sock=bound, backlog=BACKLOG)
        inode = await asyncio.to_thread(_publish, path)
    except BaseException:
        bound.close()
        raise
    return Server(path, inode, listener)


class _Connection(H2Protocol):
    """Known to the listener while it is open, so that closing ends it: grpclib leaves that to the clients."""

    def __init__(self, made: H2Protocol, connections: set[_Connection]) -> None:
        super().__init__(made.handler, made.config, made.h2_config)
        self._open = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._open.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._open.discard(self)
        super().connection_lost(exc)


class _Listener(grpclib.server.Server):
    def __init__(self, mappings: list[_Mapping]) -> None:
        super().__init__(mappings)
        self._mapping = _Methods(self._mapping)
        self.open: set[_Connection] = set()

    def _protocol_factory(self) -> H2Protocol:
        return _Connection(super()._protocol_factory(), self.open)


class _Methods(dict[str, Handler]):
    """Every path has a handler: grpclib's answer to an unknown one lacks a content-type, which Go reads as UNKNOWN."""

    def get(self, path: str, default: Any = None) -> Any:
        return super().get(path) or Handler(_unknown(path), Cardinality.UNARY_STREAM, object, object)


def _unknown(path: str) -> _Call:
    service, _, name = path.removeprefix("/").rpartition("/")

    async def call(stream: Any) -> None:
        raise GRPCError(Status.UNIMPLEMENTED, f"unknown method {name} for service {service}")

    return call


class _Mapping:
    """One service in grpclib's form."""

    def __init__(self, service: Service) -> None:
        self._methods = {
            f"/{service.name}/{name}": _handler(method(service.name, name), function)
            for name, function in service.methods.items()
        }

    def __mapping__(self) -> dict[str, Handler]:
        return self._methods


def _handler(descriptor: MethodDescriptor, function: Method) -> Handler:
    request, reply = message_class(descriptor.input_type), message_class(descriptor.output_type)
    shape = Cardinality((descriptor.client_streaming, descriptor.server_streaming))  # type: ignore[call-arg]
    name = f"{descriptor.containing_service.full_name}/{descriptor.name}"
    answer = _stream(function) if descriptor.server_streaming else _unary(function)

    async def call(stream: Any) -> None:
        metadata = {key: value for key, value in stream.metadata.items() if isinstance(value, str)}
        try:
            if descriptor.client_streaming:
                given: Any = _requests(stream, request)
            else:
                given = await _only(stream, request)
            await answer(stream, given, metadata)
        except GrpcError as e:
            raise GRPCError(e.status, e.message) from e
        except LOST as e:
            raise GRPCError(Status.CANCELLED, f"the client went away: {e}") from e
        except Exception as e:
            log.exception("a gRPC handler failed", extra={"method": name})
            raise GRPCError(Status.UNKNOWN, str(e) or type(e).__name__) from e

    return Handler(call, shape, request, reply)


_Answer = Callable[[Any, Any, Mapping[str, str]], Awaitable[None]]


def _unary(function: Method) -> _Answer:
    async def answer(stream: Any, request: Any, metadata: Mapping[str, str]) -> None:
        await stream.send_message(_fits(await function(request, metadata)))

    return answer


def _stream(function: Method) -> _Answer:
    async def answer(stream: Any, request: Any, metadata: Mapping[str, str]) -> None:
        replies: AsyncGenerator[Any, None] = function(request, metadata)
        await stream.send_initial_metadata()  # a client that waits for events knows now that it is heard
        async with aclosing(replies):
            async for reply in replies:
                await stream.send_message(_fits(reply))

    return answer


async def _only(stream: Any, request: Any) -> Any:
    found = await receive(stream._stream, request)
    if found is None:
        raise GrpcError(Status.INTERNAL, "the call ended without a request")
    return found


async def _requests(stream: Any, request: Any) -> AsyncIterator[Any]:
    while (found := await receive(stream._stream, request)) is not None:
        yield found


def _fits(reply: Any) -> Any:
    """Raises GrpcError for a reply that no client would accept."""
    if (size := reply.ByteSize()) > LIMIT:
        raise GrpcError(Status.RESOURCE_EXHAUSTED, f"answer with a message of {size} bytes: the limit is {LIMIT}")
    return reply


# the socket


def _staging(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _bind(path: Path) -> socket.socket:
    """A bound socket under a name that nobody asks for, with its final mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _answers(path):
        raise OSError(errno.EADDRINUSE, f"listen on {path}: another server is listening there; stop it first")
    staging = _staging(path)
    staging.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(str(staging))
        staging.chmod(0o600)
    except OSError as e:
        bound.close()
        raise OSError(e.errno, f"listen on {path}: {e.strerror or e}") from e
    bound.setblocking(False)
    return bound


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _publish(path: Path) -> int:
    """Give the listening socket its name, in one step; returns its inode."""
    _staging(path).replace(path)
    return path.stat().st_ino
