"""This machine as the API knows it: the Node object, kept true, and its Lease, renewed every ten seconds.

The status is looked at every ten seconds and written when it changed, else every five minutes; the Lease is the sign of
life in between. What people or controllers put on the Node (labels, taints, `unschedulable`) is left alone.

Source: k8s.io/kubernetes pkg/kubelet/kubelet_node_status.go, pkg/kubelet/nodestatus/setters.go;
k8s.io/component-helpers apimachinery/lease.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from havre.api.errors import AlreadyExists, ApiError, Conflict
from havre.api.meta import GVK, Obj, rfc3339, rfc3339_micro
from havre.kit.quantity import parse
from havre.machinery.api import Api, Ref
from havre.node.agent.cri import Image, Runtime, RuntimeFault, RuntimeState

log = logging.getLogger(__name__)

NODE: Final = GVK("", "v1", "Node")
LEASE: Final = GVK("coordination.k8s.io", "v1", "Lease")
LEASES: Final = "kube-node-lease"
MANAGER: Final = "kubelet"
LOOK: Final = 10.0  # seconds between looks at the machine, and between renewals of the Lease
REPORT: Final = 300.0  # seconds after which an unchanged status is written again
LEASE_SECONDS: Final = 40
IMAGES: Final = 50  # shown in the status, the largest: an object stays small
EVICTION_MEMORY: Final = 100 << 20  # bytes that pods are not promised; kubelet's default
DISK_PRESSURE: Final = 0.10  # share of the disk that must be free …
DISK_ENOUGH: Final = 2 << 30  # … unless so many bytes are: a tenth of a large disk is not pressure on one machine
PID_PRESSURE: Final = 0.10


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine is and has, read once."""

    cpus: int
    memory: int  # bytes
    disk: int  # bytes of the file system of our data
    name: str  # host name
    architecture: str  # as Go calls it
    kernel: str
    os_image: str
    machine_id: str
    boot_id: str
    system_uuid: str


@dataclass(frozen=True, slots=True)
class Pressure:
    """What is scarce now; "" is fine."""

    memory: bool = False
    disk: bool = False
    pids: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """How the node presents itself."""

    name: str
    ip: str
    port: int = 10250
    version: str = "v1.34.4+havre"
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Obj] = ()
    pod_cidr: str = ""
    max_pods: int = 110
    reserved: Mapping[str, str] = field(default_factory=dict)  # of allocatable, kept for the system


_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64", "s390x": "s390x"}


def look_at_machine(data: Path) -> Machine:
    """Blocks; call it in a thread."""
    disk = os.statvfs(data)
    uname = os.uname()
    return Machine(
        cpus=len(os.sched_getaffinity(0)),
        memory=_meminfo()["MemTotal"],
        disk=disk.f_blocks * disk.f_frsize,
        name=uname.nodename,
        architecture=_ARCHITECTURES.get(platform.machine(), platform.machine()),
        kernel=uname.release,
        os_image=_os_name(),
        machine_id=_line("/etc/machine-id"),
        boot_id=_line("/proc/sys/kernel/random/boot_id"),
        system_uuid=_line("/sys/class/dmi/id/product_uuid") or _line("/etc/machine-id"),
    )


def look_at_pressure(data: Path) -> Pressure:
    """Blocks; call it in a thread."""
    disk = os.statvfs(data)
    free = disk.f_bavail * disk.f_frsize
    tight = disk.f_bavail < DISK_PRESSURE * disk.f_blocks and free < DISK_ENOUGH
    inodes = bool(disk.f_files) and disk.f_favail < 0.05 * disk.f_files
    running, limit = _line("/proc/loadavg").split()[3].partition("/")[2], _line("/proc/sys/kernel/pid_max")
    return Pressure(
        memory=_meminfo()["MemAvailable"] < EVICTION_MEMORY,
        disk=tight or inodes,
        pids=int(running) > (1 - PID_PRESSURE) * int(limit or 1 << 22),
    )


