"""What a schema does not know is found, or dropped."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang.schema import Compiler
from havre.lang.structural.defaults import defaults
from havre.lang.structural.prune import prune, unknown_fields
from havre.lang.structural.validate import validate

CONTAINERS = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "containers": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"name": {"type": "string"}}},
                },
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "template": {
                    "type": "object",
                    "x-kubernetes-embedded-resource": True,
                    "properties": {"spec": {"type": "object"}},
                },
            },
        }
    },
}


def found(obj: dict[str, Any]) -> list[str]:
    return unknown_fields(Compiler().compile(CONTAINERS))(obj)


def test_unknown_fields_are_named_with_their_place() -> None:
    obj = {"spec": {"containers": [{"name": "a"}, {"foo": 1}], "bar": {}}, "baz": None}
    assert found(obj) == ["baz", "spec.bar", "spec.containers[1].foo"]


def test_identity_of_the_object_is_always_known() -> None:
    assert found({"apiVersion": "v1", "kind": "A", "metadata": {"anything": 1}}) == []


def test_identity_of_an_embedded_object_is_known_and_its_rest_is_not() -> None:
    assert found({"spec": {"template": {"apiVersion": "v1", "kind": "P", "metadata": {"a": 1}, "b": 1}}}) == [
        "spec.template.b"
    ]


def test_maps_and_open_objects_keep_everything() -> None:
    assert found({"spec": {"labels": {"a": "b"}, "open": {"a": {"b": [{"c": 1}]}}}}) == []


def test_structure_below_a_scalar_is_unknown() -> None:
    assert found({"spec": {"labels": {"a": {"b": 1}}, "containers": {"x": 1}}}) == [
        "spec.containers.x",
        "spec.labels.a.b",
    ]


def test_finding_changes_nothing_and_pruning_drops() -> None:
    obj = {"spec": {"containers": [{"name": "a", "foo": 1}]}, "bar": 1}
    assert found(obj) == ["bar", "spec.containers[0].foo"]
    assert obj == {"spec": {"containers": [{"name": "a", "foo": 1}]}, "bar": 1}
    assert prune(Compiler().compile(CONTAINERS))(obj) == ["bar", "spec.containers[0].foo"]
    assert obj == {"spec": {"containers": [{"name": "a"}]}}


def test_known_field_of_an_open_object_is_still_pruned_below() -> None:
    raw = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
        "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}}}},
    }
    obj: dict[str, Any] = {"a": {"b": "", "c": 1}, "d": 1}
    prune(Compiler().compile(raw))(obj)
    assert obj == {"a": {"b": ""}, "d": 1}


def test_builtin_object_without_described_fields_may_hold_anything() -> None:
    schema = Compiler().compile({"type": "object", "properties": {"raw": {"type": "object"}, "json": {}}})
    assert unknown_fields(schema, builtin=True)({"raw": {"a": 1}, "json": {"b": [1]}, "c": 1}) == ["c"]


def test_recursive_definition_is_followed() -> None:
    definitions = {"Tree": {"type": "object", "properties": {"left": {"$ref": "#/definitions/Tree"}}}}
    schema = Compiler(definitions).named("Tree")
    assert unknown_fields(schema, builtin=True)({"left": {"left": {"right": 1}}}) == ["left.left.right"]


KEYS = st.sampled_from(["a", "b", "c", "metadata", "kind"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
LEAVES = st.fixed_dictionaries(
    {"type": st.sampled_from(["string", "integer", "number", "boolean", "object", ""])},
    optional={
        "nullable": st.booleans(),
        "default": VALUES,
        "enum": st.lists(VALUES, min_size=1, max_size=2),
        "minimum": st.integers(-3, 3),
        "maximum": st.floats(-3, 3),
        "multipleOf": st.sampled_from([0, 0.5, 2]),
        "minLength": st.integers(0, 3),
        "maxLength": st.integers(0, 3),
        "pattern": st.sampled_from(["^a", "(", "[[:alpha:]]", "x{"]),
        "format": st.sampled_from(["date", "date-time", "int32", "uuid", "ipv4", "duration", "nonsense"]),
        "x-kubernetes-preserve-unknown-fields": st.booleans(),
        "x-kubernetes-int-or-string": st.booleans(),
    },
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: (
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(KEYS, inner, max_size=3)},
            optional={
                "required": st.lists(KEYS, max_size=2),
                "x-kubernetes-embedded-resource": st.booleans(),
                "oneOf": st.lists(inner, min_size=1, max_size=2),
                "not": inner,
            },
        )
        | st.fixed_dictionaries(
            {"type": st.just("array"), "items": inner},
            optional={
                "minItems": st.integers(0, 2),
                "uniqueItems": st.booleans(),
                "anyOf": st.lists(inner, max_size=2),
            },
        )
        | st.fixed_dictionaries({"type": st.just("object"), "additionalProperties": inner | st.booleans()})
    ),
    max_leaves=6,
)


@settings(max_examples=50, deadline=None)
@given(SCHEMAS, st.dictionaries(KEYS, VALUES, max_size=3))
def test_pruning_and_defaulting_twice_is_as_once_and_nothing_ever_raises(
    raw: dict[str, Any], obj: dict[str, Any]
) -> None:
    schema = Compiler().compile(raw)
    before = copy.deepcopy(obj)
    paths = unknown_fields(schema)(obj)
    assert obj == before
    assert prune(schema)(obj) == paths
    assert prune(schema)(obj) == []
    defaults(schema)(obj)
    once = copy.deepcopy(obj)
    defaults(schema)(obj)
    assert obj == once
    assert all(str(error) for error in validate(schema)(obj, before))
    assert len(validate(schema)(obj, obj)) == 0
