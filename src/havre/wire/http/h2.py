"""HTTP/2 on the server side: the state machine is hyper's (httpunk, Rust), this file drives it without a task per
stream.

`H2Streams` is sans-IO: bytes in, frames out, and every decision (states, windows, HPACK, limits) is one call that
returns a verdict. httpunk's own driver wraps it in two tasks per connection and one per request; here `data_received`
decodes, calls the handler and queues the answer, and one write sends what all streams of the connection queued in this
turn of the loop.

Bounds against a hostile client, beside those of the state machine (CONTINUATION, window and header-list limits):
cancelled requests are paid from a small account (rapid reset, CVE-2023-44487), and reading stops when the client asks
for control frames it does not read.

Source: RFC 9113; httpunk 0.4, `h2/connection.py` and `h2/server.py` for the calls and their order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from httpunk import H2Error, H2ProtocolError, H2Reason, H2StreamError, HeaderMap

# The public names of httpunk are its drivers; the state machine below them is the stable part of the extension module.
from httpunk._httpunk import (
    H2_FLAG_CAPACITY,
    H2_FLAG_CONN_DONE,
    H2_FLAG_STOP_ACCEPTING,
    H2_HEADERS_OPENED,
    H2_HEADERS_TRAILERS,
    H2FrameData,
    H2FrameGoAway,
    H2FrameHeaders,
    H2FramePing,
    H2FrameRstStream,
    H2FrameSettings,
    H2FrameStreamError,
    H2FrameWindowUpdate,
    H2Streams,
)

from havre.wire.http.framing import (
    BODYLESS,
    FRAME,
    FRAMING,
    HEADER_LIST,
    HeaderBlocks,
    long_body,
    long_head,
    pieces,
    split_target,
    text,
)
from havre.wire.http.h1 import DISCARDED
from havre.wire.http.message import Answer, BadAnswer, Peer, Request, Response, Stream
from havre.wire.http.receive import Receiver
from havre.wire.http.service import Service, log, notify, start
from havre.wire.http.upload import Upload

STREAM_WINDOW = 1024 * 1024  # bytes a client may send on one request before we have read them
CONNECTION_WINDOW = 4 * 1024 * 1024  # several uploads at once on one connection
SEND_BUFFER = 256 * 1024  # bytes of one stream that may wait for the kernel; the rest waits here, as `buffered`
UNREAD_FRAMES = 10_000  # frames handled while the client does not read; 17 bytes of reply each, 170 kB
RESETS_PER_SECOND = 50.0  # cancelled requests forgiven per second: a dashboard that is closed and opened again


class _Exchange:
    """One stream: the request while it arrives, then the answer; also the `Writer` of a streamed answer."""

    __slots__ = (
        "_out",
        "_waiter",
        "_waiting",
        "body",
        "closed",
        "connection",
        "ending",
        "frame",
        "headers",
        "id",
        "left",
        "offset",
        "on_close",
        "request",
        "since",
        "size",
        "streaming",
        "task",
        "upload",
    )

    def __init__(self, connection: Http2) -> None:
        self.connection = connection
        self.id = 0
        self.frame: H2FrameHeaders | None = None
        self.headers: dict[str, str] = {}
        self.request: Request | None = None
        self.body: list[bytes] = []
        self.size = 0
        self.since = 0.0
        self.task: asyncio.Future[Answer] | None = None
        self.upload: Upload | None = None
        self.left: int | None = None  # bytes of a streamed answer that were announced and not written
        self.streaming = False
        self.closed = False
        self.ending = False  # the last byte of the answer is in `_out`
        self.offset = 0  # sent bytes of the first of `_out`
        self.on_close: Callable[[], None] | None = None
        self._out: deque[bytes] = deque()
        self._waiting = 0  # bytes in `_out`
        self._waiter: asyncio.Future[None] | None = None

    @property
    def method(self) -> str:
        return self.request.method if self.request is not None else "GET"

    # Writer

    @property
    def buffered(self) -> int:
        return 0 if self.closed else self._waiting + self.connection.unsent(self.id)

    def write(self, data: bytes) -> None:
        if data and not (self.closed or self.ending):
            if self.left is not None:
                self.left -= len(data)
                if self.left < 0:
                    log.error("a stream is longer than it announced")
                    self.abort()
                    return
            self._out.append(data)
            self._waiting += len(data)
            self.connection.wake(self)

    async def drain(self) -> None:
        if self._waiting and not self.closed:
            self._waiter = self.connection.service.loop.create_future()
            await self._waiter

    def _resumed(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        if self.left:
            self.abort()  # the client must not take a part for the whole
        if not (self.closed or self.ending):
            self.ending = True
            self.connection.wake(self)
            self.ended()

    def abort(self) -> None:
        if not self.closed:
            self.connection.reset(self, H2Reason.INTERNAL_ERROR)

    def ended(self) -> None:
        """The peer or the body is gone: stop the work, tell the owner once. What is queued may still be sent."""
        if self.closed:
            return
        self.closed = True
        self._resumed()
        if self.upload is not None:
            self.upload.fail("the client gave the request up")
            self.upload.close()
        if self.task is not None:
            self.task.cancel()
            self.task = None
        notify(self.on_close)

    def drop(self) -> None:
        """Nothing more can be sent on this stream."""
        self._out.clear()
        self._waiting = 0
        self.ending = False
        self.ended()

    # the queue of the answer

    def queue(self, parts: list[bytes]) -> None:
        """A whole body; the stream ends behind it."""
        self._out.extend(parts)
        self._waiting = sum(map(len, parts))
        self.ending = True

    def pump(self, state: H2Streams) -> int:
        """Frame what the windows take; returns the flags of the state machine. Raises H2Error."""
        flags, out = 0, self._out
        if len(out) > 1 and self.streaming:
            joined = b"".join(out)[self.offset :] if self.offset else b"".join(out)
            out.clear()
            out.append(joined)
            self.offset = 0
        while out or self.ending:
            data = out[0] if out else b""
            last = self.ending and len(out) <= 1
            verdict = state.send_data(self.id, data, self.offset, last)
            flags |= verdict.flags
            if verdict.stopped is not None:
                self.drop()
                return flags
            self._waiting -= verdict.sent
            if not self._waiting:
                self._resumed()
            if not verdict.done:
                if not verdict.sent:
                    return flags
                self.offset += verdict.sent
                continue
            self.offset = 0
            if out:
                out.popleft()
            if last:
                self.connection.finished(self)
                return flags
        return flags


def _read_headers(frame: H2FrameHeaders, headers: dict[str, str]) -> int:
    """Fill `headers` from the frame; returns their size."""
    size = len(frame.path or "")
    for name, value in frame.headers.items():
        size += len(name) + len(value)
        if name in headers:
            headers[name] = f"{headers[name]}{'; ' if name == 'cookie' else ', '}{text(value)}"
        else:
            headers[name] = text(value)
    if frame.authority is not None:
        headers["host"] = frame.authority
    return size


class Http2(Receiver):
    """One connection; adopts a transport that is already connected."""

    def __init__(
        self, service: Service, transport: asyncio.Transport, peer: Peer | None, remote: str, port: int = 0
    ) -> None:
        super().__init__(service.inbox)
        self.service = service
        self._transport = transport
        self._peer = peer
        self._remote = remote
        self._port = port
        limits = service.limits
        self._state = H2Streams(
            "server",
            initial_window_size=STREAM_WINDOW,
            connection_window=CONNECTION_WINDOW,
            max_frame_size=FRAME,
            max_header_list_size=max(HEADER_LIST, 16 * limits.head),
            max_send_buf_size=SEND_BUFFER,
            max_concurrent_streams=limits.streams,
            max_pending_accept_reset_streams=limits.streams,
            max_local_error_reset_streams=1024,
            auto_date_header=False,
        )
        self._blocks = HeaderBlocks(limits.head)
        self._exchanges: dict[int, _Exchange] = {}
        self._spare = _Exchange(self)
        self._woken: list[_Exchange] = []
        self._marked = self._handling = False
        self._resets = float(limits.resets)
        self._paused = False
        self._unread = self._discarded = 0
        self._held = False
        self._closing = False
        self._drained = False
        self._closer: asyncio.TimerHandle | None = None
        self._since = self._swept = service.now
        service.join(self)
        self._state.begin()
        self._flush()

    # reading

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self._discarded += len(data)
            if self._discarded > DISCARDED:
                self._transport.abort()
            return
        state = self._state
        self._since = self.service.now
        self._handling = True
        try:
            if not self._blocks.fits(data):
                raise H2ProtocolError(int(H2Reason.ENHANCE_YOUR_CALM), "header block too long")
            frames = state.receive(data)
            for frame in frames:
                if self._closing:
                    return
                try:
                    self._handle(frame)
                except H2StreamError as error:
                    self._stream_error(error)
            self._act(state.maybe_goaway_reply())
        except H2Error as error:
            self._fail(error)
            return
        finally:
            self._handling = False
        if self._paused:
            self._unread += len(frames)
            if self._unread > UNREAD_FRAMES and not self._held:
                self._held = True
                self._transport.pause_reading()
        self._flush()

    def _handle(self, frame: object) -> None:
        state = self._state
        if isinstance(frame, H2FrameHeaders):
            self._on_headers(frame)
        elif isinstance(frame, H2FrameData):
            self._on_data(frame)
        elif isinstance(frame, H2FrameWindowUpdate):
            self._pump_all(state.recv_window_update(frame))
        elif isinstance(frame, H2FrameSettings):
            _, woken, flags = state.recv_settings(frame)
            self._pump_all(woken)
            self._act(flags)
        elif isinstance(frame, H2FramePing):
            self._act(state.recv_ping(frame))
        elif isinstance(frame, H2FrameRstStream):
            self._on_reset(frame)
        elif isinstance(frame, H2FrameGoAway):
            aborted, flags = state.recv_go_away(frame)
            for exchange, _ in aborted:
                self._gone(exchange)
            self._act(flags)
        elif isinstance(frame, H2FrameStreamError):
            raise H2StreamError(frame.stream_id, frame.error_code, "library")

    def _on_headers(self, frame: H2FrameHeaders) -> None:
        exchange = self._spare
        verdict = self._state.recv_headers(frame, exchange)
        if verdict.kind == H2_HEADERS_OPENED:
            self._spare = _Exchange(self)
            exchange.id = verdict.stream_id
            exchange.frame = frame
            exchange.since = self.service.now
            self._exchanges[exchange.id] = exchange
            self._state.accepted(exchange.id)
            size = _read_headers(frame, exchange.headers)
            if size > self.service.limits.head:
                self._refuse(exchange, 431, long_head(self.service.limits.head))
            elif verdict.eof or self._is_upload(exchange, frame):
                self._dispatch(exchange)
            elif int(frame.content_length or 0) > self.service.limits.body:
                self._refuse(exchange, 413, long_body(self.service.limits.body))
        elif verdict.kind == H2_HEADERS_TRAILERS and isinstance(verdict.handle, _Exchange):
            self._complete(verdict.handle)
        self._act(verdict.flags)

    def _on_data(self, frame: H2FrameData) -> None:
        state = self._state
        verdict = state.recv_data(frame)
        exchange, payload = verdict.handle, verdict.payload
        if isinstance(exchange, _Exchange):
            if payload is not None:
                if verdict.budgeted:
                    state.release_data_frame(exchange.id, len(payload))
                if exchange.upload is not None:
                    exchange.since = self.service.now
                    exchange.upload.feed(payload)  # which makes room when it is read
                else:
                    self._act(state.release_capacity(exchange.id, len(payload)))
                    exchange.size += len(payload)
                    exchange.body.append(payload)
            if exchange.size > self.service.limits.body:
                self._refuse(exchange, 413, long_body(self.service.limits.body))
            elif verdict.eof:
                self._complete(exchange)
        self._act(verdict.flags)

    def _complete(self, exchange: _Exchange) -> None:
        """The last byte of the request has arrived."""
        if exchange.upload is not None:
            exchange.upload.finish()
        self._dispatch(exchange)

    def _is_upload(self, exchange: _Exchange, frame: H2FrameHeaders) -> bool:
        """The handler wants it before its body."""
        wanted = self.service.uploads
        path, query = split_target((frame.path or "").encode())
        if wanted is None or not path:
            return False
        head = Request(
            frame.method or "", path, query, exchange.headers, b"", self._peer, self._remote, "HTTP/2", self._port
        )
        if wanted(head):
            exchange.upload = Upload(lambda count: self._upload_read(exchange.id, count))
        return exchange.upload is not None

    def _upload_read(self, sid: int, count: int) -> None:
        """The handler took so many bytes: as many may come."""
        if self._closing:
            return
        self._act(self._state.release_capacity(sid, count))
        if not self._handling:
            self._flush()

    def _on_reset(self, frame: H2FrameRstStream) -> None:
        result = self._state.recv_reset(frame)
        if result is None:
            return
        exchange, _, _, flags = result
        self._gone(exchange)
        self._act(flags)
        self._resets -= 1
        if self._resets < 0:
            log.warning("client cancels too many requests", extra={"remote": self._remote})
            self._state.send_goaway(int(H2Reason.ENHANCE_YOUR_CALM))
            self._shut(linger=self.service.limits.linger_seconds)

    def _gone(self, exchange: object) -> None:
        """The peer abandoned this stream."""
        if isinstance(exchange, _Exchange):
            self._exchanges.pop(exchange.id, None)
            exchange.drop()

    def _stream_error(self, error: H2StreamError) -> None:
        """The peer broke the rules on one stream: reset it, the connection goes on."""
        sid, reason, initiator = error.args
        exchange = self._exchanges.get(sid)
        if exchange is not None:
            self._gone(exchange)
        if initiator != "remote":
            self._act(self._state.reset_on_error(sid, reason).flags)
        if self._spare.id == 0:
            self._spare = _Exchange(self)  # the failing frame may have consumed it

    # answering

    def _dispatch(self, exchange: _Exchange) -> None:
        """The request is complete: hand it over."""
        frame = exchange.frame
        if frame is None or exchange.request is not None or exchange.closed:
            return
        path, query = split_target((frame.path or "").encode())
        body = b"".join(exchange.body)
        exchange.body.clear()
        exchange.frame = None
        request = Request(
            frame.method or "", path, query, exchange.headers, body, self._peer, self._remote, "HTTP/2", self._port
        )
        request.upload = exchange.upload
        exchange.request = request
        if not path:
            self._reply(exchange, self.service.on_error(400, f"{request.method} of this target is not served here"))
            return
        task = self.service.answer(request, lambda answer: self._reply(exchange, answer))
        if task is not None and not exchange.closed:
            exchange.task = task

    def _refuse(self, exchange: _Exchange, status: int, why: str) -> None:
        frame, exchange.frame = exchange.frame, None
        exchange.body.clear()
        if frame is not None and not exchange.closed:
            method = frame.method or "GET"
            exchange.request = Request(method, "/", "", {}, b"", self._peer, self._remote, "HTTP/2", self._port)
            self._reply(exchange, self.service.on_error(status, why))

    def _reply(self, exchange: _Exchange, answer: Answer) -> None:
        exchange.task = None
        if exchange.closed:
            return
        request = exchange.request
        try:
            if isinstance(answer, Response):
                self._respond(exchange, answer)
            elif isinstance(answer, Stream):
                self._stream(exchange, answer)
            else:
                self._respond(exchange, self.service.on_error(400, "an upgrade needs HTTP/1.1"))
        except (BadAnswer, ValueError, H2Error):
            log.exception("bad answer", extra={"path": request.path if request else ""})
            self.reset(exchange, H2Reason.INTERNAL_ERROR)
        if not self._handling:
            self._flush()

    def _head(self, exchange: _Exchange, status: int, fields: list[tuple[str, str]], *, last: bool) -> bool:
        """Send the head; False when the stream is gone."""
        verdict = self._state.send_response_head(exchange.id, status, HeaderMap(fields), last)
        self._act(verdict.flags)
        if verdict.stopped is not None:
            self._gone(exchange)
            return False
        if last:
            self.finished(exchange)
        return True

    def _respond(self, exchange: _Exchange, answer: Response) -> None:
        body = answer.body
        parts = ([body] if body else []) if isinstance(body, bytes) else pieces(body)
        fields = [(name, value) for name, value in answer.headers if name not in FRAMING]
        if answer.status not in BODYLESS:
            fields.append(("content-length", str(sum(map(len, parts)))))
        bare = not parts or answer.status in BODYLESS or exchange.method == "HEAD"
        if self._head(exchange, answer.status, fields, last=bare) and not bare:
            exchange.queue(parts)
            self._act(exchange.pump(self._state))

    def _stream(self, exchange: _Exchange, answer: Stream) -> None:
        fields = [(name, value) for name, value in answer.headers if name not in FRAMING]
        if answer.length is not None:
            fields.append(("content-length", str(answer.length)))
        bare = exchange.method == "HEAD"
        if not self._head(exchange, answer.status, fields, last=bare) or bare:
            return
        exchange.streaming = True
        exchange.left = answer.length
        start(answer, exchange)
        if self.service.retiring:
            exchange.close()

    def finished(self, exchange: _Exchange) -> None:
        """The last frame of the answer is framed."""
        self._exchanges.pop(exchange.id, None)
        if self._resets < self.service.limits.resets:
            self._resets += 1
        exchange.drop()
        if self._drained:
            self._act(0)

    def reset(self, exchange: _Exchange, reason: H2Reason) -> None:
        """Abort one stream from our side."""
        self._exchanges.pop(exchange.id, None)
        self._act(self._state.reset_stream(exchange.id, int(reason), "user").flags)
        exchange.drop()
        self._mark()

    # writing

    def wake(self, exchange: _Exchange) -> None:
        """`exchange` has something to send at the end of this turn of the loop."""
        self._woken.append(exchange)
        self._mark()

    def _mark(self) -> None:
        if not self._marked:
            self._marked = True
            self.service.mark(self)

    def flush(self) -> None:
        """End of the turn: frame and send what all streams have written."""
        self._marked = False
        woken, self._woken = self._woken, []
        if self._closing:
            return
        self._pump_all(dict.fromkeys(woken))
        self._flush()

    def _pump_all(self, exchanges: Iterable[object]) -> None:
        for exchange in exchanges:
            if isinstance(exchange, _Exchange):
                self._act(exchange.pump(self._state))

    def _flush(self) -> None:
        """One write for everything that is framed, again while that made room for more."""
        state = self._state
        while not self._paused and state.has_pending() and not self._transport.is_closing():
            batch, _ = state.take_pending()
            data = bytes(batch)  # the buffer is used again, and TLS may keep what it is given
            batch.release()
            self._transport.write(data)
            self._pump_all(state.credit_written())

    def _act(self, flags: int) -> None:
        """What the state machine asks for; writing happens at the end of every read and turn anyway."""
        if flags & H2_FLAG_CAPACITY:
            exchange = self._state.next_capacity_wake()
            if isinstance(exchange, _Exchange):
                self.wake(exchange)
        if flags & (H2_FLAG_CONN_DONE | H2_FLAG_STOP_ACCEPTING):
            self._drained = True
        if self._drained and not (self._exchanges or self._closing):
            self._shut()

    def unsent(self, sid: int) -> int:
        """Bytes of the stream that are framed but not on the wire."""
        return (self._state.stream_send_buffered(sid) or 0) if self._paused else 0

    def _shut(self, linger: float = 0.0) -> None:
        """Send what is framed, then close; `linger` seconds later, so that the client reads why before a reset."""
        self._closing = True
        self._drop_all()
        self._flush()
        self._closer = self.service.loop.call_later(linger, self._close)

    def _close(self) -> None:
        self._flush()
        if not self._state.has_pending():
            self._transport.close()

    def _fail(self, error: H2Error) -> None:
        reason = error.args[0] if error.args and isinstance(error.args[0], int) else int(H2Reason.PROTOCOL_ERROR)
        self._state.send_goaway(reason)
        self._shut(linger=self.service.limits.linger_seconds)

    def _drop_all(self) -> None:
        exchanges, self._exchanges = self._exchanges, {}
        for exchange in exchanges.values():
            exchange.drop()

    # asyncio.Protocol

    def pause_writing(self) -> None:
        self._paused = True
        self._unread = 0

    def resume_writing(self) -> None:
        self._paused = False
        if self._held:
            self._held = False
            self._transport.resume_reading()
        self._flush()
        if self._closer is not None and self._closer.when() <= self.service.loop.time():
            self._close()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self.service.leave(self)
        if self._closer is not None:
            self._closer.cancel()
        self._state.fail(None)
        self._drop_all()

    # havre.wire.http.service.Connection

    def retire(self) -> None:
        if self._closing:
            return
        self._act(self._state.begin_graceful_shutdown())
        for exchange in list(self._exchanges.values()):
            if exchange.streaming:
                exchange.close()
        self.flush()

    def abort(self) -> None:
        self._transport.abort()

    def sweep(self, now: float) -> None:
        limits = self.service.limits
        passed = max(0.0, now - self._swept)
        self._swept = now
        self._resets = min(float(limits.resets), self._resets + passed * RESETS_PER_SECOND)
        if self._transport.is_closing():
            if now - self._since > limits.idle_seconds:
                self._transport.abort()
            return
        stalled = [e.upload for e in self._exchanges.values() if e.upload and now - e.since > limits.body_seconds]
        for upload in stalled:
            if not upload.held:
                upload.fail("the rest of the request did not arrive in time")
        late = [e for e in self._exchanges.values() if e.frame is not None and now - e.since > limits.body_seconds]
        for exchange in late:
            self._refuse(exchange, 408, "the request did not arrive in time")
        at_work = any(e.streaming or e.task is not None for e in self._exchanges.values())
        if not at_work and now - self._since > limits.idle_seconds:  # or it does not read its answers
            self._since = now
            self._act(self._state.send_goaway(int(H2Reason.NO_ERROR)))
            self._shut()
