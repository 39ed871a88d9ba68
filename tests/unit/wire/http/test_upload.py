from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from havre.wire.http.client import Client
from havre.wire.http.errors import HttpError
from havre.wire.http.files import send
from havre.wire.http.message import Answer, Request, Response, Stream, UploadBroken, Writer
from havre.wire.http.server import Limits, Server
from havre.wire.http.upload import HIGH, Upload

Serving = Callable[..., AbstractAsyncContextManager[Server]]
Talk = Callable[..., Awaitable[bytes]]

BIG = bytes(range(256)) * 20_000  # 5 MB: above the limit of whole bodies
SMALL_BODIES = Limits(body=10)


def everything(request: Request) -> bool:
    return request.path.startswith("/up")


async def count(request: Request) -> Answer:
    """Says how much came, and its hash."""
    if request.upload is None:
        return Response(200, [], b"whole %d" % len(request.body))
    digest, size = hashlib.sha256(), 0
    while data := await request.upload.read():
        digest.update(data)
        size += len(data)
    return Response(200, [], f"{size} {digest.hexdigest()}".encode())


def client_of(server: Server) -> Client:
    return Client(f"http://127.0.0.1:{server.port}")


async def test_a_body_larger_than_the_limit_is_read_as_it_comes(serving: Serving) -> None:
    async with serving(count, uploads=everything, limits=SMALL_BODIES) as server:
        async with Client(f"http://127.0.0.1:{server.port}") as client:
            for _ in range(2):
                reply = await client.request("PUT", "/up", body=BIG)
                assert reply.body.decode() == f"{len(BIG)} {hashlib.sha256(BIG).hexdigest()}"
        assert server.connections <= 1  # and the connection was kept


async def test_other_requests_keep_their_limit(serving: Serving) -> None:
    async with serving(count, uploads=everything, limits=SMALL_BODIES) as server, client_of(server) as client:
        assert (await client.request("PUT", "/x", body=b"12345")).body == b"whole 5"
        assert (await client.request("PUT", "/x", body=b"12345678901")).status == 413
        assert (await client.request("PUT", "/up")).body == b"whole 0"


async def test_chunks_and_pipelined_requests_keep_their_order(serving: Serving, talk: Talk) -> None:
    one = b"PUT /up HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"
    rest = b"2\r\nde\r\n0\r\n\r\n"
    two = b"PUT /up HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nxy"
    last = b"PUT /whole HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nconnection: close\r\n\r\nwxyz"
    async with serving(count, uploads=everything) as server:
        for pieces in ((one, rest, two + last), (one + rest + two, last), (one + rest + two + last,)):
            answer = await talk(server, *pieces)
            bodies = [part.split(b"\r\n\r\n", 1)[1].split(b" ")[0] for part in answer.split(b"HTTP/1.1 ")[1:]]
            assert bodies == [b"5", b"2", b"whole"]


async def test_the_client_waits_for_the_word_to_go_on(serving: Serving, talk: Talk) -> None:
    head = b"PUT /up HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
    async with serving(count, uploads=everything) as server:
        answer = await talk(server, head, b"abc")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_an_answer_before_the_end_of_the_body_closes_the_connection(serving: Serving, talk: Talk) -> None:
    head = b"PUT /up HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nabc"
    limits = Limits(linger_seconds=0.01)
    async with serving(lambda _: Response(403, [], b"no"), uploads=everything, limits=limits) as server:
        answer = await talk(server, head)
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"connection: close" in answer


async def test_a_slow_handler_slows_the_client_down(serving: Serving) -> None:
    go = asyncio.Event()
    seen: list[Upload] = []

    async def slow(request: Request) -> Answer:
        assert request.upload is not None
        seen.append(request.upload)
        await go.wait()
        return await count(request)

    async with serving(slow, uploads=everything) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"PUT /up HTTP/1.1\r\nhost: x\r\ncontent-length: 20000000\r\n\r\n" + bytes(20_000_000))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.05)
        assert seen[0].held <= HIGH + 256 * 1024
        go.set()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert (await reader.read(9)) == b"20000000 "
        writer.close()


