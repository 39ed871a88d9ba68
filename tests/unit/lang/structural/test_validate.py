"""Problems of a custom resource; every expected text was printed by kube-apiserver 1.34."""

from __future__ import annotations

from typing import Any

import pytest

from havre.lang.schema import Compiler
from havre.lang.structural.validate import validate

AB = {"type": "object", "properties": {"a": {"type": "string"}, "c": {"type": "string"}}}
SPEC: dict[str, Any] = {
    "name": {"type": "string", "maxLength": 10, "minLength": 2, "pattern": "^[a-z-]+$"},
    "replicas": {"type": "integer", "minimum": 1, "maximum": 5, "format": "int32"},
    "mode": {"type": "string", "enum": ["b", "a"]},
    "num": {"type": "number", "exclusiveMinimum": True, "minimum": 0, "multipleOf": 0.5},
    "lvl": {"type": "integer", "enum": [1, 2]},
    "port": {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]},
    "when": {"type": "string", "format": "date-time"},
    "tags": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"type": "string"}},
    "labels": {
        "type": "object",
        "maxProperties": 2,
        "minProperties": 1,
        "additionalProperties": {"type": "string", "maxLength": 3},
    },
    "one": {**AB, "oneOf": [{"required": ["a"]}, {"required": ["c"]}]},
    "any": {**AB, "anyOf": [{"required": ["a"]}, {"required": ["c"]}]},
    "all": {**AB, "allOf": [{"required": ["a"]}, {"required": ["c"]}]},
    "not": {**AB, "not": {"required": ["a"]}},
    "need": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}},
}
RAW = {"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object", "properties": SPEC}}}


def problems(spec: Any, old: Any = None) -> list[str]:
    return [
        str(e) for e in validate(Compiler().compile(RAW))({"spec": spec}, {"spec": old} if old is not None else None)
    ]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (1, ['spec: Invalid value: "integer": spec in body must be of type object: "integer"']),
        ({"name": 1}, ['spec.name: Invalid value: "integer": spec.name in body must be of type string: "integer"']),
        ({"name": "a"}, ['spec.name: Invalid value: "a": spec.name in body should be at least 2 chars long']),
        ({"name": "aaaaaaaaaaaaa"}, ["spec.name: Too long: may not be more than 10 bytes"]),
        ({"name": "A1"}, ["spec.name: Invalid value: \"A1\": spec.name in body should match '^[a-z-]+$'"]),
        ({"name": "ab\n"}, ["spec.name: Invalid value: \"ab\\n\": spec.name in body should match '^[a-z-]+$'"]),
        (
            {"replicas": 0},
            ["spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or equal to 1"],
        ),
        ({"replicas": 9}, ["spec.replicas: Invalid value: 9: spec.replicas in body should be less than or equal to 5"]),
        (
            {"replicas": 1.5},
            ['spec.replicas: Invalid value: "number": spec.replicas in body must be of type integer: "number"'],
        ),
        ({"replicas": 2.0}, []),
        ({"mode": "c"}, ['spec.mode: Unsupported value: "c": supported values: "b", "a"']),
        ({"lvl": 3}, ['spec.lvl: Unsupported value: 3: supported values: "1", "2"']),
        (
            {"num": 0},
            [
                "spec.num: Invalid value: 0: factor MultipleOf declared for spec.num must be positive: 0",
                "spec.num: Invalid value: 0: spec.num in body should be greater than 0",
            ],
        ),
        ({"num": 0.3}, ["spec.num: Invalid value: 0.3: spec.num in body should be a multiple of 0.5"]),
        (
            {"port": True},
            [
                'spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean"',
                '<nil>: Invalid value: "": "spec.port" must validate at least one schema (anyOf)',
                'spec.port: Invalid value: "boolean": spec.port in body must be of type integer: "boolean"',
            ],
        ),
        ({"when": "x"}, ['spec.when: Invalid value: "x": spec.when in body must be of type date-time: "x"']),
        ({"when": 1}, ['spec.when: Invalid value: "int64": spec.when in body must be of type date-time: "int64"']),
        ({"tags": []}, ["spec.tags: Invalid value: 0: spec.tags in body should have at least 1 items"]),
        ({"tags": ["a"] * 4}, ["spec.tags: Too many: 4: must have at most 3 items"]),
        (
            {"tags": ["a", 1]},
            ['spec.tags[1]: Invalid value: "integer": spec.tags[1] in body must be of type string: "integer"'],
        ),
        (
            {"tags": [None]},
            ['spec.tags[0]: Invalid value: "null": spec.tags[0] in body must be of type string: "null"'],
        ),
        ({"labels": {}}, ["spec.labels: Invalid value: 0: spec.labels in body should have at least 1 properties"]),
        ({"labels": {"a": "", "b": "", "c": ""}}, ["spec.labels: Too many: 3: must have at most 2 items"]),
        ({"labels": {"a/b.c": "bbbb"}}, ["spec.labels.a/b.c: Too long: may not be more than 3 bytes"]),
        (
            {"one": {}},
            [
                '<nil>: Invalid value: "": "spec.one" must validate one and only one schema (oneOf). Found none valid',
                "spec.one.a: Required value",
            ],
        ),
        (
            {"one": {"a": "", "c": ""}},
            [
                '<nil>: Invalid value: "": "spec.one" must validate one and only one schema (oneOf). '
                "Found 2 valid alternatives"
            ],
        ),
        ({"any": {"c": ""}}, []),
        (
            {"all": {"a": "x"}},
            [
                "spec.all.c: Required value",
                '<nil>: Invalid value: "": "spec.all" must validate all the schemas (allOf)',
            ],
        ),
        ({"not": {"a": "b"}}, ['<nil>: Invalid value: "": "spec.not" must not validate the schema (not)']),
        ({"need": {}}, ["spec.need.k: Required value"]),
    ],
)
def test_each_problem_has_upstreams_words(spec: Any, expected: list[str]) -> None:
    assert problems(spec) == expected


def test_missing_field_at_the_root_is_required() -> None:
    assert [str(e) for e in validate(Compiler().compile(RAW))({}, None)] == ["spec: Required value"]


def test_unchanged_value_is_forgiven_on_update_and_a_changed_one_is_not() -> None:
    assert problems({"name": "A", "mode": "x"}, {"name": "A", "mode": "y"}) == [
        'spec.mode: Unsupported value: "x": supported values: "b", "a"'
    ]


def test_element_of_a_plain_list_is_forgiven_only_with_the_whole_list() -> None:
    assert problems({"tags": [1]}, {"tags": [1]}) == []
    assert len(problems({"tags": [1, "a"]}, {"tags": [1]})) == 1


def test_element_of_a_map_list_is_followed_by_its_key() -> None:
    items = {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}}
    raw = {"type": "array", "items": items, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}
    check = validate(Compiler().compile({"type": "object", "properties": {"l": raw}}))
    old = {"l": [{"k": "a", "v": 5}]}
    assert check({"l": [{"k": "b", "v": 0}, {"k": "a", "v": 5}]}, old) == []
    assert len(check({"l": [{"k": "b", "v": 5}]}, old)) == 1


def test_two_problems_of_one_value_in_two_alternatives_are_told_once() -> None:
    raw = {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["a"]}], "required": ["a"]}
    texts = [str(e) for e in validate(Compiler().compile(raw))({}, None)]
    assert sorted(set(texts)) == sorted(texts)
