"""A CustomResourceDefinition as the API server uses it: what it serves, and the status that its controllers write.

Everything here is a pure function of the definition; `custom` stores and calls. What is wrong with a definition is
found in `crd_validation`.

Source: k8s.io/apiextensions-apiserver, pkg/apiserver/customresource_handler.go, pkg/registry/customresource,
pkg/controller/{status,establish,nonstructuralschema,finalizer}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from havre.api.crd import (
    accept_names,
    convert,
    default_crd,
    is_true,
    prepare_update,
    remember_storage,
    storage_version,
    with_conditions,
)
from havre.api.kinds import Kind, Subresource
from havre.api.meta import GVK, Obj
from havre.api.schemas import definitions
from havre.control.apiserver.crd_validation import validate_crd
from havre.kit.field import FieldError, Problem, invalid
from havre.lang.cel.rules import rules
from havre.lang.schema import Compiler, Schema
from havre.lang.structural.defaults import defaults
from havre.lang.structural.embedded import check_metadata, embedded, prune_metadata
from havre.lang.structural.listtypes import duplicates
from havre.lang.structural.prune import prune
from havre.lang.structural.shape import structural_errors
from havre.lang.structural.validate import NO_PATH, validate

__all__ = [
    "Served",
    "convert",
    "default_crd",
    "established",
    "prepare_update",
    "serve",
    "settle",
    "terminating",
    "validate_crd",
]

Extract = Callable[[Obj], str]
Validate = Callable[[Any, Any], list[FieldError]]

OBJECT_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_META_REF: Final = {"$ref": f"#/components/schemas/{OBJECT_META}"}
_VERBS: Final = ("delete", "deletecollection", "get", "list", "patch", "create", "update", "watch")
_PART_VERBS: Final = ("get", "patch", "update")
_SCALE: Final = GVK("autoscaling", "v1", "Scale")
_INT32_MAX: Final = 2**31 - 1
_BLOCKING: Final = frozenset(
    {Problem.NOT_SUPPORTED, Problem.REQUIRED, Problem.TOO_LONG, Problem.TOO_MANY, Problem.TYPE_INVALID}
)
_BLOCKED: Final = invalid(
    NO_PATH,
    None,
    "some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation",
)
_GO_TYPES: Final = {
    bool: "bool",
    int: "int64",
    float: "float64",
    str: "string",
    list: "[]interface {}",
    dict: "map[string]interface {}",
    type(None): "<nil>",
}


@dataclass(eq=False)
class Served:
    """One served version of a custom kind. What needs the compiled schema is compiled at first use."""

    kind: Kind
    raw: Mapping[str, Any]  # the schema as its author wrote it
    status: bool  # whether status is a part of its own
    scale_paths: tuple[str, str, str] | None = None  # of spec.replicas, status.replicas and the selector
    printer_columns: tuple[Obj, ...] = ()
    selectable_fields: Mapping[str, Extract] = field(default_factory=dict)
    warning: str = ""  # told to every client of a deprecated version

    @cached_property
    def _own(self) -> Schema:
        return Compiler().compile(self.raw)

    @cached_property
    def schema(self) -> Schema:
        """With apiVersion, kind and metadata, as merging and apply need it."""
        return Compiler(definitions()).compile(_completed(self.raw, root=True))

    @cached_property
    def openapi(self) -> Obj:
        """The definition to publish."""
        gvk = {"group": self.kind.group, "kind": self.kind.kind, "version": self.kind.version}
        return {**_completed(self.raw, root=True), "x-kubernetes-group-version-kind": [gvk]}

    @cached_property
    def _object_meta(self) -> Schema:
        return Compiler(definitions()).named(OBJECT_META)

    @cached_property
    def default(self) -> Callable[[Obj], None]:
        """Fills in defaults and drops nulls that are not allowed, in place."""
        return defaults(self._own)

    @cached_property
    def check_types(self) -> Callable[[Obj], str]:
        """Why the object cannot be decoded, "" when it can: only identity and metadata have fixed types."""
        return check_metadata(self._own, self._object_meta)

    @cached_property
    def prune(self) -> Callable[[Obj], list[str]]:
        """Drops unknown fields in place and returns their paths."""
        fields, metadata = prune(self._own), prune_metadata(self._own, self._object_meta)
        return lambda obj: fields(obj) + metadata(obj)

    @cached_property
    def _validate(self) -> Validate:
        return validate(self._own)

    @cached_property
    def _status_schema(self) -> Validate:
        return validate(self._own.properties.get("status", Schema()))

    @cached_property
    def _rules(self) -> Validate:
        return rules(self._own)

    @cached_property
    def _whole(self) -> Callable[[Obj], list[FieldError]]:
        return embedded(self._own)

    @cached_property
    def _duplicates(self) -> Callable[[Any], list[FieldError]]:
        return duplicates(self._own)

    def validate(self, new: Obj, old: Obj | None) -> list[FieldError]:
        """Every problem but those of metadata; `old` is the stored object on an update."""
        wrong = self._identity(new)
        if wrong:
            return wrong
        errors = self._validate(new, old) + self._scale_spec(new) + self._scale_status(new)
        return self._finish(errors, new, old)

    def validate_status(self, new: Obj, old: Obj) -> list[FieldError]:
        """Every problem of a write of the status; paths inside of messages begin below it, as upstream."""
        wrong = self._identity(new)
        if wrong:
            return wrong
        errors: list[FieldError] = []
        if "status" in new:
            found = self._status_schema(new["status"], old.get("status"))
            errors = [FieldError(e.problem, _below("status", e.path), e.value, e.detail) for e in found]
        return self._finish(errors + self._scale_status(new), new, old)

    def _identity(self, obj: Obj) -> list[FieldError]:
        wanted = {"kind": self.kind.kind, "apiVersion": self.kind.api_version}
        return [
            invalid(key, obj.get(key, ""), f"must be {word}") for key, word in wanted.items() if obj.get(key) != word
        ]

    def _finish(self, errors: list[FieldError], new: Obj, old: Obj | None) -> list[FieldError]:
        """Embedded objects, lists, then rules, unless the object is so wrong that rules would not understand it."""
        errors = errors + self._whole(new)
        repeated = self._duplicates(new)
        if repeated and not (old is not None and self._duplicates(old)):
            errors = errors + repeated
        if any(error.problem in _BLOCKING for error in errors):
            return [*errors, _BLOCKED]
        return errors + self._rules(new, old)

    def _scale_spec(self, obj: Obj) -> list[FieldError]:
        return _replicas_errors(obj, self.scale_paths[0]) if self.scale_paths else []

    def _scale_status(self, obj: Obj) -> list[FieldError]:
        if not self.scale_paths:
            return []
        _, status, selector = self.scale_paths
        errors = _replicas_errors(obj, status)
        value, why = _nested(obj, selector) if selector else (None, "")
        if not why and value is not None and not isinstance(value, str):
            why = _accessor(selector, value, "string")
        return [*errors, invalid(selector, "", why)] if why else errors


def _below(place: str, path: str) -> str:
    if path == NO_PATH:
        return place
    return f"{place}{path}" if path.startswith("[") else f"{place}.{path}"


def _replicas_errors(obj: Obj, path: str) -> list[FieldError]:
    value, why = _nested(obj, path)
    if not why and value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        why = _accessor(path, value, "int64")
    if why:
        return [invalid(path, 0, why)]
    if value is not None and value < 0:
        return [invalid(path, value, "should be a non-negative integer")]
    if value is not None and value > _INT32_MAX:
        return [invalid(path, value, f"should be less than or equal to {_INT32_MAX}")]
    return []


def _nested(obj: Obj, path: str) -> tuple[Any, str]:
    """The value at `.spec.replicas`, None when it is absent; why there can be none."""
    value: Any = obj
    for key in path.removeprefix(".").split("."):
        if not isinstance(value, dict):
            return None, _accessor(path, value, "map[string]interface{}")
        if key not in value:
            return None, ""
        value = value[key]
    return value, ""


def _accessor(path: str, value: Any, wanted: str) -> str:
    shown = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
    return f"{path} accessor error: {shown} is of the type {_GO_TYPES[type(value)]}, expected {wanted}"


def _completed(raw: Mapping[str, Any], *, root: bool = False) -> Obj:
    """The schema with the fields that every whole object has."""
    made: Obj = dict(raw)
    if isinstance(raw.get("properties"), Mapping):
        made["properties"] = {key: _completed(child) for key, child in raw["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(raw.get(key), Mapping):
            made[key] = _completed(raw[key])
    if root or raw.get("x-kubernetes-embedded-resource"):
        identity: Obj = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": _META_REF}
        made["properties"] = {**(made.get("properties") or {}), **identity}
    return made


# What a definition serves


def established(crd: Obj) -> bool:
    """Whether its objects can be served."""
    return is_true(crd, "Established")


def serve(crd: Obj) -> list[Served]:
    """The served versions, under the names that were accepted."""
    spec = crd["spec"]
    names = {**spec["names"], **((crd.get("status") or {}).get("acceptedNames") or {})}
    stored = storage_version(crd)
    return [_served(spec, names, stored, version) for version in spec["versions"] if version.get("served")]


def _served(spec: Obj, names: Obj, stored: str, version: Obj) -> Served:
    subresources = version.get("subresources") or {}
    status, scale = subresources.get("status") is not None, subresources.get("scale")
    gvk = GVK(spec["group"], version["name"], names["kind"])
    parts = [Subresource("status", gvk, _PART_VERBS)] if status else []
    if scale is not None:
        parts.append(Subresource("scale", _SCALE, _PART_VERBS))
    kind = Kind(
        group=gvk.group,
        version=gvk.version,
        kind=gvk.kind,
        plural=names["plural"],
        singular=names.get("singular") or gvk.kind.lower(),
        namespaced=spec["scope"] == "Namespaced",
        verbs=_VERBS,
        schema="",
        storage_version=stored,
        storage_group=gvk.group,
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources=tuple(parts),
        list_kind=names.get("listKind") or f"{gvk.kind}List",
        custom=True,
    )
    paths = [item["jsonPath"] for item in version.get("selectableFields") or ()]
    return Served(
        kind,
        (version.get("schema") or {}).get("openAPIV3Schema")
        or {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        status,
        _scale_paths(scale),
        tuple(version.get("additionalPrinterColumns") or ()),
        {path.removeprefix("."): _extract(path) for path in paths},
        _warning(version, gvk),
    )


def _scale_paths(scale: Obj | None) -> tuple[str, str, str] | None:
    if scale is None:
        return None
    return scale["specReplicasPath"], scale["statusReplicasPath"], scale.get("labelSelectorPath") or ""


def _extract(path: str) -> Extract:
    """The text of a field for a field selector; "" when it is absent."""

    def run(obj: Obj) -> str:
        value, why = _nested(obj, path)
        if why or value is None:
            return ""
        return str(value).lower() if isinstance(value, bool) else str(value)

    return run


def _warning(version: Obj, gvk: GVK) -> str:
    if not version.get("deprecated"):
        return ""
    return version.get("deprecationWarning") or f"{gvk.api_version} {gvk.kind} is deprecated"


# The status that upstream's controllers write


def settle(crd: Obj, others: Iterable[Obj], now: str) -> Obj:
    """The definition with the status it should have beside `others`; the same status when nothing is to do."""
    accepted, found = accept_names(crd, others)
    status = dict(crd.get("status") or {})
    conditions = list(status.get("conditions") or ())
    broken = _non_structural(crd)
    if broken is None:
        conditions = [c for c in conditions if c.get("type") != "NonStructuralSchema"]
    status["acceptedNames"] = accepted
    status["conditions"] = with_conditions(conditions, found + ([broken] if broken else []), now)
    made = {**crd, "status": status}
    remember_storage(made)
    return made


def _non_structural(crd: Obj) -> Obj | None:
    """A definition stored by another program may have a schema that this server would refuse."""
    errors: list[FieldError] = []
    for index, version in enumerate(crd["spec"].get("versions") or ()):
        raw = (version.get("schema") or {}).get("openAPIV3Schema")
        if raw:
            errors += structural_errors(raw, f"spec.versions[{index}].schema.openAPIV3Schema")
    if not errors:
        return None
    words = str(errors[0]) if len(errors) == 1 else f"[{', '.join(map(str, errors))}]"
    return {"type": "NonStructuralSchema", "status": "True", "reason": "Violations", "message": words}


def terminating(crd: Obj, now: str) -> Obj:
    """The definition whose objects are being deleted."""
    status = dict(crd.get("status") or {})
    found = {
        "type": "Terminating",
        "status": "True",
        "reason": "InstanceDeletionInProgress",
        "message": "CustomResource deletion is in progress",
    }
    status["conditions"] = with_conditions(status.get("conditions") or (), [found], now)
    return {**crd, "status": status}
