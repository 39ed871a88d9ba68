"""The datapath: pods reach each other, Services and host ports, by eBPF programs that run on without us.

    datapath = Datapath("havre", run=Path("/run/havre"))
    await datapath.open()                      # load, or take over what an earlier run has left at work
    datapath.add_pod("10.42.0.7", ifindex, mac, cookie)
    datapath.set_frontends({Frontend("10.96.0.10", 53, "UDP"): Backends((Backend("10.42.0.2", 53),))})
    datapath.close()                           # everything goes on
    await datapath.destroy()                   # nothing is left

reads     the pins of an earlier run, network interfaces by index
writes    <bpffs>/<instance>/: maps and links; tcx programs on the pods' veth and the uplinks, cgroup programs on one
          cgroup v2 directory (the root: host processes reach Services too)
kernel    services.bpf.c (sockets), datapath.bpf.c (packets), maps.h (what both read)

Sockets are served by network namespace: this machine's own and those of our pods, so that two instances, or containers
of others, do not meet each other's Services. Killed at any moment, the next `open` finds whole links and maps and goes
on: open connections and flows stay, programs are replaced each in one step.

The plain methods block for the time of a few system calls (`set_frontends` of 10,000 Services for 0.1 s), may be called
from any thread, and take turns. `add_pod` must be called from a thread in the machine's network namespace, since an
interface's index means nothing elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from havre.node.bpf.call import BpfError
from havre.node.bpf.links import (
    At,
    attach_cgroup,
    attach_packets,
    detach,
    detach_filter,
    detach_packets,
    handle_of,
    has_tcx,
)
from havre.node.bpf.load import Object, code
from havre.node.bpf.maps import Layout, Map
from havre.node.bpf.pins import Pins, cgroup_root
from havre.node.network import frontends as plans
from havre.node.network.errors import NotOpen
from havre.node.network.frontends import Backends, Change, Frontend, Seen
from havre.node.network.layouts import (
    ADDRESS,
    COOKIE,
    DELIVER,
    DROPS,
    ENDPOINT,
    FRONTEND,
    FRONTEND_KEY,
    HOST,
    INDEX,
    KIND,
    MARK,
    MEMBER_KEY,
    OTHERS,
    POD,
    POD_LAYOUT,
    POLICY,
    RANGE_KEY,
    REASONS,
    SLOT_KEY,
    Address,
    Cookie,
    Index,
    Kind,
    Mark,
    Pod,
    ip_text,
    packed_ip,
)
from havre.wire.netlink import netns

log = logging.getLogger(__name__)

PACKAGE: Final = "havre.node.network"
SOCKETS: Final = {
    "connect4": At.CONNECT4,
    "connect6": At.CONNECT6,
    "sendmsg4": At.SENDMSG4,
    "sendmsg6": At.SENDMSG6,
    "recvmsg4": At.RECVMSG4,
    "recvmsg6": At.RECVMSG6,
    "getpeername4": At.GETPEERNAME4,
    "getpeername6": At.GETPEERNAME6,
}
UPLINK: Final = {"ingress": At.TCX_INGRESS, "egress": At.TCX_EGRESS}
SO_NETNS_COOKIE = 71

P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class _Kernel:
    """What is loaded: programs, and the maps that we read and write."""

    def __init__(self, pins: Pins, sockets: Object, packets: Object) -> None:
        self.pins = pins
        self.sockets, self.packets = sockets, packets
        self.pods = self._map("pods", ADDRESS, POD_LAYOUT)
        self.namespaces = self._map("namespaces", COOKIE, KIND)
        self.frontends = self._map("frontends", FRONTEND_KEY, FRONTEND)
        self.backends = self._map("backends", SLOT_KEY, ENDPOINT)
        self.members = self._map("members", MEMBER_KEY, MARK)
        self.ranges = self._map("ranges", RANGE_KEY, MARK)
        self.stages = self._map("stages", INDEX, INDEX)
        self.dropped = self._map("dropped", INDEX, DROPS)

    @classmethod
    def load(cls, pins: Pins) -> _Kernel:
        """Blocks for 50 ms."""
        sockets = Object.load(code(PACKAGE, "services"), pins)
        try:
            return cls(pins, sockets, Object.load(code(PACKAGE, "datapath"), pins))
        except BaseException:
            sockets.close()
            raise

    def _map(self, name: str, key: Layout[K], value: Layout[V]) -> Map[K, V]:
        return Map(self.packets.maps[name], key, value, name)

    def close(self) -> None:
        self.sockets.close()
        self.packets.close()


class Datapath:
    """All eBPF networking of one instance on this machine; see the module."""

    def __init__(self, instance: str, run: Path, *, cgroup: Path | None = None, host: Path | None = None) -> None:
        """`cgroup` is the v2 directory whose processes reach Services, the root when None; `host` is the network
        namespace that plays the machine, for tests."""
        self.instance = instance
        self._run = run
        self._cgroup = cgroup
        self._host = host
        self._lock = threading.RLock()
        self._thread: ThreadPoolExecutor | None = None
        self._loaded: _Kernel | None = None
        self._now = Seen()
        self._filtered: set[int] = set()  # uplinks, for kernels where nothing else knows them

    # life

    async def open(self, uplinks: Iterable[int] | None = None) -> None:
        """Load and attach, or take over; `uplinks` are the interfaces where traffic from outside arrives, None: those
        of the earlier run, until `set_uplinks`.

        Raises BpfError (LoadFailed: the kernel lacks something), LibbpfMissing.
        """
        await self._do(self._open, None if uplinks is None else tuple(uplinks))

    def close(self) -> None:
        """Let go; everything goes on working."""
        with self._lock:
            if self._loaded is not None:
                self._loaded.close()
                self._loaded = None
        if self._thread is not None:
            self._thread.shutdown(wait=False)
            self._thread = None

    async def destroy(self) -> None:
        """Remove every program, map, link and pin of the instance, opened or not; then close."""
        await self._do(self._destroy)
        self.close()

    async def set_uplinks(self, uplinks: Iterable[int]) -> None:
        """From now on traffic from outside arrives at these interfaces, by index."""
        await self._do(self._set_uplinks, tuple(uplinks))

    # pods

    def add_pod(self, ip: str, ifindex: int, mac: bytes, netns_cookie: int | None) -> None:
        """Connect a pod: its address, the index of our end of its veth pair, the MAC address of its own end, and its
        network namespace's cookie (None on kernels before 5.14; then Services are served to every namespace of the
        cgroup). Again is the same as once; a new index or cookie replaces the old."""
        address, pod = Address(packed_ip(ip)), Pod(netns_cookie or OTHERS, ifindex, mac)
        with self._lock:
            kernel = self._kernel
            old = kernel.pods.lookup(address)
            kernel.namespaces.update(Cookie(pod.cookie), Kind(POD))
            kernel.pods.update(address, pod)  # before its program, which drops what no pod owns
            self._attach_pod(ifindex)
            if old is not None:
                self._forget(old, pod)

    def remove_pod(self, ip: str) -> None:
        """Disconnect it; that there is none is fine, and so is that its interface is gone."""
        address = Address(packed_ip(ip))
        with self._lock:
            old = self._kernel.pods.lookup(address)
            if old is not None:
                self._kernel.pods.delete(address)
                self._forget(old, None)

    def pods(self) -> dict[str, int]:
        """Addresses of pods, and the index of the interface of each."""
        with self._lock:
            return {ip_text(address.ip): pod.ifindex for address, pod in self._kernel.pods.items()}

    def set_policy(self, program: int | None) -> None:
        """Have a tc program (its descriptor) see what pods send before it is delivered. It drops, or goes on by a tail
        call of the map `stages` at DELIVER; None: everything is delivered."""
        with self._lock:
            if program is None:
                self._kernel.stages.delete(Index(POLICY))
            else:
                self._kernel.stages.update(Index(POLICY), Index(program))

    # Services

    def set_frontends(self, wanted: Mapping[Frontend, Backends]) -> None:
        """From now on these are all the addresses that lead somewhere. Raises ValueError for what is not IPv4."""
        keys = {plans.key_of(frontend): backends for frontend, backends in wanted.items()}
        with self._lock:
            change = plans.plan(self._now, keys)
            if change:
                self._write(change)
                self._now = plans.after(self._now, change)

    def frontends(self) -> dict[Frontend, int]:
        """The addresses that lead somewhere, and the number of backends of each."""
        with self._lock:
            return {plans.frontend_of(key): value.size for key, value in self._now.frontends.items()}

    # what happened

    def dropped(self) -> dict[str, int]:
        """Packets that were dropped since the maps were made, by reason."""
        with self._lock:
            return {reason: self._dropped(index) for index, reason in enumerate(REASONS)}

    # inside

    async def _do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """In our thread, which stands in the machine's network namespace."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "datapath", self._enter)
        return await asyncio.wrap_future(self._thread.submit(work, *args, **kwargs))

    def _enter(self) -> None:
        if self._host is not None:
            with netns.opened(self._host) as fd:
                netns.enter(fd)

    @property
    def _kernel(self) -> _Kernel:
        if self._loaded is None:
            raise NotOpen("the datapath is not open: it was not started, or is being stopped")
        return self._loaded

    def _open(self, uplinks: tuple[int, ...] | None) -> None:
        with self._lock:
            if self._loaded is not None:
                self._loaded.close()
            pins = Pins.open(self.instance, self._run)
            self._loaded = kernel = _Kernel.load(pins)
            self._now = self._read()
            kernel.stages.update(Index(DELIVER), Index(kernel.packets.programs["deliver"]))
            kernel.namespaces.update(Cookie(own_cookie()), Kind(HOST))
            self._take_over_pods()
            known = (index for index in self._uplinks() if interface_exists(index))
            self._set_uplinks(tuple(known) if uplinks is None else uplinks)
            cgroup = self._cgroup or cgroup_root()
            for name, at in SOCKETS.items():
                attach_cgroup(pins, name, kernel.sockets.programs[name], cgroup, at)

    def _take_over_pods(self) -> None:
        """Give the pods of an earlier run the programs of this one; forget those whose interface has gone."""
        pods = self._kernel.pods.items()
        for address, pod in pods:
            if interface_exists(pod.ifindex):
                self._attach_pod(pod.ifindex)
            else:
                self.remove_pod(ip_text(address.ip))
        known = {_pod_link(pod.ifindex) for _, pod in pods}
        for name in self._kernel.pins.names("pod-"):
            if name not in known:
                detach(self._kernel.pins, name)

    def _attach_pod(self, ifindex: int) -> None:
        program = self._kernel.packets.programs["pod_ingress"]
        attach_packets(self._kernel.pins, _pod_link(ifindex), program, ifindex, At.TCX_INGRESS)

    def _forget(self, old: Pod, new: Pod | None) -> None:
        """Drop what belonged to a pod and does not belong to the new one at its address."""
        kernel = self._kernel
        if new is None or new.ifindex != old.ifindex:
            detach_packets(kernel.pins, _pod_link(old.ifindex), old.ifindex, At.TCX_INGRESS)
        if new is not None and new.cookie == old.cookie:
            return
        if old.cookie != OTHERS or all(pod.cookie != OTHERS for _, pod in kernel.pods.items()):
            kernel.namespaces.delete(Cookie(old.cookie))

    def _set_uplinks(self, uplinks: tuple[int, ...]) -> None:
        with self._lock:
            kernel = self._kernel
            for ifindex in self._uplinks() - {*uplinks}:
                for way, at in UPLINK.items():
                    detach_packets(kernel.pins, _uplink_link(ifindex, way), ifindex, at)
            self._filtered = {*uplinks}
            for ifindex in uplinks:
                for way, at in UPLINK.items():
                    program = kernel.packets.programs[f"uplink_{way}"]
                    attach_packets(kernel.pins, _uplink_link(ifindex, way), program, ifindex, at)

    def _uplinks(self) -> set[int]:
        """Those that are attached: by their links, named `uplink-<index>-<way>`; of tc filters we know only our own."""
        return self._filtered | {int(name.split("-")[1]) for name in self._kernel.pins.names("uplink-")}

    def _read(self) -> Seen:
        """What the maps of Services hold. Members of sets that no frontend points at, a crash has left: they go."""
        kernel = self._kernel
        ranges = (key for key, _ in kernel.ranges.items())
        now = plans.seen(kernel.frontends.items(), kernel.backends.items(), ranges)
        used = {value.set for value in now.frontends.values()}
        members = [member for member, _ in kernel.members.items()]
        kernel.members.delete_all(member for member in members if member.set not in used)
        return replace(now, free=max(now.free, *(member.set + 1 for member in members), 1))

    def _write(self, change: Change) -> None:
        kernel = self._kernel
        try:
            kernel.ranges.update_all([(key, Mark(1)) for key in change.allow])
            kernel.members.update_all([(member, Mark(1)) for member in plans.members_of(change.create)])
            kernel.backends.update_all([*plans.slots_of(change.create)])
            kernel.frontends.update_all(change.move)
            kernel.frontends.delete_all(change.remove)
            kernel.backends.delete_all(slot for slot, _ in plans.slots_of(change.forget))
            kernel.members.delete_all(plans.members_of(change.forget))
            kernel.ranges.delete_all(change.forbid)
        except BpfError:
            self._now = self._read()  # a map may be full: what was done is done, the next change begins there
            raise

    def _dropped(self, index: int) -> int:
        return sum(drops.packets for drops in self._kernel.dropped.lookup_cpus(Index(index)))

    def _destroy(self) -> None:
        with self._lock:
            pins = Pins.find(self.instance, self._run)
            if self._loaded is not None:
                self._loaded.close()
                self._loaded = None
            for name in pins.names():
                if name in SOCKETS or name.startswith(("pod-", "uplink-")):
                    detach(pins, name)
            remove_filters(pins)
            pins.release()
            self._now = Seen()


def _pod_link(ifindex: int) -> str:
    return f"pod-{ifindex}"


def _uplink_link(ifindex: int, way: str) -> str:
    return f"uplink-{ifindex}-{way}"


def remove_filters(pins: Pins) -> None:
    """Where the kernel has no tcx, nothing but the interfaces themselves knows of our programs: ask them all."""
    if has_tcx():
        return
    for ifindex, _ in socket.if_nameindex():
        for at in UPLINK.values():
            detach_filter(handle_of(pins), ifindex, at)


def own_cookie() -> int:
    """The cookie of the network namespace that the calling thread is in."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        return int.from_bytes(ours.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), sys.byteorder)


def interface_exists(ifindex: int) -> bool:
    try:
        socket.if_indextoname(ifindex)
    except OSError:
        return False
    return True
