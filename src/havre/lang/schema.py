"""A compiled OpenAPI schema: what strategic merge, server-side apply, pruning, defaulting and validation need to know.

A `Schema` is compiled once per kind from the JSON of a definition (OpenAPI v2 or v3, built-in or CRD) and shared by
reference, so a recursive definition (JSONSchemaProps) is a cycle of nodes.

Source: k8s.io/kube-openapi, pkg/schemaconv; k8s.io/apiextensions-apiserver, pkg/apiserver/schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

Raw = Mapping[str, Any]
MISSING: Final = object()  # a schema without a default, which differs from `default: null`


@dataclass(slots=True, eq=False, weakref_slot=True)
class Schema:
    """One node. Nodes compare by identity: use them as cache keys."""

    type: str = ""  # object, array, string, integer, number, boolean; "" is anything
    properties: dict[str, Schema] = field(default_factory=dict)
    additional: Schema | None = None  # schema of the values of a map
    items: Schema | None = None  # schema of the elements of a list
    required: tuple[str, ...] = ()
    default: Any = MISSING
    nullable: bool = False
    preserve_unknown: bool = False  # x-kubernetes-preserve-unknown-fields
    int_or_string: bool = False  # x-kubernetes-int-or-string, or format int-or-string
    embedded: bool = False  # x-kubernetes-embedded-resource
    list_type: str = "atomic"  # x-kubernetes-list-type: atomic, set, map
    list_map_keys: tuple[str, ...] = ()
    map_type: str = "granular"  # x-kubernetes-map-type: granular, atomic
    merge_strategy: str = ""  # x-kubernetes-patch-strategy: "", merge, replace, retainKeys, "merge,retainKeys"
    merge_key: str = ""  # x-kubernetes-patch-merge-key
    raw: Raw = field(default_factory=dict)  # the JSON this node was compiled from, `$ref` resolved
    name: str = ""  # of the definition, io.k8s.api.apps.v1.DeploymentSpec; "" for an inline schema

    def child(self, key: str) -> Schema | None:
        """The schema of `key` in an object of this shape; None when nothing is known about it."""
        return self.properties.get(key) or self.additional


_REF_PREFIXES = ("#/definitions/", "#/components/schemas/")


class Compiler:
    """Compiles definitions that refer to each other by name; each name becomes one node."""

    def __init__(self, definitions: Mapping[str, Raw] | None = None) -> None:
        self._definitions = definitions or {}
        self._named: dict[str, Schema] = {}

    def named(self, name: str) -> Schema:
        """The node of definition `name`. Raises KeyError if there is none."""
        node = self._named.get(name)
        if node is None:
            node = self._named[name] = Schema(name=name)
            self._fill(node, self._definitions[name])
        return node

    def compile(self, raw: Raw) -> Schema:
        """The node of an inline schema; a bare reference gives the node of its definition."""
        ref = _reference(raw)
        if ref and not raw.keys() - {"$ref", "allOf", "description", "default"}:
            target = self.named(ref)
            if "default" not in raw:
                return target
            return replace(target, default=raw["default"])
        node = Schema(name=ref)
        if ref:
            self._fill(node, {**self._definitions[ref], **{k: v for k, v in raw.items() if k not in ("$ref", "allOf")}})
        else:
            self._fill(node, raw)
        return node

    def _fill(self, node: Schema, raw: Raw) -> None:
        get = raw.get
        node.raw = raw
        node.type = get("type", "")
        node.properties = {key: self.compile(value) for key, value in (get("properties") or {}).items()}
        additional = get("additionalProperties")
        if isinstance(additional, Mapping):
            node.additional = self.compile(additional)
        elif additional is True:
            node.additional = Schema(preserve_unknown=True)
        items = get("items")
        node.items = self.compile(items) if isinstance(items, Mapping) else None
        node.required = tuple(get("required") or ())
        node.default = get("default", MISSING)
        node.nullable = bool(get("nullable"))
        node.preserve_unknown = bool(get("x-kubernetes-preserve-unknown-fields"))
        node.int_or_string = bool(get("x-kubernetes-int-or-string")) or get("format") == "int-or-string"
        node.embedded = bool(get("x-kubernetes-embedded-resource"))
        node.list_type = get("x-kubernetes-list-type", "atomic")
        node.list_map_keys = tuple(get("x-kubernetes-list-map-keys") or ())
        node.map_type = get("x-kubernetes-map-type", "granular")
        node.merge_strategy = get("x-kubernetes-patch-strategy", "")
        node.merge_key = get("x-kubernetes-patch-merge-key", "")


def _reference(raw: Raw) -> str:
    """The definition that `raw` points to, directly or through a one-element allOf; "" if none."""
    all_of = raw.get("allOf")
    if isinstance(all_of, list) and len(all_of) == 1 and "$ref" in all_of[0]:
        return _target(all_of[0]["$ref"])
    return _target(raw["$ref"]) if "$ref" in raw else ""


def _target(ref: str) -> str:
    for prefix in _REF_PREFIXES:
        if ref.startswith(prefix):
            return ref.removeprefix(prefix)
    raise ValueError(f"compile schema: cannot follow $ref {ref!r}; only local definitions can be referred to")
