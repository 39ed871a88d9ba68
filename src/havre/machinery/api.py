"""The Kubernetes API as everything in Havre sees it: nine verbs on plain objects.

Implemented by `machinery.client` (HTTP, any cluster), `control.apiserver.local` (this process) and `testing.FakeApi`;
one contract suite runs on all of them and on a real kube-apiserver (`tests/contract/test_api.py`).

Errors are those of `havre.api.errors`: NotFound, AlreadyExists, Conflict, Invalid, Forbidden, Expired …
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from havre.api.meta import GVK, Obj

PatchType = Literal["json", "merge", "strategic"]
Propagation = Literal["", "Background", "Foreground", "Orphan"]


class Ref(NamedTuple):
    """Identity of one object; also the key of a work queue. `namespace` is "" for cluster-wide kinds."""

    gvk: GVK
    namespace: str
    name: str

    @classmethod
    def of(cls, obj: Obj) -> Ref:
        meta = obj["metadata"]
        return cls(GVK.of(obj), meta.get("namespace") or "", meta["name"])

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.gvk.kind} {where}"


@dataclass(frozen=True, slots=True)
class Listing:
    """The objects of a list and the revision they are of: where a watch goes on."""

    items: list[Obj]
    revision: str


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change: ADDED, MODIFIED, DELETED, or BOOKMARK, whose object has only a resourceVersion."""

    type: str
    object: Obj


@runtime_checkable
class Paged(Protocol):
    """An Api that can also give a list in parts, so that nobody holds 100,000 decoded objects at once."""

    def pages(self, gvk: GVK) -> AsyncIterator[Listing]:
        """At least one, all of one revision."""
        ...


async def pages(api: Api, gvk: GVK) -> AsyncIterator[Listing]:
    """All objects of a kind in parts, if the Api can, else at once."""
    if isinstance(api, Paged):
        async for part in api.pages(gvk):
            yield part
    else:
        yield await api.list(gvk)


class Api(Protocol):
    """Objects go in and out as dicts that the caller owns; `manager` is the field manager."""

    async def get(self, ref: Ref) -> Obj | None:
        """The object; None when there is none."""
        ...

    async def list(self, gvk: GVK, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        """All objects of a kind, in a namespace or ("") in all; the selectors are in the API's string form."""
        ...

    def watch(
        self, gvk: GVK, namespace: str = "", *, since: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        """Every change after revision `since`; ends when the server ends it. Raises Expired: list again."""
        ...

    async def create(self, obj: Obj, *, manager: str, dry_run: bool = False) -> Obj: ...

    async def update(self, obj: Obj, *, manager: str, subresource: str = "", dry_run: bool = False) -> Obj:
        """Replaces the object (or its status); with metadata.resourceVersion, only that revision. Raises Conflict."""
        ...

    async def patch(
        self,
        ref: Ref,
        patch: Obj | Sequence[Obj],
        *,
        kind: PatchType,
        manager: str,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Obj: ...

    async def apply(
        self, obj: Obj, *, manager: str, force: bool = True, subresource: str = "", dry_run: bool = False
    ) -> Obj:
        """Server-side apply: `manager` owns exactly the fields of `obj`. Raises Conflict without `force`."""
        ...

    async def delete(
        self,
        ref: Ref,
        *,
        uid: str = "",
        revision: str = "",
        propagation: Propagation = "",
        grace: int | None = None,
        dry_run: bool = False,
    ) -> None:
        """Asks for deletion; `uid` and `revision` protect a successor, a newer state. Raises NotFound, Conflict."""
        ...
