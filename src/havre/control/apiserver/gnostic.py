"""An OpenAPI v2 document in the protobuf that older kubectl asks for: JSON to the messages of openapi.v2.

The messages follow the specification closely enough that one walk over their fields does it: maps are lists of named
values, extensions and free values are texts of YAML (JSON is YAML), and a few messages choose between two forms.

Source: github.com/google/gnostic-models, openapiv2/OpenAPIv2.proto.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

import orjson

from havre.api.meta import Obj
from havre.api.protobuf import encode_message
from havre.api.protobuf_reader import message_table

CONTENT_TYPE: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
CONTENT_TYPES: Final = (CONTENT_TYPE, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
_PACKAGE: Final = "openapi.v2."
# Fields that list the entries of a message which is a map; a Schema has one of the same name that is something else.
_ENTRIES: Final = ("path", "response_code", "additional_properties")


def document(swagger: Mapping[str, Any]) -> bytes:
    """The bytes of `Document`. Two of them, one after the other, are the document with the content of both."""
    return encode_message(f"{_PACKAGE}Document", _shape(f"{_PACKAGE}Document", swagger))


def _shape(name: str, value: Any) -> Obj:
    """The message `name` as a dict of its fields."""
    special = _SPECIAL.get(name.removeprefix(_PACKAGE))
    if special is not None:
        return special(name, value)
    fields = _fields(name)
    entries = next((field for field in _ENTRIES if fields.get(field, ("", ""))[0] == "rm"), None)
    out: Obj = {}
    for key, item in value.items():
        if key.startswith("x-") and "vendor_extension" in fields:
            out.setdefault("vendor_extension", []).append({"name": key, "value": {"yaml": _yaml(item)}})
        elif entries is not None:
            named = fields[entries][1]
            out.setdefault(entries, []).append({"name": key, "value": _field(named, "value", item)})
        elif (field := _snake(key)) in fields:
            out[field] = _field(name, field, item)
    return out


def _field(name: str, field: str, value: Any) -> Any:
    kind, message = _fields(name)[field]
    if kind == "rm":
        return [_shape(message, item) for item in value]
    return _shape(message, value) if kind == "m" else value


@cache
def _fields(name: str) -> dict[str, tuple[str, str]]:
    """Type and message of each field, by name."""
    return {field: (kind, message) for _, field, _, kind, message in message_table()["messages"][name]}


@cache
def _snake(key: str) -> str:
    return "_ref" if key == "$ref" else re.sub(r"(?<!^)([A-Z])", lambda match: f"_{match.group(1).lower()}", key)


def _yaml(value: Any) -> str:
    return orjson.dumps(value).decode()


def _either(name: str, value: Any) -> Obj:
    """A reference, or the thing itself."""
    other = next(field for field in _fields(name) if field != "json_reference")
    field = "json_reference" if "$ref" in value else other
    return {field: _field(name, field, value)}


def _parameter(name: str, value: Any) -> Obj:
    place = value["in"]
    if place == "body":
        return {"body_parameter": _field(name, "body_parameter", value)}
    field = f"{_NON_BODY.get(place, place)}_parameter_sub_schema"
    return {"non_body_parameter": {field: _field(f"{_PACKAGE}NonBodyParameter", field, value)}}


def _additional(name: str, value: Any) -> Obj:
    field = "boolean" if isinstance(value, bool) else "schema"
    return {field: _field(name, field, value)}


def _as_list(field: str) -> Callable[[str, Any], Obj]:
    return lambda name, value: {field: _field(name, field, value if isinstance(value, list) else [value])}


def _wrapped(field: str) -> Callable[[str, Any], Obj]:
    return lambda name, value: {field: _field(name, field, value)}


_NON_BODY: Final = {"formData": "form_data"}
_SPECIAL: Final[dict[str, Callable[[str, Any], Obj]]] = {
    "Any": lambda _, value: {"yaml": _yaml(value)},
    "ParametersItem": _either,
    "ResponseValue": _either,
    "Parameter": _parameter,
    "AdditionalPropertiesItem": _additional,
    "TypeItem": _as_list("value"),
    "ItemsItem": _as_list("schema"),
    "StringArray": _as_list("value"),
    "SchemaItem": _wrapped("schema"),
    "SecurityDefinitionsItem": _wrapped("api_key_security"),
}
