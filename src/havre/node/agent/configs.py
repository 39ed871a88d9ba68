"""The configurations of sandboxes and containers as CRI takes them, from the pod. Pure.

Source: k8s.io/kubernetes pkg/kubelet/kuberuntime (generatePodSandboxConfig, generateContainerConfig).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from havre.api.meta import Obj
from havre.node.agent import names
from havre.node.agent.cri import Image
from havre.node.agent.resources import container_resources
from havre.node.agent.security import container_context, sandbox_context
from havre.node.agent.specs import app_containers, init_containers, is_sidecar, on_host_network

_PROTOCOLS: Final = {"TCP": 0, "UDP": 1, "SCTP": 2}
_REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")


@dataclass(frozen=True, slots=True)
class Dns:
    """What a pod's resolv.conf says."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def log_directory(root: Path, pod: Obj) -> Path:
    meta = pod["metadata"]
    return root / f"{meta['namespace']}_{meta['name']}_{meta['uid']}"


def sandbox_config(pod: Obj, attempt: int, *, logs: Path, cgroup: str, hostname: str, dns: Dns) -> Obj:
    """PodSandboxConfig."""
    meta = pod["metadata"]
    shared = pod["spec"].get("securityContext") or {}
    return {
        "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"], "attempt": attempt},
        "labels": names.sandbox_labels(pod),
        "annotations": names.sandbox_annotations(pod),
        "hostname": "" if on_host_network(pod) else hostname,
        "log_directory": str(log_directory(logs, pod)),
        "dns_config": {"servers": [*dns.servers], "searches": [*dns.searches], "options": [*dns.options]},
        "port_mappings": _port_mappings(pod),
        "linux": {
            "cgroup_parent": cgroup,
            "security_context": sandbox_context(pod),
            "sysctls": {s["name"].replace("/", "."): s["value"] for s in shared.get("sysctls") or ()},
        },
    }


def _port_mappings(pod: Obj) -> list[Obj]:
    """Only ports that ask for one of the host; on the host's network they are the host's already."""
    if on_host_network(pod):
        return []
    sidecars = [c for c in init_containers(pod) if is_sidecar(c)]
    return [
        {
            "protocol": _PROTOCOLS[port.get("protocol") or "TCP"],
            "container_port": port["containerPort"],
            "host_port": port["hostPort"],
            "host_ip": port.get("hostIP") or "",
        }
        for container in (*app_containers(pod), *sidecars)
        for port in container.get("ports") or ()
        if port.get("hostPort")
    ]


@dataclass(frozen=True, slots=True)
class Given:
    """What a container is made of beside its spec."""

    image: str  # the reference that the runtime knows
    looked: Image | None
    restart_count: int
    back_off: float
    memory_capacity: int
    profiles: Path  # seccomp profiles of Localhost
    environment: Sequence[tuple[str, str]] = ()
    mounts: Sequence[Obj] = ()
    devices: Sequence[Obj] = ()
    target: str = ""
    group_oom: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)


def container_config(pod: Obj, container: Obj, given: Given) -> Obj:
    """ContainerConfig. Raises ConfigError."""
    known = dict(given.environment)
    out: Obj = {
        "metadata": {"name": container["name"], "attempt": given.restart_count},
        "image": {"image": given.image, "user_specified_image": container.get("image", "")},
        "command": [expanded(word, known) for word in container.get("command") or ()],
        "args": [expanded(word, known) for word in container.get("args") or ()],
        "working_dir": container.get("workingDir") or "",
        "envs": [{"key": key, "value": value} for key, value in given.environment],
        "mounts": [*given.mounts],
        "devices": [*given.devices],
        "labels": names.container_labels(pod, container),
        "annotations": {
            **given.annotations,
            **names.container_annotations(pod, container, given.restart_count, given.back_off),
        },
        "log_path": log_path(container["name"], given.restart_count),
        "stdin": bool(container.get("stdin")),
        "stdin_once": bool(container.get("stdinOnce")),
        "tty": bool(container.get("tty")),
        "linux": {
            "resources": container_resources(pod, container, given.memory_capacity, group_oom=given.group_oom),
            "security_context": container_context(pod, container, given.looked, given.profiles, given.target),
        },
    }
    signal = (container.get("lifecycle") or {}).get("stopSignal")
    return {**out, "stop_signal": signal} if signal else out


def log_path(name: str, restart_count: int) -> str:
    """Below the pod's log directory."""
    return f"{name}/{restart_count}.log"


def expanded(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` replaced by what is known, `$$` by `$`; a name that is not known stays as it is."""

    def one(found: re.Match[str]) -> str:
        if found[1] == "$":
            return "$"
        return known.get(found[2], found[0])

    return _REFERENCE.sub(one, text)
