"""Small facts that a worker reads off a pod: its age, its deadline, what was told of it before. Pure."""

from __future__ import annotations

from typing import Final

import orjson

from havre.api.meta import Obj, parse_time
from havre.node.agent import names
from havre.node.agent.container_status import Reason
from havre.node.agent.cri import ContainerStatus
from havre.node.agent.names import container_hash
from havre.node.agent.specs import container_named, described, is_finished
from havre.node.agent.status import Verdict
from havre.node.agent.sync import Wait

_NO_FAILURES: Final = ("ContainerCreating", "PodInitializing", "CrashLoopBackOff")
_DEADLINE: Final = Verdict("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")


def older(one: Obj, other: Obj) -> bool:
    """Whether `one` is a state before `other`; revisions are numbers since Kubernetes promises so."""
    try:
        return int(one["metadata"]["resourceVersion"]) < int(other["metadata"]["resourceVersion"])
    except (KeyError, ValueError):
        return False


def started(pod: Obj) -> bool:
    """A node has taken it."""
    return bool((pod.get("status") or {}).get("startTime"))


def deadline_of(pod: Obj) -> float | None:
    """When its activeDeadlineSeconds are over, in seconds since the epoch."""
    seconds, began = pod["spec"].get("activeDeadlineSeconds"), (pod.get("status") or {}).get("startTime")
    return parse_time(began) + float(seconds) if seconds is not None and began else None


def overdue(pod: Obj, now: float) -> Verdict | None:
    deadline = deadline_of(pod)
    return _DEADLINE if deadline is not None and now >= deadline and not is_finished(pod) else None


def reported_failures(pod: Obj | None) -> dict[str, tuple[str, Reason]]:
    """Why containers did not start, as the agent before us told it, by name and hash: a restart untells nothing."""
    found: dict[str, tuple[str, Reason]] = {}
    status = (pod or {}).get("status") or {}
    for key in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
        for told in status.get(key) or ():
            waiting = told["state"].get("waiting") or {}
            container = container_named(pod, told["name"]) if pod is not None else None
            if container is not None and waiting.get("reason") not in (None, "", *_NO_FAILURES):
                why = Reason(waiting["reason"], waiting.get("message", ""))
                found[told["name"]] = container_hash(container), why
    return found


def crash_loop(pod: Obj, step: Wait) -> Reason:
    text = f"back-off {go_duration(step.seconds)} restarting failed container={step.name} pod={described(pod)}"
    return Reason("CrashLoopBackOff", text)


def go_duration(seconds: float) -> str:
    """`10s`, `1m20s`, `5m0s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def restored(instance: ContainerStatus) -> Obj:
    """What ending a container needs of its spec, from its annotations; a hook that cannot be read is left out."""
    try:
        hook = orjson.loads(instance.annotations.get(names.PRE_STOP) or "null")
    except orjson.JSONDecodeError:
        hook = None
    lifecycle = {"lifecycle": {"preStop": hook}} if isinstance(hook, dict) else {}
    return {"name": instance.name, **lifecycle}
