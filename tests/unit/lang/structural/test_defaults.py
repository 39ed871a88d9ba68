"""Defaults go where a client left a gap."""

from __future__ import annotations

from typing import Any

import pytest

from havre.lang.schema import Compiler
from havre.lang.structural.defaults import defaults

RAW: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "default": 3},
        "b": {"type": "object", "default": {}, "properties": {"c": {"type": "string", "default": "x"}}},
        "d": {"type": "object", "properties": {"e": {"type": "string", "default": "y"}}},
        "n": {"type": "string", "nullable": True, "default": "z"},
        "m": {"type": "object", "additionalProperties": {"type": "string", "default": "w"}},
        "l": {"type": "array", "items": {"type": "object", "properties": {"f": {"type": "integer", "default": 1}}}},
        "p": {"type": "string"},
    },
}
GIVEN: dict[str, Any] = {"a": 3, "b": {"c": "x"}, "n": "z"}


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        ({}, GIVEN),
        ({"a": None}, GIVEN),
        ({"n": None}, {**GIVEN, "n": None}),
        ({"p": None}, GIVEN),
        ({"d": {}}, {**GIVEN, "d": {"e": "y"}}),
        ({"m": {"k": None}}, {**GIVEN, "m": {"k": "w"}}),
        ({"l": [{}, {"f": 2}, None]}, {**GIVEN, "l": [{"f": 1}, {"f": 2}, None]}),
        ({"b": {"c": "own"}, "unknown": None}, {**GIVEN, "b": {"c": "own"}, "unknown": None}),
    ],
    ids=["missing", "null", "allowed null", "null without default", "object there", "map value", "list", "own value"],
)
def test_gaps_are_filled_where_the_object_is(obj: dict[str, Any], expected: dict[str, Any]) -> None:
    defaults(Compiler().compile(RAW))(obj)
    assert obj == expected


def test_two_objects_share_no_default() -> None:
    fill = defaults(Compiler().compile(RAW))
    first: dict[str, Any] = {}
    second: dict[str, Any] = {}
    fill(first)
    first["b"]["c"] = "changed"
    fill(second)
    assert second["b"] == {"c": "x"}
