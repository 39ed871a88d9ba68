"""Rules against the types of a schema; refused and accepted as by kube-apiserver 1.34."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang.cel.expression import CelError
from havre.lang.cel.typecheck import checker
from havre.lang.schema import Compiler

RAW: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": "string"},
        "n": {"type": "integer"},
        "d": {"type": "number"},
        "at": {"type": "string", "format": "date-time"},
        "for": {"type": "string", "format": "duration"},
        "port": {"x-kubernetes-int-or-string": True},
        "list": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}}},
        "lists": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "foo_bar": {"type": "string"},
        "fooBar": {"type": "string"},
        "null": {"type": "string", "nullable": True},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    },
}
CHECK = checker(Compiler().compile(RAW))


@pytest.mark.parametrize(
    "text",
    [
        "self.a == 'x' && self.n > 1.5 && self.d < 2",
        "self.at > timestamp('2020-01-01T00:00:00Z') && self.__for__ <= duration('1h')",
        "self.port == 80 || self.port == '80%' || type(self.port) == string",
        "self.list.all(x, x.k.startsWith('a')) && self.lists[0][0] == 'x'",
        "self.map['x'] == 1 && self.map.all(k, self.map[k] > 0) && 'x' in self.map",
        "has(self.a) && self.?a.orValue('') == 'y' && self == oldSelf",
        "self.foo_bar == self.fooBar && self.__null__ == null && self.open.anything.goes == 1",
        "quantity(self.a).isGreaterThan(quantity('1')) && self.list.map(x, x.k).isSorted()",
    ],
)
def test_rule_that_fits_is_taken(text: str) -> None:
    CHECK(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("self.nope == 1", "undefined field 'nope'\n"),
        ("self.a == 1", "found no matching overload for '_==_' applied to '(string, int)'"),
        ("self.a", "cel expression must evaluate to a bool"),
        ("self.open", "cel expression must evaluate to a bool"),
        ("self.list.all(x, x.z == '')", "undefined field 'z'\n"),
        ("self.map['x'] == 'y'", "found no matching overload"),
    ],
)
def test_rule_that_does_not_fit_is_refused(text: str, words: str) -> None:
    with pytest.raises(CelError) as refused:
        CHECK(text)
    assert words in str(refused.value)


def test_message_is_a_text() -> None:
    CHECK("'n is ' + string(self.n)", "STRING")
    with pytest.raises(CelError, match="messageExpression must evaluate to a string"):
        CHECK("self.n", "STRING")


def test_whole_object_has_a_name() -> None:
    check = checker(Compiler().compile(RAW), root=True)
    check("self.metadata.name == 'a' && self.kind == 'K'")
    with pytest.raises(CelError, match="undefined field 'labels'"):
        check("self.metadata.labels == {}")


def test_optional_old_self_is_an_optional() -> None:
    CHECK("!oldSelf.hasValue() || oldSelf.value().a == self.a", optional_old_self=True)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"type": "string"}, "self.size() > 1"),
        ({"type": "array", "items": {"type": "integer"}}, "self.sum() > 1 && self[0] == 1"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "self.all(k, self[k] != '')"),
        ({"x-kubernetes-preserve-unknown-fields": True}, "self.a.b == 1"),
    ],
)
def test_rule_may_stand_at_any_type(raw: dict[str, Any], text: str) -> None:
    checker(Compiler().compile(raw))(text)


NAMES = st.text(alphabet="abAB_-./1é", min_size=1, max_size=4)
KINDS = st.sampled_from(["string", "integer", "object", "array", "number", ""])
SCHEMAS = st.recursive(
    st.fixed_dictionaries({"type": KINDS}),
    lambda inner: (
        st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(NAMES, inner, max_size=3)})
        | st.fixed_dictionaries({"type": st.just("object"), "additionalProperties": inner})
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner})
    ),
    max_leaves=5,
)


@settings(max_examples=25, deadline=None)
@given(SCHEMAS)
def test_any_schema_can_be_checked_against(raw: dict[str, Any]) -> None:
    checker(Compiler().compile(raw))("self == oldSelf")
