"""Go's decoder; every expected text was printed by kube-apiserver 1.34 (after `cannot be handled as a …: `)."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang.schema import Compiler
from havre.lang.structural.types import check_types

V1 = "io.k8s.api.core.v1"
META = "io.k8s.apimachinery.pkg.apis.meta.v1"


def ref(name: str) -> dict[str, Any]:
    return {"allOf": [{"$ref": f"#/definitions/{name}"}], "default": {}}


QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
DEFINITIONS: dict[str, Any] = {
    QUANTITY: {"oneOf": [{"type": "string"}, {"type": "number"}]},
    f"{META}.Time": {"type": "string", "format": "date-time"},
    f"{META}.MicroTime": {"type": "string", "format": "date-time"},
    "intstr.IntOrString": {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
    f"{META}.ObjectMeta": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string", "default": ""}},
            "creationTimestamp": {"$ref": f"#/definitions/{META}.Time"},
            "renewTime": {"$ref": f"#/definitions/{META}.MicroTime"},
        },
    },
    f"{V1}.Port": {
        "type": "object",
        "properties": {"port": {"type": "integer", "format": "int32"}, "target": ref("intstr.IntOrString")},
    },
    f"{V1}.Spec": {
        "type": "object",
        "properties": {
            "replicas": {"type": "integer", "format": "int32"},
            "paused": {"type": "boolean"},
            "command": {"type": "array", "items": {"type": "string", "default": ""}},
            "ports": {"type": "array", "items": ref(f"{V1}.Port")},
            "limits": {"type": "object", "additionalProperties": {"$ref": f"#/definitions/{QUANTITY}"}},
            "ratio": {"type": "number", "format": "double"},
        },
    },
    f"{V1}.Thing": {
        "type": "object",
        "properties": {
            "metadata": ref(f"{META}.ObjectMeta"),
            "spec": ref(f"{V1}.Spec"),
            "data": {"type": "object", "additionalProperties": {"type": "string", "default": ""}},
            "binaryData": {"type": "object", "additionalProperties": {"type": "string", "format": "byte"}},
        },
    },
}


@cache
def check() -> Any:
    return check_types(Compiler(DEFINITIONS).named(f"{V1}.Thing"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"spec":{"replicas":"x"}}', "string into Go struct field Spec.spec.replicas of type int32"),
        ('{"spec":{"replicas":1.5}}', "number 1.5 into Go struct field Spec.spec.replicas of type int32"),
        (
            '{"spec":{"replicas":99999999999}}',
            "number 99999999999 into Go struct field Spec.spec.replicas of type int32",
        ),
        ('{"spec":{"paused":1}}', "number into Go struct field Spec.spec.paused of type bool"),
        ('{"spec":[]}', "array into Go struct field Thing.spec of type v1.Spec"),
        ('{"spec":{"command":"x"}}', "string into Go struct field Spec.spec.command of type []string"),
        ('{"spec":{"command":[1]}}', "number into Go struct field Spec.spec.command of type string"),
        ('{"spec":{"ports":{}}}', "object into Go struct field Spec.spec.ports of type []v1.Port"),
        ('{"spec":{"ports":[1]}}', "number into Go struct field Spec.spec.ports of type v1.Port"),
        ('{"spec":{"ports":[{"port":"80"}]}}', "string into Go struct field Port.spec.ports.port of type int32"),
        ('{"spec":{"ports":[{"target":true}]}}', "bool into Go struct field Port.spec.ports.target of type int32"),
        ('{"spec":{"limits":[]}}', "array into Go struct field Spec.spec.limits of type v1.ResourceList"),
        ('{"data":{"a":1}}', "number into Go struct field Thing.data of type string"),
        ('{"data":[]}', "array into Go struct field Thing.data of type map[string]string"),
        ('{"binaryData":{"a":1}}', "number into Go struct field Thing.binaryData of type []uint8"),
        (
            '{"metadata":{"labels":"x"}}',
            "string into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (
            '{"metadata":{"creationTimestamp":1}}',
            "number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
        ),
    ],
)
def test_wrong_type_has_the_words_of_encoding_json(text: str, expected: str) -> None:
    assert check()(json.loads(text)) == f"json: cannot unmarshal {expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{"spec":{"limits":{"cpu":true}}}',
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        ('{"binaryData":{"a":"xx%"}}', "illegal base64 data at input byte 2"),
        ('{"binaryData":{"a":"eA"}}', "illegal base64 data at input byte 0"),
        (
            '{"metadata":{"creationTimestamp":"x"}}',
            'parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006"',
        ),
        (
            '{"metadata":{"creationTimestamp":"2026-13-01T00:00:00Z"}}',
            'parsing time "2026-13-01T00:00:00Z": month out of range',
        ),
    ],
)
def test_wrong_text_has_the_words_of_its_type(text: str, expected: str) -> None:
    assert check()(json.loads(text)) == expected


def test_null_is_the_zero_value() -> None:
    obj = {"metadata": None, "spec": {"replicas": None, "command": ["a", None]}, "data": {"a": None}}
    assert check()(obj) == ""
    assert obj == {"spec": {"command": ["a", ""]}, "data": {"a": ""}}


def test_quantities_become_canonical_text() -> None:
    obj = {"spec": {"limits": {"a": 1, "b": 0.5, "c": "1000m", "d": "1024Mi", "e": "10Gi"}}}
    assert check()(obj) == ""
    assert obj == {"spec": {"limits": {"a": "1", "b": "500m", "c": "1", "d": "1Gi", "e": "10Gi"}}}


def test_times_become_whole_seconds_in_utc() -> None:
    obj = {"metadata": {"creationTimestamp": "2026-01-01T02:00:00.5+02:00", "renewTime": "2026-01-01T00:00:00.1Z"}}
    assert check()(obj) == ""
    assert obj == {
        "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z", "renewTime": "2026-01-01T00:00:00.100000Z"}
    }


def test_first_misfit_of_the_document_is_told() -> None:
    assert "paused" in check()({"spec": {"paused": 1, "replicas": "x"}})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["spec", "data", "ports", "target", "limits", "metadata", "creationTimestamp", "binaryData"]
            ),
            inner,
        )
    ),
    max_leaves=10,
)


@settings(max_examples=50)
@given(VALUES)
def test_any_value_is_decoded_or_refused_and_a_decoded_one_stays(value: Any) -> None:
    if check()(value) == "":
        once = repr(value)
        assert check()(value) == ""
        assert repr(value) == once
