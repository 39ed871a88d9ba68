"""Objects as expressions see them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang.cel.functions import encoded
from havre.lang.cel.values import converter
from havre.lang.schema import Compiler

RAW: dict[str, Any] = {
    "type": "object",
    "properties": {
        "at": {"type": "string", "format": "date-time"},
        "for": {"type": "string", "format": "duration"},
        "raw": {"type": "string", "format": "byte"},
        "n": {"type": "number"},
        "list": {"type": "array", "items": {"type": "number"}},
        "x-y": {"type": "string"},
    },
}


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        ({"at": "2024-01-01T00:00:00Z"}, {"at": encoded(datetime(2024, 1, 1, tzinfo=UTC))}),
        ({"for": "1h30m"}, {"__for__": encoded(timedelta(minutes=90))}),
        ({"raw": "YQ=="}, {"raw": b"a"}),
        ({"n": 1, "list": [1, 2.5]}, {"n": 1.0, "list": [1.0, 2.5]}),
        ({"x-y": "a", "unknown": 1}, {"x__dash__y": "a", "unknown": 1}),
    ],
)
def test_value_has_the_type_of_its_schema(obj: dict[str, Any], expected: dict[str, Any]) -> None:
    convert = converter(Compiler().compile(RAW))
    assert convert is not None
    assert convert(obj) == expected


def test_schema_without_special_types_needs_no_conversion() -> None:
    assert converter(Compiler().compile({"type": "object", "properties": {"a": {"type": "string"}}})) is None


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from(sorted(RAW["properties"])),
        st.none() | st.text(max_size=12) | st.integers() | st.lists(st.text(max_size=3)),
    )
)
def test_a_value_of_the_wrong_type_is_passed_on(obj: dict[str, Any]) -> None:
    convert = converter(Compiler().compile(RAW))
    assert convert is not None
    assert len(convert(obj)) == len(obj)
