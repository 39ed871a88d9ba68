"""Patterns are RE2's and take linear time."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang.structural.regex import PatternError, matcher


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("b", "abc", True),
        ("^a$", "a\n", False),
        (r"^\d+$", "٣", False),
        ("^[[:alpha:]]+$", "ab", True),
        ("^[[:alpha:]_]+$", "a1", False),
        (r"^\pL$", "é", True),
        (r"^\Qa.b\E$", "axb", False),
        ("(?i)^A$", "a", True),
        ("a{", "a{", True),
        ("^a{2}$", "aa", True),
    ],
)
def test_pattern_is_read_as_re2_reads_it(pattern: str, text: str, found: bool) -> None:
    assert matcher(pattern)(text) is found


@pytest.mark.parametrize("pattern", ["(", "a(?=b)", r"\1", "[z-a]", "(?:(?:(?:x{1000}){1000}){1000})"])
def test_what_re2_refuses_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        matcher(pattern)


def test_nested_repetition_does_not_stall() -> None:
    assert matcher("^(a+)+$")("a" * 10_000 + "b") is False


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20), st.text(max_size=10))
def test_any_pattern_is_compiled_or_refused(pattern: str, text: str) -> None:
    with contextlib.suppress(PatternError):
        assert matcher(pattern)(text) in (True, False)
