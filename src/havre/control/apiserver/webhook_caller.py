"""The HTTP side of admission and conversion webhooks: find the server, ask it, read its answer.

A webhook names a URL, or a Service, which is reached by its cluster address under the name `NAME.NAMESPACE.svc`.

Source: k8s.io/apiserver, pkg/util/webhook (client.go, serviceresolver.go).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson

from havre.api.meta import Obj
from havre.control.apiserver.admission.webhooks import CallFailed
from havre.machinery.admission import Lister
from havre.wire import tls
from havre.wire.http.client import Client
from havre.wire.http.errors import HttpError, TimedOut

_LIMIT = 3 << 20  # bytes of an answer: as much as a request may have


@dataclass(frozen=True, slots=True)
class _Where:
    base: str
    path: str
    server_name: str


class WebhookCaller:
    """Callable: `await caller(client_config, review, timeout)` gives the review back, answered. Raises CallFailed."""

    def __init__(self, lister: Lister) -> None:
        self._lister = lister
        self._clients: dict[tuple[str, str, str], Client] = {}

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()

    async def __call__(self, client_config: Obj, review: Obj, timeout: float) -> Obj:
        where = self._where(client_config)
        client = self._client(where, client_config.get("caBundle") or "")
        headers = {"content-type": "application/json", "accept": "application/json"}
        body = orjson.dumps(review)
        path = f"{where.path}{'&' if '?' in where.path else '?'}timeout={timeout:g}s"
        asked = f'failed to call webhook: Post "{where.base}{path}"'
        try:
            reply = await client.request("POST", path, headers=headers, body=body, timeout=timeout, limit=_LIMIT)
        except TimedOut as e:
            raise CallFailed(f"{asked}: context deadline exceeded") from e
        except HttpError as e:
            raise CallFailed(f"{asked}: {e}") from e
        if reply.status != 200:
            shown = reply.body[:256].decode(errors="replace")
            raise CallFailed(f"{asked}: the server answered {reply.status}: {shown}")
        try:
            answer = orjson.loads(reply.body)
        except orjson.JSONDecodeError as e:
            raise CallFailed(f"{asked}: the answer is no JSON: {e}") from e
        if not isinstance(answer, dict):
            raise CallFailed(f"{asked}: the answer is no object")
        return answer

    def _client(self, where: _Where, bundle: str) -> Client:
        key = (where.base, where.server_name, bundle)
        client = self._clients.get(key)
        if client is None:
            try:
                ca = base64.b64decode(bundle, validate=True) if bundle else None
                context = tls.client_context(ca)
            except (ValueError, tls.TlsError) as e:
                raise CallFailed(f"the caBundle of {where.server_name} cannot be used: {e}") from e
            client = self._clients[key] = Client(where.base, ssl=context, server_name=where.server_name)
        return client

    def _where(self, config: Obj) -> _Where:
        if url := config.get("url"):
            parts = urlsplit(url)
            return _Where(f"{parts.scheme}://{parts.netloc}", parts.path or "/", parts.hostname or "")
        service = config.get("service") or {}
        namespace, name = service.get("namespace", ""), service.get("name", "")
        found = self._lister.get("", "services", namespace, name)
        if found is None:
            raise CallFailed(f'service "{name}" not found in namespace "{namespace}"')
        address = (found.get("spec") or {}).get("clusterIP")
        if not address or address == "None":
            raise CallFailed(f'service "{namespace}/{name}" has no cluster address')
        return _Where(
            f"https://{address}:{service.get('port', 443)}", service.get("path") or "/", f"{name}.{namespace}.svc"
        )
