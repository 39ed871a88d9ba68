"""RBAC rules as pure functions: what a rule allows, whether rules cover others, what aggregation gives.

A rule is compiled once (`Rule.of`) into sets; a request is then a handful of set lookups. Everything here is plain data
in, plain data out: who is bound to which rules is the business of `authz`.

Source: k8s.io/kubernetes pkg/apis/rbac/v1/evaluation_helpers.go, pkg/registry/rbac/validation (rule.go,
policy_compact.go), k8s.io/component-helpers auth/rbac/validation/policy_comparator.go, and
pkg/controller/clusterroleaggregation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from havre.api.meta import Obj
from havre.machinery.admission import Attributes

GROUP = "rbac.authorization.k8s.io"
ALL = "*"

_FIELDS = (  # of a PolicyRule, in the order of its short text
    ("APIGroups", "apiGroups"),
    ("Resources", "resources"),
    ("NonResourceURLs", "nonResourceURLs"),
    ("ResourceNames", "resourceNames"),
    ("Verbs", "verbs"),
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One PolicyRule, compiled: sets for what is named, flags for what is `*`."""

    verbs: frozenset[str]
    groups: frozenset[str]
    resources: frozenset[str]  # "pods", "pods/log", "*/scale", "*"
    names: frozenset[str]  # empty: any name
    urls: frozenset[str]
    url_prefixes: tuple[str, ...]  # of URLs that end in *

    @classmethod
    def of(cls, rule: Obj) -> Rule:
        urls = rule.get("nonResourceURLs") or ()
        return cls(
            frozenset(rule.get("verbs") or ()),
            frozenset(rule.get("apiGroups") or ()),
            frozenset(rule.get("resources") or ()),
            frozenset(rule.get("resourceNames") or ()),
            frozenset(urls),
            tuple(url.rstrip("*") for url in urls if url.endswith("*")),
        )

    def allows_resource(self, verb: str, group: str, resource: str, subresource: str) -> bool:
        """Everything but the name: the caller looks at `names`, so that one answer serves every object."""
        if ALL not in self.verbs and verb not in self.verbs:
            return False
        if ALL not in self.groups and group not in self.groups:
            return False
        if ALL in self.resources:
            return True
        if not subresource:
            return resource in self.resources
        return f"{resource}/{subresource}" in self.resources or f"*/{subresource}" in self.resources

    def allows_path(self, verb: str, path: str) -> bool:
        if ALL not in self.verbs and verb not in self.verbs:
            return False
        return path in self.urls or path.startswith(self.url_prefixes)


def compile_rules(rules: Iterable[Obj] | None) -> tuple[Rule, ...]:
    return tuple(Rule.of(rule) for rule in rules or ())


def allows(rules: Iterable[Rule], request: Attributes) -> bool:
    """Does any of these rules allow the request?"""
    if request.path:
        return any(rule.allows_path(request.verb, request.path) for rule in rules)
    return any(
        rule.allows_resource(request.verb, request.group, request.resource, request.subresource)
        and (not rule.names or request.name in rule.names)
        for rule in rules
    )


def missing(owned: Sequence[Obj], wanted: Iterable[Obj]) -> list[Obj]:
    """The atoms (one verb, one resource, one name each) of `wanted` that no single rule of `owned` covers."""
    compiled = compile_rules(owned)
    return [atom for rule in wanted for atom in _atoms(rule) if not any(_covers(own, atom) for own in compiled)]


def combinations(rules: Iterable[Obj]) -> int:
    """How many atoms `missing` would look at: a product, so a small rule can have very many."""

    def size(rule: Obj, key: str) -> int:
        return len(rule.get(key) or ())

    return sum(
        size(rule, "verbs")
        * (
            size(rule, "apiGroups") * size(rule, "resources") * max(1, size(rule, "resourceNames"))
            + size(rule, "nonResourceURLs")
        )
        for rule in rules
    )


def _atoms(rule: Obj) -> Iterator[Obj]:
    verbs = rule.get("verbs") or ()
    for group in rule.get("apiGroups") or ():
        for resource in rule.get("resources") or ():
            for verb in verbs:
                atom = {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
                names = rule.get("resourceNames")
                yield from ({**atom, "resourceNames": [name]} for name in names) if names else (atom,)
    for url in rule.get("nonResourceURLs") or ():
        for verb in verbs:
            yield {"nonResourceURLs": [url], "verbs": [verb]}


def _covers(own: Rule, atom: Obj) -> bool:
    if ALL not in own.verbs and atom["verbs"][0] not in own.verbs:
        return False
    if "nonResourceURLs" in atom:
        url = atom["nonResourceURLs"][0]
        return url in own.urls or url.startswith(own.url_prefixes)
    group, resource = atom["apiGroups"][0], atom["resources"][0]
    if ALL not in own.groups and group not in own.groups:
        return False
    return _covers_resource(own.resources, resource) and _covers_names(own.names, atom.get("resourceNames"))


def _covers_resource(owned: frozenset[str], resource: str) -> bool:
    if ALL in owned or resource in owned:
        return True
    _, slash, subresource = resource.partition("/")
    return bool(slash) and f"*/{subresource}" in owned


def _covers_names(owned: frozenset[str], names: list[str] | None) -> bool:
    return not owned or (bool(names) and owned.issuperset(names or ()))


def describe_missing(atoms: Iterable[Obj]) -> list[str]:
    """Short texts of what is missing, verbs of one resource joined, sorted."""
    merged: dict[tuple[str, ...], Obj] = {}
    for atom in atoms:
        key = tuple(json.dumps(atom.get(key)) for _, key in _FIELDS[:-1])
        if "nonResourceURLs" in atom:
            key = (*key, atom["verbs"][0])  # those are never joined
        if key in merged:
            merged[key]["verbs"] += atom["verbs"]
        else:
            merged[key] = {**atom, "verbs": list(atom["verbs"])}
    return sorted({short(rule) for rule in merged.values()})


def short(rule: Obj) -> str:
    """`{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`."""
    parts = (f"{label}:[{' '.join(map(quoted, rule[key]))}]" for label, key in _FIELDS if rule.get(key))
    return "{" + ", ".join(parts) + "}"


def quoted(text: str) -> str:
    """As Go's %q shows a string."""
    return json.dumps(text, ensure_ascii=False)


def selects(selector: Obj, labels: dict[str, str]) -> bool:
    """Does a LabelSelector match? An empty one matches everything."""
    wanted = selector.get("matchLabels") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    return all(_expression_holds(term, labels) for term in selector.get("matchExpressions") or ())


def _expression_holds(term: Obj, labels: dict[str, str]) -> bool:
    key, values = term["key"], term.get("values") or ()
    match term["operator"]:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return key not in labels or labels[key] not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case unknown:
            raise ValueError(f"{unknown!r} is not a valid label selector operator")
