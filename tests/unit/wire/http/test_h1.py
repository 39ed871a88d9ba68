from __future__ import annotations

import asyncio
import logging
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.wire.http.h1 import Http1
from havre.wire.http.message import Answer, Request, Response, Stream, Tunnel, Upgrade, Writer
from havre.wire.http.server import Limits, Server, plain_error
from havre.wire.http.service import Service

Serving = Callable[..., AbstractAsyncContextManager[Server]]
Talk = Callable[..., Awaitable[bytes]]

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def describe(request: Request) -> Answer:
    return Response(200, [], f"{request.method} {request.path}?{request.query} {request.body.decode()}".encode())


def statuses(data: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3})", data)]


def bodies(data: bytes) -> list[bytes]:
    out = []
    while data:
        top, data = data.split(b"\r\n\r\n", 1)
        found = re.search(rb"content-length: (\d+)", top)
        length = int(found[1]) if found else 0
        out.append(data[:length])
        data = data[length:]
    return out


async def test_a_thousand_pipelined_requests_are_answered_in_order(serving: Serving, talk: Talk) -> None:
    async with serving() as server:
        asked = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % i for i in range(1000))
        data = await talk(server, asked + LAST)
    assert bodies(data) == [b"GET /%d? " % i for i in range(1000)] + [b"GET /last? "]


async def test_a_slow_answer_holds_back_the_quick_ones_behind_it(serving: Serving, talk: Talk) -> None:
    gate = asyncio.Event()

    async def slow() -> Answer:
        await gate.wait()
        return Response(200, [], b"slow")

    def handler(request: Request) -> Answer | Awaitable[Answer]:
        if request.path == "/slow":
            return slow()
        gate.set()
        return Response(200, [], b"quick")

    async with serving(handler) as server:
        asyncio.get_running_loop().call_later(0.01, gate.set)
        data = await talk(server, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n", GET + LAST)
    assert bodies(data) == [b"slow", b"quick", b"quick"]


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"POST /x HTTP/1.1", b"Host: a", *fields, b"", body])


