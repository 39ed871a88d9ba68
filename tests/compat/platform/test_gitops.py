"""Delivery as a whole on a real API server: from a push over HTTP to the artifact, woken by a request."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.git import Upstream, serve_git

from havre.api.meta import GVK
from havre.machinery.api import Ref
from havre.platform.gitops.artifacts import fetch
from havre.platform.gitops.crds import GIT_REPOSITORY, KUSTOMIZATION
from havre.platform.gitops.run import Config, run
from havre.testing import Cluster, eventually, temporary_cluster

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="the git program is not installed")
APP = Ref(GIT_REPOSITORY, "default", "app")
CONFIG_MAP = GVK("", "v1", "ConfigMap")


@asynccontextmanager
async def delivery(cluster: Cluster, data: Path) -> AsyncIterator[None]:
    ready = asyncio.Event()
    running = asyncio.create_task(run(cluster.api, Config(data, artifact_port=0), ready=ready))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        await running
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


async def artifact(cluster: Cluster) -> dict[str, Any]:
    found = await cluster.api.get(APP) or {}
    shown: dict[str, Any] = (found.get("status") or {}).get("artifact") or {}
    return shown


async def test_a_push_is_in_the_cluster_and_a_restart_goes_on(tmp_path: Path) -> None:
    upstream = Upstream(tmp_path / "app")
    web = await serve_git(tmp_path)
    spec = {"url": f"http://127.0.0.1:{web.port}/app/.git", "interval": "10m", "ref": {"branch": "main"}}
    config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: delivered}\ndata: {x: '%s'}\n"
    first = upstream.commit("first", **{"app.yaml": config_map % 1})
    async with temporary_cluster() as cluster:
        async with delivery(cluster, tmp_path / "data"):
            about = {"apiVersion": GIT_REPOSITORY.api_version, "kind": "GitRepository"}
            await cluster.api.create(
                {**about, "metadata": {"name": "app", "namespace": "default"}, "spec": spec}, manager="test"
            )
            about = {"apiVersion": KUSTOMIZATION.api_version, "kind": "Kustomization"}
            source = {"kind": "GitRepository", "name": "app"}
            await cluster.api.create(
                {
                    **about,
                    "metadata": {"name": "app", "namespace": "default"},
                    "spec": {"interval": "10m", "path": "./", "prune": True, "sourceRef": source}
                    | {"targetNamespace": "default"},
                },
                manager="test",
            )

            async def has(revision: str) -> bool:
                return (await artifact(cluster)).get("revision") == f"main@sha1:{revision}"

            async def delivered(value: str) -> bool:
                found = await cluster.api.get(Ref(CONFIG_MAP, "default", "delivered"))
                return found is not None and found["data"] == {"x": value}

            await eventually(lambda: has(first), within=15)
            await eventually(lambda: delivered("1"), within=15)
            second = upstream.commit("second", **{"app.yaml": config_map % 2})
            asked = {"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": "now"}}}
            await cluster.api.patch(APP, asked, kind="merge", manager="test")
            await eventually(lambda: has(second), within=15)
            await eventually(lambda: delivered("2"), within=15)
            await fetch(await artifact(cluster), tmp_path / "fetched")
            assert (tmp_path / "fetched/app.yaml").exists()
        await web.close()
        before = await artifact(cluster)
        async with delivery(cluster, tmp_path / "data"):
            await eventually(lambda: _moved(cluster, before), within=15)
            await fetch(await artifact(cluster), tmp_path / "again")


async def _moved(cluster: Cluster, before: dict[str, Any]) -> bool:
    """The server of the repository is gone and the port of artifacts another: the artifact is the same."""
    now = await artifact(cluster)
    return bool(now["url"] != before["url"] and now["digest"] == before["digest"])
