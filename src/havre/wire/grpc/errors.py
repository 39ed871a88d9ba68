"""How a call ends that did not succeed, on both sides of the wire: a status that clients branch on, and a message."""

from __future__ import annotations

from grpclib.const import Status
from grpclib.exceptions import StreamTerminatedError
from grpclib.protocol import ProtocolError  # type: ignore[attr-defined]  # of h2, which is grpclib's dependency

__all__ = ["LOST", "GrpcError", "Status"]

# The stream or the connection is gone.
LOST: tuple[type[Exception], ...] = (StreamTerminatedError, ProtocolError)


class GrpcError(Exception):
    """Raised by a handler to answer with this status, and by a call that was answered with it.

    A call also raises it for what never was an answer: UNAVAILABLE (nobody listens, connection lost),
    DEADLINE_EXCEEDED (its timeout), RESOURCE_EXHAUSTED (a message over the limit).
    """

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return f"{self.status.name}: {self.message}"
