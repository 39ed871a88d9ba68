"""The pod network on a real kernel: a namespace plays the machine, others the pods and the world outside."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from tests.kernel.network import namespaces

from havre.node.network import links
from havre.node.network.addresses import HostPort, Target
from havre.node.network.errors import NetworkError, NoFreeAddress, NotOpen, Overlap, PortTaken
from havre.node.network.pods import PodNetwork
from havre.wire.netlink import route
from havre.wire.netlink.connection import Connection
from havre.wire.netlink.route import Route

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not shutil.which("ip") or not shutil.which("nsenter"), reason="needs iproute2 and util-linux"),
]

CIDR = IPv4Network("10.42.0.0/24")
ANY = "0.0.0.0"  # noqa: S104
SMALL = IPv4Network("10.42.0.0/29")


@dataclass(frozen=True)
class Pod:
    sandbox: str
    namespace: str = "default"
    name: str = "web"


@dataclass(frozen=True)
class Port:
    host_port: int
    container_port: int = 80
    protocol: str = "TCP"
    host_ip: str = ""


class Recorder:
    """A datapath that writes down what it is told."""

    def __init__(self) -> None:
        self.pods: dict[str, tuple[int, bytes, int | None]] = {}
        self.failing = False

    def add_pod(self, ip: str, ifindex: int, mac: bytes, netns_cookie: int | None) -> None:
        if self.failing:
            raise OSError(28, "No space left on device")
        self.pods[ip] = ifindex, mac, netns_cookie

    def remove_pod(self, ip: str) -> None:
        self.pods.pop(ip, None)


class Machine:
    """A namespace that plays the machine, and as many for pods as asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.run = directory / "run"
        self.host = namespaces.create(directory / "host")
        self._made = [self.host]

    def namespace(self, name: str) -> Path:
        self._made.append(namespaces.create(self.directory / name))
        return self._made[-1]

    def network(self, cidr: IPv4Network = CIDR, datapath: Recorder | None = None) -> PodNetwork:
        return PodNetwork("hv", cidr, self.run, datapath=datapath, host=self.host)

    def links(self) -> list[str]:
        def read() -> list[str]:
            with Connection() as kernel:
                return [link.name for link in route.read_links(kernel.dump(route.links()))]

        return [name for name in namespaces.inside(self.host, read) if "-" in name]

    def show(self, *words: str) -> str:
        return namespaces.command(self.host, *words)

    def leases(self) -> list[str]:
        return sorted(path.stem for path in (self.run / "network" / "leases").glob("*"))

    def remove(self) -> None:
        for path in self._made:
            namespaces.remove(path)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.remove()


@pytest.fixture
async def network(machine: Machine) -> AsyncIterator[PodNetwork]:
    made = machine.network()
    await made.open()
    yield made
    if made.ready():
        await made.close()


async def test_two_pods_reach_each_other_with_their_own_addresses(machine: Machine, network: PodNetwork) -> None:
    one, two = machine.namespace("one"), machine.namespace("two")
    assert await network.attach(Pod("a"), one) == "10.42.0.2"
    assert await network.attach(Pod("b"), two) == "10.42.0.3"
    assert await namespaces.peer_seen(two, one, "10.42.0.3") == "10.42.0.2"


async def test_pod_and_machine_reach_each_other_through_the_gateway_address(
    machine: Machine, network: PodNetwork
) -> None:
    pod = machine.namespace("one")
    await network.attach(Pod("a"), pod)
    assert await namespaces.peer_seen(pod, machine.host, "10.42.0.2") == "10.42.0.1"
    assert await namespaces.peer_seen(machine.host, pod, "10.42.0.1") == "10.42.0.2"
    assert await namespaces.peer_seen(pod, pod, "127.0.0.1") == "127.0.0.1"


