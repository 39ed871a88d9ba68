"""Parts of an object with a URL of their own: status, scale, binding, eviction, token, finalize, approval.

Each is a function `(handlers' tools, resource, call) -> answer`, found by (group, plural, subresource), else by the
name alone for what every kind may have (status, scale).

Source: k8s.io/kubernetes, pkg/registry/core/pod/storage/storage.go,
pkg/registry/core/serviceaccount/storage/token.go, pkg/registry/core/namespace/storage; k8s.io/apiextensions-apiserver
for custom scales.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import orjson

from havre.api import deletion, strategy
from havre.api.errors import ApiError, BadRequest, Conflict, Invalid
from havre.api.meta import GVK, Obj
from havre.control.apiserver import answers, bodies, patching
from havre.control.apiserver.binding import BINDING, bind_pod
from havre.control.apiserver.cache import Cache, Entry
from havre.control.apiserver.eviction import EVICTION, Eviction
from havre.control.apiserver.handlers import Call, Handlers, Reply, not_allowed
from havre.control.apiserver.negotiate import negotiate
from havre.control.apiserver.objects import Objects
from havre.control.apiserver.resources import Registry, Resource, dump
from havre.kit.field import invalid
from havre.lang import json, jsonpatch, mergepatch
from havre.wire.http.message import Answer

_SCALE = GVK("autoscaling", "v1", "Scale")
_TOKEN_REQUEST = GVK("authentication.k8s.io", "v1", "TokenRequest")


class TokenIssuer(Protocol):
    """Signs tokens of service accounts (`service_account_tokens`)."""

    def request(self, namespace: str, name: str, request: Obj) -> Obj:
        """The TokenRequest with its status filled in. Raises Invalid, NotFound, Conflict."""
        ...


@dataclass(slots=True)
class Subresources:
    """What the functions below work with."""

    registry: Registry
    cache: Cache
    objects: Objects
    handlers: Handlers
    tokens: TokenIssuer

    def serve(self, resource: Resource, call: Call) -> Reply:
        """The answer of a subresource request. Raises NotFound for one that the kind does not have."""
        name = call.target.subresource
        if resource.kind.subresource(name) is None:
            raise _no_page()
        special = _SPECIAL.get((resource.group, resource.plural, name)) or _GENERAL.get(name)
        if special is None:
            raise _no_page()
        return special(self, resource, call)

    def read(self, resource: Resource, call: Call) -> Entry:
        entry = self.cache.get(resource.key(call.namespace, call.target.name))
        if entry is None:
            raise resource.not_found(call.target.name)
        return entry


def _no_page() -> ApiError:
    from havre.api.errors import NotFound

    return NotFound.page()


def _part(subresource: str) -> Callable[[Subresources, Resource, Call], Reply]:
    """A subresource whose body is the whole object."""

    def serve(tools: Subresources, resource: Resource, call: Call) -> Reply:
        if call.verb == "get":
            return tools.handlers.get(resource, call)
        if call.verb == "update":
            return tools.handlers.update(resource, call, subresource)
        if call.verb == "patch":
            return tools.handlers.patch(resource, call, subresource)
        raise not_allowed()

    return serve


# scale


def _scale(tools: Subresources, resource: Resource, call: Call) -> Reply:
    if call.verb == "get":
        entry = tools.read(resource, call)
        return _send_scale(200, scale_of(resource, tools.objects.served(resource, entry)), call)
    if call.verb in ("update", "patch"):
        return _change_scale(tools, resource, call)
    raise not_allowed()


async def _change_scale(tools: Subresources, resource: Resource, call: Call) -> Answer:
    target = call.target
    options = call.options("UpdateOptions" if call.verb == "update" else "PatchOptions")
    change = _scale_body(call) if call.verb == "update" else _scale_patch(call)

    def apply(live: Entry) -> Obj:
        obj = tools.objects.served(resource, live)
        scale = change(scale_of(resource, obj))
        _check_scale(resource, scale, obj)
        set_scale(resource, obj, scale)
        return obj

    entry, _ = await tools.objects.update(resource, call.namespace, target.name, apply, options, subresource="scale")
    reply = _send_scale(200, scale_of(resource, tools.objects.served(resource, entry)), call)
    assert not isinstance(reply, Awaitable)
    return reply


def _send_scale(status: int, scale: Obj, call: Call) -> Reply:
    media = negotiate(call.accept, protobuf=False, transforms=False)
    return answers.send(status, dump(scale), media=media)


def _scale_body(call: Call) -> Callable[[Obj], Obj]:
    body = bodies.unstored(call.request.body, call.content_type, _SCALE)
    return lambda _present: body


def _scale_patch(call: Call) -> Callable[[Obj], Obj]:
    media = bodies.media_of(call.content_type)
    try:
        raw = json.loads(call.request.body)
        if media == patching.JSON_PATCH:
            operations = jsonpatch.parse(raw)
            return lambda present: _patched_scale(present, operations)
    except (json.JSONError, jsonpatch.PatchError) as e:
        raise BadRequest(f"error decoding patch: {e}") from e
    if media not in (patching.MERGE, patching.STRATEGIC, patching.APPLY) or not isinstance(raw, dict):
        raise BadRequest(f"patch a scale: a {patching.MERGE} or {patching.JSON_PATCH} body is needed")
    return lambda present: bodies.typed(mergepatch.apply(present, raw), _SCALE)


def _patched_scale(present: Obj, operations: tuple[jsonpatch.Operation, ...]) -> Obj:
    try:
        scale = jsonpatch.apply(present, operations)
    except jsonpatch.PatchError as e:
        raise Invalid("the server rejected our request due to an error in our request", details={}) from e
    if not isinstance(scale, dict):
        raise BadRequest("patch a scale: the patch replaces it by something that is no object")
    return bodies.typed(scale, _SCALE)


def scale_of(resource: Resource, obj: Obj) -> Obj:
    """The autoscaling/v1 Scale of an object."""
    if resource.scale_paths is None:
        return strategy.scale_of(obj)
    spec_path, status_path, selector_path = resource.scale_paths
    meta = {
        k: v
        for k, v in obj["metadata"].items()
        if k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    }
    status: Obj = {"replicas": _at(obj, status_path) or 0}
    if selector_path and (selector := _at(obj, selector_path)):
        status["selector"] = selector
    scale: Obj = {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta}
    return scale | {"spec": {"replicas": _at(obj, spec_path) or 0}, "status": status}


def set_scale(resource: Resource, obj: Obj, scale: Obj) -> None:
    if resource.scale_paths is None:
        strategy.apply_scale(obj, scale)
        return
    *parents, last = resource.scale_paths[0].strip(".").split(".")
    at = obj
    for key in parents:
        at = at.setdefault(key, {})
    at[last] = (scale.get("spec") or {}).get("replicas", 0)


def _at(obj: Obj, path: str) -> object:
    value: object = obj
    for key in path.strip(".").split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _check_scale(resource: Resource, scale: Obj, obj: Obj) -> None:
    meta, name = scale.get("metadata") or {}, obj["metadata"]["name"]
    if meta.get("name") not in (None, "", name):
        raise BadRequest(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
    version = meta.get("resourceVersion")
    if version and version != obj["metadata"]["resourceVersion"]:
        from havre.control.apiserver.objects import MODIFIED

        raise Conflict.of(resource.plural, resource.group, name, MODIFIED)
    replicas = (scale.get("spec") or {}).get("replicas") or 0
    if replicas < 0:
        problem = invalid("spec.replicas", replicas, "must be greater than or equal to 0")
        raise Invalid.of(_SCALE.group, _SCALE.kind, name, [problem])


# pods


async def _bind(tools: Subresources, resource: Resource, call: Call) -> Answer:
    """POST pods/NAME/binding: the scheduler's decision."""
    if call.verb != "create":
        raise not_allowed()
    body = bodies.unstored(call.request.body, call.content_type, BINDING)
    return await bind(tools, resource, call, call.target.name, body)


