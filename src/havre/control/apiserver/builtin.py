"""The built-in kinds as served resources: tables of `havre.api` joined into `Resource`s.

Schemas are compiled when a kind is first written, so that a start pays only for what it uses.

Source: k8s.io/kubernetes, pkg/registry/*/*/strategy.go.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property

from havre.api import crd, defaults, schemas, strategy, validation
from havre.api.kinds import KINDS, Kind
from havre.api.meta import GVK, Obj, rfc3339
from havre.control.apiserver import printers
from havre.control.apiserver.crd_validation import validate_crd
from havre.control.apiserver.resources import SPEC, STATUS, Resource
from havre.kit.field import FieldError
from havre.lang.fieldset import EMPTY, FieldSet
from havre.lang.schema import Compiler, Schema
from havre.lang.structural.prune import prune
from havre.lang.structural.types import check_types
from havre.machinery.admission import User

# Kinds whose DELETE answers with the object. Source: ReturnDeletedObject in pkg/registry.
_RETURNS_DELETED = frozenset(
    {
        ("", "Pod"), ("", "Service"), ("", "ServiceAccount"), ("", "Namespace"), ("", "PersistentVolume"),
        ("", "PersistentVolumeClaim"), ("", "PodTemplate"), ("", "ResourceQuota"),
        ("resource.k8s.io", "DeviceClass"), ("resource.k8s.io", "ResourceClaim"),
        ("resource.k8s.io", "ResourceClaimTemplate"), ("resource.k8s.io", "ResourceSlice"),
        ("storage.k8s.io", "CSIDriver"), ("storage.k8s.io", "CSINode"), ("storage.k8s.io", "StorageClass"),
        ("storage.k8s.io", "VolumeAttachment"), ("storage.k8s.io", "VolumeAttributesClass"),
    }
)  # fmt: skip


_WHOLE = frozenset({"", "scale"})  # these writes obey the rules of the object itself
_INTERNAL = frozenset({"binding"})  # made by the server: nothing comes from a client, nothing is restored


class Schemas:
    """The compiled schemas of the built-in kinds, each made when it is first asked for."""

    def __init__(self) -> None:
        self._compiler = Compiler(schemas.definitions())

    def of(self, gvk: GVK) -> Schema:
        return self._compiler.named(schemas.schema_name(gvk))


class BuiltinRules:
    """What a write of a built-in kind obeys: the strategies, defaults and validation of `havre.api`."""

    def __init__(self, kind: Kind, schema: Callable[[], Schema]) -> None:
        self._kind = kind
        self._schema = schema
        self._has_status = kind.subresource("status") is not None

    @cached_property
    def _prune(self) -> Callable[[Obj], list[str]]:
        return prune(self._schema(), builtin=True)

    @cached_property
    def _types(self) -> Callable[[Obj], str]:
        return check_types(self._schema())

    def default(self, obj: Obj) -> None:
        defaults.apply_defaults(obj)

    def prepare_create(self, obj: Obj, user: User) -> None:
        strategy.prepare_create(obj)
        if obj["kind"] == "CertificateSigningRequest":
            strategy.set_requester(obj, username=user.name, uid=user.uid, groups=user.groups, extra=user.extra)

    def prepare_update(self, new: Obj, old: Obj, subresource: str) -> None:
        if subresource in _WHOLE:
            strategy.prepare_update(new, old)
        elif subresource not in _INTERNAL:
            strategy.prepare_subresource_update(subresource, new, old, now=rfc3339(time.time()))

    def prune(self, obj: Obj) -> list[str]:
        return self._prune(obj)

    def check_types(self, obj: Obj) -> str:
        return self._types(obj)

    def validate_create(self, obj: Obj) -> list[FieldError]:
        return validation.validate_create(obj)

    def validate_update(self, new: Obj, old: Obj, subresource: str) -> list[FieldError]:
        if subresource in _WHOLE:
            return validation.validate_update(new, old)
        if subresource in _INTERNAL:
            return []
        return validation.validate_subresource_update(subresource, new, old)

    def warnings(self, obj: Obj, old: Obj | None) -> list[str]:
        return strategy.warnings(obj, old)

    def ignored(self, subresource: str) -> FieldSet:
        if subresource == "status":
            return SPEC
        return STATUS if self._has_status else EMPTY


class DefinitionRules(BuiltinRules):
    """CustomResourceDefinitions: their checks need the languages that `havre.api` may not know."""

    def default(self, obj: Obj) -> None:
        crd.default_crd(obj)

    def prepare_update(self, new: Obj, old: Obj, subresource: str) -> None:
        super().prepare_update(new, old, subresource)
        if not subresource:
            crd.prepare_update(new, old)

    def validate_create(self, obj: Obj) -> list[FieldError]:
        return super().validate_create(obj) + validate_crd(obj)

    def validate_update(self, new: Obj, old: Obj, subresource: str) -> list[FieldError]:
        found = super().validate_update(new, old, subresource)
        return found if subresource else found + validate_crd(new, old)


def resources() -> list[Resource]:
    """Every built-in kind whose objects are stored."""
    compiled = Schemas()
    return [_resource(kind, compiled) for kind in KINDS if kind.stored]


def _resource(kind: Kind, compiled: Schemas) -> Resource:
    gvk = kind.gvk

    def schema() -> Schema:
        return compiled.of(gvk)

    decode, encode = _conversion(kind)
    rules = DefinitionRules if kind.kind == "CustomResourceDefinition" else BuiltinRules
    return Resource(
        kind,
        schema,
        rules(kind, schema),
        printers.table_of(gvk),
        strategy.field_values(gvk),
        decode,
        encode,
        create_on_update=strategy.allow_create_on_update(gvk),
        unconditional_update=strategy.allow_unconditional_update(gvk),
        returns_deleted=(kind.group, kind.kind) in _RETURNS_DELETED,
    )


def _conversion(kind: Kind) -> tuple[Callable[[Obj], Obj] | None, Callable[[Obj], Obj] | None]:
    """From the stored version and to it; kinds with one version need neither."""
    if kind.gvk == kind.stored_as:
        return None, None
    if kind.kind == "Event":
        return strategy.event_core_to_new, strategy.event_new_to_core
    return strategy.hpa_v2_to_v1, strategy.hpa_v1_to_v2
