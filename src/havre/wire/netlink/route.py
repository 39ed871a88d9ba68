"""rtnetlink: requests for links, addresses, routes and neighbours, and what the kernel tells of them.

Requests are values; `Connection.run` carries them out. Addresses are `ipaddress` objects of either version; a MAC
address is six bytes.

Source: linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/neighbour.h; rtnetlink(7).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from havre.wire.netlink.message import (
    CREATE,
    EXCLUSIVE,
    REPLACE,
    Malformed,
    Message,
    Request,
    attribute,
    attributes,
    nested,
    text,
    u32,
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LONGEST_NAME = 15  # IFNAMSIZ without its zero byte

NEW_LINK, DELETE_LINK, GET_LINK, SET_LINK = 16, 17, 18, 19
NEW_ADDRESS, DELETE_ADDRESS, GET_ADDRESS = 20, 21, 22
NEW_ROUTE, DELETE_ROUTE, GET_ROUTE = 24, 25, 26
NEW_NEIGHBOUR, DELETE_NEIGHBOUR = 28, 29

_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, to, from, tos, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type

UP, LOOPBACK = 0x1, 0x8
UNIVERSE, LINK, HOST = 0, 253, 254  # scope: how far away a destination can be
UNICAST = 1
MAIN = 254
STATIC = 4  # protocol of a route: an administrator made it
PERMANENT = 0x80

_IFLA_ADDRESS, _IFLA_NAME, _IFLA_MTU, _IFLA_INFO, _IFLA_ALIAS, _IFLA_GROUP, _IFLA_NETNS_FD = 1, 3, 4, 18, 20, 27, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_TO, _RTA_DEVICE, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_SOURCE, _RTA_TABLE = 1, 4, 5, 6, 7, 15
_NDA_TO, _NDA_MAC = 1, 2


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    mtu: int
    mac: bytes
    up: bool
    kind: str = ""  # "veth", "bridge" …; "" for hardware and loopback
    alias: str = ""


@dataclass(frozen=True, slots=True)
class LinkAddress:
    index: int
    address: Address
    prefix: int


@dataclass(frozen=True, slots=True)
class Route:
    to: Network  # 0.0.0.0/0: the default route
    device: int  # 0: none, or several
    gateway: Address | None = None
    source: Address | None = None
    metric: int = 0
    table: int = MAIN


# links


def veth(name: str, mac: bytes, peer: str, peer_mac: bytes, netns: int, mtu: int) -> Request:
    """A pair of links: `name` here and up, `peer` in the namespace behind the file descriptor `netns`, still down.

    (The peer is made first, and the kernel refuses to bring up an end that has no other end yet.)
    """
    return Request(
        f"add link {name} with its peer {peer} in another network namespace",
        NEW_LINK,
        CREATE | EXCLUSIVE,
        _link(0, UP, UP)
        + _end(name, mac, mtu)
        + nested(
            _IFLA_INFO,
            text(_INFO_KIND, "veth"),
            nested(
                _INFO_DATA,
                attribute(_VETH_PEER, _link(0) + _end(peer, peer_mac, mtu) + u32(_IFLA_NETNS_FD, netns)),
            ),
        ),
    )


def bring_up(index: int) -> Request:
    return Request(f"set link {index} up", SET_LINK, 0, _link(index, UP, UP))


def set_mtu(index: int, mtu: int) -> Request:
    return Request(f"set mtu {mtu} of link {index}", SET_LINK, 0, _link(index) + u32(_IFLA_MTU, mtu))


def rename(index: int, name: str) -> Request:
    return Request(f"rename link {index} to {name}", SET_LINK, 0, _link(index) + _named(name))


def set_alias(index: int, alias: str) -> Request:
    """A line for people, shown by `ip link`; cut to what the kernel keeps."""
    return Request(
        f"set alias of link {index}", SET_LINK, 0, _link(index) + attribute(_IFLA_ALIAS, alias.encode()[:255])
    )


def delete_link(index: int) -> Request:
    """Of a veth pair, both ends go. That there is none is fine."""
    return Request(f"delete link {index}", DELETE_LINK, 0, _link(index), accept=(errno.ENODEV,))


def set_group(index: int, group: int) -> Request:
    """Put a link into a group; that it is gone already is fine."""
    what = f"put link {index} into group {group}"
    return Request(what, SET_LINK, 0, _link(index) + u32(_IFLA_GROUP, group), accept=(errno.ENODEV,))


def delete_group(group: int) -> Request:
    """All links of a group at once, which takes the kernel as long as one. That there are none is fine."""
    body = _link(0) + u32(_IFLA_GROUP, group)
    return Request(f"delete links of group {group}", DELETE_LINK, 0, body, accept=(errno.ENODEV,))


def links() -> Request:
    return Request("list links", GET_LINK, 0, _link(0))


def read_links(found: Iterable[Message]) -> list[Link]:
    return [_read_link(message) for message in found if message.kind == NEW_LINK]


# addresses


def add_address(index: int, address: Address, prefix: int) -> Request:
    """That it is there already is fine."""
    return Request(
        f"add address {address}/{prefix} to link {index}",
        NEW_ADDRESS,
        CREATE | EXCLUSIVE,
        _address(index, address, prefix),
        accept=(errno.EEXIST,),
    )


def delete_address(index: int, address: Address, prefix: int) -> Request:
    """That it is gone already is fine."""
    return Request(
        f"delete address {address}/{prefix} of link {index}",
        DELETE_ADDRESS,
        0,
        _address(index, address, prefix),
        accept=(errno.EADDRNOTAVAIL, errno.ENODEV),
    )


def addresses() -> Request:
    return Request("list addresses", GET_ADDRESS, 0, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0))


def read_addresses(found: Iterable[Message]) -> list[LinkAddress]:
    return [_read_address(message) for message in found if message.kind == NEW_ADDRESS]


# routes


def replace_route(route: Route) -> Request:
    """The route to `route.to` of this metric: made, or changed to this one."""
    return Request(f"set {_described(route)}", NEW_ROUTE, CREATE | REPLACE, _route(route))


def add_route(route: Route) -> Request:
    return Request(f"add {_described(route)}", NEW_ROUTE, CREATE | EXCLUSIVE, _route(route))


def delete_route(route: Route) -> Request:
    """That it is gone already is fine."""
    return Request(f"delete {_described(route)}", DELETE_ROUTE, 0, _route(route), accept=(errno.ESRCH, errno.ENODEV))


def routes(family: int = socket.AF_INET) -> Request:
    return Request("list routes", GET_ROUTE, 0, _ROUTE.pack(family, *([0] * 8)))


def read_routes(found: Iterable[Message]) -> list[Route]:
    return [_read_route(message) for message in found if message.kind == NEW_ROUTE]


def default_route(known: Iterable[Route]) -> Route | None:
    """Of the main table's default routes through one device, the one that the kernel prefers."""
    usable = [r for r in known if r.to.prefixlen == 0 and r.table == MAIN and r.device]
    return min(usable, key=lambda r: r.metric, default=None)


