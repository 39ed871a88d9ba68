"""Ending containers as they asked for: preStop hook, TERM, and after the grace period KILL; sidecars last, in reverse.

The hook counts inside the grace; whoever has used it up gets two more seconds. A grace can be shortened while it runs
(`kubectl delete --grace-period=1` the second time), never prolonged.

Source: k8s.io/kubernetes pkg/kubelet/kuberuntime (killContainer, terminationOrdering), pkg/kubelet/lifecycle.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from havre.api.meta import Obj
from havre.machinery.events import Note
from havre.node.agent.checks import Target, get, request_of
from havre.node.agent.cri import Runtime, RuntimeFault
from havre.node.agent.specs import DEFAULT_GRACE, app_containers, described, init_containers, is_sidecar
from havre.node.agent.sync import Why
from havre.wire.http.errors import HttpError, ProtocolError

log = logging.getLogger(__name__)

SHORTEST: Final = 2  # seconds between TERM and KILL, whatever was asked
HOOK_HTTP: Final = 60.0  # seconds of an HTTP hook's answer
_PROBES: Final = {"liveness": "livenessProbe", "startup": "startupProbe"}

Tell = Callable[[str, Note], None]  # name of the container, what happened


class HookError(Exception):
    """A lifecycle hook failed; the message may hold the command's output, so it goes to no event."""


