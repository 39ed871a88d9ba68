"""The DNS server on real sockets, asked by dig; from a pod, through the gateway address, too."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from tests.kernel.network import namespaces

from havre.node.network import dns, forwarder
from havre.node.network.dns import Config, Server
from havre.node.network.errors import NetworkError
from havre.node.network.forwarder import Forwarder
from havre.node.network.pods import PodNetwork
from havre.wire.dns import names
from havre.wire.dns.message import RESPONSE, TRUNCATED, A, Message, Record

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not shutil.which("dig"), reason="needs dig (package bind9-dnsutils)"),
]

CONFIG = Config(IPv4Address("127.0.0.1"), IPv4Network("10.42.0.0/24"), IPv4Network("10.96.0.0/16"), port=0)


@dataclass(frozen=True)
class Pod:
    sandbox: str
    namespace: str = "shop"
    name: str = "web"


def fill(server: Server) -> None:
    zone = server.responder.zone
    zone.put_namespace({"metadata": {"name": "shop"}})
    spec = {"clusterIP": "10.96.0.5", "ports": [{"name": "http", "port": 80}]}
    zone.put_service({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
    zone.put_service({"metadata": {"name": "db", "namespace": "shop"}, "spec": {"clusterIP": "None"}})
    spec = {"type": "ExternalName", "externalName": "long.example.com"}
    zone.put_service({"metadata": {"name": "out", "namespace": "shop"}, "spec": spec})
    meta = {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}}
    endpoints = [{"addresses": [f"10.42.0.{number}"]} for number in range(2, 202)]
    ports = [{"name": "pg", "port": 5432, "protocol": "TCP"}]
    zone.put_slice({"metadata": meta, "endpoints": endpoints, "ports": ports})
    server.responder.ready = True


class Upstream:
    """A resolver on loopback that knows two names; the answer of one is too long for UDP."""

    def __init__(self) -> None:
        self.udp, self.tcp = dns.bound("127.0.0.1", 0)
        self.port: int = self.udp.getsockname()[1]
        self.asked: list[str] = []
        self._listener: asyncio.Server | None = None

    async def open(self) -> None:
        asyncio.get_running_loop().add_reader(self.udp.fileno(), self._datagram)
        self._listener = await asyncio.start_server(self._connection, sock=self.tcp)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.udp.fileno())
        self.udp.close()
        assert self._listener is not None
        self._listener.close()

    def _datagram(self) -> None:
        data, sender = self.udp.recvfrom(4096)
        self.udp.sendto(self._answer(data, "udp"), sender)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        answer = self._answer(data, "tcp")
        writer.write(len(answer).to_bytes(2, "big") + answer)
        writer.close()

    def _answer(self, data: bytes, how: str) -> bytes:
        asked = Message.parse(data)
        name = asked.questions[0].name
        self.asked.append(f"{how} {names.text(name)}")
        if name.lower() == names.name("long.example.com") and how == "udp":
            return Message(asked.id, RESPONSE | TRUNCATED, asked.questions).encode()
        if name.lower() in {names.name("short.example.com"), names.name("long.example.com")}:
            count = 1 if name[0] == 5 else 200
            records = [Record(name, A, 60, bytes([192, 0, 2, number])) for number in range(1, count + 1)]
            return Message(asked.id, RESPONSE, asked.questions, records).encode()
        return Message(asked.id, RESPONSE | 3, asked.questions).encode()


@pytest.fixture
async def upstream(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Upstream]:
    made = Upstream()
    monkeypatch.setattr(forwarder, "PORT", made.port)
    await made.open()
    yield made
    made.close()


@pytest.fixture
async def server(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Server]:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\n")
    made = Server(CONFIG, Forwarder(resolv))
    fill(made)
    await made.open()
    yield made
    await made.close()


async def dig(server: Server, *words: str) -> str:
    command = ["dig", "@127.0.0.1", "-p", str(server.port), "+tries=1", "+time=3", *words]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), 10)
    return output.decode()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["web.shop.svc.cluster.local", "A"], "10.96.0.5\n"),
        (["WEB.sHop.svc.cluster.local", "A"], "10.96.0.5\n"),
        (["+tcp", "web.shop.svc.cluster.local", "A"], "10.96.0.5\n"),
        (["+noedns", "web.shop.svc.cluster.local", "AAAA"], ""),
        (["_http._tcp.web.shop.svc.cluster.local", "SRV"], "0 100 80 web.shop.svc.cluster.local.\n"),
        (["-x", "10.96.0.5"], "web.shop.svc.cluster.local.\n"),
        (["dns-version.cluster.local", "TXT"], '"1.1.0"\n'),
        (["10-42-0-7.shop.pod.cluster.local", "A"], "10.42.0.7\n"),
        (["short.example.com", "A"], "192.0.2.1\n"),
    ],
)
async def test_dig_reads_what_is_meant(server: Server, words: list[str], answer: str) -> None:
    assert await dig(server, "+short", *words) == answer


async def test_dig_finds_nothing_wrong_with_a_no(server: Server) -> None:
    output = await dig(server, "nothing.shop.svc.cluster.local", "A")
    assert "status: NXDOMAIN" in output
    assert "flags: qr aa rd ra;" in output
    assert "hostmaster.cluster.local." in output
    assert "EDNS: version: 0, flags:; udp: 1232" in output
    assert "Warning" not in output


@pytest.mark.parametrize(
    ("words", "fitting"),
    [
        (["+noedns"], 29),  # (512 − 12 − 31) / 16
        (["+bufsize=512"], 28),
        (["+bufsize=4096"], 73),  # (1232 − 12 − 31 − 11) / 16
    ],
)
async def test_a_long_answer_is_cut_over_udp(server: Server, words: list[str], fitting: int) -> None:
    output = await dig(server, "+ignore", *words, "db.shop.svc.cluster.local", "A")
    assert "flags: qr aa tc rd ra;" in output
    assert f"ANSWER: {fitting}," in output


async def test_dig_comes_back_over_tcp_for_the_whole(server: Server) -> None:
    found = await dig(server, "+short", "db.shop.svc.cluster.local", "A")
    assert len(found.split()) == 200
    hosts = await dig(server, "+short", "_pg._tcp.db.shop.svc.cluster.local", "SRV")
    assert len(hosts.splitlines()) == 200


async def test_an_external_name_is_followed_over_tcp_to_the_resolver(server: Server, upstream: Upstream) -> None:
    found = (await dig(server, "+short", "out.shop.svc.cluster.local", "A")).split()
    assert found[0] == "long.example.com."
    assert len(found) == 201
    assert "tcp long.example.com" in upstream.asked


async def test_a_second_question_does_not_leave_the_machine(server: Server, upstream: Upstream) -> None:
    for _ in range(2):
        assert await dig(server, "+short", "short.example.com", "A") == "192.0.2.1\n"
        assert "status: NXDOMAIN" in await dig(server, "gone.example.com", "A")
    assert sorted(name for name in upstream.asked if "loop-check" not in name) == [
        "udp gone.example.com",
        "udp short.example.com",
    ]


async def test_what_changed_is_answered_at_once(server: Server) -> None:
    name = "new.shop.svc.cluster.local"
    assert "NXDOMAIN" in await dig(server, name)
    obj = {"metadata": {"name": "new", "namespace": "shop"}, "spec": {"clusterIP": "10.96.0.77"}}
    server.responder.zone.put_service(obj)
    assert await dig(server, "+short", name) == "10.96.0.77\n"
    server.responder.zone.drop_service(obj)
    assert "NXDOMAIN" in await dig(server, name)


async def test_several_questions_in_one_connection_and_noise_on_another(server: Server) -> None:
    noisy_reader, noisy = await asyncio.open_connection("127.0.0.1", server.port)
    noisy.write(b"\0\3abc")
    assert await noisy_reader.read() == b""
    noisy.close()
    output = await dig(
        server, "+tcp", "+keepopen", "+short", "web.shop.svc.cluster.local", "db-x.shop.svc", "-x", "10.96.0.5"
    )
    assert output == "10.96.0.5\nweb.shop.svc.cluster.local.\n"


async def test_a_taken_port_is_named(server: Server) -> None:
    with pytest.raises(
        NetworkError, match=rf"listen for DNS on 127.0.0.1 port {server.port}: .*in use; choose another"
    ):
        await Server(replace(CONFIG, port=server.port)).open()


async def test_a_pod_asks_over_the_gateway_address_which_may_come_later_than_the_server(
    tmp_path: Path, upstream: Upstream
) -> None:
    host, pod = namespaces.create(tmp_path / "host"), namespaces.create(tmp_path / "pod")
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\n")
    network = PodNetwork("hv", CONFIG.pods, tmp_path / "run", host=host)
    server = Server(CONFIG, Forwarder(resolv))
    fill(server)
    try:
        await server.open(namespaces.inside(host, lambda: dns.bound("10.42.0.1", 10053)))
        await network.open()
        await network.attach(Pod("a"), pod)
        for how in ("+notcp", "+tcp"):
            words = [
                "dig",
                "@10.42.0.1",
                "-p",
                "10053",
                "+short",
                "+tries=1",
                "+time=3",
                how,
                "web.shop.svc.cluster.local",
            ]
            assert await asyncio.to_thread(namespaces.command, pod, *words) == "10.96.0.5\n"
    finally:
        await server.close()
        await network.destroy()
        namespaces.remove(pod)
        namespaces.remove(host)


async def test_a_client_that_is_gone_disturbs_nobody(server: Server) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.connect(("127.0.0.1", server.port))
        gone.send(bytes.fromhex("000101000001000000000000") + names.name("web.shop.svc.cluster.local") + b"\0\1\0\1")
    assert await dig(server, "+short", "web.shop.svc.cluster.local") == "10.96.0.5\n"
