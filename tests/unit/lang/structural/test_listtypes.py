"""Sets and maps in lists hold everything once."""

from __future__ import annotations

from typing import Any

from havre.lang.schema import Compiler
from havre.lang.structural.listtypes import duplicates


def problems(raw: dict[str, Any], values: list[Any]) -> list[str]:
    schema = Compiler().compile({"type": "object", "properties": {"l": {"type": "array", **raw}}})
    return [str(e) for e in duplicates(schema)({"l": values})]


SET = {"x-kubernetes-list-type": "set", "items": {"type": "string"}}
MAP = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "p"], "items": {"type": "object"}}


def test_repeated_element_of_a_set_is_told_once() -> None:
    assert problems(SET, ["a", "a", "b", "a"]) == ['l[1]: Duplicate value: "a"']


def test_one_is_not_true_and_not_the_text_one() -> None:
    assert problems(SET, [1, True, "1"]) == []


def test_repeated_keys_of_a_map_are_told_with_all_keys() -> None:
    assert problems(MAP, [{"k": "a", "p": 1, "v": 1}, {"k": "a", "p": 2}, {"k": "a", "p": 1}]) == [
        'l[2]: Duplicate value: {"k":"a","p":1}'
    ]


def test_element_of_a_map_must_be_an_object() -> None:
    assert problems(MAP, ["x"]) == ['l[0]: Invalid value: "x": must be an object for an array of list-type map']


def test_plain_list_may_repeat() -> None:
    assert problems({"items": {"type": "string"}}, ["a", "a"]) == []
