from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from havre.wire.http.message import Answer, Headers, Request, Response
from havre.wire.http.server import serve
from havre.wire.oci.auth import Auth
from havre.wire.oci.digest import Digest, digest_of
from havre.wire.oci.documents import Descriptor
from havre.wire.oci.errors import BadContent, InvalidReference, NotFound, RegistryError, Unauthorized
from havre.wire.oci.media_types import OCI_LAYER, OCI_MANIFEST
from havre.wire.oci.registry import Endpoint, RegistryClient, is_loopback

MANIFEST = b'{"schemaVersion":2}'
DIGEST = digest_of(MANIFEST)
BLOB = bytes(range(256)) * 40
LAYER = Descriptor(OCI_LAYER, digest_of(BLOB), len(BLOB))
TYPED: Headers = [("content-type", OCI_MANIFEST), ("docker-content-digest", DIGEST)]

Handler = Callable[[Request], Answer]


@dataclass
class Scripted:
    """A server that answers with what a function says, and remembers what it was asked."""

    answer: Handler
    url: str = ""
    asked: list[Request] = field(default_factory=list)

    def __call__(self, request: Request) -> Answer:
        self.asked.append(request)
        return self.answer(request)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"{self.url}/v2")

    @property
    def authority(self) -> str:
        return self.url.removeprefix("http://")


@asynccontextmanager
async def scripted(answer: Handler) -> AsyncIterator[Scripted]:
    script = Scripted(answer)
    server = await serve(script)
    script.url = f"http://127.0.0.1:{server.port}"
    try:
        yield script
    finally:
        await server.close()


class Bytes:
    """A sink in memory."""

    def __init__(self, start: bytes = b"") -> None:
        self.data = bytearray(start)
        self.offset = len(start)

    async def write(self, data: bytes) -> None:
        self.data += data
        self.offset += len(data)


def client(*scripts: Scripted | Endpoint, auth: Auth | None = None, waits: list[float] | None = None) -> RegistryClient:
    def sleep(seconds: float) -> Awaitable[None]:
        (waits if waits is not None else []).append(seconds)
        return _nothing()

    endpoints = [script.endpoint if isinstance(script, Scripted) else script for script in scripts]
    return RegistryClient("registry.example", endpoints, auth, sleep=sleep, chance=lambda: 0.0)


async def _nothing() -> None:
    return


def ok(request: Request) -> Answer:
    if request.path.endswith(f"/blobs/{LAYER.digest}"):
        return Response(200, [], BLOB)
    return Response(200, TYPED, MANIFEST) if "/manifests/" in request.path else Response(404, [])


async def test_a_tag_is_resolved_by_its_head_alone() -> None:
    async with scripted(ok) as server, client(server) as registry:
        found = await registry.resolve("team/app", "1.2")
    assert found == Descriptor(OCI_MANIFEST, DIGEST, len(MANIFEST))
    assert [(r.method, r.path) for r in server.asked] == [("HEAD", "/v2/team/app/manifests/1.2")]
    assert "application/vnd.oci.image.index.v1+json" in server.asked[0].headers["accept"]


async def test_a_registry_that_gives_no_digest_is_asked_for_the_manifest() -> None:
    def bare(request: Request) -> Answer:
        return Response(200, [("content-type", OCI_MANIFEST)], MANIFEST)

    async with scripted(bare) as server, client(server) as registry:
        assert (await registry.resolve("app", "1")).digest == DIGEST
    assert [r.method for r in server.asked] == ["HEAD", "GET"]


async def test_a_manifest_is_verified() -> None:
    async with scripted(ok) as server, client(server) as registry:
        assert (await registry.manifest("app", DIGEST)).data == MANIFEST
        with pytest.raises(BadContent, match="its digest is not"):
            await registry.manifest("app", digest_of(b"other"))


async def test_a_digest_that_the_header_lies_about_is_refused() -> None:
    def lying(request: Request) -> Answer:
        return Response(200, [("content-type", OCI_MANIFEST), ("docker-content-digest", digest_of(b"x"))], MANIFEST)

    async with scripted(lying) as server, client(server) as registry:
        with pytest.raises(BadContent, match="its digest is not"):
            await registry.manifest("app", "1")
        with pytest.raises(BadContent, match="the registry says"):
            await registry.resolve("app", DIGEST)


