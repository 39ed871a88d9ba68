"""JSON Patch: the examples of RFC 6902, the ways of the API server, and that no argument ever changes."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang import jsonpatch


def patched(document: Any, *operations: Any) -> Any:
    return jsonpatch.apply(document, jsonpatch.parse(list(operations)))


def add(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


@pytest.mark.parametrize(
    ("document", "operation", "result"),
    [
        ({"a": 1}, add("/b", 2), {"a": 1, "b": 2}),
        ({"a": [1, 3]}, add("/a/1", 2), {"a": [1, 2, 3]}),
        ({"a": [1]}, add("/a/-", 2), {"a": [1, 2]}),
        ({"a": [1]}, add("/a/-1", 2), {"a": [1, 2]}),
        ({"a": [1]}, add("/a/-2", 2), {"a": [2, 1]}),
        ({"a": [1]}, add("/a/1", [2]), {"a": [1, [2]]}),
        ({"a": 1}, {"op": "add", "path": "/b"}, {"a": 1, "b": None}),
        ({"a/b": {"m~n": 1}}, add("/a~1b/m~0n", 2), {"a/b": {"m~n": 2}}),
        ({"a": 1}, add("ignored/a", 2), {"a": 2}),
        ({"a": 1}, add("/", 2), {"a": 1, "": 2}),
        ([1], add("/0", 0), [0, 1]),
        ({"a": 1, "b": 2}, {"op": "remove", "path": "/b"}, {"a": 1}),
        ({"a": [1, 2, 3]}, {"op": "remove", "path": "/a/1"}, {"a": [1, 3]}),
        ({"a": [1, 2, 3]}, {"op": "remove", "path": "/a/-1"}, {"a": [1, 2]}),
        ({"a": 1}, {"op": "replace", "path": "/a", "value": 2}, {"a": 2}),
        ({"a": 1}, {"op": "replace", "path": "/new", "value": 2}, {"a": 1, "new": 2}),
        ({"a": [1, 2]}, {"op": "replace", "path": "/a/1", "value": 3}, {"a": [1, 3]}),
        ({"a": 1}, {"op": "replace", "path": "", "value": {"b": 1}}, {"b": 1}),
        ({"a": 1}, {"op": "replace", "path": "", "value": 5}, {"a": 1}),
        ({"a": {"x": 1}, "b": {}}, {"op": "move", "from": "/a/x", "path": "/b/y"}, {"a": {}, "b": {"y": 1}}),
        ({"a": [1, 2, 3]}, {"op": "move", "from": "/a/0", "path": "/a/2"}, {"a": [2, 3, 1]}),
        ({"a": {"x": 1}}, {"op": "copy", "from": "/a", "path": "/b"}, {"a": {"x": 1}, "b": {"x": 1}}),
        ({"a": 1}, {"op": "copy", "from": "/none", "path": "/b"}, {"a": 1, "b": None}),
        ({"a": {"x": [1, None]}}, {"op": "test", "path": "/a", "value": {"x": [1, None]}}, {"a": {"x": [1, None]}}),
        ({"a": 1}, {"op": "test", "path": "/none", "value": None}, {"a": 1}),
        ({"a": 1}, {"op": "test", "path": "", "value": {"a": 1}}, {"a": 1}),
    ],
)
def test_an_operation_changes_the_document(document: Any, operation: Any, result: Any) -> None:
    assert patched(document, operation) == result


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ({}, "Unexpected kind: unknown"),
        (None, "Unexpected kind: unknown"),
        ({"op": "foo", "path": "/a"}, "Unexpected kind: foo"),
        ({"op": "add"}, "add operation failed to decode path: missing value"),
        (add("x", 1), 'add operation does not apply: doc is missing path: "x": missing value'),
        (add("/x/y", 1), 'add operation does not apply: doc is missing path: "/x/y": missing value'),
        (add("/s/y", 1), 'add operation does not apply: doc is missing path: "/s/y": missing value'),
        (
            add("/l/3", 1),
            "error in add for path: '/l/3': Unable to access invalid index: 3: invalid index referenced",
        ),
        (
            add("/l/-4", 1),
            "error in add for path: '/l/-4': Unable to access invalid index: -4: invalid index referenced",
        ),
        (
            add("/l/x", 1),
            "error in add for path: '/l/x': value was not a proper array index: 'x': "
            'strconv.Atoi: parsing "x": invalid syntax',
        ),
        (
            {"op": "remove", "path": "/none"},
            "error in remove for path: '/none': Unable to remove nonexistent key: none: missing value",
        ),
        (
            {"op": "remove", "path": "/l/2"},
            "error in remove for path: '/l/2': Unable to access invalid index: 2: invalid index referenced",
        ),
        (
            {"op": "replace", "path": "/l/2", "value": 1},
            "replace operation does not apply: doc is missing key: /l/2: missing value",
        ),
        (
            {"op": "replace", "path": "/x/y", "value": 1},
            "replace operation does not apply: doc is missing path: /x/y: missing value",
        ),
        (
            {"op": "replace"},
            "replace operation failed to decode path: operation missing path field: missing value",
        ),
        (
            {"op": "move", "path": "/x"},
            "move operation failed to decode from: operation, missing from field: missing value",
        ),
        (
            {"op": "move", "path": "/x", "from": "/none"},
            "error in move for path: 'none': Unable to remove nonexistent key: none: missing value",
        ),
        (
            {"op": "copy", "path": "/x/y/z", "from": "/s"},
            "copy operation does not apply: doc is missing destination path: /x/y/z: missing value",
        ),
        ({"op": "test", "path": "/s", "value": "other"}, "testing value /s failed: test failed"),
        ({"op": "test", "path": "/s"}, "testing value /s failed: test failed"),
        ({"op": "test", "path": "/one", "value": True}, "testing value /one failed: test failed"),
        ({"op": "test", "path": "/one", "value": 1.0}, "testing value /one failed: test failed"),
        ({"op": "test", "path": "/none"}, "testing value /none failed: test failed"),
        (
            {"op": "test", "path": "/x/y", "value": 1},
            "test operation does not apply: is missing path: /x/y: missing value",
        ),
    ],
)
def test_an_operation_that_does_not_apply_says_why(operation: Any, message: str) -> None:
    with pytest.raises(jsonpatch.PatchError) as error:
        patched({"s": "text", "l": [1, 2], "one": 1}, operation)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"),
        ("x", "json: cannot unmarshal string into Go value of type []handlers.jsonPatchOp"),
        ([1], "json: cannot unmarshal number into Go value of type handlers.jsonPatchOp"),
        ([{"op": 1}], "json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string"),
        (
            [{"op": "add", "path": []}],
            "json: cannot unmarshal array into Go struct field jsonPatchOp.path of type string",
        ),
        ([{}] * 10_001, "The allowed maximum operations in a JSON patch is 10000, got 10001"),
    ],
)
def test_what_is_no_patch_is_refused_in_the_words_of_the_api_server(raw: Any, message: str) -> None:
    with pytest.raises(jsonpatch.PatchError) as error:
        jsonpatch.parse(raw)
    assert str(error.value) == message


def test_no_patch_at_all_changes_nothing() -> None:
    document = {"a": 1}
    assert jsonpatch.apply(document, jsonpatch.parse(None)) is document


def test_untouched_parts_are_shared_with_the_original() -> None:
    document = {"kept": {"x": [1]}, "changed": {"y": [1]}}
    result = patched(document, add("/changed/y/-", 2))
    assert result["kept"] is document["kept"]
    assert document == {"kept": {"x": [1]}, "changed": {"y": [1]}}


def test_a_copied_value_does_not_change_with_its_source() -> None:
    operations = [
        add("/a/x", 1),
        {"op": "copy", "from": "/a", "path": "/b"},
        add("/a/y", 2),
        add("/b/z", 3),
    ]
    assert patched({"a": {}}, *operations) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "z": 3}}


def test_copies_cannot_grow_without_bound() -> None:
    doubling = [{"op": "copy", "from": "/a", "path": "/a/-"}] * 40
    with pytest.raises(jsonpatch.PatchError, match="accumulated size increase of copy is"):
        patched({"a": ["x" * 1000]}, *doubling)


def test_a_patch_cannot_dig_deeper_than_documents_may_nest() -> None:
    digging = [add("/a" * depth, {}) for depth in range(1, 300)]
    with pytest.raises(jsonpatch.PatchError, match="would nest more than 250 levels"):
        patched({}, *digging)
    with pytest.raises(jsonpatch.PatchError, match="Recursion limit"):
        patched({}, *digging, {"op": "copy", "from": "/a", "path": "/b"})


def test_the_patch_is_not_changed_by_who_goes_on_with_the_result() -> None:
    operations = jsonpatch.parse([add("/a", {"x": []}), add("/a/x/-", 1)])
    assert jsonpatch.apply({}, operations) == {"a": {"x": [1]}}
    jsonpatch.apply({}, operations)["a"]["x"].append(2)
    assert jsonpatch.apply({}, operations) == {"a": {"x": [1]}}


PATHS = st.sampled_from(["", "/", "/a", "/a/b", "/a/0", "/l", "/l/-", "/l/1", "/l/0/x", "x"])
VALUES = st.sampled_from([None, 1, "s", {}, {"b": {"c": 1}}, [], [1, {"x": 2}]])
OPERATIONS = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "no"])},
    optional={"path": PATHS, "from": PATHS, "value": VALUES},
)


@settings(max_examples=50)
@given(st.lists(OPERATIONS, max_size=8))
def test_any_patch_applies_or_fails_with_the_one_error_and_changes_no_argument(operations: list[Any]) -> None:
    document = {"a": {"b": {"c": [1]}}, "l": [{"x": {}}, 2]}
    before = copy.deepcopy((document, operations))
    with contextlib.suppress(jsonpatch.PatchError):
        patched(document, *operations)
    assert (document, operations) == before
