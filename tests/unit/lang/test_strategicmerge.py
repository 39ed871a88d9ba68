"""Strategic merge: every directive, list strategy and complaint; the cases were compared with kube-apiserver 1.34."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang import strategicmerge
from havre.lang.schema import Compiler

STRING = {"type": "string"}


def merged_by(key: str, properties: dict[str, Any], strategy: str = "merge") -> dict[str, Any]:
    return {
        "type": "array",
        "items": {"type": "object", "properties": properties},
        "x-kubernetes-patch-strategy": strategy,
        "x-kubernetes-patch-merge-key": key,
    }


SCHEMA = Compiler().compile(
    {
        "type": "object",
        "properties": {
            "finalizers": {"type": "array", "items": STRING, "x-kubernetes-patch-strategy": "merge"},
            "args": {"type": "array", "items": STRING},
            "labels": {"type": "object", "additionalProperties": STRING},
            "strategy": {
                "type": "object",
                "properties": {"type": STRING, "rolling": {"type": "object"}},
                "x-kubernetes-patch-strategy": "retainKeys",
            },
            "whole": {"type": "object", "x-kubernetes-patch-strategy": "replace"},
            "volumes": merged_by("name", {"name": STRING}, "merge,retainKeys"),
            "containers": merged_by(
                "name",
                {
                    "name": STRING,
                    "image": STRING,
                    "env": merged_by("name", {"name": STRING, "value": STRING}),
                    "ports": merged_by("port", {"port": {"type": "integer"}, "protocol": STRING}),
                },
            ),
            "nokey": {"type": "array", "items": {"type": "object"}, "x-kubernetes-patch-strategy": "merge"},
        },
    }
)

A, B, C = ({"name": name, "image": f"{name}:1"} for name in "abc")
ABC = {"containers": [A, B, C]}


@pytest.mark.parametrize(
    ("original", "patch", "result"),
    [
        # objects
        ({"labels": {"a": "1", "b": "2"}}, {"labels": {"b": None, "c": "3"}}, {"labels": {"a": "1", "c": "3"}}),
        ({"labels": {"a": "1"}}, {"labels": None}, {}),
        ({}, {"labels": {"a": None, "b": "1"}}, {"labels": {"b": "1"}}),
        ({"labels": {"a": "1"}}, {"labels": {"$patch": "replace", "b": "2"}}, {"labels": {"b": "2"}}),
        ({"labels": {"a": "1"}}, {"labels": {"$patch": "delete"}}, {"labels": {}}),
        ({}, {"labels": {"$patch": "delete"}}, {}),
        ({"labels": "text"}, {"labels": {"$patch": "replace", "b": "2"}}, {}),
        ({"labels": "text"}, {"labels": {"b": "2"}}, {"labels": {"b": "2"}}),
        ({"a": 1}, {"$patch": "replace", "b": 2}, {"b": 2}),
        ({"a": 1}, {"$patch": "delete"}, {}),
        ({"whole": {"a": 1}}, {"whole": {"b": 1}}, {"whole": {"b": 1}}),
        ({"unknown": {"a": {"b": 1}}}, {"unknown": {"a": {"c": [1]}}}, {"unknown": {"a": {"b": 1, "c": [1]}}}),
        # lists that are replaced
        ({"args": ["a", "b"]}, {"args": ["c"]}, {"args": ["c"]}),
        ({"args": ["a"]}, {"args": []}, {"args": []}),
        ({"unknown": [{"name": "a"}]}, {"unknown": [{"name": "b", "x": None}]}, {"unknown": [{"name": "b"}]}),
        # sets of scalars
        ({"finalizers": ["a", "b"]}, {"finalizers": ["c"]}, {"finalizers": ["c", "a", "b"]}),
        ({"finalizers": ["a", "b"]}, {"finalizers": ["b"]}, {"finalizers": ["a", "b"]}),
        ({"finalizers": ["a", "b"]}, {"finalizers": []}, {"finalizers": ["a", "b"]}),
        ({"finalizers": []}, {"finalizers": []}, {"finalizers": []}),
        ({"finalizers": ["a", "b"]}, {"$deleteFromPrimitiveList/finalizers": ["a", "z"]}, {"finalizers": ["b"]}),
        ({"finalizers": ["a"]}, {"$deleteFromPrimitiveList/finalizers": None}, {}),
        ({}, {"$deleteFromPrimitiveList/finalizers": ["a"]}, {}),
        ({"args": ["a", "b"]}, {"$deleteFromPrimitiveList/args": ["a"]}, {"args": ["b"]}),
        (
            {"finalizers": ["a", "b"]},
            {
                "$deleteFromPrimitiveList/finalizers": ["a"],
                "$setElementOrder/finalizers": ["b", "c"],
                "finalizers": ["c"],
            },
            {"finalizers": ["b", "c"]},
        ),
        ({"finalizers": ["a", "b"]}, {"$setElementOrder/finalizers": ["b", "a"]}, {"finalizers": ["b", "a"]}),
        # lists merged by a key
        (ABC, {"containers": [{"name": "c", "image": "c:2"}]}, {"containers": [A, B, {"name": "c", "image": "c:2"}]}),
        (
            ABC,
            {"containers": [{"name": "z"}, {"name": "b", "x": 1}]},
            {"containers": [{"name": "z"}, A, {**B, "x": 1}, C]},
        ),
        (ABC, {"containers": [{"name": "b", "$patch": "delete"}]}, {"containers": [A, C]}),
        (ABC, {"containers": [{"name": "q"}, {"$patch": "replace"}]}, {"containers": [{"name": "q"}]}),
        (ABC, {"containers": [{"$patch": "replace"}]}, {"containers": []}),
        (
            {},
            {"containers": [{"name": "q", "x": None}, {"name": "b", "$patch": "delete"}]},
            {"containers": [{"name": "q"}]},
        ),
        (
            {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}]},
            {"containers": [{"name": "a", "env": [{"name": "X", "$patch": "delete"}, {"name": "Y", "value": None}]}]},
            {"containers": [{"name": "a", "env": [{"name": "Y"}]}]},
        ),
        (  # the merge key of ports is their number: the first of two that share it takes the change
            {
                "containers": [
                    {"name": "a", "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}
                ]
            },
            {"containers": [{"name": "a", "ports": [{"port": 53, "name": "dns"}]}]},
            {
                "containers": [
                    {
                        "name": "a",
                        "ports": [
                            {"port": 53, "protocol": "UDP", "name": "dns"},
                            {"port": 53, "protocol": "TCP"},
                        ],
                    }
                ]
            },
        ),
        (
            ABC,
            {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}]},
            {"containers": [C, A, B]},
        ),
        (
            ABC,
            {
                "$setElementOrder/containers": [{"name": "c"}, {"name": "x"}, {"name": "a"}],
                "containers": [{"name": "x"}, {"name": "b", "$patch": "delete"}],
            },
            {"containers": [C, {"name": "x"}, A]},
        ),
        (ABC, {"$setElementOrder/containers": [{"name": "b"}]}, ABC),
        ({}, {"$setElementOrder/containers": [{"name": "b"}]}, {}),
        (
            {},
            {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [A, B][::-1]},
            {"containers": [B, A]},
        ),
        # unions
        (
            {"strategy": {"type": "Rolling", "rolling": {}}},
            {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}},
            {"strategy": {"type": "Recreate"}},
        ),
        (
            {"volumes": [{"name": "v", "configMap": {}}]},
            {"volumes": [{"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]},
            {"volumes": [{"name": "v", "emptyDir": {}}]},
        ),
        (
            {"volumes": []},
            {"volumes": [{"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]},
            {"volumes": [{"name": "v", "emptyDir": {}}]},
        ),
    ],
)
def test_a_patch_merges(original: Any, patch: Any, result: Any) -> None:
    before = copy.deepcopy((original, patch))
    assert strategicmerge.apply(original, patch, SCHEMA) == result
    assert (original, patch) == before


@pytest.mark.parametrize(
    ("patch", "code", "message"),
    [
        ({"containers": [{"image": "q"}]}, 500, "map: map[image:q] does not contain declared merge key: name"),
        (
            {"containers": [{"$patch": "delete"}]},
            500,
            "map: map[$patch:delete] does not contain declared merge key: name",
        ),
        (
            {"containers": [{"name": "a", "$patch": "bogus"}]},
            500,
            "unknown patch type: bogus in map: map[$patch:bogus name:a]",
        ),
        ({"containers": [{"name": "a", "$patch": "merge"}]}, 500, "merging lists cannot yet be specified in the patch"),
        ({"$patch": "merge"}, 500, "unknown patch type: merge in map: map[$patch:merge]"),
        (
            {"$setElementOrder/containers": [{"name": "c"}], "containers": [{"name": "x"}]},
            500,
            "The order in patch list:\n[map[name:x]]\n doesn't match $setElementOrder list:\n[map[name:c]]\n",
        ),
        ({"$setElementOrder/containers": "b"}, 500, "expected a []interface {}, but received a string"),
        ({"$setElementOrder/labels": ["b"]}, 500, "expected a []interface {}, but received a map[string]interface {}"),
        ({"$setElementOrder/none": [{}]}, 500, 'unable to find api field for the json field "none"'),
        ({"$setElementOrderx": [{}]}, 400, "invalid patch format of setElementOrder list"),
        ({"$deleteFromPrimitiveListx": ["a"]}, 400, "invalid patch format of primitive list"),
        ({"$retainKeys": ["name"], "labels": {}}, 400, "invalid patch format of retainKeys"),
        ({"$retainKeys": "name"}, 400, "invalid patch format of retainKeys"),
        (
            {"containers": ["x"]},
            500,
            "list element types are not identical: [[map[image:a:1 name:a]] [x]]",
        ),
        ({"containers": [["x"]]}, 422, "lists of lists are not supported"),
        ({"nokey": [{"a": 1}]}, 500, "cannot merge lists without merge key"),
        ({"containers": [{"name": {}}]}, 500, "merge by map[]: only strings, numbers and booleans can be compared"),
    ],
)
def test_a_patch_that_cannot_be_merged_says_why(patch: Any, code: int, message: str) -> None:
    with pytest.raises(strategicmerge.PatchError) as error:
        strategicmerge.apply({"containers": [A], "labels": {}, "nokey": []}, patch, SCHEMA)
    assert (error.value.code, str(error.value)) == (code, message)


def test_untouched_parts_are_shared_and_brought_parts_are_copied() -> None:
    original = {"labels": {"a": "1"}, "containers": [A, B]}
    patch = {"containers": [{"name": "c", "args": ["x"]}]}
    result = strategicmerge.apply(original, patch, SCHEMA)
    assert result["labels"] is original["labels"]
    assert result["containers"][1] is A
    result["containers"][0]["args"].append("y")
    assert patch == {"containers": [{"name": "c", "args": ["x"]}]}


def test_true_and_one_are_different_elements() -> None:
    assert strategicmerge.apply({"finalizers": [True]}, {"finalizers": [True]}, SCHEMA) == {"finalizers": [True]}
    with pytest.raises(strategicmerge.PatchError, match="not identical"):
        strategicmerge.apply({"finalizers": [1]}, {"finalizers": [True]}, SCHEMA)


def test_a_long_list_merges_in_linear_time() -> None:
    items = [{"name": str(i)} for i in range(5000)]
    result = strategicmerge.apply({"containers": items}, {"containers": items[::-1]}, SCHEMA)
    assert result["containers"] == items[::-1]


KEYS = st.sampled_from(["finalizers", "labels", "containers", "volumes", "args", "name", "env"])
DIRECTIVES = st.sampled_from(
    [
        "$patch",
        "$retainKeys",
        "$setElementOrder/finalizers",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/args",
    ]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.sampled_from(["a", "b", "delete", "replace", 1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | DIRECTIVES, inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS | DIRECTIVES, VALUES, max_size=4)


@settings(max_examples=50)
@given(OBJECTS, OBJECTS)
def test_any_patch_merges_or_fails_with_the_one_error_and_changes_no_argument(original: Any, patch: Any) -> None:
    before = copy.deepcopy((original, patch))
    with contextlib.suppress(strategicmerge.PatchError):
        strategicmerge.apply(original, patch, SCHEMA)
    assert (original, patch) == before
