from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.wire.http.client import Client, _Line, _may_repeat
from havre.wire.http.errors import (
    ConnectFailed,
    Disconnected,
    HttpError,
    ProtocolError,
    ReplyTooLarge,
    TimedOut,
    UpgradeRefused,
)
from havre.wire.http.message import Answer, Request, Response, Stream, Upgrade, Writer
from havre.wire.http.server import Limits, Server

Serving = Callable[..., AbstractAsyncContextManager[Server]]

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@asynccontextmanager
async def saying(*answers: bytes) -> AsyncIterator[str]:
    """A server that reads one request per answer, says it, and closes after the last; each connection starts anew."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def base(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


async def test_a_request_carries_its_parts_and_the_usual_headers(serving: Serving) -> None:
    def handler(request: Request) -> Answer:
        fields = {name: request.headers.get(name) for name in ("host", "authorization", "accept", "content-length")}
        return Response(
            201, [("x", "1"), ("x", "2")], repr((request.method, request.path, request.query, fields)).encode()
        )

    usual = {"Authorization": "t", "accept": "a"}
    async with serving(handler) as server, Client(base(server) + "/prefix/", headers=usual) as client:
        reply = await client.request("PATCH", "/a%20b?c", headers={"Accept": "b"}, body=b"hello")
    fields = {"host": f"127.0.0.1:{server.port}", "authorization": "t", "accept": "b", "content-length": "5"}
    assert (reply.status, reply.headers["x"]) == (201, "1, 2")
    assert reply.body.decode() == repr(("PATCH", "/prefix/a%20b", "c", fields))


async def test_connections_are_kept_and_used_again(serving: Serving) -> None:
    async with serving() as server, Client(base(server)) as client:
        for _ in range(5):
            await client.request("GET", "/")
        assert server.connections == 1
        await asyncio.gather(*[client.request("GET", "/") for _ in range(20)])
        assert server.connections <= 20
        assert (await client.request("HEAD", "/")).body == b""
        assert (await client.request("GET", "/")).status == 200


async def test_a_connection_that_the_server_closed_meanwhile_is_not_an_error(serving: Serving) -> None:
    async with saying(OK) as url, Client(url) as client:
        for _ in range(3):
            assert (await client.request("GET", "/")).body == b"ok"


def test_only_what_is_safe_is_sent_twice() -> None:
    assert _may_repeat("GET", answered=True, idle=0.0)
    assert _may_repeat("POST", answered=False, idle=10.0)
    assert not _may_repeat("POST", answered=False, idle=0.0)
    assert not _may_repeat("POST", answered=True, idle=10.0)


async def test_nobody_listening_is_said_with_the_address() -> None:
    async with saying() as url:
        pass
    async with Client(url) as client:
        with pytest.raises(ConnectFailed, match=r"connect to 127\.0\.0\.1:\d+: connection refused; is it running\?"):
            await client.request("GET", "/")


async def test_a_server_of_another_authority_is_not_trusted(serving: Serving, files: Any) -> None:
    async with serving(ssl=files.server_context()) as server, Client(f"https://127.0.0.1:{server.port}") as client:
        with pytest.raises(ConnectFailed, match="its certificate is not trusted"):
            await client.request("GET", "/")


async def test_a_name_that_the_certificate_has_may_stand_in_for_the_host(serving: Serving, files: Any) -> None:
    url = "https://127.0.0.1:{}"
    async with serving(ssl=files.server_context()) as server:
        context = files.client_context()
        async with Client(url.format(server.port), ssl=context, server_name="localhost") as client:
            assert (await client.request("GET", "/")).status == 200
        async with Client(url.format(server.port), ssl=context, server_name="svc.ns.svc") as client:
            with pytest.raises(ConnectFailed, match="Hostname mismatch"):
                await client.request("GET", "/")


async def test_no_answer_in_time_is_said(serving: Serving) -> None:
    async def never() -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(lambda request: never()) as server, Client(base(server), timeout=0.02) as client:
        with pytest.raises(TimedOut, match=r"GET /a of 127\.0\.0\.1:\d+: no answer within 0\.02 s"):
            await client.request("GET", "/a")
        with pytest.raises(TimedOut):
            async with client.stream("GET", "/a"):
                raise AssertionError


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"SSH-2.0-OpenSSH\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc", Disconnected),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", Disconnected),
        (b"HTTP/1.1 200 OK\r\n", Disconnected),
        (b"HTTP/1.1 200 OK\r\n" + b"".join(b"a%d: b\r\n" % i for i in range(300)) + b"\r\n", ProtocolError),
        (b"", Disconnected),
    ],
)
async def test_a_bad_answer_is_an_error_of_ours(answer: bytes, error: type[HttpError]) -> None:
    async with saying(answer) as url, Client(url) as client:
        with pytest.raises(error):
            await client.request("POST", "/")


async def test_a_body_may_end_with_the_connection() -> None:
    async with saying(b"HTTP/1.1 200 OK\r\n\r\nall of it") as url, Client(url) as client:
        assert (await client.request("GET", "/")).body == b"all of it"


async def test_informational_answers_are_passed_over() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"
    async with saying(early + OK) as url, Client(url) as client:
        reply = await client.request("GET", "/")
    assert (reply.status, reply.headers, reply.body) == (200, {"content-length": "2"}, b"ok")


async def test_a_reply_is_bounded(serving: Serving) -> None:
    async with serving(lambda request: Response(200, [], b"x" * 1001)) as server, Client(base(server)) as client:
        assert len((await client.request("GET", "/", limit=1001)).body) == 1001
        with pytest.raises(ReplyTooLarge, match="longer than 1000 bytes"):
            await client.request("GET", "/", limit=1000)
        assert (await client.request("GET", "/")).status == 200


async def test_a_stream_gives_chunks_as_they_come_and_can_be_left(serving: Serving) -> None:
    closed = asyncio.Event()

    def start(writer: Writer) -> None:
        writer.on_close = closed.set
        writer.write(b"one")

    async with serving(lambda request: Stream(200, [("a", "b")], start)) as server, Client(base(server)) as client:
        async with client.stream("GET", "/") as reply:
            assert (reply.status, reply.headers["a"]) == (200, "b")
            async for chunk in reply.chunks:
                assert chunk == b"one"
                break
        async with asyncio.timeout(2):
            await closed.wait()


async def test_a_stream_slower_than_the_server_keeps_memory_bounded(serving: Serving) -> None:
    parts = [b"x" * 1_000_000] * 20
    async with (
        serving(lambda request: Response(200, [], parts)) as server,
        Client(base(server)) as client,
        client.stream("GET", "/") as reply,
    ):
        await asyncio.sleep(0.02)
        first = await anext(reply.chunks)
        assert len(first) < 2_000_000
        assert len(first) + len(await reply.read()) == 20_000_000


async def test_a_refused_upgrade_says_what_was_answered(serving: Serving) -> None:
    async with serving(lambda request: Response(403, [], b"no exec for you")) as server, Client(base(server)) as client:
        with pytest.raises(UpgradeRefused, match="answered 403 instead of switching protocols: no exec") as refused:
            await client.upgrade("GET", "/exec", headers={"upgrade": "x"})
        assert (refused.value.status, refused.value.body) == (403, b"no exec for you")


async def test_an_upgrade_hands_the_bytes_over_and_the_client_goes_on(serving: Serving) -> None:
    async def run(tunnel: Any) -> None:
        tunnel.write(b"hello " + await tunnel.read())

    def handler(request: Request) -> Answer:
        return Upgrade([("upgrade", "x")], run) if request.path == "/up" else Response(200, [])

    async with serving(handler) as server, Client(base(server)) as client:
        tunnel = await client.upgrade("GET", "/up", headers={"upgrade": "x"})
        tunnel.write(b"you")
        assert await tunnel.read() == b"hello you"
        assert await tunnel.read() == b""
        tunnel.close()
        await asyncio.sleep(0)
        assert tunnel.closed
        with pytest.raises(ConnectionResetError):
            await tunnel.drain()
        assert (await client.request("GET", "/")).status == 200


@pytest.mark.parametrize("target", ["a", "/a b", "/a\r\nx: y", "/é", ""])
async def test_a_target_that_would_break_the_request_is_not_sent(target: str) -> None:
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="percent-encoded"):
            await client.request("GET", target)


async def test_a_header_with_a_line_break_is_not_sent() -> None:
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="line breaks"):
            await client.request("GET", "/", headers={"a": "b\r\nc: d"})


async def test_a_closed_client_opens_nothing(serving: Serving) -> None:
    async with serving() as server:
        client = Client(base(server))
        await client.close()
        with pytest.raises(ConnectFailed, match="has been closed"):
            await client.request("GET", "/")


async def test_a_large_body_of_a_refused_request_is_answered(serving: Serving) -> None:
    async with serving(limits=Limits(body=1000, linger_seconds=0.05)) as server, Client(base(server)) as client:
        assert (await client.request("POST", "/", body=b"x" * 500_000)).status == 413


@given(st.lists(st.one_of(st.binary(max_size=60), st.just(OK), st.just(b"HTTP/1.1 200 OK\r\n\r\n")), max_size=6))
@settings(max_examples=50, deadline=None)
def test_whatever_the_server_says_ends_in_an_answer_or_our_error(reads: list[bytes]) -> None:
    async def run() -> None:
        line = _Line("there", memoryview(bytearray(1)))
        line.connection_made(Silent())
        line.send("GET", b"GET / HTTP/1.1\r\n\r\n", b"")
        for data in reads:
            if data and not line.transport.is_closing():
                line.data_received(data)
        line.connection_lost(None)
        await line.head()
        while await line.chunk():
            pass

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(run(), 5))
    except HttpError:
        pass
    finally:
        loop.close()


class Silent(asyncio.Transport):
    closed = False

    def write(self, data: object) -> None: ...

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    resume_reading = pause_reading
