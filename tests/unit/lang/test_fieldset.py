"""Field sets: the FieldsV1 spelling and the algebra of sets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang.fieldset import (
    EMPTY,
    MAX_DEPTH,
    BadFields,
    FieldSet,
    field,
    key_element,
    show_path,
    value_element,
)

ELEMENTS = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', "v:1", "i:0"])
PATHS = st.lists(ELEMENTS, min_size=1, max_size=4).map(tuple)
SETS = st.lists(PATHS, max_size=8).map(lambda paths: FieldSet.of(*paths))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | ELEMENTS | st.sampled_from([".", 'k:{"b":1, "a":2}', "v:{"]), inner)
    ),
    max_leaves=12,
)
QUICK = settings(max_examples=50, deadline=None)


def paths_of(fields: FieldSet) -> set[tuple[str, ...]]:
    return set(fields)


def test_a_set_is_its_fields_v1() -> None:
    labels = ("f:metadata", "f:labels")
    fields = FieldSet.of(
        (*labels, "f:app"), labels, ("f:spec", "f:ports", key_element({"port": 80, "protocol": "TCP"}))
    )
    assert fields.root == {
        "f:metadata": {"f:labels": {"f:app": {}, ".": {}}},
        "f:spec": {"f:ports": {'k:{"port":80,"protocol":"TCP"}': {}}},
    }


def test_an_element_with_children_is_a_member_only_with_a_dot() -> None:
    inner = FieldSet.decode({"f:a": {"f:b": {}}})
    both = FieldSet.decode({"f:a": {".": {}, "f:b": {}}})
    assert (("f:a",) in inner, ("f:a",) in both, ("f:a", "f:b") in inner) == (False, True, True)


@pytest.mark.parametrize(
    ("sent", "spelled"),
    [
        ({'k:{ "b" : 1, "a":"x"}': {}}, {'k:{"a":"x","b":1}': {}}),
        ({"v:1.0": {}, "i:007": {}}, {"v:1": {}, "i:7": {}}),
        ({"f:a": {".": {}}}, {"f:a": {}}),
        ({"f:a": {"x:future": {}}}, {"f:a": {}}),
        ({"x:future": {"f:a": {}}}, {}),
        ({".": {}, "f:a": {}}, {"f:a": {}}),
        ({"v:1": {"f:a": {}}, "v:1.0": {}}, {"v:1": {".": {}, "f:a": {}}}),
        (None, {}),
    ],
)
def test_decoding_gives_every_element_its_one_spelling(sent: Any, spelled: Any) -> None:
    assert FieldSet.decode(sent).root == spelled


def test_decoding_what_is_spelled_right_copies_nothing() -> None:
    root: Any = {"f:a": {".": {}, "f:b": {}, 'k:{"name":"x"}': {"f:c": {}}}}
    assert FieldSet.decode(root).root is root


@pytest.mark.parametrize(
    "sent", [[], "f:a", {"f:a": 1}, {"f:a": None}, {"fa": {}}, {"k:[]": {}}, {"v:": {}}, {"i:x": {}}]
)
def test_what_is_no_fields_v1_is_refused(sent: Any) -> None:
    with pytest.raises(BadFields, match="decode fieldsV1"):
        FieldSet.decode(sent)


def test_a_set_that_is_too_deep_is_refused() -> None:
    node: Any = {"fx": {}}
    for _ in range(MAX_DEPTH + 1):
        node = {"f:a": node}
    with pytest.raises(BadFields, match="200 levels"):
        FieldSet.decode(node)
    for _ in range(3000):
        node = {"f:a": node}
    with pytest.raises(BadFields, match="200 levels"):
        FieldSet.decode(node)
    nested = "k:" + '{"a":' * 900 + "1" + "}" * 900
    with pytest.raises(BadFields, match="decode fieldsV1"):
        FieldSet.decode({nested: {}})


@pytest.mark.parametrize(
    ("value", "element"),
    [
        ("x", 'v:"x"'),
        (1, "v:1"),
        (True, "v:true"),
        (1.5, "v:1.5"),
        (2.0, "v:2"),
        (None, "v:null"),
        ("<a>&", 'v:"\\u003ca\\u003e\\u0026"'),
        ('"é\n', 'v:"\\"é\\n"'),
        ({"b": [1], "a": "x"}, 'v:{"a":"x","b":[1]}'),
    ],
)
def test_values_are_spelled_as_go_does(value: Any, element: str) -> None:
    assert value_element(value) == element
    assert json.loads(element[2:]) == value


def test_a_path_reads_like_a_path() -> None:
    path = (field("spec"), key_element({"port": 80, "name": 'a"b'}), "v:true", "i:3", field("x.y"))
    assert show_path(path) == '.spec[name="a\\"b",port=80][=true][3].x.y'


def test_paths_are_listed_members_first_and_in_upstreams_order() -> None:
    fields = FieldSet.of(("f:b",), ("f:a", "f:z"), ("v:10",), ("v:9",), ('k:{"p":443}',), ('k:{"p":80}',), ("i:1",))
    assert [show_path(path) for path in fields] == [".b", "[p=80]", "[p=443]", "[=9]", "[=10]", "[1]", ".a.z"]
    assert list(fields.ordered().root) == ["f:a", "f:b", 'k:{"p":80}', 'k:{"p":443}', "v:9", "v:10", "i:1"]


def test_difference_keeps_children_and_without_drops_them() -> None:
    fields = FieldSet.decode({"f:a": {".": {}, "f:b": {"f:c": {}}}, "f:d": {}})
    gone = FieldSet.of(("f:a",), ("f:d",))
    assert (fields - gone).root == {"f:a": {"f:b": {"f:c": {}}}}
    assert fields.without(gone) == EMPTY


@QUICK
@given(SETS, SETS)
def test_the_algebra_is_that_of_sets_of_paths(a: FieldSet, b: FieldSet) -> None:
    one, two = paths_of(a), paths_of(b)
    assert paths_of(a | b) == one | two
    assert paths_of(a & b) == one & two
    assert paths_of(a - b) == one - two
    below = {path for path in one if any(path[:n] in two for n in range(1, len(path) + 1))}
    assert paths_of(a.without(b)) == one - below
    assert len(a) == len(one)
    assert all(path in a for path in one)


@QUICK
@given(SETS, SETS)
def test_equal_sets_have_equal_json_and_inputs_are_left_alone(a: FieldSet, b: FieldSet) -> None:
    before = json.dumps([a.root, b.root], sort_keys=True)
    assert FieldSet.of(*a) == a
    assert (a | b) == (b | a)
    assert (a - b) | (a & b) == a
    assert (a | a, a & a, a - a) == (a, a, EMPTY)
    assert json.dumps([a.root, b.root], sort_keys=True) == before


@QUICK
@given(SETS)
def test_decoding_undoes_encoding(a: FieldSet) -> None:
    assert FieldSet.decode(json.loads(json.dumps(a.root))) == a
    assert a.ordered() == a


@QUICK
@given(JSON)
def test_decoding_anything_gives_a_set_or_bad_fields(value: Any) -> None:
    try:
        fields = FieldSet.decode(value)
    except BadFields:
        return
    assert FieldSet.of(*fields) == fields
