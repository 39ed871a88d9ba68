"""Questions about rights and identity that clients post as objects (`kubectl auth can-i`, `kubectl auth whoami`).

Each function takes the posted object and returns it with its status; none is stored. Upstream answers an invalid review
of access as an Invalid of a nameless kind (`.authorization.k8s.io "" is invalid`), and so do we.

Source: k8s.io/kubernetes pkg/registry/{authorization,authentication}, pkg/apis/authorization/validation.
"""

from __future__ import annotations

from havre.api.errors import BadRequest, Invalid
from havre.api.meta import Obj, rfc3339
from havre.control.apiserver.authn import Authenticator
from havre.control.apiserver.authz import Authorizer
from havre.control.apiserver.service_account_tokens import TokenRejected
from havre.kit import field
from havre.kit.field import FieldError
from havre.machinery.admission import Attributes, User

GROUP = "authorization.k8s.io"


def subject_access(authorizer: Authorizer, review: Obj) -> Obj:
    """SubjectAccessReview: may that user do that?"""
    spec = review.get("spec") or {}
    _refuse(_problems(spec) + _no_subject(spec) + _metadata(review, "must be empty"))
    return _decided(authorizer, review, _user_of(spec))


def local_subject_access(authorizer: Authorizer, review: Obj, namespace: str) -> Obj:
    """LocalSubjectAccessReview: the same, asked inside a namespace by someone who has rights only there."""
    spec = review.get("spec") or {}
    problems = _problems(spec) + _no_subject(spec) + _metadata(review, "must be empty except for namespace", namespace)
    resource = spec.get("resourceAttributes")
    if resource is not None and resource.get("namespace", "") != namespace:
        path = "spec.resourceAttributes.namespace"
        problems.append(field.invalid(path, resource.get("namespace", ""), "must match metadata.namespace"))
    if spec.get("nonResourceAttributes") is not None:
        value = spec["nonResourceAttributes"]
        problems.append(field.invalid("spec.nonResourceAttributes", value, "disallowed on this kind of request"))
    _refuse(problems)
    return _decided(authorizer, review, _user_of(spec))


def self_subject_access(authorizer: Authorizer, review: Obj, user: User) -> Obj:
    """SelfSubjectAccessReview: may I do that?"""
    _refuse(_problems(review.get("spec") or {}) + _metadata(review, "must be empty"))
    return _decided(authorizer, review, user)


def self_subject_rules(authorizer: Authorizer, review: Obj, user: User) -> Obj:
    """SelfSubjectRulesReview: what may I do in that namespace? As upstream, without what superusers and nodes may."""
    namespace = (review.get("spec") or {}).get("namespace", "")
    if not namespace:
        raise BadRequest("no namespace on request")
    rules, unresolved = authorizer.rules_for(user, namespace)
    keys = ("verbs", "apiGroups", "resources", "resourceNames")
    status: Obj = {
        "resourceRules": [{k: rule[k] for k in keys if rule.get(k)} for rule in rules if rule.get("resources")],
        "nonResourceRules": [
            {k: rule[k] for k in ("verbs", "nonResourceURLs")} for rule in rules if rule.get("nonResourceURLs")
        ],
        "incomplete": False,
    }
    if unresolved:
        status["evaluationError"] = unresolved
    return {**_head(review), "metadata": {}, "spec": {}, "status": status}


def self_subject(review: Obj, user: User, now: float) -> Obj:
    """SelfSubjectReview: who am I?"""
    metadata = {"creationTimestamp": rfc3339(now)}
    return {**_head(review), "metadata": metadata, "status": {"userInfo": user.info()}}


def token(authenticator: Authenticator, review: Obj) -> Obj:
    """TokenReview: whose token is that, and is it meant for these audiences?"""
    spec = review.get("spec") or {}
    if not spec.get("token"):
        raise BadRequest("token is required for TokenReview in authentication")
    audiences = tuple(spec.get("audiences") or authenticator.audiences)
    try:
        verified = authenticator.review(spec["token"], audiences)
    except TokenRejected as e:
        error = f"[invalid bearer token, {e}]" if str(e) else "invalid bearer token"
        return {**review, "status": {"user": {}, "error": error}}
    status: Obj = {"authenticated": True, "user": verified.user.info()}
    if verified.audiences:
        status["audiences"] = list(verified.audiences)
    return {**review, "status": status}


def _decided(authorizer: Authorizer, review: Obj, user: User) -> Obj:
    decision = authorizer.authorize(_attributes(review["spec"], user))
    status: Obj = {"allowed": decision.allowed}
    if decision.reason:
        status["reason"] = decision.reason
    return {**review, "status": status}


def _attributes(spec: Obj, user: User) -> Attributes:
    resource = spec.get("resourceAttributes")
    if resource is None:
        path = spec["nonResourceAttributes"]
        return Attributes(user, path.get("verb", ""), path=path.get("path", ""))
    keys = ("verb", "group", "version", "resource", "subresource", "namespace", "name")
    return Attributes(user, *(resource.get(key, "") for key in keys))


def _user_of(spec: Obj) -> User:
    extra = {key.lower(): tuple(values) for key, values in (spec.get("extra") or {}).items()}
    return User(spec.get("user", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""), extra)


def _problems(spec: Obj) -> list[FieldError]:
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if resource is not None and path is not None:
        why = "cannot be specified in combination with resourceAttributes"
        value = {"Path": path.get("path", ""), "Verb": path.get("verb", "")}  # upstream prints the fields of its struct
        return [field.invalid("spec.nonResourceAttributes", value, why)]
    if resource is None and path is None:
        why = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        return [field.invalid("spec.resourceAttributes", None, why)]
    return []


def _no_subject(spec: Obj) -> list[FieldError]:
    if spec.get("user") or spec.get("groups"):
        return []
    return [field.invalid("spec.user", "", "at least one of user or group must be specified")]


def _metadata(review: Obj, why: str, namespace: str = "") -> list[FieldError]:
    metadata = {k: v for k, v in (review.get("metadata") or {}).items() if v and k != "managedFields"}
    if namespace and metadata.get("namespace") == namespace:
        del metadata["namespace"]
    metadata.pop("creationTimestamp", None)
    return [field.invalid("metadata", metadata, why)] if metadata else []


def _refuse(problems: list[FieldError]) -> None:
    if problems:
        raise Invalid.of(GROUP, "", "", problems)


def _head(review: Obj) -> Obj:
    return {"kind": review["kind"], "apiVersion": review["apiVersion"]}