# neighbours


def permanent_neighbour(index: int, address: Address, mac: bytes) -> Request:
    """Who has the address on that link: never asked, never forgotten."""
    return Request(
        f"set neighbour {address} on link {index}",
        NEW_NEIGHBOUR,
        CREATE | REPLACE,
        _NEIGHBOUR.pack(_family(address), index, PERMANENT, 0, UNICAST)
        + attribute(_NDA_TO, address.packed)
        + attribute(_NDA_MAC, mac),
    )


# the fixed parts


def _link(index: int, flags: int = 0, change: int = 0) -> bytes:
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, change)


def _end(name: str, mac: bytes, mtu: int) -> bytes:
    return _named(name) + attribute(_IFLA_ADDRESS, mac) + u32(_IFLA_MTU, mtu)


def _named(name: str) -> bytes:
    if not 0 < len(name.encode()) <= LONGEST_NAME:
        raise ValueError(f"a link name has 1 to {LONGEST_NAME} bytes, not {name!r}")
    return text(_IFLA_NAME, name)


def _address(index: int, address: Address, prefix: int) -> bytes:
    scope = HOST if address.is_loopback else UNIVERSE
    fixed = _ADDRESS.pack(_family(address), prefix, 0, scope, index)
    return fixed + attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)


def _route(route: Route) -> bytes:
    scope = LINK if route.gateway is None else UNIVERSE
    table = route.table if route.table < 256 else 0
    fixed = _ROUTE.pack(_family(route.to), route.to.prefixlen, 0, 0, table, STATIC, scope, UNICAST, 0)
    parts = [fixed, attribute(_RTA_TO, route.to.network_address.packed), u32(_RTA_TABLE, route.table)]
    if route.device:
        parts.append(u32(_RTA_DEVICE, route.device))
    if route.gateway is not None:
        parts.append(attribute(_RTA_GATEWAY, route.gateway.packed))
    if route.source is not None:
        parts.append(attribute(_RTA_SOURCE, route.source.packed))
    if route.metric:
        parts.append(u32(_RTA_PRIORITY, route.metric))
    return b"".join(parts)


