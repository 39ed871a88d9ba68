"""The OpenAPI of custom kinds: paths and definitions as kube-apiserver publishes them for a CRD, v3 and v2.

What both have in common with built-in kinds (parameters, the metadata definitions) is read from packaged documents.
The v2 form leaves out what kubectl's old schema cannot say: defaults, alternatives, the types of nullable and of open
values.

Source: k8s.io/apiextensions-apiserver, pkg/controller/openapi/builder and pkg/controller/openapi/v2.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import orjson

from havre.api.kinds import Kind
from havre.api.meta import Obj
from havre.api.schemas import described, openapi_index, openapi_member

V3_PREFIX: Final = "#/components/schemas/"
V2_PREFIX: Final = "#/definitions/"
_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1."
_SCALE: Final = "io.k8s.api.autoscaling.v1."
_MEDIA: Final = ("application/json", "application/yaml")
_PATCHES: Final = ("application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml")
_META_NAMES: Final = (
    "DeleteOptions", "FieldsV1", "ListMeta", "ManagedFieldsEntry", "ObjectMeta", "OwnerReference", "Patch",
    "Preconditions", "Status", "StatusCause", "StatusDetails", "Time",
)  # fmt: skip
_SCALE_NAMES: Final = ("Scale", "ScaleSpec", "ScaleStatus")
_CONVENTIONS: Final = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"
_TEMPLATE: Final = "apis/coordination.k8s.io/v1"  # the smallest document that has every parameter and all of meta/v1
_LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


@dataclass(frozen=True, slots=True)
class CustomKind:
    """One served version of a custom kind and the `openAPIV3Schema` of that version, if it has one."""

    kind: Kind
    schema: Mapping[str, Any] | None
    selectable: tuple[str, ...] = ()  # JSON paths of spec.versions[].selectableFields
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        facts = [*self.kind.gvr, self.kind.kind, self.kind.namespaced, [s.name for s in self.kind.subresources]]
        content = orjson.dumps([facts, self.schema, self.selectable])
        object.__setattr__(self, "digest", hashlib.sha512(content).digest())

    @property
    def definition(self) -> str:
        """`com.example.v1.Widget`: the group's parts reversed."""
        parts = [*reversed(self.kind.group.split(".")), self.kind.version, self.kind.kind]
        return ".".join(parts)


def v3(customs: Iterable[CustomKind]) -> Obj:
    """The document of one group version."""
    customs = list(customs)
    paths: Obj = {}
    schemas = dict(_meta_definitions())
    for custom in customs:
        paths |= _paths(custom)
        schemas |= _definitions(custom)
        if custom.kind.subresource("scale"):
            schemas |= _scale_definitions()
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes CRD Swagger", "version": "v0.1.0"},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def v2(customs: Iterable[CustomKind]) -> tuple[Obj, Obj]:
    """Paths and definitions to add to the document of the built-in kinds, which has the definitions of meta already."""
    paths: Obj = {}
    definitions: Obj = {}
    for custom in customs:
        paths |= {path: _path_v2(item) for path, item in _paths(custom).items()}
        reduced = None if custom.schema is None or _open(custom.schema) else _reduced(custom.schema)
        definitions |= _definitions(custom, reduced, described_only=True)
    return paths, _with_prefix(definitions)


# ---- definitions ---------------------------------------------------------------------------------------------------


def _definitions(custom: CustomKind, schema: Obj | None = None, *, described_only: bool = False) -> Obj:
    """The definitions of the kind and of its list; without a schema the kind says nothing but its name."""
    if schema is None and not described_only and custom.schema is not None:
        schema = _unfolded(custom.schema)
    kind = custom.kind
    whole: Obj = {"type": "object"}
    if schema is not None:
        whole = {**schema, "properties": {**schema.get("properties", {}), **_type_and_metadata()}}
    whole["x-kubernetes-group-version-kind"] = [_gvk(kind, kind.kind)]
    if custom.selectable:
        whole["x-kubernetes-selectable-fields"] = [{"fieldPath": path.lstrip(".")} for path in custom.selectable]
    return {custom.definition: whole, _list_name(custom): _list(custom)}


def _list_name(custom: CustomKind) -> str:
    return custom.definition.removesuffix(custom.kind.kind) + custom.kind.list_kind


