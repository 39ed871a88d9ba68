"""Call gRPC services on a Unix socket.

    channel = Channel(run / "containerd.sock")
    reply = await channel.unary("runtime.v1.RuntimeService", "Version", cri.VersionRequest(), timeout=10)
    async with aclosing(channel.stream("runtime.v1.RuntimeService", "GetContainerEvents", request)) as events:
        async for event in events: ...
    channel.close()

One connection carries all calls; it is made by the first of them and made again after it was lost. A call that is
cancelled, or a stream that is left, tells the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import grpclib.client
from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError

from havre.wire.grpc.errors import LOST, GrpcError, Status
from havre.wire.grpc.framing import receive
from havre.wire.grpc.messages import message_class, method

# grpclib takes its connection apart when it is lost; a call in that moment meets a missing attribute.
_LOST: tuple[type[Exception], ...] = (*LOST, AttributeError)


class Channel:
    """A connection to the server at `path`; `metadata` goes with every call."""

    def __init__(self, path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
        self._path = path
        self._metadata = dict(metadata or {})
        self._channel: grpclib.client.Channel | None = None

    async def unary(
        self,
        service: str,
        name: str,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Any:
        """The reply; `timeout` is also told to the server. Raises GrpcError."""
        async with aclosing(self.stream(service, name, request, timeout=timeout, metadata=metadata)) as replies:
            found = [reply async for reply in replies]
        if len(found) != 1:
            raise GrpcError(Status.INTERNAL, f"call {service}/{name}: {len(found)} replies instead of one")
        return found[0]

    async def stream(
        self,
        service: str,
        name: str,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Any, None]:
        """The replies as they come; for a method that takes a stream, `request` is an async iterable. Raises GrpcError.

        Close it (`aclosing`) when leaving early.
        """
        descriptor = method(service, name)
        shape = Cardinality((descriptor.client_streaming, descriptor.server_streaming))  # type: ignore[call-arg]
        types = message_class(descriptor.input_type), message_class(descriptor.output_type)
        call = self._connection().request(
            f"/{service}/{name}", shape, *types, timeout=timeout, metadata={**self._metadata, **(metadata or {})}
        )
        with self._errors(f"call {service}/{name}"):
            async with call:
                sending = await _send(call, request, streaming=descriptor.client_streaming)
                try:
                    await call.recv_initial_metadata()
                    while (reply := await _receive(call, types[1])) is not None:
                        yield reply
                    if sending is not None:
                        await sending
                finally:
                    if sending is not None:
                        sending.cancel()

    def close(self) -> None:
        """Drop the connection; what still runs fails with UNAVAILABLE. A later call connects again."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _connection(self) -> grpclib.client.Channel:
        if self._channel is None:
            self._channel = grpclib.client.Channel(path=str(self._path))
        return self._channel

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except GRPCError as e:
            raise GrpcError(e.status, e.message or e.status.name) from e
        except TimeoutError as e:
            raise GrpcError(Status.DEADLINE_EXCEEDED, f"{what} on {self._path}: no answer in time") from e
        except OSError as e:
            reason = "is it running?" if isinstance(e, FileNotFoundError | ConnectionRefusedError) else "connection"
            raise GrpcError(Status.UNAVAILABLE, f"{what}: connect to {self._path}: {e}; {reason}") from e
        except _LOST as e:
            raise GrpcError(Status.UNAVAILABLE, f"{what} on {self._path}: {e or type(e).__name__}") from e


async def _send(call: Any, request: Any, *, streaming: bool) -> asyncio.Task[None] | None:
    """Send the request; one that is a stream is sent by a task while replies are read."""
    if not streaming:
        await call.send_message(request, end=True)
        return None
    await call.send_request()
    return asyncio.get_running_loop().create_task(_send_all(call, request))


async def _send_all(call: Any, requests: AsyncIterable[Any]) -> None:
    async for request in requests:
        await call.send_message(request)
    await call.end()


async def _receive(call: Any, reply: Any) -> Any:
    with call._wrapper:  # ends the wait when the deadline passes or the connection is lost
        return await receive(call._stream, reply)
