"""What all connections of one listener share: the handler, the limits, the running tasks and the tick.

Streams write at any time and in small pieces (one watch event each), so writes are gathered for one turn of the loop
and leave together: one chunk, one TLS record, one system call per connection and turn. Measured: ten events a turn cost
about as much as one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

from havre.wire.http.message import Answer, Handler, Request, Response, Stream, Upgrade, Writer
from havre.wire.http.receive import inbox
from havre.wire.http.upload import UploadBroken

log = logging.getLogger(__name__)

_PLAIN = (Response, Stream, Upgrade)  # as a tuple: a union would be built anew for every request
OnError = Callable[[int, str], Response]
Wanted = Callable[[Request], bool]  # whether the handler wants this request before its body


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may take; times in seconds, sizes in bytes."""

    body: int = 3 * 1024 * 1024  # kube-apiserver's MaxRequestBodyBytes → 413
    head: int = 64 * 1024  # all header fields with names; service-account tokens and impersonation fit many times → 431
    head_seconds: float = 30.0  # from the first byte of a head to its last → 408
    body_seconds: float = 60.0  # from the end of the head to the end of the body → 408
    idle_seconds: float = 100.0  # above the 90 s after which Go clients drop an idle connection themselves
    handshake_seconds: float = 10.0  # TLS
    linger_seconds: float = 1.0  # after an early answer, so that the client reads it before the connection is reset
    streams: int = 250  # concurrent HTTP/2 requests per connection, watches included (Go's default)
    resets: int = 500  # HTTP/2 requests a client may cancel ahead of those it lets end; two full sets of streams


class Connection(Protocol):
    """One accepted connection, as the server sees it."""

    def retire(self) -> None:
        """Take no new request, end streams, close once what runs is answered."""

    def abort(self) -> None:
        """Drop the connection now."""

    def sweep(self, now: float) -> None:
        """Enforce the time limits; `now` is the clock of the service."""


class Flushable(Protocol):
    def flush(self) -> None: ...


class Service:
    """The shared half of every connection of one server."""

    def __init__(self, handler: Handler, limits: Limits, on_error: OnError, uploads: Wanted | None = None) -> None:
        self.handler = handler
        self.uploads = uploads
        self.limits = limits
        self.on_error = on_error
        self.inbox = inbox()
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time()  # refreshed by every sweep: fine enough for limits of seconds, and free to read
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Future[Any]] = set()
        self.retiring = False
        self.empty = asyncio.Event()  # no connection is open
        self.empty.set()
        self._dirty: list[Flushable] = []

    def join(self, connection: Connection) -> None:
        self.connections.add(connection)
        self.empty.clear()

    def leave(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self.empty.set()

    def answer(self, request: Request, reply: Callable[[Answer], None]) -> asyncio.Future[Answer] | None:
        """Run the handler; a plain answer is replied before this returns, else the task that will is returned."""
        try:
            answer = self.handler(request)
            task = None if isinstance(answer, _PLAIN) else asyncio.ensure_future(answer)
        except Exception as error:  # noqa: BLE001 - whatever the handler raised is the client's 500 and our log line
            reply(self._failed(request, error))
            return None
        if task is None:
            reply(cast("Answer", answer))
            return None
        self.tasks.add(task)
        task.add_done_callback(partial(self._settle, request, reply))
        return task

    def _settle(self, request: Request, reply: Callable[[Answer], None], task: asyncio.Future[Answer]) -> None:
        self.tasks.discard(task)
        if task.cancelled():
            reply(self.on_error(503, "the request was cancelled"))  # dropped when it was the client who left
        elif (error := task.exception()) is not None:
            reply(self._failed(request, error))
        else:
            reply(task.result())

    def _failed(self, request: Request, error: BaseException) -> Response:
        if isinstance(error, UploadBroken):
            return self.on_error(400, str(error))
        log.error("handler failed", exc_info=error, extra={"method": request.method, "path": request.path})
        return self.on_error(500, "internal error")

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """A task owned by the server: cancelled and awaited when it closes."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Future[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("connection task failed", exc_info=error)

    def mark(self, writer: Flushable) -> None:
        """Have `writer.flush()` called once, at the end of this turn of the loop."""
        if not self._dirty:
            self.loop.call_soon(self._tick)
        self._dirty.append(writer)

    def _tick(self) -> None:
        dirty, self._dirty = self._dirty, []
        for writer in dirty:
            writer.flush()


def start(answer: Stream, writer: Writer) -> None:
    """Hand the writer over; a callee that raises leaves the peer with a visible failure, not with an endless wait."""
    try:
        answer.start(writer)
    except Exception:  # the head is out, so a log line and a reset are all that is left
        log.exception("start of a stream failed")
        writer.abort()


def notify(on_close: Callable[[], None] | None) -> None:
    """Tell the owner of a stream that it ended; what it raises must not reach the other streams."""
    if on_close is None:
        return
    try:
        on_close()
    except Exception:
        log.exception("on_close of a stream failed")
