"""Reviews: the answers that `kubectl auth` and aggregated servers read."""

from __future__ import annotations

from typing import Any

import pytest

from havre.api.errors import BadRequest, Invalid
from havre.control.apiserver import reviews
from havre.control.apiserver.authn import Authenticator
from havre.control.apiserver.authz import Authorizer
from havre.machinery.admission import User

BOB = User("bob", ("system:authenticated",))
PODS = {"verb": "list", "resource": "pods", "namespace": "default"}


@pytest.fixture
def authorizer() -> Authorizer:
    made = Authorizer()
    rules = [
        {"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]},
        {"verbs": ["get"], "nonResourceURLs": ["/metrics"]},
    ]
    made.upsert({"kind": "ClusterRole", "metadata": {"name": "r"}, "rules": rules})
    ref, bob = {"kind": "ClusterRole", "name": "r"}, {"kind": "User", "name": "bob"}
    made.upsert({"kind": "ClusterRoleBinding", "metadata": {"name": "b"}, "roleRef": ref, "subjects": [bob]})
    return made


def review(kind: str, spec: Any, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def test_a_subject_access_review_says_whether_and_why(authorizer: Authorizer) -> None:
    asked = review("SubjectAccessReview", {"user": "bob", "resourceAttributes": PODS})
    answer = reviews.subject_access(authorizer, asked)
    why = 'RBAC: allowed by ClusterRoleBinding "b" of ClusterRole "r" to User "bob"'
    assert answer == {**asked, "status": {"allowed": True, "reason": why}}
    refused = review("SubjectAccessReview", {"groups": ["x"], "resourceAttributes": PODS})
    assert reviews.subject_access(authorizer, refused)["status"] == {"allowed": False}
    path = review("SubjectAccessReview", {"user": "bob", "nonResourceAttributes": {"verb": "get", "path": "/metrics"}})
    assert reviews.subject_access(authorizer, path)["status"]["allowed"] is True


def test_a_review_of_oneself_needs_no_subject(authorizer: Authorizer) -> None:
    asked = review("SelfSubjectAccessReview", {"resourceAttributes": PODS})
    assert reviews.self_subject_access(authorizer, asked, BOB)["status"]["allowed"] is True
    assert reviews.self_subject_access(authorizer, asked, User("eve"))["status"] == {"allowed": False}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            {"resourceAttributes": PODS, "nonResourceAttributes": {"path": "/x", "verb": "get"}},
            "[spec.nonResourceAttributes: Invalid value: "
            '{"Path":"/x","Verb":"get"}: cannot be specified in combination with resourceAttributes, '
            'spec.user: Invalid value: "": at least one of user or group must be specified]',
        ),
        (
            {"user": "bob"},
            "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or "
            "resourceAttributes must be specified",
        ),
    ],
)
def test_a_review_that_asks_nothing_or_too_much_is_invalid(authorizer: Authorizer, spec: Any, text: str) -> None:
    with pytest.raises(Invalid) as refused:
        reviews.subject_access(authorizer, review("SubjectAccessReview", spec))
    assert refused.value.message == f'.authorization.k8s.io "" is invalid: {text}'


def test_a_local_review_stays_in_its_namespace(authorizer: Authorizer) -> None:
    asked = review("LocalSubjectAccessReview", {"user": "bob", "resourceAttributes": PODS}, namespace="default")
    assert reviews.local_subject_access(authorizer, asked, "default")["status"]["allowed"] is True
    with pytest.raises(Invalid) as refused:
        reviews.local_subject_access(authorizer, {**asked, "metadata": {}}, "other")
    assert refused.value.message == (
        '.authorization.k8s.io "" is invalid: spec.resourceAttributes.namespace: Invalid value: "default": must match '
        "metadata.namespace"
    )
    path = {"user": "bob", "nonResourceAttributes": {"verb": "get", "path": "/metrics"}}
    with pytest.raises(Invalid, match="disallowed on this kind of request"):
        reviews.local_subject_access(authorizer, review("LocalSubjectAccessReview", path), "default")


def test_the_metadata_of_a_review_is_empty(authorizer: Authorizer) -> None:
    named = review("SelfSubjectAccessReview", {"resourceAttributes": PODS}, name="x", creationTimestamp=None)
    with pytest.raises(Invalid, match=r'metadata: Invalid value: \{"name":"x"\}: must be empty'):
        reviews.self_subject_access(authorizer, named, BOB)


def test_a_rules_review_lists_what_is_bound_and_what_is_missing(authorizer: Authorizer) -> None:
    asked = review("SelfSubjectRulesReview", {"namespace": "default"})
    ref, bob = {"kind": "Role", "name": "gone"}, {"kind": "User", "name": "bob"}
    metadata = {"name": "x", "namespace": "default"}
    authorizer.upsert({"kind": "RoleBinding", "metadata": metadata, "roleRef": ref, "subjects": [bob]})
    assert reviews.self_subject_rules(authorizer, asked, BOB) == {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "metadata": {},
        "spec": {},
        "status": {
            "resourceRules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}],
            "incomplete": False,
            "evaluationError": 'role.rbac.authorization.k8s.io "gone" not found',
        },
    }
    with pytest.raises(BadRequest, match="no namespace on request"):
        reviews.self_subject_rules(authorizer, review("SelfSubjectRulesReview", {}), BOB)


def test_whoami_tells_name_and_groups() -> None:
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    assert reviews.self_subject(asked, BOB, 0.0) == {
        **asked,
        "metadata": {"creationTimestamp": "1970-01-01T00:00:00Z"},
        "status": {"userInfo": {"username": "bob", "groups": ["system:authenticated"]}},
    }


def test_a_token_review_tells_whose_token_it_is() -> None:
    authenticator = Authenticator(static_tokens={"secret": BOB})
    asked = {"kind": "TokenReview", "spec": {"token": "secret", "audiences": ["a"]}}
    assert reviews.token(authenticator, asked)["status"] == {
        "authenticated": True,
        "user": {"username": "bob", "groups": ["system:authenticated"]},
        "audiences": ["a"],
    }
    unknown = reviews.token(authenticator, {"kind": "TokenReview", "spec": {"token": "abc"}})
    assert unknown["status"] == {"user": {}, "error": "invalid bearer token"}
    with pytest.raises(BadRequest, match="token is required for TokenReview in authentication"):
        reviews.token(authenticator, {"kind": "TokenReview", "spec": {}})
