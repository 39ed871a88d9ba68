"""Answers: bytes and headers as the API sends them, compressed when they are large, errors as Status objects.

Source: k8s.io/apiserver, pkg/endpoints/handlers/responsewriters/writers.go.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import zlib
from collections.abc import Awaitable, Sequence

import orjson

from havre.api.errors import ApiError
from havre.api.meta import Obj
from havre.control.apiserver.negotiate import JSON, PLAIN, YAML, Media
from havre.lang import json, yaml
from havre.wire.http.message import Headers, Response

GZIP_FROM = 128 << 10  # bytes; smaller bodies cost more time than they save on the wire, as upstream measured
_IN_LOOP = 1 << 20  # a larger body is compressed (5 ms a MiB) in a thread, so that others are served meanwhile
_FORMATTED_IN_LOOP = 64 << 10  # a larger one is made YAML (0.1 ms a KiB) or indented there
_AUDIT_PREFIX = os.urandom(8).hex()  # with a counter: unique in this process and, by chance, everywhere
_audit = itertools.count(1)
_MAX_WARNINGS = 4096  # bytes of all warnings together, as upstream


def headers(content_type: str = JSON, warnings: Sequence[str] = ()) -> Headers:
    found: Headers = [
        ("audit-id", f"{_AUDIT_PREFIX}-{next(_audit):x}"),
        ("cache-control", "no-cache, private"),
        ("content-type", content_type),
    ]
    room = _MAX_WARNINGS
    for text in dict.fromkeys(warnings):
        quoted = _printable(text).replace("\\", "\\\\").replace('"', '\\"')
        room -= len(quoted)
        if room < 0:
            break
        found.append(("warning", f'299 - "{quoted}"'))
    return found


def _printable(text: str) -> str:
    """Control characters as Go's %q shows them: a client's words must not end a header line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def send(
    status: int,
    body: bytes,
    *,
    media: Media = PLAIN,
    warnings: Sequence[str] = (),
    encodings: str = "",
) -> Response | Awaitable[Response]:
    """A whole answer; `body` is JSON or, for media.type protobuf, already encoded. `encodings` is Accept-Encoding."""
    head = headers(media.type, warnings)
    room = _IN_LOOP if media.type != YAML and not media.pretty else _FORMATTED_IN_LOOP
    if len(body) < room or (room == _IN_LOOP and "gzip" not in encodings):
        return _finished(status, head, body, media, encodings)
    return asyncio.to_thread(_finished, status, head, body, media, encodings)


def _finished(status: int, head: Headers, body: bytes, media: Media, encodings: str) -> Response:
    if media.type == YAML:
        body = yaml.dump(json.loads(body)).encode()
    elif media.pretty:
        body = orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2) + b"\n"
    if len(body) < GZIP_FROM or "gzip" not in encodings:
        return Response(status, head, body)
    head += [("content-encoding", "gzip"), ("vary", "Accept-Encoding")]
    return Response(status, head, _gzip(body))


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()


def plain(status: int, text: str, content_type: str = "text/plain; charset=utf-8") -> Response:
    return Response(status, headers(content_type), text.encode())


def error(failure: ApiError, warnings: Sequence[str] = ()) -> Response:
    """The Status of a request that failed."""
    head = headers(JSON, warnings)
    retry = (failure.details or {}).get("retryAfterSeconds")
    if failure.status_code in (429, 503) or retry:
        head.append(("retry-after", str(retry or 1)))
    return Response(failure.status_code, head, orjson.dumps(failure.status()))


def deleted(resource_plural: str, group: str, name: str, uid: str) -> bytes:
    """The Status of a deletion that is complete."""
    details: Obj = {"name": name, "group": group, "kind": resource_plural, "uid": uid}
    if not group:
        del details["group"]
    status: Obj = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
    return orjson.dumps(status)
