"""From a request to its answer: who may, which verb, how failures leave."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import orjson
import pytest
import pytest_asyncio

from havre.control.apiserver import server
from havre.control.store.errors import Overloaded, WriteFailed
from havre.wire.http.message import Request

pytestmark = pytest.mark.asyncio(loop_scope="module")
CM = {"metadata": {"name": "c"}, "data": {"a": "1"}}


def maps(namespace: str, rest: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps{rest}"


# routing


async def test_the_life_of_an_object(plane: Any, namespace: str) -> None:
    made = await plane.ask("POST", maps(namespace), CM)
    assert (made.status, made.headers["content-type"]) == (201, "application/json")
    uid = made.json()["metadata"]["uid"]
    assert (await plane.ask("GET", maps(namespace, "/c"))).json()["data"] == {"a": "1"}
    put = await plane.ask("PUT", maps(namespace, "/c"), {**CM, "data": {"a": "2"}})
    assert (put.status, put.json()["data"]) == (200, {"a": "2"})
    patch = await plane.ask(
        "PATCH", maps(namespace, "/c"), {"data": {"b": "3"}}, content_type="application/merge-patch+json"
    )
    assert patch.json()["data"] == {"a": "2", "b": "3"}
    listed = (await plane.ask("GET", maps(namespace))).json()
    assert (listed["kind"], [i["metadata"]["name"] for i in listed["items"]]) == ("ConfigMapList", ["c"])
    gone = await plane.ask("DELETE", maps(namespace, "/c"))
    assert gone.json()["details"] == {"name": "c", "kind": "configmaps", "uid": uid}
    assert (await plane.ask("GET", maps(namespace, "/c"))).status == 404


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("GET", "/api/v1/pods", 200),
        ("GET", "/api/v1/pods/web", 404),  # without a namespace there is no such place
        ("DELETE", "/api/v1/pods/web", 404),
        ("DELETE", "/api/v1/pods", 405),  # nobody deletes in all namespaces at once
        ("POST", "/api/v1/pods", 405),
        ("PUT", "/api/v1/pods", 405),
        ("GET", "/api/v1/namespaces/default/nodes", 404),
        ("GET", "/api/v1/nodes", 200),
        ("PUT", "/api/v1/nodes", 405),
        ("POST", "/api/v1/nodes/n1", 405),
        ("DELETE", "/api/v1/namespaces", 405),
        ("GET", "/api/v1/unknowns", 404),
        ("GET", "/apis/apps/v9/deployments", 404),
        ("GET", "/api/v1/namespaces/default/pods/p/nonsense", 404),
        ("GET", "/nonsense", 404),
        ("GET", "/healthz", 200),
        ("GET", "/readyz/ping", 200),
        ("GET", "/livez/nonsense", 404),
        ("POST", "/healthz", 405),
        ("GET", "/version", 200),
        ("GET", "/api", 200),
        ("GET", "/apis", 200),
        ("GET", "/apis/apps", 200),
        ("GET", "/apis/nonsense", 404),
        ("GET", "/apis/apps/v1", 200),
        ("GET", "/openapi/v3", 200),
        ("GET", "/metrics", 200),
        ("GET", "/", 200),
        ("BREW", "/api/v1/nodes", 405),
    ],
)  # fmt: skip
async def test_a_path_and_a_method_have_one_answer(plane: Any, method: str, url: str, status: int) -> None:
    reply = await plane.ask(method, url)
    assert reply.status == status
    if status == 404 and reply.headers["content-type"].startswith("text/plain"):
        assert reply.body == b"404 page not found\n"  # where nothing is served at all
    elif status >= 400:
        assert reply.json()["kind"] == "Status"


async def test_a_named_get_with_watch_answers_the_object(plane: Any, namespace: str) -> None:
    reply = await plane.ask("GET", f"/api/v1/namespaces/{namespace}?watch=true")
    assert reply.json()["kind"] == "Namespace"


async def test_an_encoded_slash_reaches_no_other_object(plane: Any, namespace: str) -> None:
    await plane.make(maps(namespace), CM)
    assert (await plane.ask("GET", f"/api/v1/namespaces/x/configmaps/..%2F{namespace}%2Fc")).status in (400, 404)
    assert (await plane.ask("GET", f"/api/v1/configmaps/{namespace}%2Fc")).status in (400, 404)


# who may


async def test_nobody_in_particular_may_read_nothing_of_the_cluster(plane: Any) -> None:
    reply = await plane.ask("GET", "/api/v1/secrets", user="")
    assert (reply.status, reply.message) == (
        403,
        'secrets is forbidden: User "system:anonymous" cannot list resource "secrets" in API group "" '
        "at the cluster scope",
    )


async def test_an_unknown_token_is_unauthorized(plane: Any) -> None:
    assert (await plane.ask("GET", "/api/v1/secrets", user="nobody")).status == 401


async def allow(plane: Any, namespace: str, *rules: Any) -> None:
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    await plane.make(f"{rbac}/roles", {"metadata": {"name": "r"}, "rules": rules})
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}
    await plane.make(f"{rbac}/rolebindings", {"metadata": {"name": "b"}, "roleRef": ref, "subjects": [subject]})


async def test_a_role_allows_what_it_says_from_the_moment_it_is_stored(plane: Any, namespace: str) -> None:
    assert (await plane.ask("GET", maps(namespace), user="bob")).status == 403
    await allow(plane, namespace, {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]})
    assert (await plane.ask("GET", maps(namespace), user="bob")).status == 200
    assert (await plane.ask("GET", maps(namespace, "/c"), user="bob")).status == 403
    assert (await plane.ask("GET", maps("default"), user="bob")).status == 403


async def test_a_rule_for_one_name_allows_to_list_and_watch_that_name(plane: Any, namespace: str) -> None:
    rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["c"], "verbs": ["list", "watch"]}
    await allow(plane, namespace, rule)
    await plane.make(maps(namespace), CM)
    assert (await plane.ask("GET", maps(namespace, "?fieldSelector=metadata.name%3Dc"), user="bob")).status == 200
    (await plane.watch(maps(namespace, "?watch=1&fieldSelector=metadata.name%3Dc"), user="bob")).close()
    assert (await plane.ask("GET", maps(namespace, "?fieldSelector=metadata.name%3Dd"), user="bob")).status == 403
    assert (await plane.ask("GET", maps(namespace), user="bob")).status == 403


async def test_an_impersonated_user_has_her_own_rights(plane: Any) -> None:
    headers = {"impersonate-user": "bob"}
    assert (await plane.ask("GET", "/api/v1/secrets", headers=headers)).status == 403
    assert (await plane.ask("GET", "/api/v1/secrets", user="bob", headers={"impersonate-user": "root"})).status == 403


# failures


async def test_more_awaited_requests_than_allowed_are_told_to_come_back(
    plane: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_WRITES", 2)
    posts = [plane.ask("POST", maps(namespace), {"metadata": {"generateName": "m-"}}) for _ in range(5)]
    replies = await asyncio.gather(*posts)
    assert sorted(r.status for r in replies) == [201, 201, 429, 429, 429]
    refused = next(r for r in replies if r.status == 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["reason"] == "TooManyRequests"
    assert (await plane.ask("POST", maps(namespace), CM)).status == 201  # the places are free again


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (WriteFailed("write c: disk full"), 500, "Internal error occurred: write c: disk full"),
        (Overloaded("write c: too much waits"), 429, "write c: too much waits"),
    ],
)
async def test_what_the_store_refuses_leaves_as_a_status(
    plane: Any, namespace: str, monkeypatch: pytest.MonkeyPatch, failure: Exception, status: int, message: str
) -> None:
    def refuse(*_: Any) -> Any:
        raise failure

    monkeypatch.setattr(plane.cache._store, "append", refuse)
    reply = await plane.ask("POST", maps(namespace), CM)
    assert (reply.status, reply.message) == (status, message)


async def test_a_bug_in_a_handler_reaches_the_listener_and_frees_its_place(
    plane: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(plane.objects, "create", broken)
    with pytest.raises(ZeroDivisionError):
        await plane.ask("POST", maps(namespace), CM)
    assert plane.api._awaited == 0


async def test_a_cancelled_write_frees_its_place(plane: Any, namespace: str) -> None:
    request = Request(
        "POST", maps(namespace), "", {"authorization": "Bearer root-token"}, orjson.dumps(CM), None, "", "HTTP/1.1"
    )
    reply = plane.api.handle(request)
    assert inspect.isawaitable(reply)
    task = asyncio.ensure_future(reply)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert plane.api._awaited == 0


@pytest.mark.parametrize(
    ("status", "reason"), [(400, "BadRequest"), (413, "RequestEntityTooLarge"), (500, "InternalError"), (418, "")]
)
async def test_a_failure_below_the_api_is_a_status_too(status: int, reason: str) -> None:
    reply = server.protocol_failure(status, "why")
    assert isinstance(reply.body, bytes)
    body = orjson.loads(reply.body)
    assert (reply.status, body["code"], body["reason"], body["message"]) == (status, status, reason, "why")


# bodies that are no objects: every one is refused, none is a bug of ours


WRONG: list[Any] = [
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b"5",
    b"\xff",
    {"metadata": []},
    {"metadata": {"name": 5}},
    {"spec": "x"},
    {"kind": 5},
    {"apiVersion": []},
    {"target": "x"},
    {"deleteOptions": "x"},
    {"metadata": {"labels": 5}},
    {"spec": {"replicas": "x"}},
    {"target": {"name": 5}},
    {"spec": {"token": 5}},
    {"preconditions": "x"},
]


@pytest.mark.parametrize("body", WRONG, ids=str)
@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("POST", "configmaps"),
        ("PUT", "configmaps/c"),
        ("PUT", "deployments/d/scale"),
        ("PATCH", "deployments/d/scale"),
        ("POST", "pods/p/binding"),
        ("POST", "bindings"),
        ("POST", "pods/p/eviction"),
        ("POST", "serviceaccounts/default/token"),
        ("PUT", "../NS/finalize"),
        ("DELETE", "configmaps/c?dryRun=All"),
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews"),
        ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
        ("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"),
    ],
)  # fmt: skip
async def test_a_wrong_body_is_refused_and_no_bug(plane: Any, whole: str, method: str, url: str, body: Any) -> None:
    group = "/apis/apps/v1" if url.startswith("deployments") else "/api/v1"
    path = url if url.startswith("/") else f"{group}/namespaces/{whole}/{url}".replace("/../NS", "")
    content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
    reply = await plane.ask(method, path, body, content_type=content_type)
    assert reply.status in (200, 201, 400, 403, 404, 409, 422), reply.body


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(plane: Any) -> str:
    """A namespace with one object of each kind that the wrong bodies are thrown at."""
    await plane.make("/api/v1/namespaces", {"metadata": {"name": "whole"}})
    home = "/namespaces/whole"
    await plane.make(f"/api/v1{home}/serviceaccounts", {"metadata": {"name": "default"}})
    await plane.make(f"/api/v1{home}/configmaps", CM)
    containers = {"containers": [{"name": "c", "image": "i"}]}
    await plane.make(f"/api/v1{home}/pods", {"metadata": {"name": "p"}, "spec": containers})
    labels = {"app": "d"}
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": containers}}
    await plane.make(f"/apis/apps/v1{home}/deployments", {"metadata": {"name": "d"}, "spec": spec})
    return "whole"
