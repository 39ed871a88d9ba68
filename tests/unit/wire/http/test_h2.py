from __future__ import annotations

import asyncio
import re
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import httpunk
import httpunk.asyncio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.wire.http.framing import PREFACE
from havre.wire.http.h2 import Http2
from havre.wire.http.message import Answer, Request, Response, Stream, Upgrade, Writer
from havre.wire.http.server import Limits, Server, plain_error
from havre.wire.http.service import Service

Serving = Callable[..., AbstractAsyncContextManager[Server]]

HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 1, 3, 4, 6, 7, 8
GET = b"\x82\x87\x84\x41\x01a"  # GET https / with the authority "a"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def frames(data: bytes) -> list[tuple[int, int, bytes]]:
    """(kind, stream, payload) of each frame."""
    out = []
    while len(data) >= 9:
        size = int.from_bytes(data[:3], "big")
        out.append((data[3], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return out


@asynccontextmanager
async def client(server: Server, **options: Any) -> AsyncIterator[Any]:
    """A connection of httpunk's own client, by prior knowledge."""
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(
        lambda: httpunk.asyncio.H2ClientProtocol(authority="a", scheme="http", **options), "127.0.0.1", server.port
    )
    connection = await protocol.ready()
    try:
        async with asyncio.timeout(5):
            yield connection
    finally:
        await protocol.aclose()


async def test_a_request_and_its_answer_are_whole(serving: Serving) -> None:
    def handler(request: Request) -> Answer:
        fields = f"{request.headers['host']} {request.headers['x']} {request.headers['cookie']}"
        shown = f"{request.method} {request.path}?{request.query} {len(request.body)} {request.protocol} {fields}"
        return Response(201, [("x-a", "1"), ("X-B", "2")], shown.encode())

    headers = [("x", "1"), ("x", "é"), ("cookie", "a=1"), ("cookie", "b=2")]
    async with serving(handler) as server, client(server) as connection:
        reply = await connection.request("PUT", "/a%20b?c=d?e", headers=headers, body=b"x" * 200_000)
        assert (reply.status, reply.headers["x-b"], reply.headers["content-length"]) == (201, b"2", b"47")
        assert await reply.read() == "PUT /a%20b?c=d?e 200000 HTTP/2 a 1, é a=1; b=2".encode()


async def test_many_requests_share_a_connection_and_answer_when_they_are_ready(serving: Serving) -> None:
    gate = asyncio.Event()

    async def slow() -> Answer:
        await gate.wait()
        return Response(200, [], b"slow")

    def handler(request: Request) -> Answer | Awaitable[Answer]:
        return slow() if request.path == "/slow" else Response(200, [], request.path.encode())

    async with serving(handler) as server, client(server) as connection:
        waiting = asyncio.ensure_future(connection.request("GET", "/slow"))
        replies = await asyncio.gather(*[connection.request("GET", f"/{i}") for i in range(200)])
        assert [await reply.read() for reply in replies] == [b"/%d" % i for i in range(200)]
        gate.set()
        assert await (await waiting).read() == b"slow"


async def test_a_body_larger_than_the_windows_arrives_whole(serving: Serving) -> None:
    parts = [b"a" * 300_000, b"b" * 700_000, b"c"]
    async with serving(lambda request: Response(200, [], parts)) as server, client(server) as connection:
        reply = await connection.request("GET", "/")
        assert await reply.read() == b"".join(parts)


async def test_trailers_end_a_request(serving: Serving) -> None:
    def handler(request: Request) -> Answer:
        return Response(200, [], request.body + b" " + ",".join(sorted(request.headers)).encode())

    async with serving(handler) as server, client(server) as connection:
        reply = await connection.request("POST", "/", body=b"hi", trailers={"x-remote-user": "root"})
        assert await reply.read() == b"hi host"


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_has_no_length(serving: Serving, status: int) -> None:
    async with serving(lambda request: Response(status, [])) as server, client(server) as connection:
        reply = await connection.request("GET", "/")
        assert (reply.status, reply.headers.get("content-length"), await reply.read()) == (status, None, b"")


async def test_head_has_the_length_but_not_the_body(serving: Serving) -> None:
    async with serving() as server, client(server) as connection:
        reply = await connection.request("HEAD", "/x")
        assert (reply.headers["content-length"], await reply.read()) == (b"9", b"")


async def test_limits_are_answered_and_the_connection_lives(serving: Serving) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100

    async with serving(limits=Limits(body=1000, head=2000)) as server, client(server) as connection:
        announced = await connection.request("POST", "/", body=b"x" * 1001)
        streamed = await connection.request("POST", "/", body=endless())
        long_head = await connection.request("GET", "/", headers={"x": "y" * 2001})
        many_fields = await connection.request("GET", "/", headers=[("x", "y" * 100)] * 20)
        upgrade = await connection.request("GET", "/")
        replies = (announced, streamed, long_head, many_fields, upgrade)
        assert [reply.status for reply in replies] == [413, 413, 431, 431, 200]


async def test_a_field_is_never_lost_on_the_way(serving: Serving) -> None:
    """The state machine drops a field above its limit and delivers the rest; an impersonation header would vanish."""
    seen: list[dict[str, str]] = []

    def handler(request: Request) -> Answer:
        seen.append(request.headers)
        return Response(200, [])

    for size in (60_000, 66_000, 120_000, 1_100_000, 1_400_000):
        async with serving(handler) as server, client(server) as connection:
            try:
                await connection.request("GET", "/", headers={"impersonate-user": "&" * size, "x": "1"})
            except httpunk.HTTPunkError:
                continue
    assert [len(headers["impersonate-user"]) for headers in seen] == [60_000]


async def test_an_upgrade_needs_the_other_protocol(serving: Serving) -> None:
    async def run(tunnel: object) -> None: ...

    async with serving(lambda request: Upgrade([], run)) as server, client(server) as connection:
        assert (await connection.request("GET", "/")).status == 400


async def test_a_handler_that_raises_is_a_500(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    async def late() -> Answer:
        raise KeyError("secret")

    async with serving(lambda request: late()) as server, client(server) as connection:
        reply = await connection.request("GET", "/")
        assert (reply.status, await reply.read()) == (500, b"internal error\n")
    assert "KeyError: 'secret'" in caplog.text


async def test_a_header_that_cannot_be_sent_resets_only_its_stream(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(request: Request) -> Answer:
        return Response(200, [("x", "a\r\nb")] if request.path == "/bad" else [])

    async with serving(handler) as server, client(server) as connection:
        with pytest.raises(httpunk.StreamResetError):
            await connection.request("GET", "/bad")
        assert (await connection.request("GET", "/")).status == 200


async def test_streams_write_until_they_close(serving: Serving) -> None:
    writers: list[Writer] = []
    async with serving(lambda request: Stream(200, [], writers.append)) as server, client(server) as connection:
        replies = [await connection.request("GET", "/") for _ in range(3)]
        for turn in range(2):
            for number, writer in enumerate(writers):
                writer.write(b"%d" % number)
                writer.write(b"%d " % turn)
            await asyncio.sleep(0.002)
        for writer in writers:
            writer.close()
            writer.write(b"ignored")
        assert [await reply.read() for reply in replies] == [b"00 01 ", b"10 11 ", b"20 21 "]


async def test_a_client_that_resets_ends_the_stream_and_the_handler(serving: Serving) -> None:
    closed, cancelled, begun = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def start(writer: Writer) -> None:
        writer.on_close = closed.set

    async def forever() -> Answer:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    def handler(request: Request) -> Answer | Awaitable[Answer]:
        return Stream(200, [], start) if request.path == "/watch" else forever()

    async with serving(handler) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(PREFACE + frame(SETTINGS, 0, 0))
        writer.write(frame(HEADERS, 5, 1, b"\x82\x87\x04\x06/watch\x41\x01a") + frame(HEADERS, 5, 3, GET))
        async with asyncio.timeout(2):
            await begun.wait()
            writer.write(frame(RST_STREAM, 0, 1, bytes(4)) + frame(RST_STREAM, 0, 3, bytes(4)))
            await closed.wait()
            await cancelled.wait()
        writer.close()


async def test_a_slow_reader_shows_as_buffered_bytes_and_can_be_cut_off(serving: Serving) -> None:
    writers: asyncio.Queue[Writer] = asyncio.Queue()
    ended = []

    def start(writer: Writer) -> None:
        writer.on_close = lambda: ended.append(1)
        writers.put_nowait(writer)

    async with serving(lambda request: Stream(200, [], start)) as server:
        reader, client = await asyncio.open_connection("127.0.0.1", server.port)
        client.write(PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 5, 1, GET))
        writer = await writers.get()
        for _ in range(10):
            writer.write(b"x" * 20_000)
            await asyncio.sleep(0)
        assert writer.buffered == 200_000 - 65_535  # the window of the stream was never enlarged
        client.write(frame(WINDOW_UPDATE, 0, 0, b"\0\1\0\0") + frame(WINDOW_UPDATE, 0, 1, b"\0\1\0\0"))
        async with asyncio.timeout(2):
            while writer.buffered != 200_000 - 65_535 - 65_536:  # noqa: ASYNC110 - only the server knows
                await asyncio.sleep(0.001)
        writer.abort()
        assert (writer.closed, writer.buffered, ended) == (True, 0, [1])
        said = b""
        async with asyncio.timeout(2):
            while (RST_STREAM, 1) not in [(kind, stream) for kind, stream, _ in frames(said)]:
                said += await reader.read(65_536)
        client.close()


async def test_rapid_resets_end_the_connection_early_and_hurt_nobody_else(serving: Serving) -> None:
    started = []

    async def slow() -> Answer:
        started.append(1)
        await asyncio.Event().wait()
        raise AssertionError

    def handler(request: Request) -> Answer | Awaitable[Answer]:
        return Response(200, [], b"fine") if request.path == "/x" else slow()

    async with serving(handler, limits=Limits(resets=300, linger_seconds=0.02)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        attack = b"".join(frame(HEADERS, 5, i, GET) + frame(RST_STREAM, 0, i, bytes(4)) for i in range(1, 10_001, 2))
        writer.write(PREFACE + frame(SETTINGS, 0, 0) + attack)
        async with asyncio.timeout(5):
            said = frames(await reader.read())
        writer.close()
        assert [payload[7] for kind, _, payload in said if kind == GOAWAY] == [0xB]  # ENHANCE_YOUR_CALM
        assert len(started) <= 301
        async with client(server) as connection:
            assert (await connection.request("GET", "/x")).status == 200


async def test_more_streams_than_allowed_are_refused(serving: Serving) -> None:
    async def forever() -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(lambda request: forever(), limits=Limits(streams=10)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        asked = b"".join(frame(HEADERS, 5, i, GET) for i in range(1, 41, 2))
        writer.write(PREFACE + frame(SETTINGS, 0, 0) + asked + frame(PING, 0, 0, b"12345678"))
        said = b""
        async with asyncio.timeout(2):
            while b"12345678" not in said:
                said += await reader.read(65_536)
        writer.close()
    refused = [stream for kind, stream, payload in frames(said) if kind == RST_STREAM and payload[3] == 7]
    assert refused == list(range(21, 41, 2))


async def test_a_client_that_asks_for_pings_and_never_reads_is_not_served_for_ever(serving: Serving) -> None:
    async with serving() as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        cast("asyncio.Transport", writer.transport).pause_reading()
        pings = frame(PING, 0, 0, bytes(8)) * 50_000
        writer.write(PREFACE + frame(SETTINGS, 0, 0))
        for _ in range(20):
            writer.write(pings)
            await asyncio.sleep(0.001)
        assert writer.transport.get_write_buffer_size() > 0  # the server stopped reading
        writer.transport.abort()
        async with client(server) as connection:
            assert (await connection.request("GET", "/x")).status == 200


async def test_closing_says_goodbye_and_lets_requests_end(serving: Serving) -> None:
    begun = asyncio.Event()
    closed = []

    async def slow() -> Answer:
        begun.set()
        await asyncio.sleep(0.02)
        return Response(200, [], b"done")

    def start(writer: Writer) -> None:
        writer.on_close = lambda: closed.append(1)

    def handler(request: Request) -> Answer | Awaitable[Answer]:
        return Stream(200, [], start) if request.path == "/watch" else slow()

    async with serving(handler) as server, client(server) as connection:
        watch = await connection.request("GET", "/watch")
        asked = asyncio.ensure_future(connection.request("GET", "/slow"))
        await begun.wait()
        async with asyncio.timeout(2):
            await server.close(grace=2)
        assert await (await asked).read() == b"done"
        assert await watch.read() == b""
        assert (closed, server.connections) == ([1], 0)


async def test_a_body_that_never_ends_is_answered_408(serving: Serving) -> None:
    limits = Limits(head_seconds=0.02, body_seconds=0.02, idle_seconds=1)
    async with serving(limits=limits) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 4, 1, GET))
        said = b""
        async with asyncio.timeout(2):
            while b"did not arrive in time" not in said:
                said += await reader.read(65_536)
        writer.close()


async def test_an_idle_connection_is_closed_with_goodbye(serving: Serving) -> None:
    async with serving(limits=Limits(idle_seconds=0.02)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(PREFACE + frame(SETTINGS, 0, 0))
        async with asyncio.timeout(2):
            said = frames(await reader.read())
        writer.close()
    assert [payload[7] for kind, _, payload in said if kind == GOAWAY] == [0]


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

    def pause_reading(self) -> None: ...

    resume_reading = pause_reading


def says(reads: Iterable[bytes]) -> bytes:
    """What one connection says to these reads."""

    async def run() -> bytes:
        wire: Any = Wire()
        service = Service(lambda request: Response(200, [], b"ok"), Limits(), plain_error)
        connection = Http2(service, wire, None, "")
        for data in reads:
            if data and not wire.closed:
                connection.data_received(data)
                await asyncio.sleep(0)
        connection.connection_lost(None)
        return bytes(wire.sent)

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(run())
    finally:
        loop.close()


FRAME = st.one_of(
    st.binary(max_size=40),
    st.builds(frame, st.integers(0, 10), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=20)),
    st.builds(frame, st.just(HEADERS), st.sampled_from([4, 5]), st.sampled_from([1, 3, 5, 7]), st.just(GET)),
    st.builds(frame, st.just(0), st.sampled_from([0, 1]), st.sampled_from([1, 3, 5]), st.binary(max_size=9)),
)


@given(st.lists(FRAME, max_size=10))
@settings(max_examples=50, deadline=None)
def test_whatever_arrives_is_answered_with_frames(reads: list[bytes]) -> None:
    said = says([PREFACE + frame(SETTINGS, 0, 0), *reads])
    assert frames(said)[0][0] == SETTINGS
    assert sum(9 + len(payload) for _, _, payload in frames(said)) == len(said)


curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


@curl
@pytest.mark.parametrize(("option", "protocol"), [("--http2", "HTTP/2"), ("--http1.1", "HTTP/1.1")])
async def test_curl_agrees_over_tls_with_a_client_certificate(
    serving: Serving, files: Any, option: str, protocol: str
) -> None:
    def handler(request: Request) -> Answer:
        peer = request.peer
        shown = f"{request.protocol} {peer.common_name} {','.join(peer.organizations)} " if peer else "nobody"
        return Response(200, [("content-type", "text/plain")], shown.encode() + request.body)

    context: ssl.SSLContext = files.server_context()
    at = files.directory
    identity = ["--cacert", str(at / "ca.crt"), "--cert", str(at / "client.crt"), "--key", str(at / "client.key")]
    async with serving(handler, ssl=context) as server:
        process = await asyncio.create_subprocess_exec(
            *["curl", "-sS", "-i", option, *identity, "-d", "hello", f"https://127.0.0.1:{server.port}/"],
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
    assert re.match(rb"HTTP/(1\.1|2) 200", said)
    assert said.endswith(f"{protocol} alice dev,ops hello".encode())
