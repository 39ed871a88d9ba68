"""Selectors of labels and fields: apimachinery's tables, and the words of the API server."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang.selector import (
    EVERYTHING,
    NOTHING,
    FieldSelector,
    LabelSelector,
    Requirement,
    SelectorError,
    escape,
)

FOO_BAZ = {"foo": "bar", "baz": "blah"}
NAME_REGEX = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
NAME_RULE = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
)
NAME_HELP = f"{NAME_RULE} (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{NAME_REGEX}')"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("x=a,y=b,z=c", "x=a,y=b,z=c"),
        ("", ""),
        ("x!=a,y=b", "x!=a,y=b"),
        ("x= ,z= ", "x=,z="),
        ("!x", "!x"),
        ("x>1,z<5", "x>1,z<5"),
        ("x=a,a=x", "a=x,x=a"),
        ("x==a", "x==a"),
        ("x notin (abc,,def),bar,z in (),w", "bar,w,x notin (,abc,def),z in ()"),
        ("x in (def, abc,)", "x in (,abc,def)"),
        ("0.1.2.domain/99 notin (10.10.100.1, tick.tack.clock)", "0.1.2.domain/99 notin (10.10.100.1,tick.tack.clock)"),
        ("\rx\n", "x"),
        ("a in (in,notin)", "a in (in,notin)"),
        ("in in (x)", "in in (x)"),
        ("x in (a,a)", "x in (a)"),
        ("x,", None),
        ("x,y in (a)", "x,y in (a)"),
    ],
)
def test_a_selector_is_written_in_one_canonical_form(text: str, canonical: str | None) -> None:
    if canonical is None:
        with pytest.raises(SelectorError):
            LabelSelector.parse(text)
    else:
        assert str(LabelSelector.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "labels", "wanted"),
    [
        ("", {"x": "y"}, True),
        ("x=y,z=w", {"x": "y", "z": "w"}, True),
        ("x=y,z=w", {"x": "w", "z": "w"}, False),
        ("x!=y,z!=w", {"x": "z", "z": "a"}, True),
        ("x!=y,z!=w", {"x": "z", "z": "w"}, False),
        ("notin=in", {"notin": "in"}, True),
        ("x", {"x": "z"}, True),
        ("x", {"y": "z"}, False),
        ("!x", {"y": "z"}, True),
        ("!x", {"x": "z"}, False),
        ("x>1", {"x": "2"}, True),
        ("x>1", {"x": "0"}, False),
        ("x<1", {"x": "0"}, True),
        ("x<1", {"x": "2"}, False),
        ("x>1", {"x": "v2"}, False),
        ("x>1", {"x": "9223372036854775808"}, False),
        ("x>1", {}, False),
        ("x=", {"x": ""}, True),
        ("x=", {}, False),
        ("x=z", {}, False),
        ("x notin (a)", {}, True),
        ("x notin ()", {"x": ""}, False),
        ("x in (a,b)", {"x": "b"}, True),
        ("x in (a,b)", {"x": "c"}, False),
        ("x in ()", {"x": ""}, True),
        ("foo=bar,baz=blah,foo!=x", FOO_BAZ, True),
        ("foo=bar,foobar=bar,baz=blah", FOO_BAZ, False),
    ],
)
def test_a_label_selector_picks_by_labels(text: str, labels: dict[str, str], wanted: bool) -> None:
    assert LabelSelector.parse(text).matches(labels) is wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a in", "unable to parse requirement: found '' expected: '('"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("!!a", "unable to parse requirement: found '!', expected: identifier"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a in (b c)", "unable to parse requirement: found 'c', expected: ',' or ')'"),
        ("a in (,", "unable to parse requirement: found '', expected: ',', or identifier"),
        ("a in (=)", "unable to parse requirement: found '=', expected: ',', ')' or identifier"),
        ("a!", "unable to parse requirement: found '!', expected: in, notin, =, ==, !=, gt, lt"),
        ("!x=a", "found '=', expected: ',' or 'end of string'"),
        ("x==a==b", "found '==', expected: ',' or 'end of string'"),
        ("x=(", "unable to parse requirement: found '(', expected: identifier"),
        ("=", "found '=', expected: !, identifier, or 'end of string'"),
        ("x,", "found '', expected: identifier after ','"),
        ("x a", "unable to parse requirement: found 'a', expected: in, notin, =, ==, !=, gt, lt"),
        ("-a", f'unable to parse requirement: <nil>: Invalid value: "-a": name part {NAME_HELP}'),
        (
            "a>b",
            'unable to parse requirement: values[0]: Invalid value: "b": '
            "for 'Gt', 'Lt' operators, the value must be an integer",
        ),
        (
            "a=$",
            'unable to parse requirement: values[0][a]: Invalid value: "$": a valid label must be an empty string or '
            "consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
            f"character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '({NAME_REGEX})?')",
        ),
    ],
)
def test_a_bad_label_selector_is_refused_in_the_words_of_the_api_server(text: str, message: str) -> None:
    with pytest.raises(SelectorError) as error:
        LabelSelector.parse(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("selector", "canonical"),
    [
        ({}, ""),
        ({"matchLabels": {"foo": "bar"}}, "foo=bar"),
        (
            {
                "matchLabels": {"foo": "bar"},
                "matchExpressions": [{"key": "baz", "operator": "In", "values": ["qux", "norf"]}],
            },
            "baz in (norf,qux),foo=bar",
        ),
        (
            {
                "matchExpressions": [
                    {"key": "a", "operator": "Exists"},
                    {"key": "b", "operator": "DoesNotExist", "values": None},
                    {"key": "c", "operator": "NotIn", "values": ["x"]},
                ]
            },
            "a,!b,c notin (x)",
        ),
    ],
)
def test_the_selector_of_an_object_reads_as_the_text_does(selector: dict[str, Any], canonical: str) -> None:
    assert str(LabelSelector.of(selector)) == canonical


def test_no_selector_selects_nothing_and_an_empty_one_everything() -> None:
    assert LabelSelector.of(None) is NOTHING
    assert not NOTHING.matches({})
    assert not NOTHING.everything
    assert LabelSelector.of({}) == EVERYTHING
    assert EVERYTHING.everything
    assert LabelSelector.of_labels(None).everything


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"key": "a", "operator": "Is"}, '"Is" is not a valid label selector operator'),
        (
            {"key": "a", "operator": "Exists", "values": ["x"]},
            'values: Invalid value: ["x"]: values set must be empty for exists and does not exist',
        ),
        (
            {"key": "a", "operator": "In"},
            "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
        ),
    ],
)
def test_an_object_with_a_bad_expression_is_refused(term: dict[str, Any], message: str) -> None:
    with pytest.raises(SelectorError) as error:
        LabelSelector.of({"matchExpressions": [term]})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("requirement", "paths"),
    [
        (Requirement("x", "in", ("foo",)), []),
        (Requirement("x", "notin"), ["values"]),
        (Requirement("x", "=", ("bar", "foo")), ["values"]),
        (Requirement("x", "gt"), ["values"]),
        (Requirement("x", "lt", ("bar",)), ["values[0]"]),
        (Requirement("a" * 254, "exists"), ["key"]),
        (Requirement("x", "=", ("a b",)), ["values[0][x]"]),
        (Requirement("x", "unsupported"), ["operator"]),
    ],
)
def test_a_requirement_names_the_place_of_its_problems(requirement: Requirement, paths: list[str]) -> None:
    assert [problem.path for problem in requirement.problems()] == paths


def test_the_one_value_that_a_selector_requires_is_known() -> None:
    selector = LabelSelector.parse("a=x,b in (y),c in (y,z),d")
    assert [selector.requires(key) for key in "abcde"] == ["x", "y", None, None, None]
    fields = FieldSelector.parse("a=x,b!=y")
    assert [fields.requires(key) for key in "abc"] == ["x", None, None]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        ("a=avalue,b==bvalue,c!=cvalue", [("a", "avalue", True), ("b", "bvalue", True), ("c", "cvalue", False)]),
        ("b=1,,a=2,", [("a", "2", True), ("b", "1", True)]),
        (r"k=\,,k2=v2", [("k2", "v2", True), ("k", ",", True)]),
        (r"k=\\,k2=v2", [("k2", "v2", True), ("k", "\\", True)]),
        (r"k=\\\,,k2=v2", [("k2", "v2", True), ("k", "\\,", True)]),
        (r"x=a||y\=b", [("x", "a||y=b", True)]),
        ("함=수,목=록", [("목", "록", True), ("함", "수", True)]),
        ("=x", [("", "x", True)]),
        ("a=", [("a", "", True)]),
    ],
)
def test_a_field_selector_is_split_into_terms(text: str, terms: list[tuple[str, str, bool]]) -> None:
    assert list(FieldSelector.parse(text).terms) == terms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "invalid selector: 'a'; can't understand 'a'"),
        ("x=a,b", "invalid selector: 'x=a,b'; can't understand 'b'"),
        (r"k=\x", r"invalid field selector: invalid escape sequence: \x"),
        ("k=\\", "invalid field selector: invalid escape sequence: \\"),
        ("x=a||y=b", "invalid field selector: unescaped character in value: 61"),
        ("x==a==b", "invalid field selector: unescaped character in value: 61"),
    ],
)
def test_a_bad_field_selector_is_refused_in_the_words_of_the_api_server(text: str, message: str) -> None:
    with pytest.raises(SelectorError) as error:
        FieldSelector.parse(text)
    assert str(error.value) == message


def test_a_field_selector_asks_only_for_the_fields_it_needs() -> None:
    selector = FieldSelector.parse("metadata.name=x,status.phase!=Running")
    assert selector.matches({"metadata.name": "x", "status.phase": "Pending"}.__getitem__)
    assert not selector.matches({"metadata.name": "x", "status.phase": "Running"}.__getitem__)
    assert not selector.matches({"metadata.name": "y"}.__getitem__)
    assert str(selector.narrowed("a", "b")) == "metadata.name=x,status.phase!=Running,a=b"
    assert FieldSelector.parse("").everything


@settings(max_examples=50)
@given(st.text(), st.text())
def test_any_value_can_be_selected_once_escaped(value: str, other: str) -> None:
    selector = FieldSelector.parse(f"f={escape(value)}")
    assert selector.terms == (("f", value, True),)
    assert FieldSelector.parse(str(selector)) == selector
    assert selector.matches(lambda _: other) is (other == value)


WORDS = st.sampled_from(["a", "b", "in", "notin", "1", "22", "x.y/z"])
REQUIREMENTS = st.one_of(
    st.builds(Requirement, WORDS, st.sampled_from(["=", "==", "!="]), st.tuples(WORDS.filter(lambda w: "/" not in w))),
    st.builds(Requirement, WORDS, st.sampled_from(["in", "notin"]), st.just(("a", "b"))),
    st.builds(Requirement, WORDS, st.sampled_from(["gt", "lt"]), st.tuples(st.sampled_from(["1", "007"]))),
    st.builds(Requirement, WORDS, st.sampled_from(["exists", "!"])),
)


@settings(max_examples=50)
@given(st.lists(REQUIREMENTS, max_size=4), st.dictionaries(WORDS, WORDS, max_size=3))
def test_a_written_selector_reads_back_and_holds_if_each_part_holds(
    parts: list[Requirement], labels: dict[str, str]
) -> None:
    text = ",".join(map(str, parts))
    selector = LabelSelector.parse(text)
    assert str(LabelSelector.parse(str(selector))) == str(selector)
    assert selector.matches(labels) is all(LabelSelector((part,)).matches(labels) for part in parts)


@settings(max_examples=50)
@given(st.text(alphabet="ab,=!()<> in\t\\\0é", max_size=30))
def test_any_text_is_read_or_refused_with_the_one_error(text: str) -> None:
    for parse in (LabelSelector.parse, FieldSelector.parse):
        with contextlib.suppress(SelectorError):
            parse(text)
