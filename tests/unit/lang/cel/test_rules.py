"""Validation rules on objects; expected texts are those of kube-apiserver 1.34."""

from __future__ import annotations

from typing import Any

import pytest

from havre.lang.cel.rules import field_path, rules
from havre.lang.schema import Compiler

RULES = "x-kubernetes-validations"
SPEC: dict[str, Any] = {
    "type": "object",
    RULES: [
        {"rule": "!has(self.min) || !has(self.max) || self.min <= self.max"},
        {
            "rule": "!has(self.cpu) || quantity(self.cpu).isGreaterThan(quantity('1m'))",
            "message": "cpu too small",
            "fieldPath": ".cpu",
            "reason": "FieldValueForbidden",
        },
        {"rule": "self.name != 'boom'", "messageExpression": "'name is ' + self.name"},
        {"rule": "self.name != 'div' || 1/0 == 1"},
    ],
    "properties": {
        "name": {"type": "string"},
        "min": {"type": "integer"},
        "max": {"type": "integer"},
        "cpu": {"type": "string"},
        "fixed": {"type": "string", RULES: [{"rule": "self == oldSelf", "message": "fixed is immutable"}]},
        "keyed": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["k"],
            "items": {
                "type": "object",
                "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
                RULES: [{"rule": "self.v >= oldSelf.v", "message": "v may not shrink"}],
            },
        },
        "plain": {"type": "array", "items": {"type": "integer", RULES: [{"rule": "self > 0"}]}},
        "free": {"type": "object", "additionalProperties": {"type": "string", RULES: [{"rule": "self != ''"}]}},
        "when": {
            "type": "string",
            "format": "date-time",
            RULES: [{"rule": "self < timestamp('2030-01-01T00:00:00Z')"}],
        },
        "a-b": {"type": "string"},
        "duration": {"type": "string", "format": "duration", RULES: [{"rule": "self <= duration('1h')"}]},
    },
}
SCHEMA = Compiler().compile({"type": "object", "properties": {"spec": SPEC}})
CHECK = rules(SCHEMA)


def broken(spec: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
    return [
        str(e)
        for e in CHECK({"spec": {"name": "a", **spec}}, {"spec": {"name": "a", **old}} if old is not None else None)
    ]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"min": 1, "max": 2}, []),
        (
            {"min": 3, "max": 1},
            ['spec: Invalid value: "object": failed rule: !has(self.min) || !has(self.max) || self.min <= self.max'],
        ),
        ({"cpu": "0"}, ["spec.cpu: Forbidden: cpu too small"]),
        (
            {"cpu": "zz"},
            [
                'spec: Invalid value: "object": quantities must match the regular expression '
                "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$' evaluating rule: cpu too small"
            ],
        ),
        ({"name": "boom"}, ['spec: Invalid value: "object": name is boom']),
        (
            {"name": "div"},
            ["spec: Invalid value: \"object\": division by zero evaluating rule: self.name != 'div' || 1/0 == 1"],
        ),
        ({"plain": [1, 0]}, ['spec.plain[1]: Invalid value: "integer": failed rule: self > 0']),
        ({"free": {"x.y": ""}}, ["spec.free[x.y]: Invalid value: \"string\": failed rule: self != ''"]),
        ({"when": "2029-12-31T23:59:59Z", "duration": "59m"}, []),
        ({"duration": "61m"}, ["spec.duration: Invalid value: \"string\": failed rule: self <= duration('1h')"]),
    ],
)
def test_broken_rule_has_upstreams_words(spec: dict[str, Any], expected: list[str]) -> None:
    assert broken(spec) == expected


def test_transition_rule_waits_for_an_old_value() -> None:
    assert broken({"fixed": "a"}) == []
    assert broken({"fixed": "a"}, {}) == []
    assert broken({"fixed": "a"}, {"fixed": "b"}) == ['spec.fixed: Invalid value: "string": fixed is immutable']


def test_old_element_is_found_by_its_key() -> None:
    old = {"keyed": [{"k": "a", "v": 3}]}
    assert broken({"keyed": [{"k": "b", "v": 1}, {"k": "a", "v": 2}]}, old) == [
        'spec.keyed[1]: Invalid value: "object": v may not shrink'
    ]


def test_unchanged_value_is_forgiven() -> None:
    assert broken({"plain": [0]}, {"plain": [0]}) == []
    assert len(broken({"plain": [0, 0]}, {"plain": [0]})) == 2


def test_name_that_is_no_identifier_is_escaped() -> None:
    raw = {"type": "object", "properties": {"a-b": {"type": "string"}}, RULES: [{"rule": "self.a__dash__b == 'x'"}]}
    check = rules(Compiler().compile(raw))
    assert check({"a-b": "x"}, None) == []
    assert len(check({"a-b": "y"}, None)) == 1


def test_number_is_a_fraction_even_when_written_whole() -> None:
    raw = {"type": "object", "properties": {"n": {"type": "number"}}, RULES: [{"rule": "self.n / 2.0 == 0.5"}]}
    assert rules(Compiler().compile(raw))({"n": 1}, None) == []


def test_rule_that_no_longer_compiles_is_told_for_each_object() -> None:
    raw = {"type": "object", RULES: [{"rule": "nope()"}]}
    assert "rule compile error: compilation failed" in str(rules(Compiler().compile(raw))({}, None)[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [(".spec.name", "spec.name"), (".spec['a-b']", "spec.a-b"), (".spec.free['x.y']", "spec.free[x.y]"), ("", "")],
)
def test_field_path_is_normalized(text: str, expected: str) -> None:
    assert field_path(text, SCHEMA)[0] == expected


@pytest.mark.parametrize("text", ["spec", ".nope", ".spec[0]", ".spec['a", ".spec.name.x", r".spec['\q']"])
def test_field_path_must_lead_somewhere(text: str) -> None:
    with pytest.raises(ValueError, match=r"field|expected|escape"):
        field_path(text, SCHEMA)
