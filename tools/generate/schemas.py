"""Definitions of all stable kinds: OpenAPI v3 without prose, with the enumerations that only the Go source has."""

from __future__ import annotations

import json
import re
from typing import Any

Schema = dict[str, Any]
Json = dict[str, Any]

PREFIX = "#/components/schemas/"
_FUNCTION = re.compile(r"^func (schema_\w+)\(", re.MULTILINE)
_NAMED = re.compile(r'^\t\t"([^"]+)": +(schema_\w+)\(ref\),$', re.MULTILINE)
_PROPERTY = re.compile(r'^\t{5}"([^"]+)": \{$')
_NESTED = re.compile(r"^(\t+)(Items|AdditionalProperties): ")
_ENUM = re.compile(r"^(\t+)Enum: +\[\]interface\{\}\{(.*)\},$")
_DESCRIPTION = re.compile(r'^\t{7}Description: +(".*"),$')


Found = dict[tuple[str, tuple[str, ...]], tuple[list[str], str]]


def enrich(documents: dict[str, Json], found: dict[str, Found]) -> None:
    """Adds to the documents' definitions the enumerations, and the descriptions that list them."""
    for document in documents.values():
        for name, schema in document.get("components", {}).get("schemas", {}).items():
            add_enumerations(schema, found.get(name, {}))


def add_enumerations(schema: Schema, found: Found) -> None:
    """The same for one definition, of v2 or v3."""
    for (prop, path), (values, description) in found.items():
        at = schema["properties"][prop]
        if description:
            at["description"] = description
        for step in path:
            at = at[step]
        at["enum"] = values


def enumerations(go: str) -> dict[str, Found]:
    """By definition: (property, path inside it) → values, and the property's description."""
    names = {function: definition_name(path) for path, function in _NAMED.findall(go)}
    starts = [(match.group(1), match.start()) for match in _FUNCTION.finditer(go)]
    ends = [start for _, start in starts[1:]] + [len(go)]
    return {
        names[function]: _of_function(go[start:end].splitlines())
        for (function, start), end in zip(starts, ends, strict=True)
        if "Enum:" in go[start:end]
    }


def definition_name(go_path: str) -> str:
    """`io.k8s.api.core.v1.Pod` of `k8s.io/api/core/v1.Pod`: the host reversed, slashes to dots."""
    host, _, rest = go_path.partition("/")
    return ".".join([*reversed(host.split(".")), *rest.split("/")])


def _of_function(lines: list[str]) -> Found:
    """Reads gofmt's indentation: properties at 5 tabs, their own fields at 7, those of Items and so on deeper."""
    found: Found = {}
    prop, description = "", ""
    nested: list[tuple[int, str]] = []
    for line in lines:
        if start := _PROPERTY.match(line):
            prop, description, nested = start.group(1), "", []
        elif text := _DESCRIPTION.match(line):
            description = json.loads(text.group(1))
        elif inner := _NESTED.match(line):
            tabs = len(inner.group(1))
            step = "items" if inner.group(2) == "Items" else "additionalProperties"
            nested = [*(n for n in nested if n[0] < tabs), (tabs, step)]
        elif enum := _ENUM.match(line):
            path = tuple(step for tabs, step in nested if tabs < len(enum.group(1)))
            found[prop, path] = (json.loads(f"[{enum.group(2)}]"), description)
    return found


def definitions(documents: dict[str, Json]) -> dict[str, Schema]:
    """Every definition of the documents, without prose and without the list of kinds it stands for."""
    merged: dict[str, Schema] = {}
    for document in documents.values():
        for name, schema in document.get("components", {}).get("schemas", {}).items():
            bare = _bare(schema)
            bare.pop("x-kubernetes-group-version-kind", None)
            if merged.setdefault(name, bare) != bare:
                raise ValueError(f"generate schemas: two documents disagree on {name}")
    return dict(sorted(merged.items()))


def _bare(schema: Schema) -> Schema:
    """The schema without `description`, which is prose there and a field name inside `properties`."""
    bare: Schema = {}
    for key, value in schema.items():
        if key == "description":
            continue
        if key == "properties":
            bare[key] = {name: _bare(sub) for name, sub in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            bare[key] = _bare(value)
        elif key in ("allOf", "oneOf", "anyOf"):
            bare[key] = [_bare(sub) for sub in value]
        else:
            bare[key] = value
    return bare


def names_by_kind(documents: dict[str, Json]) -> dict[str, str]:
    """`apps/v1/Deployment` → `io.k8s.api.apps.v1.Deployment`, as the definitions themselves say."""
    found = {}
    for document in documents.values():
        for name, schema in document.get("components", {}).get("schemas", {}).items():
            for gvk in schema.get("x-kubernetes-group-version-kind", ()):
                found[f"{gvk['group']}/{gvk['version']}/{gvk['kind']}"] = name
    return dict(sorted(found.items()))
