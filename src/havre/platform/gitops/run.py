"""All of delivery in one call: definitions, artifact server, controllers.

    async with HttpApi(connection, user_agent="havre-gitops") as api, service_accounts(connection) as impersonate:
        await run(api, Config(Path("/var/lib/havre/gitops")), impersonate=impersonate)

It speaks the Kubernetes API alone, so `api` may be any cluster that can reach `artifact_url` from where the consumers
run; ours run here. Killed at any moment it goes on from what the cluster and the directory show.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from havre.machinery import controller
from havre.machinery.api import Api
from havre.machinery.client import HttpApi
from havre.machinery.controller import Controller, Counters
from havre.machinery.kubeconfig import Connection
from havre.platform.gitops import (
    artifacts,
    crds,
    git,
    git_repository,
    helm_chart,
    helm_release,
    helm_repository,
    kustomization,
)
from havre.platform.gitops.artifacts import Storage
from havre.platform.gitops.git import REMOTE_SCHEMES
from havre.platform.gitops.helm.engine import Engine

PORT = 9790  # of the artifact server
USER_AGENT = "havre-gitops"

Impersonate = Callable[[str, str], Api]
"""The API as a service account, by namespace and name, sees it."""


@dataclass(frozen=True, slots=True)
class Config:
    """Where it keeps things and is reached. One instance per `data`."""

    data: Path
    artifact_host: str = "127.0.0.1"
    artifact_port: int = PORT  # 0 picks a free one: then artifacts get a new address with every start
    artifact_url: str = ""  # how consumers reach the artifacts; default: host and port
    file_urls: bool = False  # GitRepository may read repositories of this machine
    kube_version: str = "v1.34.0"  # what charts see


async def run(
    api: Api,
    config: Config,
    *,
    impersonate: Impersonate | None = None,
    counters: dict[str, Counters] | None = None,
    ready: asyncio.Event | None = None,
) -> None:
    """Until cancelled. Raises OSError when the address is taken, crds.NotEstablished, ApiError.

    Without `impersonate` objects that name a service account fail. `ready` is set when every controller works.
    """
    storage = Storage(config.data / "artifacts", config.artifact_url)
    await asyncio.to_thread(_prepare, config.data)
    server = await artifacts.serve(storage, config.artifact_host, config.artifact_port)
    engine = Engine(config.data / "helm")
    try:
        storage.url = config.artifact_url or f"http://{_host(config.artifact_host)}:{server.port}"
        await crds.install(api, files=config.file_urls)
        running = controllers(config, storage, engine, impersonate)
        await controller.run(running, api, counters=counters, ready=ready)
    finally:
        await engine.close()
        await server.close()


def controllers(
    config: Config, storage: Storage, engine: Engine, impersonate: Impersonate | None = None
) -> list[Controller]:
    """Every controller of delivery, not yet running."""
    schemes = REMOTE_SCHEMES | {"file"} if config.file_urls else REMOTE_SCHEMES
    return [
        git_repository.controller(storage, config.data / "git", schemes=schemes),
        kustomization.controller(config.data / "work", impersonate=impersonate),
        helm_repository.controller(storage),
        helm_chart.controller(storage, engine, config.data / "work"),
        helm_release.controller(engine, impersonate=impersonate, kube_version=config.kube_version),
    ]


def _prepare(data: Path) -> None:
    """Directories, private; without what a process that died has left."""
    for name in ("artifacts", "git", "work", "helm"):
        (data / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    artifacts.sweep(data / "artifacts")
    git.sweep(data / "git")


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@asynccontextmanager
async def service_accounts(connection: Connection) -> AsyncIterator[Impersonate]:
    """Makes an Api per service account that is asked for; all are closed at the end.

    The server adds the groups of a service account by itself, as Flux relies on too.
    """
    made: dict[tuple[str, str], HttpApi] = {}

    def impersonate(namespace: str, name: str) -> Api:
        key = (namespace, name)
        if key not in made:
            account = replace(connection, impersonate=f"system:serviceaccount:{namespace}:{name}")
            made[key] = HttpApi(account, user_agent=USER_AGENT)
        return made[key]

    try:
        yield impersonate
    finally:
        for api in made.values():
            await api.close()
