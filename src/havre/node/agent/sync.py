"""Which steps bring a pod forward, from what is seen of it. Pure: no clock, no runtime, nothing remembered.

A pass does the steps in their order and looks again. The order of a pod's life: sandbox; init containers one after the
other (a sidecar counts as done when it has started); then its containers; whatever ended or fails its probes is
restarted by the policy, after its back-off. A lost sandbox begins all of this again.

Source: k8s.io/kubernetes pkg/kubelet/kuberuntime (computePodActions, computeInitContainerActions, SyncPod).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import orjson

from havre.api.meta import Obj
from havre.node.agent import back_off
from havre.node.agent.cri import ContainerStatus, State
from havre.node.agent.names import RESOURCES, container_hash, resources_text
from havre.node.agent.seen import Seen
from havre.node.agent.specs import (
    app_containers,
    ephemeral_containers,
    init_containers,
    is_sidecar,
    may_restart,
    on_host_network,
    pod_policy,
    restarts,
)

Kind = Literal["init", "app", "ephemeral"]
Why = Literal["", "liveness", "startup"]  # whose grace period holds


@dataclass(frozen=True, slots=True)
class StopPod:
    """Stop every container and the sandboxes; `again`: to begin in a new one."""

    again: bool = False


@dataclass(frozen=True, slots=True)
class CreateSandbox:
    attempt: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Stop one container; `message` is for people."""

    id: str
    name: str
    message: str
    why: Why = ""


@dataclass(frozen=True, slots=True)
class Remove:
    """Forget a container that does not run."""

    id: str


@dataclass(frozen=True, slots=True)
class Start:
    """Make and start one instance of a container; `back_off` seconds pass between its end and its successor."""

    kind: Kind
    name: str
    restart_count: int = 0
    back_off: float = 0.0


