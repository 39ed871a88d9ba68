"""Durations in Go's words; the expected values are those of Go's time package."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.kit import duration
from havre.kit.duration import DurationError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("5s", 5.0),
        ("1h30m", 5400.0),
        ("1.5m", 90.0),
        (".5s", 0.5),
        ("5.s", 5.0),
        ("-2m3.4s", -123.4),
        ("+1h", 3600.0),
        ("250ms", 0.25),
        ("10µs", 0.00001),
        ("10us", 0.00001),
        ("1h1h", 7200.0),
    ],
)
def test_a_text_has_so_many_seconds(text: str, seconds: float) -> None:
    assert duration.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "-", "s", ".", "-.", ".s", "1d", "1 s", "3000000h", "1h-1m", "+-1s", "٣s"])
def test_what_go_refuses_is_refused_in_its_words(text: str) -> None:
    with pytest.raises(DurationError, match=r"^time: invalid duration"):
        duration.parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (30, "30s"),
        (60, "1m0s"),
        (3600, "1h0m0s"),
        (5400.5, "1h30m0.5s"),
        (0.0015, "1.5ms"),
        (0.000002, "2µs"),
        (1e-9, "1ns"),
        (-61, "-1m1s"),
    ],
)
def test_seconds_have_the_text_of_go(seconds: float, text: str) -> None:
    assert duration.format(seconds) == text


@settings(max_examples=50, deadline=None)
@given(st.integers(-(10**9), 10**9))
def test_what_is_formatted_is_parsed_again(milliseconds: int) -> None:
    assert duration.nanoseconds(duration.format(milliseconds / 1000)) == milliseconds * 1_000_000


@settings(max_examples=50, deadline=None)
@given(st.text("0123456789.hmsnuµ+- x", max_size=20))
def test_any_other_text_is_a_duration_error(text: str) -> None:
    try:
        duration.parse(text)
    except DurationError:
        return
    assert text.lstrip("+-")[:1] in "0123456789."
