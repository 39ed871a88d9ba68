"""Which interfaces are uplinks."""

from __future__ import annotations

from ipaddress import ip_address

from havre.node.network.uplinks import Seen, choose
from havre.wire.netlink.route import Link, LinkAddress

MAC = bytes.fromhex("0a580a2a0002")


def link(index: int, name: str, *, mac: bytes = MAC, up: bool = True, kind: str = "") -> Link:
    return Link(index, name, 1500, mac, up, kind)


def at(index: int, address: str) -> LinkAddress:
    return LinkAddress(index, ip_address(address), 24)


LINKS = [
    link(1, "lo", mac=bytes(6)),
    link(2, "eth0"),
    link(3, "docker0", kind="bridge"),
    link(4, "veth77", kind="veth"),  # a port of docker0: no address
    link(5, "havre-2", kind="veth"),
    link(6, "wg0", mac=b"", kind="wireguard"),
    link(7, "eth1", up=False),
    link(8, "eth2"),
]
ADDRESSES = [
    at(1, "127.0.0.1"),
    at(1, "10.42.0.1"),
    at(2, "192.0.2.1"),
    at(2, "192.0.2.9"),
    at(3, "172.17.0.1"),
    at(5, "198.51.100.1"),
    at(6, "10.9.0.1"),
    at(7, "203.0.113.1"),
    at(8, "fe80::1"),
]


def test_uplinks_are_ethernet_interfaces_with_an_ipv4_address_that_are_not_ours() -> None:
    assert choose(LINKS, ADDRESSES, "havre") == Seen((2, 3), ("172.17.0.1", "192.0.2.1", "192.0.2.9"))


def test_a_machine_without_any_has_none() -> None:
    assert choose(LINKS[:1], ADDRESSES, "havre") == Seen()