@pytest.mark.parametrize("ending", ["close", "garbage", "silence"])
async def test_a_body_that_never_ends_breaks_the_upload(serving: Serving, ending: str) -> None:
    failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    begun = asyncio.Event()

    async def reading(request: Request) -> Answer:
        begun.set()
        try:
            return await count(request)
        except UploadBroken as error:
            failed.set_result(str(error))
            raise
        except asyncio.CancelledError:
            failed.set_result("cancelled")
            raise

    async with serving(reading, uploads=everything, limits=Limits(body_seconds=0.02)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"PUT /up HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        await begun.wait()
        if ending == "close":
            writer.close()
        elif ending == "garbage":
            writer.write(b"zz\r\n")
        why = await asyncio.wait_for(failed, 5)
        if ending != "close":
            assert (await reader.readline()).split()[1] == b"400"
        writer.close()
    assert (
        why
        in {
            "close": ("cancelled", "the client closed the connection before the end of its body"),
            "garbage": (why,) if why.startswith("malformed request") else (),
            "silence": ("the rest of the request did not arrive in time",),
        }[ending]
    )


async def test_a_file_is_sent_with_its_length_and_no_faster_than_it_is_taken(serving: Serving, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(BIG)

    def handler(request: Request) -> Answer:
        return Stream(206, [], send(file, 100, len(BIG) - 200), len(BIG) - 200)

    async with serving(handler) as server, Client(f"http://127.0.0.1:{server.port}") as client:
        assert (await client.request("HEAD", "/")).headers["content-length"] == str(len(BIG) - 200)
        for _ in range(2):
            reply = await client.request("GET", "/")
            assert reply.headers["content-length"] == str(len(BIG) - 200)
            assert reply.body == BIG[100:-100]
        async with client.stream("GET", "/") as left:
            assert left.status == 206
    with pytest.raises(FileNotFoundError):
        send(tmp_path / "none", 0, 1)


async def test_a_file_that_became_shorter_is_not_taken_for_the_whole(serving: Serving, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"abc")
    async with serving(lambda _: Stream(200, [], send(file, 0, 10), 10)) as server, client_of(server) as client:
        with pytest.raises(HttpError):
            await client.request("GET", "/")


@pytest.mark.parametrize("data", [b"abc", b"abcdefghijk"])
async def test_a_stream_of_another_length_than_announced_fails(serving: Serving, data: bytes) -> None:
    def begin(writer: Writer) -> None:
        writer.write(data)
        writer.close()

    async with serving(lambda _: Stream(200, [], begin, 10)) as server, client_of(server) as client:
        with pytest.raises(HttpError):
            await client.request("GET", "/")


def _curl(*arguments: str) -> Any:
    return asyncio.create_subprocess_exec("curl", "-s", *arguments, stdout=asyncio.subprocess.PIPE)


async def test_http2_uploads_and_files_work_alike(serving: Serving, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(BIG)

    async def handler(request: Request) -> Answer:
        if request.method == "GET":
            return Stream(200, [], send(file, 0, len(BIG)), len(BIG))
        return await count(request)

    async with serving(handler, uploads=everything, limits=SMALL_BODIES) as server:
        url = f"http://127.0.0.1:{server.port}/up"
        up = await _curl("--http2-prior-knowledge", "-T", str(file), url, "-w", " %{http_version}")
        said, _ = await asyncio.wait_for(up.communicate(), 10)
        down = await _curl("--http2-prior-knowledge", url)
        body, _ = await asyncio.wait_for(down.communicate(), 10)
    assert said.decode() == f"{len(BIG)} {hashlib.sha256(BIG).hexdigest()} 2"
    assert body == BIG


async def test_an_http2_client_that_leaves_breaks_its_upload(serving: Serving) -> None:
    failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def reading(request: Request) -> Answer:
        try:
            return await count(request)
        except (UploadBroken, asyncio.CancelledError) as error:
            failed.set_result(type(error).__name__)
            raise

    async with serving(reading, uploads=everything) as server:
        url = f"http://127.0.0.1:{server.port}/up"
        up = await _curl("--http2-prior-knowledge", "-T", "/dev/zero", "--limit-rate", "1k", "-m", "0.05", url)
        assert await asyncio.wait_for(failed, 5) in ("UploadBroken", "CancelledError")
        await up.communicate()


async def test_an_upload_is_read_in_order_and_fails_after_what_came() -> None:
    taken: list[int] = []
    upload = Upload(taken.append)
    upload.feed(b"ab")
    upload.feed(b"c")
    upload.fail("gone")
    assert await upload.read() == b"abc"
    with pytest.raises(UploadBroken, match="gone"):
        await upload.read()
    upload.close()
    upload.feed(b"later")
    assert taken == [3, 5]
