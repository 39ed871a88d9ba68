from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.wire.streaming.far import Far, SpdyClient, until

from havre.wire.streaming import spdy
from havre.wire.streaming import spdy_frames as wire
from havre.wire.streaming.spdy import Session, Stream
from havre.wire.streaming.spdy_frames import Data, GoAway, Ping, Reset, RstStream, SynReply


class Server:
    """A session that accepts everything."""

    def __init__(self) -> None:
        self.far = Far()
        self.client = SpdyClient(self.far)
        self.streams: list[Stream] = []
        self.session = Session(self.far, self.accept)

    def accept(self, stream: Stream) -> None:
        stream.reply()
        self.streams.append(stream)

    async def opened(self) -> tuple[int, Stream]:
        number = self.client.open({})
        await until(lambda: self.streams and self.streams[-1].id == number)
        return number, self.streams[-1]


@asynccontextmanager
async def serving() -> AsyncGenerator[Server]:
    server = Server()
    task = asyncio.create_task(server.session.run())
    yield server
    server.far.leave()
    await asyncio.wait_for(task, 5)


async def test_a_stream_is_replied_read_written_and_ended() -> None:
    async with serving() as server:
        number, stream = await server.opened()
        server.client.send(number, b"in", fin=True)
        assert (await stream.read(), await stream.read()) == (b"in", b"")
        await stream.write(b"out")
        stream.finish()
        assert server.client.got() == [SynReply(1, {}), Data(1, b"out"), Data(1, b"", fin=True)]


async def test_pings_of_the_client_are_echoed_and_ours_are_not() -> None:
    async with serving() as server:
        server.far.say(wire.ping(1), wire.ping(2), wire.ping(3))
        await until(lambda: not server.far.unread)
        assert server.client.got() == [Ping(1), Ping(3)]


async def test_a_stream_that_the_client_resets_can_no_longer_be_written() -> None:
    async with serving() as server:
        number, stream = await server.opened()
        server.far.say(wire.rst_stream(number, Reset.CANCEL))
        assert await stream.read() == b""
        with pytest.raises(ConnectionResetError):
            await stream.write(b"x")


async def test_a_client_that_leaves_ends_every_stream() -> None:
    server = Server()
    task = asyncio.create_task(server.session.run())
    _, stream = await server.opened()
    server.far.leave()
    assert await stream.read() == b""
    await task
    assert server.session.closed.is_set()
    with pytest.raises(ConnectionResetError):
        await stream.write(b"x")


async def test_the_connection_is_not_read_while_nobody_reads_the_stream() -> None:
    async with serving() as server:
        number, stream = await server.opened()
        piece = bytes(spdy.HELD // 4)
        for _ in range(8):
            server.client.send(number, piece)
        await until(lambda: stream.inbox.held > spdy.HELD)
        assert server.far.unread == 3
        received = 0
        while received < 8 * len(piece):
            received += len(await stream.read())
        assert server.far.unread == 0


async def test_what_is_read_is_acknowledged_for_stream_and_session() -> None:
    async with serving() as server:
        number, stream = await server.opened()
        server.client.send(number, bytes(40_000))
        await stream.read()
        updates = [f for f in wire.Decoder().feed(bytes(server.far.heard)) if isinstance(f, wire.WindowUpdate)]
        assert updates == [wire.WindowUpdate(1, 40_000), wire.WindowUpdate(0, 40_000)]


async def test_a_client_without_windows_gets_everything() -> None:
    async with serving() as server:
        number, stream = await server.opened()
        await asyncio.wait_for(stream.write(bytes(300_000)), 5)
        assert len(server.client.data(number)) == 300_000


async def test_a_client_with_windows_is_sent_only_what_it_allowed() -> None:
    async with serving() as server:
        server.far.say(wire.settings({wire.INITIAL_WINDOW_SIZE: 100}))
        number, stream = await server.opened()
        writing = asyncio.create_task(stream.write(bytes(250)))
        await until(lambda: len(server.client.data(number)) == 100)
        server.far.say(wire.window_update(number, 100))
        await until(lambda: len(server.client.data(number)) == 200)
        assert not writing.done()
        server.far.say(wire.settings({wire.INITIAL_WINDOW_SIZE: 150}))
        await asyncio.wait_for(writing, 5)
        assert len(server.client.data(number)) == 250


async def test_a_writer_that_waits_for_its_window_notices_the_end() -> None:
    async with serving() as server:
        server.far.say(wire.settings({wire.INITIAL_WINDOW_SIZE: 0}))
        number, stream = await server.opened()
        writing = asyncio.create_task(stream.write(b"x"))
        await asyncio.sleep(0)
        server.far.say(wire.rst_stream(number, Reset.CANCEL))
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(writing, 5)


async def test_a_client_that_only_pings_is_not_read_either() -> None:
    async with serving() as server:
        server.far.slow.clear()
        server.far.say(*[wire.ping(1)] * 100)
        for _ in range(20):
            await asyncio.sleep(0)
        assert server.far.unread == 99
        server.far.slow.set()
        await until(lambda: not server.far.unread)


async def test_more_streams_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spdy, "STREAMS", 2)
    async with serving() as server:
        for _ in range(3):
            server.client.open({})
        await until(lambda: RstStream(5, Reset.REFUSED_STREAM) in server.client.got())
        server.streams[0].reset()
        server.client.open({})
        await until(lambda: SynReply(7, {}) in server.client.got())


@pytest.mark.parametrize("number", [2, 0, 1])
async def test_streams_must_be_odd_and_growing(number: int) -> None:
    server = Server()
    encoder = wire.Encoder()
    server.far.say(encoder.syn_stream(1, {}), encoder.syn_stream(number, {}))
    await asyncio.wait_for(server.session.run(), 5)
    assert server.client.got()[-1] == GoAway(1, wire.Leave.PROTOCOL_ERROR)


async def test_leaving_says_so_and_waits_for_the_client() -> None:
    server = Server()
    task = asyncio.create_task(server.session.run())
    number, _ = await server.opened()
    server.client.send(number, bytes(2 * spdy.HELD))  # which nobody will read
    leaving = asyncio.create_task(server.session.leave())
    await until(lambda: GoAway(1, 0) in server.client.got())
    assert not leaving.done()
    server.far.leave()
    await asyncio.wait_for(leaving, 5)
    await task


@given(st.lists(st.binary(max_size=40), max_size=6))
async def test_no_bytes_break_a_session(parts: list[bytes]) -> None:
    server = Server()
    server.far.say(wire.Encoder().syn_stream(1, {"a": "b"}), *(part for part in parts if part))
    server.far.leave()
    await asyncio.wait_for(server.session.run(), 5)
    assert server.session.closed.is_set()
