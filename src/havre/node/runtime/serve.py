"""Start and stop the runtime of one instance: the only place where its parts meet.

Start: one runtime per data directory (a lock file), look around, find every container and sandbox again, then serve.
A request therefore never sees a half-restored world.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

from havre.node import mounts
from havre.node.runtime import containerd, netns, views
from havre.node.runtime.config import Config
from havre.node.runtime.containers import Container, Containers
from havre.node.runtime.content import Content
from havre.node.runtime.cri import RuntimeService
from havre.node.runtime.cri_images import ImageService
from havre.node.runtime.cri_stats import Stats
from havre.node.runtime.errors import Precondition
from havre.node.runtime.events import Events
from havre.node.runtime.host import Host
from havre.node.runtime.hosts import Hosts
from havre.node.runtime.images import Images
from havre.node.runtime.protocol import Network
from havre.node.runtime.sandboxes import Sandboxes
from havre.node.runtime.snapshots import Snapshots
from havre.node.runtime.streaming import Streaming
from havre.wire.grpc.messages import messages
from havre.wire.grpc.server import Server
from havre.wire.grpc.server import serve as serve_grpc

__all__ = ["Config", "Runtime", "claim", "serve"]

cri = messages("runtime.v1")


class Runtime:
    """A runtime that serves; made by `serve`."""

    def __init__(self, host: Host, network: Network | None, lock: int) -> None:
        config = host.config
        self._host = host
        self._lock = lock
        self.content = Content(config.data / "content")
        self.snapshots = Snapshots(config.data / "snapshots")
        hosts = Hosts(config.registry_hosts)
        self.images = Images(config.data / "images", self.content, self.snapshots, hosts=hosts)
        self.events = Events()
        self.containers = Containers(host, self.images, self.snapshots, self._changed)
        self.sandboxes = Sandboxes(host, network, self.containers.stop_all, self.containers.remove_all)
        self._stats = Stats(host, self.sandboxes, self.containers, self.snapshots)
        self._streaming = Streaming(config)
        self._network = network
        self._server: Server | None = None

    async def open(self) -> None:
        """Find again what lives, then serve. Raises OSError when the socket or port is taken."""
        await self.containers.restore()
        await self.sandboxes.restore()
        await self._streaming.open()
        runtime = RuntimeService(
            self._host, self._network, self.sandboxes, self.containers, self._streaming, self.events, self._stats
        )
        images = ImageService(self._host, self.images, self.snapshots, self.containers, self._stats)
        identity = await self._host.blocking(containerd.identity, self._host.config.data)
        services = [runtime.service(), images.service(), *containerd.services(identity)]
        self._server = await serve_grpc(self._host.config.socket, services)

    def _changed(self, container: Container, kind: int) -> None:
        if kind == cri.CONTAINER_DELETED_EVENT:
            self._stats.forget(container.id)
        if self.events.wanted:
            sandbox = self.sandboxes.find(container.record.sandbox)
            siblings = self.containers.of(container.record.sandbox)
            self.events.publish(views.event(container, kind, sandbox, siblings))

    async def close(self) -> None:
        """Stop serving; containers run on, and the next start finds them."""
        self.events.close()
        if self._server is not None:
            await self._server.close()
            self._server = None
        await self._streaming.close()
        await self.sandboxes.close()
        await self.containers.close()
        self._host.threads.shutdown(wait=False)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def destroy(self) -> None:
        """Remove every sandbox, container, mount, cgroup and namespace of this instance, then `close`. Images stay."""
        if self._server is not None:
            await self._server.close()
            self._server = None
        for sandbox in self.sandboxes:
            await self.sandboxes.remove(sandbox.id)
        for container in self.containers:
            await self.containers.remove(container.id)
        await self._host.blocking(_sweep, self._host)
        await self.close()


def _sweep(host: Host) -> None:
    """What no record explains."""
    config, cgroups = host.config, host.cgroups
    cgroups.kill(config.cgroup)
    for name in netns.pinned(config.netns):
        netns.unpin(config.netns / name)
    for root in (config.run, config.data):
        for point in mounts.below(root):
            mounts.unmount(point)
    cgroups.remove(config.cgroup)


async def serve(config: Config, network: Network | None) -> Runtime:
    """The runtime, restored and serving. Raises Unsupported when conmon or an OCI runtime is missing, Precondition when
    another process serves the same data directory, OSError when the socket or port is taken."""
    config.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = claim(config.data / "runtime.lock")
    try:
        host = await _survey(config)
        runtime = Runtime(host, network, lock)
    except BaseException:
        os.close(lock)
        raise
    try:
        await runtime.open()
    except BaseException:
        await runtime.close()
        raise
    return runtime


async def _survey(config: Config) -> Host:
    return await asyncio.to_thread(Host.survey, config)


def claim(path: Path) -> int:
    """A lock that the kernel drops with the process, however that ends."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Precondition(f"{path.parent} is served by another process; stop it, or use another directory") from None
    return fd
