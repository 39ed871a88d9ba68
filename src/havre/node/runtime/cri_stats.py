"""The statistics of CRI: what containers and sandboxes use, in the messages that the agent's summaries are made of.

Source: k8s.io/cri-api v0.34, ContainerStats and PodSandboxStats.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from havre.node.runtime import netns, views
from havre.node.runtime.containers import Container, Containers
from havre.node.runtime.creation import Snapshots
from havre.node.runtime.host import Host
from havre.node.runtime.sandboxes import Sandbox, Sandboxes
from havre.node.runtime.stats import Rates, Reading, read
from havre.wire.grpc.messages import messages

__all__ = ["Stats", "filesystem"]

cri = messages("runtime.v1")

LAYER_SECONDS = 10.0  # a writable layer is walked at most this often: it takes 5 ms per 1,000 files
_DEFAULT_INTERFACE = "eth0"


class Stats:
    """Handlers of the four methods; `methods()` are theirs by name."""

    def __init__(self, host: Host, sandboxes: Sandboxes, containers: Containers, snapshots: Snapshots) -> None:
        self._host = host
        self._sandboxes = sandboxes
        self._containers = containers
        self._snapshots = snapshots
        self._rates = Rates()
        self._layers: dict[str, tuple[float, Any]] = {}  # container → when, FilesystemUsage

    def methods(self) -> dict[str, Callable[[Any], Awaitable[Any]]]:
        return {
            "ContainerStats": self.container_stats,
            "ListContainerStats": self.list_container_stats,
            "PodSandboxStats": self.pod_sandbox_stats,
            "ListPodSandboxStats": self.list_pod_sandbox_stats,
        }

    def forget(self, id_: str) -> None:
        """A container is gone."""
        self._rates.forget(id_)
        self._layers.pop(id_, None)

    async def container_stats(self, request: Any) -> Any:
        container = self._containers.get(request.container_id)
        return cri.ContainerStatsResponse(stats=await self._of_container(container))

    async def list_container_stats(self, request: Any) -> Any:
        found = [c for c in self._containers if c.running and views.matches_container(c, request.filter)]
        return cri.ListContainerStatsResponse(stats=await self._of_containers(found))

    async def pod_sandbox_stats(self, request: Any) -> Any:
        return cri.PodSandboxStatsResponse(stats=await self._of_sandbox(self._sandboxes.get(request.pod_sandbox_id)))

    async def list_pod_sandbox_stats(self, request: Any) -> Any:
        found = [s for s in self._sandboxes if s.record.ready and views.matches_sandbox(s, request.filter)]
        return cri.ListPodSandboxStatsResponse(stats=[await self._of_sandbox(sandbox) for sandbox in found])

    async def _of_containers(self, containers: Sequence[Container]) -> list[Any]:
        return list(await asyncio.gather(*(self._of_container(container) for container in containers)))

    async def _of_container(self, container: Container) -> Any:
        reading = await self._host.blocking(read, self._host.cgroups, container.record.cgroup)
        stats = cri.ContainerStats(
            attributes=views.container_attributes(container), writable_layer=await self._layer(container.id)
        )
        if reading is not None:
            rate = self._rates.nano_cores(container.id, reading)
            stats.cpu.CopyFrom(_cpu(reading, rate))
            stats.memory.CopyFrom(_memory(reading))
            stats.swap.CopyFrom(_swap(reading))
            stats.io.CopyFrom(cri.IoUsage(timestamp=reading.at, psi=_pressure(reading, "io")))
        return stats

    async def _layer(self, id_: str) -> Any:
        """What the container wrote; walked in a thread, and kept for a while."""
        now = time.monotonic()
        at, known = self._layers.get(id_, (0.0, None))
        if known is not None and now - at < LAYER_SECONDS:
            return known
        usage = await self._host.blocking(self._snapshots.usage, id_)
        self._layers[id_] = now, filesystem(str(self._host.config.data), usage.bytes, usage.inodes)
        return self._layers[id_][1]

    async def written(self) -> tuple[int, int]:
        """Bytes and inodes of the writable layers of all containers."""
        layers = await asyncio.gather(*(self._layer(container.id) for container in self._containers))
        return sum(layer.used_bytes.value for layer in layers), sum(layer.inodes_used.value for layer in layers)

    async def _of_sandbox(self, sandbox: Sandbox) -> Any:
        containers = [container for container in self._containers.of(sandbox.id) if container.running]
        reading = await self._host.blocking(read, self._host.cgroups, sandbox.record.cgroup)
        linux = cri.LinuxPodSandboxStats(containers=await self._of_containers(containers))
        if sandbox.record.ready and not sandbox.host_network:
            linux.network.CopyFrom(await self._network(sandbox))
        if reading is not None:
            linux.cpu.CopyFrom(_cpu(reading, self._rates.nano_cores(sandbox.id, reading)))
            linux.memory.CopyFrom(_memory(reading))
            linux.io.CopyFrom(cri.IoUsage(timestamp=reading.at, psi=_pressure(reading, "io")))
            linux.process.CopyFrom(cri.ProcessUsage(timestamp=reading.at, process_count=_value(reading.processes)))
        return cri.PodSandboxStats(attributes=views.sandbox_attributes(sandbox), linux=linux)

    async def _network(self, sandbox: Sandbox) -> Any:
        found = [
            cri.NetworkInterfaceUsage(
                name=interface.name,
                rx_bytes=_value(interface.rx_bytes),
                rx_errors=_value(interface.rx_errors),
                tx_bytes=_value(interface.tx_bytes),
                tx_errors=_value(interface.tx_errors),
            )
            for interface in await self._host.blocking(netns.interfaces, self._sandboxes.netns(sandbox))
        ]
        default = next((usage for usage in found if usage.name == _DEFAULT_INTERFACE), None)
        rest = [usage for usage in found if usage is not default]
        return cri.NetworkUsage(timestamp=time.time_ns(), default_interface=default, interfaces=rest)


def _value(number: int) -> Any:
    return cri.UInt64Value(value=number)


def _cpu(reading: Reading, rate: int) -> Any:
    return cri.CpuUsage(
        timestamp=reading.at,
        usage_core_nano_seconds=_value(reading.cpu),
        usage_nano_cores=_value(rate),
        psi=_pressure(reading, "cpu"),
    )


def _memory(reading: Reading) -> Any:
    return cri.MemoryUsage(
        timestamp=reading.at,
        working_set_bytes=_value(reading.working_set),
        available_bytes=_value(max(0, reading.limit - reading.working_set)) if reading.limit else None,
        usage_bytes=_value(reading.memory),
        rss_bytes=_value(reading.rss),
        page_faults=_value(reading.page_faults),
        major_page_faults=_value(reading.major_page_faults),
        psi=_pressure(reading, "memory"),
    )


def _swap(reading: Reading) -> Any:
    return cri.SwapUsage(timestamp=reading.at, swap_usage_bytes=_value(reading.swap))


def _pressure(reading: Reading, kind: str) -> Any:
    lines = reading.pressure.get(kind)
    if not lines:
        return None
    found = {
        name: cri.PsiData(
            Total=line.total * 1000,  # nanoseconds
            Avg10=line.average10,
            Avg60=line.average60,
            Avg300=line.average300,
        )
        for name, line in lines.items()
    }
    return cri.PsiStats(Full=found.get("full"), Some=found.get("some"))


def filesystem(mountpoint: str, used: int, inodes: int) -> Any:
    """FilesystemUsage."""
    return cri.FilesystemUsage(
        timestamp=time.time_ns(),
        fs_id=cri.FilesystemIdentifier(mountpoint=mountpoint),
        used_bytes=_value(used),
        inodes_used=_value(inodes),
    )
