"""Compiling and evaluating one expression, within bounds."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang.cel.expression import (
    TEXT_MAX,
    CelError,
    OutOfBudget,
    activation,
    compile_expression,
    count,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("self.a ==", "compilation failed: ERROR: <input>:1:10: Syntax error"),
        ("'a' > 1", "found no matching overload for '_>_' applied to '(string, int)'"),
        ("nope(1)", "undeclared reference to 'nope'"),
        ("1 + 1", "cel expression must evaluate to a bool"),
        ("(" * 200 + "true" + ")" * 200, "nested brackets"),
        ("true" + " " * TEXT_MAX, "nested brackets"),
    ],
)
def test_expression_that_cannot_be_is_refused(text: str, words: str) -> None:
    with pytest.raises(CelError) as refused:
        compile_expression(text)
    assert words in str(refused.value)


def test_numbers_of_different_types_compare() -> None:
    assert compile_expression("1.5 > 1 && 1u < 2.0").evaluate(activation({})) is True


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / self.zero == 1", "division by zero"),
        ("self.nope == 1", "no such key: nope"),
        ("self.list[7] == 1", "index out of bounds: 7"),
        ("self.text > 1", "no such overload"),
    ],
)
def test_failure_has_the_words_of_cel_go(text: str, words: str) -> None:
    with pytest.raises(CelError) as failed:
        compile_expression(text).evaluate(activation({"zero": 0, "list": [1], "text": "a"}))
    assert str(failed.value) == words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("self == oldSelf", True),
        ("self == 'oldSelf'", False),
        ("self.oldSelf == 1", False),
        ("true // oldSelf", False),
        ("[1].all(x, oldSelf == x)", True),
    ],
)
def test_a_transition_rule_is_known_by_its_variable(text: str, expected: bool) -> None:
    assert compile_expression(text).uses_old_self is expected


def test_loops_within_loops_over_many_elements_are_refused_before_they_start() -> None:
    expression = compile_expression("self.all(x, self.all(y, self.all(z, x == y || y == z || true)))")
    value = list(range(300))
    with pytest.raises(OutOfBudget):
        expression.evaluate(activation(value), count(value))
    assert expression.loops == 3


def test_a_loop_after_a_loop_is_no_loop_within_a_loop() -> None:
    assert compile_expression("self.all(x, true) && self.filter(x, true).map(y, y).size() == 1").loops == 1


@pytest.mark.parametrize(("old", "expected"), [(None, True), (1, False)])
def test_optional_old_self_may_be_absent(old: int | None, expected: bool) -> None:
    expression = compile_expression("!oldSelf.hasValue()", optional_old_self=True)
    assert expression.evaluate(activation(2, old)) is expected


def test_elements_are_counted_to_the_last() -> None:
    assert count({"a": [1, 2], "b": {"c": "d"}}) == 6


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="self.old()[]{}'\"\\+-*/<>=!&|?:, 01ax\n", max_size=40))
def test_any_text_compiles_or_is_refused(text: str) -> None:
    with contextlib.suppress(CelError):
        compile_expression(text).evaluate(activation({"a": 1}))
