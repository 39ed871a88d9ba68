"""Pods as the API server would have stored them, and what is seen of them, for tests of the agent."""

from __future__ import annotations

from typing import Any

from havre.api.meta import Obj
from havre.node.agent import names
from havre.node.agent.cri import ContainerStatus, SandboxStatus, State
from havre.node.agent.seen import Probed, Seen

NOW = 1_700_000_000.0


def container(name: str, **fields: Any) -> Obj:
    return {"name": name, "image": f"registry.example/{name}:1", "imagePullPolicy": "IfNotPresent", **fields}


def sidecar(name: str, **fields: Any) -> Obj:
    return container(name, restartPolicy="Always", **fields)


def pod(*containers: Obj, status: Obj | None = None, meta: Obj | None = None, **spec: Any) -> Obj:
    """A pod of the node `n` with these containers; one named `app` when there are none."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", "uid": "u1", "generation": 1, **(meta or {})},
        "spec": {
            "containers": [*containers] or [container("app")],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "nodeName": "n",
            **spec,
        },
        "status": {"phase": "Pending", "qosClass": "BestEffort", **(status or {})},
    }


def box(ready: bool = True, attempt: int = 0, host: bool = False) -> SandboxStatus:
    return SandboxStatus(
        f"box{attempt}", attempt, ready, NOW - 100 + attempt, ("10.42.0.7",) if ready and not host else (), host
    )


def instance(
    spec: Obj, state: State = State.RUNNING, *, count: int = 0, code: int = 0, wait: float = 0.0, **times: float
) -> ContainerStatus:
    """An instance of a container: started 50 s ago, ended (if so) 1 s ago."""
    started = 0.0 if state is State.CREATED else times.get("started", NOW - 50)
    return ContainerStatus(
        id=f"{spec['name']}-{count}",
        name=spec["name"],
        state=state,
        created=times.get("created", NOW - 60 + count),
        started=started,
        finished=times.get("finished", NOW - 1) if state is State.EXITED else 0.0,
        exit_code=code,
        reason=("Completed" if code == 0 else "Error") if state is State.EXITED else "",
        image=spec["image"],
        image_ref=f"{spec['image']}@sha256:1",
        annotations={
            names.HASH: names.container_hash(spec),
            names.RESTART_COUNT: str(count),
            names.BACK_OFF: f"{wait:g}",
        },
    )


def seen(*containers: ContainerStatus, boxes: tuple[SandboxStatus, ...] | None = None, **probes: Probed) -> Seen:
    """One ready sandbox unless told; probes by name of the newest instance."""
    newest = tuple(sorted(containers, key=lambda c: c.created, reverse=True))
    by_id = {next(c.id for c in newest if c.name == name): probed for name, probed in probes.items()}
    return Seen((box(),) if boxes is None else boxes, newest, by_id, NOW)