async def test_a_pod_has_one_link_a_default_route_and_a_neighbour_that_is_never_asked_for(
    machine: Machine, network: PodNetwork
) -> None:
    pod = machine.namespace("one")
    await network.attach(Pod("a"), pod)
    assert "inet 10.42.0.2/32 scope global eth0" in namespaces.command(pod, "ip", "-4", "addr", "show", "eth0")
    assert "default via 10.42.0.1 dev eth0" in namespaces.command(pod, "ip", "route")
    assert "10.42.0.1 dev eth0 lladdr 0a:58:0a:2a:00:01 PERMANENT" in namespaces.command(pod, "ip", "neigh")
    assert "10.42.0.2 dev hv-2 proto static scope link src 10.42.0.1" in machine.show("ip", "route")
    assert "alias default/web" in machine.show("ip", "link", "show", "hv-2")
    assert "inet6" not in machine.show("ip", "addr", "show", "hv-2")


async def test_links_take_the_mtu_of_the_uplink(machine: Machine) -> None:
    machine.show("ip", "link", "add", "up0", "mtu", "1420", "type", "veth", "peer", "name", "far0")
    machine.show("ip", "addr", "add", "192.0.2.2/24", "dev", "up0")
    machine.show("ip", "link", "set", "up0", "up")
    machine.show("ip", "route", "add", "default", "via", "192.0.2.1")
    network = machine.network()
    await network.open()
    pod = machine.namespace("one")
    await network.attach(Pod("a"), pod)
    assert " mtu 1420 " in namespaces.command(pod, "ip", "link", "show", "eth0")
    assert " mtu 1420 " in machine.show("ip", "link", "show", "hv-2")
    await network.close()


async def test_attaching_twice_changes_nothing(machine: Machine, network: PodNetwork) -> None:
    pod = machine.namespace("one")
    await network.attach(Pod("a"), pod)
    before = machine.show("ip", "-o", "link", "show", "hv-2")
    answers = await asyncio.gather(network.attach(Pod("a"), pod), network.attach(Pod("a"), pod))
    assert list(answers) == ["10.42.0.2", "10.42.0.2"]
    assert machine.show("ip", "-o", "link", "show", "hv-2") == before
    assert machine.leases() == ["a"]


async def test_detach_leaves_nothing_and_can_be_repeated(machine: Machine, network: PodNetwork) -> None:
    pod = machine.namespace("one")
    await network.attach(Pod("a"), pod)
    await network.detach("a")
    await network.detach("a")
    assert machine.links() == []
    assert machine.leases() == []
    assert machine.show("ip", "route") == ""
    assert "eth0" not in namespaces.command(pod, "ip", "link")
    assert network.address("a") == ""


async def test_many_leave_at_once(machine: Machine, network: PodNetwork) -> None:
    pods = [machine.namespace(f"pod{number}") for number in range(5)]
    for number, pod in enumerate(pods):
        await network.attach(Pod(f"s{number}"), pod)
    await asyncio.gather(*(network.detach(f"s{number}") for number in range(4)))
    assert machine.links() == ["hv-6"]
    assert machine.leases() == ["s4"]


async def test_detach_works_when_the_namespace_is_gone(machine: Machine, network: PodNetwork) -> None:
    pod = machine.namespace("one")
    await network.attach(Pod("a"), pod)
    namespaces.remove(pod)
    await network.detach("a")
    assert machine.links() == []


async def test_addresses_run_out_with_a_clear_error_and_come_back(machine: Machine) -> None:
    network = machine.network(SMALL)
    await network.open()
    pods = [machine.namespace(f"pod{number}") for number in range(6)]
    for number, pod in enumerate(pods[:5]):
        await network.attach(Pod(f"s{number}"), pod)
    with pytest.raises(NoFreeAddress, match=r"pod CIDR 10.42.0.0/29: all 5 addresses are in use"):
        await network.attach(Pod("s5"), pods[5])
    await network.detach("s3")
    assert await network.attach(Pod("s5"), pods[5]) == "10.42.0.5"
    await network.close()


