"""PARTS: everything that `havre run` can start, in the order in which it starts; it stops in the reverse order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from havre.app.config import Config, default_address
from havre.app.errors import StartFailed


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

    address = config.node_address or default_address(config.gateway)
    chosen = ControlConfig(
        config.data_dir / "control",
        config.api_host,
        config.api_port,
        names=config.api_names,
        service_cidr=config.service_cidr,
        token_file=config.token_file,
        advertise=config.gateway if config.with_node else "",
        node=config.node_name if config.with_node else "",
        node_addresses=(address, config.gateway),
    )
    try:
        async with run.control(chosen) as plane:
            yield f"API at {plane.url}, kubeconfig {config.kubeconfig}"
    except run.StartFailed as e:
        raise StartFailed(str(e)) from e


@asynccontextmanager
async def _runtime(config: Config) -> AsyncIterator[str]:
    """The container runtime alone, as containerd is run."""
    from havre.app import node

    async with node.runtime(config) as socket:
        yield f"CRI at {socket}"


@asynccontextmanager
async def _node(config: Config) -> AsyncIterator[str]:
    """The machine as a node: runtime, network and agent."""
    from havre.app import node

    async with node.node(config) as line:
        yield line


@asynccontextmanager
async def _platform(config: Config) -> AsyncIterator[str]:
    """The products, on our cluster or another."""
    from havre.app import platform

    async with platform.platform(config) as line:
        yield line


PARTS: tuple[Part, ...] = (
    Part("control", "API server, store, scheduler and workload controllers; needs no root", _control),
    Part("runtime", "container runtime alone: CRI on a socket, as containerd is run; needs root", _runtime),
    Part("node", "this machine as a node: runtime, network and agent; needs root and a control part", _node),
    Part("platform", "delivery from Git, on this cluster or another (--kubeconfig); needs no root", _platform),
)
