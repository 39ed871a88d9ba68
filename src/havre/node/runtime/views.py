"""Sandboxes and containers as the messages of CRI, and which of them a filter means. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from havre.node.runtime.containers import Container
from havre.node.runtime.records import ContainerState
from havre.node.runtime.sandboxes import Sandbox
from havre.wire.grpc.messages import messages

__all__ = [
    "container",
    "container_attributes",
    "container_status",
    "matches_container",
    "matches_sandbox",
    "sandbox",
    "sandbox_attributes",
    "sandbox_status",
]

cri = messages("runtime.v1")

_STATES = {
    ContainerState.CREATED: cri.CONTAINER_CREATED,
    ContainerState.RUNNING: cri.CONTAINER_RUNNING,
    ContainerState.EXITED: cri.CONTAINER_EXITED,
}


# Sandboxes


def _sandbox_state(found: Sandbox) -> int:
    return int(cri.SANDBOX_READY if found.record.ready else cri.SANDBOX_NOTREADY)


def sandbox(found: Sandbox) -> Any:
    """PodSandbox, for lists."""
    record, config = found.record, found.record.config
    return cri.PodSandbox(
        id=record.id,
        metadata=config.metadata,
        state=_sandbox_state(found),
        created_at=record.created_at,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=record.handler,
    )


def sandbox_status(found: Sandbox) -> Any:
    """PodSandboxStatus."""
    record, config = found.record, found.record.config
    options = cri.NamespaceOption(network=found.options.network, pid=found.options.pid, ipc=found.options.ipc)
    return cri.PodSandboxStatus(
        id=record.id,
        metadata=config.metadata,
        state=_sandbox_state(found),
        created_at=record.created_at,
        network=cri.PodSandboxNetworkStatus(ip=record.ip if record.ready else ""),
        linux=cri.LinuxPodSandboxStatus(namespaces=cri.Namespace(options=options)),
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=record.handler,
    )


def sandbox_attributes(found: Sandbox) -> Any:
    """PodSandboxAttributes, for statistics."""
    config = found.record.config
    return cri.PodSandboxAttributes(
        id=found.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
    )


def _selected(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(key in labels and labels[key] == value for key, value in selector.items())


def _names_a_state(wanted: Any) -> bool:
    """Filters of statistics have no such field."""
    return "state" in wanted.DESCRIPTOR.fields_by_name and bool(wanted.HasField("state"))


def matches_sandbox(found: Sandbox, wanted: Any) -> bool:
    """`wanted` is a PodSandboxFilter or a PodSandboxStatsFilter; an empty one means all."""
    if wanted.id and not found.id.startswith(wanted.id):
        return False
    if _names_a_state(wanted) and wanted.state.state != _sandbox_state(found):
        return False
    return _selected(wanted.label_selector, found.record.config.labels)


# Containers


def container(found: Container) -> Any:
    """Container, for lists."""
    record, config = found.record, found.record.config
    return cri.Container(
        id=record.id,
        pod_sandbox_id=record.sandbox,
        metadata=config.metadata,
        image=config.image,
        image_ref=record.image,
        image_id=record.image,
        state=_STATES[record.state],
        created_at=record.created_at,
        labels=config.labels,
        annotations=config.annotations,
    )


def container_status(found: Container) -> Any:
    """ContainerStatus."""
    record, config = found.record, found.record.config
    user = cri.LinuxContainerUser(uid=record.user.uid, gid=record.user.gid, supplemental_groups=record.user.groups)
    return cri.ContainerStatus(
        id=record.id,
        metadata=config.metadata,
        state=_STATES[record.state],
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        exit_code=record.exit_code,
        image=config.image,
        image_ref=record.image_reference,
        image_id=record.image,
        reason=record.reason,
        message=record.message,
        labels=config.labels,
        annotations=config.annotations,
        mounts=config.mounts,
        log_path=record.log,
        resources=cri.ContainerResources(linux=config.linux.resources),
        user=cri.ContainerUser(linux=user),
        stop_signal=config.stop_signal,
    )


def container_attributes(found: Container) -> Any:
    """ContainerAttributes, for statistics."""
    config = found.record.config
    return cri.ContainerAttributes(
        id=found.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
    )


def matches_container(found: Container, wanted: Any) -> bool:
    """`wanted` is a ContainerFilter or a ContainerStatsFilter; an empty one means all."""
    if wanted.id and not found.id.startswith(wanted.id):
        return False
    if wanted.pod_sandbox_id and not found.record.sandbox.startswith(wanted.pod_sandbox_id):
        return False
    if _names_a_state(wanted) and wanted.state.state != _STATES[found.record.state]:
        return False
    return _selected(wanted.label_selector, found.record.config.labels)


def event(found: Container, kind: int, pod: Sandbox | None, siblings: list[Container]) -> Any:
    """ContainerEventResponse."""
    return cri.ContainerEventResponse(
        container_id=found.id,
        container_event_type=kind,
        created_at=time.time_ns(),
        pod_sandbox_status=sandbox_status(pod) if pod is not None else None,
        containers_statuses=[container_status(sibling) for sibling in siblings],
    )
