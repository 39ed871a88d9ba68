"""Roles and their bindings.

Source: k8s.io/kubernetes, pkg/apis/rbac/validation/validation.go.
"""

from __future__ import annotations

from typing import Final

from havre.api.meta import Obj
from havre.api.validation.checks import (
    Errors,
    checked,
    choice,
    label_selector,
    required_name,
)
from havre.kit import names
from havre.kit.field import FieldError, Problem, Structure, invalid, required

_GROUP: Final = "rbac.authorization.k8s.io"


def role(obj: Obj) -> Errors:
    for i, rule in enumerate(obj.get("rules") or ()):
        yield from _rule(f"rules[{i}]", rule, namespaced=True)


def cluster_role(obj: Obj) -> Errors:
    for i, rule in enumerate(obj.get("rules") or ()):
        yield from _rule(f"rules[{i}]", rule, namespaced=False)
    if (aggregation := obj.get("aggregationRule")) is not None:
        selectors = aggregation.get("clusterRoleSelectors") or []
        path = "aggregationRule.clusterRoleSelectors"
        if not selectors:
            yield required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil")
        for i, selector in enumerate(selectors):
            yield from label_selector(f"{path}[{i}]", selector)


def _rule(path: str, rule: Obj, *, namespaced: bool) -> Errors:
    if not rule.get("verbs"):
        yield required(f"{path}.verbs", "verbs must contain at least one value")
    urls = rule.get("nonResourceURLs")
    if urls:
        if namespaced:
            yield invalid(f"{path}.nonResourceURLs", urls, "namespaced rules cannot apply to non-resource URLs")
        if any(rule.get(field) for field in ("apiGroups", "resources", "resourceNames")):
            words = "rules cannot apply to both regular resources and non-resource URLs"
            yield invalid(f"{path}.nonResourceURLs", urls, words)
        return
    if not rule.get("apiGroups"):
        yield required(f"{path}.apiGroups", "resource rules must supply at least one api group")
    if not rule.get("resources"):
        yield required(f"{path}.resources", "resource rules must supply at least one resource")


def role_binding(obj: Obj) -> Errors:
    yield from _binding(obj, ("Role", "ClusterRole"))


def cluster_role_binding(obj: Obj) -> Errors:
    yield from _binding(obj, ("ClusterRole",))


def _binding(obj: Obj, kinds: tuple[str, ...]) -> Errors:
    ref = obj.get("roleRef") or {}
    yield from choice("roleRef.apiGroup", ref.get("apiGroup") or "", (_GROUP,))
    yield from choice("roleRef.kind", ref.get("kind") or "", kinds)
    yield from required_name("roleRef.name", ref.get("name"), names.path_segment)
    for i, subject in enumerate(obj.get("subjects") or ()):
        yield from _subject(f"subjects[{i}]", subject, namespaced="Role" in kinds)


def _subject(path: str, subject: Obj, *, namespaced: bool) -> Errors:
    name, kind, group = subject.get("name"), subject.get("kind") or "", subject.get("apiGroup") or ""
    if not name:
        yield required(f"{path}.name")
    if kind == "ServiceAccount":
        if name:
            yield from checked(f"{path}.name", name, names.dns1123_subdomain)
        if group:
            yield FieldError(Problem.NOT_SUPPORTED, f"{path}.apiGroup", group, 'supported values: ""')
        if not namespaced and not subject.get("namespace"):
            yield required(f"{path}.namespace")
    elif kind in ("User", "Group"):
        yield from choice(f"{path}.apiGroup", group, (_GROUP,))
    else:
        yield from choice(f"{path}.kind", kind, ("ServiceAccount", "User", "Group"))


def binding_update(new: Obj, old: Obj) -> Errors:
    yield from role_binding(new) if new["kind"] == "RoleBinding" else cluster_role_binding(new)
    if new.get("roleRef") != old.get("roleRef"):
        ref = new.get("roleRef") or {}
        shown = {"APIGroup": ref.get("apiGroup"), "Kind": ref.get("kind"), "Name": ref.get("name")}
        yield invalid("roleRef", Structure(shown), "cannot change roleRef")
