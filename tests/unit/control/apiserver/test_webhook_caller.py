"""Calling webhooks: over TLS, by URL or Service, and every way in which they fail."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from havre.api.meta import Obj
from havre.control.apiserver.admission.webhooks import CallFailed
from havre.control.apiserver.webhook_caller import WebhookCaller
from havre.wire import tls
from havre.wire.http.message import Request, Response
from havre.wire.http.server import Server, serve

pytestmark = pytest.mark.asyncio(loop_scope="module")


def answer(request: Request) -> Response:
    replies = {
        "/ok": Response(200, [], orjson.dumps({"response": {"uid": orjson.loads(request.body or b"{}").get("uid")}})),
        "/text": Response(200, [], b"hello"),
        "/list": Response(200, [], b"[]"),
        "/large": Response(200, [], b" " * (4 << 20)),
    }
    return replies.get(request.path, Response(500, [], b"broken"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hook(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Server, str]]:
    """A TLS server with a certificate for `hook.shop.svc` and 127.0.0.1, and its caBundle."""
    at = tmp_path_factory.mktemp("hook")
    authority = tls.new_authority("hooks")
    tls.save(at, "hook", tls.issue(authority, tls.Subject("hook"), server=True, names=["127.0.0.1", "hook.shop.svc"]))
    server = await serve(answer, ssl=tls.server_context(at / "hook.crt", at / "hook.key"))
    yield server, base64.b64encode(authority.certificate).decode()
    await server.close(0)


class Services:
    """A Lister that knows some Services."""

    def __init__(self, **specs: Obj) -> None:
        self._specs = specs

    def get(self, group: str, resource: str, namespace: str, name: str) -> Obj | None:
        spec = self._specs.get(name)
        return None if spec is None or namespace != "shop" else {"spec": spec}

    def list(self, group: str, resource: str, namespace: str) -> list[Obj]:
        return []


@pytest_asyncio.fixture(loop_scope="module")
async def caller() -> AsyncIterator[WebhookCaller]:
    made = WebhookCaller(Services(hook={"clusterIP": "127.0.0.1"}, headless={"clusterIP": "None"}))
    yield made
    await made.close()


async def test_a_webhook_is_called_by_its_url(caller: WebhookCaller, hook: Any) -> None:
    server, bundle = hook
    config = {"url": f"https://127.0.0.1:{server.port}/ok", "caBundle": bundle}
    assert await caller(config, {"uid": "1"}, 5) == {"response": {"uid": "1"}}
    assert await caller(config, {"uid": "2"}, 5) == {"response": {"uid": "2"}}


async def test_a_webhook_is_called_by_its_service_under_its_name(caller: WebhookCaller, hook: Any) -> None:
    server, bundle = hook
    service = {"namespace": "shop", "name": "hook", "port": server.port, "path": "/ok"}
    assert await caller({"service": service, "caBundle": bundle}, {"uid": "1"}, 5) == {"response": {"uid": "1"}}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/text", "the answer is no JSON"),
        ("/list", "the answer is no object"),
        ("/else", "the server answered 500: broken"),
        ("/large", "is longer than 3145728 bytes"),
    ],
)
async def test_an_answer_that_is_none_fails_with_the_url(
    caller: WebhookCaller, hook: Any, path: str, message: str
) -> None:
    server, bundle = hook
    url = f"https://127.0.0.1:{server.port}{path}"
    with pytest.raises(CallFailed) as e:
        await caller({"url": url, "caBundle": bundle}, {}, 5)
    assert str(e.value).startswith(f'failed to call webhook: Post "{url}?timeout=5s": ')
    assert message in str(e.value)


async def test_a_webhook_that_nobody_signed_is_not_trusted(caller: WebhookCaller, hook: Any) -> None:
    server, _ = hook
    other = base64.b64encode(tls.new_authority("other").certificate).decode()
    with pytest.raises(CallFailed, match="its certificate is not trusted"):
        await caller({"url": f"https://127.0.0.1:{server.port}/ok", "caBundle": other}, {}, 5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"url": "https://127.0.0.1:1/x"},
            'Post "https://127.0.0.1:1/x\\?timeout=5s": connect to .*: connection refused',
        ),
        ({"url": "https://127.0.0.1:1/x", "caBundle": "%%"}, "the caBundle of 127.0.0.1 cannot be used"),
        ({"url": "https://127.0.0.1:1/x", "caBundle": "aGVsbG8="}, "the caBundle of 127.0.0.1 cannot be used"),
        ({"service": {"namespace": "shop", "name": "absent"}}, 'service "absent" not found in namespace "shop"'),
        ({"service": {"namespace": "shop", "name": "headless"}}, 'service "shop/headless" has no cluster address'),
    ],
)
async def test_what_cannot_be_called_says_why(caller: WebhookCaller, config: Obj, message: str) -> None:
    with pytest.raises(CallFailed, match=message):
        await caller(config, {}, 5)


async def test_a_validating_webhook_takes_part_in_a_write(plane: Any, namespace: str, hook: Any) -> None:
    server, bundle = hook
    config = {"url": f"https://127.0.0.1:{server.port}/else", "caBundle": bundle}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    one = {
        "name": "a.example.com",
        "clientConfig": config,
        "rules": [rule],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "namespaceSelector": selector,
    }
    url = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    await plane.make(url, {"metadata": {"name": "w"}, "webhooks": [one]})
    reply = await plane.ask("POST", f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": {"name": "c"}})
    assert (reply.status, 'failed calling webhook "a.example.com"' in reply.message) == (500, True)
    await plane.ask("DELETE", f"{url}/w")
    await plane.make(f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": {"name": "c"}})
