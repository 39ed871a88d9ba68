"""What the agent asks of the modules that fill a pod: volumes, environment and the files of the host name.

Production joins them in `inputs`; tests give a fake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from havre.api.meta import Obj
from havre.node.agent.configs import Dns
from havre.node.agent.cri import Image


class VolumeError(Exception):
    """A volume cannot be mounted yet (or never): FailedMount, tried again."""


class GivenError(Exception):
    """What a container asks for cannot be given: CreateContainerConfigError, tried again."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a container is given: variables in their order, CRI mounts and devices."""

    environment: Sequence[tuple[str, str]] = ()
    mounts: Sequence[Obj] = ()
    devices: Sequence[Obj] = ()


class Giver(Protocol):
    """Prepares what pods are given. Everything is idempotent and goes on after a restart."""

    async def prepare(self, pod: Obj) -> None:
        """Mount the pod's volumes; called again, bring their contents up to date. Raises VolumeError."""
        ...

    async def inputs(self, pod: Obj, container: Obj, image: Image | None, ips: tuple[str, ...]) -> Inputs:
        """For one start of a container, after `prepare`. Raises GivenError."""
        ...

    def dns(self, pod: Obj) -> Dns:
        """What resolv.conf says in the pod."""
        ...

    async def release(self, uid: str) -> None:
        """Unmount and remove everything of a pod; nothing of it runs any more. Raises VolumeError."""
        ...

    async def leftovers(self) -> set[str]:
        """The uids of pods that something was prepared for."""
        ...
