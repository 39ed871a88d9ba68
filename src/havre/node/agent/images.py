"""Getting the image of a container: pull policy, pull secrets, one pull at a time for one image, and back-off.

A failed pull is tried again after 10 s, 20 s … 300 s, for each pod and image apart: who waits is in ImagePullBackOff,
with the last failure in the message.

Source: k8s.io/kubernetes pkg/kubelet/images/image_manager.go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from havre.api.errors import ApiError
from havre.api.meta import GVK, Obj
from havre.machinery.api import Api, Ref
from havre.machinery.events import Note
from havre.node.agent import credentials
from havre.node.agent.back_off import Attempts
from havre.node.agent.cri import Auth, Image, Runtime, RuntimeFault
from havre.wire.oci.errors import OciError
from havre.wire.oci.reference import Reference

log = logging.getLogger(__name__)

PARALLEL: Final = 3  # pulls at once: more only share the line, and unpacking fills two cores
SHOWN: Final = 2.0  # seconds for which a failure is shown before the back-off is
SECRET: Final = GVK("", "v1", "Secret")
_UNAVAILABLE: Final = "RegistryUnavailable"
_UNSIGNED: Final = "SignatureValidationFailed"

Tell = Callable[[Note], None]


class ImageError(Exception):
    """The image cannot be used now; `reason` is what the container waits for, `again` when to try, in seconds."""

    def __init__(self, reason: str, message: str, again: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.again = again


class Ready(NamedTuple):
    """An image in the store: how a container names it, and what is known of it."""

    reference: str
    image: Image | None


@dataclass(slots=True)
class Images:
    """All methods belong to the thread of the event loop."""

    runtime: Runtime
    api: Api
    attempts: Attempts = field(default_factory=Attempts)
    used: dict[str, float] = field(default_factory=dict)  # id of an image: when a container was last made of it
    _last: dict[str, str] = field(default_factory=dict)  # key of a failed pull: what it said
    _pulls: dict[tuple[str, tuple[Auth, ...]], asyncio.Task[str]] = field(default_factory=dict)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARALLEL))

    async def ensure(
        self,
        pod: Obj,
        container: Obj,
        sandbox_config: Obj,
        tell: Tell,
        within: Callable[[Awaitable[str]], Awaitable[str]],
    ) -> Ready:
        """The image of `container`, pulled if the policy says so. Raises ImageError.

        `within` runs the wait for a pull, which may be long: the caller may end the wait; the pull goes on for others.
        """
        name = str(container.get("image", ""))
        try:
            reference = Reference.parse(name)
        except OciError as error:
            text = f'Failed to apply default image tag "{name}": couldn\'t parse image name "{name}": {error}'
            tell(Note("InspectFailed", text, "Warning"))
            raise ImageError("InvalidImageName", text) from error
        policy = container.get("imagePullPolicy") or "IfNotPresent"
        held = None if policy == "Always" else await self._held(name, reference, tell)
        if held is not None:
            tell(Note("Pulled", f'Container image "{name}" already present on machine'))
            return Ready(held.id, held)
        if policy == "Never":
            text = f'Container image "{name}" is not present with pull policy of Never'
            tell(Note("ErrImageNeverPull", text, "Warning"))
            raise ImageError("ErrImageNeverPull", text)
        got = await self._pull(pod, name, reference, sandbox_config, tell, within)
        return Ready(got, await self.runtime.image(got))

    async def _held(self, name: str, reference: Reference, tell: Tell) -> Image | None:
        try:
            return await self.runtime.image(str(reference))
        except RuntimeFault as fault:
            text = f'Failed to inspect image "{name}": {fault}'
            tell(Note("InspectFailed", text, "Warning"))
            raise ImageError("ImageInspectError", text) from fault

    async def _pull(
        self,
        pod: Obj,
        name: str,
        reference: Reference,
        sandbox_config: Obj,
        tell: Tell,
        within: Callable[[Awaitable[str]], Awaitable[str]],
    ) -> str:
        loop = asyncio.get_running_loop()
        key = f"{pod['metadata']['uid']}_{name}"
        left = self.attempts.left(key, loop.time())
        if left > 0:
            text = f'Back-off pulling image "{name}"'
            tell(Note("BackOff", text))
            before = f": {self._last[key]}" if key in self._last else ""
            raise ImageError("ImagePullBackOff", text + before, left)
        tell(Note("Pulling", f'Pulling image "{name}"'))
        began = loop.time()
        auths = await self.auths(pod, reference)
        try:
            got = await within(self._shared(str(reference), auths, sandbox_config))
        except RuntimeFault as fault:
            tell(Note("Failed", f'Failed to pull image "{name}": {fault}', "Warning"))
            self.attempts.failed(key, loop.time())
            reason, text = _explained(name, str(fault))
            self._remember(key, f"{reason}: {text}")
            raise ImageError(reason, text, SHOWN) from fault
        self.attempts.forget(key)
        self._last.pop(key, None)
        await self._tell_pulled(name, got, loop.time() - began, tell)
        return got

    async def _tell_pulled(self, name: str, got: str, seconds: float, tell: Tell) -> None:
        image = await self.runtime.image(got)
        took = f"{round(seconds * 1000)}ms" if seconds < 1 else f"{seconds:.3f}s"
        size = image.size if image is not None else 0
        text = f'Successfully pulled image "{name}" in {took} ({took} including waiting). Image size: {size} bytes.'
        tell(Note("Pulled", text))

    def _remember(self, key: str, text: str) -> None:
        self._last[key] = text
        if len(self._last) > 1000:  # pods that failed and went; only words are lost
            self._last.pop(next(iter(self._last)))

    async def _shared(self, name: str, auths: Sequence[Auth], sandbox_config: Obj) -> str:
        """One pull for all who want the same image with the same credentials now."""
        key = name, tuple(auths)
        task = self._pulls.get(key)
        if task is None:
            task = self._pulls[key] = asyncio.get_running_loop().create_task(
                self._try(name, auths, sandbox_config), name=f"pull {name}"
            )
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    def _forget(self, key: tuple[str, tuple[Auth, ...]], task: asyncio.Task[str]) -> None:
        self._pulls.pop(key, None)
        if not task.cancelled() and task.exception() is not None:
            log.info("a pull failed", extra={"image": key[0], "error": str(task.exception())})

    async def _try(self, name: str, auths: Sequence[Auth], sandbox_config: Obj) -> str:
        """With each of the credentials; without any when there are none."""
        async with self._slots:
            faults: list[str] = []
            for auth in auths or (None,):
                try:
                    return await self.runtime.pull(name, auth, sandbox_config)
                except RuntimeFault as fault:
                    last = fault
                    faults.append(str(fault))
            if len(faults) == 1:
                raise last
            raise RuntimeFault(last.code, f"[{', '.join(dict.fromkeys(faults))}]")

    async def close(self) -> None:
        """End the pulls; what is fetched stays and is used when they are asked for again."""
        tasks = [*self._pulls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def auths(self, pod: Obj, reference: Reference) -> list[Auth]:
        """From the pod's pull secrets; admission has given it those of its service account. One that is missing or
        unreadable is passed over, as kubelet does: the registry's refusal says the rest."""
        namespace = pod["metadata"]["namespace"]
        found = []
        for entry in pod["spec"].get("imagePullSecrets") or ():
            name = entry.get("name")
            try:
                secret = await self.api.get(Ref(SECRET, namespace, name)) if name else None
                if secret is not None:
                    found.append(credentials.read(secret))
            except (ApiError, credentials.CredentialError) as error:
                log.warning("a pull secret cannot be used", extra={"secret": name, "error": str(error)})
        return credentials.fitting(found, reference.registry, reference.repository)


def _explained(name: str, text: str) -> tuple[str, str]:
    """The reason and message of a failed pull."""
    for reason, words in (
        (_UNAVAILABLE, "the registry is unavailable"),
        (_UNSIGNED, "the signature validation failed"),
    ):
        if text.startswith(reason):
            return reason, f"image pull failed for {name} because {words}{text.removeprefix(reason)}"
    return "ErrImagePull", text
