"""The objects of a release in the cluster: where they live, apply, remove, are they ready.

Helm marks what it made with a label and two annotations that are not in the manifest; it is how it knows its own.

Source: helm.sh/helm v4, pkg/action/validate.go, pkg/kube/client.go, pkg/kube/statuswait.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from havre.api.errors import ApiError, NotFound
from havre.api.kinds import KINDS, by_gvk
from havre.api.meta import GVK, Obj
from havre.machinery import kstatus
from havre.machinery.api import Api, Propagation, Ref
from havre.machinery.conditions import find
from havre.machinery.kstatus import Result, Status
from havre.platform.gitops.helm.engine import Capabilities

CRD: Final = GVK("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
MANAGER: Final = "helm-controller"
RELEASE_NAME: Final = "meta.helm.sh/release-name"
RELEASE_NAMESPACE: Final = "meta.helm.sh/release-namespace"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"


class NotOurs(Exception):
    """An object that somebody else made, where it may not be taken over."""


@dataclass(slots=True)
class Cluster:
    """One release's view of the cluster; made for one pass, since it remembers definitions."""

    api: Api
    name: str
    namespace: str
    kube_version: str = "v1.34.0"
    status: Callable[[Obj | None], Result] = kstatus.status
    manager: str = MANAGER
    _definitions: list[Obj] | None = field(default=None, init=False)

    async def capabilities(self) -> Capabilities:
        """What the cluster serves, for templates that ask."""
        served = [(kind.api_version, kind.kind) for kind in KINDS]
        for definition in await self._crds():
            spec = definition["spec"]
            served += [
                (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                for version in spec["versions"]
                if version.get("served")
            ]
        names = {api_version for api_version, _ in served} | {f"{where}/{kind}" for where, kind in served}
        return Capabilities(self.kube_version, tuple(sorted(names)))

    async def ref(self, obj: Obj) -> Ref:
        """Where an object of the manifest lives; without a namespace of its own it is the release's."""
        gvk, meta = GVK.of(obj), obj["metadata"]
        if not await self._namespaced(gvk):
            return Ref(gvk, "", meta["name"])
        return Ref(gvk, meta.get("namespace") or self.namespace, meta["name"])

    async def apply(self, obj: Obj, *, take: bool = True) -> Obj:
        """Server-side apply, marked as Helm does. Raises ApiError; NotOurs when it is another's and not to be taken."""
        ref = await self.ref(obj)
        if not take:
            await self._check(ref)
        return await self.api.apply(self._marked(obj, ref), manager=self.manager, force=True)

    async def replace(self, obj: Obj) -> Obj:
        """Delete and apply: what `force` means for fields that cannot change."""
        await self.remove([obj])
        return await self.apply(obj)

    async def remove(self, found: Iterable[Obj], propagation: Propagation = "Background") -> None:
        """Ask for deletion of each; what is gone is fine."""
        for obj in found:
            try:
                await self.api.delete(await self.ref(obj), propagation=propagation)
            except NotFound:
                continue

    async def remaining(self, found: Sequence[Obj]) -> list[Ref]:
        """Which of them are still there."""
        refs = [await self.ref(obj) for obj in found]
        return [ref for ref in refs if await self._get(ref) is not None]

    async def unready(self, found: Sequence[Obj], *, jobs: bool = True) -> list[tuple[Ref, Result]]:
        """Which objects are not yet what they say; `jobs`: one that has not completed is not ready."""
        waiting = []
        for obj in found:
            ref = await self.ref(obj)
            live = await self._get(ref)
            result = self.status(live)
            if result.status is Status.CURRENT and jobs and ref.gvk.kind == "Job" and ref.gvk.group == "batch":
                result = completion(live or {})
            if result.status is not Status.CURRENT:
                waiting.append((ref, result))
        return waiting

    async def live(self, obj: Obj) -> Obj | None:
        return await self._get(await self.ref(obj))

    async def install_crds(self, texts: Iterable[Obj], policy: str) -> None:
        """Definitions of a chart: Create leaves alone what is there, CreateReplace applies, Skip does nothing."""
        for obj in texts if policy != "Skip" else ():
            ref = await self.ref(obj)
            if policy == "Create" and await self._get(ref) is not None:
                continue
            await self.api.apply(obj, manager=self.manager, force=True)
            self._definitions = None

    # pieces

    async def _get(self, ref: Ref) -> Obj | None:
        try:
            return await self.api.get(ref)
        except NotFound:  # the kind itself is gone
            return None

    async def _check(self, ref: Ref) -> None:
        live = await self._get(ref)
        if live is None:
            return
        said = live["metadata"].get("annotations") or {}
        if (said.get(RELEASE_NAME), said.get(RELEASE_NAMESPACE)) != (self.name, self.namespace):
            raise NotOurs(
                f'{ref.gvk.kind} "{ref.name}" in namespace "{ref.namespace}" exists and cannot be imported into the '
                f"current release: invalid ownership metadata"
            )

    def _marked(self, obj: Obj, ref: Ref) -> Obj:
        marked: Obj = without_nulls(obj)
        meta: Obj = marked["metadata"]
        meta["labels"] = {**(meta.get("labels") or {}), MANAGED_BY: "Helm"}
        ours = {RELEASE_NAME: self.name, RELEASE_NAMESPACE: self.namespace}
        meta["annotations"] = {**(meta.get("annotations") or {}), **ours}
        if ref.namespace:
            meta["namespace"] = ref.namespace
        else:
            meta.pop("namespace", None)
        marked.pop("status", None)
        return marked

    async def _namespaced(self, gvk: GVK) -> bool:
        known = by_gvk(gvk)
        if known is not None:
            return known.namespaced
        for definition in await self._crds():
            spec = definition["spec"]
            if spec["group"] == gvk.group and spec["names"]["kind"] == gvk.kind:
                return bool(spec["scope"] == "Namespaced")
        return True

    async def _crds(self) -> list[Obj]:
        if self._definitions is None:
            try:
                self._definitions = (await self.api.list(CRD)).items
            except ApiError as error:
                if error.status_code != 403:
                    raise
                self._definitions = []  # an account that may not see definitions works with built-in kinds
        return self._definitions


def completion(live: Obj) -> Result:
    """Of a Job or Pod that is to end; anything else is complete as soon as it is there."""
    if not live:
        return kstatus.NOT_FOUND
    said: dict[str, Any] = live.get("status") or {}
    name = live["metadata"]["name"]
    if live["kind"] == "Pod":
        phase = said.get("phase", "")
        if phase == "Failed":
            return Result(Status.FAILED, f"pod {name} failed")
        return kstatus.CURRENT if phase == "Succeeded" else Result(Status.IN_PROGRESS, f"pod {name} is {phase}")
    if live["kind"] != "Job":
        return kstatus.CURRENT
    conditions = said.get("conditions") or ()
    failed, complete = find(conditions, "Failed"), find(conditions, "Complete")
    if failed is not None and failed.get("status") == "True":
        return Result(Status.FAILED, f"job {name} failed: {failed.get('reason', '')}")
    if complete is not None and complete.get("status") == "True":
        return kstatus.CURRENT
    return Result(Status.IN_PROGRESS, f"job {name} has not completed")


def without_nulls(value: Any) -> Any:
    """Charts render empty keys; an apply would claim them, the API drops them."""
    if isinstance(value, dict):
        return {key: without_nulls(held) for key, held in value.items() if held is not None}
    return [without_nulls(held) for held in value] if isinstance(value, list) else value