def _line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _meminfo() -> dict[str, int]:
    """Bytes by name."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) == 3}


def _os_name() -> str:
    pairs = (line.partition("=") for line in _line("/etc/os-release").splitlines())
    return next((value.strip('"') for key, _, value in pairs if key == "PRETTY_NAME"), "Linux")


# the object, pure


def labels(config: NodeConfig, machine: Machine) -> dict[str, str]:
    arch, os_name = machine.architecture, "linux"
    return {
        "beta.kubernetes.io/arch": arch,
        "beta.kubernetes.io/os": os_name,
        "kubernetes.io/arch": arch,
        "kubernetes.io/os": os_name,
        "kubernetes.io/hostname": config.name,
        **config.labels,
    }


def new_node(config: NodeConfig, machine: Machine) -> Obj:
    spec: Obj = {"podCIDR": config.pod_cidr, "podCIDRs": [config.pod_cidr]} if config.pod_cidr else {}
    if config.taints:
        spec["taints"] = [dict(taint) for taint in config.taints]
    annotations = {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": config.name, "labels": labels(config, machine), "annotations": annotations},
        "spec": spec,
    }


def capacity(config: NodeConfig, machine: Machine) -> dict[str, str]:
    return {
        "cpu": str(machine.cpus),
        "memory": f"{machine.memory // 1024}Ki",
        "ephemeral-storage": f"{machine.disk // 1024}Ki",
        "pods": str(config.max_pods),
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
    }


def allocatable(config: NodeConfig, machine: Machine) -> dict[str, str]:
    """What pods may ask for: capacity without what is reserved and what must stay free."""
    reserved = {name: parse(text) for name, text in config.reserved.items()}
    milli = machine.cpus * 1000 - (reserved["cpu"].milli_value() if "cpu" in reserved else 0)
    memory = machine.memory - EVICTION_MEMORY - (reserved["memory"].value() if "memory" in reserved else 0)
    return {
        **capacity(config, machine),
        "cpu": str(milli // 1000) if milli % 1000 == 0 else f"{milli}m",
        "memory": f"{max(memory, 0) // 1024}Ki",
        "ephemeral-storage": str(machine.disk * 9 // 10),
    }


def node_status(
    config: NodeConfig, machine: Machine, runtime: RuntimeState, pressure: Pressure, images: Sequence[Image], now: str
) -> Obj:
    """The status, its conditions with `now` as heartbeat and transition."""
    return {
        "capacity": capacity(config, machine),
        "allocatable": allocatable(config, machine),
        "addresses": [{"type": "InternalIP", "address": config.ip}, {"type": "Hostname", "address": config.name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.port}},
        "nodeInfo": {
            "machineID": machine.machine_id,
            "systemUUID": machine.system_uuid,
            "bootID": machine.boot_id,
            "kernelVersion": machine.kernel,
            "osImage": machine.os_image,
            "containerRuntimeVersion": f"{runtime.name or 'containerd'}://{runtime.version or 'unknown'}",
            "kubeletVersion": config.version,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": machine.architecture,
        },
        "runtimeHandlers": [{"name": "", "features": {"recursiveReadOnlyMounts": False, "userNamespaces": False}}],
        "features": {"supplementalGroupsPolicy": True},
        "images": _shown(images),
        "conditions": _conditions(runtime, pressure, now),
    }


def _shown(images: Sequence[Image]) -> list[Obj]:
    largest = sorted(images, key=lambda i: (-i.size, i.id))[:IMAGES]
    return [
        {"names": [*image.digests, *image.tags][:5], "sizeBytes": image.size}
        for image in largest
        if image.digests or image.tags
    ]


def _conditions(runtime: RuntimeState, pressure: Pressure, now: str) -> list[Obj]:
    table = (
        ("MemoryPressure", pressure.memory, "Memory", "kubelet has {} memory available"),
        ("DiskPressure", pressure.disk, "Disk", "kubelet has {} disk pressure"),
        ("PIDPressure", pressure.pids, "PID", "kubelet has {} PID available"),
    )
    out = []
    for type, bad, word, text in table:
        if type == "DiskPressure":
            reason, adverb = ("KubeletHasDiskPressure", "") if bad else ("KubeletHasNoDiskPressure", "no")
        else:
            amount = "Insufficient" if bad else "Sufficient"
            reason, adverb = f"KubeletHas{amount}{word}", amount.lower()
        message = " ".join(text.format(adverb).split())
        out.append(_condition(type, "True" if bad else "False", reason, message, now))
    problems = ", ".join(filter(None, (runtime.not_ready, runtime.network_not_ready)))
    if problems:
        message = f"container runtime not ready: {problems}"
        return [*out, _condition("Ready", "False", "KubeletNotReady", message, now)]
    return [*out, _condition("Ready", "True", "KubeletReady", "kubelet is posting ready status", now)]


def _condition(type: str, status: str, reason: str, message: str, now: str) -> Obj:
    return {
        "type": type,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }


def status_patch(old: Obj, new: Obj, *, heartbeat: bool) -> Obj:
    """The strategic patch of a Node's status; {} when nothing but the heartbeat differs and none is due."""
    before = {c["type"]: c for c in old.get("conditions") or ()}
    conditions, changed = [], False
    for condition in new["conditions"]:
        known = before.get(condition["type"], {})
        if known.get("status") == condition["status"]:
            condition = {**condition, "lastTransitionTime": known["lastTransitionTime"]}  # noqa: PLW2901
        changed |= any(known.get(k) != condition[k] for k in ("status", "reason", "message"))
        conditions.append(condition)
    out = {k: v for k, v in new.items() if k not in ("conditions", "addresses") and v != old.get(k)}
    if new["addresses"] != old.get("addresses"):
        out["addresses"] = [{"$patch": "replace"}, *new["addresses"]]
    if changed or heartbeat or out:
        out["conditions"] = conditions
    return out


