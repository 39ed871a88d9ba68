"""Starting one container: its image, what it is given, its configuration, create, start, postStart.

Each thing that can go wrong has kubelet's name, under which the container then waits (`ErrImagePull`,
`CreateContainerConfigError`, `RunContainerError` …).

Source: k8s.io/kubernetes pkg/kubelet/kuberuntime/kuberuntime_container.go (startContainer).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from havre.api.meta import Obj
from havre.machinery.events import Note
from havre.node.agent.checks import Target
from havre.node.agent.configs import Given, container_config, log_directory
from havre.node.agent.cri import Image, Runtime, RuntimeFault
from havre.node.agent.images import SHOWN, ImageError, Images
from havre.node.agent.protocol import GivenError, Giver
from havre.node.agent.security import ConfigError
from havre.node.agent.seen import Seen
from havre.node.agent.sync import Start
from havre.node.agent.termination import Ending as ContainerEnd
from havre.node.agent.termination import Grace, HookError, end, grace_of, run_hook

log = logging.getLogger(__name__)

AGAIN: Final = 10.0  # seconds before a failed start is tried again

Within = Callable[[Awaitable[Any]], Awaitable[Any]]


class StartError(Exception):
    """The container did not start; `reason` is what it waits for."""

    def __init__(self, reason: str, message: str, again: float = AGAIN) -> None:
        super().__init__(message)
        self.reason = reason
        self.again = again


@dataclass(frozen=True, slots=True)
class Place:
    """The sandbox that a container is started in."""

    id: str
    config: Obj
    ips: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Starter:
    """What starting needs of the node."""

    runtime: Runtime
    images: Images
    giver: Giver
    logs: Path
    profiles: Path
    memory: int
    group_oom: bool
    slots: asyncio.Semaphore  # starts at once: more than a few only make each other slow

    async def start(
        self,
        pod: Obj,
        container: Obj,
        step: Start,
        place: Place,
        seen: Seen,
        tell: Callable[[Note], None],
        within: Within,
    ) -> str:
        """The id of the running container. Raises StartError; `within` ends long waits when the pod ends."""
        image = await self._image(pod, container, place, tell, within)
        async with self.slots:
            config = await self._config(pod, container, step, place, seen, image, tell)
            id = await self._run(container, config, place, tell)
        hook = (container.get("lifecycle") or {}).get("postStart")
        if hook:
            await self._post_start(pod, Target(id, container, place.ips[0] if place.ips else ""), hook, tell, within)
        return id

    async def _image(
        self, pod: Obj, container: Obj, place: Place, tell: Callable[[Note], None], within: Within
    ) -> tuple[str, Image | None]:
        try:
            return await self.images.ensure(pod, container, place.config, tell, within)
        except ImageError as error:
            tell(Note("Failed", f"Error: {error.reason}", "Warning"))
            raise StartError(error.reason, str(error), error.again or AGAIN) from error

    async def _config(
        self,
        pod: Obj,
        container: Obj,
        step: Start,
        place: Place,
        seen: Seen,
        image: tuple[str, Image | None],
        tell: Callable[[Note], None],
    ) -> Obj:
        reference, looked = image
        try:
            given = await self.giver.inputs(pod, container, looked, place.ips)
            directory = log_directory(self.logs, pod) / container["name"]
            await asyncio.to_thread(directory.mkdir, mode=0o755, parents=True, exist_ok=True)
            return container_config(
                pod,
                container,
                Given(
                    image=reference,
                    looked=looked,
                    restart_count=step.restart_count,
                    back_off=step.back_off,
                    memory_capacity=self.memory,
                    profiles=self.profiles,
                    environment=given.environment,
                    mounts=given.mounts,
                    devices=given.devices,
                    target=_target_id(container, seen),
                    group_oom=self.group_oom,
                ),
            )
        except (GivenError, ConfigError, OSError) as error:
            tell(Note("Failed", f"Error: {error}", "Warning"))
            raise StartError("CreateContainerConfigError", str(error)) from error

    async def _run(self, container: Obj, config: Obj, place: Place, tell: Callable[[Note], None]) -> str:
        try:
            id = await self.runtime.create_container(place.id, config, place.config)
        except RuntimeFault as fault:
            tell(Note("Failed", f"Error: {fault}", "Warning"))
            raise StartError("CreateContainerError", str(fault)) from fault
        tell(Note("Created", f"Created container: {container['name']}"))
        try:
            await self.runtime.start_container(id)
        except RuntimeFault as fault:
            tell(Note("Failed", f"Error: {fault}", "Warning"))
            raise StartError("RunContainerError", str(fault), SHOWN) from fault
        tell(Note("Started", f"Started container {container['name']}"))
        return id

    async def _post_start(
        self, pod: Obj, target: Target, hook: Obj, tell: Callable[[Note], None], within: Within
    ) -> None:
        try:
            await within(run_hook(self.runtime, pod, target, hook))
        except HookError as error:
            tell(Note("FailedPostStartHook", "PostStartHook failed", "Warning"))
            ending = ContainerEnd(pod, target, Grace(grace_of(pod)), "FailedPostStartHook")
            try:
                await end(self.runtime, ending, lambda _, note: tell(note))
            except RuntimeFault as fault:
                log.warning("could not stop a container", extra={"container": target.id, "error": str(fault)})
            raise StartError("PostStartHookError", str(error), SHOWN) from error


def _target_id(container: Obj, seen: Seen) -> str:
    """The running instance whose processes an ephemeral container shall see. Raises ConfigError."""
    name = container.get("targetContainerName")
    if not name:
        return ""
    target = seen.newest(name)
    if target is None:
        raise ConfigError(f'unable to find target container "{name}"')
    return target.id
