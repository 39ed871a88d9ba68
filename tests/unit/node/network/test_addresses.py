"""Leases of addresses: their order, their files, and what a killed process leaves."""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.node.network.addresses import Addresses, HostPort, Lease
from havre.node.network.errors import NetworkError, NoFreeAddress

SMALL = IPv4Network("10.42.0.0/29")


def loaded(directory: Path, cidr: IPv4Network = SMALL) -> Addresses:
    addresses = Addresses(cidr, directory)
    addresses.load()
    return addresses


def taken(addresses: Addresses, *sandboxes: str) -> list[str]:
    return [str(addresses.take(sandbox).address) for sandbox in sandboxes]


def test_pods_get_neither_network_gateway_nor_broadcast(tmp_path: Path) -> None:
    addresses = loaded(tmp_path)
    assert addresses.gateway == IPv4Address("10.42.0.1")
    assert taken(addresses, *"abcde") == ["10.42.0.2", "10.42.0.3", "10.42.0.4", "10.42.0.5", "10.42.0.6"]
    with pytest.raises(NoFreeAddress, match=r"pod CIDR 10.42.0.0/29: all 5 addresses are in use"):
        addresses.take("f")


def test_the_address_that_rested_longest_is_next(tmp_path: Path) -> None:
    addresses = loaded(tmp_path)
    taken(addresses, *"abcd")
    addresses.release("c")
    addresses.release("a")
    assert taken(addresses, "x", "y", "z") == ["10.42.0.6", "10.42.0.4", "10.42.0.2"]


def test_a_sandbox_keeps_its_lease(tmp_path: Path) -> None:
    addresses = loaded(tmp_path)
    assert taken(addresses, "a", "a") == ["10.42.0.2", "10.42.0.2"]
    addresses.release("a")
    addresses.release("a")
    assert addresses.get("a") is None
    assert [*tmp_path.iterdir()] == []


def test_another_process_finds_leases_and_goes_on_behind_the_last(tmp_path: Path) -> None:
    former = loaded(tmp_path)
    ports = {HostPort("TCP", "0.0.0.0", 8080): 80}  # noqa: S104
    former.take("a", "default", "web", ports)
    former.take("b")
    former.take("c")
    former.release("b")
    for at, sandbox in enumerate("ac"):
        os.utime(tmp_path / f"{sandbox}.json", (at, at))
    addresses = loaded(tmp_path)
    assert addresses.get("a") == Lease("a", IPv4Address("10.42.0.2"), "default", "web", ports)
    assert taken(addresses, "d", "e", "f") == ["10.42.0.5", "10.42.0.6", "10.42.0.3"]


def test_files_that_are_no_leases_are_removed(tmp_path: Path) -> None:
    loaded(tmp_path).take("good")
    (tmp_path / "half.tmp").write_bytes(b"{")
    (tmp_path / "torn.json").write_bytes(b'{"sandbox": "torn", "addr')
    (tmp_path / "else.json").write_bytes(Lease("else", IPv4Address("192.0.2.1")).encode())
    (tmp_path / "name.json").write_bytes(Lease("other", IPv4Address("10.42.0.6")).encode())
    assert [lease.sandbox for lease in loaded(tmp_path)] == ["good"]
    assert [path.name for path in tmp_path.iterdir()] == ["good.json"]


def test_a_wanted_address_is_given_if_it_is_free(tmp_path: Path) -> None:
    addresses = loaded(tmp_path)
    assert addresses.take("a", address=IPv4Address("10.42.0.5")).address == IPv4Address("10.42.0.5")
    with pytest.raises(NetworkError, match=r"address 10.42.0.5 is not free in 10.42.0.0/29"):
        addresses.take("b", address=IPv4Address("10.42.0.5"))


@pytest.mark.parametrize("cidr", ["10.42.0.0/30", "10.0.0.0/15"])
def test_a_cidr_that_is_too_small_or_too_large_is_refused(tmp_path: Path, cidr: str) -> None:
    with pytest.raises(NetworkError, match="must be from /16 to /29"):
        Addresses(IPv4Network(cidr), tmp_path)


@pytest.mark.parametrize("sandbox", ["", "../x", "a/b", "x" * 129])
def test_a_sandbox_id_that_is_no_file_name_is_refused(tmp_path: Path, sandbox: str) -> None:
    addresses = loaded(tmp_path)
    with pytest.raises(NetworkError, match="must be letters, digits, - and _"):
        addresses.take(sandbox)
    assert taken(addresses, "a") == ["10.42.0.2"]


def test_destroy_removes_the_directory(tmp_path: Path) -> None:
    addresses = loaded(tmp_path / "leases")
    addresses.take("a")
    addresses.destroy()
    addresses.destroy()
    assert not (tmp_path / "leases").exists()


@given(st.binary(max_size=60) | st.sampled_from([b"[]", b"1", b"{}", b'{"ports": 3}', b'{"ports": [{}]}']))
def test_noise_is_not_a_lease(data: bytes) -> None:
    with pytest.raises(ValueError):
        Lease.decode(data)
