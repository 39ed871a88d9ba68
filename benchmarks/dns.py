"""How many questions the cluster's DNS server answers, per second of its own CPU time and per second on the wall.

    python benchmarks/dns.py [--seconds 3] [--services 1000] [--clients 8]

One process serves a zone of so many Services; another sends questions over UDP, from several sockets with a few
questions under way each, and counts answers. Figures: questions of the same bytes ("kept"), the same with random
upper and lower case in each ("cluster"), names that do not exist, answers of eight addresses, and names of the world
outside that are in the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import select
import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop

from havre.node.network.dns import Config, Server
from havre.node.network.forwarder import Forwarder
from havre.wire.dns import names
from havre.wire.dns.message import RESPONSE, A, Message, Record

UNDER_WAY = 16  # questions of one socket
Make = Callable[[random.Random], str]


async def _upstream(_server: tuple[str, int], data: bytes, _patience: float) -> bytes:
    asked = Message.parse(data)
    record = Record(asked.questions[0].name, A, 3600, bytes([192, 0, 2, 1]))
    return Message(asked.id, RESPONSE, asked.questions, [record]).encode()


async def _serve(pipe: Connection, services: int) -> None:
    resolv = Path("/etc/resolv.conf")
    config = Config(IPv4Address("127.0.0.1"), IPv4Network("10.42.0.0/24"), IPv4Network("10.96.0.0/16"), port=0)
    server = Server(config, Forwarder(resolv, udp=_upstream, tcp=_upstream))
    zone = server.responder.zone
    began = time.process_time()
    zone.put_namespace({"metadata": {"name": "shop"}})
    for number in range(services):
        ports = [{"name": "http", "port": 80}]
        spec = {"clusterIP": f"10.96.{number // 250}.{number % 250 + 1}", "ports": ports}
        zone.put_service({"metadata": {"name": f"svc{number}", "namespace": "shop"}, "spec": spec})
    zone.put_service({"metadata": {"name": "many", "namespace": "shop"}, "spec": {"clusterIP": "None"}})
    meta = {"name": "many-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "many"}}
    zone.put_slice({"metadata": meta, "endpoints": [{"addresses": [f"10.42.0.{i}"]} for i in range(2, 10)]})
    filled = time.process_time() - began
    server.responder.ready = True
    await server.open()
    pipe.send((server.port, filled))
    await asyncio.to_thread(_report, pipe)
    await server.close()


def _report(pipe: Connection) -> None:
    """The CPU time used so far, whenever asked."""
    while pipe.recv():
        pipe.send(time.process_time())


def serve(pipe: Connection, services: int) -> None:
    uvloop.run(_serve(pipe, services))


def question(name: str, number: int) -> bytes:
    head = bytes([number >> 8 & 255, number & 255, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1])
    return head + names.name(name) + b"\0\1\0\1" + b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


def load(port: int, make: Make, seconds: float, clients: int) -> tuple[int, float]:
    """Answers, and the seconds that passed."""
    source = random.Random(1)  # noqa: S311
    ready = [question(make(source), number) for number in range(20_000)]
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(clients)]
    poll = select.epoll()
    by_fd = {sock.fileno(): sock for sock in sockets}
    at, answered = 0, 0
    for sock in sockets:
        sock.connect(("127.0.0.1", port))
        poll.register(sock.fileno(), select.EPOLLIN)
        for _ in range(UNDER_WAY):
            sock.send(ready[at % 20_000])
            at += 1
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        for fd, _ in poll.poll(1):
            sock = by_fd[fd]
            try:
                while True:
                    sock.recv(4096)
                    answered += 1
                    sock.send(ready[at % 20_000])
                    at += 1
            except BlockingIOError:
                continue
    passed = time.perf_counter() - began
    for sock in sockets:
        sock.close()
    return answered, passed


def mixed(name: str, source: random.Random) -> str:
    return "".join(c.upper() if source.random() < 0.5 else c for c in name)


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=3)
    arguments.add_argument("--services", type=int, default=1000)
    arguments.add_argument("--clients", type=int, default=8)
    chosen = arguments.parse_args()
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there, chosen.services))
    server.start()
    port, filled = here.recv()
    print(f"{chosen.services} services into the zone: {filled * 1e6 / chosen.services:.0f} µs CPU each")

    def service(source: random.Random) -> str:
        return f"svc{source.randrange(chosen.services)}.shop.svc.cluster.local"

    figures: dict[str, Make] = {
        "kept": service,
        "cluster, random case": lambda source: mixed(service(source), source),
        "does not exist": lambda source: f"n{source.randrange(100_000)}.example.com.shop.svc.cluster.local",
        "eight addresses": lambda _: "many.shop.svc.cluster.local",
        "outside, cached": lambda source: f"host{source.randrange(500)}.example.com",
    }
    print(f"{'':24}{'per CPU second':>16}{'per second':>14}")
    for what, make in figures.items():
        load(port, make, 0.3, chosen.clients)
        here.send(True)
        before = here.recv()
        answered, passed = load(port, make, chosen.seconds, chosen.clients)
        here.send(True)
        used = here.recv() - before
        print(f"{what:24}{answered / used:16,.0f}{answered / passed:14,.0f}")
    here.send(False)
    server.join()


if __name__ == "__main__":
    main()
