"""The API over HTTP: `machinery.api.Api` against any Kubernetes API server.

    async with HttpApi(kubeconfig.load(), user_agent="havre/gitops") as api:
        pods = await api.list(GVK("", "v1", "Pod"), "default")

Built-in kinds are known; where others live is asked from discovery once per group and version, and again when a kind
is missing or its page has gone. Lists are read in pages, watches end quietly before the server would end them, an
overloaded server is asked again after the time it names. Every failure is an `ApiError`: no answer is Unavailable, a
late one Timeout.

Source: k8s.io/client-go, rest/request.go, dynamic/simple.go, tools/pager/pager.go.
"""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote, urlencode

import orjson

from havre.api import kinds
from havre.api.errors import ApiError, BadRequest, Expired, NotFound, Timeout, Unavailable, from_status
from havre.api.meta import GVK, Obj
from havre.machinery.api import Listing, PatchType, Propagation, Ref, WatchEvent
from havre.machinery.kubeconfig import Connection, KubeconfigError
from havre.wire import tls
from havre.wire.http.client import Client, Reply
from havre.wire.http.errors import HttpError, TimedOut

PAGE = 500  # objects of one page of a list, as every client of Kubernetes asks
TIMEOUT = 60.0  # seconds of one request: the server's own limit
RETRIES = 5  # of a request that the server put off
LONGEST_WAIT = 30.0  # seconds, whatever Retry-After says
WATCH_SECONDS = (300, 600)  # a watch ends by itself after a time in this range, so that many do not end at once
WATCH_GRACE = 30.0  # seconds after which a watch that should have ended is given up
LINE = 64 << 20  # bytes of one watch event: more than any object, encoded in any way
TOKEN_SECONDS = 60.0  # a token file is read again after this: kubelet replaces it hours before it ends

_MEDIA: Final[dict[str, str]] = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}
_PUT_OFF = frozenset({429, 503})


class Place(NamedTuple):
    """Where the objects of a kind live in URLs."""

    plural: str
    namespaced: bool


Params = Mapping[str, str]


