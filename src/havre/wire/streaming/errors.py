"""How streaming fails.

StreamingError            the request cannot be upgraded; `answer()` tells the client why
ConnectionResetError      (built in) a write to a stream or connection that the client has left
"""

from __future__ import annotations

from collections.abc import Sequence

from havre.wire.http.message import Response


class StreamingError(Exception):
    """A request that is not answered by 101, with the status and headers that say why."""

    def __init__(self, status: int, message: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = tuple(headers)

    def answer(self) -> Response:
        plain = ("content-type", "text/plain; charset=utf-8")
        return Response(self.status, [plain, *self.headers], f"{self}\n".encode())


class ProtocolError(Exception):
    """The client broke the rules of SPDY or WebSocket; `code` is what the protocol calls that."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
