"""Fields beyond the built-in tables: `configurations` files, and transformers configured as objects.

Source: sigs.k8s.io/kustomize, api/internal/plugins/builtinconfig and builtinhelpers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from havre.api.meta import Obj
from havre.lang import yaml
from havre.platform.gitops.kustomize import patch, tables, transform
from havre.platform.gitops.kustomize import replace as replacements
from havre.platform.gitops.kustomize.errors import BuildError
from havre.platform.gitops.kustomize.fields import FieldSpec
from havre.platform.gitops.kustomize.resource import Gvk, Resource
from havre.platform.gitops.kustomize.selection import Selector
from havre.platform.gitops.kustomize.tables import NameReference
from havre.platform.gitops.kustomize.transform import Image

_NAME: Final = (FieldSpec("metadata/name"),)


@dataclass(frozen=True, slots=True)
class Configuration:
    """The tables that the transformers of a build use."""

    namespaces: tuple[FieldSpec, ...] = tables.NAMESPACES
    prefixes: tuple[FieldSpec, ...] = _NAME
    suffixes: tuple[FieldSpec, ...] = _NAME
    common_labels: tuple[FieldSpec, ...] = tables.COMMON_LABELS
    annotations: tuple[FieldSpec, ...] = tables.ANNOTATIONS
    images: tuple[FieldSpec, ...] = tables.IMAGES
    names: tuple[NameReference, ...] = tables.NAMES


_SECTIONS: Final = {
    "namespace": "namespaces",
    "namePrefix": "prefixes",
    "nameSuffix": "suffixes",
    "commonLabels": "common_labels",
    "commonAnnotations": "annotations",
    "images": "images",
}


def extended(known: Configuration, raw: bytes, file: str) -> Configuration:
    """With the fields that a file names. Raises BuildError."""
    try:
        value = yaml.load(raw) or {}
    except yaml.YAMLError as e:
        raise BuildError(f"{file}: {e}") from e
    if not isinstance(value, dict):
        raise BuildError(f"{file}: expected an object of lists of fields")
    more: dict[str, Any] = {}
    for section, entries in value.items():
        where = f"{file}: {section}"
        if section == "nameReference":
            more["names"] = (*known.names, *(_reference(each, where) for each in _objects(entries, where)))
        elif section in _SECTIONS:
            name = _SECTIONS[section]
            more[name] = (*getattr(known, name), *_specs(entries, where))
        elif section not in ("apiVersion", "kind", "metadata"):
            raise BuildError(f"{where}: not supported; known are nameReference, {', '.join(_SECTIONS)}")
    return replace(known, **more)


def _reference(raw: Mapping[str, Any], where: str) -> NameReference:
    gvk = Gvk(*(str(raw.get(part) or "") for part in ("group", "version", "kind")))
    return NameReference(gvk, _specs(raw.get("fieldSpecs"), f"{where}: fieldSpecs"))


def _specs(entries: Any, where: str) -> tuple[FieldSpec, ...]:
    return tuple(FieldSpec.of(each, where) for each in _objects(entries, where))


def _objects(entries: Any, where: str) -> list[Mapping[str, Any]]:
    if entries is None:
        return []
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise BuildError(f"{where}: expected a list of objects")
    return entries


# transformers as objects

Read = Callable[[str, str], bytes]


def run(resources: list[Resource], config: Obj, where: str, read: Read) -> None:
    """Raises BuildError for one that is not built in."""
    kind = config["kind"]
    work = _TRANSFORMERS.get(kind) if config.get("apiVersion") == "builtin" else None
    where = f"{where}: {kind}"
    if work is None:
        raise BuildError(f"{where}: only these built-in transformers run here: {', '.join(_TRANSFORMERS)}")
    try:
        work(resources, config, where, read)
    except (AttributeError, TypeError, ValueError) as e:
        raise e if isinstance(e, BuildError) else BuildError(f"{where}: a field has the wrong type: {e}") from e


def _namespace(resources: list[Resource], config: Obj, where: str, read: Read) -> None:
    mode = config.get("setRoleBindingSubjects") or "defaultOnly"
    if mode not in transform.SUBJECTS:
        raise BuildError(f"{where}: setRoleBindingSubjects: {mode!r} is none of {', '.join(transform.SUBJECTS)}")
    transform.namespace(
        resources,
        str(config["metadata"].get("namespace") or ""),
        unset_only=config.get("unsetOnly") is True,
        subjects=mode,
        specs=_specs(config.get("fieldSpecs"), where),
    )


def _prefix(resources: list[Resource], config: Obj, where: str, read: Read) -> None:
    transform.prefix(resources, str(config.get("prefix") or ""), _specs(config.get("fieldSpecs"), where))


def _suffix(resources: list[Resource], config: Obj, where: str, read: Read) -> None:
    transform.suffix(resources, str(config.get("suffix") or ""), _specs(config.get("fieldSpecs"), where))


def _labels(resources: list[Resource], config: Obj, where: str, read: Read) -> None:
    transform.pairs(resources, dict(config.get("labels") or {}), _specs(config.get("fieldSpecs"), where))


def _annotations(resources: list[Resource], config: Obj, where: str, read: Read) -> None:
    transform.pairs(resources, dict(config.get("annotations") or {}), _specs(config.get("fieldSpecs"), where))


def _images(resources: list[Resource], config: Obj, where: str, read: Read) -> None:
    raw: Mapping[str, Any] = config.get("imageTag") or {}
    names = ("name", "newName", "newTag", "digest", "tagSuffix")
    image = Image(*(str(raw.get(name) or "") for name in names))
    transform.images(resources, image, _specs(config.get("fieldSpecs"), where))


def _replicas(resources: list[Resource], config: Obj, where: str, read: Read) -> None:
    raw: Mapping[str, Any] = config.get("replica") or {}
    transform.replicas(resources, str(raw.get("name") or ""), int(raw.get("count") or 0))


def _patch(resources: list[Resource], config: Obj, where: str, read: Read) -> None:
    text, path = str(config.get("patch") or config.get("jsonOp") or ""), str(config.get("path") or "")
    if bool(text) == bool(path):
        raise BuildError(f"{where}: must specify one of patch and path")
    target, options = config.get("target"), config.get("options") or {}
    patch.apply(
        resources,
        patch.Patch(
            read(path, where) if path else text.encode(),
            where,
            Selector.of(target, f"{where}.target") if target else None,
            options.get("allowNameChange") is True,
            options.get("allowKindChange") is True,
        ),
    )


def _merges(resources: list[Resource], config: Obj, where: str, read: Read) -> None:
    texts: Sequence[bytes] = [read(str(path), where) for path in config.get("paths") or ()]
    for text in (*texts, str(config.get("patches") or "").encode()):
        patch.apply(resources, patch.Patch(text, where))


def _replacements(resources: list[Resource], config: Obj, where: str, read: Read) -> None:
    for raw in _objects(config.get("replacements"), where):
        replacements.apply(resources, raw, where)


_TRANSFORMERS: Final[Mapping[str, Callable[[list[Resource], Obj, str, Read], None]]] = {
    "NamespaceTransformer": _namespace,
    "PrefixTransformer": _prefix,
    "SuffixTransformer": _suffix,
    "LabelTransformer": _labels,
    "AnnotationsTransformer": _annotations,
    "ImageTagTransformer": _images,
    "ReplicaCountTransformer": _replicas,
    "PatchTransformer": _patch,
    "PatchJson6902Transformer": _patch,
    "PatchStrategicMergeTransformer": _merges,
    "ReplacementTransformer": _replacements,
}
