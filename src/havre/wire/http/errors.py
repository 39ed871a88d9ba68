"""How a call of the HTTP client fails.

HttpError
├── ConnectFailed     no connection: refused, no such host, TLS handshake rejected
├── TimedOut          connected, but no complete answer in time
├── Disconnected      the server went away in the middle of an answer
├── ProtocolError     the answer is not HTTP, or breaks its rules
├── ReplyTooLarge     the answer is longer than the caller accepts
└── UpgradeRefused    the server answered an upgrade with something else than 101

A status such as 404 or 500 is an answer, not a failure. A server never raises these: it answers a bad request through
the `on_error` of `serve`.
"""

from __future__ import annotations

from collections.abc import Mapping


class HttpError(Exception):
    """A request that got no usable answer."""


class ConnectFailed(HttpError):
    """No connection could be made; the message names the address and the reason."""


class TimedOut(HttpError):
    """The time of the request ran out."""


class Disconnected(HttpError):
    """The server closed the connection before its answer was complete."""


class ProtocolError(HttpError):
    """The server sent something that is not an HTTP answer."""


class ReplyTooLarge(HttpError):
    """The body is longer than the limit of the caller."""


class UpgradeRefused(HttpError):
    """The server did not switch protocols; its answer is kept whole."""

    def __init__(self, message: str, *, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body = body
