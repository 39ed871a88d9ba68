"""The kinds that kube-apiserver serves by default: every group, stable versions, from its published discovery."""

from __future__ import annotations

import re
from typing import Any

from tools.generate.sources import Sources

STABLE = re.compile(r"v\d+$")
# Objects that two group versions share, and the one they are stored as (what the storage version hash is made of).
STORED_AS = {
    ("events.k8s.io", "v1", "Event"): ("", "v1"),
    ("autoscaling", "v1", "HorizontalPodAutoscaler"): ("autoscaling", "v2"),
}

Row = dict[str, Any]


def stable_versions(sources: Sources) -> dict[str, list[str]]:
    """Served versions by group, both in the order of preference; groups without a stable version are left out."""
    groups = {"": ["v1"]}
    for group in sources.discovery("aggregated_v2.json")["items"]:
        versions = [v["version"] for v in group["versions"] if STABLE.match(v["version"])]
        if versions:
            groups[group["metadata"]["name"]] = versions
    return groups


def kinds(sources: Sources, schema_of: dict[str, str]) -> list[Row]:
    """One row per kind, in discovery order; `schema_of` maps `apps/v1/Deployment` to the name of its definition."""
    rows = []
    for group, versions in stable_versions(sources).items():
        for version in versions:
            name = f"apis__{group}__{version}.json" if group else f"api__{version}.json"
            rows += _rows(group, version, sources.discovery(name)["resources"], schema_of)
    return rows


def _rows(group: str, version: str, resources: list[Row], schema_of: dict[str, str]) -> list[Row]:
    rows: dict[str, Row] = {}
    for resource in resources:
        plural, _, subresource = resource["name"].partition("/")
        if not subresource:
            rows[plural] = _row(group, version, resource, schema_of)
            continue
        body = [resource.get("group", group), resource.get("version", version), resource["kind"]]
        rows[plural]["subresources"].append({"name": subresource, "kind": body, "verbs": resource["verbs"]})
    return list(rows.values())


def _row(group: str, version: str, resource: Row, schema_of: dict[str, str]) -> Row:
    kind = resource["kind"]
    stored = STORED_AS.get((group, version, kind), (group, version))
    return {
        "group": group,
        "version": version,
        "kind": kind,
        "plural": resource["name"],
        "singular": resource["singularName"],
        "short_names": resource.get("shortNames", []),
        "namespaced": resource["namespaced"],
        "categories": resource.get("categories", []),
        "verbs": resource["verbs"],
        "subresources": [],
        "schema": schema_of[f"{group}/{version}/{kind}"],
        "storage_group": stored[0],
        "storage_version": stored[1],
    }
