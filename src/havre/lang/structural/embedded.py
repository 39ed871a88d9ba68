"""Objects inside objects (`x-kubernetes-embedded-resource`), and the metadata of every custom object.

Metadata is decoded as Go's ObjectMeta: a wrong type is refused when a client sends it, an unknown field is
dropped. Whether names and labels are well formed is for the validation of metadata, not for this module.

Source: k8s.io/apiextensions-apiserver, pkg/apiserver/schema/objectmeta.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from havre.kit.field import FieldError, invalid, required
from havre.kit.names import dns1035_label
from havre.lang.schema import Schema
from havre.lang.structural.prune import prune
from havre.lang.structural.types import check_types

Obj = dict[str, Any]
Visit = Callable[[Obj, str], None]
Walk = Callable[[Any, str, Visit], None]


def check_metadata(schema: Schema, object_meta: Schema) -> Callable[[Obj], str]:
    """Why an object cannot be decoded: its metadata, or what it holds; "" when it can. Normalizes metadata in place."""
    walk = _walk(schema, root=True)
    check = check_types(object_meta)

    def run(obj: Obj) -> str:
        problems: list[str] = []

        def visit(resource: Obj, path: str) -> None:
            for key in ("apiVersion", "kind"):
                if key in resource and resource[key].__class__ is not str:
                    problems.append(str(invalid(_join(path, key), resource[key], "must be a string")))
            metadata = resource.get("metadata")
            why = check(metadata) if metadata is not None else ""
            if why:
                problems.append(str(invalid(f"{path}.metadata", metadata, why)) if path else why)

        if walk:
            walk(obj, "", visit)
        return problems[0] if problems else ""

    return run


def prune_metadata(schema: Schema, object_meta: Schema) -> Callable[[Obj], list[str]]:
    """Drops what metadata does not know, everywhere; the sorted paths of it. Expects checked metadata."""
    walk = _walk(schema, root=True)
    drop = prune(object_meta, builtin=True)

    def run(obj: Obj) -> list[str]:
        unknown: list[str] = []

        def visit(resource: Obj, path: str) -> None:
            metadata = resource.get("metadata")
            if metadata.__class__ is dict:
                unknown.extend(f"{_join(path, 'metadata')}.{name}" for name in drop(metadata))

        if walk:
            walk(obj, "", visit)
        return sorted(unknown)

    return run


def embedded(schema: Schema) -> Callable[[Obj], list[FieldError]]:
    """What every whole object inside an object must have: a well formed apiVersion and kind."""
    walk = _walk(schema, root=False)
    if walk is None:
        return lambda obj: []

    def run(obj: Obj) -> list[FieldError]:
        errors: list[FieldError] = []
        walk(obj, "", lambda resource, path: errors.extend(_identity(resource, path)))
        return errors

    return run


def _walk(schema: Schema, *, root: bool) -> Walk | None:
    """Visits every whole object, outermost first; None when there is none."""
    fields = {key: found for key, child in schema.properties.items() if (found := _walk(child, root=False))}
    extra = _walk(schema.additional, root=False) if schema.additional else None
    element = _walk(schema.items, root=False) if schema.items else None
    whole = root or schema.embedded
    if not (fields or extra or element or whole):
        return None

    def walk(value: Any, path: str, visit: Visit) -> None:
        if value.__class__ is dict:
            if whole:
                visit(value, path)
            for key, child in value.items():
                if inner := fields.get(key, extra):
                    inner(child, _join(path, key), visit)
        elif value.__class__ is list and element:
            for index, child in enumerate(value):
                element(child, f"{path}[{index}]", visit)

    return walk


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _identity(resource: Obj, path: str) -> list[FieldError]:
    errors = [required(_join(path, key)) for key in ("apiVersion", "kind") if key not in resource]
    for key in ("apiVersion", "kind"):
        text = resource.get(key)
        if key not in resource:
            continue
        place = _join(path, key)
        if not isinstance(text, str):
            errors.append(invalid(place, text, "must be a string"))
        elif not text:
            errors.append(invalid(place, text, "must not be empty"))
        elif key == "apiVersion" and text.count("/") > 1:
            errors.append(invalid(place, text, f"unexpected GroupVersion string: {text}"))
        elif key == "kind" and (words := dns1035_label(text.lower())):
            errors.append(invalid(place, text, "may have mixed case, but should otherwise match: " + ",".join(words)))
    return errors
