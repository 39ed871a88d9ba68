"""The Kustomization controller on a real kube-apiserver: it needs nothing but the API."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tools.referee import NotInstalled, program, referee

from havre.api.meta import GVK
from havre.machinery.api import Ref
from havre.machinery.client import HttpApi
from havre.machinery.controller import Loop
from havre.platform.gitops import crds
from havre.platform.gitops.kustomization import KUSTOMIZATION, SOURCES, controller

CONFIG_MAP = GVK("", "v1", "ConfigMap")
APPS = Ref(KUSTOMIZATION, "default", "apps")
SOURCE = Ref(SOURCES["GitRepository"], "default", "src")
TREES = {
    "1": {"a.yaml": "one", "b.yaml": "two"},
    "2": {"a.yaml": "one"},
}
MANIFEST = "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\ndata: {{k: '{data}'}}\n"


def _installed() -> bool:
    try:
        return bool(program("etcd") and program("kube-apiserver"))
    except NotInstalled:
        return False


pytestmark = pytest.mark.skipif(not _installed(), reason="etcd and kube-apiserver are not installed; set PEERS")


async def fetch(artifact: Mapping[str, Any], into: Path) -> None:
    await asyncio.to_thread(unpack, artifact["revision"].rpartition(":")[2], into)


def unpack(number: str, into: Path) -> None:
    into.mkdir()
    for file, name in TREES[number].items():
        (into / file).write_text(MANIFEST.format(name=name, data=number))


def artifact(number: str) -> dict[str, Any]:
    return {
        "url": f"http://artifacts.example/{number}",
        "path": number,
        "revision": f"main@sha1:{number}",
        "digest": f"sha256:{number * 64}",
        "lastUpdateTime": "2026-01-01T00:00:00Z",
    }


async def publish(api: HttpApi, number: str) -> None:
    patch = {"status": {"artifact": artifact(number)}}
    await api.patch(SOURCE, patch, kind="merge", manager="test", subresource="status")


async def test_apply_nothing_to_do_drift_prune_and_the_end(tmp_path: Path) -> None:
    with referee(tmp_path / "kube") as up:
        async with HttpApi(up.connection, user_agent="test") as api:
            await crds.install(api)
            meta = {"namespace": "default"}
            git = {"apiVersion": SOURCE.gvk.api_version, "kind": SOURCE.gvk.kind, "metadata": {**meta, "name": "src"}}
            await api.create({**git, "spec": {"url": "https://git.example/x", "interval": "1m"}}, manager="test")
            await publish(api, "1")
            spec = {"interval": "10m", "prune": True, "sourceRef": {"kind": "GitRepository", "name": "src"}}
            apps = {"apiVersion": KUSTOMIZATION.api_version, "kind": "Kustomization", "spec": spec}
            await api.create({**apps, "metadata": {**meta, "name": "apps"}}, manager="test")
            loop = Loop(controller(tmp_path / "work", fetch=fetch), api)

            await loop.once(APPS)
            ready = (await api.get(APPS) or {})["status"]["conditions"][0]
            assert (ready["reason"], ready["message"]) == ("ReconciliationSucceeded", "Applied revision: main@sha1:1")
            one, two = (Ref(CONFIG_MAP, "default", name) for name in ("one", "two"))
            before = [await api.get(ref) for ref in (one, two, APPS)]
            await loop.once(APPS)
            assert [await api.get(ref) for ref in (one, two, APPS)] == before

            await api.patch(one, {"data": {"k": "other"}}, kind="merge", manager="someone")
            await loop.once(APPS)
            assert (await api.get(one) or {})["data"] == {"k": "1"}

            await publish(api, "2")
            await loop.once(APPS)
            assert await api.get(two) is None
            assert (await api.get(one) or {})["data"] == {"k": "2"}

            await api.delete(APPS)
            await loop.once(APPS)
            assert await api.get(one) is None
            assert await api.get(APPS) is None
