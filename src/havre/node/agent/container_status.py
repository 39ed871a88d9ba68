"""The status of one container: of its newest instance, the one before, and why it waits. Pure.

What was reported of an instance is kept when the runtime no longer knows better: an end once told is never untold.

Source: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (convertToAPIContainerStatuses), pkg/kubelet/prober (readiness).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from havre.api.meta import Obj, rfc3339
from havre.node.agent.cri import ContainerStatus, State
from havre.node.agent.seen import Seen
from havre.node.agent.specs import is_deleted, is_sidecar, restarts

MESSAGE: Final = 4096  # bytes of one termination message
_UNKNOWN: Final = "ContainerStatusUnknown"
_GONE = "The container could not be located when the pod was deleted.  The container used to be Running"
_LOST = "The container could not be located when the pod was terminated"


class Reason(NamedTuple):
    """Why a container waits: `CrashLoopBackOff`, and more words."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class View:
    """What the statuses of one list of containers are made of."""

    pod: Obj
    seen: Seen
    reasons: Mapping[str, Reason]
    has_inits: bool
    of_inits: bool
    limit: int  # bytes of a message


def runtime_id(id: str) -> str:
    """As the API shows it."""
    return f"containerd://{id}"


def status(view: View, container: Obj, old: Obj | None) -> Obj:
    """The ContainerStatus of a container of the spec; `old` is the one reported before."""
    instances = [c for c in view.seen.containers if c.name == container["name"]][:2]
    new = _of_instance(view, container, instances, old) if instances else _of_none(view, container, old)
    reason = view.reasons.get(container["name"])
    if reason is not None and _will_start(view, container, instances):
        if "terminated" in new["state"]:
            new["lastState"] = new["state"]
        new["state"] = {"waiting": _words(reason)}
    _judge(view, container, new, instances, old)
    return new


def _words(reason: Reason) -> Obj:
    return {key: text for key, text in (("reason", reason.reason), ("message", reason.message)) if text}


def _will_start(view: View, container: Obj, instances: list[ContainerStatus]) -> bool:
    if is_deleted(view.pod):
        return False
    if not instances or instances[0].state in (State.CREATED, State.UNKNOWN):
        return True
    if instances[0].state is State.RUNNING:
        return False
    if view.of_inits and instances[0].exit_code == 0 and not is_sidecar(container):
        return False
    return restarts(view.pod, container, instances[0].exit_code)


def _of_none(view: View, container: Obj, old: Obj | None) -> Obj:
    """There is no instance: not yet, or no longer."""
    if old is not None and "terminated" in old["state"]:
        return dict(old)
    new: Obj = {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": "",
        "ready": False,
        "restartCount": (old or {}).get("restartCount", 0),
        "state": {"waiting": {"reason": "PodInitializing" if view.has_inits else "ContainerCreating"}},
        "lastState": (old or {}).get("lastState") or {},
        **_volume_mounts(container),
    }
    if old is not None and "running" in old["state"] and "terminated" not in new["lastState"]:
        new["lastState"] = {"terminated": {"exitCode": 137, "reason": _UNKNOWN, "message": _GONE}}
        new["restartCount"] += not is_deleted(view.pod)
    return new


def _of_instance(view: View, container: Obj, instances: list[ContainerStatus], old: Obj | None) -> Obj:
    newest = instances[0]
    same = old is not None and old.get("containerID") == runtime_id(newest.id)
    new: Obj = {
        "name": container["name"],
        "image": container.get("image", "") if newest.image.startswith("sha256:") else newest.image,
        "imageID": newest.image_ref,
        "containerID": runtime_id(newest.id),
        "ready": False,
        "restartCount": newest.restart_count,
        "state": _state(newest, view.limit),
        "lastState": (old or {}).get("lastState") or {} if same else {},
        **_resources(container),
        **_volume_mounts(container),
    }
    if same and old is not None and "terminated" in old["state"] and newest.state is State.EXITED:
        new["state"] = old["state"]
    if len(instances) > 1 and instances[1].state is State.EXITED:
        new["lastState"] = _kept(_state(instances[1], view.limit), new["lastState"])
    elif not same and old is not None and "terminated" in old["state"]:
        new["lastState"] = old["state"]
    if newest.user is not None:
        uid, gid, groups = newest.user
        new["user"] = {"linux": {"uid": uid, "gid": gid, **({"supplementalGroups": [*groups]} if groups else {})}}
    return new


def _kept(state: Obj, old: Obj) -> Obj:
    """The same end as it was reported first, when its message could still be read."""
    known, told = state["terminated"], old.get("terminated") or {}
    return old if told.get("containerID") == known["containerID"] else state


def _state(container: ContainerStatus, limit: int) -> Obj:
    match container.state:
        case State.RUNNING:
            return {"running": {"startedAt": rfc3339(container.started)}}
        case State.EXITED:
            return {"terminated": _terminated(container, limit)}
        case _:
            return {"waiting": {}}


def _terminated(container: ContainerStatus, limit: int) -> Obj:
    out: Obj = {"exitCode": container.exit_code}
    if container.reason:
        out["reason"] = container.reason
    if container.message:
        out["message"] = container.message.encode()[: min(limit, MESSAGE)].decode(errors="ignore")
    if container.started:
        out["startedAt"] = rfc3339(container.started)
    if container.finished:
        out["finishedAt"] = rfc3339(container.finished)
    out["containerID"] = runtime_id(container.id)
    return out


def _resources(container: Obj) -> Obj:
    resources = container.get("resources") or {}
    out: Obj = {"resources": resources} if resources else {}
    if resources.get("requests"):
        out["allocatedResources"] = resources["requests"]
    return out


def _volume_mounts(container: Obj) -> Obj:
    mounts = [_volume_mount(mount) for mount in container.get("volumeMounts") or ()]
    return {"volumeMounts": mounts} if mounts else {}


def _volume_mount(mount: Obj) -> Obj:
    out: Obj = {"name": mount["name"], "mountPath": mount["mountPath"]}
    if mount.get("readOnly"):
        out |= {"readOnly": True, "recursiveReadOnly": "Disabled"}
    return out


def _judge(view: View, container: Obj, new: Obj, instances: list[ContainerStatus], old: Obj | None) -> None:
    """Fill in `started` and `ready`: by its probes, and before their first result as reported of the same instance."""
    if view.of_inits and not is_sidecar(container):
        ended = new["state"].get("terminated")
        new["started"] = "running" in new["state"]
        new["ready"] = bool(ended and ended["exitCode"] == 0)
        return
    if "running" not in new["state"]:
        new["started"] = new["ready"] = False
        return
    before = old if old is not None and old.get("containerID") == new.get("containerID") else {}
    probed = view.seen.probed(instances[0])
    started = probed.started if container.get("startupProbe") else True
    new["started"] = bool(before.get("started")) if started is None else started
    ready = probed.ready if container.get("readinessProbe") else True
    new["ready"] = new["started"] and (bool(before.get("ready")) if ready is None else ready)


def lost(state: Obj) -> Obj:
    """A container that should have been seen ending was not: count it as failed."""
    if "terminated" in state["state"]:
        return state
    ended = {"exitCode": 137, "reason": _UNKNOWN, "message": _LOST}
    return {**state, "state": {"terminated": ended}, "ready": False, "started": False}
