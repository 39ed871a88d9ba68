"""The parts of the pod network that need no kernel; the rest is in tests/kernel/network."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from havre.node.network import links
from havre.node.network.errors import NetworkError, NotOpen
from havre.node.network.pods import PodNetwork
from havre.wire.netlink.route import LONGEST_NAME


@pytest.mark.parametrize(
    ("instance", "cidr", "address", "name"),
    [
        ("havre", "10.42.0.0/24", "10.42.0.18", "havre-12"),
        ("tenletters", "10.42.0.0/16", "10.42.255.254", "tenletters-fffe"),
    ],
)
def test_the_longest_name_fits_a_link(instance: str, cidr: str, address: str, name: str) -> None:
    made = links.name_of(instance, IPv4Network(cidr), IPv4Address(address))
    assert made == name
    assert len(made) <= LONGEST_NAME


def test_a_mac_address_follows_from_the_address_and_is_locally_administered() -> None:
    mac = links.mac_of(IPv4Address("10.42.0.5"))
    assert mac.hex(":") == "0a:58:0a:2a:00:05"
    assert mac[0] & 3 == 2


@pytest.mark.parametrize("instance", ["", "elevenletter", "Havre", "a-b", "a b"])
def test_an_instance_whose_links_could_not_be_told_apart_is_refused(tmp_path: Path, instance: str) -> None:
    with pytest.raises(NetworkError, match="must be 1 to 10 of a-z and 0-9"):
        PodNetwork(instance, IPv4Network("10.42.0.0/24"), tmp_path)


async def test_a_network_that_is_not_open_is_not_ready_and_says_so(tmp_path: Path) -> None:
    network = PodNetwork("hv", IPv4Network("10.42.0.0/24"), tmp_path)
    assert not network.ready()
    assert network.gateway == IPv4Address("10.42.0.1")
    with pytest.raises(NotOpen, match="the pod network is not open"):
        await network.restore({})
    assert network.host_ports() == {}
    await network.close()
