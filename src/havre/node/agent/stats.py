"""What pods and the machine use: read from CRI and /proc, shown as a kubelet's summary.

`Observer.look()` gives one reading of everything; `summary` makes of it what `/stats/summary` answers, and
`exposition` the metrics.

Source: k8s.io/kubelet, pkg/apis/stats/v1alpha1/types.go; k8s.io/cri-api, ListPodSandboxStats; proc(5).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from havre.api.meta import Obj
from havre.node.agent import names
from havre.node.agent.cri import QUICK, RuntimeFault
from havre.wire.grpc.channel import Channel
from havre.wire.grpc.errors import GrpcError
from havre.wire.grpc.messages import messages

_RUNTIME: Final = "runtime.v1.RuntimeService"
_IMAGES: Final = "runtime.v1.ImageService"
_NANO: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a container, a pod or the machine; None is not known. Times in nanoseconds since the epoch."""

    time: int = 0
    cpu: int | None = None  # nanoseconds of a CPU so far
    nano_cores: int | None = None  # of a CPU now, in billionths
    working_set: int | None = None  # bytes; below too
    memory: int | None = None
    rss: int | None = None
    available: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    swap: int | None = None
    swap_available: int | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    """Of a file system, or of a part of one when only `used` is known."""

    used: int | None = None
    capacity: int | None = None
    available: int | None = None
    inodes: int | None = None
    inodes_free: int | None = None
    inodes_used: int | None = None


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    rx_bytes: int = 0
    rx_errors: int = 0
    tx_bytes: int = 0
    tx_errors: int = 0


