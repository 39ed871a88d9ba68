"""The control part: the API server, then the controllers on its in-process API."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from havre.api.kinds import Kind
from havre.control import workloads
from havre.control.apiserver.control_plane import BadTokenFile, Config, ControlPlane
from havre.control.store.errors import StoreError
from havre.kit.backoff import Backoff
from havre.wire.tls import TlsError

RESTART = Backoff(1.0, 2.0, 60.0)  # seconds between two starts of controllers that ended

log = logging.getLogger(__name__)


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
        controllers = asyncio.create_task(_controllers(plane))
        try:
            yield plane
        finally:
            controllers.cancel()
            await asyncio.gather(controllers, return_exceptions=True)
    finally:
        await plane.close()


async def _controllers(plane: ControlPlane) -> None:
    async def discover() -> list[Kind]:
        return [resource.kind for resource in plane.registry]

    config = workloads.Config(discover, plane.pki.authority.certificate.decode(), plane.tokens.legacy)
    for attempt in itertools.count():
        ready = asyncio.Event()
        settling = asyncio.create_task(_freeze(ready))
        try:
            await workloads.run(plane.local, config, ready=ready)
        except Exception:  # a bug must neither end in silence nor leave the objects to themselves: begin again
            log.exception("the controllers ended; they start again from what is stored")
        finally:
            settling.cancel()
        await asyncio.sleep(RESTART.delay(attempt))


async def _freeze(ready: asyncio.Event) -> None:
    """What the controllers keep of 100,000 objects would make each full collection a pause of 0.1 to 0.2 s."""
    await ready.wait()
    gc.collect(1)
    gc.freeze()
