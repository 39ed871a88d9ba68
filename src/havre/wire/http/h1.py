"""HTTP/1.1 on the server side: httptools (llhttp, strict) parses, this file answers in order.

Pipelined requests are answered one after the other; while one is being answered the next wait, and reading stops, so
that a client can never queue more than one read. A request whose head, apart from the first line, equals the one before
on the same connection (every keep-alive client) is not parsed again.

Source: RFC 9110, RFC 9112; llhttp refuses Content-Length together with Transfer-Encoding, repeated lengths, folded
headers and bare line feeds, all of them ways to smuggle a request.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import NamedTuple

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from havre.wire.http.chunks import ChunkWriter
from havre.wire.http.framing import BODYLESS, NAMES, PIECE, head, long_body, long_head, pieces, split_target, text
from havre.wire.http.message import Answer, BadAnswer, Peer, Request, Response, Stream, Upgrade
from havre.wire.http.receive import Receiver
from havre.wire.http.service import Service, Wanted, log, start
from havre.wire.http.tunnel import Tunnel
from havre.wire.http.upload import Upload

REMEMBERED = 8 * 1024  # bytes of a head worth remembering; tokens are about 1 KiB
GATHERED = 4 * PIECE  # bytes of answers to pipelined requests before the kernel is asked whether the client reads
DISCARDED = 1024 * 1024  # bytes read and dropped after an early answer
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE = "connection: close\r\n"
# Fields that make a head more than a plain one, so that it is always parsed.
_UNIQUE = frozenset({"connection", "content-length", "expect", "transfer-encoding", "upgrade"})
# A GET whose target needs no judgement; anything else goes through llhttp.
_PLAIN_GET = re.compile(
    rb"GET (/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)(?:\?([A-Za-z0-9._~!$&'()*+,;=:@%/?-]*))? HTTP/1\.1\r\n"
).match


class _Fault(Exception):
    """Stops the parser inside a callback; the reason is in `Http1._fault`."""


class _Turn(NamedTuple):
    """A request that waits for its turn to be answered, or is being answered; or the fault that ends the connection."""

    request: Request
    keep: bool  # the connection stays open after it
    http10: bool = False  # no chunks
    upgrade: bool = False  # it asks for another protocol
    fault: tuple[int, str] | None = None


class Http1(Receiver):
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
        # the request being parsed
        self._parser = HttpRequestParser(self)
        self._begun = self._headed = False
        self._url = b""
        self._headers: dict[str, str] = {}
        self._hosts = 0
        self._parts: list[bytes] = []
        self._size = 0  # bytes of the head while it is incomplete, then of the body
        self._parsed: _Turn | None = None  # an upgrade: where its head ends is known a moment later
        self._upload: Upload | None = None  # the body being received, when it is handed over as it comes
        self._uploaded: _Turn | None = None  # its request, until the read that brought the head is parsed
        self._fault: tuple[int, str] | None = None
        self._since = service.now
        # the request being answered, and those that wait
        self._turn: _Turn | None = None
        self._turns: deque[_Turn] = deque()
        self._task: asyncio.Future[Answer] | None = None
        self._heir: Tunnel | None = None  # it has the transport now
        self._writer: ChunkWriter | None = None
        self._continue_due = False
        self._served = False
        # the connection
        self._out: list[bytes] = []
        self._gathered = 0
        self._gathering = False  # answers stay in `_out` until the current read is parsed
        self._early: list[bytes] | None = None  # bytes after the head of an upgrade that is being decided
        self._deaf = False  # nothing received from now on is read as a request
        self._left = False  # a body was not waited for
        self._linger: asyncio.TimerHandle | None = None
        self._discarded = 0
        self.paused = False  # the kernel does not take what we write
        self._reading = True
        self._half_closed = False
        self._tunnel: asyncio.Future[None] | None = None
        # a head that need not be parsed again
        self._known = b""
        self._known_headers: dict[str, str] = {}
        service.join(self)

    # reading

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._discarded += len(data)
            if self._discarded > DISCARDED:
                self._transport.abort()
        elif self._early is not None:
            self._early.append(data)
            self._hold()
        elif (
            self._known
            and not (self._begun or self._turn or self._turns or self.paused)
            and (match := _PLAIN_GET(data)) is not None
            and len(data) - match.end() == len(self._known)
            and data.endswith(self._known)
        ):
            path, query = match.groups(b"")
            headers = self._known_headers.copy()
            self._gathering = True
            self._begin(_Turn(self._request("GET", path.decode(), query.decode(), headers, b""), True))
            self._push()
        else:
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        fresh = not self._begun
        self._gathering = True
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._early = [data[upgrade.args[0] :]]
            if self._parsed is not None:
                self._offer(self._parsed)
        except HttpParserCallbackError as error:
            if self._fault is None:
                log.error("parsing a request failed", exc_info=error)
            self._refuse(self._fault or (500, "internal error"))
        except HttpParserError as error:
            self._refuse((400, f"malformed request: {error}"))
        else:
            if self._begun and not self._headed:
                self._size += 0 if fresh else len(data)
                if self._size > self.service.limits.head:
                    self._refuse((431, long_head(self.service.limits.head)))
            elif fresh and not self._begun:
                self._remember(data)
        if self._uploaded is not None:
            self._offer_upload()
        self._push()

    def _remember(self, data: bytes) -> None:
        """Keep the head of a read that was exactly one plain GET."""
        match = _PLAIN_GET(data)
        if match is None or len(data) - match.end() > REMEMBERED:
            return
        known = data[match.end() :]
        if known != self._known and known.find(b"\r\n\r\n") == len(known) - 4 and not self._headers.keys() & _UNIQUE:
            self._known, self._known_headers = known, self._headers.copy()

    # callbacks of httptools

    def on_message_begin(self) -> None:
        self._begun, self._headed = True, False
        self._url = b""
        self._headers = {}
        self._parts = []
        self._hosts = self._size = 0
        self._since = self.service.now

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headed:
            return  # a trailer: no meaning may be given to it
        key = NAMES.get(name) or name.decode("latin-1").lower()
        if key == "host":
            self._hosts += 1
        headers = self._headers
        if key in headers:
            headers[key] = f"{headers[key]}{'; ' if key == 'cookie' else ', '}{text(value)}"
        else:
            headers[key] = text(value)

    def on_headers_complete(self) -> None:
        limits, headers = self.service.limits, self._headers
        self._headed = True
        self._since = self.service.now
        self._size = 0
        if len(self._url) + sum(map(len, headers)) + sum(map(len, headers.values())) > limits.head:
            self._stop(431, long_head(limits.head))
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._stop(505, f"HTTP/{version} is not supported")
        if version == "1.1" and self._hosts != 1:
            self._stop(400, "too many Host headers" if self._hosts else "missing required Host header")
        if "transfer-encoding" in headers:
            if version == "1.0":
                self._stop(400, "Transfer-Encoding in an HTTP/1.0 request")
            if headers["transfer-encoding"].lower() != "chunked":
                self._stop(501, f"unsupported transfer encoding {headers['transfer-encoding']!r}")
        if self.service.uploads is not None:
            self._begin_upload(self.service.uploads)
        if self._upload is None and int(headers.get("content-length") or 0) > limits.body:
            self._stop(413, long_body(limits.body))
        if "expect" in headers and version == "1.1":
            self._expect(headers["expect"])

    def _begin_upload(self, wanted: Wanted) -> None:
        """Hand the request over before its body, if the handler wants it so."""
        headers = self._headers
        if not ("transfer-encoding" in headers or int(headers.get("content-length") or 0)):
            return
        path, query = split_target(self._url)
        request = self._request(self._parser.get_method().decode(), path, query, headers.copy(), b"")
        if path and not self._parser.should_upgrade() and wanted(request):
            self._upload = request.upload = Upload(self._upload_read)
            http10 = self._parser.get_http_version() == "1.0"
            self._uploaded = _Turn(request, self._parser.should_keep_alive() and not http10, http10)

    def _offer_upload(self) -> None:
        turn, self._uploaded = self._uploaded, None
        if turn is not None:
            self._offer(turn)

    def _upload_read(self, _: int) -> None:
        """The handler took what there was: more may come."""
        if not (self._reading or self._turns or self._transport.is_closing()):
            self._reading = True
            self._transport.resume_reading()

    def _break_upload(self, why: str) -> None:
        if self._upload is not None:
            self._upload.fail(why)

    def _expect(self, expectation: str) -> None:
        if expectation.lower() != "100-continue":
            self._stop(417, f"unknown expectation {expectation!r}")
        if self._turn or self._turns:
            self._continue_due = True  # said when the answers before it are out
        else:
            self.emit(CONTINUE)

    def on_body(self, data: bytes) -> None:
        if self._upload is not None:
            self._since = self.service.now
            self._upload.feed(data)
            if self._upload.full:
                self._hold()
            return
        self._size += len(data)
        if self._size > self.service.limits.body:
            self._stop(413, long_body(self.service.limits.body))
        self._parts.append(data)

    def on_message_complete(self) -> None:
        self._begun = self._continue_due = False
        if self._upload is not None:
            self._upload.finish()
            self._upload = None
            self._offer_upload()
            return
        method = self._parser.get_method().decode()
        path, query = split_target(self._url)
        if not path or method == "CONNECT":
            self._stop(400, f"{method} of {self._url[:200].decode('latin-1')!r} is not served here")
        # a copy, because `_remember` must not learn what a handler adds to its request
        request = self._request(method, path, query, self._headers.copy(), b"".join(self._parts))
        http10 = self._parser.get_http_version() == "1.0"
        upgrade = self._parser.should_upgrade()
        turn = _Turn(request, self._parser.should_keep_alive() and not http10, http10, upgrade)
        if upgrade:
            self._parsed = turn
        else:
            self._offer(turn)

    def _request(self, method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> Request:
        return Request(method, path, query, headers, body, self._peer, self._remote, "HTTP/1.1", self._port)

    def _stop(self, status: int, why: str) -> None:
        self._fault = (status, why)
        raise _Fault

    # answering

    def _offer(self, turn: _Turn) -> None:
        """Answer it now, or after those before it."""
        if self._turn or self._turns or self.paused:
            self._turns.append(turn)
            self._hold()
        else:
            self._begin(turn)

    def _refuse(self, fault: tuple[int, str]) -> None:
        """The stream of requests cannot be trusted from here: answer what came before, then the fault, then close."""
        if self._deaf:
            return
        self._begun = False
        self._deaf = True
        self._fault = fault
        self._uploaded = None
        self._break_upload(fault[1])
        self._offer(_Turn(self._request("GET", "/", "", {}, b""), keep=False, fault=fault))

    def _begin(self, turn: _Turn) -> None:
        self._turn = turn
        if turn.fault is not None:
            self._reply(self.service.on_error(*turn.fault))
            return
        task = self.service.answer(turn.request, self._reply)
        if self._turn is turn:
            self._task = task

    def _reply(self, answer: Answer) -> None:
        turn = self._turn
        self._task = None
        if turn is None:  # the client left while the handler was at work
            if isinstance(answer, Upgrade):  # which may hold a connection of its own: it is told, and ends it
                self.service.spawn(self._run(answer, _lost(self._transport)))
            return
        keep = "" if turn.keep and not (self.service.retiring or self._half_closed or self._leaves(turn)) else CLOSE
        try:
            if isinstance(answer, Response):
                self._respond(turn, answer, keep)
            elif isinstance(answer, Stream):
                self._stream(turn, answer, keep)
            elif turn.upgrade:
                self._switch(answer)
            else:
                raise BadAnswer("upgrade of a request that does not ask for one")
        except BadAnswer:
            log.exception("bad answer", extra={"method": turn.request.method, "path": turn.request.path})
            self._respond(turn, self.service.on_error(500, "internal error"), keep)
        if not self._gathering:
            self.advance()

    @staticmethod
    def _leaves(turn: _Turn) -> bool:
        """The answer comes before the end of the body: the rest is not waited for."""
        return turn.request.upload is not None and not turn.request.upload.complete

    def _respond(self, turn: _Turn, answer: Response, keep: str) -> None:
        body, status = answer.body, answer.status
        parts = [body] if isinstance(body, bytes) else pieces(body)
        length = "" if status in BODYLESS else f"content-length: {sum(map(len, parts))}\r\n"
        top = head(status, answer.headers, length + keep)
        if turn.request.method == "HEAD" or not length:
            self.emit(top)
        elif len(parts) == 1 and len(parts[0]) < PIECE:
            self.emit(top + parts[0])
        else:
            for piece in (top, *parts):
                self.emit(piece)
        self._done(last=bool(keep))

    def _stream(self, turn: _Turn, answer: Stream, keep: str) -> None:
        length = answer.length
        framing = "transfer-encoding: chunked\r\n" if length is None else f"content-length: {length}\r\n"
        self.emit(head(answer.status, answer.headers, keep if turn.http10 and length is None else framing + keep))
        if turn.request.method == "HEAD":
            self._done(last=bool(keep))
            return
        writer = self._writer = ChunkWriter(self, raw=turn.http10 or length is not None, length=length)
        start(answer, writer)
        if self.service.retiring or self._half_closed:
            writer.close()

    def stream_ended(self) -> None:
        """The writer closed: the answer is complete."""
        self._writer = None
        turn = self._turn
        if turn is not None:
            self._done(last=not turn.keep or self.service.retiring or self._half_closed or self._leaves(turn))
            if not self._gathering:
                self.advance()

    def _switch(self, answer: Upgrade) -> None:
        self.emit(head(101, answer.headers, "connection: Upgrade\r\n"))
        self._gathering = False
        self._push()
        tunnel = Tunnel(self._transport, b"".join(self._early or ()), self.inbox)
        self._transport.set_protocol(tunnel)
        self._heir = tunnel
        if not self._reading:
            self._transport.resume_reading()
        self._deaf = True
        self._tunnel = self.service.spawn(self._run(answer, tunnel))

    async def _run(self, answer: Upgrade, tunnel: Tunnel) -> None:
        try:
            await answer.run(tunnel)
        finally:
            self.service.leave(self)
            tunnel.close()

    def _done(self, *, last: bool) -> None:
        """The answer is out; the connection is free for the next request, or at its end."""
        if self._turn is not None and self._turn.request.upload is not None:
            self._left = self._leaves(self._turn)
            self._turn.request.upload.close()
        self._turn = None
        self._served = True
        self._since = self.service.now
        if last:
            self._deaf = True
            self._turns.clear()
            if not self._gathering:
                self._end()
        elif self._early is not None:  # asked for an upgrade and was answered like any request: HTTP goes on
            self.service.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        early = b"".join(self._early or ())
        self._early = self._parsed = None
        self._parser = HttpRequestParser(self)
        if early:
            self.data_received(early)
        self.advance()

    def advance(self) -> None:
        """Answer the requests that wait, until one takes time or the client does not keep up; then read on."""
        self._gathering = True
        while self._turns and not (self._turn or self.paused):
            self._begin(self._turns.popleft())
        if self._continue_due and not (self._turn or self._turns or self._deaf):
            self._continue_due = False
            self.emit(CONTINUE)
        self._push()
        if not (self._reading or self._turns or self.paused or self._transport.is_closing()):
            self._reading = True
            self._transport.resume_reading()

    def _hold(self) -> None:
        if self._reading:
            self._reading = False
            self._transport.pause_reading()

    # writing

    def emit(self, data: bytes) -> None:
        if not self._gathering:
            self._transport.write(data)
            return
        self._out.append(data)
        self._gathered += len(data)
        if self._gathered > GATHERED:
            self._write_out()

    def _write_out(self) -> None:
        out, self._out, self._gathered = self._out, [], 0
        for piece in out if len(out) == 1 else pieces(out):
            self._transport.write(piece)

    def _push(self) -> None:
        """Send what was gathered; close behind the last answer."""
        self._gathering = False
        if self._out:
            self._write_out()
        if self._deaf and not (self._turn or self._turns or self._tunnel):
            self._end()

    def unsent(self) -> int:
        return self._transport.get_write_buffer_size()

    def _end(self) -> None:
        """Close once what is written is sent; after a fault, give the client time to read why."""
        if self._linger is not None or self._transport.is_closing():
            return
        if self._fault is None and not self._left:
            self._transport.close()
            return
        self._linger = self.service.loop.call_later(self.service.limits.linger_seconds, self._transport.close)
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    # asyncio.Protocol

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._writer is not None:
            self._writer.resumed()
        self.advance()

    def eof_received(self) -> bool:
        """The client sends no more. It may still read an answer that is due; a stream it has left ends."""
        self._half_closed = True
        self._break_upload("the client closed the connection before the end of its body")
        if self._writer is not None:
            self._writer.close()
        if not (self._turn or self._turns):
            return False
        return self._transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = True
        if self._heir is not None:  # the end was on its way to us when the tunnel took our place
            self._heir.connection_lost(exc)
            return
        self.service.leave(self)
        self._break_upload("the client went away before the end of its body")
        self._turn = None
        self._turns.clear()
        if self._linger is not None:
            self._linger.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._writer is not None:
            self._writer.ended()

    # havre.wire.http.service.Connection

    def retire(self) -> None:
        if self._tunnel is not None:
            return
        if self._writer is not None:
            self._writer.close()
        elif not (self._turn or self._turns):
            self._deaf = True
            self._end()

    def abort(self) -> None:
        self._transport.abort()

    def sweep(self, now: float) -> None:
        if self._transport.is_closing() and now - self._since > self.service.limits.idle_seconds:
            self._transport.abort()  # it does not even read the answer
        if self._deaf or self._early is not None:
            return
        if self._turn or self._turns:
            if self._upload is not None and self._reading and now - self._since > self.service.limits.body_seconds:
                self._refuse((408, "the rest of the request did not arrive in time"))
            return
        limits, waited = self.service.limits, now - self._since
        if not self._begun:
            if waited > (limits.idle_seconds if self._served else limits.head_seconds):
                self._deaf = True
                self._since = now
                self._end()
        elif waited > (limits.body_seconds if self._headed else limits.head_seconds):
            self._refuse((408, "the request did not arrive in time"))


def _lost(transport: asyncio.Transport) -> Tunnel:
    """A tunnel whose other side has gone."""
    tunnel = Tunnel(transport)
    tunnel.connection_lost(None)
    return tunnel
