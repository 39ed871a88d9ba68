"""The one list of built-in kinds: what they are called, where they live in URLs, what can be done with them.

`KINDS` has every kind that kube-apiserver serves by default in a stable version, the virtual ones too (bindings,
token and access reviews, component statuses), in the order of discovery. A custom resource becomes a `Kind` of the
same shape, so that discovery, routing, OpenAPI and authorization read one thing.

Source: api/discovery of k8s.io/kubernetes, through the generated table `kinds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from havre.api.data import table
from havre.api.meta import GVK, GVR


@dataclass(frozen=True, slots=True)
class Subresource:
    """A part of an object with its own URL: `pods/status`, `deployments/scale`."""

    name: str
    kind: GVK  # of its body; options of a connection (PodExecOptions) have no schema
    verbs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind in one version."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    verbs: tuple[str, ...]  # in the order discovery shows them
    schema: str  # name of the definition in `schemas`; "" for a custom kind
    storage_version: str  # group and version under which the objects are stored and identified: two kinds of
    storage_group: str  # one storage place (Event, HorizontalPodAutoscaler) are two views of the same objects
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[Subresource, ...] = ()
    list_kind: str = ""
    custom: bool = False

    @property
    def gvk(self) -> GVK:
        return GVK(self.group, self.version, self.kind)

    @property
    def gvr(self) -> GVR:
        return GVR(self.group, self.version, self.plural)

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def stored_as(self) -> GVK:
        """The kind its objects are stored as: core v1 for an Event of events.k8s.io, v2 for an autoscaler of v1."""
        return GVK(self.storage_group, self.storage_version, self.kind)

    @property
    def stored(self) -> bool:
        """Whether its objects exist; a review or a binding is answered and forgotten, a component status is made up."""
        return "get" in self.verbs and "create" in self.verbs

    def subresource(self, name: str) -> Subresource | None:
        return next((sub for sub in self.subresources if sub.name == name), None)


def _kind(row: dict[str, Any]) -> Kind:
    subresources = tuple(
        Subresource(sub["name"], GVK(*sub["kind"]), tuple(sub["verbs"])) for sub in row["subresources"]
    )
    lists = {name: tuple(row[name]) for name in ("verbs", "short_names", "categories")}
    return Kind(**{**row, **lists, "subresources": subresources, "list_kind": f"{row['kind']}List"})


_TABLE = table("kinds")

KINDS: tuple[Kind, ...] = tuple(_kind(row) for row in _TABLE["kinds"])
GROUPS: dict[str, tuple[str, ...]] = {group: tuple(versions) for group, versions in _TABLE["groups"].items()}
"""Versions by group, both in the order of discovery; the first version is the preferred one."""

_BY_GVK = {kind.gvk: kind for kind in KINDS}
_BY_GVR = {kind.gvr: kind for kind in KINDS}


def by_gvk(gvk: GVK) -> Kind | None:
    """The built-in kind of this identity."""
    return _BY_GVK.get(gvk)


def by_gvr(gvr: GVR) -> Kind | None:
    """The built-in kind at this place in URLs."""
    return _BY_GVR.get(gvr)
