"""What a server says it serves: `/api`, `/apis`, `/apis/GROUP`, `/apis/GROUP/VERSION`, and both lists in one document.

Pure functions from the kinds served, built-in and custom alike, to the documents. `Served` keeps the kinds by group
and version in the order of discovery; `pages` makes a new one whenever a custom kind comes or goes, and caches
what it sends by `etag`.

Source: k8s.io/apiserver, pkg/endpoints/discovery and pkg/endpoints/discovery/aggregated; KEP-3352.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import orjson

from havre.api.kinds import GROUPS, Kind, Subresource
from havre.api.meta import GVK, Obj

AGGREGATED: Final = "application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
AGGREGATED_VERSIONS: Final = ("v2", "v2beta1")

Groups = Mapping[str, Mapping[str, tuple[Kind, ...]]]


@dataclass(frozen=True, slots=True)
class Served:
    """The kinds a server serves, by group and version; the core group is ""."""

    groups: Groups

    @classmethod
    def of(cls, kinds: Iterable[Kind]) -> Served:
        """Built-in groups in their own order, then the others by name; versions by priority, kinds as they come."""
        found: dict[str, dict[str, list[Kind]]] = {}
        for kind in kinds:
            found.setdefault(kind.group, {}).setdefault(kind.version, []).append(kind)
        rank = {group: place for place, group in enumerate(GROUPS)}
        order = sorted(found, key=lambda group: (rank.get(group, len(rank)), group))
        return cls({group: _versions(found[group]) for group in order})


def _versions(found: Mapping[str, list[Kind]]) -> dict[str, tuple[Kind, ...]]:
    return {version: tuple(found[version]) for version in sorted(found, key=priority)}


_VERSION: Final = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?")
_STAGES: Final = {None: 0, "beta": 1, "alpha": 2}


@cache
def priority(version: str) -> tuple[int, int, int, str]:
    """Sorts versions by preference: v10, v2, v1, v11beta2, v3beta1, v11alpha1, then anything else by name."""
    match = _VERSION.fullmatch(version)
    if match is None:
        return (len(_STAGES), 0, 0, version)
    major, stage, minor = match.groups()
    return (_STAGES[stage], -int(major), -int(minor or 0), version)


# ---- one list after another ----------------------------------------------------------------------------------------


def api_versions(served: Served, address: str) -> Obj:
    """`/api`; `address` is the HOST:PORT by which clients reach the server."""
    cidrs = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": list(served.groups.get("", ())), "serverAddressByClientCIDRs": cidrs}


def group_list(served: Served) -> Obj:
    """`/apis`."""
    groups = [_group(group, versions) for group, versions in served.groups.items() if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(served: Served, name: str) -> Obj | None:
    """`/apis/GROUP`; None when nothing of the group is served."""
    versions = served.groups.get(name)
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)} if name and versions else None


def _group(name: str, versions: Iterable[str]) -> Obj:
    rows = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": rows, "preferredVersion": rows[0]}


def resource_list(served: Served, group: str, version: str) -> Obj | None:
    """`/api/v1` and `/apis/GROUP/VERSION`; None when it is not served."""
    kinds = served.groups.get(group, {}).get(version)
    if kinds is None:
        return None
    rows = [row for kind in kinds for row in _resources(kind)]
    if not group:  # older than apiVersion in this list, and kept so
        return {"kind": "APIResourceList", "groupVersion": version, "resources": rows}
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{group}/{version}", "resources": rows}


def _resources(kind: Kind) -> list[Obj]:
    row: Obj = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(kind.verbs),
    }
    _add_names(row, kind)
    if kind.stored:
        row["storageVersionHash"] = storage_version_hash(kind.stored_as)
    return [row, *(_subresource(kind, sub) for sub in kind.subresources)]


def _subresource(kind: Kind, sub: Subresource) -> Obj:
    row: Obj = {"name": f"{kind.plural}/{sub.name}", "singularName": "", "namespaced": kind.namespaced}
    if sub.kind[:2] != (kind.group, kind.version):
        row |= {"group": sub.kind.group, "version": sub.kind.version}
    return {**row, "kind": sub.kind.kind, "verbs": list(sub.verbs)}


def _add_names(row: Obj, kind: Kind) -> None:
    if kind.short_names:
        row["shortNames"] = list(kind.short_names)
    if kind.categories:
        row["categories"] = list(kind.categories)


@cache
def storage_version_hash(stored_as: GVK) -> str:
    """Tells clients whether two resources are stored as one: the first 8 bytes of a digest of the stored kind."""
    digest = hashlib.sha256("/".join(stored_as).encode()).digest()
    return base64.b64encode(digest[:8]).decode()


# ---- everything at once --------------------------------------------------------------------------------------------


def aggregated(served: Served, root: str, version: str = "v2") -> Obj:
    """The APIGroupDiscoveryList of `root`, which is "api" for the core group and "apis" for all the others."""
    items = [_discovery(name, found) for name, found in served.groups.items() if (name == "") == (root == "api")]
    api_version = f"apidiscovery.k8s.io/{version}"
    return {"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items}


def _discovery(name: str, versions: Mapping[str, tuple[Kind, ...]]) -> Obj:
    rows = [
        {"version": version, "resources": [_discovered(kind) for kind in kinds], "freshness": "Current"}
        for version, kinds in versions.items()
    ]
    return {"metadata": {"name": name} if name else {}, "versions": rows}


def _discovered(kind: Kind) -> Obj:
    row: Obj = {
        "resource": kind.plural,
        "responseKind": _response_kind(kind, kind.gvk),
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": list(kind.verbs),
    }
    _add_names(row, kind)
    if kind.subresources:
        row["subresources"] = [
            {"subresource": sub.name, "responseKind": _response_kind(kind, sub.kind), "verbs": list(sub.verbs)}
            for sub in kind.subresources
        ]
    return row


def _response_kind(kind: Kind, body: GVK) -> Obj:
    """Built-in resources leave out a group and version that are their own, custom ones do not."""
    own = not kind.custom and body[:2] == (kind.group, kind.version)
    return {"group": "" if own else body.group, "version": "" if own else body.version, "kind": body.kind}


def etag(document: Any) -> str:
    """The ETag of a document, without quotes; the same for the same content."""
    return hashlib.sha512(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest().upper()


def aggregated_version(accept: str) -> str | None:
    """The newest version of the aggregated list that a client accepts first; None when it wants the plain lists.

    `application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json` gives "v2".
    """
    for clause in accept.split(","):
        media, *parameters = (part.strip() for part in clause.split(";"))
        found = dict(part.split("=", 1) for part in parameters if "=" in part)
        if found.get("as") == "APIGroupDiscoveryList" and found.get("g") == "apidiscovery.k8s.io":
            if media == "application/json" and found.get("v") in AGGREGATED_VERSIONS:
                return found["v"]
        elif media in ("application/json", "*/*", "application/*", "application/yaml"):
            return None
    return None