CHUNKED = b"Transfer-Encoding: chunked"
REFUSED = {
    "two framings": (post(b"Content-Length: 1", CHUNKED, body=b"1\r\na\r\n0\r\n\r\n"), 400),
    "two framings, other order": (post(CHUNKED, b"Content-Length: 1", body=b"1\r\na\r\n0\r\n\r\n"), 400),
    "two lengths": (post(b"Content-Length: 1", b"Content-Length: 1", body=b"a"), 400),
    "signed length": (post(b"Content-Length: +1", body=b"a"), 400),
    "space before the colon": (post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"), 400),
    "folded field": (post(b"X: a\r\n b"), 400),
    "null in a field": (post(b"X: a\0b"), 400),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "gzip then chunked": (post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501),
    "chunked in 1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "unknown version": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "unknown expectation": (post(b"Expect: tea", b"Content-Length: 0"), 417),
    "connect": (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "authority as target": (b"GET example.com HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "announced body too long": (post(b"Content-Length: 101"), 413),
    "chunked body too long": (post(CHUNKED, body=b"65\r\n" + b"x" * 101 + b"\r\n"), 413),
    "head too long": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2000 + b"\r\n\r\n", 431),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00", 400),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
async def test_a_request_that_could_be_read_in_two_ways_or_is_too_large_is_refused(
    serving: Serving, talk: Talk, name: str
) -> None:
    asked, status = REFUSED[name]
    limits = Limits(body=100, head=1024, linger_seconds=0.01)
    async with serving(limits=limits) as server:
        data = await talk(server, GET + asked + GET)
    assert statuses(data) == [200, status]
    assert b"connection: close" in data


async def test_a_head_that_never_ends_is_refused_before_it_is_complete(serving: Serving) -> None:
    async with serving(limits=Limits(head=1024, linger_seconds=0.05)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n")
        for _ in range(7):
            writer.write(b"X: " + b"x" * 200 + b"\r\n")
            await asyncio.sleep(0.001)
        data = await reader.read()
        writer.close()
    assert statuses(data) == [431]


async def test_a_chunked_body_is_joined_and_its_trailers_are_no_headers(serving: Serving, talk: Talk) -> None:
    def handler(request: Request) -> Answer:
        return Response(200, [], b"%s %s" % (request.body, ",".join(sorted(request.headers)).encode()))

    asked = post(CHUNKED, b"Connection: close", body=b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nX-Remote-User: root\r\n\r\n")
    async with serving(handler) as server:
        data = await talk(server, *[asked[i : i + 7] for i in range(0, len(asked), 7)])
    assert bodies(data) == [b"abcde connection,host,transfer-encoding"]


async def test_the_body_is_asked_for_when_the_client_waits_for_that(serving: Serving) -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(post(b"Expect: 100-continue", b"Content-Length: 2", b"Connection: close"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hi")
        assert bodies(await reader.read()) == [b"POST /x? hi"]
        writer.close()


async def test_head_has_the_length_but_not_the_body(serving: Serving, talk: Talk) -> None:
    async with serving() as server:
        data = await talk(server, b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n" + LAST)
    assert data.count(b"content-length: 9\r\n") == 1
    assert b"HEAD /x" not in data
    assert data.endswith(b"GET /last? ")


async def test_http_1_0_gets_bare_bytes_until_the_end(serving: Serving, talk: Talk) -> None:
    def handler(request: Request) -> Answer:
        def start(writer: Writer) -> None:
            writer.write(b"one ")
            writer.write(b"two")
            writer.close()

        return Stream(200, [], start)

    async with serving(handler) as server:
        data = await talk(server, b"GET / HTTP/1.0\r\n\r\n")
    assert data == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\none two"


async def test_a_remembered_head_gives_each_request_its_own_target_and_headers(serving: Serving) -> None:
    seen = []

    def handler(request: Request) -> Answer:
        seen.append((request.path, request.query, dict(request.headers)))
        request.headers["x-remote-user"] = "leak"
        return Response(200, [])

    async with serving(handler) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for target in (b"/a", b"/b?watch=1", b"/c%20d"):
            writer.write(b"GET %b HTTP/1.1\r\nHost: a\r\nX: 1\r\nX: 2\r\n\r\n" % target)
            await reader.readuntil(b"\r\n\r\n")
        writer.close()
    fields = {"host": "a", "x": "1, 2"}
    assert seen == [("/a", "", fields), ("/b", "watch=1", fields), ("/c%20d", "", fields)]


async def test_a_client_that_closed_its_half_still_gets_the_answer(serving: Serving, talk: Talk) -> None:
    async def later() -> Answer:
        await asyncio.sleep(0.005)
        return Response(200, [], b"late")

    async with serving(lambda request: later()) as server:
        data = await talk(server, GET, eof=True)
    assert bodies(data) == [b"late"]


async def test_a_client_that_goes_away_cancels_the_handler(serving: Serving) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def forever() -> Answer:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with serving(lambda request: forever()) as server:
        reset = struct.pack("ii", 1, 0)  # a plain end could also mean that the client only sends no more
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.write(GET)
        await begun.wait()
        writer.transport.abort()
        async with asyncio.timeout(2):
            await cancelled.wait()


async def test_a_handler_that_raises_is_a_logged_500_and_the_connection_lives(
    serving: Serving, talk: Talk, caplog: pytest.LogCaptureFixture
) -> None:
    async def late() -> Answer:
        raise KeyError("late")

    def handler(request: Request) -> Answer | Awaitable[Answer]:
        if request.path == "/late":
            return late()
        if request.path == "/x":
            raise KeyError("secret")
        return describe(request)

    with caplog.at_level(logging.ERROR):
        async with serving(handler) as server:
            data = await talk(server, GET + b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n" + LAST)
    assert statuses(data) == [500, 500, 200]
    assert b"secret" not in data
    assert caplog.text.count("KeyError: ") == 2


async def test_a_header_with_a_line_break_never_leaves(
    serving: Serving, talk: Talk, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(lambda request: Response(200, [("x", "a\r\nset-cookie: b")])) as server:
        data = await talk(server, LAST)
    assert statuses(data) == [500]
    assert b"set-cookie" not in data


async def test_a_body_in_parts_arrives_whole(serving: Serving, talk: Talk) -> None:
    parts = [b"a" * 10, b"b" * 70_000, b"", b"c" * 100_000, b"d"]
    async with serving(lambda request: Response(200, [], parts)) as server:
        data = await talk(server, LAST)
    assert data.split(b"\r\n\r\n", 1)[1] == b"".join(parts)
    assert b"content-length: 170011\r\n" in data


async def test_the_writes_of_one_turn_leave_as_one_chunk(serving: Serving, talk: Talk) -> None:
    def start(writer: Writer) -> None:
        for word in (b"one ", b"two ", b"three"):
            writer.write(word)
        asyncio.get_running_loop().call_later(0.005, writer.close)

    async with serving(lambda request: Stream(200, [], start)) as server:
        data = await talk(server, LAST)
    assert data.split(b"\r\n\r\n", 1)[1] == b"d\r\none two three\r\n0\r\n\r\n"


async def test_a_slow_reader_shows_as_buffered_bytes_and_can_be_cut_off(serving: Serving) -> None:
    writers: asyncio.Queue[Writer] = asyncio.Queue()
    closed = []

    def start(writer: Writer) -> None:
        writer.on_close = lambda: closed.append(1)
        writers.put_nowait(writer)

    async with serving(lambda request: Stream(200, [], start)) as server:
        _, client = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
        client.write(GET)
        writer = await writers.get()
        for _ in range(64):
            writer.write(b"x" * 262_144)  # more than the kernel keeps for both sockets
            await asyncio.sleep(0)
        assert writer.buffered > 1_000_000
        writer.abort()
        assert (writer.closed, writer.buffered, closed) == (True, 0, [1])
        writer.write(b"ignored")
        client.transport.abort()


async def test_a_watcher_that_leaves_is_reported_once(serving: Serving) -> None:
    started, closed = asyncio.Event(), asyncio.Event()

    def start(writer: Writer) -> None:
        writer.on_close = closed.set
        started.set()

    async with serving(lambda request: Stream(200, [], start)) as server:
        _, client = await asyncio.open_connection("127.0.0.1", server.port)
        client.write(GET)
        await started.wait()
        client.close()
        async with asyncio.timeout(2):
            await closed.wait()


async def test_a_stream_that_cannot_start_is_cut_off(
    serving: Serving, talk: Talk, caplog: pytest.LogCaptureFixture
) -> None:
    def start(writer: Writer) -> None:
        raise RuntimeError("no")

    async with serving(lambda request: Stream(200, [], start)) as server:
        reader, client = await asyncio.open_connection("127.0.0.1", server.port)
        client.write(GET)
        try:
            said = await reader.read()
        except ConnectionResetError:
            said = b""
        client.close()
    assert not said.endswith(b"0\r\n\r\n")
    assert "start of a stream failed" in caplog.text


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(b"GET / HTTP/1.1\r\nHost", [408]), (post(b"Content-Length: 5", body=b"ab"), [408]), (b"", []), (GET, [200])],
    ids=["head", "body", "silence", "idle"],
)
async def test_a_connection_that_wastes_time_is_closed(
    serving: Serving, talk: Talk, asked: bytes, expected: list[int]
) -> None:
    limits = Limits(head_seconds=0.02, body_seconds=0.02, idle_seconds=0.02, linger_seconds=0.01)
    async with serving(limits=limits) as server:
        assert statuses(await talk(server, asked)) == expected


UPGRADE = b"GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


async def shout(tunnel: Tunnel) -> None:
    while data := await tunnel.read():
        tunnel.write(data.upper())
        await tunnel.drain()


async def test_a_tunnel_starts_with_what_came_behind_the_head(serving: Serving, talk: Talk) -> None:
    async with serving(lambda request: Upgrade([("upgrade", "echo")], shout)) as server:
        data = await talk(server, UPGRADE + b"early ", b"late", eof=True)
    assert data.startswith(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\nconnection: Upgrade\r\n\r\n")
    assert data.endswith(b"EARLY LATE")


async def test_an_upgrade_that_is_declined_goes_on_as_http(serving: Serving, talk: Talk) -> None:
    async with serving() as server:
        data = await talk(server, UPGRADE + GET, LAST)
    assert bodies(data) == [b"GET /up? ", b"GET /x? ", b"GET /last? "]


async def test_an_upgrade_waits_for_its_turn(serving: Serving, talk: Talk) -> None:
    async def later() -> Answer:
        await asyncio.sleep(0.005)
        return Response(200, [], b"first")

    def handler(request: Request) -> Answer | Awaitable[Answer]:
        return Upgrade([("upgrade", "echo")], shout) if request.path == "/up" else later()

    async with serving(handler) as server:
        data = await talk(server, GET + UPGRADE + b"hi", eof=True)
    assert statuses(data) == [200, 101]
    assert data.endswith(b"HI")


class Wire:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.sent = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> None:
        return None

    def pause_reading(self) -> None: ...

    resume_reading = pause_reading


def answers(*reads: bytes) -> bytes:
    """What one connection says to these reads."""

    async def run() -> bytes:
        wire: Any = Wire()
        connection = Http1(Service(describe, Limits(body=1000, head=1000), plain_error), wire, None, "")
        for data in reads:
            if data and not wire.closed:
                connection.data_received(data)
        connection.connection_lost(None)
        return bytes(wire.sent)

    loop = asyncio.new_event_loop()  # not asyncio.run, which takes the loop away from the tests that await
    try:
        return loop.run_until_complete(run())
    finally:
        loop.close()


FRAGMENT = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            GET,
            LAST,
            b"GET / HTTP/1.1\r\n",
            b"\r\n",
            b"Host: a\r\n",
            b"Content-Length: 3\r\n",
            CHUNKED + b"\r\n",
            b"3\r\nabc\r\n",
        ]
    ),
)


@given(st.lists(FRAGMENT, max_size=8))
@settings(max_examples=50, deadline=None)
def test_whatever_arrives_is_answered_with_http_or_nothing(reads: list[bytes]) -> None:
    sent = answers(*reads)
    assert sent == b"" or sent.startswith(b"HTTP/1.1 ")
    assert 500 not in statuses(sent)


@given(
    st.lists(
        st.sampled_from([GET, post(b"Content-Length: 2", body=b"hi"), post(CHUNKED, body=b"1\r\na\r\n0\r\n\r\n")])
    ),
    st.data(),
)
@settings(max_examples=40, deadline=None)
def test_how_requests_are_cut_into_reads_changes_nothing(asked: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(asked)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    reads = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert answers(*reads) == answers(whole)
