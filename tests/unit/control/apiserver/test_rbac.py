"""RBAC rules: what a rule allows, what covers what, what aggregation gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.control.apiserver import rbac
from havre.machinery.admission import Attributes, User

BOB = User("bob")


def ask(verb: str, resource: str, group: str = "", subresource: str = "", name: str = "") -> Attributes:
    return Attributes(BOB, verb, group, "v1", resource, subresource, "default", name)


def rule(verbs: str, resources: str, groups: str = "", names: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {"verbs": verbs.split(), "resources": resources.split(), "apiGroups": groups.split() or [""]}
    return made | ({"resourceNames": names.split()} if names else {})


@pytest.mark.parametrize(
    ("given_rule", "request_", "expected"),
    [
        (rule("get list", "pods"), ask("get", "pods"), True),
        (rule("get list", "pods"), ask("watch", "pods"), False),
        (rule("get", "pods"), ask("get", "pods", subresource="log"), False),
        (rule("get", "pods/log"), ask("get", "pods", subresource="log"), True),
        (rule("get", "pods/log"), ask("get", "pods"), False),
        (rule("get", "pods"), ask("get", "pods", group="apps"), False),
        (rule("*", "*", "*"), ask("drain", "widgets", group="example.com", subresource="scale"), True),
        (rule("update", "*/scale", "apps"), ask("update", "deployments", "apps", "scale"), True),
        (rule("update", "*/scale", "apps"), ask("update", "deployments", "apps", "status"), False),
        (rule("update", "*/scale", "apps"), ask("update", "deployments", "apps"), False),
        (rule("get", "secrets", names="a b"), ask("get", "secrets", name="b"), True),
        (rule("get", "secrets", names="a b"), ask("get", "secrets", name="c"), False),
        (rule("list", "secrets", names="a"), ask("list", "secrets"), False),
        ({"verbs": ["get"], "nonResourceURLs": ["*"]}, ask("get", "pods"), False),
    ],
)
def test_a_rule_allows_what_it_names(given_rule: dict[str, Any], request_: Attributes, expected: bool) -> None:
    assert rbac.allows(rbac.compile_rules([given_rule]), request_) is expected


@pytest.mark.parametrize(
    ("url", "path", "expected"),
    [
        ("/healthz", "/healthz", True),
        ("/healthz", "/healthz/etcd", False),
        ("/healthz/*", "/healthz/etcd", True),
        ("/healthz/*", "/healthz", False),
        ("*", "/anything", True),
    ],
)
def test_a_rule_allows_a_url_or_all_below_a_star(url: str, path: str, expected: bool) -> None:
    rules = rbac.compile_rules([{"verbs": ["get"], "nonResourceURLs": [url]}])
    assert rbac.allows(rules, Attributes(BOB, "get", path=path)) is expected
    assert not rbac.allows(rules, Attributes(BOB, "post", path=path))


def test_what_is_missing_is_told_per_resource_with_its_verbs_joined() -> None:
    owned = [rule("get", "pods"), rule("*", "*", "apps")]
    wanted = [
        rule("get list watch", "pods secrets", names=""),
        rule("delete", "deployments", "apps"),
        {"verbs": ["get", "post"], "nonResourceURLs": ["/metrics"]},
        rule("get", "nodes", names="a b"),
    ]
    assert rbac.describe_missing(rbac.missing(owned, wanted)) == [
        '{APIGroups:[""], Resources:["nodes"], ResourceNames:["a"], Verbs:["get"]}',
        '{APIGroups:[""], Resources:["nodes"], ResourceNames:["b"], Verbs:["get"]}',
        '{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}',
        '{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list" "watch"]}',
        '{NonResourceURLs:["/metrics"], Verbs:["get"]}',
        '{NonResourceURLs:["/metrics"], Verbs:["post"]}',
    ]


@pytest.mark.parametrize(
    ("owned", "wanted"),
    [
        (rule("get", "*/scale", "*"), rule("get", "deployments/scale", "apps")),
        (rule("get", "secrets", names="a b"), rule("get", "secrets", names="b")),
        ({"verbs": ["*"], "nonResourceURLs": ["/api/*"]}, {"verbs": ["get"], "nonResourceURLs": ["/api/v1"]}),
    ],
)
def test_a_wider_rule_covers_a_narrower_one_but_not_the_other_way(
    owned: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert rbac.missing([owned], [wanted]) == []
    assert rbac.missing([wanted], [owned]) != []


def test_an_unnamed_right_is_not_covered_by_a_named_one() -> None:
    assert rbac.missing([rule("get", "secrets", names="a")], [rule("get", "secrets")]) == [rule("get", "secrets")]


def test_selectors_know_the_four_operators() -> None:
    labels = {"a": "1"}

    def holds(operator: str, key: str, *values: str) -> bool:
        return rbac.selects({"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}, labels)

    assert holds("In", "a", "1", "2")
    assert not holds("In", "a", "2")
    assert not holds("In", "b", "1")
    assert holds("NotIn", "a", "2")
    assert holds("NotIn", "b", "2")
    assert not holds("NotIn", "a", "1")
    assert holds("Exists", "a")
    assert not holds("Exists", "b")
    assert holds("DoesNotExist", "b")
    assert not holds("DoesNotExist", "a")
    with pytest.raises(ValueError, match="'Near' is not a valid label selector operator"):
        holds("Near", "a")


words = st.lists(st.sampled_from(["a", "b", "a/x", "*", "*/x"]), min_size=1, max_size=3)
rules = st.builds(
    lambda verbs, groups, resources, names: {
        "verbs": verbs,
        "apiGroups": groups,
        "resources": resources,
        "resourceNames": names,
    },
    words,
    words,
    words,
    st.lists(st.sampled_from(["n", "m"]), max_size=2),
)


@given(st.lists(rules, max_size=3))
@settings(max_examples=50)
def test_rules_cover_themselves(some: list[dict[str, Any]]) -> None:
    assert rbac.missing(some, some) == []


@given(
    st.lists(rules, max_size=2), st.lists(rules, max_size=2), st.sampled_from(["a", "b"]), st.sampled_from(["", "x"])
)
@settings(max_examples=50)
def test_who_covers_a_rule_is_allowed_what_it_allows(
    owned: list[dict[str, Any]], wanted: list[dict[str, Any]], resource: str, subresource: str
) -> None:
    if rbac.missing(owned, wanted):
        return
    request = Attributes(BOB, "a", "a", "v1", resource, subresource, "default", "n")
    if rbac.allows(rbac.compile_rules(wanted), request):
        assert rbac.allows(rbac.compile_rules(owned), request)
