"""Putting references right: what names an object by a former name gets its present one.

Who may be meant by a name is narrowed down step by step (kind, namespace, then the chain of prefixes and suffixes both
have got) until one is left; if several remain that are called alike, it does not matter which.

Source: sigs.k8s.io/kustomize, api/filters/nameref and api/internal/accumulator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from havre.api.meta import Obj
from havre.platform.gitops.kustomize import fields, tables
from havre.platform.gitops.kustomize.errors import BuildError
from havre.platform.gitops.kustomize.fields import FieldSpec
from havre.platform.gitops.kustomize.resource import CLUSTER, Gvk, Id, Resource
from havre.platform.gitops.kustomize.tables import NameReference


def fix(resources: Sequence[Resource], references: Iterable[NameReference] = tables.NAMES) -> None:
    """Raises BuildError when several objects could be meant."""
    index = _Index(resources)
    if not index.by_name:
        return
    by_kind: dict[str, list[tuple[FieldSpec, Gvk]]] = {}
    for reference in references:
        if index.has(reference.target):
            for spec in reference.fields:
                by_kind.setdefault(spec.gvk.kind, []).append((spec, reference.target))
    for referrer in resources:
        original = referrer.original.gvk
        for spec, target in (*by_kind.get(original.kind, ()), *by_kind.get("", ())):
            if spec.gvk.selects(original):
                _Fix(referrer, spec, target, index).run()


class _Index:
    """Renamed objects by their former names."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self.by_name: dict[str, list[tuple[Resource, Id, list[Id]]]] = {}
        self._kinds: set[Gvk] = set()
        for resource in resources:
            ids = resource.former_ids
            self._kinds.update(id.gvk for id in ids)
            for name in {id.name for id in ids}:
                self.by_name.setdefault(name, []).append((resource, resource.id, ids))

    def has(self, target: Gvk) -> bool:
        return any(target.selects(gvk) for gvk in self._kinds)


Candidate = tuple[Resource, Id, list[Id]]


class _Fix:
    """One field of one referrer."""

    def __init__(self, referrer: Resource, spec: FieldSpec, target: Gvk, index: _Index) -> None:
        self._referrer, self._id, self._spec, self._target, self._index = referrer, referrer.id, spec, target, index

    def run(self) -> None:
        path = fields.parts(self._spec.path)
        fields.walk(self._referrer.obj, path, self._value, create=False, where=self._spec.path)

    def _value(self, old: Any) -> Any:
        if isinstance(old, list):
            return [self._value(item) for item in old]
        if isinstance(old, dict):
            return self._mapping(old)
        if not isinstance(old, str):
            return old
        found = self._meant(old, "", _named_alike)
        return old if found is None else found.name

    def _mapping(self, old: Obj) -> Obj:
        """An object with a name and perhaps a namespace, such as a subject."""
        if "name" not in old:
            raise BuildError(f"{self._id}: {self._spec.path}: a reference needs a name, found {old}")
        found = self._meant(str(old["name"]), str(old.get("namespace") or ""), _alike)
        if found is None or (found.name == old["name"] and not found.namespace):
            return old
        return {**old, "name": found.name, **({"namespace": found.namespace} if found.namespace else {})}

    def _meant(self, name: str, space: str, alike: Callable[[Sequence[Candidate]], bool]) -> Resource | None:
        found = [each for each in self._index.by_name.get(name, ()) if self._fits(each)]
        if space:
            before = [each for each in found if each[2][0].namespace == space]
            found = before or [each for each in found if each[1].namespace == space]
        if len(found) > 1:
            found = [each for each in found if _same_chain(each[0], self._referrer, loosely=True)]
        if len(found) > 1:
            found = [each for each in found if _same_chain(each[0], self._referrer, loosely=False)]
        if not found:
            return None
        if len(found) > 1 and not alike(found):
            shown = ", ".join(str(id) for _, id, _ in found)
            raise BuildError(f"{self._id}: {self._spec.path}: found multiple possible referrals: {shown}")
        return found[0][0]

    def _fits(self, candidate: Candidate) -> bool:
        _, _, ids = candidate
        if not any(self._target.selects(each.gvk) for each in ids):
            return False
        if self._spec.path.endswith("roleRef/name") and not self._is_role(ids):
            return False
        return self._reachable(candidate)

    def _is_role(self, ids: Sequence[Id]) -> bool:
        role = self._referrer.obj.get("roleRef")
        if not isinstance(role, dict) or not role.get("kind") or "apiGroup" not in role:
            return True
        wanted = Gvk(str(role["apiGroup"] or ""), "", str(role["kind"]))
        return any(wanted.selects(id.gvk) for id in ids)

    def _reachable(self, candidate: Candidate) -> bool:
        """In the same namespace, in none, or a service account that the binding names in another."""
        resource, id, _ = candidate
        if CLUSTER in (self._id.namespace, id.namespace) or id.namespace == self._id.namespace:
            return True
        if self._referrer.gvk.kind != "RoleBinding" or resource.gvk.kind != "ServiceAccount":
            return False
        subjects = self._referrer.obj.get("subjects") or ()
        return any(
            isinstance(each, dict)
            and each.get("kind") == "ServiceAccount"
            and each.get("namespace") == resource.namespace
            for each in subjects
        )


def _named_alike(found: Sequence[Candidate]) -> bool:
    return len({id.name for _, id, _ in found}) == 1


def _alike(found: Sequence[Candidate]) -> bool:
    return len({(id.name, id.namespace) for _, id, _ in found}) == 1


def _same_chain(one: Resource, other: Resource, *, loosely: bool) -> bool:
    return all(
        (loosely and not (a and b)) or _same_ending(a, b)
        for a, b in ((one.prefixes, other.prefixes), (one.suffixes, other.suffixes))
    )


def _same_ending(one: Sequence[str], other: Sequence[str]) -> bool:
    """The shorter is what the longer ends with."""
    short, long = sorted((one, other), key=len)
    return [*long[-len(short) :]] == [*short] if short else not long