async def test_a_manifest_without_end_is_not_read() -> None:
    def endless(request: Request) -> Answer:
        return Response(200, TYPED, b" " * (4 * 1024 * 1024 + 1))

    async with scripted(endless) as server, client(server) as registry:
        with pytest.raises(BadContent, match="longer than 4194304"):
            await registry.manifest("app", "1")


async def test_a_blob_is_fetched() -> None:
    sink = Bytes()
    async with scripted(ok) as server, client(server) as registry:
        assert await registry.blob("app", LAYER, sink) == server.endpoint
    assert sink.data == BLOB


async def test_a_body_that_breaks_off_goes_on_where_it_stopped() -> None:
    asked: list[int] = []

    async def breaking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        start = int(head.partition("range: bytes=")[2].partition("-")[0] or 0)
        asked.append(start)
        line = f"206 Partial Content\r\ncontent-range: bytes {start}-{len(BLOB) - 1}/{len(BLOB)}" if start else "200 OK"
        writer.write(f"HTTP/1.1 {line}\r\ncontent-length: {len(BLOB) - start}\r\n\r\n".encode())
        writer.write(BLOB[start : start + 4000])
        writer.close()

    server = await asyncio.start_server(breaking, "127.0.0.1", 0)
    sink = Bytes()
    async with client(Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v2")) as registry:
        await registry.blob("app", LAYER, sink)
    server.close()
    assert sink.data == BLOB
    assert asked == [0, 4000, 8000]


async def test_a_server_that_ignores_the_range_is_skipped_through() -> None:
    sink = Bytes(BLOB[:1000])
    async with scripted(ok) as server, client(server) as registry:
        await registry.blob("app", LAYER, sink)
    assert sink.data == BLOB
    assert server.asked[0].headers["range"] == "bytes=1000-"


async def test_another_range_than_asked_for_is_refused() -> None:
    def lying(request: Request) -> Answer:
        return Response(206, [("content-range", "bytes 0-99/100")], BLOB)

    async with scripted(lying) as server, client(server) as registry:
        with pytest.raises(BadContent, match="another range"):
            await registry.blob("app", LAYER, Bytes(b"x"))


@pytest.mark.parametrize(("sent", "why"), [(BLOB + b"x", "longer than"), (BLOB[:-1], "the manifest says")])
async def test_a_blob_of_another_size_is_refused(sent: bytes, why: str) -> None:
    async with scripted(lambda _: Response(200, [], sent)) as server, client(server) as registry:
        with pytest.raises(BadContent, match=why):
            await registry.blob("app", LAYER, Bytes())


async def test_what_is_busy_is_asked_again_later() -> None:
    answers = [Response(429, [("retry-after", "7")]), Response(503, []), Response(200, TYPED, MANIFEST)]
    waits: list[float] = []
    async with scripted(lambda _: answers.pop(0)) as server, client(server, waits=waits) as registry:
        assert (await registry.manifest("app", "1")).data == MANIFEST
    assert waits == [7.0, 1.0]


async def test_what_stays_busy_fails_after_five_attempts() -> None:
    waits: list[float] = []
    async with scripted(lambda _: Response(500, [])) as server, client(server, waits=waits) as registry:
        with pytest.raises(RegistryError, match="500"):
            await registry.manifest("app", "1")
    assert (len(server.asked), waits) == (5, [0.5, 1.0, 2.0, 4.0])


async def test_a_wait_of_an_hour_is_a_failure() -> None:
    async with scripted(lambda _: Response(429, [("retry-after", "3600")])) as server, client(server) as registry:
        with pytest.raises(RegistryError, match="429"):
            await registry.manifest("app", "1")
    assert len(server.asked) == 1


async def test_mirrors_are_asked_in_order_and_the_registry_last() -> None:
    async with scripted(lambda _: Response(404, [])) as empty, scripted(ok) as server:
        gone = Endpoint("http://127.0.0.1:1/v2")
        async with client(gone, empty, server) as registry:
            assert (await registry.manifest("app", "1")).data == MANIFEST
    assert (len(empty.asked), len(server.asked)) == (1, 1)


async def test_a_mirror_that_cannot_resolve_is_asked_for_digests_only() -> None:
    async with scripted(ok) as mirror, scripted(ok) as server:
        limited = Endpoint(f"{mirror.url}/v2", capabilities=frozenset({"pull"}))
        async with client(limited, server) as registry:
            await registry.resolve("app", "1")
            await registry.manifest("app", DIGEST)
    assert ([r.method for r in mirror.asked], [r.method for r in server.asked]) == (["GET"], ["HEAD"])


async def test_what_nobody_has_is_not_found() -> None:
    reason = json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no such\nmanifest"}]}).encode()
    async with scripted(lambda _: Response(404, [], reason)) as server, client(server) as registry:
        with pytest.raises(NotFound, match="404 MANIFEST_UNKNOWN no such manifest"):
            await registry.manifest("app", "1")


def guarded(realm: Callable[[], str]) -> Handler:
    def answer(request: Request) -> Answer:
        if request.path == "/token":
            return Response(200, [], b'{"token": "t1"}')
        if request.headers.get("authorization") == "Bearer t1":
            return ok(request)
        return Response(401, [("www-authenticate", f'Bearer realm="{realm()}/token",service="s"')])

    return answer


async def test_a_token_is_bought_once_for_a_repository() -> None:
    guard = guarded(lambda: server.url)
    async with scripted(guard) as server, client(server, auth=Auth("user", "pw")) as registry:
        await registry.resolve("app", "1")
        await registry.manifest("app", DIGEST)
        await registry.blob("app", LAYER, Bytes())
    bought = [r for r in server.asked if r.path == "/token"]
    assert [r.query for r in bought] == ["service=s&scope=repository%3Aapp%3Apull&account=user"]
    assert bought[0].headers["authorization"] == "Basic dXNlcjpwdw=="


async def test_a_wrong_password_says_so() -> None:
    def closed(request: Request) -> Answer:
        if request.path == "/token":
            return Response(401, [], b'{"errors":[{"code":"UNAUTHORIZED","message":"wrong"}]}')
        return Response(401, [("www-authenticate", f'Bearer realm="{server.url}/token"')])

    async with scripted(closed) as server, client(server, auth=Auth("user", "pw")) as registry:
        with pytest.raises(Unauthorized, match="answered 401: UNAUTHORIZED wrong"):
            await registry.resolve("app", "1")


async def test_a_password_is_shown_to_who_asks_for_it() -> None:
    def basic(request: Request) -> Answer:
        if request.headers.get("authorization") == "Basic dXNlcjpwdw==":
            return ok(request)
        return Response(401, [("www-authenticate", "Basic realm=x")])

    async with scripted(basic) as server:
        async with client(server, auth=Auth("user", "pw")) as registry:
            assert (await registry.manifest("app", DIGEST)).data == MANIFEST
        async with client(server) as registry:
            with pytest.raises(Unauthorized, match="credentials are needed"):
                await registry.manifest("app", DIGEST)


async def test_a_mirror_never_sees_the_credentials() -> None:
    async with scripted(guarded(lambda: mirror.url)) as mirror:
        untrusted = Endpoint(f"{mirror.url}/v2", trusted=False)
        async with client(untrusted, auth=Auth("user", "pw", registry_token="rt")) as registry:
            await registry.manifest("app", DIGEST)
    assert all("Basic" not in r.headers.get("authorization", "") for r in mirror.asked)
    assert all("rt" not in r.headers.get("authorization", "") for r in mirror.asked)


async def test_credentials_for_another_registry_are_not_used() -> None:
    auth = Auth("user", "pw", server="other.example")
    async with scripted(guarded(lambda: server.url)) as server, client(server, auth=auth) as registry:
        await registry.manifest("app", DIGEST)
    assert all("Basic" not in r.headers.get("authorization", "") for r in server.asked)


async def test_nothing_secret_follows_a_redirect_to_another_server() -> None:
    async with scripted(ok) as store:

        def away(request: Request) -> Answer:
            if request.path == "/token":
                return Response(200, [], b'{"token": "t1"}')
            if "authorization" not in request.headers:
                return Response(401, [("www-authenticate", f'Bearer realm="{server.url}/token"')])
            return Response(307, [("location", f"{store.url}/other/blobs/{LAYER.digest}?sig=1")])

        async with scripted(away) as server:
            own = Endpoint(f"{server.url}/v2", headers={"x-secret": "1"})
            sink = Bytes()
            async with client(own, auth=Auth("user", "pw")) as registry:
                await registry.blob("app", LAYER, sink)
    assert sink.data == BLOB
    assert store.asked[0].query == "sig=1"
    assert not {"authorization", "x-secret"} & set(store.asked[0].headers)
    assert server.asked[0].headers["x-secret"] == "1"


async def test_a_challenge_after_a_redirect_is_not_answered() -> None:
    def trap(request: Request) -> Answer:
        return Response(401, [("www-authenticate", f'Bearer realm="{other.url}/token"')])

    def away(request: Request) -> Answer:
        return Response(302, [("location", f"{other.url}/x")])

    auth = Auth("user", "pw")
    async with scripted(trap) as other, scripted(away) as server, client(server, auth=auth) as registry:
        with pytest.raises(Unauthorized):
            await registry.blob("app", LAYER, Bytes())
    assert [r.path for r in other.asked] == ["/x"]


@pytest.mark.parametrize("location", ["", "ftp://x/", "http://user:pw@127.0.0.1/", "http://[", "/v2/loop"])
async def test_a_redirect_to_nowhere_or_in_circles_fails(location: str) -> None:
    async with scripted(lambda _: Response(307, [("location", location)])) as server, client(server) as registry:
        with pytest.raises(RegistryError, match="redirects"):
            await registry.manifest("app", "1")
    assert len(server.asked) <= 6


async def test_tags_come_page_by_page() -> None:
    def pages(request: Request) -> Answer:
        if "last=b" in request.query:
            return Response(200, [], b'{"tags": ["c", "not a tag", 5]}')
        return Response(200, [("link", '</v2/app/tags/list?n=2&last=b>; rel="next"')], b'{"tags": ["a", "b"]}')

    async with scripted(pages) as server, client(server) as registry:
        assert await registry.tags("app") == ["a", "b", "c"]


async def test_pages_of_another_server_are_not_read() -> None:
    def pages(request: Request) -> Answer:
        return Response(200, [("link", '<http://evil.example/v2/x>; rel="next"')], b'{"tags": ["a"]}')

    async with scripted(pages) as server, client(server) as registry:
        assert await registry.tags("app") == ["a"]


async def test_a_registry_can_be_pinged() -> None:
    async with scripted(lambda r: Response(200 if r.path == "/v2/" else 404, [])) as server, client(server) as registry:
        await registry.ping()


async def test_names_never_leave_the_grammar() -> None:
    async with client() as registry:
        for repository, target in (("../x", "1"), ("app", "../1"), ("app", "sha256:x")):
            with pytest.raises(InvalidReference):
                await registry.manifest(repository, target)
        with pytest.raises(InvalidReference):
            await registry.blob("a b", LAYER, Bytes())
        with pytest.raises(RegistryError, match="no endpoint"):
            await registry.manifest("app", "1")


def test_loopback_is_this_machine_only() -> None:
    assert [is_loopback(h) for h in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "a.localhost")] == [
        True
    ] * 6
    assert [is_loopback(h) for h in ("localhost.example", "10.0.0.1", "example", "127.0.0.1.example")] == [False] * 4


async def test_a_sha512_manifest_is_verified_by_its_own_hash() -> None:
    digest = Digest("sha512:" + hashlib.sha512(MANIFEST).hexdigest())

    def answer(request: Request) -> Answer:
        return Response(200, [("content-type", OCI_MANIFEST), ("docker-content-digest", digest)], MANIFEST)

    async with scripted(answer) as server, client(server) as registry:
        assert (await registry.manifest("app", digest)).descriptor.digest == digest
