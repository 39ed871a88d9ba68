"""The links of the pods, as the kernel has them: what connects a network namespace to this machine, what removes it.

A pod has one veth pair. Its end, eth0, has the pod's address as /32 and sends everything to the gateway, whose MAC
address it knows for good: no ARP, no broadcast, no bridge. Our end is named `<instance>-<offset in the CIDR, hex>`,
carries a /32 route to the pod, and knows the pod's MAC address. Both MAC addresses follow from IPv4 addresses.

All of it happens in the one thread of `Host`, which may stand in another network namespace than the process.
Routes, neighbours and addresses of a link disappear with it, and a pair disappears with either end or its namespace.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import ParamSpec, TypeVar

from havre.node.network import sysctls
from havre.node.network.errors import NetworkError, NotOpen, Overlap
from havre.wire.netlink import netns, route
from havre.wire.netlink.connection import Connection
from havre.wire.netlink.message import NetlinkError
from havre.wire.netlink.route import Link, Route

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

POD_LINK = "eth0"
LOOPBACK = 1  # index of lo in every network namespace
ETHERNET_MTU = 1500
LEAVING = 0x68767265  # the group of links that are about to be removed; "hvre"
LEAST_MTU, MOST_MTU = 576, 65535
FORWARDERS = frozenset({"veth", "bridge", "tun", "wireguard", "macvlan", "ipvlan", "vxlan"})
MAC_PREFIX = bytes([0x0A, 0x58])  # locally administered; the rest is the IPv4 address


def mac_of(address: IPv4Address) -> bytes:
    return MAC_PREFIX + address.packed


def name_of(instance: str, cidr: IPv4Network, address: IPv4Address) -> str:
    """The host's end of a pod's link; no two pods of a machine share it."""
    return f"{instance}-{int(address) - int(cidr.network_address):x}"


@dataclass(frozen=True, slots=True)
class Attached:
    """A pod's link as the datapath needs it: the index of our end, and the namespace's cookie if the kernel has one."""

    index: int
    cookie: int | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `attach` makes."""

    name: str
    address: IPv4Address
    gateway: IPv4Address
    mtu: int
    alias: str = ""


class Host:
    """One thread that talks to the kernel about this machine's links, one thing after the other.

    `where` is the network namespace to stand in; without it, that of the process.
    """

    def __init__(self, instance: str, where: Path | None = None) -> None:
        self._where = where
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"{instance}-links", initializer=self._enter)
        self._kernel: Connection | None = None

    @property
    def kernel(self) -> Connection:
        """The socket to rtnetlink; only inside `run`."""
        if self._kernel is None:
            self._kernel = Connection()
        return self._kernel

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `work` in the thread."""
        try:
            done = self._thread.submit(work, *args, **kwargs)
        except RuntimeError as error:
            raise NotOpen(f"the pod network's thread is not there: {error}") from error
        return await asyncio.wrap_future(done)

    async def close(self) -> None:
        await self.run(self._disconnect)
        self._thread.shutdown(wait=False)

    def _enter(self) -> None:
        if self._where is not None:
            with netns.opened(self._where) as fd:
                netns.enter(fd)

    def _disconnect(self) -> None:
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None


def attach(kernel: Connection, wanted: Wanted, pod: Path) -> Attached:
    """Connect the namespace at `pod`; one that is connected as wanted already is left as it is.

    Raises NetworkError: nothing of this attempt is left.
    """
    try:
        with netns.opened(pod) as namespace:
            return _attach(kernel, wanted, namespace)
    except (OSError, NetlinkError) as error:
        detach(kernel, wanted.name)
        raise NetworkError(f"connect network namespace {pod} as {wanted.address}: {error}") from error


def detach(kernel: Connection, *names: str) -> None:
    """Remove links and all that hangs on them, in one go; that there are none is fine."""
    present = [index for name in names if (index := index_of(name))]
    if len(present) == 1:
        kernel.run(route.delete_link(present[0]))
    elif present:
        kernel.run(*(route.set_group(index, LEAVING) for index in present), route.delete_group(LEAVING))


def index_of(name: str) -> int:
    """0: there is no such link here."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def address_inside(pod: Path, cidr: IPv4Network) -> IPv4Address | None:
    """Which address of the CIDR the namespace has."""
    with netns.opened(pod) as namespace, Connection(inside=namespace) as inner:
        held = [found.address for found in route.read_addresses(inner.dump(route.addresses()))]
    return next((address for address in held if isinstance(address, IPv4Address) and address in cidr), None)


