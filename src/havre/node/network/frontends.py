"""Frontends: the addresses that clients connect to, the backends behind them, and how the kernel's maps get there.

    wanted: {Frontend: Backends}  +  what the maps hold (Seen)  →  plan → Change: steps, done in this order

A set of backends is written once, under a number of its own, and never changes. A frontend moves from one set to
another by one update of its entry. So at every moment, between any two steps and after a crash at any of them, a
frontend that has backends before and after has all of the old or all of the new ones.

Pure: the maps are read and written in datapath.py.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network
from typing import NamedTuple

from havre.node.network.layouts import (
    EXTERNAL,
    PROTOCOL_NAMES,
    PROTOCOLS,
    RANGED,
    Endpoint,
    FrontendKey,
    FrontendValue,
    MemberKey,
    RangeKey,
    SlotKey,
    ip_text,
    packed_ip,
    packed_port,
    port_number,
)

MOST = 65_535  # backends of a frontend: their number is 16 bits
NO_SET = 0
SERVICE_BITS = 64  # of a range's key come before the network


class Frontend(NamedTuple):
    """Where clients connect to: an IPv4 address, a port, "TCP" or "UDP"."""

    ip: str
    port: int
    protocol: str = "TCP"


class Backend(NamedTuple):
    """Where they get to: a pod's or a host's IPv4 address and port."""

    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class Backends:
    """What is behind a frontend; nothing means that connections are refused at once."""

    addresses: tuple[Backend, ...] = ()
    affinity: int = 0  # seconds that a client stays with its backend; 0: every connection is by lot
    external: bool = False  # reachable from outside of the machine, too
    service: str = ""  # whose clients stay (`namespace/name:port`): the same for all its frontends
    ranges: tuple[str, ...] | None = None  # networks of the clients outside that may; None: all may


Addresses = tuple[Endpoint, ...]
Sets = Mapping[int, Mapping[int, Endpoint]]  # by number and slot


@dataclass(frozen=True, slots=True)
class Seen:
    """What the maps hold: frontends, and the slots of each set (in a crash's remains, not all of them)."""

    frontends: Mapping[FrontendKey, FrontendValue] = field(default_factory=dict)
    sets: Sets = field(default_factory=dict)
    ranges: frozenset[RangeKey] = frozenset()
    free: int = 1  # the next set's number: none is given twice, or a program between two lookups might mix up two


@dataclass(frozen=True, slots=True)
class Change:
    """What to do, in this order: `allow`, `create`, `move`, `remove`, `forget`, `forbid`."""

    allow: frozenset[RangeKey]  # networks of clients to add
    create: Sets  # new sets: their slots and members
    move: Mapping[FrontendKey, FrontendValue]  # frontends to add or point elsewhere
    remove: tuple[FrontendKey, ...]  # frontends that are no longer wanted
    forget: Sets  # sets that no frontend points at any more
    forbid: frozenset[RangeKey]  # networks to take away

    def __bool__(self) -> bool:
        return any((self.allow, self.create, self.move, self.remove, self.forget, self.forbid))


def seen(
    frontends: Iterable[tuple[FrontendKey, FrontendValue]],
    slots: Iterable[tuple[SlotKey, Endpoint]],
    ranges: Iterable[RangeKey] = (),
) -> Seen:
    """From the entries of the maps."""
    sets: dict[int, dict[int, Endpoint]] = {}
    for key, endpoint in slots:
        sets.setdefault(key.set, {})[key.slot] = endpoint
    return Seen(dict(frontends), sets, frozenset(ranges), max(sets, default=NO_SET) + 1)


def plan(now: Seen, wanted: Mapping[FrontendKey, Backends]) -> Change:
    """How to get from what the maps hold to what is wanted, with the fewest entries written."""
    numbers = _whole_sets(now)
    free = now.free
    create: dict[int, Mapping[int, Endpoint]] = {}
    values: dict[FrontendKey, FrontendValue] = {}
    endpoints: dict[tuple[Backend, ...], Addresses] = {(): ()}
    for key, backends in wanted.items():
        addresses = endpoints.get(backends.addresses)
        if addresses is None:
            addresses = endpoints[backends.addresses] = endpoints_of(backends.addresses)
        number = numbers.get(addresses)
        if number is None:
            number = numbers[addresses] = free
            create[number] = dict(enumerate(addresses))
            free += 1
        values[key] = _value(number, backends, key)
    used = {value.set for value in values.values()}
    ranges = frozenset(key for backends in wanted.values() if backends.ranges for key in _ranges(backends))
    return Change(
        ranges - now.ranges,
        create,
        {key: value for key, value in values.items() if now.frontends.get(key) != value},
        tuple(key for key in now.frontends if key not in values),
        {number: slots for number, slots in now.sets.items() if number not in used},
        now.ranges - ranges,
    )


def after(now: Seen, change: Change) -> Seen:
    """What the maps hold when all of it is done."""
    frontends = {**now.frontends, **change.move}
    for key in change.remove:
        del frontends[key]
    sets = {number: slots for number, slots in now.sets.items() if number not in change.forget}
    sets |= change.create
    return Seen(
        frontends,
        sets,
        (now.ranges | change.allow) - change.forbid,
        max(now.free, max(change.create, default=NO_SET) + 1),
    )


def slots_of(sets: Sets) -> Iterator[tuple[SlotKey, Endpoint]]:
    return ((SlotKey(number, slot), endpoint) for number, slots in sets.items() for slot, endpoint in slots.items())


def members_of(sets: Sets) -> Iterator[MemberKey]:
    return (MemberKey(number, *endpoint) for number, slots in sets.items() for endpoint in slots.values())


def _whole_sets(now: Seen) -> dict[Addresses, int]:
    """Sets that a frontend points at, by what is in them: only of these is it sure that they are whole."""
    numbers: dict[Addresses, int] = {(): NO_SET}
    for value in now.frontends.values():
        if value.set != NO_SET:
            slots = now.sets.get(value.set, {})
            if len(slots) == value.size:
                numbers.setdefault(tuple(slots[i] for i in sorted(slots)), value.set)
    return numbers


def _value(number: int, backends: Backends, key: FrontendKey) -> FrontendValue:
    flags = (EXTERNAL if backends.external else 0) | (RANGED if backends.ranges is not None else 0)
    service = service_number(backends.service or f"{key.ip.hex()}:{key.port.hex()}:{key.protocol}")
    return FrontendValue(number, len(backends.addresses), flags, backends.affinity, service)


def _ranges(backends: Backends) -> Iterator[RangeKey]:
    service = service_number(backends.service).to_bytes(8, sys.byteorder)
    for network in (IPv4Network(text, strict=False) for text in backends.ranges or ()):
        yield RangeKey(SERVICE_BITS + network.prefixlen, service, network.network_address.packed)


@lru_cache(maxsize=65_536)
def service_number(name: str) -> int:
    """64 bits that stand for a Service's port, the same in every run: its clients keep their backends."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def endpoints_of(backends: Iterable[Backend]) -> Addresses:
    return tuple(Endpoint(packed_ip(ip), packed_port(port)) for ip, port in backends)


def key_of(frontend: Frontend) -> FrontendKey:
    """As the map has it. Raises ValueError for an address that is not IPv4, KeyError for an unknown protocol."""
    return FrontendKey(packed_ip(frontend.ip), packed_port(frontend.port), PROTOCOLS[frontend.protocol])


def frontend_of(key: FrontendKey) -> Frontend:
    return Frontend(ip_text(key.ip), port_number(key.port), PROTOCOL_NAMES[key.protocol])
