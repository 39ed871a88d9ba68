"""What a request asks for: verb, resource and name, read from method, path and query.

`/apis/apps/v1/namespaces/shop/deployments/web/scale` is (apps, v1, deployments, scale, shop, web).

Source: k8s.io/apiserver, pkg/endpoints/request/requestinfo.go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from urllib.parse import parse_qsl, unquote

from havre.api.errors import MethodNotAllowed
from havre.api.meta import GVR
from havre.lang.selector import FieldSelector, SelectorError

_VERBS = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_NARROWED = frozenset({"list", "watch"})
# Children of /namespaces/NAME that belong to the namespace itself, not to a resource inside it.
_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TRUE = frozenset({"1", "true", "True", "TRUE", "t", "T"})


@dataclass(frozen=True, slots=True)
class Target:
    """The place that a path names; `resource` is "" for a non-resource URL."""

    path: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    tail: str = ""  # what follows the subresource `proxy`: the path on the other side
    watch_prefix: bool = False  # deprecated /api/v1/watch/…

    @property
    def gvr(self) -> GVR:
        return GVR(self.group, self.version, self.resource)


# A hot path is asked for again and again (an object polled, a list); 4,096 × ~500 B = 2 MB.
@lru_cache(maxsize=4096)
def target_of(path: str) -> Target:
    """The target of a raw (percent-encoded) path. Source: RequestInfoFactory.NewRequestInfo."""
    decoded = unquote(path)  # before it is split: an encoded slash is a slash, so nobody can hide one in a name
    match decoded.strip("/").split("/"):
        case ["api", version, *rest] if rest:
            return _resource(Target(decoded, "", version), rest)
        case ["apis", group, version, *rest] if rest:
            return _resource(Target(decoded, group, version), rest)
    return Target(decoded)


def _resource(target: Target, parts: list[str]) -> Target:
    watch = parts[0] == "watch" and len(parts) > 1
    if watch:
        parts = parts[1:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 1:
        namespace = parts[1]
        if len(parts) > 2 and parts[2] not in _NAMESPACE_SUBRESOURCES:
            parts = parts[2:]
    resource, name, subresource, *tail = [*parts, "", "", ""][: max(len(parts), 3)]
    return replace(
        target,
        resource=resource,
        name=name,
        subresource=subresource,
        namespace=namespace,
        tail="/".join(tail),
        watch_prefix=watch,
    )


def verb_of(method: str, target: Target, params: dict[str, str]) -> str:
    """The API verb, as RBAC rules name it. Raises MethodNotAllowed for a method that has none."""
    if not target.resource:
        return method.lower()
    verb = _VERBS.get(method)
    if verb is None and target.subresource == "proxy":
        return ""  # a pod answers any method; only a rule for all verbs allows this one
    if verb is None:
        raise MethodNotAllowed("the server does not allow this method on the requested resource", details={})
    if not target.name:
        if verb == "get":
            return "watch" if target.watch_prefix or flag(params, "watch") else "list"
        if verb == "delete":
            return "deletecollection"
    elif verb == "get" and target.watch_prefix:
        return "watch"
    return verb


def asked_name(target: Target, verb: str, params: dict[str, str]) -> str:
    """The name to authorize: a list or watch of `metadata.name=x` alone is allowed by a rule for the name x."""
    selector = params.get("fieldSelector")
    if not selector or verb not in _NARROWED or target.name:
        return target.name
    try:
        name = FieldSelector.parse(selector).requires("metadata.name") or ""
    except SelectorError:
        return ""  # the handler says what is wrong with it
    return "" if name in (".", "..") or "/" in name or "%" in name else name


def params_of(query: str) -> dict[str, str]:
    """Query parameters; of a repeated one the first counts, as in Go's url.Values.Get."""
    if not query:
        return {}
    out: dict[str, str] = {}
    if "%" in query:  # a pair with a broken escape does not count
        query = "&".join(pair for pair in query.split("&") if not _BROKEN_ESCAPE.search(pair))
    for key, value in parse_qsl(query, keep_blank_values=True):
        out.setdefault(key, value)
    return out


def flag(params: dict[str, str], key: str) -> bool:
    return params.get(key, "") in _TRUE
