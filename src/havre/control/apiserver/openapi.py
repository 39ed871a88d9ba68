"""`/openapi/v3` and `/openapi/v2`: what kubectl explain, apply and diff read before they do anything.

The documents of the built-in kinds are packaged, compressed, one per group version, and sent as they are; those of
custom kinds are made when asked for. A document is named by a hash, so that clients fetch it once. v2 is one document
for all kinds: custom ones are added by concatenation, of gzip members and, for protobuf, of messages, so that nothing
is unpacked.

Source: k8s.io/kube-openapi, pkg/handler and pkg/handler3.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from havre.api.meta import Obj
from havre.api.schemas import openapi_index, openapi_member
from havre.control.apiserver import gnostic, openapi_custom
from havre.control.apiserver.openapi_custom import CustomKind

JSON: Final = "application/json"
KEPT: Final = 8  # documents of custom kinds kept compressed, 5 to 50 kB each: kubectl reads one or two per command
_LEVEL: Final = 6  # a document of 100 kB: 2 ms


@dataclass(frozen=True, slots=True)
class Document:
    """A document to send: compressed, with the hash that is its ETag and the `hash` parameter of its URL."""

    gzipped: bytes
    hash: str
    content_type: str = JSON

    @property
    def plain(self) -> bytes:
        return gzip.decompress(self.gzipped)


class Documents:
    """The documents of the built-in kinds and of these custom ones; a new one is made when a custom kind changes."""

    def __init__(self, customs: Iterable[CustomKind] = ()) -> None:
        self._customs: dict[str, list[CustomKind]] = {}
        for custom in customs:
            path = f"apis/{custom.kind.group}/{custom.kind.version}"
            self._customs.setdefault(path, []).append(custom)
        self._hashes = {path: _hash(path, found) for path, found in self._customs.items()}
        self._kept: dict[str, Document] = {}

    def index(self) -> Obj:
        """`/openapi/v3`: the URLs of all documents."""
        paths = sorted(openapi_index()["v3"].keys() | self._hashes.keys())
        return {"paths": {path: {"serverRelativeURL": self.location(path)} for path in paths}}

    def location(self, path: str) -> str | None:
        """The URL of a document with its hash; one with another hash is redirected there, one with it never changes."""
        row = openapi_index()["v3"].get(path)
        name = self._hashes.get(path) or (row and row[2])
        return f"/openapi/v3/{path}?hash={name}" if name else None

    def v3(self, path: str) -> Document | None:
        """`/openapi/v3/PATH`: the document of `api/v1`, `apis/apps/v1`, `version`; None when there is none."""
        if path in self._customs:
            return self._custom(path)
        row = openapi_index()["v3"].get(path)
        return None if row is None else Document(openapi_member(row[0], row[1]), row[2])

    def v2(self, *, protobuf: bool = False) -> Document:
        """`/openapi/v2`, as JSON or as the protobuf of `gnostic.CONTENT_TYPE`."""
        customs = [custom for found in self._customs.values() for custom in found]
        paths, definitions = openapi_custom.v2(customs)
        rows = openapi_index()["v2"]
        digest = self._v2_hash(rows)
        if protobuf:
            members = [_member(rows["protobuf"])]
            if customs:
                members.append(_gzip(gnostic.document({"paths": paths, "definitions": definitions})))
            return Document(b"".join(members), digest, gnostic.CONTENT_TYPE)
        head, middle, tail = (_member(rows[name]) for name in ("head", "middle", "tail"))
        return Document(head + _more(paths) + middle + _more(definitions) + tail, digest)

    def _custom(self, path: str) -> Document:
        kept = self._kept.pop(path, None)
        if kept is None:
            document = openapi_custom.v3(self._customs[path])
            kept = Document(_gzip(orjson.dumps(_merged(path, document))), self._hashes[path])
        self._kept[path] = kept  # last used, last in the dict
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return kept

    def _v2_hash(self, rows: Mapping[str, list[Any]]) -> str:
        digest = hashlib.sha512("".join(row[2] for row in rows.values()).encode())
        for path, name in sorted(self._hashes.items()):
            digest.update(f"{path}={name}".encode())
        return digest.hexdigest().upper()


def _hash(path: str, customs: Iterable[CustomKind]) -> str:
    """A digest of all that the document is made from, so that the index needs no document."""
    packaged = openapi_index()["v3"]
    digest = hashlib.sha512(f"{path}={packaged.get(path)}".encode())
    for custom in customs:
        digest.update(custom.digest)
    return digest.hexdigest().upper()


def _merged(path: str, document: Obj) -> Obj:
    """The document, with what is built in under the same group version."""
    row = openapi_index()["v3"].get(path)
    if row is None:
        return document
    whole: Obj = orjson.loads(gzip.decompress(_member(row)))
    whole["paths"] |= document["paths"]
    whole["components"]["schemas"] |= document["components"]["schemas"]
    return whole


def _member(row: list[Any]) -> bytes:
    return openapi_member(row[0], row[1])


def _more(entries: Obj) -> bytes:
    """A gzip member that continues an open JSON object."""
    return _gzip(b"," + orjson.dumps(entries)[1:-1]) if entries else b""


def _gzip(raw: bytes) -> bytes:
    return gzip.compress(raw, _LEVEL, mtime=0)
