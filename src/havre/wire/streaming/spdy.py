"""A SPDY/3.1 session on the server side: streams that the client opens, over a tunnel or anything that looks like one.

    session = Session(link, accept)         accept(stream) → stream.reply() or stream.reset(…), within the call
    await session.run()                     reads until the client leaves; a task of the caller
    await stream.read() · await stream.write(data) · stream.finish() · stream.reset()
    await session.leave()                   GOAWAY, and time for the client to take what was sent

Windows: kubectl and every client made with Go's spdystream neither keep to windows nor send WINDOW_UPDATE, and would
hang if we waited for it. So a session sends as fast as TCP takes it until the client shows that it knows windows (by a
WINDOW_UPDATE, or a setting for them); from then on its windows are obeyed. What is received is acknowledged by
WINDOW_UPDATE when it is read, and bounded for those who do not care by not reading the connection.

Source: SPDY Draft 3.1, 2.2–2.6; github.com/moby/spdystream, connection.go (what kubectl does).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from havre.wire.streaming import spdy_frames as wire
from havre.wire.streaming.errors import ProtocolError
from havre.wire.streaming.inbox import Inbox
from havre.wire.streaming.spdy_frames import Leave, Reset

log = logging.getLogger(__name__)

STREAMS = 1024  # open at once: a browser behind port-forward opens 6 × 2, a load test some hundreds
HELD = 1 << 20  # received bytes that wait for readers before the connection is not read: 16 windows of 64 KiB
FRAME = 32 << 10  # bytes of a data frame we send: what Go copies at a time
ACKNOWLEDGE = wire.WINDOW // 2  # bytes read by us before the client is told
LINGER = 5.0  # seconds for the client to take the last bytes and close


class Link(Protocol):
    """What carries the session: a `Tunnel`, or WebSocket messages."""

    async def read(self) -> bytes: ...

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...


class Stream:
    """One stream of a session. It can be read to its end and written, each direction ending by itself."""

    def __init__(self, session: Session, number: int, headers: Mapping[str, str], window: int) -> None:
        self.id = number
        self.headers = headers
        self.window = window  # bytes the client lets us send; used only when it knows windows
        self.inbox = Inbox(self._taken)
        self.finished = False  # we sent FIN or RST, or the client sent RST
        self._session = session
        self._unacknowledged = 0

    def reply(self) -> None:
        """Accept: the client waits for it before it writes."""
        self._session.send(self._session.encoder.syn_reply(self.id, {}))

    async def read(self) -> bytes:
        """What has arrived, at least one byte; b"" at the end."""
        return await self.inbox.read()

    async def write(self, data: bytes) -> None:
        """Raises ConnectionResetError when the client has left the stream."""
        view = memoryview(data)
        while view:
            room = await self._session.room(self, min(len(view), FRAME))
            self._session.send(wire.data_head(self.id, room) + bytes(view[:room]))
            view = view[room:]

    def finish(self) -> None:
        """Send the end of our direction."""
        if not self.finished:
            self.finished = True
            self._session.send(wire.data_head(self.id, 0, fin=True))
            self._session.forget_if_done(self)

    def reset(self, status: Reset = Reset.CANCEL) -> None:
        """End both directions."""
        if not (self.finished and self.inbox.ended):
            self._session.send(wire.rst_stream(self.id, status))
        self.broken()

    def broken(self) -> None:
        """Neither direction carries anything more."""
        self.finished = True
        self.inbox.discard()
        self._session.forget_if_done(self)

    def _taken(self, count: int) -> None:
        self._unacknowledged += count
        if self._unacknowledged >= ACKNOWLEDGE and not self.inbox.ended:
            self._session.send(wire.window_update(self.id, self._unacknowledged))
            self._unacknowledged = 0
        self._session.taken(count)


class Session:
    """All streams of one connection."""

    def __init__(self, link: Link, accept: Callable[[Stream], None]) -> None:
        self.encoder = wire.Encoder()
        self.closed = asyncio.Event()  # the client left, or broke the rules
        self._link = link
        self._accept = accept
        self._decoder = wire.Decoder()
        self._streams: dict[int, Stream] = {}
        self._last = 0  # the highest stream the client opened
        self._leaving = False
        self._held = 0
        self._readable = asyncio.Event()
        self._readable.set()
        self._unacknowledged = 0
        self._window = wire.WINDOW  # of the session
        self._initial_window = wire.WINDOW  # of a new stream
        self._windows = False  # the client knows windows
        self._widened = asyncio.Event()
        self._answered = False  # the client caused us to send something

    async def run(self) -> None:
        """Read until the client leaves. A client that breaks the rules is told and left."""
        try:
            while not self.closed.is_set() and (data := await self._link.read()):
                for frame in self._decoder.feed(data):
                    self._take(frame)
                if self._answered:  # a client that only asks, and never reads, is not read either
                    self._answered = False
                    await self._link.drain()
                await self._readable.wait()
        except ProtocolError as e:
            log.info("a SPDY client broke the rules", extra={"why": str(e)})
            self.send(wire.go_away(self._last, Leave(e.code)))
        except ConnectionResetError:
            log.debug("a SPDY client went away")
        finally:
            self._end()

    async def leave(self) -> None:
        """Say that no more streams are taken, and wait a moment for the client to close: it may still be reading."""
        if self.closed.is_set():
            return
        self._leaving = True
        for stream in list(self._streams.values()):
            stream.inbox.discard()  # so that the connection is read, and the client's close seen
        self.send(wire.go_away(self._last, Leave.OK))
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            async with asyncio.timeout(LINGER):
                await self._link.drain()
                await self.closed.wait()

    # for streams

    def send(self, data: bytes) -> None:
        if not self.closed.is_set():
            self._link.write(data)

    async def room(self, stream: Stream, wanted: int) -> int:
        """How much of `wanted` may be sent now, at least one byte. Raises ConnectionResetError."""
        while True:
            if stream.finished or self.closed.is_set():
                raise ConnectionResetError("write to a stream: the client has left it")
            await self._link.drain()
            room = min(wanted, stream.window, self._window) if self._windows else wanted
            if room > 0 and not stream.finished:
                stream.window -= room
                self._window -= room
                return room
            self._widened.clear()
            if not stream.finished:
                await self._widened.wait()

    def taken(self, count: int) -> None:
        self._held -= count
        self._unacknowledged += count
        if self._unacknowledged >= ACKNOWLEDGE:
            self.send(wire.window_update(0, self._unacknowledged))
            self._unacknowledged = 0
        if self._held <= HELD:
            self._readable.set()

    def forget_if_done(self, stream: Stream) -> None:
        if stream.finished and stream.inbox.ended:
            self._streams.pop(stream.id, None)
            self._widened.set()  # a writer of this stream must see its end

    # frames

    def _take(self, frame: wire.Frame) -> None:
        match frame:
            case wire.Data():
                self._data(frame)
            case wire.SynStream():
                self._open(frame)
            case wire.RstStream():
                if stream := self._streams.get(frame.stream):
                    stream.broken()
            case wire.Ping():
                if frame.id % 2:  # the client's; even ones would be ours
                    self._answered = True
                    self.send(wire.ping(frame.id))
            case wire.GoAway():
                self._end()
            case wire.WindowUpdate():
                self._widen(frame)
            case wire.Settings():
                self._settle(frame.values)
            case wire.Headers():
                if frame.fin and (stream := self._streams.get(frame.stream)):
                    self._finish(stream)
            case wire.SynReply():
                raise ProtocolError(Leave.PROTOCOL_ERROR, "a reply to a stream that was never opened")

    def _open(self, frame: wire.SynStream) -> None:
        if frame.stream % 2 == 0 or frame.stream <= self._last:
            raise ProtocolError(Leave.PROTOCOL_ERROR, f"stream {frame.stream} opened after {self._last}")
        self._last = frame.stream
        self._answered = True
        if self._leaving or len(self._streams) >= STREAMS:
            self.send(wire.rst_stream(frame.stream, Reset.REFUSED_STREAM))
            return
        stream = self._streams[frame.stream] = Stream(self, frame.stream, frame.headers, self._initial_window)
        self._accept(stream)
        if frame.fin:
            self._finish(stream)

    def _data(self, frame: wire.Data) -> None:
        stream = self._streams.get(frame.stream)
        if stream is None:  # a stream that we have just left: its last frames may still be on the way
            self._acknowledge_lost(len(frame.data))
            return
        self._held += len(frame.data)
        if not stream.inbox.feed(frame.data):
            self.taken(len(frame.data))
        if self._held > HELD:
            self._readable.clear()
        if frame.fin:
            self._finish(stream)

    def _acknowledge_lost(self, count: int) -> None:
        self._held += count
        self.taken(count)

    def _finish(self, stream: Stream) -> None:
        stream.inbox.end()
        self.forget_if_done(stream)

    def _widen(self, frame: wire.WindowUpdate) -> None:
        self._windows = True
        if frame.stream == 0:
            self._window += frame.delta
        elif stream := self._streams.get(frame.stream):
            stream.window += frame.delta
        self._widened.set()

    def _settle(self, values: Mapping[int, int]) -> None:
        if (initial := values.get(wire.INITIAL_WINDOW_SIZE)) is None:
            return
        self._windows = True
        for stream in self._streams.values():
            stream.window += initial - self._initial_window
        self._initial_window = initial
        self._widened.set()

    def _end(self) -> None:
        self.closed.set()
        for stream in list(self._streams.values()):
            stream.finished = True
            stream.inbox.end()
        self._streams.clear()
        self._widened.set()
        self._readable.set()
