"""Schemas as merging sees them, and the words for values that do not fit."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from havre.lang.merge.compare import compare
from havre.lang.merge.fields import field_set
from havre.lang.merge.shape import DEDUCED, shape_of
from havre.lang.merge.validate import Mistyped, validate
from havre.lang.schema import Compiler, Raw

TEXT = {"type": "string"}


def of(raw: Raw, *, structured: bool = False) -> Any:
    return shape_of(Compiler().compile(raw), structured)


def test_a_list_merges_by_its_type_or_by_its_patch_strategy() -> None:
    keyed = {"x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name"}
    items = {"type": "object", "properties": {"name": {**TEXT, "default": "n"}}}
    by_patch = of({"type": "array", "items": items, **keyed})
    atomic = of({"type": "array", "items": items, **keyed, "x-kubernetes-list-type": "atomic"})
    merged_set = of({"type": "array", "items": TEXT, "x-kubernetes-patch-strategy": "merge"})
    assert (by_patch.list_atomic, by_patch.keys, by_patch.key_defaults) == (False, ("name",), {"name": "n"})
    assert (atomic.list_atomic, merged_set.list_atomic, merged_set.keys) == (True, False, ())


def test_unknown_entries_are_refused_deduced_or_typed() -> None:
    known = {"properties": {"a": TEXT}}
    assert of({"type": "object", **known}).other is None
    assert of({"type": "object"}).other is DEDUCED
    assert of({"type": "object", **known, "x-kubernetes-preserve-unknown-fields": True}).other is DEDUCED
    assert of({"type": "object", "additionalProperties": False}).other is None
    assert of({"type": "object", "additionalProperties": TEXT}).other.scalar == "string"


def test_preserving_unknown_fields_goes_down_to_inline_structs() -> None:
    inner = {"type": "object", "properties": {"a": TEXT}}
    shape = of({"type": "object", "properties": {"in": inner}, "x-kubernetes-preserve-unknown-fields": True})
    assert shape.fields["in"].other is DEDUCED


def test_the_shape_of_a_schema_is_made_once() -> None:
    schema = Compiler().compile({"type": "object"})
    assert shape_of(schema, True) is shape_of(schema, True)


def test_a_recursive_schema_has_a_recursive_shape() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/definitions/Node"}, "any": {}}}
    shape = shape_of(Compiler({"Node": node}).named("Node"))
    assert shape.fields["next"] is shape
    assert shape.exact


def test_fields_of_a_struct_that_always_exist_bring_no_owner_for_the_struct() -> None:
    inner = {"type": "object", "properties": {"a": TEXT}}
    raw = {
        "type": "object",
        "required": ["count", "list"],
        "properties": {
            "held": {**inner, "default": {}},
            "pointed": inner,
            "count": {"type": "integer"},
            "list": {"type": "array", "items": TEXT, "x-kubernetes-list-type": "set"},
        },
    }
    new = {"held": {"a": "x"}, "pointed": {"a": "x"}, "count": 0, "list": ["x"]}
    assert compare(of(raw, structured=True), {}, new).changed.root == {
        "f:held": {"f:a": {}},
        "f:pointed": {".": {}, "f:a": {}},
        "f:list": {'v:"x"': {}},
    }
    assert compare(of(raw), {}, new).changed.root == {
        "f:held": {".": {}, "f:a": {}},
        "f:pointed": {".": {}, "f:a": {}},
        "f:count": {},
        "f:list": {".": {}, 'v:"x"': {}},
    }


def test_a_struct_left_out_of_a_new_item_is_owned_with_it() -> None:
    item = {
        "type": "object",
        "properties": {"name": TEXT, "limits": {"type": "object", "properties": {"cpu": TEXT}, "default": {}}},
    }
    raw = {"type": "array", "items": item, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    shape = of({"type": "object", "properties": {"items": raw}}, structured=True)
    changed = compare(shape, {"items": []}, {"items": [{"name": "n"}]}).changed.root
    assert changed["f:items"] == {'k:{"name":"n"}': {".": {}, "f:name": {}, "f:limits": {}}}


PAIR = {"type": "object", "properties": {"a": TEXT, "b": TEXT}}
SCHEMA: Raw = {
    "type": "object",
    "properties": {
        "text": TEXT,
        "flag": {"type": "boolean"},
        "number": {"type": "integer"},
        "port": {"x-kubernetes-int-or-string": True},
        "set": {"type": "array", "items": TEXT, "x-kubernetes-list-type": "set"},
        "list": {"type": "array", "items": PAIR},
        "pairs": {
            "type": "array",
            "items": PAIR,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["b", "a"],
        },
    },
}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"text": 1}, ".text: expected string, got &value.valueUnstructured{Value:1}"),
        ({"text": {"a": [True, None]}},
         '.text: expected string, got &value.valueUnstructured{Value:map[string]interface {}{"a":[]interface {}{true, interface {}(nil)}}}'),  # noqa: E501
        ({"flag": "yes"}, ".flag: expected boolean, got &{yes}"),
        ({"number": True}, ".number: expected numeric (int or float), got bool"),
        ({"port": [1]}, ".port: expected any scalar, got &{[1]}"),
        ({"nope": 1}, ".nope: field not declared in schema"),
        ({"set": ["x", "x"]}, '.set: duplicate entries for key [="x"]'),
        ({"set": [["x"]]}, ".set: element 0: not supported: associative list with lists as elements"),
        ({"set": [None]}, ".set: element 0: associative list without keys has an element that's an explicit null"),
        ({"set": {"a": 1.0}}, ".set: expected list, got &{map[a:1]}"),
        ({"list": [{"a": "x"}, {"a": 1}]}, ".list[1].a: expected string, got &value.valueUnstructured{Value:1}"),
        ({"pairs": [{}]},
         '.pairs: element 0: associative list with keys has an element that omits all key fields ["b" "a"] (and doesn\'t have default values for any key fields)'),  # noqa: E501
        ({"pairs": ["x"]}, ".pairs: element 0: associative list with keys may not have non-map elements"),
        ({"pairs": [{"a": "1", "b": 2}]},
         '.pairs[a="1",b=2].b: expected string, got &value.valueUnstructured{Value:2}'),
        ({"number": "1", "flag": 2},
         "errors:\n  .number: expected numeric (int or float), got string\n  .flag: expected boolean, got &{2}"),
        ([], "expected map, got &{[]}"),
    ],
)  # fmt: skip
def test_misfits_are_told_in_upstreams_words(value: Any, words: str) -> None:
    with pytest.raises(Mistyped) as refused:
        field_set(of(SCHEMA), value)
    assert str(refused.value) == words


def test_a_stored_list_may_repeat_itself_and_owns_the_repeated_item_whole() -> None:
    value = {"pairs": [{"a": "1", "b": "2"}, {"a": "1", "b": "2"}]}
    assert validate(of(SCHEMA), value, duplicates=True) == []
    assert field_set(of(SCHEMA), value, duplicates=True).root == {"f:pairs": {'k:{"a":"1","b":"2"}': {}}}


@pytest.mark.parametrize("value", [{}, None, {"text": None, "set": None, "pairs": None}, {"port": 1}, {"port": "http"}])
def test_nulls_and_fitting_values_are_no_problem(value: Any) -> None:
    assert validate(of(SCHEMA), value) == []


def test_the_shape_of_a_schema_that_is_gone_is_gone_too() -> None:
    raw = {"type": "object", "properties": {"a": {"type": "string"}}}
    schema = Compiler().compile(raw)
    shape = weakref.ref(schema)
    shape_of(schema)
    del schema
    gc.collect()
    assert shape() is None
