"""The platform part put together: the products, over the Kubernetes API alone, on our cluster or any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from havre.app.config import Config
from havre.app.errors import StartFailed
from havre.kit.supervision import kept_running


@asynccontextmanager
async def platform(config: Config) -> AsyncIterator[str]:
    """Delivery from Git; yields a line that says which cluster it works for. Raises StartFailed."""
    from havre.machinery import kubeconfig as kubeconfigs
    from havre.machinery.client import HttpApi
    from havre.platform.gitops import run as gitops

    path = config.platform_kubeconfig or config.kubeconfig
    try:
        connection = await asyncio.to_thread(kubeconfigs.load, path)
    except kubeconfigs.KubeconfigError as e:
        raise StartFailed(f"{e}; start the control part first, or name another cluster's file") from e
    ours = config.platform_kubeconfig is None
    settings = gitops.Config(
        config.data_dir / "platform" / "gitops", artifact_port=config.artifact_port, file_urls=ours
    )
    ready = asyncio.Event()
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(HttpApi(connection, user_agent=gitops.USER_AGENT))
        impersonate = await stack.enter_async_context(gitops.service_accounts(connection))
        delivery = partial(gitops.run, api, settings, impersonate=impersonate, ready=ready)
        await stack.enter_async_context(kept_running({"gitops": delivery}))
        await ready.wait()
        yield f"delivers from Git to {connection.server}"
