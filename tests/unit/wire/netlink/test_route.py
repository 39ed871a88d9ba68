"""rtnetlink: what is sent for each wish, and what is understood of the kernel's messages."""

from __future__ import annotations

import errno
import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from havre.wire.netlink import route
from havre.wire.netlink.message import Message, attribute, attributes, text, u32
from havre.wire.netlink.route import Link, LinkAddress, Route

MAC = bytes.fromhex("0a580a2a0005")


def test_a_veth_pair_names_both_ends_and_the_namespace_of_the_peer() -> None:
    request = route.veth("hv-5", MAC, "eth0", MAC, 9, 1450)
    found = attributes(request.body, 16)
    info = attributes(found[18])
    peer = attributes(attributes(info[2])[1], 16)
    assert (found[3], found[4], info[1]) == (b"hv-5\0", struct.pack("=I", 1450), b"veth\0")
    assert (peer[3], peer[1], peer[28]) == (b"eth0\0", MAC, struct.pack("=I", 9))
    assert request.what == "add link hv-5 with its peer eth0 in another network namespace"


@pytest.mark.parametrize("name", ["", "sixteen-letters-"])
def test_a_link_name_that_the_kernel_would_cut_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a link name has 1 to 15 bytes"):
        route.rename(1, name)


def test_a_route_says_where_through_what_and_from_which_address() -> None:
    wanted = Route(IPv4Network("10.42.0.5/32"), 7, source=IPv4Address("10.42.0.1"))
    request = route.replace_route(wanted)
    assert request.body[:12] == bytes([2, 32, 0, 0, 254, 4, 253, 1, 0, 0, 0, 0])
    assert route.read_routes([Message(24, 0, 1, request.body)]) == [wanted]
    assert request.what == "set route 10.42.0.5/32 dev 7"


def test_routes_of_version_6_and_large_tables_are_read_back() -> None:
    wanted = Route(IPv6Network("fd00::/64"), 7, IPv6Address("fe80::1"), metric=1024, table=1000)
    assert route.read_routes([Message(24, 0, 1, route.add_route(wanted).body)]) == [wanted]


def test_the_default_route_is_that_of_the_lowest_metric_in_the_main_table() -> None:
    anywhere = IPv4Network("0.0.0.0/0")
    gateway = IPv4Address("192.0.2.1")
    known = [
        Route(anywhere, 2, gateway, metric=100),
        Route(anywhere, 3, gateway, metric=50),
        Route(anywhere, 4, gateway, table=7),
        Route(anywhere, 0, gateway),
        Route(IPv4Network("192.0.2.0/24"), 5),
    ]
    assert route.default_route(known) == known[1]
    assert route.default_route(known[3:]) is None


def test_a_link_is_read_with_its_kind_and_alias() -> None:
    body = struct.pack("=BxHiII", 0, 1, 4, 1, 0) + text(3, "hv-5") + u32(4, 1500) + attribute(1, MAC)
    body += text(20, "default/web") + attribute(18, text(1, "veth"))
    assert route.read_links([Message(16, 0, 1, body)]) == [Link(4, "hv-5", 1500, MAC, True, "veth", "default/web")]


def test_an_address_is_read_back() -> None:
    request = route.add_address(4, IPv4Address("10.42.0.5"), 32)
    assert route.read_addresses([Message(20, 0, 1, request.body)]) == [LinkAddress(4, IPv4Address("10.42.0.5"), 32)]


def test_what_is_as_wished_already_is_no_error() -> None:
    assert errno.EEXIST in route.add_address(1, IPv4Address("10.42.0.1"), 32).accept
    assert errno.ENODEV in route.delete_link(4).accept
    assert errno.ESRCH in route.delete_route(Route(IPv4Network("10.42.0.5/32"), 7)).accept
    assert route.add_route(Route(IPv4Network("10.42.0.5/32"), 7)).accept == ()


def test_a_long_alias_is_cut_to_what_the_kernel_keeps() -> None:
    assert len(attributes(route.set_alias(4, "x" * 400).body, 16)[20]) == 255
