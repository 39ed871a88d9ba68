"""The HTTP client of the API against a scripted server: paths, pages, retries, streams, errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from havre.api.errors import BadRequest, Expired, Forbidden, NotFound, Timeout, TooManyRequests, Unavailable
from havre.api.meta import GVK, Obj
from havre.machinery import client
from havre.machinery.api import Ref
from havre.machinery.client import HttpApi
from havre.machinery.kubeconfig import Connection, KubeconfigError
from havre.wire.http.message import Answer, Request, Response, Stream, Writer
from havre.wire.http.server import serve

MAP = GVK("", "v1", "ConfigMap")
BOX = GVK("test.example", "v1", "Box")
JSON = [("content-type", "application/json")]
Script = Callable[[Request], Answer]


@asynccontextmanager
async def talking(script: Script | Sequence[Answer], **options: Any) -> AsyncIterator[tuple[HttpApi, list[Request]]]:
    """An HttpApi, and the requests that its server has got."""
    seen: list[Request] = []
    answers = iter(()) if callable(script) else iter(script)

    def handle(request: Request) -> Answer:
        seen.append(request)
        return script(request) if callable(script) else next(answers)

    server = await serve(handle)
    connection = Connection(f"http://127.0.0.1:{server.port}", **options)
    try:
        async with HttpApi(connection, user_agent="test", timeout=0.5) as api:
            yield api, seen
    finally:
        await server.close(0)


def ok(body: Obj, status: int = 200) -> Response:
    return Response(status, JSON, orjson.dumps(body))


def failed(code: int, reason: str = "", headers: Sequence[tuple[str, str]] = (), **details: str) -> Response:
    status = {"kind": "Status", "code": code, "reason": reason, "message": "why", "details": details}
    return Response(code, [*JSON, *headers], orjson.dumps(status))


def page(names: str, token: str = "") -> Response:
    items = [{"metadata": {"name": name}} for name in names]
    return ok({"metadata": {"resourceVersion": "7", "continue": token}, "items": items})


def stream(*lines: bytes) -> Stream:
    def start(writer: Writer) -> None:
        for line in lines:
            writer.write(line)
        writer.close()

    return Stream(200, JSON, start)


def event(type: str, body: Obj) -> bytes:
    return orjson.dumps({"type": type, "object": body}) + b"\n"


def where(request: Request) -> str:
    return f"{request.method} {request.path}" + (f"?{request.query}" if request.query else "")


async def test_every_verb_has_its_url() -> None:
    thing = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a b", "namespace": "n"}}
    ref = Ref.of(thing)
    async with talking(lambda _request: ok(thing)) as (api, seen):
        await api.get(ref)
        await api.create(thing, manager="me", dry_run=True)
        await api.update(thing, manager="me", subresource="status")
        await api.patch(ref, [], kind="json", manager="me")
        await api.apply(thing, manager="me", force=False)
        await api.delete(ref, uid="u", propagation="Orphan", grace=3, dry_run=True)
    assert [where(r) for r in seen] == [
        "GET /api/v1/namespaces/n/configmaps/a%20b",
        "POST /api/v1/namespaces/n/configmaps?fieldManager=me&dryRun=All",
        "PUT /api/v1/namespaces/n/configmaps/a%20b/status?fieldManager=me",
        "PATCH /api/v1/namespaces/n/configmaps/a%20b?fieldManager=me",
        "PATCH /api/v1/namespaces/n/configmaps/a%20b?fieldManager=me&force=false",
        "DELETE /api/v1/namespaces/n/configmaps/a%20b",
    ]
    assert [r.headers.get("content-type") for r in seen[3:5]] == [
        "application/json-patch+json",
        "application/apply-patch+yaml",
    ]
    assert orjson.loads(seen[5].body) == {
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "preconditions": {"uid": "u"},
        "propagationPolicy": "Orphan",
        "gracePeriodSeconds": 3,
        "dryRun": ["All"],
    }


async def test_a_list_goes_through_all_pages() -> None:
    async with talking([page("ab", "next"), page("c")]) as (api, seen):
        listing = await api.list(MAP, labels="a=b")
    assert [o["metadata"]["name"] for o in listing.items] == ["a", "b", "c"]
    assert (listing.items[0]["kind"], listing.items[0]["apiVersion"], listing.revision) == ("ConfigMap", "v1", "7")
    assert where(seen[1]) == "GET /api/v1/configmaps?labelSelector=a%3Db&limit=500&continue=next"


async def test_an_expired_page_starts_the_list_anew_in_one_piece() -> None:
    async with talking([page("ab", "next"), failed(410, "Expired"), page("abc")]) as (api, seen):
        assert len((await api.list(MAP)).items) == 3
    assert where(seen[2]) == "GET /api/v1/configmaps"


async def test_an_unknown_kind_is_discovered_once_and_again_when_its_page_has_gone() -> None:
    found = ok({"resources": [{"name": "boxes", "kind": "Box", "namespaced": True},
                              {"name": "boxes/status", "kind": "Box", "namespaced": True}]})  # fmt: skip
    gone = Response(404, [], b"404 page not found")
    async with talking([found, ok({}), ok({}), gone, gone]) as (api, seen):
        await api.get(Ref(BOX, "n", "b"))
        await api.get(Ref(BOX, "n", "b"))
        with pytest.raises(NotFound):
            await api.get(Ref(BOX, "n", "b"))
        with pytest.raises(NotFound, match=r'no matches for kind "Box" in version "test\.example/v1"'):
            await api.get(Ref(BOX, "n", "b"))
    paths = [r.path for r in seen]
    assert paths[0] == paths[4] == "/apis/test.example/v1"
    assert paths[1:4] == ["/apis/test.example/v1/namespaces/n/boxes/b"] * 3


async def test_a_missing_object_is_none_and_other_errors_are_raised() -> None:
    async with talking([failed(404, "NotFound", name="a"), failed(403, "Forbidden")]) as (api, _):
        assert await api.get(Ref(MAP, "n", "a")) is None
        with pytest.raises(Forbidden, match="why"):
            await api.get(Ref(MAP, "n", "a"))


async def test_a_busy_server_is_asked_again_a_bounded_number_of_times() -> None:
    wait = [("retry-after", "0")]
    thing: Obj = {"metadata": {"name": "a"}}
    async with talking([failed(429, headers=wait), failed(503, headers=wait), ok(thing)]) as (api, _):
        assert await api.get(Ref(MAP, "n", "a")) == thing
    async with talking(lambda _request: failed(429, "TooManyRequests", wait)) as (api, seen):
        with pytest.raises(TooManyRequests):
            await api.get(Ref(MAP, "n", "a"))
        assert len(seen) == client.RETRIES + 1
    async with talking([failed(503, "ServiceUnavailable")]) as (api, seen):
        with pytest.raises(Unavailable):
            await api.get(Ref(MAP, "n", "a"))


async def test_a_watch_gives_events_and_ends_when_the_server_ends_it() -> None:
    mark = {"metadata": {"resourceVersion": "9"}}
    whole = event("ADDED", {"metadata": {"name": "a"}}) + event("BOOKMARK", mark)
    async with talking([stream(whole[:20], whole[20:])]) as (api, seen):
        events = [(e.type, e.object) async for e in api.watch(MAP, "n", since="5", fields="metadata.name=a")]
    assert events == [("ADDED", {"metadata": {"name": "a"}}), ("BOOKMARK", mark)]
    assert "watch=true&allowWatchBookmarks=true&resourceVersion=5&timeoutSeconds=" in seen[0].query


@pytest.mark.parametrize(
    "answer",
    [
        stream(event("ERROR", {"kind": "Status", "code": 410, "reason": "Gone"})),
        stream(event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"})),
        failed(410, "Gone"),
    ],
)
async def test_a_forgotten_revision_is_expired_in_every_form(answer: Answer) -> None:
    async with talking([answer]) as (api, _):
        with pytest.raises(Expired):
            await anext(api.watch(MAP, since="1"))


async def test_what_is_not_an_answer_is_unavailable() -> None:
    async with talking([Response(200, [], b"<html>"), stream(b"nonsense\n"), stream(b'{"type":"ADDED"}\n')]) as (
        api,
        _,
    ):
        with pytest.raises(Unavailable, match="without a JSON object"):
            await api.get(Ref(MAP, "n", "a"))
        for _try in range(2):
            with pytest.raises(Unavailable, match="not an event"):
                await anext(api.watch(MAP, since="1"))
    api = HttpApi(Connection("http://127.0.0.1:1"), user_agent="test")
    with pytest.raises(Unavailable, match="connection refused"):
        await api.get(Ref(MAP, "n", "a"))


async def test_a_silent_server_is_a_timeout() -> None:
    async with talking(lambda _request: Stream(200, JSON, lambda _writer: None)) as (api, _):
        api._client._timeout = 0.02
        with pytest.raises(Timeout):
            await api.get(Ref(MAP, "n", "a"))


async def test_nonsense_is_refused_before_it_is_sent() -> None:
    async with talking([]) as (api, seen):
        with pytest.raises(BadRequest, match=r"set metadata\.namespace"):
            await api.get(Ref(MAP, "", "a"))
        with pytest.raises(BadRequest, match=r"set metadata\.name"):
            await api.get(Ref(MAP, "n", ""))
    assert seen == []


async def test_it_says_who_it_is(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    options = {"token": "ignored", "token_file": token, "impersonate": "bob", "impersonate_groups": ("dev",)}
    async with talking(lambda _request: ok({}), **options) as (api, seen):
        await api.get(Ref(MAP, "n", "a"))
        token.write_text("second\n")
        await api.get(Ref(MAP, "n", "a"))
        api._credentials._read_at -= client.TOKEN_SECONDS
        await api.get(Ref(MAP, "n", "a"))
    bearers = [r.headers["authorization"] for r in seen]
    assert bearers == ["Bearer first", "Bearer first", "Bearer second"]
    said = seen[0].headers
    assert (said["user-agent"], said["impersonate-user"], said["impersonate-group"]) == ("test", "bob", "dev")
    async with talking([ok({})], username="u", password="p") as (api, seen):
        await api.get(Ref(MAP, "n", "a"))
    assert seen[0].headers["authorization"] == "Basic dTpw"
    with pytest.raises(KubeconfigError, match="at most one group"):
        HttpApi(Connection("http://h", impersonate="b", impersonate_groups=("a", "b")), user_agent="test")
