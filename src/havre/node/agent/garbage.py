"""Dead containers and images that nobody needs.

Of each container the last dead instance stays, for `kubectl logs -p`; the others go. Images go when the disk is 85 %
full, the longest unused first, until it is 80 %; never one that a container is made of, a pinned one, or a new one.

Source: k8s.io/kubernetes pkg/kubelet/kuberuntime/kuberuntime_gc.go, pkg/kubelet/images/image_gc_manager.go.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from havre.node.agent.cri import Container, Image, Runtime, RuntimeFault, Sandbox, State

log = logging.getLogger(__name__)

EVERY: Final = 60.0  # seconds between looks
HIGH: Final = 0.85  # share of the disk in use at which images are removed
LOW: Final = 0.80  # and until which
NEW: Final = 120.0  # seconds for which an image is kept after it was first seen or last used


def dead_containers(containers: Iterable[Container]) -> list[str]:
    """The ids of dead containers that have a later instance that is dead too. Pure."""
    dead = sorted((c for c in containers if c.state is State.EXITED), key=lambda c: c.created, reverse=True)
    kept: set[tuple[str, str]] = set()
    gone = []
    for container in dead:
        key = container.uid, container.name
        if key in kept:
            gone.append(container.id)
        kept.add(key)
    return gone


def dead_sandboxes(sandboxes: Iterable[Sandbox], containers: Iterable[Container]) -> list[str]:
    """The ids of sandboxes that are stopped, empty, and not the last of their pod. Pure."""
    used = {c.sandbox for c in containers}
    newest: dict[str, Sandbox] = {}
    everything = [*sandboxes]
    for sandbox in everything:
        if sandbox.uid not in newest or sandbox.created > newest[sandbox.uid].created:
            newest[sandbox.uid] = sandbox
    return [s.id for s in everything if not s.ready and s.id not in used and newest[s.uid].id != s.id]


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of the file system that images are on."""

    size: int
    free: int

    def excess(self) -> int:
        """Bytes to free; 0 below the high mark."""
        used = self.size - self.free
        return used - int(self.size * LOW) if used >= self.size * HIGH else 0


def unneeded_images(
    images: Sequence[Image], in_use: set[str], used_at: Mapping[str, float], now: float, excess: int
) -> list[Image]:
    """Images to remove, the longest unused first, until they make up `excess` bytes. Pure."""
    candidates = [
        image
        for image in images
        if not image.pinned
        and not in_use.intersection((image.id, *image.tags, *image.digests))
        and now - used_at.get(image.id, now) >= NEW
    ]
    out, freed = [], 0
    for image in sorted(candidates, key=lambda i: used_at.get(i.id, now)):
        if freed >= excess:
            break
        out.append(image)
        freed += image.size
    return out


@dataclass(slots=True)
class Garbage:
    """Looks every minute; what it remembers of images is when it saw them used, which may be forgotten."""

    runtime: Runtime
    data: Path
    used_at: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self.once()
            except (RuntimeFault, OSError) as error:
                log.warning("could not remove garbage; will try again", extra={"error": str(error)})

    async def once(self) -> None:
        """One look. Raises RuntimeFault, OSError."""
        sandboxes, containers = await asyncio.gather(self.runtime.sandboxes(), self.runtime.containers())
        for id in dead_containers(containers):
            await self.runtime.remove_container(id)
        for id in dead_sandboxes(sandboxes, containers):
            await self.runtime.remove_sandbox(id)
        await self._images(containers)

    async def _images(self, containers: Sequence[Container]) -> None:
        now = time.monotonic()
        images = await self.runtime.images()
        in_use = await self._in_use(containers)
        for image in images:
            if image.id not in self.used_at or in_use.intersection((image.id, *image.tags, *image.digests)):
                self.used_at[image.id] = now
        for id in [id for id in self.used_at if all(image.id != id for image in images)]:
            del self.used_at[id]
        disk = await asyncio.to_thread(_disk, self.data)
        for image in unneeded_images(images, in_use, self.used_at, now, disk.excess()):
            log.info("removing an image to free the disk", extra={"image": image.id, "bytes": image.size})
            await self.runtime.remove_image(image.id)

    async def _in_use(self, containers: Sequence[Container]) -> set[str]:
        """Everything by which containers name their images."""
        used: set[str] = set()
        for container in containers:
            try:
                status = await self.runtime.container_status(container.id)
            except RuntimeFault as fault:
                if fault.code != "NOT_FOUND":
                    raise
                continue
            used |= {status.image, status.image_ref}
        return used


def _disk(data: Path) -> Disk:
    found = os.statvfs(data)
    return Disk(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)