async def test_an_attach_that_fails_leaves_nothing(machine: Machine, network: PodNetwork) -> None:
    pod = machine.namespace("one")
    namespaces.command(pod, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    with pytest.raises(NetworkError, match=r"connect network namespace .*one as 10.42.0.2: add link hv-2 .*EEXIST"):
        await network.attach(Pod("a"), pod)
    with pytest.raises(NetworkError, match=r"missing as 10.42.0.3: .*No such file"):
        await network.attach(Pod("b"), machine.directory / "missing")
    assert machine.links() == []
    assert machine.leases() == []


async def test_a_datapath_that_fails_undoes_the_attach(machine: Machine) -> None:
    datapath = Recorder()
    network = machine.network(datapath=datapath)
    await network.open()
    datapath.failing = True
    with pytest.raises(NetworkError, match="No space left"):
        await network.attach(Pod("a"), machine.namespace("one"))
    assert machine.links() == []
    datapath.failing = False
    await network.attach(Pod("a"), machine.directory / "one")
    assert [*datapath.pods] == ["10.42.0.3"]
    await network.detach("a")
    assert datapath.pods == {}
    await network.close()


async def test_the_datapath_is_told_index_mac_and_cookie(machine: Machine) -> None:
    datapath = Recorder()
    network = machine.network(datapath=datapath)
    await network.open()
    pod = machine.namespace("one")
    await network.attach(Pod("a"), pod)
    index, mac, cookie = datapath.pods["10.42.0.2"]
    assert index == namespaces.inside(machine.host, lambda: links.index_of("hv-2"))
    assert mac == bytes.fromhex("0a580a2a0002")
    assert cookie == namespaces.inside(pod, lambda: links.cookie_of(pod))
    await network.close()


async def test_a_killed_process_finds_the_living_again_and_removes_the_dead(machine: Machine) -> None:
    former = machine.network()
    await former.open()
    living, dead = machine.namespace("living"), machine.namespace("dead")
    await former.attach(Pod("living"), living, [Port(8080)])
    await former.attach(Pod("dead"), dead)
    before = machine.show("ip", "-o", "link", "show", "hv-2")
    machine.show("ip", "link", "add", "hv-99", "type", "veth", "peer", "name", "stray")  # its lease was never written
    machine.show("ip", "link", "add", "hv2-9", "type", "veth", "peer", "name", "foreign")  # another instance's

    datapath = Recorder()
    network = machine.network(datapath=datapath)  # nobody closed the former one
    await network.open()
    await network.restore({"living": living, "never": machine.directory / "gone"})
    assert machine.leases() == ["living"]
    assert sorted(machine.links()) == ["hv-2", "hv2-9"]
    assert machine.show("ip", "-o", "link", "show", "hv-2") == before
    assert [*datapath.pods] == ["10.42.0.2"]
    assert network.host_ports() == {HostPort("TCP", ANY, 8080): Target("10.42.0.2", 80)}
    assert await namespaces.peer_seen(living, machine.host, "10.42.0.2") == "10.42.0.1"
    assert await network.attach(Pod("living"), living) == "10.42.0.2"
    await network.close()
    await former.close()


async def test_a_living_sandbox_whose_lease_was_lost_keeps_its_address(machine: Machine) -> None:
    former = machine.network()
    await former.open()
    pod = machine.namespace("one")
    await former.attach(Pod("other"), machine.namespace("two"))
    await former.attach(Pod("a"), pod)
    await former.close()
    (machine.run / "network" / "leases" / "a.json").write_bytes(b"\0" * 40)
    network = machine.network()
    await network.open()
    await network.restore({"a": pod})
    assert network.address("a") == "10.42.0.3"
    assert machine.links() == ["hv-3"]
    assert machine.leases() == ["a"]
    await network.close()


async def test_a_pod_whose_link_was_lost_is_connected_again_with_its_address(machine: Machine) -> None:
    former = machine.network()
    await former.open()
    pod = machine.namespace("one")
    await former.attach(Pod("a"), pod)
    await former.close()
    machine.show("ip", "link", "delete", "hv-2")
    network = machine.network()
    await network.open()
    await network.restore({"a": pod})
    assert await namespaces.peer_seen(pod, machine.host, "10.42.0.2") == "10.42.0.1"
    await network.close()


async def test_a_taken_host_port_is_refused_and_named(machine: Machine, network: PodNetwork) -> None:
    heard: list[int] = []
    network.subscribe(lambda: heard.append(len(network.host_ports())))
    one, two = machine.namespace("one"), machine.namespace("two")
    await network.attach(Pod("a"), one, [Port(8080), Port(0, 9090)])
    with pytest.raises(PortTaken, match="host port 8080/TCP: pod default/web has it"):
        await network.attach(Pod("b"), two, [Port(8080, host_ip="192.0.2.1")])
    await network.attach(Pod("b"), two, [Port(8080, protocol="UDP")])
    assert sorted(port.protocol for port in network.host_ports()) == ["TCP", "UDP"]
    await network.detach("a")
    assert heard == [1, 2, 1]


async def test_a_cidr_that_the_machine_uses_already_is_refused(machine: Machine) -> None:
    machine.show("ip", "link", "add", "up0", "type", "veth", "peer", "name", "far0")
    machine.show("ip", "addr", "add", "10.42.7.1/16", "dev", "up0")
    machine.show("ip", "link", "set", "up0", "up")
    network = machine.network()
    with pytest.raises(Overlap, match=r"pod CIDR 10.42.0.0/24 overlaps the route to 10.42.0.0/16"):
        await network.open()
    assert not network.ready()
    await network.close()


async def test_destroy_leaves_the_machine_as_it_was(machine: Machine) -> None:
    settings = ["sysctl", "net.ipv4.ip_forward"]
    looks = (["nft", "list", "ruleset"], ["ip", "-o", "addr"], settings)
    machine.show("ip", "link", "set", "lo", "up")
    machine.show("sysctl", "-w", "net.ipv4.ip_forward=0")
    before = [machine.show(*words) for words in looks]
    network = machine.network()
    await network.open()
    await network.attach(Pod("a"), machine.namespace("one"))
    assert machine.show(*settings) == "net.ipv4.ip_forward = 1\n"
    await network.destroy()
    assert [machine.show(*words) for words in looks] == before
    assert machine.links() == []
    assert [*(machine.run / "network").iterdir()] == []
    with pytest.raises(NotOpen):
        await network.attach(Pod("b"), machine.directory / "one")


async def test_uninstall_needs_no_running_network(machine: Machine) -> None:
    former = machine.network()
    await former.open()
    await former.attach(Pod("a"), machine.namespace("one"))
    await former.close()
    await machine.network().destroy()
    assert machine.links() == []
    assert machine.show("nft", "list", "ruleset") == ""
    assert not (machine.run / "network" / "leases").exists()


async def test_forwarding_stays_on_when_somebody_else_on_the_machine_needs_it(machine: Machine) -> None:
    machine.show("sysctl", "-w", "net.ipv4.ip_forward=0")
    network = machine.network()
    await network.open()
    machine.show("ip", "link", "add", "docker0", "type", "bridge")
    await network.destroy()
    assert machine.show("sysctl", "net.ipv4.ip_forward") == "net.ipv4.ip_forward = 1\n"


async def test_the_kernel_names_what_it_refused(machine: Machine) -> None:
    def ask() -> None:
        with Connection() as kernel:
            kernel.run(route.add_route(Route(IPv4Network("198.51.100.0/24"), 1, IPv4Address("192.0.2.9"))))

    with pytest.raises(Exception, match=r"add route 198.51.100.0/24 via 192.0.2.9 dev 1: ENET\w+ Network is \w+"):
        namespaces.inside(machine.host, ask)
