"""What is served beside resources: health, version, discovery, OpenAPI, keys of service accounts, metrics.

Documents about the served kinds are made when they are first asked for, and again when a custom kind came or went.

Source: k8s.io/apiserver, pkg/server/{healthz,routes}; the list of paths is that of kube-apiserver.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson

from havre.api.errors import NotFound
from havre.api.kinds import KINDS
from havre.api.meta import Obj
from havre.control.apiserver import answers, discovery, gnostic
from havre.control.apiserver.cache import Cache
from havre.control.apiserver.discovery import Served
from havre.control.apiserver.handlers import Call, Reply, not_allowed
from havre.control.apiserver.openapi import Document, Documents
from havre.control.apiserver.resources import Registry
from havre.control.apiserver.service_account_tokens import Tokens
from havre.wire.http.message import Response

GIT_VERSION = "v1.34.4+havre"
_HEALTH = ("healthz", "livez", "readyz")
_JWKS = "/openid/v1/jwks"
_OPENID = "/.well-known/openid-configuration"

Page = Callable[[Call], Reply]


class ServedPages:
    """Finds the page of a path; `ready` says whether /readyz is ok."""

    def __init__(self, registry: Registry, cache: Cache, tokens: Tokens, ready: Callable[[], bool]) -> None:
        self._registry = registry
        self._cache = cache
        self._tokens = tokens
        self._ready = ready
        self._openapi = Documents()
        self._openapi_generation = -1
        self._served = Served({})
        self._generation = -1
        self._memo: dict[tuple[str, str], tuple[bytes, str]] = {}  # (document, version) → its bytes and ETag
        self._fixed: dict[str, Page] = {
            "/": self._index,
            "/version": _version,
            "/metrics": self._metrics,
            _JWKS: lambda _call: _json(self._tokens.jwks(), "application/jwk-set+json"),
            _OPENID: lambda _call: _json(self._tokens.openid_configuration(f"{self._tokens.issuer}{_JWKS}")),
        }

    def find(self, path: str) -> Page | None:
        parts = path.strip("/").split("/")
        if parts[0] in _HEALTH:
            return self._health
        if parts[0] == "openapi" and len(parts) > 1:
            return self._open
        match parts:
            case ["api"] | ["apis"]:
                return lambda call: self._root(parts[0], call)
            case ["api", version]:
                return lambda call: self._list(call, "", version)
            case ["apis", group]:
                return lambda call: self._group(call, group)
            case ["apis", group, version]:
                return lambda call: self._list(call, group, version)
        return self._fixed.get(path)

    # discovery

    def _kinds(self) -> Served:
        if self._generation != self._registry.generation:
            custom = [resource.kind for resource in self._registry if resource.kind.custom]
            self._served = Served.of((*KINDS, *custom))
            self._generation = self._registry.generation
            self._memo.clear()
        return self._served

    def _root(self, root: str, call: Call) -> Reply:
        _only_get(call)
        version = discovery.aggregated_version(call.accept)
        if version is not None:
            content_type = discovery.AGGREGATED.format(version=version)
            return self._document(call, root, version, content_type)
        return self._document(call, root, "", "application/json")

    def _document(self, call: Call, root: str, version: str, content_type: str) -> Reply:
        served = self._kinds()
        found = self._memo.get((root, version))
        if found is None:
            if version:
                document = discovery.aggregated(served, root, version)
            elif root == "api":
                document = discovery.api_versions(served, call.request.headers.get("host", ""))
            else:
                document = discovery.group_list(served)
            found = self._memo[root, version] = (orjson.dumps(document), discovery.etag(document))
        body, etag = found
        extra = [("etag", f'"{etag}"'), ("vary", "Accept"), ("cache-control", "public")]
        if call.request.headers.get("if-none-match", "").strip('"') == etag:
            return Response(304, [*answers.headers(content_type)[:1], *extra])
        head = [pair for pair in answers.headers(content_type) if pair[0] != "cache-control"]
        return Response(200, [*head, *extra], body)

    def _list(self, call: Call, group: str, version: str) -> Reply:
        _only_get(call)
        return _found(discovery.resource_list(self._kinds(), group, version))

    def _group(self, call: Call, group: str) -> Reply:
        _only_get(call)
        found = discovery.group(self._kinds(), group)
        return answers.plain(404, "404 page not found\n") if found is None else _json(found)

    # OpenAPI

    def _documents(self) -> Documents:
        if self._openapi_generation != self._registry.generation:
            self._openapi = Documents(resource.published for resource in self._registry if resource.published)
            self._openapi_generation = self._registry.generation
        return self._openapi

    def _open(self, call: Call) -> Reply:
        _only_get(call)
        _, version, *rest = call.target.path.strip("/").split("/")
        if version == "v2" and not rest:
            accept = call.accept
            protobuf = any(name in accept for name in gnostic.CONTENT_TYPES)
            return self._compressed(call, self._documents().v2(protobuf=protobuf))
        if version != "v3":
            raise NotFound.page()
        if not rest:
            return _json(self._documents().index())
        document = self._documents().v3("/".join(rest))
        if document is None:
            raise NotFound.page()
        return self._compressed(call, document)

    def _compressed(self, call: Call, document: Document) -> Reply:
        asked = call.params.get("hash")
        if asked and asked != document.hash:  # an older document: the client shall ask for the present one
            return Response(301, [("location", f"{call.target.path}?hash={document.hash}")])
        head = [("etag", f'"{document.hash}"'), ("vary", "Accept-Encoding, Accept")]
        if call.request.headers.get("if-none-match", "").strip('"') == document.hash:
            return Response(304, head)
        head.append(("content-type", document.content_type))
        if asked:  # the URL names the content, so it may be kept for ever
            head.append(("cache-control", "public, immutable"))
        if "gzip" in call.encodings:
            return Response(200, [*head, ("content-encoding", "gzip")], document.gzipped)
        return Response(200, head, document.plain)

    # the rest

    def _index(self, call: Call) -> Reply:
        _only_get(call)
        paths = [
            "/api",
            "/apis",
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            _JWKS,
            "/readyz",
            "/version",
        ]
        for group, versions in self._kinds().groups.items():
            base = f"/apis/{group}" if group else "/api"
            paths += [base, *(f"{base}/{version}" for version in versions)]
        return _json({"paths": sorted({*paths, _OPENID})})

    def _health(self, call: Call) -> Reply:
        """`ok`, or what is not; /readyz is the one that waits for the start and ends with the shutdown."""
        _only_get(call)
        name, *single = call.target.path.strip("/").split("/")
        checks = {"ping": True, "store": True} | ({"started": self._ready()} if name == "readyz" else {})
        if single:
            if single[0] not in checks:
                return answers.plain(404, "404 page not found\n")
            checks = {single[0]: checks[single[0]]}
        failed = [check for check, fine in checks.items() if not fine]
        if failed or "verbose" in call.params:
            lines = [f"[{'+' if fine else '-'}]{check} {'ok' if fine else 'failed'}" for check, fine in checks.items()]
            lines.append(f"{name} check {'failed' if failed else 'passed'}")
            return answers.plain(500 if failed else 200, "\n".join(lines) + "\n")
        return answers.plain(200, "ok")

    def _metrics(self, call: Call) -> Reply:
        """Prometheus text format."""
        _only_get(call)
        lines = [
            "# HELP apiserver_storage_objects Objects stored, by resource.",
            "# TYPE apiserver_storage_objects gauge",
        ]
        counted: dict[str, int] = {}
        for resource in self._registry:
            group = resource.kind.storage_group
            name = f"{resource.plural}.{group}" if group else resource.plural
            counted[name] = self._cache.count(resource.prefix)
        lines += [f'apiserver_storage_objects{{resource="{name}"}} {count}' for name, count in sorted(counted.items())]
        lines += [
            "# HELP havre_store_revision Newest revision of the store.",
            "# TYPE havre_store_revision counter",
            f"havre_store_revision {self._cache.revision}",
            "# HELP process_cpu_seconds_total CPU time of this process.",
            "# TYPE process_cpu_seconds_total counter",
            f"process_cpu_seconds_total {time.process_time():.3f}",
        ]
        return answers.plain(200, "\n".join(lines) + "\n", "text/plain; version=0.0.4; charset=utf-8")


def _version(call: Call) -> Reply:
    """The Kubernetes version whose API is served: `helm` and `flux` refuse servers that are too old."""
    _only_get(call)
    return _json(
        {
            "major": "1",
            "minor": "34",
            "gitVersion": GIT_VERSION,
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "cpython",
            "platform": "linux/amd64",
        }
    )


def _only_get(call: Call) -> None:
    if call.request.method not in ("GET", "HEAD"):
        raise not_allowed()


def _found(document: Obj | None) -> Reply:
    if document is None:
        raise NotFound.page()
    return _json(document)


def _json(document: Any, content_type: str = "application/json") -> Reply:
    return Response(200, answers.headers(content_type), orjson.dumps(document))
