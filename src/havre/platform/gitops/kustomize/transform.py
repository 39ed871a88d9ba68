"""The transformers that a few words ask for: namespace, names, labels, annotations, images, replicas.

Source: sigs.k8s.io/kustomize, api/internal/builtins and api/filters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from havre.api.meta import Obj
from havre.lang.structural.regex import PatternError, matcher
from havre.platform.gitops.kustomize import fields, tables
from havre.platform.gitops.kustomize.errors import BuildError
from havre.platform.gitops.kustomize.fields import FieldSpec
from havre.platform.gitops.kustomize.resource import Gvk, Resource, cluster_wide

_NEVER_RENAMED: Final = (
    Gvk(kind="CustomResourceDefinition"),
    Gvk(group="apiregistration.k8s.io", kind="APIService"),
    Gvk(kind="Namespace"),
)
SUBJECTS: Final = ("defaultOnly", "allServiceAccounts", "none")


# namespace


def namespace(
    resources: Sequence[Resource],
    name: str,
    *,
    unset_only: bool = False,
    subjects: str = "defaultOnly",
    specs: Sequence[FieldSpec] = tables.NAMESPACES,
) -> None:
    """Every object that can have a namespace gets this one. Raises BuildError when that makes two of one identity."""

    def put(old: Any) -> Any:
        return old if unset_only and old else name

    for resource in resources:
        resource.remember()
        if not cluster_wide(resource.gvk):
            meta = resource.obj.setdefault("metadata", {})
            meta["namespace"] = put(meta.get("namespace"))
        if resource.gvk.kind in ("RoleBinding", "ClusterRoleBinding"):
            _subjects(resource.obj, put, subjects)
        used = [
            spec
            for spec in specs
            if spec.path != "metadata/namespace"
            and (spec.path != "metadata/name" or resource.obj.get("apiVersion") == "v1")
            and not (spec.path == "subjects/namespace" and "RoleBinding" in spec.gvk.kind)
        ]
        fields.change(resource, used, put, empty=str)
    _distinct(resources, name)


def _subjects(obj: Obj, put: Callable[[Any], Any], mode: str) -> None:
    for subject in obj.get("subjects") or ():
        if not isinstance(subject, dict):
            continue
        ours = subject.get("name") == "default" if mode == "defaultOnly" else subject.get("kind") == "ServiceAccount"
        if mode != "none" and ours:
            subject["namespace"] = put(subject.get("namespace"))


def _distinct(resources: Iterable[Resource], name: str) -> None:
    seen = set()
    for resource in resources:
        if resource.id in seen:
            raise BuildError(f"namespace: {name}: namespace transformation produces ID conflict: {resource.id}")
        seen.add(resource.id)


# names


def prefix(resources: Iterable[Resource], text: str, specs: Sequence[FieldSpec] | None = None) -> None:
    _rename(resources, lambda old: f"{text}{old}", lambda resource: resource.prefixes.append(text), specs)


def suffix(resources: Iterable[Resource], text: str, specs: Sequence[FieldSpec] | None = None) -> None:
    _rename(resources, lambda old: f"{old}{text}", lambda resource: resource.suffixes.append(text), specs)


_NAME = (FieldSpec("metadata/name"),)


def _rename(
    resources: Iterable[Resource],
    by: fields.Change,
    note: Callable[[Resource], None],
    specs: Sequence[FieldSpec] | None,
) -> None:
    for resource in resources:
        original = resource.original.gvk
        if any(gvk.selects(original) for gvk in _NEVER_RENAMED):
            continue
        for spec in _NAME if specs is None else specs:
            if not spec.gvk.selects(original):
                continue
            if spec.path == "metadata/name":
                note(resource)
                resource.remember()
            fields.change(resource, (spec,), by)


# labels and annotations


def pairs(resources: Iterable[Resource], values: Mapping[str, str], specs: Sequence[FieldSpec]) -> None:
    """Sets these labels or annotations in the maps that the specs name."""

    def put(old: Any) -> Any:
        if old is not None and not isinstance(old, dict):
            raise BuildError(f"wrong node kind: expected MappingNode, found {old!r}")
        return {**(old or {}), **values}

    if values:
        for resource in resources:
            fields.change(resource, specs, put, empty=dict)


# replicas


def replicas(resources: Iterable[Resource], name: str, count: int) -> None:
    """Raises BuildError when nothing has this name, or had it once."""
    found = False
    for resource in resources:
        ids = [*resource.former_ids, resource.id]
        specs = [spec for spec in tables.REPLICAS if any(id.name == name and spec.gvk.selects(id.gvk) for id in ids)]
        found = found or bool(specs)
        fields.change(resource, specs, lambda _: count, empty=int)
    if not found:
        kinds = ", ".join(spec.gvk.kind for spec in tables.REPLICAS)
        raise BuildError(f"replicas: resource with name {name} does not match one of the kinds {kinds}")


# images


@dataclass(frozen=True, slots=True)
class Image:
    """What replaces the name, tag or digest of an image; `name` is a pattern."""

    name: str
    new_name: str = ""
    new_tag: str = ""
    digest: str = ""
    tag_suffix: str = ""


_TAIL = r"(:[a-zA-Z0-9_.{}-]*)?(@[a-zA-Z0-9]+([.+_-][a-zA-Z0-9]+)*:[a-zA-Z0-9_.{}-]*)?$"


def images(resources: Iterable[Resource], image: Image, specs: Sequence[FieldSpec] = tables.IMAGES) -> None:
    """In every list of containers wherever it stands, then in the fields of `specs`."""
    try:
        matches = matcher(f"^{image.name}{_TAIL}")
    except PatternError:  # as upstream: a name that is no pattern is the name of nothing
        return

    def put(old: Any) -> Any:
        return _replaced(old, image) if isinstance(old, str) and matches(old) else old

    for resource in resources:
        if resource.gvk.kind == "CustomResourceDefinition":
            continue
        for container in _containers(resource.obj):
            if "image" in container:
                container["image"] = put(container["image"])
        fields.change(resource, specs, put)


def _containers(value: Any) -> Iterator[Obj]:
    if isinstance(value, list):
        for item in value:
            yield from _containers(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict | list):
                yield from _containers(item)
                if key in ("containers", "initContainers") and isinstance(item, list):
                    yield from (each for each in item if isinstance(each, dict))


def _replaced(text: str, image: Image) -> str:
    name, tag, digest = split_image(text)
    name = image.new_name or name
    if image.new_tag or image.digest:
        tag, digest = image.new_tag, image.digest
    elif image.tag_suffix:
        tag, digest = tag + image.tag_suffix, ""
    return f"{name}{f':{tag}' if tag else ''}{f'@{digest}' if digest else ''}"


def split_image(text: str) -> tuple[str, str, str]:
    """Name, tag and digest; a port of the registry is part of the name."""
    slash = max(text.find("/"), 0)
    rest, digest = text[slash:], ""
    if "@" in rest:
        rest, _, digest = rest.partition("@")
    rest, _, tag = rest.partition(":")
    return text[:slash] + rest, tag, digest
