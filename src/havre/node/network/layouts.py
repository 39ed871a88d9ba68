"""The structs of the network's maps, as Python sees them; C sees them in maps.h, services.bpf.c and datapath.bpf.c.

Addresses and ports are bytes in network order. A test compares every Layout with the BTF of the compiled objects.
"""

from __future__ import annotations

import socket
from typing import Final, NamedTuple

from havre.node.bpf.maps import Layout

PROTOCOLS: Final = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP}
PROTOCOL_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}

HOST, POD = 1, 2  # kinds of a network namespace
OTHERS = 0  # the cookie that stands for every namespace that is not known
EXTERNAL, RANGED = 1, 2  # flags of a frontend
POLICY, DELIVER = 0, 1  # indices of the map `stages`
REASONS: Final = ("spoofed", "ipv6", "malformed", "untranslatable", "out_of_range")  # why packets were dropped


class Address(NamedTuple):
    ip: bytes


class Cookie(NamedTuple):
    value: int


class Kind(NamedTuple):
    value: int


class Pod(NamedTuple):
    cookie: int
    ifindex: int
    mac: bytes


class FrontendKey(NamedTuple):
    ip: bytes
    port: bytes
    protocol: int


class FrontendValue(NamedTuple):
    set: int
    size: int
    flags: int
    timeout: int
    service: int


class SlotKey(NamedTuple):
    set: int
    slot: int


class Endpoint(NamedTuple):
    ip: bytes
    port: bytes


class MemberKey(NamedTuple):
    set: int
    ip: bytes
    port: bytes


class RangeKey(NamedTuple):
    prefix: int
    service: bytes
    ip: bytes


class Drops(NamedTuple):
    packets: int
    bytes: int


class Index(NamedTuple):
    value: int


class Mark(NamedTuple):
    value: int


ADDRESS: Final = Layout("__be32", "=4s", Address)
COOKIE: Final = Layout("__u64", "=Q", Cookie)
KIND: Final = Layout("__u32", "=I", Kind)
POD_LAYOUT: Final = Layout("pod", "=QI6s6x", Pod)
FRONTEND_KEY: Final = Layout("frontend_key", "=4s2sBx", FrontendKey)
FRONTEND: Final = Layout("frontend", "=IHHI4xQ", FrontendValue)
SLOT_KEY: Final = Layout("slot_key", "=II", SlotKey)
ENDPOINT: Final = Layout("endpoint", "=4s2s2x", Endpoint)
MEMBER_KEY: Final = Layout("member_key", "=I4s2s2x", MemberKey)
RANGE_KEY: Final = Layout("range_key", "=I8s4s", RangeKey)
DROPS: Final = Layout("drops", "=QQ", Drops)
MARK: Final = Layout("__u32", "=I", Mark)
INDEX: Final = Layout("__u32", "=I", Index)


def packed_ip(ip: str) -> bytes:
    """The four bytes of an IPv4 address. Raises ValueError."""
    try:
        return socket.inet_pton(socket.AF_INET, ip)
    except OSError as error:
        raise ValueError(f"{ip!r} is not an IPv4 address") from error


def packed_port(port: int) -> bytes:
    return port.to_bytes(2, "big")


def ip_text(ip: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET, ip)


def port_number(port: bytes) -> int:
    return int.from_bytes(port, "big")
