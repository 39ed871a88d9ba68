"""The listener: who asks, what for, may she, and then the handler of the verb.

A read is answered inside the call that parsed it, without a task; writes, long lists and tunnels are awaited. Every
failure leaves as a Status object.

Source: k8s.io/apiserver, pkg/server/config.go (the order of the filters).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import orjson

from havre.api.errors import ApiError, BadRequest, InternalError, NotFound, TooManyRequests
from havre.api.meta import GVR, Obj
from havre.control.apiserver import answers, authn, authz
from havre.control.apiserver.authn import Authenticator
from havre.control.apiserver.authz import Authorizer
from havre.control.apiserver.handlers import Call, Handlers, Reply, not_allowed
from havre.control.apiserver.nodes import Nodes
from havre.control.apiserver.request import Target, asked_name, params_of, target_of, verb_of
from havre.control.apiserver.resources import Registry, Resource
from havre.control.apiserver.subresources import Subresources
from havre.control.store.errors import Overloaded, StoreError
from havre.machinery.admission import Attributes, User
from havre.wire.http.message import Answer, Request, Response

log = logging.getLogger(__name__)

MAX_WRITES = 400  # awaited requests at once; beyond it 429. Upstream: 200 writes and 400 reads

_NAMING = frozenset({"create", "update", "patch"})  # the first wants a URL without a name, the others one with it

_NAMESPACED_REVIEWS = frozenset({"localsubjectaccessreviews", "bindings"})

Page = Callable[[Call], Reply]


class Pages(Protocol):
    """What is served beside resources: health, version, discovery, OpenAPI, metrics."""

    def find(self, path: str) -> Page | None: ...


class Reviews(Protocol):
    """Kinds that are answered and not stored (SubjectAccessReview, TokenReview, Binding …)."""

    def find(self, gvr: GVR) -> Callable[[Call], Reply] | None: ...


@dataclass(slots=True)
class ApiServer:
    """The handler of all requests; `wire.http.server.serve` calls `handle`."""

    registry: Registry
    handlers: Handlers
    subresources: Subresources
    nodes: Nodes
    authenticator: Authenticator
    authorizer: Authorizer
    pages: Pages
    reviews: Reviews
    _awaited: int = 0

    def handle(self, request: Request) -> Reply:
        try:
            reply = self._answer(request)
        except ApiError as e:
            return answers.error(e)
        if isinstance(reply, Awaitable):
            return self._finish(reply)
        return reply

    async def _finish(self, reply: Awaitable[Answer]) -> Answer:
        if self._awaited >= MAX_WRITES:
            if inspect.iscoroutine(reply):
                reply.close()
            busy = "the server has received too many requests and has asked us to try again later"
            return answers.error(TooManyRequests(busy, details={"retryAfterSeconds": 1}))
        self._awaited += 1
        try:
            return await reply
        except ApiError as e:
            return answers.error(e)
        except Overloaded as e:
            return answers.error(TooManyRequests(str(e), details={"retryAfterSeconds": 1}))
        except StoreError as e:
            log.warning("the store refused a write: %s", e)
            return answers.error(InternalError.of(str(e)))
        finally:
            self._awaited -= 1

    def _answer(self, request: Request) -> Reply:
        headers = request.headers
        user = self.authenticator.authenticate(headers, request.peer)
        target, params = target_of(request.path), params_of(request.query)
        verb = verb_of(request.method, target, params)
        if authn.impersonates(headers):
            user = authn.impersonate(user, headers, self.authorizer)
        self._authorize(user, verb, target, asked_name(target, verb, params))
        call = Call(request, target, params, verb, user, partial(self._authorize, user, "create", target, target.name))
        if not target.resource:
            page = self.pages.find(target.path)
            return _no_page() if page is None else page(call)
        return self._resource(call)

    def _authorize(self, user: User, verb: str, target: Target, name: str) -> None:
        asked = Attributes(
            user,
            verb,
            target.group,
            target.version,
            target.resource,
            target.subresource,
            target.namespace,
            name,
            "" if target.resource else target.path,
        )
        decision = self.authorizer.authorize(asked)
        if not decision.allowed:
            raise authz.forbidden(asked, decision.reason)

    def _review(self, target: Target) -> Callable[[Call], Reply] | None:
        review = self.reviews.find(target.gvr)
        misplaced = target.subresource or bool(target.namespace) is not (target.resource in _NAMESPACED_REVIEWS)
        if review is not None and misplaced:
            raise NotFound.page()  # a right inside one namespace is none to ask about the whole cluster
        return review

    def _resource(self, call: Call) -> Reply:
        target = call.target
        if target.watch_prefix and (call.request.method != "GET" or target.subresource):
            raise NotFound.page()  # the old prefix serves watches alone, and is authorized as one
        review = self._review(target)
        if review is not None:
            return review(call)
        try:
            resource = self.registry.find(target.group, target.version, target.resource)
        except NotFound:
            if any((r.group, r.kind.version) == (target.group, target.version) for r in self.registry):
                raise
            return _no_page()
        if call.request.method == "HEAD" and target.subresource != "proxy":  # upstream routes none to a resource either
            raise not_allowed()
        if bad := _not_a_segment(target.name):
            raise BadRequest(f'Name parameter invalid: "{target.name}": {bad}')
        if resource.unserved:
            raise InternalError.of(resource.unserved)
        if resource.namespaced:
            if not target.namespace and call.verb not in ("list", "watch"):  # all namespaces can only be read
                raise NotFound.page() if target.name else not_allowed()
        elif target.namespace and not _is_itself(target):
            raise NotFound.page()
        if target.subresource:
            if self.nodes.serves(resource, target.subresource):
                return self.nodes.serve(resource, call)
            return self.subresources.serve(resource, call)
        return self._verb(resource, call)

    def _verb(self, resource: Resource, call: Call) -> Reply:
        handlers, verb = self.handlers, call.verb
        if verb not in resource.kind.verbs or (verb in _NAMING and (verb == "create") is bool(call.target.name)):
            raise not_allowed()
        match verb:
            case "get":
                return handlers.get(resource, call)
            case "list":
                return handlers.list(resource, call)
            case "watch":
                return handlers.watch(resource, call)
            case "create":
                return handlers.create(resource, call)
            case "update":
                return handlers.update(resource, call)
            case "patch":
                return handlers.patch(resource, call)
            case "delete":
                return handlers.delete(resource, call)
            case "deletecollection":
                return handlers.deletecollection(resource, call)
        raise not_allowed()


def _is_itself(target: Target) -> bool:
    """`/namespaces/shop` is authorized inside shop; `/namespaces/shop/namespaces/bank` is nothing, else rights in
    one namespace would reach the next.
    """
    return target.resource == "namespaces" and target.name == target.namespace


def _no_page() -> Response:
    """Where nothing is served at all the answer is text; clients that know the group get a Status."""
    return answers.plain(404, "404 page not found\n")


def _not_a_segment(name: str) -> str:
    """Why this cannot be one part of a key. Source: k8s.io/apimachinery, pkg/api/validation/path."""
    if name in (".", ".."):
        return f"may not be '{name}'"
    return "may not contain '%'" if "%" in name else ""


def protocol_failure(status: int, message: str) -> Response:
    """The body of a failure below the API: a request that is too large, malformed, or whose handler has a bug."""
    reasons = {
        400: "BadRequest",
        408: "Timeout",
        413: "RequestEntityTooLarge",
        431: "RequestEntityTooLarge",
        500: "InternalError",
        503: "ServiceUnavailable",
    }
    if status == 413:
        message = message.replace("request body is too large: the limit is", "Request entity too large: limit is")
        message = message.removesuffix(" bytes")
    body: Obj = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    body |= {"reason": reasons.get(status, ""), "code": status}
    return Response(status, answers.headers(), orjson.dumps(body))
