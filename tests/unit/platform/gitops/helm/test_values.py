"""Values as helm-controller merges them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.platform.gitops.helm import values
from havre.platform.gitops.helm.values import ValuesError


def test_maps_are_merged_and_everything_else_replaces() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert values.merged(base, {"a": {"c": [3]}, "d": None}) == {"a": {"b": 1, "c": [3]}, "d": None}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 1}


@pytest.mark.parametrize(
    ("path", "text", "result"),
    [
        ("a.b", "x", {"a": {"b": "x"}}),
        ("a", "12", {"a": 12}),
        ("a", "012", {"a": "012"}),
        ("a", "TRUE", {"a": True}),
        ("a", "null", {"a": None}),
        ("a", "'12'", {"a": "12"}),
        ("a", "{1,x}", {"a": [1, "x"]}),
        ("a", "1.5", {"a": "1.5"}),
        ("a[1].b", "x", {"a": [None, {"b": "x"}]}),
        (r"a\.b/c.d", "x", {"a.b/c": {"d": "x"}}),
        ("a[0][1]", "x", {"a": [[None, "x"]]}),
    ],
)
def test_a_target_path_is_that_of_set(path: str, text: str, result: Any) -> None:
    found: dict[str, Any] = {}
    values.put(found, path, text)
    assert found == result


def test_a_literal_stays_text() -> None:
    found: dict[str, Any] = {"a": {"b": 1}}
    values.put(found, "a.c", "{true}", literal=True)
    assert found == {"a": {"b": 1, "c": "{true}"}}


@pytest.mark.parametrize("path", ["", "a[", "a..b", ".a", "a[70000]", "a]b", ".".join("a" * 100)])
def test_a_path_that_cannot_be_is_refused(path: str) -> None:
    with pytest.raises(ValuesError, match="target path"):
        values.put({}, path, "x")


@pytest.mark.parametrize("text", ["a: [", "- a", "words"])
def test_values_are_a_mapping(text: str) -> None:
    with pytest.raises(ValuesError, match=r"values\.yaml"):
        values.read(text, "'values.yaml'")


def test_no_values_have_the_digest_of_nothing() -> None:
    assert values.digest({}) == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@given(st.text(alphabet="ab.[]\\01", max_size=20), st.text(max_size=10))
def test_any_path_is_obeyed_or_refused(path: str, text: str) -> None:
    with suppress(ValuesError):
        values.put({}, path, text)
