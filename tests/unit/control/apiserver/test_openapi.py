from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from havre.api.kinds import KINDS, Kind, Subresource
from havre.api.meta import GVK, Obj
from havre.api.protobuf import decode_message
from havre.api.protobuf_reader import delimited_fields
from havre.control.apiserver import gnostic
from havre.control.apiserver.openapi import Documents
from havre.control.apiserver.openapi_custom import CustomKind

RECORDED = orjson.loads(zstandard.decompress((Path(__file__).parent / "data/custom.json.zst").read_bytes()))
DELETE_OPTIONS = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"
GROUP = "vocab.example"


def custom(crd: Obj, version: Obj) -> CustomKind:
    spec, names = crd["spec"], crd["spec"]["names"]
    bodies = {"status": GVK(GROUP, version["name"], names["kind"]), "scale": GVK("autoscaling", "v1", "Scale")}
    kind = Kind(
        GROUP,
        version["name"],
        names["kind"],
        names["plural"],
        names["singular"],
        spec["scope"] == "Namespaced",
        ("get", "list"),
        "",
        "v1",
        GROUP,
        subresources=tuple(Subresource(name, bodies[name], ("get",)) for name in version.get("subresources", {})),
        list_kind=f"{names['kind']}List",
        custom=True,
    )
    return CustomKind(kind, version["schema"]["openAPIV3Schema"])


CUSTOMS = [custom(crd, version) for crd in RECORDED["crds"] for version in crd["spec"]["versions"]]
DOCUMENTS = Documents(CUSTOMS)
FIELDS = list(Kind.__slots__)[1:]


def plain(documents: Documents, path: str) -> Obj:
    document = documents.v3(path)
    assert document is not None
    loaded: Obj = orjson.loads(document.plain)
    return loaded


def test_the_index_names_every_served_group_version_with_a_hash() -> None:
    paths = Documents().index()["paths"]
    served = {f"apis/{kind.group}/{kind.version}" if kind.group else "api/v1" for kind in KINDS}
    assert served <= paths.keys()
    document = Documents().v3("apis/apps/v1")
    assert document is not None
    assert paths["apis/apps/v1"] == {"serverRelativeURL": f"/openapi/v3/apis/apps/v1?hash={document.hash}"}


def test_the_operations_of_a_kind_say_what_kubectl_looks_for() -> None:
    lease = plain(Documents(), "apis/coordination.k8s.io/v1")
    patch = lease["paths"]["/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"]["patch"]
    assert patch["x-kubernetes-action"] == "patch"
    assert patch["x-kubernetes-group-version-kind"] == {
        "group": "coordination.k8s.io",
        "kind": "Lease",
        "version": "v1",
    }
    assert [parameter["name"] for parameter in patch["parameters"]] == [
        "dryRun",
        "fieldManager",
        "fieldValidation",
        "force",
    ]
    assert lease["components"]["schemas"]["io.k8s.api.coordination.v1.Lease"]["description"].startswith("Lease defines")
    assert lease["info"] == {"title": "Kubernetes", "version": "1.34"}


def test_cbor_which_is_not_spoken_is_not_offered() -> None:
    document = Documents().v3("apis/coordination.k8s.io/v1")
    assert document is not None
    assert b"cbor" not in document.plain


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_custom_kinds_are_described_as_by_the_real_server(version: str) -> None:
    document = plain(DOCUMENTS, f"apis/{GROUP}/{version}")
    del document["components"]["schemas"][DELETE_OPTIONS]["x-kubernetes-group-version-kind"]  # every group there is
    recorded = RECORDED["v3"][version]
    assert document["components"] == recorded["components"]
    assert document["paths"] == recorded["paths"]
    assert document == recorded


def test_a_document_that_does_not_exist_is_none() -> None:
    assert DOCUMENTS.v3("apis/example.com/v1") is None
    assert DOCUMENTS.location("apis/example.com/v1") is None


def test_many_documents_are_asked_for_and_few_are_kept() -> None:
    first = CUSTOMS[0].kind
    kinds = [Kind(f"g{n}.example", *[getattr(first, name) for name in FIELDS]) for n in range(12)]
    documents = Documents([CustomKind(kind, None) for kind in kinds])
    for _ in range(2):
        for kind in kinds:
            document = plain(documents, f"apis/{kind.group}/{kind.version}")
            assert f"/apis/{kind.group}/v1beta1/vs" in document["paths"]
    assert len(documents._kept) == 8


def test_a_changed_schema_changes_the_hash_of_its_document_and_of_no_other() -> None:
    first, *others = CUSTOMS
    changed = Documents([CustomKind(first.kind, {"type": "object"}), *others]).index()["paths"]
    before = DOCUMENTS.index()["paths"]
    assert [path for path in before if before[path] != changed[path]] == [f"apis/{GROUP}/v1beta1"]


