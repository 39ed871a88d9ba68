"""The OpenAPI documents of a default server, v3 per group version, v2 in JSON and protobuf: compressed, in one file."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
from tools.generate import pack
from tools.generate.schemas import Found, add_enumerations
from tools.generate.sources import KUBERNETES

from havre.control.apiserver import gnostic

Json = dict[str, Any]
VERSION = KUBERNETES.removeprefix("v").rpartition(".")[0]  # as a server shows it: 1.34


def finish(document: Json) -> Json:
    """A published document as a server sends it: with the version, without CBOR, which is off by default."""
    document["info"]["version"] = VERSION
    stripped: Json = _without_cbor(document)
    return stripped


def _without_cbor(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_cbor(item) for key, item in value.items() if "cbor" not in key}
    if isinstance(value, list):
        return [
            _without_cbor(item) for item in value if not (isinstance(item, str) and item.endswith(("cbor", "cbor-seq")))
        ]
    return value


def swagger(published: Json, documents: dict[str, Json], enumerations: dict[str, Found]) -> Json:
    """The v2 document, cut to the paths and definitions of the v3 documents."""
    paths = {path for document in documents.values() for path in document["paths"]}
    names = {name for document in documents.values() for name in document.get("components", {}).get("schemas", {})}
    definitions = {name: published["definitions"][name] for name in sorted(names)}
    for name, definition in definitions.items():
        add_enumerations(definition, enumerations.get(name, {}))
    kept = {path: item for path, item in published["paths"].items() if path in paths}
    used = orjson.dumps(kept).decode()
    parameters = {name: item for name, item in published["parameters"].items() if f"#/parameters/{name}" in used}
    return finish({**published, "paths": kept, "definitions": definitions, "parameters": parameters})


def v2_parts(v2: Json) -> tuple[bytes, bytes, bytes]:
    """The JSON of v2, cut where paths end and where definitions end: a server puts those of custom kinds in between."""
    others = orjson.dumps({key: value for key, value in v2.items() if key not in ("paths", "definitions")})
    paths, definitions = orjson.dumps(v2["paths"]), orjson.dumps(v2["definitions"])
    return others[:-1] + b',"paths":' + paths[:-1], b'},"definitions":' + definitions[:-1], b"}}"


def write(documents: dict[str, Json], v2: Json) -> None:
    """`openapi.bin`, gzip members one after another, and `openapi.json.zst`, which says where each of them is."""
    members: list[bytes] = []
    rows: dict[str, list[Any]] = {}

    def add(name: str, raw: bytes) -> None:
        member = pack.gzipped(raw)
        rows[name] = [sum(map(len, members)), len(member), hashlib.sha512(raw).hexdigest().upper()]
        members.append(member)

    for path, document in documents.items():
        add(path, orjson.dumps(document))
    v3 = dict(rows)
    rows.clear()
    for name, part in zip(("head", "middle", "tail"), v2_parts(v2), strict=True):
        add(name, part)
    add("protobuf", gnostic.document(v2))
    homes: dict[str, str] = {}
    for path, document in documents.items():
        for name in document.get("components", {}).get("schemas", {}):
            homes.setdefault(name, path)
    pack.write_json("openapi", {"v3": v3, "v2": dict(rows), "schemas": dict(sorted(homes.items()))})
    (pack.DATA / "openapi.bin").write_bytes(b"".join(members))
    print(f"openapi.bin: {sum(map(len, members)):,} bytes")