async def bind(tools: Subresources, resource: Resource, call: Call, name: str, body: Obj) -> Answer:
    await bind_pod(tools.objects, resource, call.namespace, name, body, call.options("CreateOptions"))
    return _success(201)


def _success(status: int) -> Answer:
    body: Obj = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": status}
    reply = answers.send(status, orjson.dumps(body))
    assert not isinstance(reply, Awaitable)
    return reply


async def _evict(tools: Subresources, resource: Resource, call: Call) -> Answer:
    """POST pods/NAME/eviction: a deletion that a PodDisruptionBudget may refuse."""
    if call.verb != "create":
        raise not_allowed()
    body = bodies.unstored(call.request.body, call.content_type, EVICTION)
    target, options = call.target, call.options("CreateOptions")
    if body["metadata"].get("name") not in (None, "", target.name):
        raise BadRequest("name in URL does not match name in Eviction object")
    delete = body.get("deleteOptions") or {}
    deletion.validate_options(delete)
    options.dry_run = options.dry_run or delete.get("dryRun") == ["All"]
    budgets = tools.registry.find("policy", "v1", "poddisruptionbudgets")
    eviction = Eviction(tools.objects, tools.cache, resource, budgets, options)
    await eviction.evict(tools.read(resource, call).decode(), delete)
    return _success(201)


# others


async def _token(tools: Subresources, resource: Resource, call: Call) -> Answer:
    if call.verb != "create":
        raise not_allowed()
    options = call.options("CreateOptions")
    body = bodies.unstored(call.request.body, call.content_type, _TOKEN_REQUEST)
    tools.read(resource, call)
    body = await tools.objects.admitted(resource, call.namespace, call.target.name, body, options, "token")
    answer = tools.tokens.request(call.namespace, call.target.name, body)
    reply = answers.send(201, dump(answer), media=negotiate(call.accept, protobuf=False, transforms=False))
    return reply if not isinstance(reply, Awaitable) else await reply


async def _finalize(tools: Subresources, resource: Resource, call: Call) -> Answer:
    """PUT namespaces/NAME/finalize: sets spec.finalizers, which the main resource never touches."""
    if call.verb != "update":
        raise not_allowed()
    options = call.options("UpdateOptions")
    body = bodies.decode(tools.registry, resource, call.request.body, call.content_type, options)

    def change(live: Entry) -> Obj:
        obj = tools.objects.served(resource, live)
        obj.setdefault("spec", {})["finalizers"] = (body.get("spec") or {}).get("finalizers") or []
        version = body["metadata"].get("resourceVersion")
        if version:
            obj["metadata"]["resourceVersion"] = version
        return obj

    entry, _ = await tools.objects.update(resource, "", call.target.name, change, options, subresource="finalize")
    return await tools.handlers.sent(200, resource, entry, call, options)


Special = Callable[[Subresources, Resource, Call], Reply]

_GENERAL: dict[str, Special] = {"status": _part("status"), "scale": _scale}
_SPECIAL: dict[tuple[str, str, str], Special] = {
    ("", "pods", "binding"): _bind,
    ("", "pods", "ephemeralcontainers"): _part("ephemeralcontainers"),
    ("", "pods", "eviction"): _evict,
    ("", "pods", "resize"): _part("resize"),
    ("", "serviceaccounts", "token"): _token,
    ("", "namespaces", "finalize"): _finalize,
    ("certificates.k8s.io", "certificatesigningrequests", "approval"): _part("approval"),
}
