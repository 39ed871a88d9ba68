"""What the runtime raises, as the status of a gRPC answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from havre.node.runtime import errors
from havre.wire.grpc.errors import GrpcError, Status

__all__ = ["answering", "streaming"]

_STATUS: dict[type[Exception], Status] = {
    errors.NotFound: Status.NOT_FOUND,
    errors.AlreadyExists: Status.ALREADY_EXISTS,
    errors.Invalid: Status.INVALID_ARGUMENT,
    errors.Unsupported: Status.UNIMPLEMENTED,
    errors.Precondition: Status.FAILED_PRECONDITION,
    errors.TimedOut: Status.DEADLINE_EXCEEDED,
    errors.Failed: Status.UNKNOWN,  # as upstream answers: the agent shows the text
}

Unary = Callable[[Any], Awaitable[Any]]


def answering(function: Unary) -> Callable[[Any, Mapping[str, str]], Awaitable[Any]]:
    """A handler out of a function of the request alone."""

    async def handler(request: Any, metadata: Mapping[str, str]) -> Any:
        try:
            return await function(request)
        except errors.RuntimeFault as error:
            raise GrpcError(_status(error), str(error)) from error

    return handler


def streaming(function: Callable[[Any], AsyncIterator[Any]]) -> Callable[[Any, Mapping[str, str]], AsyncIterator[Any]]:
    """The same for a stream of replies."""

    async def handler(request: Any, metadata: Mapping[str, str]) -> AsyncIterator[Any]:
        async for reply in function(request):
            yield reply

    return handler


def _status(error: errors.RuntimeFault) -> Status:
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), Status.UNKNOWN)