# keeping it true


class Node:
    """Keeps the Node and its Lease; `ready` once the API knows us."""

    def __init__(self, config: NodeConfig, machine: Machine, api: Api, runtime: Runtime, data: Path) -> None:
        self.config = config
        self.machine = machine
        self.ready = asyncio.Event()
        self.object: Obj = new_node(config, machine)
        self._api = api
        self._runtime = runtime
        self._data = data
        self._reported = float("-inf")
        self._ref = Ref(NODE, "", config.name)

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep("report the node's status", self.report))
            group.create_task(self._keep("renew the node's lease", self.renew))

    async def _keep(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Every ten seconds; sooner after a failure, for others wait on us."""
        while True:
            pause = LOOK
            try:
                await work()
            except ApiError as error:
                pause = 1.0
                log.warning("could not %s; will try again", what, extra={"error": str(error)})
            await asyncio.sleep(pause)

    async def report(self) -> None:
        """One look at the machine and the runtime, told to the API. Raises ApiError."""
        live = await self._api.get(self._ref) or await self._register()
        if any(
            (live["metadata"].get("labels") or {}).get(k) != v for k, v in labels(self.config, self.machine).items()
        ):
            live = await self._patch({"metadata": {"labels": labels(self.config, self.machine)}})
        loop = asyncio.get_running_loop()
        heartbeat = loop.time() - self._reported >= REPORT
        patch = status_patch(live.get("status") or {}, await self._look(), heartbeat=heartbeat)
        if patch:
            live = await self._patch({"status": patch}, "status")
            self._reported = loop.time()
        self.object = live
        self.ready.set()

    async def _look(self) -> Obj:
        pressure = await asyncio.to_thread(look_at_pressure, self._data)
        try:
            runtime, images = await asyncio.gather(self._runtime.state(), self._runtime.images())
        except RuntimeFault as fault:
            runtime, images = RuntimeState(not_ready=str(fault)), []
        return node_status(self.config, self.machine, runtime, pressure, images, rfc3339(time.time()))

    async def _register(self) -> Obj:
        try:
            live = await self._api.create(new_node(self.config, self.machine), manager=MANAGER)
        except AlreadyExists as error:
            raise Conflict(f"register node {self.config.name}: it appeared meanwhile") from error
        log.info("registered", extra={"node": self.config.name})
        return live

    async def _patch(self, patch: Obj, subresource: str = "") -> Obj:
        return await self._api.patch(self._ref, patch, kind="strategic", manager=MANAGER, subresource=subresource)

    async def renew(self) -> None:
        """Raises ApiError."""
        await self.ready.wait()
        ref = Ref(LEASE, LEASES, self.config.name)
        now = rfc3339_micro(time.time())
        spec = {"holderIdentity": self.config.name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}
        if await self._api.get(ref) is not None:
            await self._api.patch(ref, {"spec": spec}, kind="merge", manager=MANAGER)
            return
        owner = {"apiVersion": "v1", "kind": "Node", "name": self.config.name, "uid": self.object["metadata"]["uid"]}
        meta = {"name": self.config.name, "namespace": LEASES, "ownerReferences": [owner]}
        lease = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": meta, "spec": spec}
        await self._api.create(lease, manager=MANAGER)