def _list(custom: CustomKind) -> Obj:
    kind = custom.kind
    properties = _type_and_metadata()
    properties["items"] = {
        "description": f"List of {kind.plural}. More info: {_CONVENTIONS}",
        "type": "array",
        "items": {"$ref": f"{V3_PREFIX}{custom.definition}"},
    }
    properties["metadata"] = {
        "description": f"Standard list metadata. More info: {_CONVENTIONS}#types-kinds",
        "allOf": [{"$ref": f"{V3_PREFIX}{_META}ListMeta"}],
    }
    return {
        "description": f"{kind.list_kind} is a list of {kind.kind}",
        "type": "object",
        "required": ["items"],
        "properties": properties,
        "x-kubernetes-group-version-kind": [_gvk(kind, kind.list_kind)],
    }


def _gvk(kind: Kind, name: str) -> Obj:
    return {"group": kind.group, "kind": name, "version": kind.version}


@cache
def _type_texts() -> tuple[str, str]:
    lease = described("io.k8s.api.coordination.v1.Lease")["properties"]
    return lease["apiVersion"]["description"], lease["kind"]["description"]


def _type_and_metadata() -> Obj:
    api_version, kind = _type_texts()
    return {
        "apiVersion": {"description": api_version, "type": "string"},
        "kind": {"description": kind, "type": "string"},
        "metadata": _object_meta(),
    }


def _object_meta() -> Obj:
    return {
        "description": f"Standard object's metadata. More info: {_CONVENTIONS}#metadata",
        "allOf": [{"$ref": f"{V3_PREFIX}{_META}ObjectMeta"}],
    }


def _embedded() -> Obj:
    """What every embedded resource has, whatever else its schema says."""
    versioned = "apiVersion defines the versioned schema of this representation of an object."
    named = "kind is a string value representing the type of this object. In CamelCase."
    return {
        "apiVersion": {"description": f"{versioned} More info: {_CONVENTIONS}#resources", "type": "string"},
        "kind": {"description": f"{named} More info: {_CONVENTIONS}#types-kinds", "type": "string"},
        "metadata": _object_meta(),
    }


