"""Property names in expressions."""

from __future__ import annotations

import pytest

from havre.lang.cel.names import escape


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain_1", "plain_1"),
        ("foo-bar", "foo__dash__bar"),
        ("a.b/c", "a__dot__b__slash__c"),
        ("a__b", "a__underscores__b"),
        ("namespace", "__namespace__"),
        ("in", "__in__"),
        ("-x", "__dash__x"),
        ("1a", None),
        ("", None),
        ("a b", None),
        ("é", None),
    ],
)
def test_name_becomes_an_identifier_or_cannot_be_named(name: str, expected: str | None) -> None:
    assert escape(name) == expected
