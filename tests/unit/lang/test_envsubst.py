"""Substitution of variables; the expected values are those of upstream's own tables and of bash."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang import envsubst
from havre.lang.envsubst import SubstitutionError, substitute

VARIABLES = {"x": "abcdef", "e": "", "p": "a/b/c.tar.gz", "u": "über", "s": "/srv/app"}


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("no variables", "no variables"),
        ("a${x}b${x}", "aabcdefbabcdef"),
        ("$x $(x) $ $", "$x $(x) $ $"),
        ("$${x} $$$${x}", "${x} $${x}"),
        ("${none:-d} ${none:=d} ${none=d} ${none:?d} ${none:+d}", "d d d d d"),
        ("${x:-d} ${e:-d} ${e:=}", "abcdef d "),
        ("${none:-a${x}z} ${none:-${e:-deep}}", "aabcdefz deep"),
        ("${x:1} ${x:1:2} ${x:-1:2}", "bcdef bc abcdef"),
        ("${x:0:-1} ${x:9} ${x:1:99} ${x:a}", "abcde  bcdef abcdef"),
        ("${#x} ${#u} ${#e}", "6 5 0"),
        ("${x^} ${x^^} ${u,,} ${u^^}", "Abcdef ABCDEF über ÜBER"),
        (
            "${x/b/Z} ${x/b/} ${p//\\//-} ${x/#ab/Q} ${x/%ef/Q} ${x/#b/Q}",
            "aZcdef acdef a-b-c.tar.gz Qcdef abcdQ abcdef",
        ),
        ("${p#*/} ${p##*/} ${p%.*} ${p%%.*} ${x#?} ${x%[ef]}", "b/c.tar.gz c.tar.gz a/b/c.tar a/b/c bcdef abcde"),
        ("${x#nope} ${e#*}", "abcdef "),
        ("multi\nline ${x}\n", "multi\nline abcdef\n"),
    ],
)
def test_a_text_becomes(text: str, made: str) -> None:
    assert substitute(text, VARIABLES) == made


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${none}", 'variable not set (strict mode): "none"'),
        ("${#none}", 'variable not set (strict mode): "none"'),
        ("${none^^}", 'variable not set (strict mode): "none"'),
        ("${}", "unable to parse variable name"),
        ("${", "unable to parse variable name"),
        ("${x", "missing closing brace"),
        ("${x-d}", "missing closing brace"),
        ("${x!}", "missing closing brace"),
        ("${x/b}", "bad substitution"),
        ("${x:}", "unable to parse substitution within function"),
        ("${x#}", "unable to parse substitution within function"),
        ("${x:-open", "unable to parse substitution within function"),
    ],
)
def test_a_text_is_refused_in_the_words_of_upstream(text: str, words: str) -> None:
    with pytest.raises(SubstitutionError) as caught:
        substitute(text, VARIABLES)
    assert words in str(caught.value)


def test_without_strictness_a_missing_variable_is_empty() -> None:
    assert substitute("a${none}b${#none}", {}, strict=False) == "ab0"


def test_depth_and_size_are_bounded() -> None:
    with pytest.raises(SubstitutionError, match="levels of defaults"):
        substitute("${a:-" * 100 + "}" * 100, {})
    with pytest.raises(SubstitutionError, match="too long for # and %"):
        substitute("${a#*}", {"a": "x" * 5000})


def test_values_may_not_make_a_huge_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envsubst, "MAX_TEXT", 1000)
    with pytest.raises(SubstitutionError, match="more than 1000 characters"):
        substitute("${a}" * 11, {"a": "x" * 100})


@settings(max_examples=50, deadline=None)
@given(st.text("${}x:-=?+#%/^,\\*[]1 ", max_size=30))
def test_any_text_is_substituted_or_refused(text: str) -> None:
    try:
        made = substitute(text, {"x": "value", "xx": ""})
    except SubstitutionError:
        return
    assert "$" in text or made == text
