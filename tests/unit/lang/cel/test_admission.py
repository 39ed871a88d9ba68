"""Expressions about requests: variables, the authorizer, bounds, and types when they are written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.lang.cel.admission import Composition, Evaluation, Inputs, compile_condition, failed
from havre.lang.cel.admission_types import Checker
from havre.lang.cel.authorizer import Answer, Question
from havre.lang.cel.expression import CelError, OutOfBudget

POD: dict[str, Any] = {"metadata": {"name": "web"}, "spec": {"replicas": 3, "images": ["a", "b"]}}


def nobody(_question: Question) -> Answer:
    return Answer(False)


def value(text: str, *variables: tuple[str, str], ask: Any = nobody, **values: Any) -> Any:
    composition = Composition(variables)
    inputs = Inputs({"object": POD, **values}, Question(resource="pods", namespace="shop", name="web"))
    return Evaluation(inputs, ask, composition).evaluate(composition.compile(text))


def test_objects_are_seen_as_they_are() -> None:
    assert value("object.spec.replicas > 2 && oldObject == null && params == null") is True


def test_variables_may_read_those_before_them() -> None:
    assert value("variables.b", ("a", "object.spec.replicas + 1"), ("b", "variables.a * 2")) == 8


@pytest.mark.parametrize(
    ("made", "read", "expected"),
    [
        ("object.metadata.?labels", "variables.v.orValue({}).size()", 0),
        ("timestamp('2030-01-02T00:00:00Z')", "variables.v.getFullYear()", 2030),
        ("[duration('90s')]", "variables.v[0].getMinutes()", 1),
        ("quantity('2k')", "variables.v.asInteger()", 2000),
        ("{'a': [1]}", "variables.v.a[0]", 1),
        ("b'xy'", "size(variables.v)", 2),
        ("null", "variables.v == null", True),
    ],
)
def test_a_variable_may_be_of_any_type(made: str, read: str, expected: Any) -> None:
    assert value(read, ("v", made)) == expected


def test_a_variable_fails_only_when_it_is_read() -> None:
    broken = ("v", "object.nope.x")
    assert value("true || variables.v == 1", broken) is True
    assert value("'variables.v' == 'variables.v'", broken) is True
    with pytest.raises(CelError, match='composited variable "v" fails to evaluate: no such key: nope'):
        value("variables.v == 1", broken)
    with pytest.raises(CelError, match='composited variable "v" fails to evaluate: no such key: nope'):
        value("has(variables.v)", broken)


def test_a_variable_is_evaluated_once() -> None:
    asked: list[Question] = []

    def ask(question: Question) -> Answer:
        asked.append(question)
        return Answer(True)

    check = ("v", "authorizer.path('/x').check('get').allowed()")
    assert value("variables.v && variables.v && has(variables.v)", check, ask=ask) is True
    assert len(asked) == 1


def test_a_variable_that_does_not_exist_does_not_compile() -> None:
    with pytest.raises(CelError, match="undefined field 'later'"):
        value("variables.v", ("a", "1"), ("v", "1")) and Composition([("a", "1")]).compile("variables.later")


def test_the_authorizer_collects_a_question() -> None:
    asked: list[Question] = []

    def ask(question: Question) -> Answer:
        asked.append(question)
        return Answer(question.verb == "get", "because", "" if question.verb == "get" else "broken")

    apps = "authorizer.group('apps').resource('deployments').subresource('scale').namespace('x').name('y')"
    assert value(f"{apps}.check('get').allowed()", ask=ask) is True
    assert value("authorizer.requestResource.check('put').error()", ask=ask) == "broken"
    assert value("authorizer.serviceAccount('ns', 'sa').path('/healthz').check('get').reason()", ask=ask) == "because"
    assert asked == [
        Question(verb="get", group="apps", resource="deployments", subresource="scale", namespace="x", name="y"),
        Question(verb="put", resource="pods", namespace="shop", name="web"),
        Question(account="ns/sa", verb="get", path="/healthz"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("authorizer.path(' ').check('get').allowed()", "path must not be empty"),
        ("authorizer.group('').resource('')", "resource must not be empty"),
        ("authorizer.serviceAccount('a.b', 'c')", "Invalid service account namespace"),
        ("authorizer.serviceAccount('a', '@')", "Invalid service account name"),
        ("authorizer.allowed()", "no such overload"),
        ("object.data.x == 1", "no such key: data"),
        ("oldObject.spec.x == 1", "no such key: spec"),
        ("object.metadata.name.x == 1", "no such key"),
        ("object.spec.replicas + 'x' == ''", "no such overload"),
        ("variable_('x') == 1", 'composited variable "x" fails to compile: no such variable'),
        ("int(object.metadata.name) == 1", "type conversion error from 'string' to 'int'"),
    ],
)
def test_failures_are_worded_as_upstream_does(text: str, words: str) -> None:
    with pytest.raises(CelError) as caught:
        value(text)
    assert str(caught.value) == words
    assert failed(compile_condition(text), caught.value) == f"expression '{text}' resulted in error: {words}"


def test_loops_within_loops_are_bounded_by_what_they_could_run_over() -> None:
    many = {"l": list(range(10_000))}
    with pytest.raises(OutOfBudget, match="running out of cost budget"):
        value("object.l.all(x, object.l.all(y, x == y))", object=many)
    with pytest.raises(OutOfBudget):
        value("variables.v.all(x, variables.v.all(y, x == y))", *_doubling(13))


def _doubling(times: int) -> list[tuple[str, str]]:
    """Variables, the last of which has 2^times elements and is called `v`."""
    steps = [("s0", "[1]")] + [(f"s{i}", f"variables.s{i - 1} + variables.s{i - 1}") for i in range(1, times)]
    return [*steps, ("v", f"variables.s{times - 1} + variables.s{times - 1}")]


def test_a_variable_may_not_grow_without_end() -> None:
    with pytest.raises(CelError, match="its value is too large"):
        value("variables.v.size() > 0", ("s", "'x'"), *_texts(23))


def _texts(times: int) -> list[tuple[str, str]]:
    steps = [("t0", "'x'")] + [(f"t{i}", f"variables.t{i - 1} + variables.t{i - 1}") for i in range(1, times)]
    return [*steps, ("v", f"variables.t{times - 1} + variables.t{times - 1}")]


def test_variables_are_bounded_in_number_and_depth() -> None:
    chain = [("v0", "1"), *((f"v{i}", f"variables.v{i - 1}") for i in range(1, 65))]
    assert value("variables.v63", *chain) == 1
    with pytest.raises(CelError, match="more than 64 variables read one another"):
        value("variables.v64", *chain)
    with pytest.raises(CelError, match="more than 256 variables"):
        value("variables.v256", *((f"v{i}", "1") for i in range(257)))


@settings(max_examples=50, deadline=None)
@given(st.text("variables.ab'\"()[]{} has=1?:", max_size=40))
def test_any_text_compiles_or_is_refused(text: str) -> None:
    try:
        Composition([("a", "1"), ("b", "object.?a")]).compile(text)
        checker = Checker()
        checker.declare("a", "1")
        checker.check(text, "bool")
    except CelError:
        pass


def refusal(text: str, *returns: str, params: bool = False, authorizer_known: bool = True) -> str:
    checker = Checker(params=params)
    checker.declare("a", "1")
    checker.declare("o", "object.?x")
    with pytest.raises(CelError) as caught:
        checker.check(text, *(returns or ("bool",)), authorizer_known=authorizer_known)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("object.spec.paused", "must evaluate to bool but got dyn"),
        ("request.operation", "must evaluate to bool but got string"),
        ("[1]", "must evaluate to bool but got list(int)"),
        ("{'a': 1}", "must evaluate to bool but got map(string, int)"),
        ("request", "must evaluate to bool but got kubernetes.AdmissionRequest"),
        ("authorizer.group('x')", "must evaluate to bool but got kubernetes.authorization.GroupCheck"),
        ("timestamp('2020-01-01T00:00:00Z')", "must evaluate to bool but got google.protobuf.Timestamp"),
        ("null", "must evaluate to bool but got null_type"),
        ("object.?x", "must evaluate to bool but got optional_type(dyn)"),
        ("variables.a", "must evaluate to bool but got int"),
    ],
)
def test_the_type_of_an_expression_is_named_as_upstream_does(text: str, words: str) -> None:
    assert refusal(text) == words


def test_a_value_may_be_one_of_several_types() -> None:
    assert refusal("1", "string", "null_type") == "must evaluate to one of [string null_type] but got int"


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("request.foo == 'a'", 8, "undefined field 'foo'"),
        ("namespaceObject.metadata.uid == ''", 25, "undefined field 'uid'"),
        ("variables.nope", 10, "undefined field 'nope'"),
        ("params.x == 1", 1, "undeclared reference to 'params' (in container '')"),
        ("nope", 1, "undeclared reference to 'nope' (in container '')"),
        ("object.", 8, "Syntax error: no viable alternative at input '.'"),
        ("variables.a == 'x'", 13, "found no matching overload for '_==_' applied to '(int, string)'"),
        (
            "authorizer.allowed()",
            19,
            "found no matching overload for 'allowed' applied to 'kubernetes.authorization.Authorizer.()'",
        ),
    ],
)
def test_what_does_not_compile_is_worded_as_upstream_does(text: str, column: int, words: str) -> None:
    dots = "." * (column - 1)
    assert refusal(text) == f"compilation failed: ERROR: <input>:1:{column}: {words}\n | {text}\n | {dots}^"


def test_what_is_not_offered_is_undeclared() -> None:
    text = "authorizer.path('/').check('get').reason()"
    assert "undeclared reference to 'authorizer'" in refusal(text, "string", authorizer_known=False)
    with pytest.raises(CelError, match=r":1:1: undeclared reference to 'variables'"):
        Checker().check("variables.a == 1", "bool")


@pytest.mark.parametrize(
    "text",
    [
        "params.x == 1 && request.namespace == 'a' && request.userInfo.extra['a'][0] == 'b'",
        "namespaceObject.metadata.labels['a'] == 'b' && has(variables.a) && variables.o.orValue('') == ''",
        "authorizer.requestResource.check('create').allowed()",
        "request.options.dryRun == null || 1 < 2.5",
    ],
)
def test_what_fits_passes(text: str) -> None:
    checker = Checker(params=True)
    checker.declare("a", "1")
    checker.declare("o", "object.?x")
    checker.check(text, "bool")


def test_a_variable_that_does_not_compile_is_known_to_the_others() -> None:
    checker = Checker()
    with pytest.raises(CelError):
        checker.declare("bad", "object.")
    checker.check("variables.bad == 1", "bool")
