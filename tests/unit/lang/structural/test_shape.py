"""Structural schemas; expected texts are those of kube-apiserver 1.34."""

from __future__ import annotations

from typing import Any

import pytest

from havre.lang.structural.shape import structural_errors


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ({"type": "string"}, []),
        ({}, ["s.properties[a].type: Required value: must not be empty for specified object fields"]),
        ({"type": "array"}, ["s.properties[a].items: Required value: must be specified"]),
        (
            {"type": "array", "items": {}},
            ["s.properties[a].items.type: Required value: must not be empty for specified array items"],
        ),
        (
            {"type": "object", "x-kubernetes-embedded-resource": True},
            [
                "s.properties[a].properties: Required value: must not be empty if x-kubernetes-embedded-resource is "
                "true without x-kubernetes-preserve-unknown-fields"
            ],
        ),
        (
            {"type": "string", "anyOf": [{"type": "string"}]},
            ["s.properties[a].anyOf[0].type: Forbidden: must be empty to be structural"],
        ),
        ({"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}, []),
    ],
)
def test_field_must_say_what_it_is(field: dict[str, Any], expected: list[str]) -> None:
    assert [str(e) for e in structural_errors({"type": "object", "properties": {"a": field}}, "s")] == expected


def test_what_an_alternative_speaks_about_is_known_outside_of_it() -> None:
    raw = {"type": "object", "properties": {}, "not": {"properties": {"z": {"pattern": "x"}}}}
    assert [str(e) for e in structural_errors(raw, "s")] == [
        "s.properties[z]: Required value: because it is defined in s.not.properties[z]"
    ]


def test_root_is_an_object_with_implicit_metadata() -> None:
    raw = {
        "type": "string",
        "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}},
    }
    assert [str(e) for e in structural_errors(raw, "s")] == [
        "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata "
        "is implicitly specified",
        's.type: Invalid value: "string": must be object at the root',
    ]
