"""Labels and annotations that tie sandboxes and containers of the runtime to their pod: the agent's only memory.

Whatever the agent must know about a container after its own restart is written here when the container is made, so
killing the agent at any moment loses nothing. The words are kubelet's; `BACK_OFF` and `RESOURCES` are ours.

Source: k8s.io/kubernetes pkg/kubelet/kuberuntime/labels.go, pkg/kubelet/types/labels.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from havre.api.meta import Obj, annotations_of, labels_of

POD_NAME: Final = "io.kubernetes.pod.name"
POD_NAMESPACE: Final = "io.kubernetes.pod.namespace"
POD_UID: Final = "io.kubernetes.pod.uid"
CONTAINER_NAME: Final = "io.kubernetes.container.name"

HASH: Final = "io.kubernetes.container.hash"
RESTART_COUNT: Final = "io.kubernetes.container.restartCount"
MESSAGE_PATH: Final = "io.kubernetes.container.terminationMessagePath"
MESSAGE_POLICY: Final = "io.kubernetes.container.terminationMessagePolicy"
PRE_STOP: Final = "io.kubernetes.container.preStopHandler"
PORTS: Final = "io.kubernetes.container.ports"
DELETION_GRACE: Final = "io.kubernetes.pod.deletionGracePeriod"
TERMINATION_GRACE: Final = "io.kubernetes.pod.terminationGracePeriod"
BACK_OFF: Final = "havre.dev/back-off"  # seconds to wait after this container's end before its successor
RESOURCES: Final = "havre.dev/resources"  # what the container was given when it was made; see `resources_text`

_FNV_OFFSET, _FNV_PRIME = 0x811C9DC5, 0x01000193


def identity(pod: Obj) -> dict[str, str]:
    meta = pod["metadata"]
    return {POD_NAME: meta["name"], POD_NAMESPACE: meta["namespace"], POD_UID: meta["uid"]}


def sandbox_labels(pod: Obj) -> dict[str, str]:
    return {**labels_of(pod), **identity(pod)}


def sandbox_annotations(pod: Obj) -> dict[str, str]:
    return dict(annotations_of(pod))


def container_labels(pod: Obj, container: Obj) -> dict[str, str]:
    return {**identity(pod), CONTAINER_NAME: container["name"]}


def container_annotations(pod: Obj, container: Obj, restart_count: int, back_off: float) -> dict[str, str]:
    """Everything that stopping, restarting and reporting the container will need, whoever does it."""
    out = {
        HASH: container_hash(container),
        RESTART_COUNT: str(restart_count),
        MESSAGE_PATH: container.get("terminationMessagePath") or "",
        MESSAGE_POLICY: container.get("terminationMessagePolicy") or "",
        BACK_OFF: f"{back_off:g}",
        RESOURCES: resources_text(container),
    }
    deletion = pod["metadata"].get("deletionGracePeriodSeconds")
    termination = pod["spec"].get("terminationGracePeriodSeconds")
    if deletion is not None:
        out[DELETION_GRACE] = str(deletion)
    if termination is not None:
        out[TERMINATION_GRACE] = str(termination)
    pre_stop = (container.get("lifecycle") or {}).get("preStop")
    if pre_stop:
        out[PRE_STOP] = orjson.dumps(pre_stop).decode()
    if container.get("ports"):
        out[PORTS] = orjson.dumps(container["ports"]).decode()
    return out


def container_hash(container: Obj) -> str:
    """Changes exactly when a running container must be replaced: with its image (or name).

    FNV-1a of 32 bits, in hex; only this agent compares it.
    """
    picked = orjson.dumps({"image": container.get("image") or "", "name": container["name"]})
    value = _FNV_OFFSET
    for byte in picked:
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return f"{value:x}"


def resources_text(container: Obj) -> str:
    """Equal for equal resources."""
    return orjson.dumps(container.get("resources") or {}, option=orjson.OPT_SORT_KEYS).decode()


def number(annotations: Mapping[str, str], key: str, default: int = 0) -> int:
    """An annotation that somebody may have written badly."""
    try:
        return int(annotations.get(key, default))
    except ValueError:
        return default


def seconds(annotations: Mapping[str, str], key: str) -> float:
    try:
        value = float(annotations.get(key, 0.0))
    except ValueError:
        return 0.0
    return value if 0.0 <= value < 1e9 else 0.0
