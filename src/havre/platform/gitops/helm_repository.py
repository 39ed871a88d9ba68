"""HelmRepository: the index of a repository of charts, fetched regularly.

reads   HelmRepository, the Secret with its credentials
writes  the index in the storage, status.artifact, conditions
wakes   nobody; its own new revision wakes the HelmCharts that use it
source  fluxcd/source-controller v1.9, internal/controller/helmrepository_controller.go

A repository of the type `oci` has no index: registries are asked for each chart, and it is ready as it stands.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from havre.api.meta import Obj
from havre.kit import duration
from havre.machinery import conditions as cond
from havre.machinery.api import Api, Ref
from havre.machinery.conditions import READY, RECONCILING, STALLED, Condition
from havre.machinery.controller import Controller, Plan
from havre.platform.gitops.artifacts import Artifact, ArtifactError, Storage
from havre.platform.gitops.helm.repository import RepositoryError, index
from havre.platform.gitops.helm_chart import FINALIZER, HELM_REPOSITORY, BuildError, handled, repository_of

MANAGER: Final = "source-controller"
INTERVAL = "1h"  # upstream's default for the static type


@dataclass(frozen=True, slots=True)
class Reconciler:
    """What all passes share."""

    storage: Storage

    async def reconcile(self, obj: Obj, api: Api) -> Plan:
        spec = obj["spec"]
        again = duration.parse(spec.get("interval") or INTERVAL)
        if spec.get("type") == "oci" or spec["url"].startswith("oci://"):
            return _ready(obj, {}, "Helm repository is ready", again)
        try:
            data = await index(await repository_of(obj, api))
            return await self._stored(obj, data, again)
        except BuildError as error:
            return _failed(obj, error.reason, str(error), again, stalled=error.stalled)
        except RepositoryError as error:
            return _failed(obj, "IndexationFailed", f"failed to fetch Helm repository index: {error}", again)
        except ArtifactError as error:
            return _failed(obj, "ArchiveOperationFailed", str(error), again)

    async def finalize(self, obj: Obj, _api: Api) -> None:
        await self.storage.remove(Ref.of(obj))

    async def _stored(self, obj: Obj, data: bytes, again: float) -> Plan:
        revision = f"sha256:{hashlib.sha256(data).hexdigest()}"
        words = f"stored artifact: revision '{revision}'"
        kept = (obj.get("status") or {}).get("artifact") or {}
        if kept.get("revision") == revision and await self.storage.intact(Artifact.of(kept)):
            return _ready(obj, {}, words, again)
        artifact = await self.storage.put(Ref.of(obj), data, "index-{hex}.yaml", revision=revision)
        await self.storage.collect(Ref.of(obj), artifact)
        return _ready(obj, {"artifact": artifact.status(), "url": artifact.url}, words, again)


def _ready(obj: Obj, status: Obj, words: str, again: float) -> Plan:
    said = Condition(READY, True, cond.SUCCEEDED, words)
    return Plan(status={**status, **handled(obj)}, conditions=(said,), again=again)


def _failed(obj: Obj, reason: str, words: str, again: float, *, stalled: bool = False) -> Plan:
    what = Condition(STALLED, True, reason, words)
    if not stalled:
        what = Condition(RECONCILING, True, cond.PROGRESSING_WITH_RETRY, words)
    said = (Condition(READY, False, reason, words), what)
    return Plan(status=handled(obj), conditions=said, again=None if stalled else again)


def controller(storage: Storage) -> Controller:
    shared = Reconciler(storage)
    return Controller(
        HELM_REPOSITORY,
        shared.reconcile,
        finalize=shared.finalize,
        manager=MANAGER,
        finalizer=FINALIZER,
    )
