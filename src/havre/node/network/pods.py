"""The network of the pods of one node: every sandbox gets an address, a link, a route, and its place in the datapath.

    network = PodNetwork("havre", IPv4Network("10.42.0.0/24"), run=Path("/run/havre"), datapath=datapath)
    await network.open()                       # gateway address, forwarding, NAT
    await network.restore({sandbox: netns})    # once, with the sandboxes that still live
    address = await network.attach(pod, netns, ports)
    await network.detach(sandbox)
    await network.close()                      # everything stays as it is, and works
    await network.destroy()                    # … or: nothing of it is left

It satisfies the runtime's `Network` without importing it. Attach and detach can be repeated at will, and called for
many sandboxes at once: one thread does them one after the other, as the kernel's own lock would. Truth is the lease
files (`addresses`) and the kernel's links; nothing else is remembered.

Host ports are only named here: `host_ports()` says which port of the machine belongs to which port of which pod, and
`subscribe` calls when that changes; the Service datapath merges them into its frontends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from havre.node.network import links, nat, sysctls
from havre.node.network.addresses import Addresses, HostPort, Lease, Target
from havre.node.network.errors import NetworkError, NotOpen, PortTaken
from havre.wire.netlink.message import NetlinkError

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

SERVICES = IPv4Network("10.96.0.0/16")
LONGEST_INSTANCE = 10  # with "-" and four digits it is a link's 15


class Pod(Protocol):
    """What is read of a pod's identity."""

    @property
    def sandbox(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...


class Port(Protocol):
    """What is read of a port mapping; host_port 0: none."""

    @property
    def protocol(self) -> str: ...
    @property
    def container_port(self) -> int: ...
    @property
    def host_port(self) -> int: ...
    @property
    def host_ip(self) -> str: ...


class Datapath(Protocol):
    """Who moves packets between pods past the host's stack.

    Both calls are made in the thread of the links, may block, and can be repeated.
    """

    def add_pod(self, ip: str, ifindex: int, mac: bytes, netns_cookie: int | None) -> None: ...

    def remove_pod(self, ip: str) -> None: ...


class PlainRouting:
    """The datapath that does nothing: packets take the host's routes."""

    def add_pod(self, ip: str, ifindex: int, mac: bytes, netns_cookie: int | None) -> None:
        """The route to the pod is there already."""

    def remove_pod(self, ip: str) -> None:
        """The route goes with the link."""


class PodNetwork:
    """All pod networking of one instance on this machine; see the module."""

    def __init__(
        self,
        instance: str,
        cidr: IPv4Network,
        run: Path,
        *,
        datapath: Datapath | None = None,
        services: IPv4Network = SERVICES,
        mtu: int = 0,
        host: Path | None = None,
    ) -> None:
        """`mtu` 0 is that of the uplink; `host` is the network namespace that plays the machine, for tests."""
        if not 0 < len(instance) <= LONGEST_INSTANCE or not instance.isalnum() or not instance.islower():
            raise NetworkError(f"instance name {instance!r}: must be 1 to {LONGEST_INSTANCE} of a-z and 0-9")
        self.instance = instance
        self.cidr = cidr
        self._services = services
        self._datapath = datapath or PlainRouting()
        self._addresses = Addresses(cidr, run / "network" / "leases")
        self._settings = run / "network" / "sysctls.json"
        self._host = links.Host(instance, host)
        self._wanted_mtu, self._mtu = mtu, mtu
        self._open = False
        self._leaving: list[str] = []
        self._watchers: list[Callable[[], None]] = []

    @property
    def gateway(self) -> IPv4Address:
        """The address of this machine as the pods see it."""
        return self._addresses.gateway

    # life

    async def open(self) -> None:
        """Prepare the machine; what a former process has prepared stays. Raises NetworkError."""
        await self._kernel(self._prepare)
        self._open = True

    async def restore(self, sandboxes: Mapping[str, Path]) -> None:
        """Bring addresses and links to the sandboxes that live, given with their namespaces; call before `attach`.

        What belongs to others is removed. A link that works is not touched.
        """
        self._check_open()
        await self._kernel(self._detach, [lease.sandbox for lease in self._addresses if lease.sandbox not in sandboxes])
        for sandbox, netns in sandboxes.items():
            await self._readopt(sandbox, netns)
        await self._kernel(self._remove_strays)

    async def close(self) -> None:
        """Stop, and leave every pod connected."""
        self._open = False
        await self._host.close()

    async def destroy(self) -> None:
        """Disconnect every pod, remove all that this instance has made, restore the settings; then close."""
        await self._kernel(self._detach, [lease.sandbox for lease in self._addresses])
        await self._kernel(self._remove_all)
        await self.close()

    def ready(self) -> bool:
        return self._open

    # pods

    async def attach(self, pod: Pod, netns: Path, ports: Sequence[Port] = ()) -> str:
        """Connect a sandbox's network namespace and give its IPv4 address; repeating it changes nothing.

        Raises NetworkError (NoFreeAddress, PortTaken): nothing of the attempt is left.
        """
        self._check_open()
        fresh = self._addresses.get(pod.sandbox) is None
        try:
            lease = await self._kernel(self._attach, pod, netns, ports)
        except asyncio.CancelledError:  # the thread goes on, and nobody would know of the result
            if fresh:
                await self._kernel(self._detach, [pod.sandbox])
            raise
        if fresh and lease.ports:
            self._tell()
        return str(lease.address)

    async def detach(self, sandbox: str) -> None:
        """Take everything back; that there is nothing is fine. Raises NetworkError."""
        lease = self._addresses.get(sandbox)
        if lease is None:
            return
        self._leaving.append(sandbox)
        try:
            await self._kernel(self._detach_leaving)
        except NetworkError as error:  # perhaps another one's fault
            log.warning("detach failed; will try this sandbox alone", extra={"sandbox": sandbox, "error": str(error)})
        if self._addresses.get(sandbox) is lease:
            await self._kernel(self._detach, [sandbox])
        if lease.ports:
            self._tell()

    def address(self, sandbox: str) -> str:
        """The address of an attached sandbox; "" for others."""
        lease = self._addresses.get(sandbox)
        return str(lease.address) if lease is not None else ""

    # host ports

    def host_ports(self) -> Mapping[HostPort, Target]:
        """Every port of the machine that belongs to a pod, and where its packets go."""
        return {port: Target(str(lease.address), to) for lease in self._addresses for port, to in lease.ports.items()}

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed`, which must not block, whenever `host_ports` says something new."""
        self._watchers.append(changed)

    # inside

    def _check_open(self) -> None:
        if not self._open:
            raise NotOpen("the pod network is not open: it was not started, or is being stopped")

    async def _kernel(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do it in the thread of the links, after all that was asked before."""
        try:
            return await self._host.run(work, *args, **kwargs)
        except (OSError, NetlinkError) as error:
            raise NetworkError(f"pod network {self.instance}: {error}") from error

    async def _readopt(self, sandbox: str, netns: Path) -> None:
        """Take a living sandbox over from a former process; one whose namespace is gone has no network to save."""
        try:
            await self._kernel(self._recover, sandbox, netns)
        except NetworkError as error:
            log.warning("sandbox could not be connected again", extra={"sandbox": sandbox, "error": str(error)})

    def _tell(self) -> None:
        for changed in self._watchers:
            changed()

    def _name(self, address: IPv4Address) -> str:
        return links.name_of(self.instance, self.cidr, address)

    # in the thread of the links

    def _prepare(self) -> None:
        self._addresses.load()
        kernel = self._host.kernel
        links.refuse_overlap(kernel, self.cidr, self.instance)
        self._mtu = self._wanted_mtu or links.uplink_mtu(kernel)
        links.add_gateway(kernel, self.gateway)
        sysctls.apply(self._settings)
        nat.install(self.instance, self.cidr, (self._services,))

    def _attach(self, pod: Pod, netns: Path, ports: Sequence[Port]) -> Lease:
        held = self._addresses.get(pod.sandbox)
        if held is not None:
            self._connect(held, netns)
            return held
        wanted = _host_ports(ports)
        self._refuse_taken(wanted)
        lease = self._addresses.take(pod.sandbox, pod.namespace, pod.name, wanted)
        try:
            self._connect(lease, netns)
        except BaseException:
            self._detach([pod.sandbox])
            raise
        return lease

    def _refuse_taken(self, wanted: Iterable[HostPort]) -> None:
        for port in wanted:
            for lease in self._addresses:
                if any(_collide(port, held) for held in lease.ports):
                    raise PortTaken(f"host port {port.port}/{port.protocol}: pod {lease.namespace}/{lease.name} has it")

    def _connect(self, lease: Lease, netns: Path) -> None:
        alias = f"{lease.namespace}/{lease.name}"
        wanted = links.Wanted(self._name(lease.address), lease.address, self.gateway, self._mtu, alias)
        made = links.attach(self._host.kernel, wanted, netns)
        self._datapath.add_pod(str(lease.address), made.index, links.mac_of(lease.address), made.cookie)

    def _detach_leaving(self) -> None:
        """All that want to leave now, at once: the kernel takes 20 ms for one link, and for fifty."""
        leaving, self._leaving = self._leaving, []
        self._detach(leaving)

    def _detach(self, sandboxes: Sequence[str]) -> None:
        """The datapath first, so that it never sends to a link that is gone; the leases last."""
        leases = [lease for sandbox in sandboxes if (lease := self._addresses.get(sandbox)) is not None]
        for lease in leases:
            self._datapath.remove_pod(str(lease.address))
        links.detach(self._host.kernel, *(self._name(lease.address) for lease in leases))
        for lease in leases:
            self._addresses.release(lease.sandbox)

    def _recover(self, sandbox: str, netns: Path) -> None:
        """Connect it again; one that lives but has no lease gets it from what its own namespace says."""
        lease = self._addresses.get(sandbox)
        if lease is None:
            address = links.address_inside(netns, self.cidr)
            lease = self._addresses.take(sandbox, address=address) if address is not None else None
        if lease is not None:
            self._connect(lease, netns)

    def _remove_strays(self) -> None:
        """Links whose lease was never written, or is gone."""
        known = {self._name(lease.address) for lease in self._addresses}
        made = (link.name for link in links.ours(self._host.kernel, self.instance))
        links.detach(self._host.kernel, *(name for name in made if name not in known))

    def _remove_all(self) -> None:
        kernel = self._host.kernel
        links.detach(kernel, *(link.name for link in links.ours(kernel, self.instance)))
        nat.remove(self.instance)
        links.remove_gateway(kernel, self.gateway)
        keep = frozenset({sysctls.FORWARDING}) if links.others_forward(kernel) else frozenset[str]()
        sysctls.restore(self._settings, keep)
        self._addresses.destroy()


def _host_ports(ports: Iterable[Port]) -> dict[HostPort, int]:
    return {
        HostPort(port.protocol.upper() or "TCP", port.host_ip or "0.0.0.0", port.host_port): port.container_port  # noqa: S104
        for port in ports
        if port.host_port
    }


def _collide(one: HostPort, other: HostPort) -> bool:
    """The same port, on an address of the machine that both mean."""
    same = one.protocol == other.protocol and one.port == other.port
    return same and (one.ip == other.ip or "0.0.0.0" in (one.ip, other.ip))  # noqa: S104