@dataclass(frozen=True, slots=True)
class Resize:
    """Give a running container what its spec says now; `text` is how that is remembered."""

    id: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The container is not started before `until` (epoch): it ended too often."""

    kind: Kind
    name: str
    until: float
    seconds: float


Step = StopPod | CreateSandbox | Kill | Remove | Start | Resize | Wait


@dataclass(frozen=True, slots=True)
class Plan:
    """`again`: when to look again although nothing happens, in seconds."""

    steps: tuple[Step, ...] = ()
    again: float | None = None


def plan(pod: Obj, seen: Seen) -> Plan:
    """For a pod that shall run: neither deleted nor finished."""
    attempt = new_sandbox(pod, seen)
    steps = _running(pod, seen) if attempt is None else _from_the_start(pod, seen, attempt)
    waits = [step.until for step in steps if isinstance(step, Wait)]
    return Plan(tuple(steps), max(0.0, min(waits) - seen.now) if waits else None)


def finished(pod: Obj, seen: Seen) -> bool:
    """Nothing of it will be started again: its containers have ended for good, or an init container has failed for
    good, or its sandbox was lost and it does not restart. Sidecars may still run."""
    apps = app_containers(pod)
    if apps and all(_done_for_good(pod, c, seen) for c in apps):
        return True
    if any(_failed_for_good(pod, c, seen) for c in init_containers(pod)):
        return True
    return bool(seen.containers) and bool(new_sandbox(pod, seen)) and _never(pod)


def _never(pod: Obj) -> bool:
    """No container is ever restarted."""
    return pod_policy(pod) == "Never" and not any(
        c.get("restartPolicy") in ("Always", "OnFailure") for c in app_containers(pod)
    )


def _failed_for_good(pod: Obj, container: Obj, seen: Seen) -> bool:
    newest = seen.newest(container["name"])
    if is_sidecar(container) or newest is None or newest.state is not State.EXITED or not _failed(newest):
        return False
    return not restarts(pod, container, newest.exit_code or 137)  # killed for its memory with status 0 failed too


def new_sandbox(pod: Obj, seen: Seen) -> int | None:
    """The attempt of the sandbox that is needed; None: the one that is there serves."""
    newest = seen.sandbox
    if newest is None:
        return 0
    fit = newest.ready and newest.host_network == on_host_network(pod)
    addressed = newest.host_network or bool(newest.ips)
    if fit and addressed and sum(box.ready for box in seen.sandboxes) == 1:
        return None
    return newest.attempt + 1


def _from_the_start(pod: Obj, seen: Seen, attempt: int) -> list[Step]:
    busy = bool(seen.running()) or any(box.ready for box in seen.sandboxes)
    stop: list[Step] = [StopPod(again=True)] if busy or seen.sandboxes else []
    if attempt and seen.containers and _never(pod):
        return [StopPod()] if busy else []
    wanted = [c for c in app_containers(pod) if not _done_for_good(pod, c, seen)]
    if not wanted and any(seen.newest(c["name"]) for c in app_containers(pod)):
        return [StopPod()] if busy else []
    inits = init_containers(pod)
    purge: list[Step] = [Remove(c.id) for i in inits for c in seen.containers if c.name == i["name"]]
    first = _start(pod, seen, "init", inits[0]) if inits else _starts(pod, seen, "app", wanted)
    return [*stop, *purge, CreateSandbox(attempt), *first]


def _done_for_good(pod: Obj, container: Obj, seen: Seen) -> bool:
    newest = seen.newest(container["name"])
    return newest is not None and newest.state is State.EXITED and not restarts(pod, container, newest.exit_code)


def _running(pod: Obj, seen: Seen) -> list[Step]:
    steps = _starts(pod, seen, "ephemeral", [c for c in ephemeral_containers(pod) if seen.newest(c["name"]) is None])
    initialized, init_steps = _init(pod, seen)
    steps += init_steps
    if initialized:
        for container in app_containers(pod):
            steps += _app(pod, seen, container)
    return steps


def _app(pod: Obj, seen: Seen, container: Obj) -> list[Step]:
    newest = seen.newest(container["name"])
    if newest is None or newest.state is State.CREATED:
        return _start(pod, seen, "app", container)
    if newest.state is State.EXITED:
        return _start(pod, seen, "app", container) if restarts(pod, container, newest.exit_code) else []
    if newest.state is State.UNKNOWN:
        return [_kill_unknown("Container", newest), *_start(pod, seen, "app", container)]
    return _unwanted(pod, seen, "app", container, newest)


def _unwanted(pod: Obj, seen: Seen, kind: Kind, container: Obj, running: ContainerStatus) -> list[Step]:
    """Kill, and where the policy says so start again, a running container that changed or fails its probes."""
    word, name, probed = "Init container" if kind == "init" else "Container", container["name"], seen.probed(running)
    why: Why = ""
    if running.hash != container_hash(container):
        message, again = f"{word} {name} definition changed", True
    elif probed.live is False:
        message, again, why = f"{word} {name} failed liveness probe", may_restart(pod, container), "liveness"
    elif probed.started is False:
        message, again, why = f"{word} {name} failed startup probe", may_restart(pod, container), "startup"
    elif (text := _other_resources(seen, container, running)) and _resize_restarts(container, text, running, seen):
        message, again = f"{word} {name} resize requires restart", True
    else:
        return [Resize(running.id, name, text)] if text else []
    if kind == "app" and again:
        message = f"{message}, will be restarted"
    kill = Kill(running.id, name, message, why)
    return [kill, *_start(pod, seen, kind, container)] if again else [kill]


def _given(seen: Seen, running: ContainerStatus) -> str:
    return seen.resized.get(running.id) or running.annotations.get(RESOURCES, "")


def _other_resources(seen: Seen, container: Obj, running: ContainerStatus) -> str:
    """What the spec says, if the container was given something else; else ""."""
    given, wanted = _given(seen, running), resources_text(container)
    return wanted if given and given != wanted else ""


def _resize_restarts(container: Obj, text: str, running: ContainerStatus, seen: Seen) -> bool:
    """A resource changes whose resizePolicy wants a restart."""
    before, after = orjson.loads(_given(seen, running)), orjson.loads(text)
    strict = [p["resourceName"] for p in container.get("resizePolicy") or () if p.get("restartPolicy") != "NotRequired"]
    parts = ("requests", "limits")
    return any((before.get(p) or {}).get(name) != (after.get(p) or {}).get(name) for p in parts for name in strict)


def _kill_unknown(word: str, container: ContainerStatus) -> Kill:
    message = f'{word} is in "unknown" state, try killing it before restart'
    return Kill(container.id, container.name, message)


# init containers


def _init(pod: Obj, seen: Seen) -> tuple[bool, list[Step]]:
    """Whether the pod is initialized, and the steps of its init containers.

    From the last to the first, for those that are done may have been removed: the last one that is seen says how far
    the pod has come; before it only sidecars still matter.
    """
    inits = init_containers(pod)
    initialized = not inits or any(_began(seen.newest(c["name"])) for c in app_containers(pod))
    reached = initialized
    groups: list[list[Step]] = []
    for index in reversed(range(len(inits))):
        container, newest = inits[index], seen.newest(inits[index]["name"])
        if newest is None:
            if reached and is_sidecar(container):
                groups.append(_start(pod, seen, "init", container))
            continue
        if reached and not is_sidecar(container):
            continue
        steps = _one_init(pod, seen, container, newest)
        if _passed(container, newest, seen):
            if index == len(inits) - 1:
                initialized = True
            elif not reached:
                groups.append(_start(pod, seen, "init", inits[index + 1]))
        groups.append(steps)
        reached = True
    if not reached:
        groups.append(_start(pod, seen, "init", inits[0]))
    return initialized, [step for group in reversed(groups) for step in group]


def _began(container: ContainerStatus | None) -> bool:
    """One that has exited may be of the sandbox before."""
    return container is not None and container.state in (State.CREATED, State.RUNNING)


def _passed(container: Obj, newest: ContainerStatus, seen: Seen) -> bool:
    """The next init container may start."""
    if is_sidecar(container):
        return newest.state is State.RUNNING and (
            not container.get("startupProbe") or seen.probed(newest).started is True
        )
    return newest.state is State.EXITED and not _failed(newest)


def _failed(container: ContainerStatus) -> bool:
    return container.exit_code != 0 or container.reason == "OOMKilled"


def _one_init(pod: Obj, seen: Seen, container: Obj, newest: ContainerStatus) -> list[Step]:
    """What an init container that has been made needs."""
    start = _start(pod, seen, "init", container)
    if newest.state is State.CREATED:
        return start
    if newest.state is State.RUNNING:
        return _unwanted(pod, seen, "init", container, newest) if is_sidecar(container) else []
    if newest.state is State.UNKNOWN:
        again = is_sidecar(container) or may_restart(pod, container)
        return [_kill_unknown("Init container", newest), *start] if again else []
    if is_sidecar(container):
        return start
    failed = newest.exit_code or 137  # killed for its memory with status 0 has failed too
    return start if _failed(newest) and restarts(pod, container, failed) else []


# one start


def _starts(pod: Obj, seen: Seen, kind: Kind, containers: list[Obj]) -> list[Step]:
    return [step for container in containers for step in _start(pod, seen, kind, container)]


def _start(pod: Obj, seen: Seen, kind: Kind, container: Obj) -> list[Step]:
    name, hash = container["name"], container_hash(container)
    newest, ended = seen.newest(name), seen.ended(name)
    until = back_off.waits_until(newest, ended, hash, seen.now)
    if newest is not None and until > seen.now:
        return [Wait(kind, name, until, newest.back_off)]
    if newest is not None and newest.state is State.CREATED:  # the agent died between making and starting it
        return [Remove(newest.id), Start(kind, name, newest.restart_count, newest.back_off)]
    wait = back_off.next_wait(newest, hash, seen.now) if ended is not None else 0.0  # a first kill by us is free
    return [Start(kind, name, _restart_count(pod, name, newest), wait)]


def _restart_count(pod: Obj, name: str, newest: ContainerStatus | None) -> int:
    """One more than the last; when the runtime has forgotten it, the API has not."""
    if newest is not None:
        return newest.restart_count + 1
    reported = pod.get("status") or {}
    lists = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
    for status in (s for key in lists for s in reported.get(key) or ()):
        if status["name"] == name:  # one that was reported gone has been counted already
            return int(status.get("restartCount") or 0) + bool(status.get("containerID"))
    return 0
