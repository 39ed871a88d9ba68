"""Services at the socket: pods and the host reach backends under a Service's address, or are refused at once."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.kernel.network.world import NODE, Pod, Process, Refused, World

from havre.node.bpf.maps import Layout, Map
from havre.node.network.frontends import Backend, Backends, Frontend

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not shutil.which("ip") or not shutil.which("nsenter"), reason="needs iproute2 and util-linux"),
]

SERVICE, DEAD = "10.96.7.1", "10.96.7.2"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path, "services")
    try:
        await world.datapath.open()
        yield world
    finally:
        await world.close()


def two_pods(world: World) -> tuple[Pod, Pod]:
    return world.add(world.pod(1)), world.add(world.pod(2))


def serve(world: World, backends: Backends, *, port: int = 80, protocol: str = "TCP") -> None:
    world.datapath.set_frontends(
        {Frontend(SERVICE, port, protocol): backends, Frontend(DEAD, port, protocol): Backends()}
    )


async def test_a_pod_reaches_a_service_and_sees_its_address_as_the_peer(world: World) -> None:
    one, two = two_pods(world)
    world.server(two, 8080, "two")
    serve(world, Backends((Backend(two.ip, 8080),)))
    client = world.process(one.netns)
    assert client.do(f"s = connect(('{SERVICE}', 80))\ns.getpeername()") == [SERVICE, 80]
    assert client.do("s.recv(99).decode()") == f"two {one.ip}"


async def test_a_socket_of_ipv6_reaches_a_service_by_its_mapped_address(world: World) -> None:
    one, two = two_pods(world)
    world.server(two, 8080, "two")
    serve(world, Backends((Backend(two.ip, 8080),)))
    client = world.process(one.netns)
    client.do(f"s = connect(('::ffff:{SERVICE}', 80), family=socket.AF_INET6)")
    assert client.do("s.getpeername()[:2]") == [f"::ffff:{SERVICE}", 80]
    assert client.do("s.recv(99).decode()") == f"two {one.ip}"


async def test_a_pod_reaches_itself_through_a_service(world: World) -> None:
    one, _ = two_pods(world)
    world.server(one, 8080, "one")
    serve(world, Backends((Backend(one.ip, 8080),)))
    assert world.process(one.netns).do(f"ask(('{SERVICE}', 80))") == f"one {one.ip}"


async def test_a_process_of_the_host_reaches_a_service(world: World) -> None:
    one, _ = two_pods(world)
    world.outside()
    world.server(one, 8080, "one")
    serve(world, Backends((Backend(one.ip, 8080),)))
    assert world.process(world.host).do(f"ask(('{SERVICE}', 80))") == f"one {NODE}"


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
async def test_a_service_without_backends_refuses_at_once(world: World, family: str) -> None:
    one, _ = two_pods(world)
    serve(world, Backends())
    client, mapped = world.process(one.netns), "::ffff:" if family == "AF_INET6" else ""
    with pytest.raises(Refused) as refused:
        client.do(f"connect(('{mapped}{DEAD}', 80), family=socket.{family})")
    assert refused.value.errno == errno.ECONNREFUSED


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
async def test_a_datagram_to_a_service_without_backends_is_refused(world: World, family: str) -> None:
    one, _ = two_pods(world)
    serve(world, Backends(), protocol="UDP")
    client, mapped = world.process(one.netns), "::ffff:" if family == "AF_INET6" else ""
    with pytest.raises(Refused) as refused:
        client.do(f"udp(socket.{family}).sendto(b'hello', ('{mapped}{DEAD}', 80))")
    assert refused.value.errno == errno.ECONNREFUSED


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
async def test_answers_to_datagrams_come_from_the_service(world: World, family: str) -> None:
    one, two = two_pods(world)
    world.echo(two, 5353, "two")
    serve(world, Backends((Backend(two.ip, 5353),)), port=53, protocol="UDP")
    client, mapped = world.process(one.netns), "::ffff:" if family == "AF_INET6" else ""
    client.do(f"s = udp(socket.{family})\ns.sendto(b'hello', ('{mapped}{SERVICE}', 53))")
    assert client.do("data, who = s.recvfrom(99)\ndata.decode(), who[:2]") == ["two hello", [f"{mapped}{SERVICE}", 53]]


async def test_a_connected_datagram_socket_speaks_with_the_service(world: World) -> None:
    one, two = two_pods(world)
    world.echo(two, 5353, "two")
    serve(world, Backends((Backend(two.ip, 5353),)), port=53, protocol="UDP")
    client = world.process(one.netns)
    client.do(f"s = connect(('{SERVICE}', 53), socket.SOCK_DGRAM)\ns.send(b'hello')")
    assert client.do("s.recvfrom(99)[1], s.getpeername()") == [[SERVICE, 53], [SERVICE, 53]]


async def test_datagrams_of_one_socket_go_to_one_backend(world: World) -> None:
    one, two = two_pods(world)
    world.echo(one, 5353, "one")
    world.echo(two, 5353, "two")
    serve(world, Backends((Backend(one.ip, 5353), Backend(two.ip, 5353))), port=53, protocol="UDP")
    client = world.process(world.host)
    world.outside()
    asked = "[s.sendto(b'', a) and 0 or s.recv(9).decode() for _ in range(5)]"
    answers = [client.do(f"a = ('{SERVICE}', 53)\ns = udp()\n{asked}") for _ in range(20)]
    assert {len(set(each)) for each in answers} == {1}
    assert {each[0] for each in answers} == {"one ", "two "}


async def test_connections_are_spread_over_all_backends(world: World) -> None:
    one, two = two_pods(world)
    world.server(one, 8080, "one")
    world.server(two, 8080, "two")
    serve(world, Backends((Backend(one.ip, 8080), Backend(two.ip, 8080))))
    client = world.process(one.netns)
    answers = client.do(f"[ask(('{SERVICE}', 80)).split()[0] for _ in range(40)]")
    assert set(answers) == {"one", "two"}  # missed by chance in 1 of 2^39 runs


async def test_a_client_stays_with_its_backend_for_the_time_of_affinity(world: World) -> None:
    one, two = two_pods(world)
    world.server(one, 8080, "one")
    world.server(two, 8080, "two")
    both = (Backend(one.ip, 8080), Backend(two.ip, 8080))
    serve(world, Backends(both, affinity=600, service="default/web:http"))
    client = world.process(one.netns)
    first = client.do(f"ask(('{SERVICE}', 80))").split()[0]
    assert set(client.do(f"[ask(('{SERVICE}', 80)).split()[0] for _ in range(30)]")) == {first}
    third = world.add(world.pod(3))
    world.server(third, 8080, "three")
    serve(world, Backends((*both, Backend(third.ip, 8080)), affinity=600, service="default/web:http"))
    assert client.do(f"ask(('{SERVICE}', 80))").split()[0] == first
    serve(world, Backends((Backend(third.ip, 8080),), affinity=600, service="default/web:http"))
    assert client.do(f"ask(('{SERVICE}', 80))").split()[0] == "three"


class Affinity(NamedTuple):
    ip: bytes
    port: bytes
    used: int


class Client(NamedTuple):
    client: int
    service: int


async def test_after_the_time_of_affinity_a_client_is_a_new_one(world: World) -> None:
    one, two = two_pods(world)
    world.server(one, 8080, "one")
    world.server(two, 8080, "two")
    serve(world, Backends((Backend(one.ip, 8080), Backend(two.ip, 8080)), affinity=1))
    client = world.process(one.netns)
    fd = world.pins.get("affinities")
    assert fd is not None
    known = Map(fd, Layout("affinity_key", "=QQ", Client), Layout("affinity", "=4s2s2xQ", Affinity))
    answers = set()
    for _ in range(30):
        answers.add(client.do(f"ask(('{SERVICE}', 80))").split()[0])
        [(who, last)] = known.items()
        known.update(who, last._replace(used=0))  # as if the machine had been started just then
    os.close(fd)
    assert answers == {"one", "two"}  # missed by chance in 1 of 2^29 runs


async def test_affinity_can_be_switched_off_on_a_living_service(world: World) -> None:
    one, two = two_pods(world)
    world.server(one, 8080, "one")
    world.server(two, 8080, "two")
    both = (Backend(one.ip, 8080), Backend(two.ip, 8080))
    serve(world, Backends(both, affinity=600))
    client = world.process(one.netns)
    client.do(f"ask(('{SERVICE}', 80))")
    serve(world, Backends(both))
    assert set(client.do(f"[ask(('{SERVICE}', 80)).split()[0] for _ in range(40)]")) == {"one", "two"}


async def test_a_service_whose_backends_move_all_the_time_never_refuses(world: World) -> None:
    one, two = two_pods(world)
    world.server(one, 8080, "one")
    world.server(two, 8080, "two")
    sides = [Backends((Backend(pod.ip, 8080),)) for pod in (one, two)]
    serve(world, sides[0])
    client = world.process(one.netns)
    client.start(f"[ask(('{SERVICE}', 80)).split()[0] for _ in range(1000)]")
    moves = 0
    while not client.ready():
        serve(world, sides[moves % 2])
        moves += 1
    assert set(client.answer()) == {"one", "two"}
    assert moves > 100


async def test_the_node_port_of_127_0_0_1_is_the_hosts_and_not_a_pods(world: World) -> None:
    one, two = two_pods(world)
    world.outside()
    world.server(two, 8080, "two")
    world.datapath.set_frontends({Frontend("127.0.0.1", 30080): Backends((Backend(two.ip, 8080),), external=True)})
    assert world.process(world.host).do("ask(('127.0.0.1', 30080))") == f"two {NODE}"
    with pytest.raises(Refused) as refused:
        world.process(one.netns).do("ask(('127.0.0.1', 30080))")
    assert refused.value.errno == errno.ECONNREFUSED


async def test_strangers_on_the_machine_do_not_see_the_services(world: World) -> None:
    one, _ = two_pods(world)
    world.server(one, 8080, "one")
    serve(world, Backends((Backend(one.ip, 8080),)))
    stranger = world.process(world.namespace("stranger"))
    with pytest.raises(Refused) as refused:
        stranger.do(f"ask(('{SERVICE}', 80))")
    assert refused.value.errno == errno.ENETUNREACH


async def test_a_pod_whose_namespace_is_not_known_reaches_services_too(world: World) -> None:
    one, two = world.pod(1), world.add(world.pod(2))
    one.cookie = 0
    world.add(one)
    world.server(two, 8080, "two")
    serve(world, Backends((Backend(two.ip, 8080),)))
    client = world.process(one.netns)
    assert client.do(f"ask(('{SERVICE}', 80))") == f"two {one.ip}"
    world.remove(one)
    assert _fails(client, f"ask(('{SERVICE}', 80))")


def _fails(process: Process, code: str) -> bool:
    try:
        process.do(code)
    except Refused:
        return True
    return False