def _unfolded(schema: Mapping[str, Any]) -> Obj:
    """The schema as v3 shows it: int-or-string as its two types, embedded resources with their metadata."""
    out = _map_children(schema, _unfolded)
    if out.get("x-kubernetes-int-or-string") and "anyOf" not in out and "allOf" not in out:
        out["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return _with_embedded(out)


def _reduced(schema: Mapping[str, Any]) -> Obj:
    """The schema as v2 shows it."""
    out = {key: value for key, value in schema.items() if key not in _NOT_IN_V2}
    nullable, is_open = schema.get("nullable"), _open(schema)
    if nullable or is_open:
        out.pop("items", None)
        out.pop("properties", None)
    if nullable or (is_open and out.get("type") == "object") or (out.get("type") == "array" and "items" not in out):
        out.pop("type", None)
    children = [name for name, child in out.get("properties", {}).items() if child.get("nullable")]
    required = [name for name in out.get("required", ()) if name not in children]
    if "required" in out:
        out |= {"required": required}
        if not required:
            del out["required"]
    out = _map_children(out, _reduced)
    return out if is_open else _with_embedded(out)


_NOT_IN_V2: Final = frozenset({"default", "nullable", "allOf", "oneOf", "anyOf", "not"})


def _open(schema: Mapping[str, Any]) -> bool:
    return schema.get("x-kubernetes-preserve-unknown-fields") is True


def _with_embedded(schema: Obj) -> Obj:
    if schema.get("x-kubernetes-embedded-resource"):
        schema["properties"] = {**schema.get("properties", {}), **_embedded()}
        required = list(schema.get("required", ()))
        schema["required"] = required + [name for name in ("kind", "apiVersion") if name not in required]
    return schema


def _map_children(schema: Mapping[str, Any], change: Any) -> Obj:
    out = dict(schema)
    if "properties" in out:
        out["properties"] = {name: change(child) for name, child in out["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), Mapping):
            out[key] = change(out[key])
    return out


@cache
def _template() -> Obj:
    """What is taken from a packaged document, read once: parameters by operation, and the definitions of meta."""
    offset, length, _ = openapi_index()["v3"][_TEMPLATE]
    document = orjson.loads(gzip.decompress(openapi_member(offset, length)))
    leases, lease = document["paths"][_LEASES], document["paths"][f"{_LEASES}/{{name}}"]
    listing = leases["get"]["parameters"]
    by_name = {parameter["name"]: parameter for parameter in leases["parameters"]}
    return {
        "list": listing,
        "deletecollection": listing,
        "get": [parameter for parameter in listing if parameter["name"] == "resourceVersion"],
        "post": leases["post"]["parameters"],
        "put": lease["put"]["parameters"],
        "patch": lease["patch"]["parameters"],
        "delete": lease["delete"]["parameters"],
        "namespace": by_name["namespace"],
        "pretty": by_name["pretty"],
        "definitions": {f"{_META}{name}": document["components"]["schemas"][f"{_META}{name}"] for name in _META_NAMES},
    }


def _meta_definitions() -> Obj:
    found: Obj = _template()["definitions"]
    return found


@cache
def _scale_definitions() -> Obj:
    return {f"{_SCALE}{name}": described(f"{_SCALE}{name}") for name in _SCALE_NAMES}


# ---- paths ---------------------------------------------------------------------------------------------------------

# verb of the API → (method, first word of the operation, description with {kind} and, for a subresource, {of})
_OPERATIONS: Final = {
    "list": ("get", "list", "list objects of kind {kind}"),
    "post": ("post", "create", "create {article} {kind}"),
    "deletecollection": ("delete", "delete", "delete collection of {kind}"),
    "get": ("get", "read", "read{of} the specified {kind}"),
    "put": ("put", "replace", "replace{of} the specified {kind}"),
    "delete": ("delete", "delete", "delete {article} {kind}"),
    "patch": ("patch", "patch", "partially update{of} the specified {kind}"),
}
_STATUSES: Final = {"post": ("200", "201", "202"), "put": ("200", "201"), "delete": ("200", "202")}
_WORDS: Final = {"200": "OK", "201": "Created", "202": "Accepted"}


def _paths(custom: CustomKind) -> Obj:
    kind = custom.kind
    base = f"/apis/{kind.group}/{kind.version}"
    root = f"{base}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"{base}/{kind.plural}"
    paths = {
        root: _item(custom, ("list", "post", "deletecollection"), root),
        f"{root}/{{name}}": _item(custom, ("get", "put", "delete", "patch"), f"{root}/{{name}}"),
    }
    for sub in kind.subresources:
        path = f"{root}/{{name}}/{sub.name}"
        paths[path] = _item(custom, ("get", "put", "patch"), path, sub.name)
    if kind.namespaced:
        paths[f"{base}/{kind.plural}"] = _everywhere(custom)
    return paths


def _item(custom: CustomKind, verbs: Iterable[str], path: str, sub: str = "") -> Obj:
    item: Obj = {_OPERATIONS[verb][0]: _operation(custom, verb, sub) for verb in verbs}
    item["parameters"] = list(_path_parameters(custom.kind, path))
    return item


def _path_parameters(kind: Kind, path: str) -> Iterator[Obj]:
    if "{name}" in path:
        schema = {"type": "string", "uniqueItems": True}
        yield {
            "name": "name", "in": "path", "description": f"name of the {kind.kind}", "required": True, "schema": schema
        }  # fmt: skip
    if "{namespace}" in path:
        yield _template()["namespace"]
    yield _template()["pretty"]


def _everywhere(custom: CustomKind) -> Obj:
    """The list over all namespaces, whose parameters are those of the path."""
    operation = _operation(custom, "list", "")
    operation["operationId"] = f"list{_identity(custom)}{custom.kind.kind}ForAllNamespaces"
    parameters = [*operation.pop("parameters"), _template()["pretty"]]
    return {"get": operation, "parameters": sorted(parameters, key=lambda parameter: parameter["name"])}


def _identity(custom: CustomKind) -> str:
    """`ExampleComV1` of example.com/v1."""
    group, version = custom.kind.group, custom.kind.version
    return "".join(part[:1].upper() + part[1:] for part in group.split(".")) + version[:1].upper() + version[1:]


def _operation(custom: CustomKind, verb: str, sub: str) -> Obj:
    kind = custom.kind
    _, word, text = _OPERATIONS[verb]
    article = "an" if kind.kind[:1].lower() in "aeiou" else "a"
    collection = "Collection" if verb == "deletecollection" else ""
    scope = "Namespaced" if kind.namespaced else ""
    identity = _identity(custom)
    operation: Obj = {
        "tags": [f"{identity[:1].lower()}{identity[1 : -len(kind.version)]}_{kind.version}"],
        "description": text.format(kind=kind.kind, article=article, of=f" {sub} of" if sub else ""),
        "operationId": f"{word}{identity}{collection}{scope}{kind.kind}{sub[:1].upper()}{sub[1:]}",
        "parameters": list(_template()[verb]),
    }
    body = _body(custom, verb, sub)
    if body is not None:
        operation["requestBody"] = body
    operation["responses"] = _responses(custom, verb, sub)
    operation["x-kubernetes-action"] = verb
    operation["x-kubernetes-group-version-kind"] = _gvk(kind, kind.kind)
    return operation


def _answer(custom: CustomKind, verb: str, sub: str) -> str:
    if verb in ("delete", "deletecollection"):
        return f"{_META}Status"
    if verb == "list":
        return _list_name(custom)
    return f"{_SCALE}Scale" if sub == "scale" else custom.definition


def _body(custom: CustomKind, verb: str, sub: str) -> Obj | None:
    if verb in ("post", "put"):
        return {"content": _content(_MEDIA, _answer(custom, verb, sub)), "required": True}
    if verb == "patch":
        return {"content": _content(_PATCHES, f"{_META}Patch"), "required": True}
    return {"content": _content(_MEDIA, f"{_META}DeleteOptions")} if verb == "delete" else None


def _content(media: Iterable[str], name: str) -> Obj:
    return {kind: {"schema": {"$ref": f"{V3_PREFIX}{name}"}} for kind in media}


def _responses(custom: CustomKind, verb: str, sub: str) -> Obj:
    name = _answer(custom, verb, sub)
    codes = _STATUSES.get(verb, ("200",))
    answers: Obj = {code: {"description": _WORDS[code], "content": _content(_MEDIA, name)} for code in codes}
    answers["401"] = {"description": "Unauthorized"}
    return answers


# ---- the same in v2 ------------------------------------------------------------------------------------------------


def _path_v2(item: Obj) -> Obj:
    out: Obj = {"parameters": [_parameter_v2(parameter) for parameter in item["parameters"]]}
    for method, operation in item.items():
        if method != "parameters":
            out[method] = _operation_v2(operation)
    return out


def _parameter_v2(parameter: Obj) -> Obj:
    flat = {key: value for key, value in parameter.items() if key != "schema"}
    return {**flat, **parameter["schema"]}


def _operation_v2(operation: Obj) -> Obj:
    parameters = [_parameter_v2(parameter) for parameter in operation.get("parameters", ())]
    body = operation.get("requestBody")
    consumes = list(_MEDIA)
    if body is not None:
        consumes = list(body["content"])
        schema = _with_prefix(body["content"][consumes[0]]["schema"])
        required = {"required": True} if body.get("required") else {}
        parameters.insert(0, {"name": "body", "in": "body", **required, "schema": schema})
    kept = {key: value for key, value in operation.items() if key not in ("parameters", "requestBody", "responses")}
    return {
        **kept,
        "consumes": consumes,
        "produces": list(_MEDIA),
        "schemes": ["https"],
        **({"parameters": parameters} if parameters else {}),
        "responses": {code: _response_v2(answer) for code, answer in operation["responses"].items()},
    }


def _response_v2(answer: Obj) -> Obj:
    content = answer.get("content")
    schema = {"schema": _with_prefix(content["application/json"]["schema"])} if content else {}
    return {"description": answer["description"], **schema}


def _with_prefix(value: Any) -> Any:
    """References as v2 writes them: another prefix, and no allOf around a single one."""
    if isinstance(value, list):
        return [_with_prefix(item) for item in value]
    if not isinstance(value, dict):
        return value
    out = {key: _with_prefix(item) for key, item in value.items() if key != "allOf"}
    reference = value.get("$ref") or (value["allOf"][0].get("$ref") if "allOf" in value else None)
    if isinstance(reference, str):
        out["$ref"] = reference.replace(V3_PREFIX, V2_PREFIX)
    return out
