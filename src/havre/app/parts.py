"""PARTS: everything that `havre run` can start, in the order in which it starts; it stops in the reverse order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from havre.app.config import Config


class StartFailed(Exception):
    """A part could not start; the message says what was attempted, on what, and what to do."""


@dataclass(frozen=True, slots=True)
class Part:
    """One runnable; inside `run` it is up, and yields a line that says where it answers."""

    name: str
    summary: str
    run: Callable[[Config], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def _control(config: Config) -> AsyncIterator[str]:
    """The API server with its store, and the controllers that need no node."""
    from havre.control import run
    from havre.control.apiserver.control_plane import Config as ControlConfig

    chosen = ControlConfig(
        config.data_dir / "control",
        config.api_host,
        config.api_port,
        config.api_names,
        config.service_cidr,
        config.token_file,
    )
    try:
        async with run.control(chosen) as plane:
            yield f"API at {plane.url}, kubeconfig {config.kubeconfig}"
    except run.StartFailed as e:
        raise StartFailed(str(e)) from e


PARTS: tuple[Part, ...] = (Part("control", "API server, store and workload controllers; needs no root", _control),)
