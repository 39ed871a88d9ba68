"""Which kinds are served, and what a write of each must obey.

A `Resource` joins what discovery says (`Kind`), where objects are stored (`prefix`), their shape (`schema`) and the
rules of
writes (`Rules`): the verbs know no kind by name. Built-in kinds are joined in `builtin`, those of
CustomResourceDefinitions in `custom`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import orjson

from havre.api.errors import NotFound
from havre.api.kinds import Kind
from havre.api.meta import GVK, GVR, Obj
from havre.control.apiserver.openapi_custom import CustomKind
from havre.kit.field import FieldError
from havre.lang.fieldset import FieldSet
from havre.lang.schema import Schema
from havre.machinery.admission import User

STATUS = FieldSet.of(("f:status",))
SPEC = FieldSet.of(("f:spec",))

Extract = Callable[[Obj], str]
Convert = Callable[[Obj], Obj]


class Rules(Protocol):
    """What a kind does with an object on its way to the store. All are pure; the first group changes `obj` in place."""

    def default(self, obj: Obj) -> None: ...
    def prepare_create(self, obj: Obj, user: User) -> None: ...
    def prepare_update(self, new: Obj, old: Obj, subresource: str) -> None:
        """`subresource` is "" for the object itself; what this write may not change comes back from `old`."""
        ...

    def prune(self, obj: Obj) -> list[str]:
        """Drops the fields that the schema does not know; returns their paths."""
        ...

    def check_types(self, obj: Obj) -> str:
        """Why the object cannot be decoded as this kind ("" if it can), after normalizing what Go would coerce."""
        ...

    def validate_create(self, obj: Obj) -> list[FieldError]: ...
    def validate_update(self, new: Obj, old: Obj, subresource: str) -> list[FieldError]: ...
    def warnings(self, obj: Obj, old: Obj | None) -> list[str]: ...
    def ignored(self, subresource: str) -> FieldSet:
        """The fields that a write through this subresource ("" is the main resource) never owns."""
        ...


class Table(Protocol):
    """The columns that `kubectl get` shows."""

    @property
    def columns(self) -> list[Obj]: ...
    def cells(self, obj: Obj) -> list[object]:
        """One cell per column; `Since` for an age."""
        ...


@dataclass(slots=True, eq=False)
class Resource:
    """One served resource of one version."""

    kind: Kind
    schema_of: Callable[[], Schema]
    rules: Rules
    table: Table
    fields: Mapping[str, Extract]  # supported field selectors
    decode: Convert | None = None  # from the stored version to this one; None when they are the same
    encode: Convert | None = None  # from this version to the stored one
    create_on_update: bool = False  # PUT of an absent object creates it
    unconditional_update: bool = True  # PUT without resourceVersion is taken
    returns_deleted: bool = False  # DELETE answers with the object, not with a Status
    published: CustomKind | None = None  # what OpenAPI shows of a custom kind
    unserved: str = ""  # why requests of this version are refused
    scale_paths: tuple[str, str, str] | None = None  # of a custom resource: spec, status, selector
    prefix: str = field(init=False)
    gvk: GVK = field(init=False)
    item_head: bytes = field(init=False)  # how a stored object begins; cut off in lists, as upstream does

    def __post_init__(self) -> None:
        self.prefix = prefix_of(self.kind.storage_group, self.kind.plural)
        self.gvk = self.kind.gvk
        stored_as = self.kind.stored_as
        self.item_head = b'{"kind":"%b","apiVersion":"%b",' % (stored_as.kind.encode(), stored_as.api_version.encode())

    @property
    def schema(self) -> Schema:
        """The shape of an object; compiled when it is first needed."""
        return self.schema_of()

    @property
    def group(self) -> str:
        return self.kind.group

    @property
    def plural(self) -> str:
        return self.kind.plural

    @property
    def namespaced(self) -> bool:
        return self.kind.namespaced

    @property
    def builtin(self) -> bool:
        """Custom kinds have no protobuf messages and take no strategic merge patch."""
        return not self.kind.custom

    def key(self, namespace: str, name: str) -> str:
        return f"{self.prefix}{namespace}/{name}"

    def scope(self, namespace: str) -> str:
        """Prefix of the keys of one namespace, or of all of them."""
        return f"{self.prefix}{namespace}/" if namespace else self.prefix

    def not_found(self, name: str) -> NotFound:
        return NotFound.of(self.plural, self.group, name)


def prefix_of(group: str, plural: str) -> str:
    """Where the keys of a resource begin: `apps/deployments/`, `core/pods/`."""
    return f"{group or 'core'}/{plural}/"


def dump(obj: Obj) -> bytes:
    """The bytes of an object as stored and sent: kind, apiVersion and metadata first."""
    head = {"kind": obj["kind"], "apiVersion": obj["apiVersion"], "metadata": obj["metadata"]}
    return orjson.dumps(head | obj)


class Registry:
    """The served resources by place, and a counter that tells discovery and OpenAPI when to be made anew."""

    def __init__(self) -> None:
        self._by_gvr: dict[GVR, Resource] = {}
        self._by_kind: dict[tuple[str, str], dict[str, Resource]] = {}
        self.generation = 0

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._by_gvr.values())

    def add(self, resource: Resource) -> None:
        kind = resource.kind
        self._by_gvr[GVR(kind.group, kind.version, kind.plural)] = resource
        self._by_kind.setdefault((kind.group, kind.kind), {})[kind.version] = resource
        self.generation += 1

    def drop(self, group: str, plural: str) -> None:
        for gvr in [g for g in self._by_gvr if g.group == group and g.resource == plural]:
            resource = self._by_gvr.pop(gvr)
            versions = self._by_kind[group, resource.kind.kind]
            del versions[gvr.version]
            if not versions:
                del self._by_kind[group, resource.kind.kind]
        self.generation += 1

    def find(self, group: str, version: str, plural: str) -> Resource:
        """Raises NotFound, as for any unknown page."""
        resource = self._by_gvr.get(GVR(group, version, plural))
        if resource is None:
            raise NotFound.page()
        return resource

    def of_kind(self, group: str, version: str, kind: str) -> Resource | None:
        return self._by_kind.get((group, kind), {}).get(version)

    def versions(self, group: str, kind: str) -> Mapping[str, Resource]:
        return self._by_kind.get((group, kind), {})
