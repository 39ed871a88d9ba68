"""Canonical quantities, as the API server stores them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang.structural.quantity import QuantityError, canonical, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.5Gi", "1536Mi"),
        ("12e6", "12e6"),
        ("0.1", "100m"),
        ("1E", "1E"),
        ("1.0", "1"),
        ("1023Mi", "1023Mi"),
        ("1000Ki", "1000Ki"),
        ("0.5Ki", "512"),
        ("1.1Ki", "1126400m"),
        ("10000k", "10M"),
        ("1500000m", "1500"),
        ("-5m", "-5m"),
        ("0", "0"),
        ("0.1n", "1n"),
    ],
)
def test_quantity_has_one_text(text: str, expected: str) -> None:
    assert canonical(text) == expected


@pytest.mark.parametrize("text", ["", "x", "1x", "1ki", "--1", "1e", "1" * 2000, "1e99999", "١"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(QuantityError):
        parse(text)


@settings(max_examples=50)
@given(st.from_regex(r"[+-]?[0-9]{1,12}(\.[0-9]{1,6})?(Ki|Mi|Gi|n|u|m|k|M|G|e[0-9]|E)?", fullmatch=True))
def test_canonical_text_keeps_the_value(text: str) -> None:
    assert parse(canonical(text)).value == parse(text).value
    assert canonical(canonical(text)) == canonical(text)


def test_binary_and_decimal_units_are_exact() -> None:
    assert parse("1Ki").value == Fraction(1024)
    assert parse("1k").value == Fraction(1000)
