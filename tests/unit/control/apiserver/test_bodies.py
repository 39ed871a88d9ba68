"""Bodies: right kind, right types, unknown fields told or refused."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.api import protobuf
from havre.api.errors import BadRequest, UnsupportedMediaType
from havre.api.meta import GVK
from havre.control.apiserver import bodies

pytestmark = pytest.mark.asyncio(loop_scope="module")
EVICTION = GVK("policy", "v1", "Eviction")


def maps(namespace: str, rest: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps{rest}"


async def test_json_yaml_and_protobuf_say_the_same(plane: Any, namespace: str) -> None:
    obj = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c"}, "data": {"a": "1"}}
    forms = {
        "application/json": orjson.dumps(obj),
        "application/json;charset=utf-8": orjson.dumps(obj),
        "application/yaml": b"kind: ConfigMap\napiVersion: v1\nmetadata: {name: c}\ndata: {a: '1'}\n",
        "application/vnd.kubernetes.protobuf": protobuf.encode(obj),
    }
    for content_type, body in forms.items():
        reply = await plane.ask("POST", maps(namespace, "?dryRun=All"), body, content_type=content_type)
        assert (reply.status, reply.json()["data"]) == (201, {"a": "1"})


async def test_a_format_nobody_speaks_is_refused(plane: Any, namespace: str) -> None:
    assert (await plane.ask("POST", maps(namespace), b"<x/>", content_type="text/xml")).status == 415


@pytest.mark.parametrize(
    ("validation", "status", "warned"),
    [("Strict", 400, False), ("Warn", 201, True), ("Ignore", 201, False), ("", 201, True)],
)
async def test_unknown_and_repeated_fields_are_told_or_refused(
    plane: Any, namespace: str, validation: str, status: int, warned: bool
) -> None:
    body = b'{"metadata":{"name":"c"},"wrong":1,"data":{"a":"1","a":"2"}}'
    reply = await plane.ask("POST", maps(namespace, f"?dryRun=All&fieldValidation={validation}"), body)
    assert (reply.status, "warning" in reply.headers) == (status, warned)
    if status == 400:
        assert 'unknown field "wrong"' in reply.message
        assert 'duplicate field "data.a"' in reply.message


@pytest.mark.parametrize("query", ["dryRun=Some", "fieldValidation=Sometimes"])
async def test_options_are_checked(plane: Any, namespace: str, query: str) -> None:
    assert (await plane.ask("POST", maps(namespace, f"?{query}"), {"metadata": {"name": "c"}})).status == 422


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"kind": "Pod", "apiVersion": "v1"}, "cannot be handled as a ConfigMap"),
        ({"kind": "Nonsense", "apiVersion": "v1"}, 'no kind "Nonsense" is registered for version "v1"'),
        ({"metadata": {"name": "c", "namespace": "other"}}, "the namespace of the provided object does not match"),
    ],
)
async def test_an_object_of_another_kind_or_place_is_refused(
    plane: Any, namespace: str, body: Any, message: str
) -> None:
    reply = await plane.ask("POST", maps(namespace), body)
    assert (reply.status, message in reply.message) == (400, True), reply.message


async def test_metadata_may_be_null(plane: Any, namespace: str) -> None:
    reply = await plane.ask("POST", maps(namespace), {"metadata": None})
    assert (reply.status, "name or generateName is required" in reply.message) == (422, True)


async def test_an_unstored_body_gets_its_kind_and_its_types_are_checked() -> None:
    assert bodies.unstored(b"{}", "", EVICTION) == {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {}}
    for body, message in (
        (b'{"kind":"Pod"}', r"the kind in the data \(Pod\) does not match the expected kind \(Eviction\)"),
        (b'{"deleteOptions":"x"}', 'Eviction in version "v1" cannot be handled as a Eviction'),
        (b"[]", "must be of type Eviction"),
    ):
        with pytest.raises(BadRequest, match=message):
            bodies.unstored(body, "application/json", EVICTION)


@given(
    st.binary(max_size=80),
    st.sampled_from(["", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "x/y"]),
)
async def test_any_body_is_read_or_refused(body: bytes, content_type: str) -> None:
    with suppress(BadRequest, UnsupportedMediaType):
        assert bodies.unstored(body, content_type, EVICTION)["kind"] == "Eviction"
