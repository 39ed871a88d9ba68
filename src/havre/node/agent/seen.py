"""What the agent sees of one pod: its sandboxes and containers in the runtime and the results of its probes.

`Seen` is read once per pass and everything is decided from it; `observe` reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TypeVar

from havre.node.agent.cri import ContainerStatus, Runtime, RuntimeFault, SandboxStatus, State

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Probed:
    """Results of the probes of one container; None: no result yet."""

    started: bool | None = None
    ready: bool | None = None
    live: bool | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """One pod at one moment, newest first; `now` in seconds since the epoch."""

    sandboxes: tuple[SandboxStatus, ...] = ()
    containers: tuple[ContainerStatus, ...] = ()
    probes: Mapping[str, Probed] = field(default_factory=dict)  # by id of a container
    now: float = 0.0
    resized: Mapping[str, str] = field(default_factory=dict)  # by id of a container: the resources it was given later

    def newest(self, name: str) -> ContainerStatus | None:
        return next((c for c in self.containers if c.name == name), None)

    def ended(self, name: str) -> ContainerStatus | None:
        """The last instance that has ended."""
        return next((c for c in self.containers if c.name == name and c.state is State.EXITED), None)

    def running(self) -> list[ContainerStatus]:
        """What may hold a process: an unknown container may too."""
        return [c for c in self.containers if c.state in (State.RUNNING, State.UNKNOWN)]

    def probed(self, container: ContainerStatus) -> Probed:
        return self.probes.get(container.id, Probed())

    @property
    def sandbox(self) -> SandboxStatus | None:
        return self.sandboxes[0] if self.sandboxes else None

    @property
    def ips(self) -> tuple[str, ...]:
        return self.sandbox.ips if self.sandbox is not None and self.sandbox.ready else ()


Ended = MutableMapping[str, ContainerStatus]  # containers that have ended do not change again


async def observe(
    runtime: Runtime, uid: str, *, now: float, ended: Ended, probes: Mapping[str, Probed] | None = None
) -> Seen:
    """Everything of one pod. What is removed while we look is left out. Raises RuntimeFault."""
    sandboxes, containers = await asyncio.gather(runtime.sandboxes(uid), runtime.containers(uid))
    boxes = await asyncio.gather(*(_looked(runtime.sandbox_status(box.id)) for box in sandboxes))
    wanted = [c.id for c in containers if c.id not in ended]
    looked = await asyncio.gather(*(_looked(runtime.container_status(id)) for id in wanted))
    statuses = [status for status in looked if status is not None]
    for id in [id for id in ended if all(c.id != id for c in containers)]:
        del ended[id]
    statuses += ended.values()
    ended.update((s.id, s) for s in statuses if s.state is State.EXITED)
    return Seen(
        tuple(sorted((b for b in boxes if b is not None), key=lambda b: (b.attempt, b.created), reverse=True)),
        tuple(sorted(statuses, key=lambda s: (s.created, s.restart_count), reverse=True)),
        probes or {},
        now,
    )


async def _looked(call: Awaitable[T]) -> T | None:
    try:
        return await call
    except RuntimeFault as fault:
        if fault.code == "NOT_FOUND":
            return None
        raise
