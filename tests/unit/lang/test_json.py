"""JSON: integers, depth, repeated keys and the words of the errors."""

from __future__ import annotations

import contextlib
import json as stdlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang import json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def test_integers_of_64_bits_stay_integers() -> None:
    assert json.loads(b"[9223372036854775807, -9223372036854775808]") == [9223372036854775807, -9223372036854775808]
    assert type(json.loads(b"9223372036854775807")) is int


@pytest.mark.parametrize("text", [b"9223372036854775808", b"18446744073709551615", b"-9223372036854775809"])
def test_a_number_beyond_64_signed_bits_is_a_float(text: bytes) -> None:
    value = json.loads(b'{"a": [' + text + b"]}")["a"][0]
    assert type(value) is float
    assert value == float(text)


def test_digits_in_strings_are_left_alone() -> None:
    assert json.loads(b'{"a": "18446744073709551615", "b": 1}') == {"a": "18446744073709551615", "b": 1}


def test_depth_has_a_limit_and_brackets_in_strings_do_not_count() -> None:
    assert json.dumps(json.loads(b"[" * 250 + b"]" * 250)) == b"[" * 250 + b"]" * 250
    with pytest.raises(json.JSONError, match="nests more than 250 levels"):
        json.loads(b"[" * 251 + b"]" * 251)
    with pytest.raises(json.JSONError, match="exceeded max depth"):
        json.loads(b"[" * 100_000)
    assert json.loads(b'"' + b"[" * 1000 + b'"') == "[" * 1000
    with pytest.raises(json.JSONError, match="more than 2 levels"):
        json.loads(b'{"a": {"b": {}}}', max_depth=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a":', "unexpected end of JSON input"),
        (b"", "unexpected end of JSON input"),
        (b"NaN", "invalid character 'N' looking for beginning of value"),
        (b'{"a":1}x', "invalid character 'x' after top-level value"),
        (b"{a:1}", "invalid character 'a' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b"[1,]", "invalid character ']' looking for beginning of value"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b"1e400", "json: cannot unmarshal number 1e400 into Go value of type float64"),
        (b'"\x01"', r"invalid character '\x01' in string literal"),
    ],
)
def test_errors_use_the_words_of_go(text: bytes, message: str) -> None:
    with pytest.raises(json.JSONError) as error:
        json.loads(text)
    assert error.value.message == message


def test_an_error_knows_its_position() -> None:
    with pytest.raises(json.JSONError) as error:
        json.loads('{"é": x}')
    assert error.value.position == 6
    assert "'x'" in error.value.message


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ('{"a": 1, "b": {"a": 1}}', []),
        ('{"a": 1, "a": 2, "a": 3}', ["a"]),
        ('{"metadata": {"name": "x", "name": "y"}, "data": {"a": "x", "a": "y"}}', ["metadata.name", "data.a"]),
        ('{"l": [{"x": 1}, {"x": 1, "x": [[{"y": 1, "y": 2}]]}]}', ["l[1].x", "l[1].x[0][0].y"]),
        ('{"a": {"b": 1, "b": 2}, "a": {}}', ["a.b", "a"]),
        (r'{"a": "\u0022", "a": "\u0022"}', ["a"]),
        (r'{"a": "\"", "\u0061": 1}', ["a"]),
        (r'{"a": "\u0022\u0022", "b": 1, "b": 2}', ["b"]),
        ("[1, " + "9" * 5000 + "]", []),
    ],
)
def test_repeated_keys_are_named_with_and_without_the_parsed_value(text: str, paths: list[str]) -> None:
    assert json.duplicate_keys(text) == paths
    if "9999" not in text:
        assert json.duplicate_keys(text, json.loads(text)) == paths


def test_at_most_a_hundred_repeated_keys_are_named() -> None:
    text = "{" + ",".join(f'"k{i}": 1, "k{i}": 2' for i in range(300)) + "}"
    assert len(json.duplicate_keys(text)) == 100


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(json.JSONError, match="not JSON serializable"):
        json.dumps({"a": object()})


def test_sorted_output_is_one_text_for_equal_values() -> None:
    assert json.dumps_sorted({"b": 1, "a": 2}) == b'{"a":2,"b":1}'
    assert json.dumps({"b": 1, "a": "é"}) == '{"b":1,"a":"é"}'.encode()


@settings(max_examples=50)
@given(VALUES)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert json.loads(json.dumps(value)) == value
    assert json.duplicate_keys(json.dumps(value), value) == []
    assert json.duplicate_keys(stdlib.dumps(value)) == []


@settings(max_examples=50)
@given(st.binary(max_size=40) | st.text(alphabet='{}[]":,01e.-u\\d8 \n', max_size=40))
def test_any_bytes_are_read_or_refused_with_the_one_error(data: bytes | str) -> None:
    for read in (json.loads, json.duplicate_keys):
        with contextlib.suppress(json.JSONError):
            read(data)


@pytest.mark.parametrize(
    ("value", "kind"),
    [({}, "object"), ([], "array"), ("", "string"), (1, "number"), (1.5, "number"), (True, "bool"), (None, "null")],
)
def test_values_are_called_as_go_calls_them(value: Any, kind: str) -> None:
    assert json.kind_of(value) == kind


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        (3.0, "3"),
        (-0.0, "-0"),
        (123456.5, "123456.5"),
        (1000000.0, "1e+06"),
        (1234567.5, "1.2345675e+06"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (1.5e300, "1.5e+300"),
        (float("inf"), "+Inf"),
        (float("nan"), "NaN"),
    ],
)
def test_floats_are_written_as_go_writes_them(value: float, text: str) -> None:
    assert json.go_float(value) == text