class HttpApi:
    """Implements `machinery.api.Api`. Make it in a running loop, close it at the end."""

    def __init__(self, connection: Connection, *, user_agent: str, timeout: float = TIMEOUT) -> None:
        """Raises KubeconfigError, TlsError."""
        self._connection = connection
        self._credentials = _Credentials(connection)
        headers = {"user-agent": user_agent, "accept": "application/json", **_identity(connection)}
        self._client = Client(
            connection.server,
            ssl=_context(connection),
            headers=headers,
            timeout=timeout,
            server_name=connection.server_name or None,
        )
        self._discovered: dict[tuple[str, str], dict[str, Place]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.close()

    # the protocol

    async def get(self, ref: Ref) -> Obj | None:
        try:
            obj: Obj = await self._object("GET", ref)
        except NotFound as error:
            if _of_an_object(error):
                return None
            raise
        return obj

    async def list(self, gvk: GVK, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        selection = _selection(labels, fields)
        page = await self._page(gvk, namespace, {**selection, "limit": str(PAGE)})
        items, meta = page["items"] or [], page["metadata"]
        while token := meta.get("continue"):
            try:
                page = await self._page(gvk, namespace, {**selection, "limit": str(PAGE), "continue": token})
            except Expired:  # too many changes since the first page: all at once, which cannot expire
                page = await self._page(gvk, namespace, selection)
                items = []
            items += page["items"] or []
            meta = page["metadata"]
        head = {"apiVersion": gvk.api_version, "kind": gvk.kind}  # items of built-in kinds come without
        return Listing([{**head, **item} for item in items], meta.get("resourceVersion", ""))

    async def watch(
        self, gvk: GVK, namespace: str = "", *, since: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311 - spreads load, guards nothing
        params = {
            **_selection(labels, fields),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": since,
            "timeoutSeconds": str(seconds),
        }
        place = await self._place(gvk)
        target = _target(gvk, place, namespace, params=params)
        try:
            async with self._client.stream("GET", target, headers=await self._credentials.headers()) as reply:
                if reply.status != 200:
                    raise self._failure(gvk, Reply(reply.status, reply.headers, await reply.read(LINE)))
                deadline = asyncio.get_running_loop().time() + seconds + WATCH_GRACE
                async for line in _lines(reply.chunks, deadline):
                    yield _event(line)
        except HttpError as error:
            raise _unanswered(error) from error

    async def create(self, obj: Obj, *, manager: str, dry_run: bool = False) -> Obj:
        gvk, meta = GVK.of(obj), obj.get("metadata") or {}
        ref = Ref(gvk, meta.get("namespace") or "", "")
        return await self._object("POST", ref, obj, params=_options(manager, dry_run=dry_run))

    async def update(self, obj: Obj, *, manager: str, subresource: str = "", dry_run: bool = False) -> Obj:
        params = _options(manager, dry_run=dry_run)
        return await self._object("PUT", Ref.of(obj), obj, params=params, subresource=subresource)

    async def patch(
        self,
        ref: Ref,
        patch: Obj | Sequence[Obj],
        *,
        kind: PatchType,
        manager: str,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Obj:
        params = _options(manager, dry_run=dry_run)
        return await self._object("PATCH", ref, patch, params=params, subresource=subresource, media=_MEDIA[kind])

    async def apply(
        self, obj: Obj, *, manager: str, force: bool = True, subresource: str = "", dry_run: bool = False
    ) -> Obj:
        params = {**_options(manager, dry_run=dry_run), "force": "true" if force else "false"}
        media = _MEDIA["apply"]
        return await self._object("PATCH", Ref.of(obj), obj, params=params, subresource=subresource, media=media)

    async def delete(
        self,
        ref: Ref,
        *,
        uid: str = "",
        revision: str = "",
        propagation: Propagation = "",
        grace: int | None = None,
        dry_run: bool = False,
    ) -> None:
        options: Obj = {"kind": "DeleteOptions", "apiVersion": "v1"}
        wanted = {key: value for key, value in (("uid", uid), ("resourceVersion", revision)) if value}
        if wanted:
            options["preconditions"] = wanted
        if propagation:
            options["propagationPolicy"] = propagation
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        if dry_run:
            options["dryRun"] = ["All"]
        await self._object("DELETE", ref, options)

    async def ask(self, ref: Ref, subresource: str, question: Obj) -> Obj:
        """POST to a subresource that answers with an object of its own kind: `token`, `eviction`, `binding`."""
        return await self._object("POST", ref, question, subresource=subresource)

    # one request

    async def _object(
        self,
        method: str,
        ref: Ref,
        body: object = None,
        *,
        params: Params | None = None,
        subresource: str = "",
        media: str = "application/json",
    ) -> Obj:
        """The object, or the Status, that a request on one object (POST: on its collection) answers with."""
        place = await self._place(ref.gvk)
        if place.namespaced and not ref.namespace:
            raise BadRequest(f"{method} {ref}: {ref.gvk.kind} lives in a namespace; set metadata.namespace")
        if not ref.name and method != "POST":
            raise BadRequest(f"{method} {ref}: an object has a name; set metadata.name")
        target = _target(ref.gvk, place, ref.namespace, ref.name, subresource, params)
        return await self._answer(method, target, ref.gvk, b"" if body is None else orjson.dumps(body), media)

    async def _page(self, gvk: GVK, namespace: str, params: Params) -> Obj:
        target = _target(gvk, await self._place(gvk), namespace, params=params)
        return await self._answer("GET", target, gvk)

    async def _answer(self, method: str, target: str, gvk: GVK, body: bytes = b"", media: str = "") -> Obj:
        headers = {"content-type": media} if body else {}
        reply = await self._send(method, target, headers, body)
        if reply.status >= 400:
            raise self._failure(gvk, reply)
        answer = _json(reply.body)
        if not isinstance(answer, dict):
            raise Unavailable(f"{method} {target}: the server answered {reply.status} without a JSON object")
        return answer

    async def _send(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Sends; again, a bounded number of times, while the server says that it is too busy."""
        for left in reversed(range(RETRIES + 1)):
            try:
                reply = await self._client.request(
                    method, target, headers={**headers, **await self._credentials.headers()}, body=body
                )
            except HttpError as error:
                raise _unanswered(error) from error
            wait = _put_off(reply)
            if wait is None or not left:
                return reply
            await asyncio.sleep(wait)
        raise AssertionError("unreachable: the last try returns")

    def _failure(self, gvk: GVK, reply: Reply) -> ApiError:
        """The error of an answer; forgets where the kind lives when its page has gone."""
        error = _error(reply)
        if isinstance(error, NotFound) and not _of_an_object(error):
            self._discovered.pop((gvk.group, gvk.version), None)
        return error

    # discovery

    async def _place(self, gvk: GVK) -> Place:
        known = kinds.by_gvk(gvk)
        if known is not None:
            return Place(known.plural, known.namespaced)
        group = gvk.group, gvk.version
        place = self._discovered.get(group, {}).get(gvk.kind)
        if place is None:
            self._discovered[group] = await self._discover(gvk)
            place = self._discovered[group].get(gvk.kind)
        if place is None:
            raise NotFound(f'no matches for kind "{gvk.kind}" in version "{gvk.api_version}"')
        return place

    async def _discover(self, gvk: GVK) -> dict[str, Place]:
        reply = await self._send("GET", _root(gvk), {}, b"")
        if reply.status == 404:
            return {}
        if reply.status >= 400:
            raise _error(reply)
        listed = _json(reply.body)
        resources = listed.get("resources") or [] if isinstance(listed, dict) else []
        return {r["kind"]: Place(r["name"], bool(r["namespaced"])) for r in resources if "/" not in r["name"]}


class _Credentials:
    """The headers that say who we are; a token file is read again from time to time."""

    def __init__(self, connection: Connection) -> None:
        self._file = connection.token_file
        self._read_at = float("-inf")
        self._headers = _authorization(connection)

    async def headers(self) -> Mapping[str, str]:
        now = asyncio.get_running_loop().time()
        if self._file is not None and now - self._read_at >= TOKEN_SECONDS:
            try:
                token = await asyncio.to_thread(self._file.read_text)
            except OSError as error:
                raise Unavailable(
                    f"read the token {self._file}: {error.strerror}; check the path and its mode"
                ) from error
            self._headers = {"authorization": f"Bearer {token.strip()}"}
            self._read_at = now
        return self._headers


def _authorization(connection: Connection) -> dict[str, str]:
    if connection.token:
        return {"authorization": f"Bearer {connection.token}"}
    if connection.username:
        pair = f"{connection.username}:{connection.password}".encode()
        return {"authorization": f"Basic {base64.b64encode(pair).decode()}"}
    return {}


def _identity(connection: Connection) -> dict[str, str]:
    """The headers of impersonation. Each group needs a header of its own, and our client sends a name once."""
    if len(connection.impersonate_groups) > 1:
        raise KubeconfigError("impersonate: at most one group is supported; leave one in as-groups")
    fields = {
        "impersonate-user": connection.impersonate,
        "impersonate-group": next(iter(connection.impersonate_groups), ""),
        "impersonate-uid": connection.impersonate_uid,
    }
    return {name: value for name, value in fields.items() if value}


def _context(connection: Connection) -> Any:
    if not connection.server.startswith("https://"):
        return None
    return tls.client_context(connection.ca, connection.certificate, connection.key, verify=not connection.insecure)


# URLs and parameters


def _root(gvk: GVK) -> str:
    return f"/apis/{gvk.group}/{gvk.version}" if gvk.group else f"/api/{gvk.version}"


def _target(
    gvk: GVK, place: Place, namespace: str, name: str = "", subresource: str = "", params: Params | None = None
) -> str:
    within = ("namespaces", namespace) if place.namespaced and namespace else ()
    parts = (*within, place.plural, *filter(None, (name, subresource)))
    path = "/".join((_root(gvk), *[quote(part, safe="") for part in parts]))
    return f"{path}?{urlencode(params)}" if params else path


def _selection(labels: str, fields: str) -> dict[str, str]:
    return {key: text for key, text in (("labelSelector", labels), ("fieldSelector", fields)) if text}


def _options(manager: str, *, dry_run: bool) -> dict[str, str]:
    return {"fieldManager": manager, **({"dryRun": "All"} if dry_run else {})}


# answers


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _error(reply: Reply) -> ApiError:
    status = _json(reply.body)
    if not isinstance(status, dict) or status.get("kind") != "Status":
        text = reply.body[:200].decode(errors="replace").strip()
        status = {"code": reply.status, "message": text or f"the server answered {reply.status}"}
    return _as_expired(from_status(status))


def _as_expired(error: ApiError) -> ApiError:
    """Every 410 of a list or a watch means the same: list again. Old servers say Gone."""
    if error.status_code == 410 and not isinstance(error, Expired):
        return Expired(error.message, details=error.details)
    return error


def _of_an_object(error: NotFound) -> bool:
    """It is the object that is missing, not the page of its kind."""
    return bool((error.details or {}).get("name"))


def _unanswered(error: HttpError) -> ApiError:
    return Timeout(str(error)) if isinstance(error, TimedOut) else Unavailable(str(error))


def _put_off(reply: Reply) -> float | None:
    """Seconds to wait before asking again; None: this is the answer."""
    after = reply.headers.get("retry-after", "")
    if reply.status not in _PUT_OFF or not after.isdigit():
        return None
    return min(float(after), LONGEST_WAIT)


async def _lines(chunks: AsyncIterator[bytes], deadline: float) -> AsyncGenerator[bytes, None]:
    """The lines of a stream; it also ends at `deadline`, when the connection has died without a word."""
    rest = b""
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                chunk = await anext(chunks, b"")
        except TimeoutError:
            return
        if not chunk:
            return
        whole, newline, tail = chunk.rpartition(b"\n")
        if not newline:
            rest += chunk
        else:
            for line in (rest + whole).split(b"\n"):
                if line:
                    yield line
            rest = tail
        if len(rest) > LINE:
            raise Unavailable(f"watch: an event is longer than {LINE} bytes")


def _event(line: bytes) -> WatchEvent:
    """Raises the error that an ERROR event carries."""
    event = _json(line)
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
        raise Unavailable(f"watch: the server sent something that is not an event: {line[:100]!r}")
    if event["type"] == "ERROR":
        raise _as_expired(from_status(event["object"]))
    return WatchEvent(event["type"], event["object"])
