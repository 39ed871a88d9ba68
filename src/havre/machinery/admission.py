"""The admission protocol: who asks for what, and the two sorts of plugs that may change or refuse it.

A request that was authenticated and authorized passes every `Mutator` in order, then every `Validator`. A plug may live
in the process of the API server or behind a webhook on a foreign cluster: it sees the same `AdmissionRequest`.

`Lister` is how a plug reads other objects: from a cache, so it never awaits.

Source: k8s.io/apiserver, pkg/admission/interfaces.go and pkg/authentication/user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from havre.api.meta import GVK, Obj

SUPERUSERS = "system:masters"  # members may do anything
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"
ANONYMOUS = "system:anonymous"
NODES = "system:nodes"
NODE_PREFIX = "system:node:"
SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"
SERVICE_ACCOUNTS = "system:serviceaccounts"


@dataclass(frozen=True, slots=True)
class User:
    """Who sends a request; equal users have the same rights (`extra` is carried, never compared)."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)

    @property
    def is_superuser(self) -> bool:
        return SUPERUSERS in self.groups

    @property
    def node(self) -> str:
        """Name of the node whose agent this is, "" for everyone else."""
        if NODES in self.groups and self.name.startswith(NODE_PREFIX):
            return self.name[len(NODE_PREFIX) :]
        return ""

    def info(self) -> Obj:
        """As `authentication.k8s.io/v1` UserInfo: in reviews of tokens, of oneself and of webhooks."""
        info: Obj = {"username": self.name}
        if self.uid:
            info["uid"] = self.uid
        if self.groups:
            info["groups"] = list(self.groups)
        if self.extra:
            info["extra"] = {key: list(values) for key, values in self.extra.items()}
        return info


@dataclass(slots=True)
class Attributes:
    """What a request wants to do: an action on a resource, or on a plain URL path when `path` is set."""

    user: User
    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


class Operation(StrEnum):
    CREATE = "CREATE"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    CONNECT = "CONNECT"


@dataclass(slots=True)
class AdmissionRequest:
    """One write on its way to the store. Mutators may change or replace `obj`; anyone may append `warnings`.

    `obj` is None for DELETE, `old` is None for CREATE. `options` are the Create-, Update- or DeleteOptions.
    """

    attributes: Attributes
    operation: Operation
    gvk: GVK
    obj: Obj | None
    old: Obj | None = None
    options: Obj = field(default_factory=dict)
    dry_run: bool = False
    warnings: list[str] = field(default_factory=list)

    def targets(self, group: str, resource: str, subresource: str = "") -> bool:
        """Does this request act on exactly this resource and subresource?"""
        a = self.attributes
        return a.resource == resource and a.group == group and a.subresource == subresource


class Mutator(Protocol):
    """May change `req.obj`, or raise ApiError to refuse."""

    async def admit(self, req: AdmissionRequest) -> None: ...


class Validator(Protocol):
    """Looks only; raises ApiError to refuse."""

    async def validate(self, req: AdmissionRequest) -> None: ...


class Lister(Protocol):
    """Objects of other kinds, from a cache. What it returns is shared: copy before changing."""

    def get(self, group: str, resource: str, namespace: str, name: str) -> Obj | None: ...

    def list(self, group: str, resource: str, namespace: str) -> list[Obj]:
        """All objects of a namespace; "" means every namespace."""
        ...