class Grace:
    """The time until everything is killed."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + seconds
        self._shortened = asyncio.Event()

    @property
    def left(self) -> float:
        return max(0.0, self._end - self._loop.time())

    def shorten(self, seconds: float) -> None:
        end = self._loop.time() + seconds
        if end < self._end:
            self._end = end
            self._shortened.set()

    async def bound(self, work: Awaitable[Any]) -> bool:
        """Wait for `work` as long as the grace lasts; it is cancelled then. Whether it ended by itself. Raises what
        the work does."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done() and self.left > 0:
                await self._any(task, self.left)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return False
        task.result()
        return True

    async def _any(self, task: asyncio.Future[Any], timeout: float) -> None:
        """Until the task is done, the grace is shortened or the time is over."""
        self._shortened.clear()
        changed = asyncio.ensure_future(self._shortened.wait())
        try:
            await asyncio.wait((task, changed), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()

    async def stop(self, runtime: Runtime, id: str) -> None:
        """Stop a container within what is left; a grace that is shortened is told too. Raises RuntimeFault."""
        calls = {asyncio.ensure_future(runtime.stop_container(id, self._whole()))}
        try:
            while not any(call.done() for call in calls):
                told = self._whole()
                self._shortened.clear()
                changed = asyncio.ensure_future(self._shortened.wait())
                await asyncio.wait({*calls, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if changed.done() and not changed.cancelled() and self._whole() < told:
                    calls.add(asyncio.ensure_future(runtime.stop_container(id, self._whole())))
        finally:
            for call in calls:
                if not call.done():
                    call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
        faults = [r for r in results if isinstance(r, RuntimeFault)]
        if faults and len(faults) == sum(not isinstance(r, asyncio.CancelledError) for r in results):
            raise faults[0]

    def _whole(self) -> int:
        return max(SHORTEST, math.ceil(self.left))


def grace_of(pod: Obj, container: Obj | None = None, why: Why = "") -> float:
    """Seconds that a container is given to end: the deletion's, the failed probe's, the pod's."""
    deletion = pod["metadata"].get("deletionGracePeriodSeconds")
    if deletion is not None:
        return float(deletion)
    if container is not None and why:
        own = (container.get(_PROBES[why]) or {}).get("terminationGracePeriodSeconds")
        if own is not None:
            return float(own)
    configured = pod["spec"].get("terminationGracePeriodSeconds")
    return float(DEFAULT_GRACE if configured is None else configured)


@dataclass(frozen=True, slots=True)
class Ending:
    """What one container's end needs to know."""

    pod: Obj
    target: Target
    grace: Grace
    message: str = ""
    after: tuple[asyncio.Event, ...] = ()  # containers that must have ended first


async def end(runtime: Runtime, ending: Ending, tell: Tell) -> None:
    """End one container: hook, turn, stop. Raises RuntimeFault."""
    container, grace = ending.target.container, ending.grace
    tell(container["name"], Note("Killing", ending.message or f"Stopping container {container['name']}"))
    hook = (container.get("lifecycle") or {}).get("preStop")
    if hook and grace.left > 0:
        await _pre_stop(runtime, ending, hook, tell)
    for event in ending.after:
        if not await grace.bound(event.wait()):
            break
    await grace.stop(runtime, ending.target.id)


async def _pre_stop(runtime: Runtime, ending: Ending, hook: Obj, tell: Tell) -> None:
    name = ending.target.container["name"]
    try:
        if not await ending.grace.bound(run_hook(runtime, ending.pod, ending.target, hook)):
            log.info("a preStop hook outlived the grace period", extra={"container": name})
    except HookError as error:
        log.info("a preStop hook failed", extra={"container": name, "error": str(error)})
        tell(name, Note("FailedPreStopHook", "PreStopHook failed", "Warning"))


def turns(pod: Obj, running: Iterable[str]) -> tuple[dict[str, asyncio.Event], Mapping[str, tuple[asyncio.Event, ...]]]:
    """An event per container to set when it has ended, and whom each waits for: sidecars for all containers and for
    the sidecars that started after them."""
    ended = {name: asyncio.Event() for name in running}
    after: dict[str, tuple[asyncio.Event, ...]] = {}
    before = [ended[c["name"]] for c in app_containers(pod) if c["name"] in ended]
    for container in reversed(init_containers(pod)):
        if is_sidecar(container) and container["name"] in ended:
            after[container["name"]] = tuple(before)
            before = [*before, ended[container["name"]]]
    return ended, after


async def run_hook(runtime: Runtime, pod: Obj, target: Target, hook: Obj) -> None:
    """Raises HookError."""
    name = target.container["name"]
    if hook.get("exec"):
        await _run_command(runtime, pod, target, hook["exec"].get("command") or [])
    elif hook.get("httpGet"):
        action = hook["httpGet"]
        try:
            await _run_http(target, action)
        except (HttpError, ValueError) as error:
            text = f'HTTP lifecycle hook ({action.get("path", "")}) for Container "{name}" in Pod "{described(pod)}"'
            raise HookError(f"{text} failed - error: {error}") from error
    elif hook.get("sleep"):
        await asyncio.sleep(float(hook["sleep"].get("seconds") or 0))
    else:
        raise HookError(f"Cannot run handler: invalid handler: {', '.join(hook) or 'empty'}")


async def _run_command(runtime: Runtime, pod: Obj, target: Target, command: list[str]) -> None:
    name = target.container["name"]
    text = f'Exec lifecycle hook ([{" ".join(command)}]) for Container "{name}" in Pod "{described(pod)}" failed'
    try:
        done = await runtime.execute(target.id, command, 0)
    except RuntimeFault as fault:
        raise HookError(f"{text} - error: {fault}") from fault
    if done.exit_code:
        output = (done.stdout + done.stderr)[:4096].decode(errors="replace")
        reason = (
            f"command '{' '.join(command)}' exited with {done.exit_code}: {done.stderr[:1024].decode(errors='replace')}"
        )
        raise HookError(f'{text} - error: {reason}, message: "{output}"')


async def _run_http(target: Target, action: Obj) -> None:
    """Any answer will do; a server that answers an HTTPS hook in plain HTTP is asked again so."""
    request = request_of(action, target, "lifecycle")
    try:
        await get(request, HOOK_HTTP)
    except HttpError as error:
        plain = request.scheme == "https" and ("WRONG_VERSION_NUMBER" in str(error) or isinstance(error, ProtocolError))
        if not plain:
            raise
        await get(request_of({**action, "scheme": "HTTP"}, target, "lifecycle"), HOOK_HTTP)
