"""Objects inside objects, and the metadata of all of them."""

from __future__ import annotations

from typing import Any

from havre.lang.schema import Compiler
from havre.lang.structural.embedded import check_metadata, embedded, prune_metadata

META = Compiler(
    {
        "k8s.v1.ObjectMeta": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        }
    }
).named("k8s.v1.ObjectMeta")
WHOLE = {"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True}
SCHEMA = Compiler().compile({"type": "object", "properties": {"t": WHOLE, "l": {"type": "array", "items": WHOLE}}})


def test_wrong_metadata_of_the_object_is_told_as_go_does() -> None:
    obj = {"metadata": {"labels": {"a": 1}}}
    assert (
        check_metadata(SCHEMA, META)(obj)
        == "json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string"
    )


def test_wrong_metadata_inside_is_told_with_its_place() -> None:
    obj: dict[str, Any] = {"l": [{"metadata": {"name": 1}}]}
    assert check_metadata(SCHEMA, META)(obj) == (
        'l[0].metadata: Invalid value: {"name":1}: '
        "json: cannot unmarshal number into Go struct field ObjectMeta.name of type string"
    )


def test_identity_inside_must_be_text() -> None:
    assert check_metadata(SCHEMA, META)({"t": {"apiVersion": 1}}) == "t.apiVersion: Invalid value: 1: must be a string"


def test_unknown_metadata_is_dropped_everywhere() -> None:
    obj = {"metadata": {"name": "a", "x": 1}, "t": {"metadata": {"y": 1}}}
    assert prune_metadata(SCHEMA, META)(obj) == ["metadata.x", "t.metadata.y"]
    assert obj == {"metadata": {"name": "a"}, "t": {"metadata": {}}}


def test_object_inside_says_what_it_is() -> None:
    errors = [str(e) for e in embedded(SCHEMA)({"t": {}, "l": [{"apiVersion": "a/b/c", "kind": ""}]})]
    assert errors == [
        "t.apiVersion: Required value",
        "t.kind: Required value",
        'l[0].apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c',
        'l[0].kind: Invalid value: "": must not be empty',
    ]
