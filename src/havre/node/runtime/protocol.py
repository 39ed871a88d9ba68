"""What the runtime asks of the pod network, and how a pod is named to it.

The network part satisfies `Network` without importing this module: the shapes are structural. Without a network a
sandbox has its loopback interface only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["Network", "PodIdentity", "PortMapping"]


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """Whose sandbox it is."""

    uid: str
    namespace: str
    name: str
    sandbox: str  # the sandbox id
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A port of the host that leads to the pod."""

    protocol: str  # "TCP", "UDP" or "SCTP"
    container_port: int
    host_port: int
    host_ip: str = ""  # "" is every address of the host


class Network(Protocol):
    """Connects sandboxes; every method may be called again after a crash."""

    async def attach(self, pod: PodIdentity, netns: Path, ports: Sequence[PortMapping]) -> str:
        """Give the namespace at `netns` an interface and return its IPv4 address."""

    async def detach(self, sandbox: str) -> None:
        """Take away what `attach` gave; idempotent, also for a sandbox never seen."""

    def ready(self) -> bool:
        """New sandboxes can be attached."""

    async def restore(self, sandboxes: Mapping[str, Path]) -> None:
        """After a restart: sandbox id → network namespace of all that live; everything else is released."""
