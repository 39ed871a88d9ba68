"""Kustomizations at work: who wakes whom."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from tests.unit.platform.gitops.test_kustomization import APPS, World, config_map, kustomization

from havre.api.meta import GVK
from havre.machinery import controller as loop
from havre.machinery.api import Ref
from havre.platform.gitops.kustomization import KUSTOMIZATION
from havre.testing import eventually

INFRA = Ref(KUSTOMIZATION, "flux", "infra")
AWAY = Ref(KUSTOMIZATION, "app", "away")
CONFIG_MAP = GVK("", "v1", "ConfigMap")


@pytest.mark.looptime
async def test_a_dependency_and_a_source_of_another_namespace_wake_at_once(tmp_path: Path) -> None:
    away = kustomization("away", path="apps", sourceRef={"kind": "GitRepository", "name": "src", "namespace": "flux"})
    away["metadata"]["namespace"] = "app"
    files = {"infra/a.yaml": config_map("one"), "apps/b.yaml": config_map("two")}
    world = World(
        tmp_path,
        {"1": files},
        kustomization(path="apps", dependsOn=[{"name": "infra"}]),
        kustomization("infra", path="infra"),
        away,
    )
    working = asyncio.create_task(loop.run([world.controller], world.api))
    try:
        await eventually(lambda: _applied(world, "main@sha1:1", APPS, INFRA, AWAY))
        began = asyncio.get_running_loop().time()
        await world.publish("main@sha1:2", "2", files)
        await eventually(lambda: _applied(world, "main@sha1:2", APPS, INFRA, AWAY))
        assert asyncio.get_running_loop().time() - began < 10  # virtual seconds; unwoken it would be 30 or 600
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working


@pytest.mark.looptime
async def test_a_labelled_config_map_of_variables_wakes_at_once(tmp_path: Path) -> None:
    values = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "vars", "namespace": "flux", "labels": {"reconcile.fluxcd.io/watch": "Enabled"}},
        "data": {"k": "old"},
    }
    post = {"substituteFrom": [{"kind": "ConfigMap", "name": "vars"}]}
    world = World(tmp_path, {"1": {"a.yaml": config_map("one", k="${k}")}}, values, kustomization(postBuild=post))
    working = asyncio.create_task(loop.run([world.controller], world.api))
    try:
        await eventually(lambda: _data(world) == {"k": "old"})
        await world.api.patch(Ref(CONFIG_MAP, "flux", "vars"), {"data": {"k": "new"}})
        await eventually(lambda: _data(world) == {"k": "new"})
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working


def _data(world: World) -> object:
    return (world.config_map("one") or {}).get("data")


def _applied(world: World, revision: str, *refs: Ref) -> bool:
    found = [(world.api.now(ref) or {}).get("status") or {} for ref in refs]
    return all(status.get("lastAppliedRevision") == revision for status in found)
