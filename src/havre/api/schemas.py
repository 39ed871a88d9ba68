"""The OpenAPI v3 definitions of the built-in kinds, exactly as kube-apiserver publishes them.

Two readings of one thing: `definitions()` is what the server compiles and keeps, without prose; `described()` fetches a
definition with its prose from the packaged document of its group version and keeps nothing.

Source: api/openapi-spec/v3 of k8s.io/kubernetes, its zz_generated.openapi.go for enumerations, through generated
tables.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import orjson

from havre.api.data import piece, table
from havre.api.meta import GVK


@cache
def _table() -> dict[str, Any]:
    return table("schemas")


def definitions() -> Mapping[str, dict[str, Any]]:
    """Every definition by name; `$ref` is `#/components/schemas/NAME`. Shared: not to be changed."""
    return MappingProxyType(_table()["definitions"])


def schema_name(gvk: GVK) -> str:
    """`io.k8s.api.apps.v1.Deployment` of a built-in kind, also of lists and options. Raises KeyError."""
    name: str = _table()["kinds"][f"{gvk.group}/{gvk.version}/{gvk.kind}"]
    return name


def described(name: str) -> dict[str, Any]:
    """The definition with its descriptions, the caller's to keep; milliseconds, nothing is cached. Raises KeyError."""
    home = openapi_index()["schemas"][name]
    offset, length, _ = openapi_index()["v3"][home]
    document = orjson.loads(gzip.decompress(openapi_member(offset, length)))
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


@cache
def openapi_index() -> dict[str, Any]:
    """Where the packaged documents are: `v3`, `v2` map names to (offset, length, hash), `schemas` names to paths."""
    return table("openapi")


def openapi_member(offset: int, length: int) -> bytes:
    """One packaged document, a gzip member."""
    return piece("openapi.bin", offset, length)