@dataclass(frozen=True, slots=True)
class ContainerUse:
    id: str
    name: str
    usage: Usage
    layer: Disk  # what it wrote into its file system
    log_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PodUse:
    uid: str
    namespace: str
    name: str
    sandbox: str
    usage: Usage
    interfaces: tuple[Interface, ...] = ()  # its default one first
    processes: int | None = None
    containers: tuple[ContainerUse, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """The whole machine."""

    usage: Usage
    disk: Disk
    images: Disk
    interfaces: tuple[Interface, ...]
    booted: float  # seconds since the epoch
    cpus: int
    memory_total: int
    max_pid: int
    processes: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything at one moment."""

    time: float  # seconds since the epoch
    node: Machine
    pods: tuple[PodUse, ...]


class Observer:
    """Reads; keeps only the machine's CPU time of the last look, for the rate between two."""

    def __init__(self, channel: Channel, data: Path, *, proc: Path = Path("/proc")) -> None:
        self._channel = channel
        self._data = data  # whose file system is the node's disk
        self._proc = proc
        self._m: Any = messages("runtime.v1")
        self._before: Usage | None = None

    async def look(self) -> Reading:
        """Raises RuntimeFault."""
        listed = await self._call(_RUNTIME, "ListPodSandboxStats", self._m.ListPodSandboxStatsRequest())
        images = await self._call(_IMAGES, "ImageFsInfo", self._m.ImageFsInfoRequest())
        machine, self._before = await asyncio.to_thread(
            machine_use, self._proc, self._data, _images(images), self._before
        )
        return Reading(time.time(), machine, tuple(pod_use(stats) for stats in listed.stats))

    async def _call(self, service: str, method: str, request: Any) -> Any:
        try:
            return await self._channel.unary(service, method, request, timeout=QUICK)
        except GrpcError as error:
            raise RuntimeFault(error.status.name, error.message) from error


# CRI


def pod_use(stats: Any) -> PodUse:
    """Of a CRI PodSandboxStats."""
    attributes, linux = stats.attributes, stats.linux
    network = linux.network
    listed = ([network.default_interface] if network.HasField("default_interface") else []) + list(network.interfaces)
    return PodUse(
        uid=attributes.metadata.uid,
        namespace=attributes.metadata.namespace,
        name=attributes.metadata.name,
        sandbox=attributes.id,
        usage=_usage(linux),
        interfaces=tuple(_interface(item) for item in listed),
        processes=_value(linux.process, "process_count"),
        containers=tuple(_container(item) for item in linux.containers),
    )


def _container(stats: Any) -> ContainerUse:
    attributes, layer = stats.attributes, stats.writable_layer
    return ContainerUse(
        id=attributes.id,
        name=attributes.labels.get(names.CONTAINER_NAME, attributes.metadata.name),
        usage=_usage(stats),
        layer=Disk(used=_value(layer, "used_bytes"), inodes_used=_value(layer, "inodes_used")),
    )


def _usage(stats: Any) -> Usage:
    cpu, memory = stats.cpu, stats.memory
    swap = stats.swap if "swap" in stats.DESCRIPTOR.fields_by_name else None
    return Usage(
        time=cpu.timestamp or memory.timestamp,
        cpu=_value(cpu, "usage_core_nano_seconds"),
        nano_cores=_value(cpu, "usage_nano_cores"),
        working_set=_value(memory, "working_set_bytes"),
        memory=_value(memory, "usage_bytes"),
        rss=_value(memory, "rss_bytes"),
        available=_value(memory, "available_bytes"),
        page_faults=_value(memory, "page_faults"),
        major_page_faults=_value(memory, "major_page_faults"),
        swap=_value(swap, "swap_usage_bytes") if swap is not None else None,
        swap_available=_value(swap, "swap_available_bytes") if swap is not None else None,
    )


def _interface(item: Any) -> Interface:
    counts = [_value(item, name) or 0 for name in ("rx_bytes", "rx_errors", "tx_bytes", "tx_errors")]
    return Interface(item.name, *counts)


def _value(message: Any, name: str) -> int | None:
    return int(getattr(message, name).value) if message.HasField(name) else None


def _images(reply: Any) -> Disk:
    found = reply.image_filesystems
    used = [value for item in found if (value := _value(item, "used_bytes")) is not None]
    return Disk(used=sum(used)) if used else Disk()


# /proc


def machine_use(proc: Path, data: Path, images: Disk, before: Usage | None) -> tuple[Machine, Usage]:
    """The machine, and its usage to be given as `before` the next time. Blocking."""
    now = time.time_ns()
    stat, memory = _stat(proc), _fields(proc / "meminfo")
    total, free = memory["MemTotal"], memory["MemFree"]
    used = total - free
    # as a kubelet sees its root cgroup: what is used, without the files that could be dropped at once
    working = max(0, used - memory["Inactive(file)"])
    rate = None
    if before is not None and before.cpu is not None and now > before.time:
        rate = max(0, stat.cpu - before.cpu) * _NANO // (now - before.time)
    usage = Usage(
        time=now,
        cpu=stat.cpu,
        nano_cores=rate,
        working_set=working,
        memory=used,
        rss=memory["AnonPages"],
        available=max(0, total - working),
        page_faults=_vmstat(proc).get("pgfault"),
        major_page_faults=_vmstat(proc).get("pgmajfault"),
        swap=memory["SwapTotal"] - memory["SwapFree"],
        swap_available=memory["SwapFree"],
    )
    disk = disk_use(data)
    machine = Machine(
        usage=usage,
        disk=disk,
        images=Disk(images.used, disk.capacity, disk.available, disk.inodes, disk.inodes_free),
        interfaces=_interfaces(proc),
        booted=stat.booted,
        cpus=os.cpu_count() or 1,
        memory_total=total,
        max_pid=int((proc / "sys/kernel/pid_max").read_text()),
        processes=int((proc / "loadavg").read_text().split()[3].partition("/")[2]),
    )
    return machine, usage


def disk_use(path: Path) -> Disk:
    found = os.statvfs(path)
    size = found.f_frsize
    return Disk(
        used=(found.f_blocks - found.f_bfree) * size,
        capacity=found.f_blocks * size,
        available=found.f_bavail * size,
        inodes=found.f_files,
        inodes_free=found.f_ffree,
        inodes_used=found.f_files - found.f_ffree,
    )


@dataclass(frozen=True, slots=True)
class _Stat:
    cpu: int  # nanoseconds
    booted: float


def _stat(proc: Path) -> _Stat:
    """`cpu user nice system idle iowait irq softirq steal …` in clock ticks; guest time is in user time already."""
    lines = dict(line.partition(" ")[::2] for line in (proc / "stat").read_text().splitlines())
    user, nice, system, _, _, irq, softirq, steal = (int(n) for n in lines["cpu"].split()[:8])
    ticks = user + nice + system + irq + softirq + steal
    return _Stat(ticks * _NANO // os.sysconf("SC_CLK_TCK"), float(lines["btime"]))


def _fields(path: Path) -> dict[str, int]:
    """`Name:   12 kB` to bytes."""
    found = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        number, _, unit = rest.strip().partition(" ")
        found[name] = int(number) * (1024 if unit == "kB" else 1)
    return found


def _vmstat(proc: Path) -> dict[str, int]:
    return {name: int(value) for name, value in map(str.split, (proc / "vmstat").read_text().splitlines())}


def _interfaces(proc: Path) -> tuple[Interface, ...]:
    """Those that carry the machine's own traffic: `face: bytes packets errs … (8 received) bytes packets errs …`."""
    found = []
    for line in (proc / "net/dev").read_text().splitlines()[2:]:
        name, _, rest = line.partition(":")
        counts = [int(n) for n in rest.split()]
        if name.strip() != "lo":
            found.append(Interface(name.strip(), counts[0], counts[2], counts[8], counts[10]))
    return tuple(found)


# the summary


def summary(reading: Reading, node: str, pods: Sequence[Obj], *, only_cpu_and_memory: bool = False) -> Obj:
    """As `/stats/summary` answers; `pods` are the objects of this node, for the times they started."""
    starts = {pod["metadata"]["uid"]: (pod.get("status") or {}).get("startTime") for pod in pods}
    shown = [
        _pod(use, reading.time, starts.get(use.uid), only_cpu_and_memory, _starts(pods, use.uid))
        for use in reading.pods
    ]
    machine = reading.node
    answer: Obj = {
        "nodeName": node,
        "startTime": _rfc3339(machine.booted),
        **_cpu_and_memory(machine.usage, reading.time),
    }
    if not only_cpu_and_memory:
        answer["network"] = _network(machine.interfaces, reading.time)
        answer["fs"] = _disk(machine.disk, reading.time)
        answer["runtime"] = {
            "imageFs": _disk(machine.images, reading.time),
            "containerFs": _disk(machine.disk, reading.time),
        }
        answer["rlimit"] = {"time": _rfc3339(reading.time), "maxpid": machine.max_pid, "curproc": machine.processes}
    return {"node": answer, "pods": shown}


def _starts(pods: Sequence[Obj], uid: str) -> dict[str, str]:
    """When the containers of a pod started, by name."""
    status: Obj = next((p.get("status") or {} for p in pods if p["metadata"]["uid"] == uid), {})
    every = (s for kind in ("containerStatuses", "initContainerStatuses") for s in status.get(kind) or ())
    running = ((s["name"], (s.get("state") or {}).get("running") or {}) for s in every)
    return {name: state["startedAt"] for name, state in running if state.get("startedAt")}


def _pod(use: PodUse, now: float, start: str | None, only_cpu_and_memory: bool, starts: dict[str, str]) -> Obj:
    shown: Obj = {
        "podRef": {"name": use.name, "namespace": use.namespace, "uid": use.uid},
        "startTime": start or _rfc3339(now),
        "containers": [_container_shown(c, now, starts.get(c.name), only_cpu_and_memory) for c in use.containers],
        **_cpu_and_memory(use.usage, now),
    }
    if only_cpu_and_memory:
        return shown
    if use.interfaces:
        shown["network"] = _network(use.interfaces, now)
    layers = [c.layer.used or 0 for c in use.containers]
    shown["ephemeral-storage"] = {
        "time": _rfc3339(now),
        "usedBytes": sum(layers) + sum(c.log_bytes for c in use.containers),
    }
    if use.processes is not None:
        shown["process_stats"] = {"process_count": use.processes}
    return shown


def _container_shown(use: ContainerUse, now: float, start: str | None, only_cpu_and_memory: bool) -> Obj:
    shown: Obj = {"name": use.name, "startTime": start or _rfc3339(now), **_cpu_and_memory(use.usage, now)}
    if not only_cpu_and_memory:
        shown["rootfs"] = _disk(use.layer, now)
    return shown


def _cpu_and_memory(usage: Usage, now: float) -> Obj:
    at = _rfc3339(usage.time / _NANO if usage.time else now)
    cpu = {"usageNanoCores": usage.nano_cores, "usageCoreNanoSeconds": usage.cpu}
    memory = {
        "availableBytes": usage.available,
        "usageBytes": usage.memory,
        "workingSetBytes": usage.working_set,
        "rssBytes": usage.rss,
        "pageFaults": usage.page_faults,
        "majorPageFaults": usage.major_page_faults,
    }
    swap = {"swapAvailableBytes": usage.swap_available, "swapUsageBytes": usage.swap}
    parts = {"cpu": cpu, "memory": memory, "swap": swap}
    return {name: {"time": at, **known} for name, values in parts.items() if (known := _known(values))}


def _disk(disk: Disk, now: float) -> Obj:
    values = {
        "availableBytes": disk.available,
        "capacityBytes": disk.capacity,
        "usedBytes": disk.used,
        "inodesFree": disk.inodes_free,
        "inodes": disk.inodes,
        "inodesUsed": disk.inodes_used,
    }
    return {"time": _rfc3339(now), **_known(values)}


def _network(interfaces: Sequence[Interface], now: float) -> Obj:
    shown = [_interface_shown(item) for item in interfaces]
    return {"time": _rfc3339(now), **(shown[0] if shown else {"name": ""}), "interfaces": shown}


def _interface_shown(item: Interface) -> Obj:
    return {
        "name": item.name,
        "rxBytes": item.rx_bytes,
        "rxErrors": item.rx_errors,
        "txBytes": item.tx_bytes,
        "txErrors": item.tx_errors,
    }


def _known(values: dict[str, int | None]) -> Obj:
    return {name: value for name, value in values.items() if value is not None}


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
