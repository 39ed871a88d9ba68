"""Outgoing NAT on a real kernel: pod – machine – internet, each a network namespace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from tests.kernel.network import namespaces

from havre.node.network import nat
from havre.node.network.pods import PodNetwork

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not shutil.which("nft") or not shutil.which("nsenter"), reason="needs nftables and util-linux"),
]

PODS = IPv4Network("10.42.0.0/24")
SERVICES = IPv4Network("10.96.0.0/16")


@dataclass(frozen=True)
class Pod:
    sandbox: str
    namespace: str = "default"
    name: str = "web"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    path = namespaces.create(tmp_path / "host")
    yield path
    namespaces.remove(path)


@pytest.fixture
def internet(tmp_path: Path, host: Path) -> Iterator[Path]:
    """A namespace behind the host's uplink 192.0.2.2; it knows no way to pods."""
    path = namespaces.create(tmp_path / "internet")
    namespaces.command(host, "ip", "link", "add", "up0", "type", "veth", "peer", "name", "net0", "netns", str(path))
    for where, link, address in ((host, "up0", "192.0.2.2/24"), (path, "net0", "192.0.2.1/24")):
        namespaces.command(where, "ip", "addr", "add", address, "dev", link)
        namespaces.command(where, "ip", "link", "set", link, "up")
    namespaces.command(host, "ip", "route", "add", "default", "via", "192.0.2.1")
    yield path
    namespaces.remove(path)


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Path]:
    path = namespaces.create(tmp_path / "pod")
    yield path
    namespaces.remove(path)


async def test_the_world_outside_sees_the_address_of_the_uplink(
    tmp_path: Path, host: Path, internet: Path, pod: Path
) -> None:
    network = PodNetwork("hv", PODS, tmp_path / "run", host=host)
    await network.open()
    await network.attach(Pod("a"), pod)
    assert await namespaces.peer_seen(internet, pod, "192.0.2.1") == "192.0.2.2"
    await network.close()


async def test_the_table_reads_as_it_should_in_nft(host: Path) -> None:
    for _ in range(2):  # the second time, it is there already
        namespaces.inside(host, lambda: nat.install("hv", PODS, [SERVICES]))
    assert namespaces.command(host, "nft", "list", "ruleset") == (
        "table ip hv {\n"
        "\tchain outgoing {\n"
        "\t\ttype nat hook postrouting priority srcnat; policy accept;\n"
        "\t\tip saddr 10.42.0.0/24 ip daddr != 10.42.0.0/24 ip daddr != 10.96.0.0/16 masquerade\n"
        "\t}\n"
        "}\n"
    )


async def test_other_tables_are_not_touched(host: Path) -> None:
    namespaces.command(host, "nft", "add table ip other; add chain ip other c; add table inet hv")
    before = namespaces.command(host, "nft", "list", "ruleset")
    namespaces.inside(host, lambda: nat.install("hv", PODS, [SERVICES]))
    namespaces.inside(host, lambda: nat.remove("hv"))
    namespaces.inside(host, lambda: nat.remove("hv"))
    assert namespaces.command(host, "nft", "list", "ruleset") == before


async def test_foreign_chains_that_drop_forwarded_packets_are_named(host: Path) -> None:
    namespaces.command(
        host,
        "nft",
        "add table inet fw; add chain inet fw f { type filter hook forward priority 0; policy drop; };"
        "add chain inet fw i { type filter hook input priority 0; policy drop; };"
        "add table ip ok; add chain ip ok f { type filter hook forward priority 0; policy accept; }",
    )
    namespaces.inside(host, lambda: nat.install("hv", PODS, [SERVICES]))
    assert namespaces.inside(host, lambda: nat.obstacles("hv")) == ["fw/f"]
