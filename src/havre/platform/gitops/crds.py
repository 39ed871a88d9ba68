"""The custom resource definitions of delivery: those of Flux; put into a cluster before anything watches.

They are unchanged but for one word: where repositories of this machine may be read, a GitRepository may say file://.

`make generate` packs them from the release that Havre follows (tools/generate/flux.py).

Source: fluxcd/source-controller, kustomize-controller and helm-controller, config/crd/bases.
"""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import Any, Final

import orjson
import zstandard

from havre.api.meta import GVK, Obj
from havre.machinery.api import Api, Ref

CRD = GVK("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
SOURCE = "source.toolkit.fluxcd.io"
GIT_REPOSITORY = GVK(SOURCE, "v1", "GitRepository")
OCI_REPOSITORY = GVK(SOURCE, "v1", "OCIRepository")
BUCKET = GVK(SOURCE, "v1", "Bucket")
HELM_REPOSITORY = GVK(SOURCE, "v1", "HelmRepository")
HELM_CHART = GVK(SOURCE, "v1", "HelmChart")
EXTERNAL_ARTIFACT = GVK(SOURCE, "v1", "ExternalArtifact")
KUSTOMIZATION = GVK("kustomize.toolkit.fluxcd.io", "v1", "Kustomization")
HELM_RELEASE = GVK("helm.toolkit.fluxcd.io", "v2", "HelmRelease")

MANAGER: Final = "flux"  # who applies the definitions, as the `flux` command does
ESTABLISHED_SECONDS = 60.0  # an API server needs well under one
_FILE: Final = Path(__file__).parent / "data" / "crds.json.zst"


class NotEstablished(Exception):
    """The API server does not serve a definition; its conditions say why."""


@cache
def _packed() -> bytes:
    return zstandard.decompress(_FILE.read_bytes())


def definitions() -> list[Obj]:
    """The definitions; the caller owns them."""
    loaded: dict[str, Any] = orjson.loads(_packed())
    crds: list[Obj] = loaded["crds"]
    return crds


def admit_files(crd: Obj) -> None:
    """Let a GitRepository name a repository of this machine: upstream's pattern, and file."""
    for version in crd["spec"]["versions"]:
        url = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["url"]
        url["pattern"] = url["pattern"].replace("(http|https|ssh)", "(http|https|ssh|file)")


async def install(api: Api, *, files: bool = False, timeout: float = ESTABLISHED_SECONDS) -> None:
    """Apply every definition and wait until all are served; `files` admits file:// to repositories.

    Raises NotEstablished, ApiError.
    """
    crds = await asyncio.to_thread(definitions)
    if files:
        admit_files(next(crd for crd in crds if crd["spec"]["names"]["kind"] == GIT_REPOSITORY.kind))
    for crd in crds:
        await api.apply(crd, manager=MANAGER)
    waiting = {Ref.of(crd) for crd in crds}
    try:
        async with asyncio.timeout(timeout):
            await _established(api, waiting)
    except TimeoutError:
        names = ", ".join(sorted(ref.name for ref in waiting))
        raise NotEstablished(f"custom resource definitions not established within {timeout:g} s: {names}") from None


async def _established(api: Api, waiting: set[Ref]) -> None:
    """Until `waiting` is empty; what is served leaves it."""
    while waiting:
        listing = await api.list(CRD)
        waiting -= {Ref.of(crd | _TYPE) for crd in listing.items if is_established(crd)}
        if not waiting:
            return
        async for event in api.watch(CRD, since=listing.revision):
            if event.type in ("ADDED", "MODIFIED") and is_established(event.object):
                waiting.discard(Ref.of(event.object | _TYPE))
            if not waiting:
                return


_TYPE: Final = {"apiVersion": CRD.api_version, "kind": CRD.kind}  # objects of a list need not say it


def is_established(crd: Obj) -> bool:
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