def cookie_of(pod: Path) -> int | None:
    with netns.opened(pod) as namespace, Connection(inside=namespace) as inner:
        return inner.netns_cookie


def ours(kernel: Connection, instance: str) -> list[Link]:
    """All links that this instance has made on the host."""
    return [
        link
        for link in route.read_links(kernel.dump(route.links()))
        if link.kind == "veth" and link.name.rpartition("-")[0] == instance
    ]


def uplink_mtu(kernel: Connection) -> int:
    """What fits through the interface of the default route; without one, what fits Ethernet."""
    default = route.default_route(route.read_routes(kernel.dump(route.routes())))
    if default is None:
        return ETHERNET_MTU
    found = {link.index: link.mtu for link in route.read_links(kernel.dump(route.links()))}
    return max(LEAST_MTU, min(MOST_MTU, found.get(default.device, ETHERNET_MTU)))


def add_gateway(kernel: Connection, gateway: IPv4Address) -> None:
    """The address that pods know this machine by."""
    kernel.run(route.bring_up(LOOPBACK), route.add_address(LOOPBACK, gateway, 32))


def remove_gateway(kernel: Connection, gateway: IPv4Address) -> None:
    kernel.run(route.delete_address(LOOPBACK, gateway, 32))


def refuse_overlap(kernel: Connection, cidr: IPv4Network, instance: str) -> None:
    """Raises Overlap if the machine already has a way to an address of the CIDR that is not ours."""
    own = {link.index for link in ours(kernel, instance)}
    foreign = _foreign(route.read_routes(kernel.dump(route.routes())), cidr, own)
    if foreign is not None:
        raise Overlap(
            f"pod CIDR {cidr} overlaps the route to {foreign.to} through interface {foreign.device}; "
            "choose a pod CIDR that this machine does not use"
        )


def _foreign(routes: Iterable[Route], cidr: IPv4Network, own: set[int]) -> Route | None:
    for known in routes:
        to = known.to
        if known.table != route.MAIN or known.device in own or not isinstance(to, IPv4Network):
            continue
        if to.prefixlen > 0 and to.overlaps(cidr):
            return known
    return None


def others_forward(kernel: Connection) -> bool:
    """Somebody else on this machine (another instance, a container engine, virtual machines) needs forwarding."""
    return any(link.kind in FORWARDERS for link in route.read_links(kernel.dump(route.links())))


def _attach(kernel: Connection, wanted: Wanted, namespace: int) -> Attached:
    index = index_of(wanted.name)
    if index and _is_as_wanted(wanted, namespace):
        _host_side(kernel, index, wanted)
        with Connection(inside=namespace) as inner:
            return Attached(index, inner.netns_cookie)
    if index:
        kernel.run(route.delete_link(index))
    pod_mac, host_mac = mac_of(wanted.address), mac_of(wanted.gateway)
    kernel.run(route.veth(wanted.name, host_mac, POD_LINK, pod_mac, namespace, wanted.mtu))
    index = index_of(wanted.name)
    with netns.inside(namespace):
        inner, peer = Connection(), index_of(POD_LINK)
    with inner:
        inner.run(
            route.bring_up(LOOPBACK),
            route.add_address(peer, wanted.address, 32),
            route.bring_up(peer),
            route.permanent_neighbour(peer, wanted.gateway, host_mac),
            route.replace_route(Route(IPv4Network((wanted.gateway, 32)), peer)),
            route.replace_route(Route(IPv4Network("0.0.0.0/0"), peer, wanted.gateway)),
        )
        _host_side(kernel, index, wanted)
        return Attached(index, inner.netns_cookie)


def _host_side(kernel: Connection, index: int, wanted: Wanted) -> None:
    sysctls.without_ipv6(wanted.name)
    kernel.run(
        route.set_alias(index, wanted.alias),
        route.permanent_neighbour(index, wanted.address, mac_of(wanted.address)),
        route.replace_route(Route(IPv4Network((wanted.address, 32)), index, source=wanted.gateway)),
    )


def _is_as_wanted(wanted: Wanted, namespace: int) -> bool:
    """The namespace has the address on its eth0, up, and a default route: a former attach came to its end."""
    with Connection(inside=namespace) as inner:
        up = {link.index for link in route.read_links(inner.dump(route.links())) if link.up and link.name == POD_LINK}
        held = {a.address for a in route.read_addresses(inner.dump(route.addresses())) if a.index in up}
        default = route.default_route(route.read_routes(inner.dump(route.routes())))
    return wanted.address in held and default is not None and default.device in up
