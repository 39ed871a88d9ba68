"""The control part: the API server, then the controllers on its in-process API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from havre.api.kinds import Kind
from havre.control import workloads
from havre.control.apiserver.control_plane import BadTokenFile, Config, ControlPlane
from havre.control.store.errors import StoreError
from havre.wire.tls import TlsError

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
        raise StartFailed(f"listen on {config.host}:{config.port}: {e.strerror or e}; choose another --api-port") from e
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

    certificate = plane.pki.authority.certificate.decode()
    try:
        await workloads.run(plane.local, workloads.Config(discover, certificate, plane.tokens.legacy))
    except Exception:  # nothing awaits this task before the stop: a bug must not end in silence
        log.exception("the controllers ended; objects are still served and nothing acts on them: restart Havre")
        raise
