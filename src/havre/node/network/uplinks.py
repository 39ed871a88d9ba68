"""Where the world is: the interfaces at which traffic from outside arrives, and the addresses that it is meant for.

    outside = Uplinks("havre", datapath)
    async with asyncio.TaskGroup() as group:
        group.create_task(outside.run())
        group.create_task(services.run(api, datapath, [gateway], uplinks=outside))

reads     links and addresses, through rtnetlink
writes    Datapath.set_uplinks
wakes     any change of a link or an address: DHCP gives another one, a cable is plugged in, Docker makes its bridge

An uplink is an Ethernet interface with an IPv4 address that is not a link of ours. A port of a bridge has no address,
the bridge has it. Tunnels without Ethernet headers (WireGuard, tun) are left out: our programs cannot read them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, Protocol

from havre.node.bpf.call import BpfError
from havre.wire.netlink import netns, route
from havre.wire.netlink.connection import ROUTE, Connection
from havre.wire.netlink.route import Link, LinkAddress

log = logging.getLogger(__name__)

GROUPS: Final = 0x1 | 0x10  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR
MESSAGES = 1 << 16  # bytes: what they say does not matter, only that they come
SETTLE = 0.1  # seconds: an interface comes up in several steps
ETHERNET = 6  # bytes of its addresses


class Datapath(Protocol):
    """Who takes the traffic that arrives there."""

    async def set_uplinks(self, uplinks: Iterable[int]) -> None: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """Indices of uplinks and the addresses that they have, both sorted."""

    links: tuple[int, ...] = ()
    addresses: tuple[str, ...] = ()


def choose(links: Iterable[Link], addresses: Iterable[LinkAddress], instance: str) -> Seen:
    """The uplinks among all links. Pure."""
    ethernet = {link.index for link in links if _is_ethernet(link) and not link.name.startswith(f"{instance}-")}
    found = {(a.index, a.address) for a in addresses if a.index in ethernet and isinstance(a.address, IPv4Address)}
    return Seen(
        tuple(sorted({index for index, _ in found})), tuple(str(ip) for ip in sorted({address for _, address in found}))
    )


def _is_ethernet(link: Link) -> bool:
    return link.up and len(link.mac) == ETHERNET and any(link.mac)  # loopback has zeros


class Uplinks:
    """The uplinks of this machine, followed; see the module."""

    def __init__(self, instance: str, datapath: Datapath, *, host: Path | None = None) -> None:
        """`host` is the network namespace that plays the machine, for tests."""
        self._instance = instance
        self._datapath = datapath
        self._host = host
        self._seen = Seen()
        self._watchers: list[Callable[[], None]] = []

    def addresses(self) -> tuple[str, ...]:
        """The IPv4 addresses of the uplinks, as far as they are known."""
        return self._seen.addresses

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed`, which must not block, whenever `addresses` says something new."""
        self._watchers.append(changed)

    async def run(self) -> None:
        """Follow for ever."""
        events = await asyncio.to_thread(self._listen)
        try:
            while True:
                await self._update(await asyncio.to_thread(self._look))
                await _change(events)
                await asyncio.sleep(SETTLE)
        finally:
            events.close()

    async def _update(self, seen: Seen) -> None:
        before, self._seen = self._seen, seen
        if seen.links != before.links:
            try:
                await self._datapath.set_uplinks(seen.links)
                log.info("uplinks", extra={"links": seen.links, "addresses": seen.addresses})
            except BpfError as error:  # one of them has gone meanwhile: that is the next change
                log.warning("uplinks not attached", extra={"links": seen.links, "error": str(error)})
                self._seen = Seen((), seen.addresses)
        if seen.addresses != before.addresses:
            for changed in self._watchers:
                changed()

    # in a thread

    def _look(self) -> Seen:
        with self._standing(), Connection() as kernel:
            links = route.read_links(kernel.dump(route.links()))
            return choose(links, route.read_addresses(kernel.dump(route.addresses())), self._instance)

    def _listen(self) -> socket.socket:
        with self._standing():
            events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, ROUTE)
        events.setblocking(False)
        events.bind((0, GROUPS))
        return events

    @contextmanager
    def _standing(self) -> Iterator[None]:
        """In the machine's network namespace, for the time of the block."""
        if self._host is None:
            yield
            return
        with netns.opened(self._host) as fd, netns.inside(fd):
            yield


async def _change(events: socket.socket) -> None:
    """Wait for a message, and throw away all that came with it. Messages that the kernel had to drop are messages."""
    try:
        await asyncio.get_running_loop().sock_recv(events, MESSAGES)
        while events.recv(MESSAGES):
            pass
    except BlockingIOError:
        return
    except OSError as error:
        log.debug("messages were lost", extra={"error": str(error)})
