"""`MatchResources`: which requests a policy, or one of its bindings, is about.

Rules say operations, groups, versions, resources, scope and names; selectors look at the labels of the namespace and of
the object. With `matchPolicy: Equivalent` a rule that names another version of the same resource matches too, and the
object is then looked at in that version.

Source: k8s.io/apiserver, pkg/admission/plugin/policy/matching/matching.go and plugin/webhook/predicates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from havre.api.errors import NotFound
from havre.api.meta import GVK, GVR, Obj, labels_of
from havre.control.apiserver import rbac
from havre.machinery.admission import AdmissionRequest, Lister, Operation

Equivalents = Callable[[GVR, str], Sequence[tuple[GVR, GVK]]]
"""All versions under which a resource (and subresource) is served."""


class Place(NamedTuple):
    """What the rules look at; requests to one place match the same rules, names left aside."""

    operation: str
    gvr: GVR
    subresource: str
    namespaced: bool


class Match(NamedTuple):
    """As what the object is looked at."""

    gvr: GVR
    gvk: GVK


def is_namespace(req: AdmissionRequest) -> bool:
    return req.attributes.resource == "namespaces" and not req.attributes.group


def place_of(req: AdmissionRequest) -> Place:
    a = req.attributes
    namespaced = bool(a.namespace) and not is_namespace(req)
    return Place(req.operation, GVR(a.group, a.version, a.resource), a.subresource, namespaced)


@dataclass(frozen=True, slots=True)
class Rule:
    operations: frozenset[str]
    groups: frozenset[str]
    versions: frozenset[str]
    resources: frozenset[tuple[str, str]]  # (resource, subresource), each may be *
    scope: str
    names: frozenset[str]  # none means every name

    @classmethod
    def of(cls, rule: Obj) -> Rule:
        pairs = (resource.partition("/") for resource in rule.get("resources") or ())
        return cls(
            frozenset(rule.get("operations") or ()),
            frozenset(rule.get("apiGroups") or ()),
            frozenset(rule.get("apiVersions") or ()),
            frozenset((resource, subresource) for resource, _, subresource in pairs),
            rule.get("scope") or "*",
            frozenset(rule.get("resourceNames") or ()),
        )

    def covers(self, place: Place, gvr: GVR) -> bool:
        """Whether requests to this place match, if the name does. `gvr`: which version of the resource is meant."""
        return (
            (place.operation in self.operations or "*" in self.operations)
            and (gvr.group in self.groups or "*" in self.groups)
            and (gvr.version in self.versions or "*" in self.versions)
            and (self.scope == "*" or (self.scope == "Namespaced") == place.namespaced)
            and any((r, s) in self.resources for r in (gvr.resource, "*") for s in (place.subresource, "*"))
        )


@dataclass(frozen=True, slots=True)
class MatchResources:
    rules: tuple[Rule, ...]
    excluded: tuple[Rule, ...]
    equivalent: bool
    namespace_selector: Obj
    object_selector: Obj

    @classmethod
    def of(cls, raw: Obj) -> MatchResources:
        return cls(
            tuple(map(Rule.of, raw.get("resourceRules") or ())),
            tuple(map(Rule.of, raw.get("excludeResourceRules") or ())),
            raw.get("matchPolicy", "Equivalent") == "Equivalent",
            raw.get("namespaceSelector") or {},
            raw.get("objectSelector") or {},
        )

    def may_match(self, place: Place, equivalents: Equivalents | None) -> bool:
        """Could a request to this place match?"""
        return not self.rules or any(
            rule.covers(place, gvr) for gvr, _ in self._versions(place, None, equivalents) for rule in self.rules
        )

    def match(
        self, req: AdmissionRequest, place: Place, lister: Lister, equivalents: Equivalents | None
    ) -> Match | None:
        """None when this request is not meant. Raises NotFound when its namespace is gone."""
        if not self._object_selected(req):
            return None
        name = req.attributes.name
        versions = self._versions(place, req.gvk, equivalents)
        if _first(self.excluded, place, name, versions) is not None:
            return None
        found = _first(self.rules, place, name, versions) if self.rules else Match(place.gvr, req.gvk)
        if found is None or not self._namespace_selected(req, lister):
            return None
        return found

    def _versions(self, place: Place, gvk: GVK | None, equivalents: Equivalents | None) -> list[Match]:
        """The version of the request, then the others."""
        own = Match(place.gvr, gvk or GVK("", "", ""))
        if equivalents is None or not self.equivalent:
            return [own]
        return [own, *(Match(*pair) for pair in equivalents(place.gvr, place.subresource) if pair[0] != place.gvr)]

    def _object_selected(self, req: AdmissionRequest) -> bool:
        """Either the new or the old object carries the labels."""
        selector = self.object_selector
        return not selector or any(
            rbac.selects(selector, labels_of(obj)) for obj in (req.obj, req.old) if obj and "metadata" in obj
        )

    def _namespace_selected(self, req: AdmissionRequest, lister: Lister) -> bool:
        selector, a = self.namespace_selector, req.attributes
        if not selector or not (a.namespace or is_namespace(req)):
            return True
        if is_namespace(req) and not a.subresource and req.operation in (Operation.CREATE, Operation.UPDATE):
            return rbac.selects(selector, labels_of(req.obj or {"metadata": {}}))
        name = a.name if is_namespace(req) else a.namespace
        namespace = lister.get("", "namespaces", "", name)
        if namespace is None:
            raise NotFound.of("namespaces", "", name)
        return rbac.selects(selector, labels_of(namespace))


def _first(rules: Sequence[Rule], place: Place, name: str, versions: list[Match]) -> Match | None:
    for version in versions:
        for rule in rules:
            if (not rule.names or name in rule.names) and rule.covers(place, version.gvr):
                return version
    return None
