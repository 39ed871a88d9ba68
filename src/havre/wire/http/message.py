"""What a handler of HTTP requests gets and gives, the same for HTTP/1.1 and HTTP/2.

A handler is `Request → Answer`, plain or awaitable. A plain answer is sent inside the call that parsed the request.

    Response   a whole body, as bytes or as parts that are sent one after the other
    Stream     a head now, and a `Writer` to fill whenever there is something to say (watch, logs)
    Upgrade    101 Switching Protocols, then the raw bytes of the connection (WebSocket, SPDY)

The server owns the framing: `content-length`, `transfer-encoding`, `connection` and `keep-alive` of an answer are
replaced.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from havre.wire.http.tunnel import Tunnel
from havre.wire.http.upload import Upload, UploadBroken
from havre.wire.tls import Peer

__all__ = [
    "Answer",
    "BadAnswer",
    "Handler",
    "Headers",
    "Peer",
    "Request",
    "Response",
    "Stream",
    "Tunnel",
    "Upgrade",
    "Upload",
    "UploadBroken",
    "Writer",
]

Headers = list[tuple[str, str]]


@dataclass(slots=True)
class Request:
    """One request, whole: the body has been received and is within the limit, but for an upload."""

    method: str
    path: str  # raw, still percent-encoded, without the query
    query: str  # raw, without the question mark
    headers: dict[str, str]  # names in lower case; repeated ones joined by ", "
    body: bytes
    peer: Peer | None  # the verified client certificate
    remote: str  # address of the other side; "" on a Unix socket
    protocol: Literal["HTTP/1.1", "HTTP/2"]
    port: int = 0  # of the other side
    upload: Upload | None = None  # the body as it arrives, when the server was told to hand it over so; `body` is b""


@dataclass(slots=True)
class Response:
    """A whole answer; a body in parts is never joined into one piece."""

    status: int
    headers: Headers
    body: bytes | Sequence[bytes] = b""


class Writer(Protocol):
    """The open end of a `Stream`; every call returns at once and is ignored after the end."""

    on_close: Callable[[], None] | None  # called once: the peer went away, or the body ended

    @property
    def buffered(self) -> int:
        """Bytes written and not yet taken by the peer's flow control or the kernel."""

    @property
    def closed(self) -> bool: ...

    def write(self, data: bytes) -> None:
        """Append to the body. Writes of one turn of the loop leave together, as one chunk or DATA frame."""

    async def drain(self) -> None:
        """Wait until the peer has taken most of what was written, or is gone: for a source that can be slowed down."""

    def close(self) -> None:
        """End the body properly."""

    def abort(self) -> None:
        """End it so that the peer sees a failure (reset of the stream, or of the connection)."""


@dataclass(slots=True)
class Stream:
    """An answer without end: `start` gets the writer once the head is sent, and returns; no task belongs to it.

    With `length` it has an end that is known: exactly so many bytes must be written. HEAD is answered without `start`.
    """

    status: int
    headers: Headers
    start: Callable[[Writer], None]
    length: int | None = None


@dataclass(slots=True)
class Upgrade:
    """Answer 101 with these headers, then `run` owns the raw bytes; the tunnel is closed when it returns."""

    headers: Headers
    run: Callable[[Tunnel], Awaitable[None]]


Answer = Response | Stream | Upgrade
Handler = Callable[[Request], Answer | Awaitable[Answer]]


class BadAnswer(ValueError):
    """A handler answered with something that cannot be put on the wire."""