def test_custom_kinds_of_a_built_in_group_version_join_its_document() -> None:
    kind = CUSTOMS[0].kind
    joined = Kind("node.k8s.io", "v1", "V", "vs", "vv", False, kind.verbs, "", "v1", "node.k8s.io", list_kind="VList")
    document = plain(Documents([CustomKind(joined, None)]), "apis/node.k8s.io/v1")
    assert {"io.k8s.api.node.v1.RuntimeClass", "io.k8s.node.v1.V"} <= document["components"]["schemas"].keys()
    assert {"/apis/node.k8s.io/v1/runtimeclasses", "/apis/node.k8s.io/v1/vs"} <= document["paths"].keys()


def test_selectable_fields_are_told() -> None:
    documents = Documents([CustomKind(CUSTOMS[0].kind, {"type": "object"}, (".spec.color",))])
    schema = plain(documents, f"apis/{GROUP}/v1beta1")["components"]["schemas"]["example.vocab.v1beta1.V"]
    assert schema["x-kubernetes-selectable-fields"] == [{"fieldPath": "spec.color"}]


def test_v2_has_custom_kinds_beside_the_built_in_ones() -> None:
    document = orjson.loads(DOCUMENTS.v2().plain)
    assert document["swagger"] == "2.0"
    assert "io.k8s.api.core.v1.Pod" in document["definitions"]
    assert "/api/v1/namespaces/{namespace}/pods/{name}" in document["paths"]
    definitions = {name: item for name, item in document["definitions"].items() if name.startswith("example.vocab")}
    assert definitions == RECORDED["v2"]["definitions"]
    paths = {path: item for path, item in document["paths"].items() if f"/{GROUP}/" in path}
    assert {path: unordered(item) for path, item in paths.items()} == {
        path: unordered(item) for path, item in RECORDED["v2"]["paths"].items()
    }


def unordered(item: Obj) -> Obj:
    """Parameters of one path or operation by name: their order means nothing."""
    out: Obj = {}
    for key, value in item.items():
        if key == "parameters":
            out[key] = {parameter["name"]: parameter for parameter in value}
        else:
            out[key] = unordered(value) if isinstance(value, dict) and "operationId" in value else value
    return out


def merged(raw: bytes) -> Obj:
    """The document of two messages, one after the other, as a protobuf library merges them."""
    found: dict[int, list[bytes]] = {}
    for number, start, stop in delimited_fields(raw, 0, len(raw)):
        found.setdefault(number, []).append(raw[start:stop])
    joined = {"paths": b"".join(found[8]), "definitions": b"".join(found[9])}
    return {name: decode_message(f"openapi.v2.{name.title()}", part) for name, part in joined.items()}


def test_v2_in_protobuf_has_the_same_names() -> None:
    document = merged(DOCUMENTS.v2(protobuf=True).plain)
    schemas = {item["name"]: item["value"] for item in document["definitions"]["additional_properties"]}
    assert {"io.k8s.api.core.v1.Pod", "example.vocab.v1.V", "example.vocab.v1beta1.VList"} <= schemas.keys()
    assert f"/apis/{GROUP}/v1/ws/{{name}}" in {item["name"] for item in document["paths"]["path"]}
    [kind] = schemas["example.vocab.v1.V"]["vendor_extension"]
    assert kind["name"] == "x-kubernetes-group-version-kind"
    assert orjson.loads(kind["value"]["yaml"])[0]["kind"] == "V"


def test_a_swagger_document_becomes_messages() -> None:
    swagger: dict[str, Any] = {
        "swagger": "2.0",
        "paths": {
            "/x": {
                "get": {
                    "operationId": "getX",
                    "parameters": [
                        {"$ref": "#/parameters/pretty"},
                        {"in": "body", "name": "body", "schema": {"$ref": "#/definitions/X"}},
                        {"in": "query", "name": "force", "type": "boolean", "uniqueItems": True},
                    ],
                    "responses": {"200": {"description": "OK", "schema": {"type": "string"}}},
                }
            }
        },
        "definitions": {"X": {"type": "object", "additionalProperties": {"type": "integer"}, "default": {"a": 1}}},
    }
    message = decode_message("openapi.v2.Document", gnostic.document(swagger))
    [path] = message["paths"]["path"]
    get = path["value"]["get"]
    assert (path["name"], get["operation_id"]) == ("/x", "getX")
    reference, body, query = get["parameters"]
    assert reference == {"json_reference": {"_ref": "#/parameters/pretty"}}
    assert body["parameter"]["body_parameter"]["schema"] == {"_ref": "#/definitions/X"}
    assert query["parameter"]["non_body_parameter"]["query_parameter_sub_schema"] == {
        "in": "query",
        "name": "force",
        "type": "boolean",
        "unique_items": True,
    }
    [answer] = get["responses"]["response_code"]
    assert answer["value"]["response"]["schema"]["schema"]["type"]["value"] == ["string"]
    [definition] = message["definitions"]["additional_properties"]
    assert definition["value"]["additional_properties"]["schema"]["type"]["value"] == ["integer"]
    assert definition["value"]["default"] == {"yaml": '{"a":1}'}
