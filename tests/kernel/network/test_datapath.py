"""Packets: from pod to pod past the host's stack, from outside to Services, and through every restart."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from tests.kernel.network import namespaces
from tests.kernel.network.world import GATEWAY, NODE, OUTSIDE, Pod, Refused, World

from havre.node.bpf import links
from havre.node.bpf.call import BpfError, info
from havre.node.bpf.load import Code, Object, code_at
from havre.node.bpf.maps import map_info
from havre.node.network.datapath import SOCKETS, Datapath
from havre.node.network.errors import NotOpen
from havre.node.network.frontends import Backend, Backends, Frontend
from havre.node.network.pods import PodNetwork
from havre.node.network.uplinks import Uplinks
from havre.testing import eventually

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not shutil.which("ip") or not shutil.which("nsenter"), reason="needs iproute2 and util-linux"),
]

SERVICE = "10.96.7.1"
TCP_PORT, UDP_PORT = Frontend(NODE, 30080), Frontend(NODE, 30053, "UDP")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path, "datapath")
    try:
        await world.datapath.open()
        yield world
    finally:
        await world.close()


# between pods


async def test_pods_reach_each_other_past_the_hosts_stack(world: World) -> None:
    one, two = world.add(world.pod(1)), world.add(world.pod(2))
    world.run(world.host, "sysctl -qw net.ipv4.ip_forward=0")
    world.server(two, 80, "two")
    assert world.process(one.netns).do(f"ask(('{two.ip}', 80))") == f"two {one.ip}"


async def test_a_pod_that_is_removed_is_reached_no_more_and_its_program_is_gone(world: World) -> None:
    one, two = world.add(world.pod(1)), world.add(world.pod(2))
    world.run(world.host, "sysctl -qw net.ipv4.ip_forward=0")
    world.server(two, 80, "two")
    world.remove(two)
    assert world.datapath.pods() == {one.ip: one.ifindex}
    with pytest.raises(Refused):
        world.process(one.netns).do(f"s = socket.socket()\ns.settimeout(0.3)\ns.connect(('{two.ip}', 80))")
    world.remove(two)  # again is the same as once


async def test_a_pod_may_send_only_from_its_own_address(world: World) -> None:
    one, two = world.add(world.pod(1)), world.add(world.pod(2))
    echo = world.echo(two, 53, "two")
    world.run(one.netns, "ip addr add 10.42.9.77/32 dev eth0")
    client = world.process(one.netns)
    client.do(f"s = udp()\ns.bind(('10.42.9.77', 0))\ns.sendto(b'false', ('{two.ip}', 53))")
    client.do(f"t = udp()\nt.sendto(b'true', ('{two.ip}', 53))")
    assert client.do("t.recv(99).decode()") == "two true"
    assert world.datapath.dropped()["spoofed"] == 1
    assert echo.do("1") == 1


async def test_ipv6_of_a_pod_is_dropped(world: World) -> None:
    one = world.add(world.pod(1))
    client, before = world.process(one.netns), world.datapath.dropped()["ipv6"]
    client.do("raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nraw.bind(('eth0', 0))")
    client.do(f"raw.send(bytes.fromhex('333300000001{one.mac.hex()}86dd') + bytes(40))")
    assert world.datapath.dropped()["ipv6"] > before


async def test_a_false_arp_answer_of_a_pod_is_dropped(world: World) -> None:
    one = world.add(world.pod(1))
    frame = bytes.fromhex("ffffffffffff") + one.mac + bytes.fromhex("0806 0001 0800 06 04 0002")
    false = frame + one.mac + bytes([192, 0, 2, 1]) + one.mac + bytes([10, 42, 9, 2])
    true = frame + one.mac + bytes([10, 42, 9, 1]) + one.mac + bytes([10, 42, 9, 2])
    client = world.process(one.netns)
    client.do("raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nraw.bind(('eth0', 0))")
    client.do(f"raw.send(bytes.fromhex('{true.hex()}'))")
    assert world.datapath.dropped()["spoofed"] == 0
    client.do(f"raw.send(bytes.fromhex('{false.hex()}'))")
    assert world.datapath.dropped()["spoofed"] == 1


async def test_a_pod_reaches_the_host_and_the_world_through_the_stack(world: World) -> None:
    one = world.add(world.pod(1))
    outside, _ = world.outside()
    world.run(world.host, f"ip addr add {GATEWAY}/32 dev lo")
    world.run(outside, f"ip route add {one.ip}/32 via {NODE}")
    there = world.process(outside)
    there.do("listening = socket.create_server(('0.0.0.0', 80))")
    world.process(world.host).do("listening = socket.create_server(('0.0.0.0', 80))")
    client = world.process(one.netns)
    assert client.do(f"connect(('{OUTSIDE}', 80)).getpeername()") == [OUTSIDE, 80]
    assert client.do(f"connect(('{GATEWAY}', 80)).getpeername()") == [GATEWAY, 80]


STRICT = """
#include "havre.h"
MAP(stages, BPF_MAP_TYPE_PROG_ARRAY, __u32, __u32, 2, 0);
SEC("tc") int policy(struct __sk_buff *skb)
{
	if (skb->len > 1000)
		return 2; /* TC_ACT_SHOT */
	bpf_tail_call(skb, &stages, 1);
	return 2;
}
"""


@pytest.mark.skipif(not shutil.which("clang-14"), reason="needs clang-14")
async def test_a_policy_program_decides_what_is_delivered(world: World) -> None:
    one, two = world.add(world.pod(1)), world.add(world.pod(2))
    world.run(world.host, "sysctl -qw net.ipv4.ip_forward=0")
    world.echo(two, 53, "two")
    client = world.process(one.netns)
    client.do(f"s = udp()\ns.settimeout(0.3)\ns.connect(('{two.ip}', 53))")
    ask = "s.send(b'x' * {})\nlen(s.recv(2000))".format
    with Object.load(_compiled(STRICT, world.directory), world.pins) as strict:
        world.datapath.set_policy(strict.programs["policy"])
    assert client.do(ask(100)) == 104
    with pytest.raises(Refused):
        client.do(ask(1200))
    world.datapath.set_policy(None)
    assert client.do(ask(1200)) == 1204


def _compiled(source: str, directory: Path) -> Code:
    made = directory / "policy.bpf.o"
    headers = (f"-I{Path(links.__file__).parent / 'include'}", f"-I/usr/include/{os.uname().machine}-linux-gnu")
    words = ["clang-14", "-target", "bpf", "-O2", "-g", *headers, "-xc", "-c", "-", "-o", str(made)]
    subprocess.run(words, input=source.encode(), check=True, timeout=30)
    return code_at(made)


# from outside


async def test_a_node_port_is_reached_from_outside_and_the_pod_sees_the_client(world: World) -> None:
    one = world.add(world.pod(1))
    outside, uplink = world.outside()
    await world.datapath.set_uplinks([uplink])
    world.server(one, 8080, "one")
    world.datapath.set_frontends({TCP_PORT: Backends((Backend(one.ip, 8080),), external=True)})
    client = world.process(outside)
    assert client.do(f"[ask(('{NODE}', 30080)) for _ in range(5)]") == [f"one {OUTSIDE}"] * 5


@pytest.mark.parametrize("offload", ["on", "off", "at the uplink"])
async def test_much_data_passes_a_node_port_unharmed(world: World, offload: str) -> None:
    """With offload off, packets have their checksums written and checked, as on a wire; "at the uplink" they are
    written there, after the translation, from what the pod and we have prepared."""
    one = world.add(world.pod(1))
    outside, uplink = world.outside()
    await world.datapath.set_uplinks([uplink])
    _offload(world, one.netns, "eth0", "off" if offload == "off" else "on")
    _offload(world, outside, "eth0", "on" if offload == "on" else "off")
    _offload(world, world.host, "uplink", "on" if offload == "on" else "off")
    server = world.process(one.netns)
    server.do("listening = socket.create_server(('0.0.0.0', 8080))")
    world.datapath.set_frontends({TCP_PORT: Backends((Backend(one.ip, 8080),), external=True)})
    client = world.process(outside)
    server.start(
        "import hashlib\ns, _ = listening.accept()\nhashlib.file_digest(s.makefile('rb'), 'sha256').hexdigest()"
    )
    sent = client.do(
        "import hashlib\ndata = bytes(range(256)) * 16384\n"
        f"s = connect(('{NODE}', 30080))\ns.sendall(data)\ns.close()\nhashlib.sha256(data).hexdigest()"
    )
    assert server.answer() == sent


def _offload(world: World, netns: Path, link: str, state: str) -> None:
    if shutil.which("ethtool") is None:
        pytest.skip("needs ethtool")
    world.run(netns, f"ethtool -K {link} tx {state} gso {state} gro {state}")


@pytest.mark.parametrize("checksum", [True, False])
async def test_datagrams_pass_a_node_port_with_and_without_a_checksum(world: World, checksum: bool) -> None:
    one = world.add(world.pod(1))
    outside, uplink = world.outside()
    await world.datapath.set_uplinks([uplink])
    for netns in (outside, one.netns):
        _offload(world, netns, "eth0", "off")
    world.echo(one, 5353, "one")
    world.datapath.set_frontends({UDP_PORT: Backends((Backend(one.ip, 5353),), external=True)})
    client = world.process(outside)
    client.do(f"s = udp()\ns.setsockopt(socket.SOL_SOCKET, 11, {int(not checksum)})")  # 11: SO_NO_CHECK
    client.do(f"s.sendto(b'hello', ('{NODE}', 30053))")
    assert client.do("data, who = s.recvfrom(99)\ndata.decode(), who") == ["one hello", [NODE, 30053]]


async def test_a_service_of_the_cluster_is_not_reached_from_outside(world: World) -> None:
    one = world.add(world.pod(1))
    outside, uplink = world.outside()
    await world.datapath.set_uplinks([uplink])
    world.run(outside, f"ip route add {SERVICE}/32 via {NODE}")
    world.server(one, 80, "one")
    world.datapath.set_frontends({Frontend(SERVICE, 80): Backends((Backend(one.ip, 80),))})
    with pytest.raises(Refused):
        world.process(outside).do(f"s = socket.socket()\ns.settimeout(0.3)\ns.connect(('{SERVICE}', 80))")


@pytest.mark.parametrize(
    ("network", "reached"), [("192.0.2.0/24", True), ("192.0.2.2/32", True), ("192.0.2.3/32", False)]
)
async def test_only_clients_of_the_given_networks_reach_a_load_balancer(
    world: World, network: str, reached: bool
) -> None:
    one = world.add(world.pod(1))
    outside, uplink = world.outside()
    await world.datapath.set_uplinks([uplink])
    world.server(one, 8080, "one")
    backends = Backends((Backend(one.ip, 8080),), external=True, service="default/web:80", ranges=(network,))
    world.datapath.set_frontends({Frontend(NODE, 80): backends})
    client = world.process(outside)
    if reached:
        assert client.do(f"ask(('{NODE}', 80))") == f"one {OUTSIDE}"
    else:
        with pytest.raises(Refused):
            client.do(f"s = socket.socket()\ns.settimeout(0.3)\ns.connect(('{NODE}', 80))")
    assert (world.datapath.dropped()["out_of_range"] == 0) == reached


async def test_a_node_port_without_backends_refuses_clients_outside(world: World) -> None:
    outside, uplink = world.outside()
    await world.datapath.set_uplinks([uplink])
    world.datapath.set_frontends({TCP_PORT: Backends(external=True)})
    with pytest.raises(Refused) as refused:
        world.process(outside).do(f"ask(('{NODE}', 30080))")
    assert refused.value.errno == errno.ECONNREFUSED


async def test_a_node_port_leads_to_a_server_of_the_host_too(world: World) -> None:
    outside, uplink = world.outside()
    await world.datapath.set_uplinks([uplink])
    server = world.process(world.host)
    server.do("listening = socket.create_server(('0.0.0.0', 6443))")
    world.datapath.set_frontends({TCP_PORT: Backends((Backend(NODE, 6443),), external=True)})
    client = world.process(outside)
    assert client.do(f"s = connect(('{NODE}', 30080))\ns.getpeername()") == [NODE, 30080]
    client.do("s.sendall(b'hello')")
    assert server.do("s, who = listening.accept()\ns.recv(5).decode(), who[0]") == ["hello", OUTSIDE]


async def test_datagrams_of_a_client_outside_leave_a_backend_that_has_left_the_service(world: World) -> None:
    one, two = world.add(world.pod(1)), world.add(world.pod(2))
    outside, uplink = world.outside()
    await world.datapath.set_uplinks([uplink])
    world.echo(one, 5353, "one")
    world.echo(two, 5353, "two")
    client = world.process(outside)
    world.datapath.set_frontends({UDP_PORT: Backends((Backend(one.ip, 5353),), external=True)})
    client.do(f"s = udp()\ns.sendto(b'', ('{NODE}', 30053))")
    assert client.do("s.recv(9).decode()") == "one "
    world.datapath.set_frontends({UDP_PORT: Backends((Backend(two.ip, 5353),), external=True)})
    client.do(f"s.sendto(b'', ('{NODE}', 30053))")
    assert client.do("s.recv(9).decode()") == "two "


async def test_an_open_connection_from_outside_outlives_its_place_in_the_service(world: World) -> None:
    one = world.add(world.pod(1))
    outside, uplink = world.outside()
    await world.datapath.set_uplinks([uplink])
    server = world.process(one.netns)
    server.do("listening = socket.create_server(('0.0.0.0', 8080))")
    world.datapath.set_frontends({TCP_PORT: Backends((Backend(one.ip, 8080),), external=True)})
    client = world.process(outside)
    client.do(f"s = connect(('{NODE}', 30080))\ns.send(b'before')")
    assert server.do("s, _ = listening.accept()\ns.recv(9).decode()") == "before"
    world.datapath.set_frontends({})
    client.do("s.send(b'after')")
    assert server.do("s.send(b'well')\ns.recv(9).decode()") == "after"
    assert client.do("s.recv(9).decode()") == "well"


async def test_uplinks_are_followed_as_they_come_and_go(world: World) -> None:
    one = world.add(world.pod(1))
    world.server(one, 8080, "one")
    told: list[tuple[str, ...]] = []
    uplinks = Uplinks("pod", world.datapath, host=world.host)  # links named pod-… are ours
    uplinks.subscribe(lambda: told.append(uplinks.addresses()))
    task = asyncio.ensure_future(uplinks.run())
    try:
        outside, index = world.outside()
        await eventually(lambda: told[-1:] == [(NODE,)])
        await eventually(lambda: f"uplink-{index}-ingress" in world.pins.names())
        world.datapath.set_frontends({TCP_PORT: Backends((Backend(one.ip, 8080),), external=True)})
        assert world.process(outside).do(f"ask(('{NODE}', 30080))") == f"one {OUTSIDE}"
        world.run(world.host, f"ip addr del {NODE}/24 dev uplink")
        await eventually(lambda: told[-1:] == [()])
        await eventually(lambda: not [name for name in world.pins.names() if name.startswith("uplink-")])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# with the pod network


@dataclass(frozen=True)
class Sandbox:
    sandbox: str
    namespace: str = "default"
    name: str = "web"


async def test_sandboxes_of_the_pod_network_reach_each_other_services_and_the_host(world: World) -> None:
    network = PodNetwork(
        "test", IPv4Network("10.42.0.0/29"), world.directory / "run", datapath=world.datapath, host=world.host
    )
    await network.open()
    try:
        one, two = [Pod(await network.attach(Sandbox(name), space), space) for name, space in _spaces(world)]
        world.server(two, 8080, "two")
        world.process(world.host).do("listening = socket.create_server(('0.0.0.0', 6443))")
        world.datapath.set_frontends(
            {
                Frontend(SERVICE, 80): Backends((Backend(two.ip, 8080),)),
                Frontend(SERVICE, 443): Backends((Backend("10.42.0.1", 6443),)),
            }
        )
        client = world.process(one.netns)
        assert client.do(f"ask(('{two.ip}', 8080)), ask(('{SERVICE}', 80))") == [f"two {one.ip}"] * 2
        assert client.do(f"connect(('{SERVICE}', 443)).getpeername()") == [SERVICE, 443]
        assert world.process(world.host).do(f"ask(('{SERVICE}', 80))") == "two 10.42.0.1"
        await network.detach("one")
        assert [*world.datapath.pods()] == [two.ip]
    finally:
        await network.destroy()


def _spaces(world: World) -> list[tuple[str, Path]]:
    return [(name, world.namespace(name)) for name in ("one", "two")]


# restarts

# What a process of Havre does: open, and say so; it never ends by itself.
OPENER = """
import asyncio, sys
from pathlib import Path
from havre.node.network.datapath import SOCKETS, Datapath
datapath = Datapath(sys.argv[5], Path(sys.argv[1]), cgroup=Path(sys.argv[2]), host=Path(sys.argv[3]))
asyncio.run(datapath.open([int(sys.argv[4])]))
print("open", flush=True)
sys.stdin.read()
"""


def _opener(world: World, uplink: int) -> subprocess.Popen[bytes]:
    """A process that has opened the datapath."""
    process = subprocess.Popen(
        [sys.executable, "-c", OPENER, world.directory / "run", world.cgroup, world.host, str(uplink), world.instance],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    return process


async def test_a_process_that_is_killed_leaves_everything_at_work(world: World) -> None:
    one, two = world.pod(1), world.pod(2)
    outside, uplink = world.outside()
    world.datapath.close()
    process = _opener(world, uplink)
    await world.datapath.open([uplink])
    world.add(one)
    world.add(two)
    world.datapath.set_frontends(
        {
            Frontend(SERVICE, 80): Backends((Backend(two.ip, 8080),)),
            TCP_PORT: Backends((Backend(two.ip, 8080),), external=True),
        }
    )
    world.datapath.close()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    world.server(two, 8080, "two")
    assert world.process(one.netns).do(f"ask(('{SERVICE}', 80))") == f"two {one.ip}"
    assert world.process(outside).do(f"ask(('{NODE}', 30080))") == f"two {OUTSIDE}"


async def test_a_restart_keeps_open_connections_and_what_was_entered(world: World) -> None:
    one, two = world.add(world.pod(1)), world.add(world.pod(2))
    world.run(world.host, "sysctl -qw net.ipv4.ip_forward=0")
    outside, uplink = world.outside()
    await world.datapath.set_uplinks([uplink])
    server = world.process(two.netns)
    server.do("listening = socket.create_server(('0.0.0.0', 8080))")
    wanted = {
        Frontend(SERVICE, 80): Backends((Backend(two.ip, 8080),)),
        TCP_PORT: Backends((Backend(two.ip, 8080),), external=True),
    }
    world.datapath.set_frontends(wanted)
    inner, outer = world.process(one.netns), world.process(outside)
    inner.do(f"s = connect(('{SERVICE}', 80))\ns.send(b'one')")
    assert server.do("s, _ = listening.accept()\ns.recv(9).decode()") == "one"
    outer.do(f"s = connect(('{NODE}', 30080))\ns.send(b'out')")
    assert server.do("t, _ = listening.accept()\nt.recv(9).decode()") == "out"
    before = {name: _link(world, name)[:2] for name in ("connect4", f"pod-{one.ifindex}", f"uplink-{uplink}-ingress")}

    world.datapath.close()
    world.datapath = world.another()
    await world.datapath.open([uplink])

    assert world.datapath.pods() == {one.ip: one.ifindex, two.ip: two.ifindex}
    assert world.datapath.frontends() == {Frontend(SERVICE, 80): 1, TCP_PORT: 1}
    world.datapath.set_frontends(wanted)
    inner.do("s.send(b'still one')")
    outer.do("s.send(b'still out')")
    assert server.do("s.send(b'hello')\ns.recv(9).decode(), t.recv(9).decode()") == ["still one", "still out"]
    assert inner.do("s.recv(9).decode(), s.getpeername()") == ["hello", [SERVICE, 80]]
    after = {name: _link(world, name) for name in before}
    assert {name: link[:2] for name, link in after.items()} == before, "the links are the same, never taken off"


def _link(world: World, name: str) -> tuple[int, int, int]:
    """Its type, its number, and that of its program."""
    fd = world.pins.get(name)
    assert fd is not None
    kind, number, program = struct.unpack_from("=III", info(fd, 64, "ask about a link"))
    os.close(fd)
    return kind, number, program


async def test_a_restart_forgets_pods_whose_interface_is_gone(world: World) -> None:
    one, two = world.add(world.pod(1)), world.add(world.pod(2))
    world.datapath.close()
    world.run(world.host, "ip link del pod1")
    world.datapath = world.another()
    await world.datapath.open()
    assert world.datapath.pods() == {two.ip: two.ifindex}
    assert f"pod-{one.ifindex}" not in world.pins.names()


async def test_a_pod_with_a_new_interface_replaces_the_old(world: World) -> None:
    one, two = world.add(world.pod(1)), world.add(world.pod(2))
    world.run(world.host, "sysctl -qw net.ipv4.ip_forward=0")
    world.run(world.host, "ip link del pod1")
    namespaces.remove(one.netns)
    again = world.add(world.pod(1))
    world.server(again, 80, "again")
    assert world.process(two.netns).do(f"ask(('{one.ip}', 80))") == f"again {two.ip}"
    assert [name for name in world.pins.names() if name.startswith("pod-")] == sorted(
        [f"pod-{again.ifindex}", f"pod-{two.ifindex}"]
    )


def _objects(world: World) -> set[tuple[str, int]]:
    """The numbers of our programs and maps."""
    found = set()
    for name in world.pins.names():
        if name in SOCKETS or name.startswith(("pod-", "uplink-")):
            found.add(("prog", _link(world, name)[2]))
        else:
            fd = world.pins.get(name)
            assert fd is not None
            found.add(("map", map_info(fd).id))
            os.close(fd)
    return found


def _gone(ours: set[tuple[str, int]]) -> bool:
    """The kernel frees programs and maps some time after their last user has gone, and tells nobody when."""
    end = time.monotonic() + 10
    while (left := ours & _all()) and time.monotonic() < end:
        time.sleep(0.05)
    return not left


def _all() -> set[tuple[str, int]]:
    shown = {kind: json.loads(subprocess.check_output(["bpftool", "-j", kind, "show"])) for kind in ("prog", "map")}
    return {(kind, one["id"]) for kind, found in shown.items() for one in found}


@pytest.mark.skipif(not shutil.which("bpftool"), reason="needs bpftool")
@pytest.mark.parametrize("opened", [True, False])
async def test_destroy_leaves_nothing(world: World, opened: bool) -> None:
    """Also when it is called by a process that has never opened: `uninstall`."""
    _, uplink = world.outside()
    await world.datapath.set_uplinks([uplink])
    world.add(world.pod(1))
    world.datapath.set_frontends({TCP_PORT: Backends((Backend("10.42.9.1", 80),), external=True)})
    ours = _objects(world)
    assert len(ours) == len(SOCKETS) + 3 + 12  # a pod's and two of the uplink; maps
    assert ours <= _all()
    if not opened:
        world.datapath.close()
        world.datapath = world.another()
    await world.datapath.destroy()
    await world.datapath.destroy()  # again is the same as once
    assert _gone(ours)
    assert not world.pins.folder.exists()
    assert not [line for line in _mounts().splitlines() if line.startswith(f"bpf {world.directory}")]


def _mounts() -> str:
    return Path("/proc/self/mounts").read_text()


async def test_a_kernel_without_tcx_is_served_by_tc_filters(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise BpfError(errno.EINVAL, "attach")

    monkeypatch.setattr(links, "create", refuse)
    one, two = world.add(world.pod(1)), world.add(world.pod(2))
    world.run(world.host, "sysctl -qw net.ipv4.ip_forward=0")
    world.server(two, 80, "two")
    client = world.process(one.netns)
    assert client.do(f"ask(('{two.ip}', 80))") == f"two {one.ip}"
    shown = partial(namespaces.command, world.host, "tc", "filter", "show", "dev", "pod1", "ingress")
    assert "pod_ingress" in shown()
    world.remove(one)
    assert "pod_ingress" not in shown()
    await world.datapath.destroy()
    assert "pod_ingress" not in namespaces.command(world.host, "tc", "filter", "show", "dev", "pod2", "ingress")


def test_a_datapath_is_not_used_before_it_is_open(tmp_path: Path) -> None:
    with pytest.raises(NotOpen, match="the datapath is not open"):
        Datapath("test", tmp_path).pods()
