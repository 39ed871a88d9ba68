"""The control part: the API server, then the controllers and the scheduler on its in-process API."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from havre.api.kinds import Kind
from havre.control import scheduler, workloads
from havre.control.apiserver.control_plane import BadTokenFile, Config, ControlPlane
from havre.control.store.errors import StoreError
from havre.kit.supervision import kept_running
from havre.wire.tls import TlsError


class StartFailed(Exception):
    """The part could not start; the message says what was attempted, on what, and what to do."""


@asynccontextmanager
async def control(config: Config) -> AsyncIterator[ControlPlane]:
    """Up inside the block. Raises StartFailed."""
    plane = ControlPlane(config)
    try:
        await plane.start()
    except (StoreError, TlsError, BadTokenFile) as e:
        raise StartFailed(str(e)) from e
    except OSError as e:
        if e.filename is not None:
            raise StartFailed(f"open {e.filename}: {e.strerror}; check the path and its permissions") from e
        raise StartFailed(f"{e.strerror or e}; stop what listens there, or choose another --api-port") from e
    try:
        works = {"controllers": partial(_controllers, plane), "scheduler": partial(scheduler.run, plane.local)}
        async with kept_running(works):
            yield plane
    finally:
        await plane.close()


async def _controllers(plane: ControlPlane) -> None:
    async def discover() -> list[Kind]:
        return [resource.kind for resource in plane.registry]

    config = workloads.Config(discover, plane.pki.authority.certificate.decode(), plane.tokens.legacy)
    ready = asyncio.Event()
    settling = asyncio.create_task(_freeze(ready))
    try:
        await workloads.run(plane.local, config, ready=ready)
    finally:
        settling.cancel()


async def _freeze(ready: asyncio.Event) -> None:
    """What the controllers keep of 100,000 objects would make each full collection a pause of 0.1 to 0.2 s."""
    await ready.wait()
    gc.collect(1)
    gc.freeze()