def _described(route: Route) -> str:
    via = f" via {route.gateway}" if route.gateway is not None else ""
    return f"route {route.to}{via} dev {route.device}"


def _family(of: Address | Network) -> int:
    return socket.AF_INET if of.version == 4 else socket.AF_INET6


# reading


def _read_link(message: Message) -> Link:
    _, _, index, flags, _ = _fixed(_LINK, message)
    found = message.attributes(_LINK.size)
    info = attributes(found.get(_IFLA_INFO, b""))
    return Link(
        index,
        _string(found.get(_IFLA_NAME, b"")),
        _number(found.get(_IFLA_MTU, bytes(4))),
        found.get(_IFLA_ADDRESS, b""),
        bool(flags & UP),
        _string(info.get(_INFO_KIND, b"")),
        _string(found.get(_IFLA_ALIAS, b"")),
    )


def _read_address(message: Message) -> LinkAddress:
    _, prefix, _, _, index = _fixed(_ADDRESS, message)
    found = message.attributes(_ADDRESS.size)
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS) or b""
    return LinkAddress(index, _ip(packed), prefix)


def _read_route(message: Message) -> Route:
    family, length, _, _, table, *_ = _fixed(_ROUTE, message)
    found = message.attributes(_ROUTE.size)
    packed = found.get(_RTA_TO) or bytes(4 if family == socket.AF_INET else 16)
    gateway, source = found.get(_RTA_GATEWAY), found.get(_RTA_SOURCE)
    return Route(
        _network(packed, length),
        _number(found.get(_RTA_DEVICE, bytes(4))),
        _ip(gateway) if gateway else None,
        _ip(source) if source else None,
        _number(found.get(_RTA_PRIORITY, bytes(4))),
        _number(found[_RTA_TABLE]) if _RTA_TABLE in found else table,
    )


def _fixed(form: struct.Struct, message: Message) -> tuple[int, ...]:
    if len(message.body) < form.size:
        raise Malformed(f"message of kind {message.kind} has {len(message.body)} bytes, not {form.size}")
    return form.unpack_from(message.body)


def _ip(packed: bytes) -> Address:
    try:
        return ipaddress.ip_address(packed)
    except ValueError:
        raise Malformed(f"an address of {len(packed)} bytes") from None


def _network(packed: bytes, length: int) -> Network:
    try:
        return ipaddress.ip_network((packed, length), strict=False)
    except ValueError:
        raise Malformed(f"a destination of {len(packed)} bytes and {length} bits") from None


def _number(value: bytes) -> int:
    if len(value) != 4:
        raise Malformed(f"a number of {len(value)} bytes")
    number: int = struct.unpack("=I", value)[0]
    return number


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")
