"""Merge patch: the table of RFC 7386 and what the API server adds."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang import mergepatch

VALUES = st.recursive(
    st.none() | st.integers(0, 3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("original", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({}, {"a": [None, {"b": None}]}, {"a": [None, {}]}),
        ({"a": {}}, {"a": [{"b": None}]}, {"a": [{"b": None}]}),
    ],
)
def test_a_patch_merges_as_the_standard_says(original: Any, patch: Any, result: Any) -> None:
    assert mergepatch.apply(original, patch) == result


@settings(max_examples=50)
@given(VALUES, VALUES)
def test_neither_argument_changes_and_applying_twice_is_applying_once(original: Any, patch: Any) -> None:
    before = copy.deepcopy((original, patch))
    once = mergepatch.apply(original, patch)
    assert (original, patch) == before
    assert mergepatch.apply(once, patch) == once or isinstance(patch, dict)


def test_what_the_patch_does_not_touch_is_shared_and_what_it_brings_is_not() -> None:
    original = {"kept": {"x": 1}, "changed": {"y": 1}}
    patch = {"changed": {"new": {"z": [1]}}}
    result = mergepatch.apply(original, patch)
    assert result["kept"] is original["kept"]
    result["changed"]["new"]["z"].append(2)
    assert patch == {"changed": {"new": {"z": [1]}}}
